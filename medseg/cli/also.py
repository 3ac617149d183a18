"""The options of `medseg infer` that name what else is written: one for each entry of ``workflows.infer_case.OUTPUTS``."""

from typing import Annotated, Any, Literal

import typer

_PANEL = "Also written"


def _flag(*names: str, help: str) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=_PANEL)


Preview = Annotated[
    bool,
    _flag(
        "--preview",
        help="A picture of the result, in preview/. Of many scans also results.html, a page with all pictures.",
    ),
]
Stats = Annotated[bool, _flag("--stats", help="Volume, intensities and place of each structure (.json, .csv).")]
Separate = Annotated[bool, _flag("--separate", help="One mask per structure, in a folder.")]
DicomSeg = Annotated[bool, _flag("--dicom-seg", help="A DICOM SEG (of a DICOM scan).")]
Rtstruct = Annotated[bool, _flag("--rtstruct", help="A DICOM RT structure set: contours on a DICOM series.")]
SegNrrd = Annotated[bool, _flag("--seg-nrrd", help="A 3D Slicer segmentation (.seg.nrrd).")]
Mesh = Annotated[
    Literal["stl", "ply", "glb"] | None,
    _flag("--mesh", help="Surfaces in mm: one STL or PLY per structure, or one GLB scene."),
]
MeshSpace = Annotated[Literal["ras", "lps"], _flag("--mesh-space", help="The axes in which the surfaces' mm count.")]
Bids = Annotated[bool, _flag("--bids", help="A BIDS derivative, under derivatives/medseg.")]
ColourTables = Annotated[
    bool, _flag("--colour-tables", "--color-tables", help="Label colours for ITK-SNAP and 3D Slicer.")
]
PalettePng = Annotated[bool, _flag("--palette-png", help="A PNG in the structures' colours (2D pictures only).")]
SaveProbabilities = Annotated[
    bool, _flag("--save-probabilities", help="A probability map of each label, in probabilities/.")
]
SaveEntropy = Annotated[bool, _flag("--save-entropy", help="How uncertain each voxel is (0 to 1), in entropy/.")]
