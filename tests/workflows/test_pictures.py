"""2D pictures through the workflows: refused by a 3D model, segmented by a 2D one, scored like any label map."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medseg.core.errors import DataError, OutputError
from medseg.core.files import sha256_of
from medseg.io.reading import read_label_map
from medseg.workflows.evaluate import evaluate
from medseg.workflows.infer import infer
from tests.models.tiny_model import texture, tiny_model, tiny_plan, write_scan

FLAT_NETWORK = {
    "features": [4, 8],
    "kernel_sizes": [[3, 3], [3, 3]],
    "strides": [[1, 1], [2, 2]],
    "convs_per_stage": [1, 1],
    "decoder_convs_per_stage": [1],
}


def picture(path: Path) -> np.ndarray:
    pixels = np.clip(texture((24, 30, 2))[:, :, 0] // 4 + 128, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_a_3d_model_refuses_a_picture_in_words(suffix, tmp_path):
    picture(tmp_path / f"cells.{suffix}")
    with pytest.raises(DataError, match=rf"cells\.{suffix}: a 2D picture.*3D"):
        infer(tmp_path / f"cells.{suffix}", model=tiny_model(tmp_path / "model"), output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_2d_model_segments_a_picture_on_its_own_grid(tmp_path):
    plan = tiny_plan(
        dimensions=2,
        slice_axis=2,
        spacing_mm=[1, 1, 1],
        patch_size=[8, 8, 1],
        architecture={"name": "unet", "options": FLAT_NETWORK},
        mirror_axes=[0, 1],
    )
    picture(tmp_path / "cells.png")
    model = tiny_model(tmp_path / "model", plan=plan)
    result = infer(tmp_path / "cells.png", model=model, output=tmp_path / "cells_seg.nii.gz", also=["palette-png"])
    written = nib.load(result.path)
    assert (written.shape, nib.aff2axcodes(written.affine)) == ((30, 24, 1), ("L", "P", "S"))
    with Image.open(tmp_path / "cells_seg.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.array(image), np.asanyarray(written.dataobj)[:, :, 0].T)
    from_png = read_label_map(tmp_path / "cells_seg.png")
    np.testing.assert_array_equal(from_png.data, result.label_map.data)
    assert from_png.geometry == result.label_map.geometry


@pytest.mark.parametrize("output", [None, "x.PNG"])
def test_the_label_map_of_a_picture_is_a_palette_png_with_its_manifest(tmp_path, output):
    plan = tiny_plan(
        dimensions=2,
        slice_axis=2,
        spacing_mm=[1, 1, 1],
        patch_size=[8, 8, 1],
        architecture={"name": "unet", "options": FLAT_NETWORK},
        mirror_axes=[0, 1],
    )
    picture(tmp_path / "cells.tif")
    model = tiny_model(tmp_path / "model", plan=plan)
    result = infer(tmp_path / "cells.tif", model=model, output=output and tmp_path / output, also=["stats"])
    assert result.path == tmp_path / (output or "cells_seg.png")
    with Image.open(result.path) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.array(image), result.label_map.data[:, :, 0].T)
        colours = np.array(image.getpalette()).reshape(-1, 3)
    assert colours[1].tolist() == [0xD5, 0x5E, 0x00]
    stem = result.path.name[: -len(".png")]
    manifest = json.loads((tmp_path / f"{stem}.json").read_text())
    assert manifest["label_map"]["sha256"] == sha256_of(result.path)
    assert (tmp_path / f"{stem}_stats.json").is_file()
    with pytest.raises(OutputError, match="exists already"):
        infer(tmp_path / "cells.tif", model=model, output=output and tmp_path / output)


def test_a_picture_of_a_whole_volume_is_refused_before_the_work(tmp_path):
    scan = write_scan(tmp_path / "scan.nii.gz")
    with pytest.raises(DataError, match=r"not one axial slice.*leave out --palette-png"):
        infer(scan, model=tiny_model(tmp_path / "model"), also=["palette-png"])


def test_two_folders_of_pictures_are_scored_like_any_label_maps(tmp_path):
    rng = np.random.default_rng(0)
    dice = []
    for folder in ("predictions", "references"):
        (tmp_path / folder).mkdir()
    for name in "ab":
        reference = (rng.random((20, 31)) < 0.4).astype(np.uint8) * 255
        prediction = np.roll(reference, 1, axis=1)
        Image.fromarray(reference).save(tmp_path / "references" / f"{name}.png")
        Image.fromarray(prediction).save(tmp_path / "predictions" / f"{name}_seg.png")
        both = np.count_nonzero((reference > 0) & (prediction > 0))
        dice.append(2 * both / (np.count_nonzero(reference) + np.count_nonzero(prediction)))
    report = evaluate(tmp_path / "predictions", tmp_path / "references", labels={"background": 0, "cell": 255})
    assert report.mean("dice", "cell") == pytest.approx(np.mean(dice))


def test_the_real_membranes_shifted_by_hand_get_the_dice_by_hand(tmp_path, real_data):
    dice = []
    for path in sorted((real_data / "membrane2d" / "labels").glob("*.png"))[:4]:
        reference = np.array(Image.open(path))
        shifted = np.roll(reference, 3, axis=1)
        Image.fromarray(shifted).save(tmp_path / path.name)
        inside, moved = reference > 0, shifted > 0
        dice.append(2 * np.count_nonzero(inside & moved) / (np.count_nonzero(inside) + np.count_nonzero(moved)))
    report = evaluate(tmp_path, real_data / "membrane2d" / "labels", skip_bad=True)
    assert report.mean("dice", "255") == pytest.approx(np.mean(dice))
