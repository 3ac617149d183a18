"""The executor of a cohort beyond one process: cases to Dask workers, records back. The journal stays with the caller."""

import queue
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from os import getpid
from pathlib import Path
from typing import Any

from medseg.core.cluster_spec import ClusterSpec, QueueSpec
from medseg.core.errors import ConfigError, MedsegError, ResourceError
from medseg.core.files import is_there, write_durable
from medseg.core.interrupt import StopFlag
from medseg.core.progress import Progress
from medseg.workflows.cluster_start import Say, connected, threads_of
from medseg.workflows.cluster_worker import NOT_SEEN, do_case, error_of, prepare, task_of
from medseg.workflows.cohort_case import Common, Done, Executor, Order, failed, run_one
from medseg.workflows.infer_case import Job

TRIES = 3  # so many workers may die with a case in hand before it counts as failed
PATIENCE_SECONDS = 120.0  # without any worker; jobs in a queue are waited for without end
ANSWER_SECONDS = 10.0  # a worker that is done gives its few kilobytes in much less
_LOOK_SECONDS = 1.0


def on_cluster(spec: ClusterSpec, *, say: Say = lambda line: None, tries: int = TRIES) -> Executor:
    """The executor that does each order on a Dask worker of ``spec``, one case at a time on each.

    Workers may come and go: one that dies gives its case back, and a case that ``tries`` workers died of is told as failed.
    Raises ResourceError where there is no worker for long or the scheduler is gone, and the error of a worker that has
    another medseg, model or file system. What was told until then is done.
    """

    def execute(
        common: Common, job: Job, orders: Sequence[Order], done: Done, stop: StopFlag, progress: Progress
    ) -> None:
        if not orders:
            return
        patience = None if isinstance(spec, QueueSpec) else PATIENCE_SECONDS
        with ExitStack() as stack:
            with stop.at_once():
                token = stack.enter_context(_token(Path(common.output)))
                client = stack.enter_context(connected(spec, device=common.device, say=say))
            shared = replace(common, model=_absolute(job.segmenter.model.folder), output=_absolute(common.output))
            task = task_of(shared, job, token, threads_of(spec))
            _Dispatch(client, task, shared, job, deque(orders), stop, done, tries, patience).run()

    return execute


def _absolute(path: Path | str) -> str:
    """``path`` from the root on: workers need not stand in the same folder. Links stay as they are."""
    return str(Path(path).absolute())


@contextmanager
def _token(folder: Path) -> Iterator[Path]:
    """A file in ``folder`` by which workers know that it is the same folder."""
    token = folder.absolute() / f".cluster.{getpid()}.tmp"
    write_durable(token, b"medseg")
    try:
        yield token
    finally:
        with suppress(OSError):
            token.unlink()


