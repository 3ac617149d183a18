"""What can go wrong, each kind with the exit code that the command line returns for it."""


class MedsegError(Exception):
    """Anything medseg refuses: one message that says what, got, expected and what to do.

    ``exit_code``: 1 some cases failed, 2 usage or config, 3 input or model, 4 output, 5 device, memory or disk.
    """

    exit_code = 1


class CasesError(MedsegError):
    """Some cases of several failed; the rest was done."""


class ConfigError(MedsegError):
    """A config or an argument is not valid."""

    exit_code = 2


class DataError(MedsegError):
    """A file is missing, unreadable, or does not hold what it must."""

    exit_code = 3


class GeometryError(DataError):
    """Grids that must agree do not, or an affine places nothing in the world."""


class ModelError(DataError):
    """A model folder is missing, damaged, or does not fit."""


class OutputError(MedsegError):
    """The output exists, is held by another run, or lies on a read-only place."""

    exit_code = 4


class ResourceError(MedsegError):
    """The device, the memory or the disk does not suffice."""

    exit_code = 5


class DiskFullError(ResourceError):
    """No room is left to write in: nothing that follows could be written either."""


class Interrupted(MedsegError):
    """A signal stopped the work at a safe place; ``exit_code`` is 128 plus the signal's number."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
