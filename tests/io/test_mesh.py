"""Surfaces: closed, turned outward, where the mask is, on any grid; read back by trimesh."""

import json
import struct
from io import BytesIO

import nibabel as nib
import numpy as np
import pytest
import trimesh

from medseg.core.boxes import boxes_of
from medseg.core.errors import OutputError
from medseg.core.geometry import Geometry, all_storage_orders
from medseg.core.labels import Labels
from medseg.core.volume import LabelMap, Volume
from medseg.io import mesh as mesh_module
from medseg.io.mesh import surface
from medseg.io.outputs import WRITERS
from medseg.io.scan import Scan
from medseg.io.segmentation import Segmentation
from tests.io.segmented import segmentation

LABELS = Labels.from_mapping({"background": 0, "liver": 1, "kidney_left": 2, "lost": 5})
CENTRE, RADIUS_MM = np.array([31.0, -12.0, 405.0]), 20.0
TURN = nib.eulerangles.euler2mat(0.5, -0.4, 0.3)
SHEAR = np.array([[1, 0.1, 0.0], [0, 1, 0.25], [0, 0, 1]])
GRIDS = {
    "oblique": TURN @ np.diag([0.8, 1.1, 2.0]),
    "reflected": TURN @ np.diag([-0.8, 1.1, 2.0]),
    "sheared": TURN @ SHEAR @ np.diag([0.8, 1.1, -2.0]),
}


def sphere(matrix: np.ndarray, value: int = 1) -> LabelMap:
    """A ball of RADIUS_MM around CENTRE, in the world, on a grid with ``matrix`` as its axes."""
    shape = (72, 64, 36)
    affine = nib.affines.from_matvec(matrix, CENTRE - matrix @ ((np.array(shape) - 1) / 2 + [0.3, -0.2, 0.4]))
    geometry = Geometry(shape, affine)
    places = geometry.to_world(np.moveaxis(np.indices(shape), 0, -1))
    return LabelMap((np.linalg.norm(places - CENTRE, axis=-1) < RADIUS_MM).astype(np.uint8) * value, geometry)


def of_structure(label_map: LabelMap, space: str) -> tuple[np.ndarray, np.ndarray]:
    return surface(label_map, 1, boxes_of(label_map.data)[1], space)


def of(label_map: LabelMap, place) -> Segmentation:
    scan = Scan(Volume(np.zeros((1, *label_map.data.shape), np.int16), label_map.geometry))
    return Segmentation(label_map, LABELS, scan, place, "tiny")


@pytest.mark.parametrize("matrix", GRIDS.values(), ids=list(GRIDS))
@pytest.mark.parametrize("order", all_storage_orders()[::11])
@pytest.mark.parametrize("space", ["RAS", "LPS"])
def test_the_surface_of_a_ball_is_closed_outward_and_where_the_ball_is(matrix, order, space):
    stored = sphere(matrix)
    ball = trimesh.Trimesh(*of_structure(stored.reordered(order), space), process=False)
    voxels_ml = np.count_nonzero(stored.data) * stored.geometry.voxel_volume_ml
    assert ball.is_watertight
    assert ball.is_winding_consistent
    assert ball.volume / 1000 == pytest.approx(voxels_ml, rel=0.03)  # positive: the triangles face outward
    expected = stored.geometry.to_world(np.argwhere(stored.data).mean(axis=0))
    assert np.abs(ball.center_mass * ([-1, -1, 1] if space == "LPS" else [1, 1, 1]) - expected).max() < 0.1
    assert ball.volume / 1000 == pytest.approx(4 / 3 * np.pi * (RADIUS_MM / 10) ** 3, rel=0.03)


def test_a_structure_at_the_border_of_the_scan_is_closed_too():
    data = np.ones((4, 5, 6), np.uint8)
    whole = trimesh.Trimesh(*of_structure(LabelMap(data, Geometry(data.shape, np.eye(4))), "RAS"), process=False)
    assert whole.is_watertight
    np.testing.assert_allclose(whole.bounds, [[-0.5, -0.5, -0.5], [3.5, 4.5, 5.5]])


