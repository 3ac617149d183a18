"""Cases one after the other in this process, and on child processes once that is known to be sooner."""

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medseg.core.cores import cores
from medseg.core.errors import DataError, ResourceError
from medseg.core.geometry import Geometry
from medseg.core.labels import Labels
from medseg.core.scores import Score, ScoredCase
from medseg.core.workers import answers
from medseg.io.matching import FilePair
from medseg.io.source import shown
from medseg.metrics.case_files import CaseScores, HowToScore, read_ahead, score_files
from medseg.metrics.settings import Settings

START_SECONDS = 0.8  # until a child has imported what it needs; its core does nothing else meanwhile
LEAST_GAIN_SECONDS = 1.0
MOST_PROCESSES = 16
MOST_VOXELS = 2**30  # of all cases that are worked on at a time: some 4 bytes each

Found = Generator[tuple[FilePair, CaseScores | DataError], None, None]


def score_all(pairs: Sequence[FilePair], how: HowToScore) -> Found:
    """The scores of each of ``pairs`` in their order, or why it has none. Close the generator.

    Here the structures of a case are spread over threads while the next case is read. Where the first cases show that the
    rest takes more than a second longer than on processes of a core each, it goes there: the same scores, bit for bit.
    """
    left = deque(pairs)
    watch = Watch()
    with closing(read_ahead(_until(left, watch), how.labels)) as reading:
        for pair, prediction, reference in reading:
            try:
                found = score_files(pair, prediction.result(), reference.result(), how)
                watch.case_done(math.prod(found.grid.shape), len(left))
                yield pair, found
            except DataError as error:
                yield pair, error
            del prediction, reference  # their voxels go before the next case is read
    if left:
        yield from _in_children(list(left), how, watch.processes(len(left)))


class Watch:
    """How long cases take here, and whether children would be quicker. The first case does not count: it imports."""

    def __init__(self) -> None:
        self.cases = 0
        self.most_voxels = 1
        self.over = False

    def case_done(self, voxels: int, left: int) -> None:
        self.cases += 1
        self.most_voxels = max(self.most_voxels, voxels)
        now, cpu = time.perf_counter(), time.process_time()
        if self.cases == 1:
            self.started = now, cpu
            return
        seconds, cpu_seconds = ((b - a) / (self.cases - 1) for a, b in zip(self.started, (now, cpu), strict=True))
        slow = max(1.0, seconds / max(cpu_seconds, 1e-9))  # other programs take their share from children, too
        here, there = left * seconds, slow * (START_SECONDS + left * cpu_seconds / self.processes(left))
        self.over = bool(sys.executable) and self.processes(left) > 1 and here - there > LEAST_GAIN_SECONDS

    def processes(self, left: int) -> int:
        return max(1, min(cores(), left, MOST_PROCESSES, MOST_VOXELS // self.most_voxels))


def _until(left: deque[FilePair], watch: Watch) -> Iterator[FilePair]:
    while left and not watch.over:
        yield left.popleft()


def _in_children(pairs: Sequence[FilePair], how: HowToScore, processes: int) -> Found:
    common = {
        "labels": how.labels and how.labels.mapping(),
        "settings": asdict(how.settings),
        "open_labels": how.open_labels,
        "resample": how.resample,
        "threads": max(1, cores() // processes),
    }
    orders = [(p.id, str(p.prediction), str(p.reference), str(p.probabilities or "")) for p in pairs]
    with closing(answers(__name__, common, orders, processes=processes)) as told:
        for pair in pairs:
            try:
                answer = next(told)
            except ResourceError as error:
                raise ResourceError(f"{shown(pair.prediction)}: {error}") from None
            if isinstance(answer, Exception) and not isinstance(answer, DataError):
                raise answer
            yield pair, answer if isinstance(answer, DataError) else _from_json(pair.id, answer)


def worker(common: Mapping[str, Any]) -> Callable[[Sequence[str]], dict[str, Any]]:
    """What a child does with each order; see ``core.workers``."""
    given = dict(common["settings"])
    for name in ("metrics", "lesions"):
        given[name] = tuple(given[name])
    given["regions"] = {name: tuple(parts) for name, parts in given["regions"].items()}
    labels = common["labels"] and Labels.from_mapping(common["labels"])
    how = HowToScore(Settings(**given), labels, common["open_labels"], common["resample"])

    def score(order: Sequence[str]) -> dict[str, Any]:
        pair = FilePair(order[0], Path(order[1]), Path(order[2]), Path(order[3]) if order[3] else None)
        with closing(read_ahead([pair], how.labels)) as reading:
            _, prediction, reference = next(reading)
            found = score_files(pair, prediction.result(), reference.result(), how, threads=common["threads"])
        return {
            "case": asdict(found.case),
            "grid": [found.grid.shape, found.grid.affine.tolist()],
            "by_value": [[value, _rows(scores)] for value, scores in found.by_value.items()],
            "regions": _rows(found.regions),
            "whole": _rows(found.whole),
        }

    return score


def _rows(scores: Sequence[Score]) -> list[list[Any]]:
    return [[s.structure, s.metric, s.value, s.unit, s.state] for s in scores]


def _scores(case: str, rows: Sequence[Sequence[Any]]) -> list[Score]:
    own = sys.intern  # a thousand cases share the same few words
    return [
        Score(case, own(name), own(metric), value, own(unit), own(state)) for name, metric, value, unit, state in rows
    ]


def _from_json(case: str, answer: Mapping[str, Any]) -> CaseScores:
    told = dict(answer["case"])
    for name in ("shape", "spacing_mm", "warnings"):
        told[name] = tuple(told[name])
    shape, affine = answer["grid"]
    return CaseScores(
        ScoredCase(**told),
        Geometry(tuple(shape), affine),
        {value: _scores(case, rows) for value, rows in answer["by_value"]},
        _scores(case, answer["regions"]),
        _scores(case, answer["whole"]),
    )
