"""Dask clusters: started here, found at an address, or made of the jobs of a queueing system; quiet, and gone after."""

import logging
import multiprocessing
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from os import kill
from typing import Any

from medseg.core.cluster_spec import AddressSpec, ClusterSpec, LocalSpec, QueueSpec
from medseg.core.cores import cores
from medseg.core.errors import ConfigError, ResourceError

Say = Callable[[str], None]
_CONNECT_SECONDS = 20
_CRITICAL = logging.CRITICAL
_NO_PAGE = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}  # port 8787 is the user's own dashboard's
_PRELOADED = (
    *("distributed", "medseg.workflows.cluster_worker", "medseg.inference.segment", "medseg.models.bundle"),
    "medseg.io.nifti",
)
_SUBMIT = {"slurm": "sbatch", "pbs": "qsub", "lsf": "bsub"}
_LOGGERS = ("distributed", "tornado", "asyncio", "dask_jobqueue")


@contextmanager
def connected(spec: ClusterSpec, *, device: str, say: Say) -> Iterator[Any]:
    """A Dask client of the cluster that ``spec`` describes; what was started for it ends with the block.

    Raises ConfigError where Dask is not installed or the machine has fewer GPUs than workers, ResourceError where no
    scheduler answers.
    """
    dask = _dask()
    settings = {
        "distributed.scheduler.allowed-failures": 0,  # who counts is `cluster`
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.worker.multiprocessing-method": "spawn" if sys.platform == "win32" else "forkserver",
    }
    with dask.config.set(settings), _quiet(), ExitStack() as stack:
        if isinstance(spec, LocalSpec):
            yield stack.enter_context(_client(stack.enter_context(_local(spec, device)), say))
        elif isinstance(spec, QueueSpec):
            yield stack.enter_context(_client(stack.enter_context(_jobs(spec, say)), say))
        else:
            yield stack.enter_context(_client(spec.address, say, _security(spec)))


def threads_of(spec: ClusterSpec) -> int | None:
    """CPU threads for each worker; None leaves a worker as it was started."""
    if isinstance(spec, LocalSpec):
        return spec.threads or max(1, cores() // spec.workers)
    return spec.threads


def _dask() -> Any:
    try:
        import dask
        import distributed  # noqa: F401 - with what it needs
    except ImportError as error:
        raise ConfigError(f'--cluster needs Dask ({error}); install it: pip install "medseg[cluster]"') from None
    return dask


@contextmanager
def _client(cluster: Any, say: Say, security: Any = None) -> Iterator[Any]:
    from distributed import Client

    try:
        with warnings.catch_warnings(record=True) as remarks:
            warnings.simplefilter("always")
            client = Client(cluster, security=security, set_as_default=False, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise ResourceError(
            f"--cluster {cluster}: no Dask scheduler answers there ({error}); start one: dask scheduler"
        ) from None
    for remark in remarks:  # other versions of Dask or Python there
        say(f"note: {' '.join(str(remark.message).split())}")
    try:
        yield client
    finally:
        with suppress(Exception):  # it may be gone already
            client.close(timeout=2)


@contextmanager
def _local(spec: LocalSpec, device: str) -> Iterator[Any]:
    from distributed import Nanny, Scheduler, SpecCluster

    _preload()
    common = {"nthreads": 1, "memory_limit": 0, "silence_logs": _CRITICAL, "host": "127.0.0.1", "dashboard": False}
    workers = {
        n: {"cls": Nanny, "options": common | own | {"name": n}} for n, own in enumerate(_gpu_of_each(spec, device))
    }
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, **_NO_PAGE}}
    cluster = SpecCluster(workers=workers, scheduler=scheduler, silence_logs=_CRITICAL)
    try:
        yield cluster
    finally:
        for nanny in cluster.workers.values():
            nanny.auto_restart = False
            with suppress(OSError, TypeError):  # gone, or between two lives
                kill(nanny.pid, signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
        cluster.close()


def _gpu_of_each(spec: LocalSpec, device: str) -> list[dict[str, Any]]:
    """Options of each worker: a GPU of its own where there are any, unless ``device`` is the CPU."""
    from medseg.inference.device import gpus

    count = 0 if device == "cpu" else gpus()
    if not count:
        return [{}] * spec.workers
    if spec.workers > count or device.startswith("cuda:"):
        raise ConfigError(
            f"--cluster local:{spec.workers} with --device {device}: each worker has one GPU of its own, and this machine has "
            f"{count}; give local:{count} or fewer with --device cuda, or --device cpu"
        )
    return [{"env": {"CUDA_VISIBLE_DEVICES": str(n)}, "resources": {"GPU": 1}} for n in range(spec.workers)]


def _preload() -> None:
    """Workers start, and start again, as forks of a process that has imported what all need."""
    if sys.platform == "win32":
        return
    from distributed.utils import get_mp_context

    get_mp_context()
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(_PRELOADED))


