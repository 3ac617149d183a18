import csv
import json
import re
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from medseg.core.files import write_together
from medseg.core.labels import PALETTE, Labels
from medseg.core.volume import Volume
from medseg.io.colour_tables import colour_tables, itk_snap_table, slicer_table
from medseg.io.outputs import WRITERS
from medseg.io.scan import Scan
from medseg.io.separate import file_names, masks
from medseg.io.stats import statistics
from medseg.io.tables import read_labels
from tests.io.segmented import LABELS, OBLIQUE, segmentation, written

ODD = Labels.from_mapping(
    {"background": 0, "Leber / Läsion": 1, "leber_lasion": 2, "肝臓": 3, "aux": 4, '../"x"': 5, "left  kidney": 6}
)
NEED_DICOM = {"dicom-seg", "rtstruct"}


NEED_A_PICTURE = {"palette-png"}
NEED_A_NETWORK = {"probabilities", "entropy"}


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in NEED_DICOM | NEED_A_PICTURE | NEED_A_NETWORK])
def test_every_writer_writes_the_files_it_announced_and_the_same_bytes_again(tmp_path, name):
    found = segmentation(tmp_path / "ct_seg")
    writer = WRITERS[name]
    writer.check(found.scan)
    contents = writer.contents(found)
    own = [path for path in contents if path.name != "dataset_description.json"]  # which many cases share
    assert own == list(writer.paths(found.place, found.labels))
    assert all(str(path).startswith(str(found.place)) for path in own) or name == "bids"
    assert contents == writer.contents(found)
    write_together(contents)


@pytest.mark.parametrize("labels", [LABELS, ODD], ids=["plain", "odd"])
def test_colour_tables_are_read_back_to_the_same_values_and_colours(tmp_path, labels):
    for path in written(colour_tables(segmentation(tmp_path / "ct_seg", labels))):
        found = read_labels(path)
        assert found.values == labels.values
        assert [s.colour for s in found.structures] == list(PALETTE[: len(labels.values)])
        if labels is LABELS:
            assert found == labels


def test_names_that_a_table_cannot_hold_are_changed_as_little_as_possible():
    snap, slicer = itk_snap_table(ODD).decode(), slicer_table(ODD).decode()
    assert re.findall(r'"(.*)"\n', snap)[1:] == [*ODD.names[:4], "../'x'", "left  kidney"]
    assert "6 left_kidney " in slicer


def test_names_of_files_are_safe_and_told_apart():
    assert file_names(LABELS) == LABELS.names
    names = file_names(ODD)
    assert names == ("Leber_Lasion_1", "leber_lasion_2", "structure", "structure_aux", "x", "left_kidney")
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) for name in names)


def test_there_is_a_mask_for_each_structure_on_the_scans_grid(tmp_path):
    found = segmentation(tmp_path / "ct_seg")
    paths = written(masks(found))
    assert [path.name for path in paths] == [f"{name}.nii.gz" for name in LABELS.names]
    for path, value in zip(paths, LABELS.values, strict=True):
        image = nib.load(path)
        assert image.get_data_dtype() == np.uint8
        np.testing.assert_allclose(image.affine, OBLIQUE, atol=1e-4)
        np.testing.assert_array_equal(np.asarray(image.dataobj), found.label_map.data == value)


def test_statistics_hold_the_same_figures_in_both_files_and_null_for_what_is_not_there(tmp_path):
    found = segmentation(tmp_path / "ct_seg")
    as_json, as_csv = written(statistics(found))
    records = json.loads(as_json.read_text())["structures"]
    rows = list(csv.DictReader(as_csv.read_text().splitlines()))
    assert [r["structure"] for r in records] == [r["structure"] for r in rows] == list(LABELS.names)
    voxel_ml = abs(np.linalg.det(OBLIQUE[:3, :3])) / 1000
    for record, row in zip(records, rows, strict=True):
        mask = found.label_map.data == record["value"]
        assert record["voxels"] == int(row["voxels"]) == mask.sum()
        assert record["volume_ml"] == pytest.approx(mask.sum() * voxel_ml, abs=1e-6)
        if not mask.any():
            continue
        inside = found.scan.volume.data[0][mask]
        assert record["intensities"][0]["mean"] == pytest.approx(inside.mean(), abs=1e-5) == float(row["mean"])
        assert record["intensities"][0]["sd"] == pytest.approx(inside.std(), abs=1e-5)
        centre = nib.affines.apply_affine(OBLIQUE, np.argwhere(mask).mean(axis=0))
        np.testing.assert_allclose(record["centroid_mm"], centre, atol=1e-4)
        np.testing.assert_allclose([float(row[f"centroid_{a}_mm"]) for a in "xyz"], centre, atol=1e-4)
        assert record["box_voxels"]["last"] == np.argwhere(mask).max(axis=0).tolist()
        assert record["truncated"] is bool(record["sides"])
    assert records[0]["sides"] == ["inferior"]
    empty, row = records[-1], rows[-1]
    assert (empty["voxels"], empty["volume_ml"], empty["truncated"]) == (0, 0, False)
    assert empty["centroid_mm"] is None
    assert set(empty["intensities"][0].values()) == {None}
    assert (row["volume_ml"], row["mean"], row["centroid_x_mm"]) == ("0.0", "", "")


def test_statistics_of_several_channels_have_a_column_for_each(tmp_path):
    found = segmentation(tmp_path / "mr_seg")
    scan = found.scan.volume
    both = Volume(np.concatenate([scan.data, scan.data * 2]), scan.geometry)
    found = replace(found, scan=Scan(both))
    as_json, as_csv = written(statistics(found))
    first, second = json.loads(as_json.read_text())["structures"][0]["intensities"]
    assert second["mean"] == pytest.approx(2 * first["mean"], abs=1e-5)
    row = next(csv.DictReader(as_csv.read_text().splitlines()))
    assert (float(row["mean_0"]), float(row["sd_1"])) == (first["mean"], second["sd"])
    assert "mean" not in row
