"""The unit of a cohort: an order in, a record out, both JSON; and the executor that overlaps reading, network and writing."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medseg.core.errors import DiskFullError, MedsegError, OutputError
from medseg.core.files import sha256_of
from medseg.core.interrupt import StopFlag
from medseg.core.progress import Progress, of_case, silent
from medseg.inference.result import SegmenterResult
from medseg.inference.settings import InferenceOptions
from medseg.io.reading import hash_of
from medseg.io.scan import DEFAULTS, ReadOptions
from medseg.workflows.infer_case import AS_THE_MODEL_WISHES, InferResult, Job, Opened, Say

_MOST = 1e15  # no time in seconds and no volume is beyond it; NaN and infinity are not within it
Record = dict[str, Any]
Done = Callable[[Record], None]


@dataclass(frozen=True)
class Order:
    """One case to do: its ``name``, the files of its channels, and where its label map goes. ``problem``: why it cannot be."""

    name: str
    files: tuple[str, ...]
    target: str
    problem: str = ""

    @property
    def channels(self) -> list[Path]:
        return [Path(file) for file in self.files]


@dataclass(frozen=True)
class Common:
    """What all orders of a cohort share, so that a process elsewhere can load the same job.

    ``output``: the folder to which records tell paths. ``options``: how scans are read. ``settings``: what the user asked of
    the network's part.
    """

    model: str
    output: str
    device: str = "auto"
    also: tuple[str, ...] = ()
    options: ReadOptions = DEFAULTS
    settings: InferenceOptions = AS_THE_MODEL_WISHES

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"settings": self.settings.as_json()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Common":
        settings = InferenceOptions.from_json(content["settings"])
        parts: dict[str, Any] = {"options": ReadOptions(**content["options"]), "settings": settings}
        return cls(**content | parts | {"also": tuple(content["also"])})

    def load(self, say: Say = lambda line: None) -> Job:
        """The job, its model loaded and verified on the device."""
        parts: dict[str, Any] = {
            "device": self.device,
            "also": self.also,
            "options": self.options,
            "settings": self.settings,
        }
        return Job.load(Path(self.model), say=say, **parts)


Executor = Callable[[Common, Job, Sequence[Order], Done, StopFlag, Progress], None]
"""Does orders and tells each one's record as soon as its files are there; from any thread, but never two at once.

