import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import slicerio

from medseg.core.errors import DataError, GeometryError
from medseg.core.geometry import Geometry
from medseg.core.labels import Labels
from medseg.core.terminology import concept_of
from medseg.core.volume import LabelMap
from medseg.io import seg_nrrd as module
from medseg.io.reading import read_label_map
from medseg.io.seg_nrrd import label_names_from_nrrd, seg_nrrd, seg_nrrd_bytes
from tests.io.segmented import LABELS, OBLIQUE, segmentation, written

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SMALL = Labels.from_mapping({"background": 0, "liver": 1, "C:\\tumour | «x»": 2, "empty": 7})


@pytest.fixture(params=[LABELS, SMALL], ids=["uint16", "uint8"])
def case(request, tmp_path):
    found = segmentation(tmp_path / "ct_seg", request.param)
    (path,) = written(seg_nrrd(found))
    assert path == tmp_path / "ct_seg.seg.nrrd"
    return found, path


def test_slicerio_reads_the_same_voxels_grid_names_and_colours(case):
    found, path = case
    read = slicerio.read_segmentation(str(path))
    np.testing.assert_array_equal(read["voxels"], found.label_map.data)
    np.testing.assert_allclose(LPS_TO_RAS @ read["ijkToLPS"], OBLIQUE, atol=1e-12)
    assert [s["labelValue"] for s in read["segments"]] == list(found.labels.values)
    assert {s["layer"] for s in read["segments"]} == {0}
    assert len({s["id"] for s in read["segments"]}) == len(found.labels.values)
    if found.labels is LABELS:
        assert [s["name"] for s in read["segments"]] == list(LABELS.names)
    for segment, structure in zip(read["segments"], found.labels.structures, strict=True):
        expected = [int(structure.colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        np.testing.assert_allclose(segment["color"], expected, atol=1e-5)


def test_slicerio_reads_what_each_segment_is(case):
    found, path = case
    for segment, structure in zip(
        slicerio.read_segmentation(str(path))["segments"], found.labels.structures, strict=True
    ):
        concept = concept_of(structure)
        said = segment["terminology"]
        assert said["category"] == ["SCT", concept.category.value, concept.category.meaning]
        assert said["type"][:2] == [concept.type.scheme, concept.type.value]
        side = {"left": ["SCT", "7771000", "Left"]}.get(concept.side)
        assert said.get("typeModifier") == side


def test_simpleitk_and_our_reader_put_every_voxel_where_it_was(case):
    found, path = case
    image = SimpleITK.ReadImage(str(path))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image).T, found.label_map.data)
    for index in ((0, 0, 0), (12, 3, 6), (1, 10, 2)):
        world = nib.affines.apply_affine(LPS_TO_RAS @ OBLIQUE, index)
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(index), world, atol=1e-5)
    ours = read_label_map(path)
    np.testing.assert_array_equal(ours.data, found.label_map.data)
    assert ours.geometry.matches(found.label_map.geometry, 1e-6)


def test_the_names_in_the_header_are_known_again(case):
    found, path = case
    assert label_names_from_nrrd(path) == {s.name: s.value for s in found.labels.structures}


def test_segments_in_several_layers_have_no_names_of_their_own(tmp_path):
    (path,) = written(seg_nrrd(segmentation(tmp_path / "x")))
    path.write_bytes(path.read_bytes().replace(b"Segment1_Layer:=0", b"Segment1_Layer:=1"))
    assert label_names_from_nrrd(path) is None


def test_a_sheared_grid_is_refused(tmp_path):
    affine = OBLIQUE.copy()
    affine[:3, 2] += 0.3 * affine[:3, 1]
    with pytest.raises(GeometryError, match=r"right angle by .* degrees .*--seg-nrrd"):
        seg_nrrd(segmentation(tmp_path / "x", affine=affine))


def test_what_does_not_read_back_equal_is_not_written(tmp_path, monkeypatch):
    data = np.zeros((3, 4, 5), np.uint8)
    data[1, 2, 3] = 1
    pack = module.igzip.compress
    monkeypatch.setattr(module.igzip, "compress", lambda voxels, *a, **k: pack(np.flip(voxels, 0).copy(), *a, **k))
    with pytest.raises(DataError, match=r"x\.seg\.nrrd: .*not read back equal"):
        seg_nrrd_bytes(tmp_path / "x.seg.nrrd", LabelMap(data, Geometry(data.shape, np.eye(4))), SMALL)
