"""Surfaces of structures as STL, PLY or GLB, in millimetres of the patient's space. The only door to trimesh, and in io to skimage.

The surface is where the mask, taken as 0 and 1 at the voxels' centres, is one half (marching cubes): closed, also where a
structure ends at the border of the scan, through the full affine, triangles turned outward. It cuts the corners of
voxels, so that its volume is a little less than theirs; nothing is smoothed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from medseg.core.boxes import Box, boxes_of
from medseg.core.errors import OutputError
from medseg.core.labels import Labels, Structure
from medseg.core.text import printable
from medseg.core.volume import LabelMap
from medseg.io.colour_tables import rgb
from medseg.io.segmentation import Segmentation, Writer
from medseg.io.separate import file_names
from medseg.io.source import shown

if TYPE_CHECKING:
    from trimesh import Trimesh

Space = Literal["RAS", "LPS"]
Points = npt.NDArray[np.float64]
_STL_HEADER_BYTES = 80
_OFF_VOXELS = 1e-3


def mesh_writers() -> dict[str, Writer]:
    """``mesh-stl``, ``mesh-ply`` and ``mesh-glb``, and the same with ``-lps`` for the space in which DICOM counts."""
    formats: dict[str, tuple[Any, Callable[[Segmentation, Space], Mapping[Path, bytes]]]] = {
        "stl": (partial(_paths, "stl"), _stl),
        "ply": (partial(_paths, "ply"), _ply),
        "glb": (_glb_path, _glb),
    }
    spaces: tuple[tuple[str, Space], ...] = (("", "RAS"), ("-lps", "LPS"))
    return {
        f"mesh-{name}{suffix}": Writer(paths, partial(_in_space, contents, space), remarks=_remarks)
        for name, (paths, contents) in formats.items()
        for suffix, space in spaces
    }


def surface(label_map: LabelMap, value: int, box: Box, space: Space) -> tuple[Points, npt.NDArray[np.int64]]:
    """Corners (n, 3) in mm and triangles (m, 3), counter-clockwise from outside; the structure lies in ``box``."""
    from skimage.measure import marching_cubes

    mask = label_map.data[box] == value
    # Not by Lewiner's table: where voxels touch along an edge only, its surfaces share that edge and are not manifold.
    corners, triangles, _, _ = marching_cubes(np.pad(mask, 1).astype(np.float32), 0.5, method="lorensen")
    points = label_map.geometry.to_world(corners + [side.start - 1.0 for side in box])
    if space == "LPS":
        points = points * [-1.0, -1.0, 1.0]
    a, b, c = (points[triangles[:, n]] - points.mean(axis=0) for n in range(3))
    outward = float(np.einsum("ij,ij->", a, np.cross(b, c))) > 0  # six times the volume inside
    return points, np.asarray(triangles if outward else triangles[:, ::-1], np.int64)


def _in_space(
    contents: Callable[[Segmentation, Space], Mapping[Path, bytes]], space: Space, segmentation: Segmentation
) -> Mapping[Path, bytes]:
    """The surface of each structure, in millimetres of RAS, or of LPS where the name ends so."""
    return contents(segmentation, space)


def _remarks(segmentation: Segmentation) -> Sequence[str]:
    boxes = boxes_of(segmentation.label_map.data)
    empty = [s.name for s in segmentation.labels.structures if s.value not in boxes]
    return [f"mesh: {', '.join(empty)} without a surface, no voxel found"] if empty else []


def _paths(suffix: str, place: Path, labels: Labels) -> tuple[Path, ...]:
    """``<place>_mesh/<structure>.<suffix>`` for each structure."""
    return tuple(Path(f"{place}_mesh") / f"{name}.{suffix}" for name in file_names(labels))


def _glb_path(place: Path, labels: Labels) -> tuple[Path, ...]:
    return (Path(f"{place}.glb"),)


def _meshes(segmentation: Segmentation, space: Space) -> Iterator[tuple[Structure, "Trimesh"]]:
    """The checked surface of each structure, empty where it has no voxel."""
    from trimesh import Trimesh

    boxes = boxes_of(segmentation.label_map.data)
    for structure in segmentation.labels.structures:
        box = boxes.get(structure.value)
        if box is None:
            yield structure, Trimesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64), process=False, validate=False)
            continue
        points, triangles = surface(segmentation.label_map, structure.value, box, space)
        mesh = Trimesh(points, triangles, process=False, validate=False)
        _check(segmentation, structure, box, mesh, space)
        yield structure, mesh


def _check(segmentation: Segmentation, structure: Structure, box: Box, mesh: "Trimesh", space: Space) -> None:
    """Raise OutputError unless ``mesh`` is closed and ends where the voxels of ``structure``, inside ``box``, end."""
    points = mesh.vertices * ([-1.0, -1.0, 1.0] if space == "LPS" else [1.0, 1.0, 1.0])
    found = segmentation.label_map.geometry.to_voxel(points)
    low, high = ([getattr(side, end) for side in box] for end in ("start", "stop"))
    faces = np.abs([found.min(axis=0) - low + 0.5, found.max(axis=0) - high + 0.5])
    if not mesh.is_watertight or faces.max() > _OFF_VOXELS:
        raise OutputError(
            f"{shown(segmentation.place)}: the surface of {printable(structure.name)} is not closed, or does not end at the "
            f"faces of its mask (off by {faces.max():.3g} voxels); no mesh is written: report it, and leave out --mesh"
        )


def _said(structure: str, space: Space) -> str:
    """What a file says of itself; ``SPACE=`` is how 3D Slicer tells RAS from LPS, and it comes first where room is short."""
    return f"SPACE={space}; unit=mm; medseg {printable(structure)}"


def _stl(segmentation: Segmentation, space: Space) -> dict[Path, bytes]:
    """One binary STL for each structure; without triangles where it has no voxel."""
    from trimesh.exchange.stl import export_stl

    paths = _paths("stl", segmentation.place, segmentation.labels)
    contents = {}
    for path, (structure, mesh) in zip(paths, _meshes(segmentation, space), strict=True):
        header = _said(structure.name, space).encode("ascii", "replace")[:_STL_HEADER_BYTES]
        made = export_stl(mesh)
        contents[path] = header.ljust(_STL_HEADER_BYTES) + made[_STL_HEADER_BYTES:]
    return contents


def _ply(segmentation: Segmentation, space: Space) -> dict[Path, bytes]:
    """One binary PLY for each structure, in its colour; without triangles where it has no voxel."""
    from trimesh.exchange.ply import export_ply

    paths = _paths("ply", segmentation.place, segmentation.labels)
    contents = {}
    for path, (structure, mesh) in zip(paths, _meshes(segmentation, space), strict=True):
        if len(mesh.vertices):
            mesh.visual.vertex_colors = [*rgb(structure.colour), 255]
        head, _, body = export_ply(mesh).partition(b"end_header\n")
        lines = [line for line in head.split(b"\n") if not line.startswith(b"comment")]
        lines.insert(2, b"comment " + _said(structure.name, space).encode("utf-8"))
        contents[path] = b"\n".join(lines) + b"end_header\n" + body
    return contents


def _glb(segmentation: Segmentation, space: Space) -> dict[Path, bytes]:
    """One binary glTF scene: a named node for each structure that has voxels, space and unit in the scene's extras."""
    from trimesh import Scene
    from trimesh.exchange.gltf import export_glb
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    scene = Scene()
    for name, (structure, mesh) in zip(file_names(segmentation.labels), _meshes(segmentation, space), strict=True):
        if not len(mesh.vertices):
            continue
        colour = [_linear(part) for part in rgb(structure.colour)]
        mesh.visual = TextureVisuals(
            material=PBRMaterial(name=name, baseColorFactor=[*colour, 1.0], roughnessFactor=0.8)
        )
        mesh.metadata = {"structure": structure.name, "value": structure.value}
        scene.add_geometry(mesh, node_name=name, geom_name=name)
    scene.metadata = {"space": space, "unit": "mm", "generator": "medseg"}
    (path,) = _glb_path(segmentation.place, segmentation.labels)
    return {path: export_glb(scene)}


def _linear(part: int) -> float:
    """An sRGB component from 0 to 255 as the linear one from 0 to 1 that glTF wants (IEC 61966-2-1)."""
    x = part / 255
    return x / 12.92 if x <= 0.04045 else float(((x + 0.055) / 1.055) ** 2.4)