@pytest.mark.parametrize("seed", range(5))
def test_scattered_voxels_that_touch_at_edges_and_corners_are_closed(seed, tmp_path):
    data = (np.random.default_rng(seed).random((9, 8, 7)) < 0.4).astype(np.uint8)
    label_map = LabelMap(data, Geometry(data.shape, np.diag([1.0, 2.0, -3.0, 1.0])))
    found = trimesh.Trimesh(*of_structure(label_map, "RAS"), process=False)
    assert found.is_watertight
    assert found.is_winding_consistent
    assert found.volume > 0
    assert WRITERS["mesh-stl"].contents(of(label_map, tmp_path / "ct_seg"))


def loaded(content: bytes, kind: str) -> trimesh.Trimesh:
    return trimesh.load(BytesIO(content), file_type=kind, process=True)


@pytest.mark.parametrize("kind", ["stl", "ply"])
@pytest.mark.parametrize("space", ["RAS", "LPS"])
def test_there_is_a_file_for_each_structure_that_says_its_space(kind, space, tmp_path):
    made = of(sphere(GRIDS["reflected"]), tmp_path / "ct_seg")
    writer = WRITERS[f"mesh-{kind}" if space == "RAS" else f"mesh-{kind}-lps"]
    contents = writer.contents(made)
    assert [path.name for path in contents] == [f"liver.{kind}", f"kidney_left.{kind}", f"lost.{kind}"]
    assert {path.parent for path in contents} == {tmp_path / "ct_seg_mesh"}
    full, empty, _ = contents.values()
    assert f"SPACE={space}; unit=mm; medseg liver".encode() in full[:200]
    ball = loaded(full, kind)
    assert ball.is_watertight
    centre = CENTRE * ([-1, -1, 1] if space == "LPS" else [1, 1, 1])
    assert np.abs(ball.center_mass - centre).max() < 0.5
    if kind == "ply":
        assert ball.visual.vertex_colors[0].tolist() == [0xD5, 0x5E, 0x00, 255]
        assert b"element vertex 0\n" in empty
    else:
        assert not full.startswith(b"solid")
        assert len(empty) == 84
        assert struct.unpack("<I", full[80:84])[0] == len(ball.faces)
    assert writer.remarks(made) == ["mesh: kidney_left, lost without a surface, no voxel found"]


def test_a_scene_holds_named_and_coloured_structures_and_says_its_space(tmp_path):
    label_map = sphere(GRIDS["oblique"])
    label_map.data[2:6, 2:6, 2:6] = 2
    made = of(label_map, tmp_path / "ct_seg")
    ((path, content),) = WRITERS["mesh-glb-lps"].contents(made).items()
    assert path == tmp_path / "ct_seg.glb"
    scene = trimesh.load(BytesIO(content), file_type="glb")
    assert set(scene.geometry) == {"liver", "kidney_left"}
    assert np.abs(scene.geometry["liver"].center_mass - CENTRE * [-1, -1, 1]).max() < 0.5
    header = json.loads(content[20 : 20 + int.from_bytes(content[12:16], "little")])
    assert header["scenes"][0]["extras"] == {"space": "LPS", "unit": "mm", "generator": "medseg"}
    red, green, blue, _ = header["materials"][0]["pbrMetallicRoughness"]["baseColorFactor"]
    # Linear light: 0xD5 of 255 in sRGB is 0.665, 0x5E is 0.112, within the steps of 1/255 that are stored.
    assert (red, green, blue) == pytest.approx((0.665, 0.112, 0.0), abs=0.004)


def test_a_surface_that_does_not_fit_its_mask_is_an_error(tmp_path, monkeypatch):
    right = mesh_module.surface

    def wrong(*arguments):
        points, triangles = right(*arguments)
        return points + 0.5, triangles

    monkeypatch.setattr(mesh_module, "surface", wrong)
    with pytest.raises(OutputError, match="does not end at the faces of its mask"):
        WRITERS["mesh-stl"].contents(segmentation(tmp_path / "ct_seg"))
