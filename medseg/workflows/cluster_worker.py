"""What a Dask worker does: load the model once, hold it against the one that was asked for, do one case after the other.

Everything that comes and goes is JSON. A MedsegError travels as its name and words, so that no worker prints a traceback.
"""

import json
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from medseg import __version__
from medseg.core import errors
from medseg.core.errors import ConfigError, MedsegError, ModelError, OutputError
from medseg.core.files import is_there
from medseg.core.workers import error_name
from medseg.workflows.cohort_case import Common, Order, failed, run_one
from medseg.workflows.infer_case import Job

NOT_SEEN = "not found on the worker"
MACHINES_OWN = (
    "backend",
    "precision",
)  # what ``auto`` makes of them depends on the machine: workers agree among themselves
_jobs: dict[str, Job] = {}  # one model stays loaded in this process: that of the last cohort
_loading = Lock()


@dataclass(frozen=True)
class Task:
    """What a worker must know and agree with: version, model and settings by value, and the CPU ``threads`` to use.

    ``token``: a file in the output folder, which a worker on the same file system finds.
    """

    medseg: str
    sha256: str
    settings: dict[str, Any]
    common: dict[str, Any]
    token: str
    threads: int | None


def task_of(common: Common, job: Job, token: Path, threads: int | None) -> dict[str, Any]:
    """The task as JSON: what every call below gets first."""
    settings = _decided(job)
    for name in MACHINES_OWN:
        if getattr(common.settings, name) in (None, "auto"):
            del settings[name]
    return asdict(Task(__version__, job.segmenter.model.sha256, settings, common.as_json(), str(token), threads))


def prepare(task: dict[str, Any]) -> dict[str, Any]:
    """Load the model and agree on the task: ``{"ready": host, "settings": ...}``, or the error that keeps this worker from it."""
    return _told(task, lambda job: {"ready": socket.gethostname(), "settings": _decided(job)})


def do_case(task: dict[str, Any], order: dict[str, Any]) -> dict[str, Any]:
    """Do one order: ``{"record": ...}``, or the error that ends the whole cohort."""
    return _told(task, lambda job: {"record": _record(task, job, Order(**order | {"files": tuple(order["files"])}))})


def error_of(answer: dict[str, Any]) -> MedsegError:
    """The error that an ``answer`` holds, of its own kind."""
    kind: type[MedsegError] = getattr(errors, answer["error"])
    return kind(answer["words"])


def _told(task: dict[str, Any], work: Any) -> dict[str, Any]:
    try:
        try:
            job = _job(Task(**task))
        except MedsegError as error:
            raise type(error)(f"worker on {socket.gethostname()}: {error}") from None
        answer: dict[str, Any] = work(job)
    except MedsegError as error:
        return {"error": error_name(error), "words": str(error)}
    return answer


def _record(task: dict[str, Any], job: Job, order: Order) -> dict[str, Any]:
    common = Common.from_json(task["common"])
    for file in order.files if not order.problem else ():
        if not is_there(Path(file)):
            where = f"{NOT_SEEN} {socket.gethostname()}"
            return failed(order, f"{file}: {where}; every machine of the cluster must see the scans under one path")
    return run_one(common, job, order)


def _job(task: Task) -> Job:
    """The job of ``task``, loaded at its first call. Raises the error that says why this worker cannot share in the work."""
    _agree(task)
    key = json.dumps([task.sha256, task.settings, task.common], sort_keys=True)
    with _loading:
        if key not in _jobs:
            from medseg.inference.device import use_threads

            if task.threads is not None:
                use_threads(task.threads)
            job = Common.from_json(task.common).load()
            _same(task, job)
            _jobs.clear()
            _jobs[key] = job
        return _jobs[key]


def _agree(task: Task) -> None:
    if task.medseg != __version__:
        raise ConfigError(f"it has medseg {__version__}, this machine {task.medseg}; install the same version on both")
    if not is_there(Path(task.token)):
        raise OutputError(
            f"it does not see {Path(task.token).parent}; every machine of the cluster must see --output under one path"
        )


def _same(task: Task, job: Job) -> None:
    segmenter = job.segmenter
    if segmenter.model.sha256 != task.sha256:
        raise ModelError(
            f"{segmenter.model.folder}: another model lies there than on this machine (sha256 {segmenter.model.sha256[:12]}, "
            f"expected {task.sha256[:12]}); every machine of the cluster must see the same model folder"
        )
    here = _decided(job)
    for name, value in task.settings.items():
        if here.get(name) != value:
            raise ConfigError(f"its setting {name} comes out as {here.get(name)!r}, here as {value!r}; name it")


def _decided(job: Job) -> dict[str, Any]:
    """The settings as JSON gives them back."""
    decided: dict[str, Any] = json.loads(json.dumps(job.segmenter.settings.as_json()))
    return decided
