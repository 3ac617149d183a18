"""Mutants of every format, read in one child process that is started again when it dies or takes too long.

python -m tests.io.fuzz.run --mutants 20000          the table that benchmarks/README.md shows
python -m tests.io.fuzz.run --first 1234 --mutants 1 one mutant again, said in full; --keep FOLDER keeps its files
"""

import argparse
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.io.fuzz.mutate import mutant
from tests.io.fuzz.seeds import SEEDS

ROOT = Path(__file__).parents[3]
SECONDS = 10.0
MEMORY_BYTES = 2**30
FAILURES = "disagreed", "wrong", "crashed", "hung"
_PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from tests.io.fuzz.run import serve; serve()"


@dataclass(frozen=True)
class Outcome:
    """What became of mutant ``number``, made of the scan ``kind``."""

    number: int
    kind: str
    outcome: str
    words: str

    @property
    def failed(self) -> bool:
        return self.outcome in FAILURES


def serve() -> None:
    """The child: for each path on standard input, what medseg says of it, and then what the second reader says."""
    from tests.io.fuzz import judge

    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what C libraries print
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(SEEDS.values()):
            place = Path(folder, str(number))
            place.mkdir()
            path = seed.build(place)
            scan = judge.read(path)
            if isinstance(scan, judge.Verdict) or judge.check(path, scan).outcome != "agreed":
                raise SystemExit(f"{path.name}: the unchanged scan is not read: {scan}")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print(json.dumps(["ready", ""]), file=answer, flush=True)
    for line in sys.stdin:
        path = Path(json.loads(line))
        found = judge.read(path)
        if isinstance(found, judge.Verdict):
            verdict = found
        else:
            print(json.dumps(["accepted", ""]), file=answer, flush=True)
            verdict = judge.check(path, found)
        print(json.dumps([verdict.outcome, verdict.words]), file=answer, flush=True)


class Child:
    """The reused process; ``outcome(path)`` starts it where there is none."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    def outcome(self, path: Path) -> tuple[str, str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(ROOT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,  # or a second answer that came with the first would lie in the buffer, where select sees nothing
            )
            self.starts += 1
            if self._answer(120) != ("ready", ""):
                raise RuntimeError("the child that reads mutants did not start")
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(str(path)).encode() + b"\n")
        first = self._answer(SECONDS)
        if first[0] != "accepted":
            return first
        second = self._answer(SECONDS)
        return ("alone", f"the second reader {second[0]}") if second[0] in ("crashed", "hung") else second

    def _answer(self, seconds: float) -> tuple[str, str]:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], seconds)
        line = process.stdout.readline() if ready else b""
        if line.endswith(b"\n"):
            outcome, words = json.loads(line)
            return outcome, words
        self.stop()
        return ("crashed", f"it ended with {process.returncode}") if ready else ("hung", f"not done in {seconds:.0f} s")

    def freeze(self) -> None:
        """Stop the process as a hang would: it answers nothing any more."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """End the process as a crash would: it is found at the next path."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout) if self._process is not None else ():
            if pipe is not None:
                pipe.close()
        self._process = None


def outcomes(seed: int, first: int, count: int, keep: Path | None = None) -> Iterator[Outcome]:
    """Mutants ``first`` to ``first + count``; what hung is read once more in a fresh child before it counts."""
    shares = np.array([s.share for s in SEEDS.values()], float)
    child = Child()
    with tempfile.TemporaryDirectory() as temporary:
        scans: dict[str, tuple[Path, Path, dict[str, bytes]]] = {}
        try:
            for number in range(first, first + count):
                rng = np.random.default_rng([seed, number])
                kind = str(rng.choice(list(SEEDS), p=shares / shares.sum()))
                if kind not in scans:
                    folder = Path(temporary, str(len(scans)))
                    folder.mkdir()
                    scans[kind] = (folder, SEEDS[kind].build(folder), _files(folder))
                folder, path, files = scans[kind]
                changed = mutant(files, SEEDS[kind].family, rng)
                _write(folder, changed)
                if keep is not None:
                    _write(keep, files | changed)
                outcome, words = child.outcome(path)
                if outcome == "hung":
                    outcome, words = child.outcome(path)
                yield Outcome(number, kind, outcome, words.replace(str(folder), ""))
                _write(folder, {name: files[name] for name in changed})
        finally:
            child.stop()


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def table(found: list[Outcome]) -> str:
    """By format: how many were refused, accepted with a second reader's consent or alone, and failed; and what n tells."""
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    for one in found:
        rows[one.kind]["failed" if one.outcome in ("wrong", "crashed", "hung") else one.outcome] += 1
    lines = [
        "| format | mutants | refused | accepted, second reader agrees | second reader refuses | disagrees | failed | 3/n |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    total: Counter[str] = sum((rows[kind] for kind in rows), Counter())
    for kind, counts in [*((k, rows[k]) for k in SEEDS if k in rows), ("all", total)]:
        n = counts.total()
        shown = " | ".join(str(counts[key]) for key in ("refused", "agreed", "alone", "disagreed", "failed"))
        lines.append(f"| {kind} | {n} | {shown} | {3 / n:.2g} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", type=Path, help="append each outcome to this file, one line each")
    given = parser.parse_args()
    found: list[Outcome] = []
    start = time.perf_counter()
    for one in outcomes(given.seed, given.first, given.mutants, given.keep):
        found.append(one)
        if one.failed or given.mutants < 5:
            print(f"{one.outcome}: mutant {one.number} of seed {given.seed}, {one.kind}: {one.words}", flush=True)
        if given.json:
            with given.json.open("a") as file:
                file.write(json.dumps(one.__dict__) + "\n")
    print(table(found))
    print(f"\n{len(found)} mutants in {time.perf_counter() - start:.0f} s")
    return int(any(one.failed for one in found))


if __name__ == "__main__":
    sys.exit(main())
