"""WRITERS: what may stand beside the label map. A new output is one file and one line in the table."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from medseg.core.errors import ConfigError, OutputError
from medseg.core.files import is_there
from medseg.core.labels import Labels
from medseg.io.bids import BIDS
from medseg.io.colour_tables import colour_table_paths, colour_tables
from medseg.io.dicom_seg import check_dicom, dicom_seg, dicom_seg_paths, dicom_seg_remarks
from medseg.io.mesh import mesh_writers
from medseg.io.nifti import label_map_bytes
from medseg.io.palette_png import PALETTE_PNG, palette_png_files
from medseg.io.recorded import ENTROPY, PROBABILITIES
from medseg.io.rtstruct import RTSTRUCT
from medseg.io.seg_nrrd import check_upright, seg_nrrd, seg_nrrd_paths
from medseg.io.segmentation import Segmentation, Writer
from medseg.io.separate import mask_paths, masks
from medseg.io.stats import statistics, statistics_paths

__all__ = ["WRITERS", "Segmentation", "Writer", "check_apart", "check_free", "label_map_file", "writers_of"]

WRITERS: dict[str, Writer] = {
    "dicom-seg": Writer(dicom_seg_paths, dicom_seg, check=check_dicom, remarks=dicom_seg_remarks),
    "seg-nrrd": Writer(seg_nrrd_paths, seg_nrrd, check=check_upright),
    "separate": Writer(mask_paths, masks),
    "stats": Writer(statistics_paths, statistics),
    "colour-tables": Writer(colour_table_paths, colour_tables),
    "palette-png": PALETTE_PNG,
    "rtstruct": RTSTRUCT,
    **mesh_writers(),
    "bids": BIDS,
    "probabilities": PROBABILITIES,
    "entropy": ENTROPY,
}


def label_map_file(target: Path, segmentation: Segmentation) -> bytes:
    """The content of the label map itself: a palette PNG where ``target`` says so, else NIfTI."""
    if target.name.lower().endswith(".png"):
        (content,) = palette_png_files(segmentation).values()
        return content
    return label_map_bytes(target, segmentation.label_map)


def writers_of(names: Sequence[str], table: Mapping[str, Writer] = WRITERS) -> dict[str, Writer]:
    """The entries of ``table`` called ``names``. Raises ConfigError for a name that is none of them."""
    for name in names:
        if name not in table:
            raise ConfigError(f"output {name!r} is unknown; choose from {', '.join(table)}")
    return {name: table[name] for name in names}


def check_apart(writers: Mapping[str, Writer], places: Sequence[Path], labels: Labels) -> None:
    """Raise ConfigError where two of ``places`` would make ``writers`` write the same file: one would replace the other."""
    taken: dict[Path, Path] = {}
    for place in places:
        for path in (path for writer in writers.values() for path in writer.paths(place, labels)):
            if path in taken:
                raise ConfigError(
                    f"{taken[path]} and {place} would both write {path}; run them with different --output, or rename one"
                )
            taken[path] = place


def check_free(writers: Mapping[str, Writer], place: Path, labels: Labels, *, force: bool) -> None:
    """Raise OutputError where something that ``writers`` would write exists, unless ``force``; folders are never replaced."""
    for writer in writers.values():
        for path in writer.paths(place, labels):
            if path.is_dir():
                raise OutputError(f"{path}: is a folder; choose another --output")
            if is_there(path) and not force:
                raise OutputError(f"{path}: exists already; overwrite it with --force, or choose another --output")