Returns when all are told. Raises Stopped or KeyboardInterrupt where ``StopFlag`` says so, and whatever ends the whole cohort.
"""


def run_one(common: Common, job: Job, order: Order) -> Record:
    """Do one order, whatever comes of it: a record with ``status`` done or failed. Raises only what ends the whole cohort."""
    opened = _read(job, order)
    if not isinstance(opened, Opened):
        return opened
    found = _segmented(job, order, opened, silent)
    return found if not isinstance(found, SegmenterResult) else _written(common, job, order, opened, found)


def pipelined(
    common: Common, job: Job, orders: Sequence[Order], done: Done, stop: StopFlag, progress: Progress
) -> None:
    """The executor of this process: the next scan is read and the last one written while the network runs on one.

    So never more than three cases are in memory; one, where ``max_memory`` is a promise about a single one. A stop ends reading
    and network at once, and waits for the files of the case that is being written, and for its record.
    """
    alone = job.segmenter.settings.max_memory is not None
    with ThreadPoolExecutor(1) as writer, ThreadPoolExecutor(1) as reader:
        ahead: Future[Opened | Record] | None = None
        writing: Future[None] | None = None
        try:
            for number, order in enumerate(orders):
                ahead = ahead or reader.submit(_read, job, order)
                with stop.at_once():
                    opened = ahead.result()
                following = None if alone else next(iter(orders[number + 1 : number + 2]), None)
                ahead = reader.submit(_read, job, following) if following else None
                with stop.at_once():
                    found = (
                        opened
                        if not isinstance(opened, Opened)
                        else _segmented(job, order, opened, of_case(progress, order.name))
                    )
                if writing is not None:
                    writing.result()
                writing = writer.submit(_write_and_tell, common, job, order, opened, found, done)
                if alone:
                    writing.result()
            if writing is not None:
                writing.result()
        finally:
            reader.shutdown(wait=True, cancel_futures=True)
            if ahead is not None and not ahead.cancelled() and isinstance(unused := ahead.result(), Opened):
                unused.stack.close()


def _write_and_tell(
    common: Common, job: Job, order: Order, opened: Opened | Record, found: SegmenterResult | Record, done: Done
) -> None:
    if isinstance(opened, Opened) and isinstance(found, SegmenterResult):
        done(_written(common, job, order, opened, found))
    elif isinstance(found, dict):
        done(found)


def _read(job: Job, order: Order) -> Opened | Record:
    if order.problem:
        return failed(order, order.problem)
    try:
        return job.read(order.channels)
    except Exception as error:
        return failed(order, error)


def _segmented(job: Job, order: Order, opened: Opened, progress: Progress) -> SegmenterResult | Record:
    try:
        return job.segment(opened, progress, Path(order.target))
    except (DiskFullError, OutputError):
        raise
    except Exception as error:
        return failed(order, error)


def _written(common: Common, job: Job, order: Order, opened: Opened, found: SegmenterResult) -> Record:
    clock = time.perf_counter()
    try:
        result = job.write(opened, found, Path(order.target))
    except (DiskFullError, OutputError):
        raise
    except Exception as error:
        return failed(order, error)
    return _done(common, order, result, time.perf_counter() - clock)


def _done(common: Common, order: Order, result: InferResult, writing: float) -> Record:
    """The record of a case whose files all have their names; ``outputs`` are relative to the output folder, with hashes."""
    folder, manifest = Path(common.output), result.manifest
    return {
        "case": order.name,
        "status": "done",
        "scan": manifest.get("channels", [manifest["scan"]]),
        "label_map": result.path.relative_to(folder).as_posix(),
        "outputs": {path.relative_to(folder).as_posix(): digest for path, digest in sorted(result.sha256.items())},
        "volumes_ml": manifest["volumes_ml"],
        "predicted_dice": manifest.get("predicted_dice", {}).get("structures", {}),
        "seconds": manifest["seconds"] | {"write": round(writing, 3)},
        "warnings": manifest["warnings"],
        "review": manifest["review"],
        "windows": manifest["windows"],
        "device": manifest["device"],
        "error": None,
    }


def failed(order: Order, error: Exception | str) -> Record:
    """The record of a case that was not done, and why."""
    words = str(error)
    if isinstance(error, Exception) and not isinstance(error, MedsegError):
        words = f"{order.files[0]}: unexpected {type(error).__name__}: {error} - this is a bug in medseg; report it"
    return not_done(order, "failed", words)


def not_done(order: Order, status: str, error: str | None) -> Record:
    """The record of a case without results."""
    return {
        "case": order.name,
        "status": status,
        "scan": [{"path": file} for file in order.files],
        **{"label_map": None, "outputs": {}, "volumes_ml": {}, "seconds": {}, "warnings": []},
        **{"windows": 0, "device": "", "error": error},
    }


_NUMBER = int, float
_PARTS: dict[str, tuple[type | tuple[type, ...], type | tuple[type, ...]]] = {
    **{"case": (str, ()), "status": (str, ()), "label_map": (str, ()), "device": (str, ()), "error": (type(None), ())},
    **{"windows": (int, ()), "review": (bool, ()), "scan": (list, dict), "warnings": (list, str)},
    **{
        "outputs": (dict, str),
        "volumes_ml": (dict, _NUMBER),
        "seconds": (dict, _NUMBER),
        "predicted_dice": (dict, dict),
    },
}
"""Of the record of a case that is done: what each part is, and what is in it."""
_SINCE: dict[str, Any] = {"review": False, "predicted_dice": {}}  # what the first journals had not


def why_no_record(record: Any, name: str) -> str:
    """Why a journal's ``record`` of case ``name`` is none of a case that is done; empty where it is one."""
    if not isinstance(record, dict):
        return f"it is {_brief(record)}"
    whole = _SINCE | record
    for part in sorted(_PARTS.keys() | whole.keys()):
        kind, inner = _PARTS.get(part, ((), ()))
        value = whole.get(part)
        held = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if part not in whole or not isinstance(value, kind) or not all(isinstance(one, inner) for one in held):
            return f"its part {_brief(part)} is {_brief(value) if part in whole else 'missing'}"
    dice = [one for figures in whole["predicted_dice"].values() for one in figures.items()]
    figures = [value for key, value in dice if key != "why" and value is not None]
    numbers = [whole["windows"], *whole["volumes_ml"].values(), *whole["seconds"].values(), *figures]
    if wrong := [n for n in numbers if not (isinstance(n, _NUMBER) and abs(n) < _MOST)]:
        return f"{_brief(wrong[0])} in it is no number of ours"
    if (whole["case"], whole["status"]) != (name, "done"):
        return f"it is that of {_brief(whole['case'])}, {_brief(whole['status'])}"
    sources = [source.get(part) for source in whole["scan"] for part in ("path", "sha256")]
    if not sources or not all(isinstance(source, str) for source in sources):
        return "its scan has no path or no hash"
    strays = [place for place in (whole["label_map"], *whole["outputs"]) if not _is_below(place)]
    return f"its file {_brief(strays[0])} does not lie in the output folder" if strays else ""


def _brief(value: Any) -> str:
    return repr(value)[:100]


def _is_below(place: str) -> bool:
    """Whether the relative path ``place`` stays in its folder, and can be the name of a file at all."""
    path = Path(place)
    return bool(path.name) and not path.is_absolute() and ".." not in path.parts and "\0" not in place


def changes(record: Record, order: Order, folder: Path, options: ReadOptions) -> str:
    """Why a recorded case must be done again, in words: its scan or its files are not those of the record; empty where not."""
    try:
        sources = [hash_of(path, options) for path in order.channels]
    except MedsegError:
        return "its scan cannot be read any more"
    if sources != [source.get("sha256") for source in record["scan"]]:
        return "its scan changed since"
    for name, digest in record["outputs"].items():
        try:
            if not (folder / name).exists():
                return f"{name} is not there any more"
            if not (folder / name).is_file() or sha256_of(folder / name) != digest:
                return f"{name} changed since"
        except OSError as error:
            return f"{name} cannot be read any more ({error.strerror or error})"
    return ""