@contextmanager
def _jobs(spec: QueueSpec, say: Say) -> Iterator[Any]:
    if shutil.which(_SUBMIT[spec.kind]) is None:
        raise ResourceError(
            f"--cluster: {_SUBMIT[spec.kind]} is not found; run this where jobs are submitted to {spec.kind.upper()}"
        )
    cluster = queue_cluster(spec)
    try:
        try:
            for _ in range(spec.workers):  # as `scale` does, which does not tell what the queue refuses
                cluster.worker_spec.update(cluster.new_worker_spec())
            cluster.sync(cluster._correct_state)
        except RuntimeError as error:
            cluster.worker_spec.clear()  # so that closing does not submit them again
            cluster._created.clear()
            words = " ".join(str(error).split("stderr:")[-1].split())
            raise ResourceError(f"--cluster: {spec.kind.upper()} does not take the jobs: {words}") from None
        cluster.adapt(minimum_jobs=spec.workers, maximum_jobs=spec.workers)  # and not scale: lost jobs come again
        say(f"{spec.workers} jobs are submitted to {spec.kind.upper()}; the first that starts begins")
        yield cluster
    finally:
        cluster.close()


def queue_cluster(spec: QueueSpec) -> Any:
    """The dask-jobqueue cluster of ``spec``, without a job yet. Raises ConfigError where the extra is not installed."""
    try:
        from dask_jobqueue import LSFCluster, PBSCluster, SLURMCluster
    except ImportError as error:
        raise ConfigError(
            f'--cluster with kind {spec.kind} needs dask-jobqueue ({error}); install it: pip install "medseg[cluster]"'
        ) from None
    directives = list(spec.directives)
    memory = spec.memory.replace(" ", "")
    own: dict[str, Any]
    if spec.kind == "slurm":
        kind, own = SLURMCluster, {"account": spec.account, "job_cpu": spec.threads}
        directives += ["--gres=gpu:1"] if spec.gpu else []
    elif spec.kind == "pbs":
        gpu = ":ngpus=1" if spec.gpu else ""
        resources = f"select=1:ncpus={spec.threads}:mem={memory}{gpu}"
        kind, own = PBSCluster, {"account": spec.account, "resource_spec": resources}
    else:
        kind, own = LSFCluster, {"project": spec.account, "ncpus": spec.threads}
        directives += ['-gpu "num=1"'] if spec.gpu else []
    return kind(
        **own,
        cores=1,  # Dask's word for cases at a time
        processes=1,
        memory=memory,
        walltime=spec.walltime,
        queue=spec.queue,
        interface=spec.interface,
        job_extra_directives=directives,
        job_script_prologue=list(spec.prologue),
        worker_extra_args=["--resources", "GPU=1"] if spec.gpu else [],
        log_directory=None if spec.logs is None else str(spec.logs),
        python=sys.executable,
        scheduler_options=_NO_PAGE,
        silence_logs="critical",
    )


def _security(spec: AddressSpec) -> Any:
    if spec.ca_file is None and spec.cert_file is None and spec.key_file is None:
        return None
    from distributed.security import Security

    files = {"tls_ca_file": spec.ca_file, "tls_client_cert": spec.cert_file, "tls_client_key": spec.key_file}
    return Security(require_encryption=True, **{key: str(value) for key, value in files.items() if value is not None})


@contextmanager
def _quiet() -> Iterator[None]:
    """For the block, Dask says nothing on the terminal: what matters is said here, in words of the cohort."""
    handlers = [handler for name in _LOGGERS for handler in logging.getLogger(name).handlers]
    before = [handler.level for handler in handlers]
    silent = {name: logging.getLogger(name).level for name in _LOGGERS}
    for handler in handlers:
        handler.setLevel(_CRITICAL + 1)
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(_CRITICAL + 1)
    try:
        yield
    finally:
        for handler, level in zip(handlers, before, strict=True):
            handler.setLevel(level)
        for name, level in silent.items():
            logging.getLogger(name).setLevel(level)
