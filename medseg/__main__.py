"""``medseg`` and ``python -m medseg``."""

import gc
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        from medseg.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while modules load; `run` tells of later ones
        sys.stderr.write("medseg: error: interrupted\n")
        code = 130
    gc.freeze()  # or the interpreter, as it ends, looks for half a second for garbage among all that torch made
    sys.exit(code)


if __name__ == "__main__":
    main()
