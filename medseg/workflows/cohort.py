"""Cohort: inputs -> cases -> lock -> journal -> what is not done yet: read | segment | write -> journal -> results."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medseg.core.case import has_image_suffix
from medseg.core.errors import ConfigError, Interrupted
from medseg.core.files import check_writable, make_folder, sha256_of_json
from medseg.core.interrupt import StopFlag, Stopped, stop_flag
from medseg.core.journal import Journal
from medseg.core.lock import run_lock
from medseg.core.progress import Progress, silent
from medseg.data.scans import Scans, as_cases, find_scans
from medseg.inference.settings import InferenceOptions
from medseg.io.outputs import check_apart, check_free
from medseg.io.scan import DEFAULTS, ReadOptions
from medseg.io.targets import check_target_free, check_targets, place_of, target_in
from medseg.workflows.cohort_case import Common, Executor, Order, Record, changes, pipelined, why_no_record
from medseg.workflows.cohort_results import check_results_free, write_page, write_results
from medseg.workflows.infer_case import AS_THE_MODEL_WISHES, Job, Say

_HASHING_THREADS = 4
_SHORT = 16  # digits of a hash, which a message shows
_COSTS = {"batch", "max_memory"}  # what a run that goes on may change: not results, but see `_identity`


@dataclass(frozen=True, eq=False)
class CohortResult:
    """``records`` of all cases by name, those of earlier runs included; ``again`` counts those that this run found done.

    ``content`` is what results.json holds; ``page``: results.html, where pictures were asked for.
    """

    folder: Path
    records: dict[str, Record]
    again: int
    content: dict[str, Any]
    page: Path | None = None

    @property
    def failed(self) -> int:
        return sum(record["status"] == "failed" for record in self.records.values())


def cohort(
    inputs: Sequence[Path],
    *,
    output: Path,
    model: Path | None = None,
    device: str = "auto",
    also: Sequence[str] = (),
    options: ReadOptions = DEFAULTS,
    settings: InferenceOptions = AS_THE_MODEL_WISHES,
    force: bool = False,
    executor: Executor = pipelined,
    progress: Progress = silent,
    say: Say = lambda line: None,
    tell: Callable[[Record], None] = lambda record: None,
) -> CohortResult:
    """Segment every scan of ``inputs`` (scans, folders, CSV tables, patterns) into ``output``, each exactly once.

    Run it again, after whatever ended it, and it goes on: a case with a record in the journal, whose scan and files still have
    the hashes of that record, is not done again. ``tell`` gets each new record, done or failed. With ``force`` the journal
    starts over.

    Raises, before any work: DataError where no scan is found, ConfigError where two cases have one name, ModelError,
    OutputError where the output holds other files or another model's results, cannot be written, or is in use. Later:
    DiskFullError, and Interrupted after a signal, with all that was done recorded.
    """
    if has_image_suffix(output.name):
        raise ConfigError(f"--output {output} is one file, but several scans are given; give a folder")
    found = find_scans(inputs, output=output)
    check_writable(output)
    parts: dict[str, Any] = {"device": device, "also": tuple(also), "options": options, "settings": settings}
    job = Job.load(model, say=say, **parts)
    decided = job.segmenter.settings  # for every worker, whatever its machine would choose
    parts["settings"] = replace(settings, backend=decided.backend, precision=decided.precision)
    common = Common(str(job.segmenter.model.folder), str(output), **parts)
    for note in found.notes:
        say(f"note: {note}")
    orders = _orders(
        as_cases(found, job.segmenter.plan.channel_names or ("",) * job.segmenter.plan.channels), output, job
    )
    identity, earlier = _identity(job, common)
    with (
        run_lock(make_folder(output)),
        Journal.opened(output, identity, also=(earlier,), anew=force) as journal,
        stop_flag() as stop,
    ):
        ours, records = journal.expected(), journal.records()
        for name, record in records.items():
            if why := why_no_record(record, name):
                raise journal.foreign(name, why)
        _check_free(orders, job, ours, force=force)
        check_results_free(output, begun=bool(ours) or force)
        journal.expect([order.name for order in orders])
        targets = {order.name: Path(order.target) for order in orders}
        try:
            with stop.at_once():
                _check_records(records, journal, orders, output, options, progress, say)
            again = sum(order.name in records for order in orders)
            todo = [order for order in orders if order.name not in records]
            say(_plan(len(orders), again))

            def done(record: Record) -> None:
                if record["status"] == "done":
                    journal.write(record["case"], record)
                elif targets[record["case"]].exists():
                    record["error"] += f"; {targets[record['case']]} is still that of an earlier scan"
                records[record["case"]] = record
                tell(record)
                progress("cases", len(records) - before, len(todo))

            before = len(records)
            progress("cases", 0, len(todo))
            executor(common, job, todo, done, stop, progress)
        except (Stopped, KeyboardInterrupt) as error:
            through = sum(records.get(order.name, {}).get("status") == "done" for order in orders)
            raise _interrupted(stop, error, output, through, len(orders)) from None
        finally:
            content = write_results(output, records, orders, job, _settings(job, common))
        page = write_page(output, content) if "preview" in common.also else None
    return CohortResult(output, records, again, content, page)


def _settings(job: Job, common: Common) -> dict[str, Any]:
    """All that decides results beside scans and model, as JSON."""
    read = {"series": common.options.series, "on_gap": common.options.on_gap}
    return job.segmenter.settings.as_json() | read | {"outputs": sorted(common.also)}


def _identity(job: Job, common: Common) -> tuple[dict[str, Any], dict[str, Any]]:
    """What two runs into one folder must have in common, and the words of the first journals for the same.

    Of the model all that can change a label map or a remark on it. What `medseg tune` writes into model.json is not: only
    the settings that a run comes to count, and the Dice to expect of a case is that which was known when it was done. The
    first journals have the hash of the whole model.json. Of the memory a run may hold only what decides in which type windows
    are added up counts: how much it is, where that is not given.
    """
    settings = {key: value for key, value in _settings(job, common).items() if key not in _COSTS}
    most = job.segmenter.settings.max_memory
    if most is not None and settings["accumulators"] == "auto":
        settings["accumulators"] = f"auto, f16 where max_memory={most} needs it"
    model, card = job.segmenter.model, job.segmenter.model.card
    deciding = {
        "plan": card.plan.model_dump(mode="json"),
        "structures": [card.labels, {name: own.model_dump(mode="json") for name, own in card.structures.items()}],
        "fingerprint": card.fingerprint and card.fingerprint.model_dump(mode="json"),
    }
    told = {
        "name": card.name,
        "weights": {file.removesuffix(".safetensors"): digest[:_SHORT] for file, digest in card.weights.items()},
        **{part: sha256_of_json(content)[:_SHORT] for part, content in deciding.items()},
    }
    return {"model": told, "settings": settings}, {
        "model": {"name": card.name, "sha256": model.sha256},
        "settings": settings,
    }


def _orders(cases: Sequence[Scans], output: Path, job: Job) -> list[Order]:
    """One order for each case. Raises ConfigError and OutputError where outputs would clash, or replace a scan."""
    targets = [target_in(output, case.name, case.files[0]) for case in cases]
    check_targets([case.files for case in cases], targets)
    check_apart(job.writers, [place_of(target) for target in targets], job.labels)
    return [
        Order(case.name, tuple(map(str, case.files)), str(target), case.problem)
        for case, target in zip(cases, targets, strict=True)
    ]


def _check_free(orders: Sequence[Order], job: Job, ours: set[str], *, force: bool) -> None:
    """Raise OutputError where a file that no run of this cohort can have made is in the place of a new one."""
    for order in orders:
        target, free = Path(order.target), force or order.name in ours
        check_target_free(target, force=free)
        check_free(job.writers, place_of(target), job.labels, force=free)


def _check_records(
    records: dict[str, Record],
    journal: Journal,
    orders: Sequence[Order],
    output: Path,
    options: ReadOptions,
    progress: Progress,
    say: Say,
) -> None:
    """Take the records that do not hold any more out of ``records`` and the journal, so that their cases are done again."""
    known = [order for order in orders if order.name in records]
    with ThreadPoolExecutor(_HASHING_THREADS) as pool:
        checked = pool.map(lambda order: changes(records[order.name], order, output, options), known)
        for number, (order, why) in enumerate(zip(known, checked, strict=True), 1):
            progress("checking", number, len(known))
            if why:
                say(f"{order.name}: {why}; it is done again")
                journal.forget(order.name)
                del records[order.name]


def _plan(cases: int, done: int) -> str:
    what = "1 scan" if cases == 1 else f"{cases} scans"
    return f"{what}: {done} done before, {cases - done} to do" if done else f"{what} to do"


def _interrupted(stop: StopFlag, error: BaseException, output: Path, done: int, cases: int) -> BaseException:
    if stop.signal_number is None:
        return error
    words = f"{output}: stopped with {done} of {cases} cases done; run the same command again to go on"
    return Interrupted(words, stop.signal_number)