@dataclass(eq=False)
class _Dispatch:
    """Who does what: each worker first prepares, then computes one case at a time, so that its death tells of which case.

    It gets the next one as soon as it says that one is done, before its answer is fetched and written.
    """

    client: Any
    task: dict[str, Any]
    common: Common
    job: Job
    waiting: deque[Order]
    stop: StopFlag
    done: Done
    tries: int
    patience: float | None
    idle: set[str] = field(default_factory=set)
    busy: dict[str, tuple[Any, Order | None]] = field(default_factory=dict)  # None: it prepares
    agreed: dict[str, Any] = field(default_factory=dict)  # the first worker's settings
    deaths: Counter[str] = field(default_factory=Counter)
    unfetched: Counter[str] = field(default_factory=Counter)  # done by workers that were gone before they could say so
    answers: "queue.SimpleQueue[tuple[str, Any]]" = field(default_factory=queue.SimpleQueue)

    def run(self) -> None:
        seen = time.monotonic()
        looked = -_LOOK_SECONDS
        while self.waiting or any(order for _, order in self.busy.values()):
            if time.monotonic() - looked >= _LOOK_SECONDS:
                looked = time.monotonic()
                seen = looked if self._look() else seen
                if self.patience is not None and looked - seen > self.patience:
                    raise ResourceError(
                        f"--cluster: there has been no worker for {self.patience:.0f} s; start some (dask worker ADDRESS) and "
                        "run the same command again: what is done is kept"
                    )
            while self.waiting and self.idle:
                self._send(self.idle.pop(), self.waiting.popleft())
            if answer := self._next():
                self._take(*answer)

    def _next(self) -> tuple[str, Any] | None:
        with self.stop.at_once(), suppress(queue.Empty):
            return self.answers.get(timeout=_LOOK_SECONDS)
        return None

    def _look(self) -> bool:
        """Meet new workers and miss those that are gone; True where there is any. Where workers name GPUs, only those count."""
        try:
            found = self.client.scheduler_info(n_workers=-1)["workers"]
        except Exception as error:  # of the network, of many kinds
            raise _gone(error) from None
        gpus = {at for at, worker in found.items() if worker.get("resources", {}).get("GPU", 0) >= 1}
        here = gpus or set(found)
        self.idle &= here
        for at in here - self.idle - self.busy.keys():
            self._send(at, None)
        for at in self.busy.keys() - here:
            self._lost(at)
        return bool(here)

    def _send(self, at: str, order: Order | None) -> None:
        if order is None:
            work: tuple[Any, ...] = (prepare, self.task)
        else:
            there = replace(order, files=tuple(map(_absolute, order.files)), target=_absolute(order.target))
            work = (do_case, self.task, asdict(there))
        future = self.client.submit(*work, workers=[at], allow_other_workers=False, pure=False)
        self.busy[at] = future, order
        future.add_done_callback(lambda future: self.answers.put((at, future)))

    def _take(self, at: str, future: Any) -> None:
        """What became of a worker's task, unless that worker was missed in the meantime."""
        if at not in self.busy or self.busy[at][0] is not future:
            return
        if future.status != "finished":
            self._broken(at, future)
            return
        _, order = self.busy.pop(at)
        if order and self.waiting and self.stop.signal_number is None:
            # The worker goes on while its answer is fetched and written.
            self._send(at, self.waiting.popleft())
        try:
            answer = future.result(timeout=ANSWER_SECONDS)
        except TimeoutError:  # it died before it gave its answer away, and Dask would wait for it without end
            self._again(order, self.unfetched)
            return
        if "error" in answer:
            raise error_of(answer)
        if at not in self.busy:
            self.idle.add(at)
        if order is None:
            self._agree(answer)
        else:
            record = answer["record"]
            if NOT_SEEN in (record["error"] or "") and not all(is_there(Path(file)) for file in order.files):
                record = run_one(self.common, self.job, order)  # it is not here either: say so in the usual words
            self.done(record)

    def _agree(self, answer: dict[str, Any]) -> None:
        """Raise ConfigError where a worker would run the model in another way than the first one."""
        self.agreed = self.agreed or answer
        for name, value in answer["settings"].items():
            if value != (first := self.agreed["settings"][name]):
                raise ConfigError(
                    f"--cluster: {name} is {first!r} on {self.agreed['ready']}, but {value!r} on {answer['ready']}: the results "
                    f"would differ; name it (such as --{name} {first})"
                )

    def _broken(self, at: str, future: Any) -> None:
        from distributed.client import FutureCancelledError
        from distributed.scheduler import KilledWorker

        error = future.exception() if future.status == "error" else FutureCancelledError(future.key, future.status)
        if isinstance(error, KilledWorker):
            self._lost(at)
        elif isinstance(error, FutureCancelledError):
            raise _gone(error)
        else:
            raise MedsegError(
                f"--cluster: the worker {at} cannot do the work ({type(error).__name__}: {error}); every machine needs the same "
                "medseg and packages as this one"
            ) from error

    def _lost(self, at: str) -> None:
        """A worker died with what it had in hand."""
        future, order = self.busy.pop(at)
        future.cancel()
        self._again(order, self.deaths)

    def _again(self, order: Order | None, lost: Counter[str]) -> None:
        """A case that was ``lost`` with a worker is done again, unless it was so too often."""
        name = order.name if order else ""
        lost[name] += 1
        if lost[name] < self.tries:
            if order:
                self.waiting.appendleft(order)
        elif order:
            self.done(
                failed(
                    order,
                    MedsegError(
                        f"{order.files[0]}: {self.tries} workers died while they had this case (out of memory?); it is left "
                        "out, and done again when the same command runs again"
                    ),
                )
            )
        else:
            raise ResourceError(
                f"--cluster: {self.tries} workers died while they loaded the model (out of memory?); give them more memory"
            )


def _gone(error: Exception) -> MedsegError:
    return ResourceError(
        f"--cluster: the Dask scheduler is gone ({error}); run the same command again: what is done is kept"
    )
