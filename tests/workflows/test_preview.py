"""`medseg preview`: a picture of what training sees, by the loader and augmentation of training; nothing else is written."""

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from medseg.cli.app import run
from medseg.core.component import Component
from medseg.core.labels import Labels
from medseg.data.augment import augment, recipe
from medseg.data.augment_examples import examples
from medseg.report.preview import Pair, preview_png
from medseg.training.step import Stepper
from tests.data.tiny_dataset import config
from tests.training.stored_cases import quick_plan, stored_cases
from tests.workflows.train_command import tree, written

pytestmark = pytest.mark.usefixtures("one_thread")


def test_examples_are_the_patches_of_a_training_step(tmp_path):
    plan = quick_plan(batch_size=1, augmentation=recipe({"affine": {"share": 1.0}}), mirror_axes=[0, 1])
    stored = stored_cases(tmp_path, plan)
    stepper = Stepper(plan, stored, torch.device("cpu"))
    for step, example in enumerate(examples(stored, plan, 4)):
        (batch,) = stepper.load(step)
        images, references = torch.from_numpy(batch.images), torch.from_numpy(batch.references)
        wanted = augment(images, references, plan, step, Labels.from_mapping(plan.labels).mirror_swaps)
        np.testing.assert_array_equal(example.after[0], wanted[0][0])
        np.testing.assert_array_equal(example.after[1], wanted[1][0])
        assert example.before[0].shape == example.after[0].shape == (1, 8, 8, 8)
        assert not np.array_equal(example.before[0], example.after[0])


def test_without_augmentation_nothing_changes(tmp_path):
    plan = quick_plan(augmentation=[], mirror_axes=[])
    for example in examples(stored_cases(tmp_path, plan), plan, 3):
        np.testing.assert_array_equal(example.before[0], example.after[0])
        np.testing.assert_array_equal(example.before[1], example.after[1])
    noisy = plan.model_copy(update={"augmentation": (Component(name="noise", options={"share": 1.0}),)})
    for example in examples(stored_cases(tmp_path, noisy), noisy, 3):
        np.testing.assert_array_equal(example.before[1], example.after[1])
        assert 0 < np.std(example.after[0] - example.before[0]) < 0.5


@pytest.mark.parametrize("shape", [(24, 20, 16), (24, 20, 1)], ids=str)
def test_the_picture_shows_each_structure_in_its_colour_before_and_after(tmp_path, shape):
    """A red box at the left before, at the right after: red lies in both halves, and each half has the box on its side."""
    labels = Labels.from_mapping({"background": 0, "box": 1, "absent": 2})
    before, after = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    before[2:8, 4:12], after[16:22, 4:12] = 1, 1
    image = np.zeros(shape, np.float32)
    image[:, ::2] = 1.0
    png = preview_png([Pair("a_case", (image, before), (image, after))] * 2, labels, (1, 1, 2), title="t", foot="f")
    (tmp_path / "x.png").write_bytes(png)
    pixels = imread(tmp_path / "x.png")[..., :3]
    assert pixels.shape[1] == 1950
    orange = (pixels[..., 0] - pixels[..., 2] > 0.2) & (pixels[..., 0] > pixels[..., 1])
    assert orange[:, :975].any()
    assert orange[:, 975:].any()


def test_the_command_writes_one_picture_and_no_other_file(root, tmp_path, capsys):
    path = written(tmp_path, config(root))
    before = tree(tmp_path)
    target = tmp_path / "look.png"
    assert run(["preview", "--config", str(path), "--output", str(target), "--patches", "1", "-q"]) == 0
    assert capsys.readouterr().out.strip() == str(target)
    assert tree(tmp_path) - before == {target}
    assert imread(target).shape[1] == 1950
    first = target.read_bytes()
    assert run(["preview", "--config", str(path), "--output", str(target), "--patches", "1", "-q"]) == 4
    assert "--force" in capsys.readouterr().err
    assert run(["preview", "--config", str(path), "--output", str(target), "--patches", "1", "-q", "--force"]) == 0
    assert target.read_bytes() == first  # the same picture every time


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--patches", "0"], 2, "from 1 to 40"),
        (["--output", "look.jpg"], 2, "ends in .png"),
        (["--set", "train.augmentation={noise: {shar: 1}}"], 2, "did you mean 'share'"),
        (["--set", "data.root=/nowhere"], 3, "nowhere"),
        (["--output", "/proc/none/look.png"], 4, "/proc/none"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(root, tmp_path, monkeypatch, capsys, arguments, code, words):
    path = written(tmp_path, config(root))
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    assert run(["preview", "--config", str(path), *arguments]) == code
    assert words in capsys.readouterr().err
    assert tree(tmp_path) == before
