"""What `medseg infer` shows of a cohort: a line for each case as it is done, a table at the end."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medseg.cli.console import error_line, note_line, print_json, print_table, progress_bars, time_left
from medseg.core.progress import Progress
from medseg.core.text import printable

_ROWS, _COLUMNS = 50, 4  # beyond them results.csv is the place to look
Record = dict[str, Any]


def run_cohort(scans: Sequence[Path], output: Path, *, as_json: bool, quiet: bool, **options: Any) -> int:
    """Segment the cohort and print what came of it; the exit code is 1 where a case failed."""
    from medseg.workflows.cohort import cohort

    began = time.monotonic()
    with progress_bars(quiet=quiet) as progress:
        shown = _Shown(progress, quiet=quiet)
        found = cohort(
            scans,
            output=output,
            progress=shown.progress,
            tell=shown.tell,
            say=(lambda line: None) if quiet else note_line,
            **options,
        )
    if as_json:
        print_json(found.content)
    elif quiet:
        for record in found.records.values():
            if record["status"] == "done":
                print(printable(str(output / record["label_map"])))
    else:
        _print_table(list(found.records.values()), shown.told)
        print(printable(str(output / "results.csv")))
        if found.page is not None:
            print(printable(str(found.page)))
    if not quiet:
        note_line(_summary(found.records.values(), found.again, time.monotonic() - began))
        note_line("Not a medical device.")
    return 1 if found.failed else 0


class _Shown:
    """Counts the cases of this run while they are told, for a line each."""

    def __init__(self, progress: Progress, *, quiet: bool) -> None:
        self._progress, self._quiet = progress, quiet
        self._total = 0
        self._going: set[str] = set()  # stages that are not done
        self.told: set[str] = set()

    def progress(self, stage: str, done: int, total: int) -> None:
        if stage == "cases":
            self._total = total
        elif done < total:
            self._going.add(stage)
        else:
            self._going.discard(stage)
        self._progress(stage, done, total)

    def tell(self, record: Record) -> None:
        if record["status"] == "failed":
            for stage in tuple(self._going):  # another thread may go on with the next case
                if stage.startswith(f"{record['case']}: "):
                    self.progress(stage, 0, 0)
        self.told.add(record["case"])
        place = f"[{len(self.told)}/{self._total}] {record['case']}"
        if record["status"] == "failed":
            error_line(f"{place}: {record['error']}")
        elif not self._quiet:
            seconds = sum(record["seconds"].values())
            warned = "".join(f", {remark}" for remark in _remarks(record))
            note_line(f"{place}: {seconds:.1f} s, {_volumes(record)}{warned}")


def _volumes(record: Record) -> str:
    present = {name: ml for name, ml in record["volumes_ml"].items() if ml}
    if not present:
        return "nothing found"
    if len(record["volumes_ml"]) > _COLUMNS:
        return f"{len(present)} of {len(record['volumes_ml'])} structures found"
    return ", ".join(f"{name} {ml:.2f} mL" for name, ml in present.items())


def _remarks(record: Record) -> list[str]:
    if record["status"] == "failed":
        path = record["scan"][0]["path"]
        return [record["error"].removeprefix(f"{path}: ")]
    count = len(record["warnings"])
    return [*(["1 warning" if count == 1 else f"{count} warnings"] if count else []), *_review(record)]


def _review(record: Record) -> list[str]:
    return ["to be reviewed"] if record.get("review") else []


def _print_table(records: list[Record], told: set[str]) -> None:
    """All cases, or of very many those that need a look; more than a few structures are counted."""
    names = list(dict.fromkeys(name for record in records for name in record["volumes_ml"]))
    few = len(names) <= _COLUMNS
    shown: list[Record] = records
    if len(records) > _ROWS:
        shown = [record for record in records if record["status"] == "failed" or _remarks(record)][:_ROWS]
        note_line(f"{len(records)} cases; the table has {len(shown)} that failed or have warnings, results.csv has all")
    rows = []
    for record in sorted(shown, key=lambda one: str(one["case"])):
        volumes = record["volumes_ml"]
        cells = [f"{volumes[n]:.2f}" if n in volumes else "" for n in names] if few else [_volumes(record)]
        before = record["status"] == "done" and record["case"] not in told
        seconds = sum(record["seconds"].values())
        rows.append(
            [
                record["case"],
                "done before" if before else record["status"],
                f"{seconds:.1f}" if record["seconds"] else "",
                *(cells if record["status"] == "done" else [""] * (len(names) if few else 1)),
                ", ".join(_remarks(record)),
            ]
        )
    if rows:
        volumes_of = [f"{name} mL" for name in names] if few else ["structures"]
        words = ("status", "structures", "remarks")
        print_table("", ["case", "status", "seconds", *volumes_of, "remarks"], rows, left=words)


def _summary(records: Any, again: int, seconds: float) -> str:
    failed = sum(record["status"] == "failed" for record in records)
    done = sum(record["status"] == "done" for record in records)
    review = sum(bool(record.get("review")) for record in records)
    before = f" ({again} of them before)" if again else ""
    looks = f", {review} to be reviewed" if review else ""
    return f"{done} done{before}, {failed} failed{looks}, {time_left(seconds)}"
