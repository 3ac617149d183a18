"""One case's probabilities against its reference."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import DataError, GeometryError
from medseg.core.files import sha256_of
from medseg.core.geometry import Geometry, order_between
from medseg.core.scores import Score
from medseg.core.volume import LabelMap, Volume
from medseg.io.probabilities import agreement, read_probabilities, values_of_channels
from medseg.io.source import shown
from medseg.metrics.calibration import CaseForecast, Forecast, box_around
from medseg.metrics.grids import described
from medseg.metrics.pairs import CasePair
from medseg.metrics.table import CASE_PROBABILITY_METRICS, PROBABILITY_METRICS

_LEAST_AGREEMENT = 0.5
_NOTED_BELOW = 0.99


@dataclass(frozen=True)
class Calibration:
    """Scores of a case's probabilities: by value, and of the whole case; nothing where none were given."""

    by_value: Mapping[int, list[Score]] = field(default_factory=dict)
    whole: tuple[Score, ...] = ()
    path: str = ""
    sha256: str = ""
    warnings: tuple[str, ...] = ()


def score_probabilities(
    case: str,
    path: Path,
    stored: tuple[LabelMap, LabelMap],
    maps: CasePair,
    names: Mapping[int, str],
    known: Sequence[int] | None,
) -> Calibration:
    """The probabilities at ``path`` against the reference: prediction and reference as ``stored``, and ``maps`` of both.

    ``names`` of the structures that either holds, by value; ``known``: the values that the channels stand for, None where they
    are their numbers. Raises GeometryError where the probabilities lie on another grid than the reference, or are not those of
    the prediction, and DataError where they are none.
    """
    prediction, reference = stored
    volume = _on_grid(path, prediction, reference.geometry)
    data = volume.data
    values = values_of_channels(len(data), known, shown(path))
    beyond = [value for value in names if value not in values]
    if beyond:
        raise DataError(
            f"{shown(path)}: of its {len(data)} channels none is that of label value {beyond[0]}; give --labels where the "
            "values are not the numbers of the channels"
        )
    same = agreement(data, maps.prediction, values)
    if same < _LEAST_AGREEMENT:
        raise GeometryError(
            f"{shown(path)}: its most probable labels and the prediction agree in {100 * same:.0f} % of what either marks: "
            "these are the probabilities of another prediction, or stored in another order of axes or labels"
        )
    found = {
        value: _structure(case, name, maps.structure(value).state, data[values.index(value)], reference, value)
        for value, name in names.items()
    }
    whole = _whole(case, data, reference, values)
    notes = [f"probabilities: {note}" for note in volume.warnings]
    if same < _NOTED_BELOW:
        notes.append(f"probabilities and prediction agree in {100 * same:.1f} % of what either marks (postprocessed?)")
    return Calibration(found, whole, shown(path), sha256_of(path), tuple(notes))


def no_forecast(case: str, structure: str) -> list[Score]:
    """The scores of a structure that a case does not hold: undefined."""
    nothing = Forecast(np.zeros(0), np.zeros(0, bool))
    return [Score(case, structure, name, m(nothing), m.unit, "both_empty") for name, m in PROBABILITY_METRICS.items()]


def _on_grid(path: Path, prediction: LabelMap, grid: Geometry) -> Volume:
    volume = read_probabilities(path, prediction)
    order = order_between(volume.geometry, grid)
    if order is None:
        raise GeometryError(
            f"{shown(path)}: lies on another grid than the reference: probabilities {described(volume.geometry)}; reference "
            f"{described(grid)}; probabilities are not resampled: write them on the reference's grid"
        )
    return volume.reordered(order)


def _structure(
    case: str, name: str, state: str, probability: npt.NDArray[Any], reference: LabelMap, value: int
) -> list[Score]:
    truth = reference.data == value
    box = box_around(truth, reference.geometry)
    cut = Forecast(np.zeros(0), np.zeros(0, bool)) if box is None else Forecast(probability[box], truth[box])
    return [Score(case, name, metric, m(cut), m.unit, state) for metric, m in PROBABILITY_METRICS.items()]


def _whole(case: str, data: npt.NDArray[Any], reference: LabelMap, values: Iterable[int]) -> tuple[Score, ...]:
    box = box_around(reference.data != 0, reference.geometry)
    cut = CaseForecast(np.zeros((1, 0)), np.zeros(0, int))
    if box is not None:
        inside = reference.data[box]
        channels = np.zeros(inside.shape, np.intp)
        for channel, value in enumerate(values):
            channels[inside == value] = channel
        cut = CaseForecast(data[(slice(None), *box)], channels)
    return tuple(Score(case, "", metric, m(cut), m.unit) for metric, m in CASE_PROBABILITY_METRICS.items())
