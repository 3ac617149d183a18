import numpy as np
import pytest
from matplotlib.image import imread

from medseg.core.errors import GeometryError, OutputError
from medseg.core.geometry import Geometry, all_storage_orders
from medseg.core.labels import Labels
from medseg.core.volume import LabelMap, Volume
from medseg.report.curves import points_of, running_mean, save_curves
from medseg.report.overlay import PLANES, best_slice, save_overlays, view

RAS = np.diag([1.0, 2.0, 4.0, 1.0])
LABELS = Labels.from_mapping({"background": 0, "$liver_1$": 1, "tumour": 2})


@pytest.fixture
def scan():
    """A noisy scan, and a label map whose structure 2 lies in the patient's right, front, top eighth."""
    rng = np.random.default_rng(0)
    grid = Geometry((30, 20, 12), RAS)
    data = np.zeros(grid.shape, np.uint8)
    data[3:12, 3:17, 2:10] = 1
    data[20:26, 12:17, 7:10] = 2
    return Volume(rng.normal(100, 20, (1, *grid.shape)).astype(np.float32), grid), LabelMap(data, grid, LABELS)


def test_every_plane_shows_the_right_side_where_its_letters_say(scan):
    _, label_map = scan
    axial, coronal, sagittal = (view(label_map.data, p, k) for p, k in zip(PLANES, (8, 14, 22), strict=True))
    assert (axial.shape, coronal.shape, sagittal.shape) == ((20, 30), (12, 30), (12, 20))
    # Pictures have their origin at the lower left. Structure 2: right of the patient = left, anterior and superior = up.
    for picture, letters in ((axial, "RLAP"), (coronal, "RLSI")):
        rows, columns = np.nonzero(picture == 2)
        assert (columns.mean() < picture.shape[1] / 2) == (letters[0] == "R")
        assert rows.mean() > picture.shape[0] / 2
    rows, columns = np.nonzero(sagittal == 2)
    assert columns.mean() < 10  # anterior is at the left
    assert rows.mean() > 6
    assert [p.letters for p in PLANES] == ["RLAP", "RLSI", "APSI"]


def test_best_slice_holds_the_small_structure_too(scan):
    data = scan[1].data
    for plane in PLANES:
        k = best_slice([data], plane.along)
        assert 2 in np.take(data, k, axis=plane.along)
    assert best_slice([np.zeros((4, 5, 6), np.uint8)], 2) == 3


def test_overlay_is_a_png_and_the_same_for_every_storage_order(scan, tmp_path):
    volume, label_map = scan
    pictures = []
    for n, order in enumerate(all_storage_orders()[::23]):
        path = tmp_path / "deep" / f"{n}.png"
        save_overlays(path, volume.reordered(order), label_map, label_map.reordered(order), title="case $1_2$ 肝")
        pictures.append(imread(path))
    assert pictures[0].ndim == 3
    assert all(np.array_equal(pictures[0], other) for other in pictures[1:])
    assert [p.name for p in (tmp_path / "deep").iterdir() if p.suffix != ".png"] == []


def test_overlay_shows_each_structure_in_its_colour_and_the_reference_in_white(scan, tmp_path):
    volume, label_map = scan
    dark = Volume(np.zeros_like(volume.data), volume.geometry)
    save_overlays(tmp_path / "a.png", dark, label_map, None, title="", window=(0, 1))
    picture = imread(tmp_path / "a.png")[..., :3]
    legend = picture[-70:]
    for structure in LABELS.structures:
        colour = np.array([int(structure.colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
        assert (np.abs(legend - colour).max(axis=-1) < 0.02).any()
        filled = (np.abs(picture[:-70] - 0.45 * colour).max(axis=-1) < 0.02).sum()
        assert filled > 500


def test_a_map_without_labels_without_structures_or_of_one_slice_is_drawn(scan, tmp_path):
    volume, label_map = scan
    empty = np.zeros_like(label_map.data)
    save_overlays(tmp_path / "a.png", volume, LabelMap(label_map.data, volume.geometry), None, title="no names")
    save_overlays(tmp_path / "b.png", volume, LabelMap(empty, volume.geometry, LABELS), None, title="nothing found")
    flat = Geometry((30, 20, 1), RAS)
    one = LabelMap(label_map.data[:, :, 8:9], flat, LABELS)
    save_overlays(tmp_path / "c.png", Volume(volume.data[..., 8:9], flat), one, one, title="one slice")
    assert all((tmp_path / f"{name}.png").stat().st_size > 10_000 for name in "abc")


def test_overlay_on_another_grid_is_refused(scan, tmp_path):
    volume, label_map = scan
    other = LabelMap(label_map.data, Geometry(label_map.data.shape, RAS @ np.diag([1, 1, 1.5, 1])), LABELS)
    with pytest.raises(GeometryError, match="is not the scan's"):
        save_overlays(tmp_path / "a.png", volume, other, None, title="")
    assert not (tmp_path / "a.png").exists()


def test_curves_take_rows_as_read_from_csv_and_rows_without_validation(tmp_path):
    rows = [
        {"step": str(n), "loss": str(1 / (n + 1)), "learning_rate": "0.01", "val_dice": "", "val_dice_$a_": None}
        for n in range(50)
    ]
    rows[40] |= {"val_dice": "0.8", "val_dice_$a_": "0.8"}
    save_curves(tmp_path / "a.png", rows)
    save_curves(tmp_path / "b.png", rows[:5])
    save_curves(tmp_path / "c.png", [])
    assert len({(tmp_path / f"{name}.png").read_bytes() for name in "abc"}) == 3


def test_curves_into_a_place_that_is_a_file_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        save_curves(tmp_path / "file" / "a.png", [])


def test_points_leave_out_what_is_no_number():
    steps, values = points_of(
        [{"step": 1, "x": 2}, {"step": 2, "x": "nan"}, {"step": 3}, {"x": 5}, {"step": "4", "x": "6e1"}], "x"
    )
    assert (steps.tolist(), values.tolist()) == ([1, 4], [2, 60])


def test_running_mean_of_a_line_is_the_line_between_its_ends():
    line = np.arange(10.0)
    np.testing.assert_allclose(running_mean(line, 5)[2:-2], line[2:-2])
