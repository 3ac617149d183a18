"""The label map once more as a BIDS derivative: a folder that BIDS tools take as a dataset of its own."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from medseg.core.case import case_id
from medseg.core.files import json_bytes
from medseg.core.labels import Labels
from medseg.core.provenance import versions
from medseg.io.nifti import label_map_bytes
from medseg.io.segmentation import Segmentation, Writer

_VERSION = "1.10.0"  # of the BIDS specification, whose chapter on derivatives this follows
_SUBJECT = re.compile(r"sub-[A-Za-z0-9]+")
_SESSION = re.compile(r"ses-[A-Za-z0-9]+")
_ENTITIES = re.compile(r"sub-[A-Za-z0-9]+(_[a-z]+-[A-Za-z0-9]+)*(?=_|$)")


def bids_paths(place: Path, labels: Labels) -> tuple[Path, ...]:
    """Label map, side-car and table of names: ``derivatives/medseg/sub-XX[/ses-YY]/anat/..._desc-medseg_dseg.*``.

    Subject and session are those in the scan's BIDS name or in its folders; another scan becomes a subject by its case
    id, letters and digits only. The derivatives lie beside the folder ``sub-XX``, or beside the label map.
    """
    root, entities = _root(place), _entities(place)
    parts = [part for part in entities.split("_") if part.startswith(("sub-", "ses-"))]
    stem = root.joinpath(*parts[:2], "anat", f"{entities}_desc-medseg_dseg")
    return tuple(Path(f"{stem}{suffix}") for suffix in (".nii.gz", ".json", ".tsv"))


def bids(segmentation: Segmentation) -> Mapping[Path, bytes]:
    """The three files, and ``dataset_description.json`` where the derivatives have none yet."""
    label_map, side_car, table = bids_paths(segmentation.place, segmentation.labels)
    described = {"Description": f"Segmentation by medseg, model {segmentation.algorithm}", "Manual": False}
    contents = {
        label_map: label_map_bytes(label_map, segmentation.label_map),
        side_car: json_bytes(described),
        table: _names(segmentation.labels),
    }
    description = _root(segmentation.place) / "dataset_description.json"
    return contents if description.exists() else {**contents, description: json_bytes(_dataset())}


BIDS = Writer(bids_paths, bids)


def _dataset() -> dict[str, object]:
    return {
        "Name": "medseg segmentations",
        "BIDSVersion": _VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "medseg", "Version": versions()["medseg"]}],
    }


def _names(labels: Labels) -> bytes:
    rows = [("index", "name", "color"), ("0", labels.background, "#000000")]
    rows += [(str(s.value), s.name, s.colour) for s in labels.structures]
    return "".join("\t".join(row) + "\n" for row in rows).encode("utf-8")  # BIDS knows no quotes; names hold no tabs


def _root(place: Path) -> Path:
    """``derivatives/medseg`` of the dataset that the scan lies in, else beside the label map."""
    folders = [folder for folder in place.absolute().parents if _SUBJECT.fullmatch(folder.name)]
    beside = folders[0].parent if folders else place.parent
    return beside / "derivatives" / "medseg"


def _entities(place: Path) -> str:
    """What the names of the files begin with: ``sub-XX``, and what else the scan's BIDS name says of it."""
    case = case_id(place)
    if found := _ENTITIES.match(case):
        return "_".join(part for part in found[0].split("_") if not part.startswith("desc-"))
    parts = place.absolute().parent.parts
    subject = next((part for part in reversed(parts) if _SUBJECT.fullmatch(part)), None)
    if subject is None:
        return f"sub-{_plain(case)}"
    session = [part for part in parts if _SESSION.fullmatch(part)][-1:]
    return "_".join([subject, *session, f"acq-{_plain(case)}"])


def _plain(name: str) -> str:
    """``name`` in letters and digits; where that takes something away, with a mark that keeps two names apart."""
    plain = re.sub(r"[^A-Za-z0-9]", "", name)
    return plain if plain == name else plain + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:6]
