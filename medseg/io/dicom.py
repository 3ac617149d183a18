"""One CT, MR or PET series from a DICOM folder to a volume; what cannot be placed with certainty is refused by name."""

from dataclasses import dataclass, replace
from pathlib import Path

from medseg.core.memory import check_scan_room
from medseg.core.quiet import quiet
from medseg.core.volume import Volume
from medseg.io.dicom_fill import filled_in
from medseg.io.dicom_header import text
from medseg.io.dicom_listing import SeriesFacts, chosen, facts_of
from medseg.io.dicom_pixels import check_voxels, read_intensities
from medseg.io.dicom_series import check_no_end_slice, placed, series_in
from medseg.io.dicom_survey import survey
from medseg.io.scan import DEFAULTS, ReadOptions, Scan
from medseg.io.source import shown


def read_dicom(place: Path, options: ReadOptions = DEFAULTS) -> Scan:
    """One image series at ``place`` as a volume: a folder (searched through all levels), a multi-frame file, a DICOMDIR.

    ``data`` is (1, I, J, K): i along the columns, j along the rows, k along the slice normal, ascending; each slice's
    own rescale is applied (int16 or int32 where slopes and intercepts are whole numbers, else float32). World is RAS+
    mm; where the gantry was tilted, the axes are sheared. Order and spacing come from the positions on the slice normal
    only. ``warnings`` has a line for everything set aside: scouts, reports, other objects, copies, files that are not
    DICOM; and for what was filled in.

    Raises DataError or GeometryError for whatever has no certain place or value: see the policy on bad input.
    """
    with quiet():  # pydicom warns about what is refused here by name, or is harmless
        found = survey(place)
        found.check_images()
        everything = series_in(found.images)
        series, aside = chosen(everything, found.place, options.series)
        ready = placed(series, found.place, options.on_gap)
        stack = ready.stack
        if options.series is None:
            check_no_end_slice(stack, [one for one in everything if one is not series], found.place)
        check_voxels(stack.geometry.shape, found.place, options.max_voxels)
        # Of the types that `read_intensities` chooses from, the one that most scans get.
        check_scan_room(shown(found.place), stack.geometry.shape, 1, stored=2, converted=False, most=options.max_memory)
        data = read_intensities(stack.frames, place=found.place)
    planes = stack.geometry.shape[2]
    if stack.is_filled:
        data = filled_in(data, stack.levels, planes)
    said = (*found.notes, *aside, *ready.notes)
    volume = Volume(data.transpose(2, 1, 0)[None], stack.geometry, said, text(series[0].dataset, "Modality"))
    lying = [(frame, int(level)) for frame, level in zip(stack.frames, stack.levels, strict=True) if level % 1 == 0]
    return Scan(volume, tuple(frame for frame, _ in lying), tuple(plane for _, plane in lying))


@dataclass(frozen=True)
class Listing:
    """Every image ``series`` at a place; ``aside`` says what is no image, ``broken`` what is DICOM but damaged."""

    series: tuple[SeriesFacts, ...]
    aside: tuple[str, ...]
    broken: tuple[str, ...]


def list_dicom(place: Path) -> Listing:
    """What ``read_dicom`` would find at ``place``, from the headers alone. Raises DataError if the place cannot be read.

    A damaged file is the problem of every series, because it may be a slice of any.
    """
    with quiet():
        found = survey(place)
        series = [facts_of(one, n + 1, found.place) for n, one in enumerate(series_in(found.images))]
    broken = tuple(str(error) for error in found.broken)
    if broken:
        series = [replace(one, problem=broken[0]) for one in series]
    return Listing(tuple(series), found.notes, broken)
