"""The structures' names and colours for ITK-SNAP (label description) and 3D Slicer (colour table), as text."""

from pathlib import Path

from medseg.core.labels import Labels, told_apart
from medseg.io.segmentation import Segmentation


def colour_table_paths(place: Path, labels: Labels) -> tuple[Path, Path]:
    """``<place>_itksnap.txt`` and ``<place>_slicer.ctbl``."""
    return Path(f"{place}_itksnap.txt"), Path(f"{place}_slicer.ctbl")


def colour_tables(segmentation: Segmentation) -> dict[Path, bytes]:
    """Both tables of the segmentation's labels, in UTF-8."""
    snap, slicer = colour_table_paths(segmentation.place, segmentation.labels)
    return {snap: itk_snap_table(segmentation.labels), slicer: slicer_table(segmentation.labels)}


def itk_snap_table(labels: Labels) -> bytes:
    """Rows of ``IDX R G B A VIS MSH "LABEL"``. A double quote in a name, which ITK-SNAP cannot hold, becomes a single one."""
    names = told_apart([name.replace('"', "'") for name in (labels.background, *labels.names)], (0, *labels.values))
    rows = [f'{0:5d} {0:5d} {0:4d} {0:4d} {0:8d} {0:2d} {0:2d}    "{names[0]}"']
    for structure, name in zip(labels.structures, names[1:], strict=True):
        red, green, blue = rgb(structure.colour)
        rows.append(f'{structure.value:5d} {red:5d} {green:4d} {blue:4d} {1:8d} {1:2d} {1:2d}    "{name}"')
    head = ["# ITK-SNAP label description: IDX R G B A VIS MSH LABEL"]
    return ("\n".join([*head, *rows]) + "\n").encode()


def slicer_table(labels: Labels) -> bytes:
    """Rows of ``index name R G B A``. White space in a name, which ends it for 3D Slicer, becomes an underscore."""
    names = told_apart(["_".join(name.split()) for name in (labels.background, *labels.names)], (0, *labels.values))
    rows = [f"0 {names[0]} 0 0 0 0"]
    for structure, name in zip(labels.structures, names[1:], strict=True):
        red, green, blue = rgb(structure.colour)
        rows.append(f"{structure.value} {name} {red} {green} {blue} 255")
    return ("\n".join(["# Color table: index name R G B A", *rows]) + "\n").encode()


def rgb(colour: str) -> tuple[int, int, int]:
    """``#D55E00`` as three numbers from 0 to 255."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return red, green, blue
