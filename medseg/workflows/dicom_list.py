"""Dicom ls: the studies and series of a place, with their geometry and what is wrong with them, from headers alone."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.core.errors import DataError
from medseg.io.archive import is_archive, unpacked
from medseg.io.source import shown

if TYPE_CHECKING:
    from medseg.io.dicom import Listing
    from medseg.io.dicom_listing import SeriesFacts


def dicom_list(place: Path | str) -> "Listing":
    """Every CT, MR and PET series at ``place``: a folder with all below it, a file, a DICOMDIR, or a zip archive.

    Raises DataError if the place cannot be read, or holds neither such a series nor a damaged DICOM file.
    """
    from medseg.io.dicom import list_dicom

    place = Path(place)
    if is_archive(place):
        with unpacked(place) as inner, inner.named():
            listing = list_dicom(inner.path)
            told = inner.told
        listing = replace(
            listing,
            series=tuple(_told(one, told) for one in listing.series),
            aside=(*inner.notes, *map(told, listing.aside)),
            broken=tuple(map(told, listing.broken)),
        )
    else:
        listing = list_dicom(place)
    if not listing.series and not listing.broken:
        what = "; ".join(listing.aside) or "it is empty"
        raise DataError(f"{shown(place)}: no CT, MR or PET image with pixel data found by DICOM class ({what})")
    return listing


def _told(series: "SeriesFacts", told: Any) -> "SeriesFacts":
    return replace(series, problem=told(series.problem), notes=tuple(map(told, series.notes)))


def as_json(listing: "Listing", *, descriptions: bool) -> dict[str, Any]:
    """``listing`` for a program; free text, which may name a patient, only with ``descriptions``."""
    studies: dict[str, list[dict[str, Any]]] = {}
    for one in listing.series:
        facts = asdict(one) | {"size": [int(n) if n.isdecimal() else None for n in one.size]}
        if not descriptions:
            del facts["description"]
        studies.setdefault(facts.pop("study"), []).append(facts)
    return {
        "studies": [{"study": study, "series": series} for study, series in studies.items()],
        "set_aside": list(listing.aside),
        "damaged": list(listing.broken),
    }
