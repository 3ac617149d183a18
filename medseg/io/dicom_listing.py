"""What is known of each series without reading its pixels: for the list that a user sees, and to choose one by it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.core.errors import DataError, MedsegError
from medseg.core.geometry import Geometry
from medseg.io.dicom_header import text, words
from medseg.io.dicom_series import Series, is_scout, placed
from medseg.io.source import shown

_LONGEST_LIST = 20


@dataclass(frozen=True)
class SeriesFacts:
    """One series of a place, under the ``number`` by which it can be chosen.

    ``size`` is (columns, rows). ``spacing_mm``, ``orientation`` (of growing column, row, slice) and ``tilt_degrees`` are None
    where the slices have no certain place; ``problem`` then is the error that reading the series would give, else empty.
    ``notes`` say what reading would set aside or assume. ``description`` is free text, which may name the patient.
    """

    number: int
    study: str
    series: str
    modality: str
    slices: int
    size: tuple[str, str]
    spacing_mm: tuple[float, float, float] | None
    orientation: str | None
    tilt_degrees: float | None
    syntaxes: tuple[str, ...]
    is_scout: bool
    problem: str
    notes: tuple[str, ...]
    description: str

    @property
    def line(self) -> str:
        """The series in a message: number, size, geometry and UID; never a description or a name."""
        spacing = " x ".join(f"{s:.4g}" for s in self.spacing_mm) + " mm" if self.spacing_mm else "spacing unknown"
        kind = ", scout or single image" if self.is_scout else ""
        return (
            f"{self.number}) {self.slices} slice(s) of {'x'.join(self.size)} pixels, {self.modality or 'modality unknown'}"
            f"{kind}, {spacing}, {self.orientation or 'orientation unknown'}, UID {self.series or 'blank'}"
        )


def facts_of(series: Series, number: int, place: Path) -> SeriesFacts:
    """What the headers of ``series`` say; nothing is raised for a series that could not be read."""
    first = series[0].dataset
    geometry: Geometry | None = None
    problem, notes = "", tuple[str, ...]()
    try:
        found = placed(series, place)
        geometry, notes = found.stack.geometry, found.notes
    except MedsegError as error:
        problem = str(error)
    sizes = Counter((words(h.dataset, "Columns")[:8], words(h.dataset, "Rows")[:8]) for h in series)
    return SeriesFacts(
        number=number,
        study=words(first, "StudyInstanceUID"),
        series=words(first, "SeriesInstanceUID"),
        modality=words(first, "Modality")[:16],
        slices=_slices(series),
        size=sizes.most_common(1)[0][0],
        spacing_mm=geometry.spacing_mm if geometry else None,
        orientation=geometry.orientation if geometry else None,
        tilt_degrees=round(geometry.shear_degrees, 1) if geometry else None,
        syntaxes=tuple(sorted({str(header.syntax.name) for header in series})),
        is_scout=is_scout(series),
        problem=problem,
        notes=notes,
        description=words(first, "SeriesDescription"),
    )


def _slices(series: Series) -> int:
    """Frames of all files; a file whose count is no number counts as one: what is wrong with it is said elsewhere."""
    total = 0
    for header in series:
        try:
            total += header.frame_count
        except DataError:
            total += 1
    return total


def chosen(series: Sequence[Series], place: Path, wanted: str | None) -> tuple[Series, list[str]]:
    """The series that ``wanted`` names by UID or number from 1; without it, the only one that is no scout. With notes.

    Raises DataError listing the series, numbered, where that is not one.
    """
    if wanted is not None:
        return _named(series, place, wanted)
    if len(series) == 1:
        return series[0], []
    volumes = [n for n, one in enumerate(series) if not is_scout(one)]
    if len(volumes) != 1:
        raise DataError(
            f"{shown(place)}: {len(series)} image series, and which one is meant cannot be told; choose one by --series NUMBER "
            f"or --series UID: {_listed(series, place)}"
        )
    scouts = [facts_of(one, n + 1, place) for n, one in enumerate(series) if n != volumes[0]]
    return series[volumes[0]], [f"set aside, scout (localizer) or single image: series {one.line}" for one in scouts]


def _named(series: Sequence[Series], place: Path, wanted: str) -> tuple[Series, list[str]]:
    uids = [text(one[0].dataset, "SeriesInstanceUID") for one in series]
    numbers = [str(n + 1) for n in range(len(series))]
    for names in (uids, numbers):
        if wanted in names:
            index = names.index(wanted)
            others = len(series) - 1
            note = f"set aside, {others} other series, because --series names number {index + 1} of {len(series)}"
            return series[index], [note] if others else []
    raise DataError(
        f"{shown(place)}: has no series of the number or UID that --series names; it has {_listed(series, place)}"
    )


def _listed(series: Sequence[Series], place: Path) -> str:
    lines = [facts_of(one, n + 1, place).line for n, one in enumerate(series[:_LONGEST_LIST])]
    more = len(series) - _LONGEST_LIST
    return "; ".join(lines) + (f"; and {more} more (medseg dicom ls shows them)" if more > 0 else "")
