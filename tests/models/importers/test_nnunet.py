"""Folders of nnU-Net as medseg models; the networks, and so the truth about weights and axes, are its own library's."""

import json
import os

import numpy as np
import pytest
import torch

from medseg.core.errors import ModelError
from medseg.models.bundle import load_model
from medseg.models.card import model_readme
from medseg.models.importers import torch_checkpoint
from medseg.models.importers.imported import ImportOptions
from medseg.models.importers.nnunet import USUAL_TRAINER, read_nnunet
from medseg.workflows.import_model import import_model
from medseg.workflows.infer import infer
from tests.models.importers.nnunet_folder import arch_kwargs, decoded_here, nnunet_folder


@pytest.fixture(autouse=True)
def _without_a_child(monkeypatch):
    """The same code in this process: test_torch_checkpoint.py has the child, whose start takes seconds."""
    monkeypatch.setattr(torch_checkpoint, "decoded", decoded_here)


def read(folder, **options):
    return read_nnunet(folder, ImportOptions(**options))


@pytest.mark.parametrize(
    ("dimensions", "network", "transposed", "old_style"),
    [
        (3, "PlainConvUNet", [0, 1, 2], False),
        (3, "ResidualEncoderUNet", [1, 2, 0], False),
        (3, "PlainConvUNet", [2, 0, 1], True),
        (2, "ResidualEncoderUNet", [0, 1, 2], True),
        (2, "PlainConvUNet", [1, 0, 2], False),
    ],
)
def test_the_imported_network_computes_what_nnunets_does_on_the_same_voxels(
    tmp_path, dimensions, network, transposed, old_style
):
    (theirs,) = nnunet_folder(
        tmp_path / "nn",
        dimensions=dimensions,
        network=network,
        old_style=old_style,
        plans={"transpose_forward": transposed},
    )
    made = import_model(tmp_path / "nn", output=tmp_path / "model")
    model = load_model(made.folder)
    stored = torch.randn(1, 1, *model.plan.patch_size)  # i, j, k of RAS
    # nnU-Net reads (k, j, i) and transposes that.
    seen = stored.permute(0, 1, *(2 + (2, 1, 0)[axis] for axis in transposed))
    with torch.inference_mode():
        ours = model.networks[0](stored)
        expected = theirs(seen if dimensions == 3 else seen[:, :, 0])
    ours = ours.permute(0, 1, *(2 + (2, 1, 0)[axis] for axis in transposed))
    torch.testing.assert_close(ours if dimensions == 3 else ours[:, :, 0], expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.01


def test_sizes_spacings_and_mirror_axes_follow_the_axes(tmp_path):
    nnunet_folder(tmp_path / "nn", plans={"transpose_forward": [1, 0, 2]})  # y, z, x of storage
    plan = read(tmp_path / "nn").card.plan
    assert plan.patch_size == (16, 8, 12)  # x, y, z
    assert plan.spacing_mm == (1.0, 2.0, 1.5)
    assert plan.mirror_axes == (1, 2)  # nnU-Net's 0 and 1 are y and z
    assert plan.feed.orientation == "RAS"
    assert plan.feed.window_axes == (1, 2, 0)  # its windows follow each other along y slowest, along x fastest


def test_training_files_of_another_orientation_give_another_feed(tmp_path):
    nnunet_folder(tmp_path / "nn")
    found = read(tmp_path / "nn", orientation="PSR")  # stored x runs to the back, y up, z to the right
    assert found.card.plan.patch_size == (8, 16, 12)
    assert found.card.plan.feed.orientation == "RPS"
    assert not any("assumed" in remark for remark in found.remarks)
    assert any("assumed" in remark for remark in read(tmp_path / "nn").remarks)
    with pytest.raises(ModelError, match="three letters"):
        read(tmp_path / "nn", orientation="RRS")


def test_a_2d_network_keeps_the_distance_of_slices(tmp_path):
    nnunet_folder(tmp_path / "nn", dimensions=2)
    plan = read(tmp_path / "nn").card.plan
    assert (plan.slice_axis, plan.patch_size, plan.feed.native_axes) == (2, (16, 12, 1), (2,))
    assert plan.mirror_axes == (0, 1)


def test_every_fold_is_taken_unless_some_are_named(tmp_path):
    nnunet_folder(tmp_path / "nn", folds=("0", "1", "all"))
    assert set(read(tmp_path / "nn").states) == {"fold_0", "fold_1"}
    assert set(read(tmp_path / "nn", folds=("1",)).states) == {"fold_1"}
    assert set(read(tmp_path / "nn", folds=("all",)).states) == {"fold_all"}
    with pytest.raises(ModelError, match=r"fold_3 has no checkpoint_final.pth.*fold_0, fold_1"):
        read(tmp_path / "nn", folds=("3",))
    with pytest.raises(ModelError, match=r"no fold_\* has a best.pth.*checkpoint_final.pth"):
        read(tmp_path / "nn", checkpoint="best.pth")


def test_several_trained_models_are_named(tmp_path):
    nnunet_folder(tmp_path / "nn" / "nnUNetTrainer__nnUNetPlans__3d_fullres")
    assert read(tmp_path / "nn").card.name == "Dataset999_Tiny 3d_fullres"
    nnunet_folder(tmp_path / "nn" / "nnUNetTrainer__nnUNetPlans__2d", dimensions=2)
    with pytest.raises(
        ModelError, match=r"2 trained models \(nnUNetTrainer__nnUNetPlans__2d, nnUNetTrainer__nnUNetPlans__3d"
    ):
        read(tmp_path / "nn")
    assert read(tmp_path / "nn", configuration="2d").card.plan.dimensions == 2


def test_intensities_keep_nnunets_numbers(tmp_path):
    schemes = ["CTNormalization", "ZScoreNormalization", "NoNormalization", "RescaleTo01Normalization"]
    nnunet_folder(
        tmp_path / "nn",
        channels=("CT", "T1", "x", "y"),
        normalization_schemes=schemes,
        use_mask_for_norm=[False, True, False, False],
    )
    found = read(tmp_path / "nn").card.plan.intensity
    assert [one.scheme.name for one in found] == ["ct_window", "z_score", "none", "unit_range"]
    assert found[0].scheme.options == {"lower": -80.0, "upper": 200.0, "mean": 60.0, "sd": 40.0}
    assert [one.within for one in found] == ["scan", "nonzero", "scan", "scan"]


def test_regions_write_in_nnunets_order_and_name_what_a_label_map_holds(tmp_path):
    labels = {
        "background": 0,
        "kidney": [1, 2, 3],
        "masses": [2, 3],
        "tumor": 2,
    }  # KiTS 2023, as nnU-Net's users write it
    nnunet_folder(tmp_path / "nn", labels=labels, dataset={"regions_class_order": [1, 3, 2]})
    plan = read(tmp_path / "nn").card.plan
    assert plan.labels == {"background": 0, "kidney_without_masses": 1, "tumor": 2, "masses_without_tumor": 3}
    assert [plan.structure_labels.values[c - 1] for c in plan.structure_labels.region_writes] == [1, 3, 2]
    assert plan.structure_labels.outputs == 3


@pytest.mark.parametrize(
    ("order", "hint"), [(None, "regions_class_order is None"), ([1, 2], "one value"), ([3, 1, 2], "later")]
)
def test_an_order_of_regions_that_hides_one_is_refused(tmp_path, order, hint):
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "inner": 3}
    nnunet_folder(tmp_path / "nn", labels=labels, dataset={"regions_class_order": order})
    with pytest.raises(ModelError, match=hint):
        read(tmp_path / "nn")


def test_the_ignore_label_is_no_output(tmp_path):
    nnunet_folder(tmp_path / "nn", labels={"background": 0, "a": 1, "ignore": 2})
    plan = read(tmp_path / "nn").card.plan
    assert (plan.labels, plan.ignore, plan.structure_labels.outputs) == ({"background": 0, "a": 1}, 2, 2)


def _architecture(**changes):
    network = changes.pop("network", "unet.PlainConvUNet")
    return {
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.{network}",
            "arch_kwargs": arch_kwargs(3, "PlainConvUNet") | changes,
        }
    }


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"previous_stage": "3d_lowres"}, "second stage of a cascade.*3d_lowres"),
        ({"preprocessor_name": "MyPreprocessor"}, "MyPreprocessor"),
        ({"resampling_fn_data": "my_fn"}, "my_fn"),
        ({"resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 3, "force_separate_z": None}}, "order"),
        ({"resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "force_separate_z": True}}, "force_separate_z"),
        ({"normalization_schemes": ["MyNormalization"]}, "MyNormalization"),
        ({"patch_size": [8, 12]}, "spacing"),
        ({"patch_size": [0, 12, 16]}, "patch_size"),
        ({"spacing": [1.0, -1.0, 1.0]}, "spacing_mm"),
        (_architecture(network="primus.Primus"), "primus.Primus is not one that medseg has"),
        (_architecture(norm_op="torch.nn.BatchNorm3d"), "norm_op.*BatchNorm3d"),
        (_architecture(nonlin="torch.nn.ReLU"), "nonlin.*ReLU"),
        (_architecture(norm_op_kwargs={"eps": 1e-3, "affine": True}), "norm_op_kwargs"),
        (_architecture(squeeze_excitation=True), "squeeze_excitation"),
        (_architecture(n_stages=4), "entries for 4 stages"),
        (_architecture(features_per_stage=[4, 8, 9]), "shape of"),
    ],
)
def test_what_medseg_cannot_run_is_refused_by_name(tmp_path, changes, hint):
    folder = tmp_path / "nn"
    nnunet_folder(folder)
    content = json.loads((folder / "plans.json").read_text())
    content["configurations"]["3d_fullres"] |= changes
    (folder / "plans.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=hint):
        read(folder)


@pytest.mark.parametrize("missing", ["plans.json", "dataset.json", "fold_0/checkpoint_final.pth"])
def test_a_missing_part_is_named(tmp_path, missing):
    nnunet_folder(tmp_path / "nn")
    (tmp_path / "nn" / missing).unlink()
    with pytest.raises(ModelError, match=missing.split("/")[-1]):
        read(tmp_path / "nn")


def test_the_card_says_where_the_weights_come_from(tmp_path):
    nnunet_folder(tmp_path / "nn", folds=("0", "2"))
    fingerprint = {
        "spacings": [[3.0, 2.0, 1.0]] * 3,
        "shapes_after_crop": [[30, 20, 10], [31, 21, 11], [40, 30, 20]],
        "foreground_intensity_properties_per_channel": {
            "0": {"max": 9.0, "mean": 5.0, "min": 1.0, "percentile_00_5": 2.0, "percentile_99_5": 8.0, "std": 1.5}
        },
    }
    (tmp_path / "nn" / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    card = read(tmp_path / "nn", licence="CC-BY-4.0", name="mine").card
    assert (card.name, card.licence) == ("mine", "CC-BY-4.0")
    origin = card.provenance["imported"]
    assert (origin["trainer"], origin["dataset"], origin["configuration"]) == (
        "nnUNetTrainer",
        "Dataset999_Tiny",
        "3d_fullres",
    )
    assert set(origin["sha256"]) == {
        "plans.json", "dataset.json", "fold_0/checkpoint_final.pth", "fold_2/checkpoint_final.pth"
    }  # fmt: skip
    assert card.fingerprint.median_shape == (11, 21, 31)
    assert card.fingerprint.spacings_mm[0] == (1.0, 2.0, 3.0)
    assert card.fingerprint.foreground[0].sd == 1.5
    assert (card.inference.ensemble, card.inference.accumulators) == ("logits", "nnunet")
    assert card.plan.feed.logits.float16  # its default function rounds what it resamples
    assert not card.plan.feed.image.float16
    readme = model_readme(card)
    assert "| trainer | nnUNetTrainer |" in readme
    assert "2 of" not in readme  # steps, optimizer and seed of a training that medseg did not see
    assert "No validation came with it" in readme


# Label maps of nnU-Net 2.8.1's own predictor (fold all, no mirroring, CPU) for scans of Task04_Hippocampus, by
# nnUNetv2_predict_from_modelfolder -m models/nnunet_hippocampus -f all --disable_tta: a structure's voxels and mean i, j, k.
NNUNETS_LABELS = {
    "hippocampus_001": [(1753, 17.947, 35.833, 11.675), (1101, 14.847, 19.808, 18.371)],
    "hippocampus_034": [(2105, 15.933, 32.196, 12.662), (934, 12.551, 19.687, 18.461)],
}


@pytest.fixture(scope="module")
def trained_by_nnunet(real_data, tmp_path_factory):
    """The model that nnU-Net trained, imported through its child process; and its scans."""
    folder = real_data.parent / "models" / "nnunet_hippocampus"
    if not folder.is_dir():
        pytest.skip(f"no model of nnU-Net at {folder}")
    place = tmp_path_factory.mktemp("nnunet")
    return import_model(folder, output=place / "model").folder, real_data / "Task04_Hippocampus" / "imagesTr", place


@pytest.mark.parametrize("case", NNUNETS_LABELS)
def test_labels_are_those_of_nnunets_own_predictor(trained_by_nnunet, case):
    model, scans, place = trained_by_nnunet
    found = infer(scans / f"{case}.nii.gz", model=model, output=place, device="cpu").label_map.data
    for value, (voxels, *centre) in enumerate(NNUNETS_LABELS[case], 1):
        places = np.argwhere(found == value)
        assert abs(len(places) - voxels) <= 2e-4 * found.size / 2
        np.testing.assert_allclose(places.mean(axis=0), centre, atol=0.05)  # two voxels at the other end


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_file_that_never_ends_is_not_waited_for(tmp_path, name, kind):
    nnunet_folder(tmp_path / "nn")
    file = tmp_path / "nn" / name
    file.unlink()
    os.mkfifo(file) if kind == "pipe" else file.symlink_to("/dev/zero")
    with pytest.raises(ModelError, match=f"{name}: not a regular file"):
        read(tmp_path / "nn")


MEASURED = {"mean": 1.0, "std": 1.0, "percentile_00_5": 0.0, "percentile_99_5": 2.0}


@pytest.mark.parametrize(
    ("spacings", "shapes", "channel"),
    [([], [], "0"), ([[1, 1, 1]], [], "0"), ([[1, 1, 1]], [[9, 9, 9]], "first")],
)
def test_a_fingerprint_that_makes_no_sense_is_named(tmp_path, spacings, shapes, channel):
    nnunet_folder(tmp_path / "nn")
    content = {
        "spacings": spacings,
        "shapes_after_crop": shapes,
        "foreground_intensity_properties_per_channel": {channel: MEASURED},
    }
    (tmp_path / "nn" / "dataset_fingerprint.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"dataset_fingerprint\.json: not a dataset_fingerprint\.json of nnU-Net v2"):
        read(tmp_path / "nn")


@pytest.mark.parametrize(
    "options", [{"n_stages": 10**9}, {"n_conv_per_stage": 10**9}, {"features_per_stage": 10**9}, {"nonlin_kwargs": "x"}]
)
def test_a_network_of_absurd_size_is_refused_before_it_takes_memory(tmp_path, options):
    network = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": arch_kwargs(3, "PlainConvUNet") | options,
    }
    nnunet_folder(tmp_path / "nn")
    file = tmp_path / "nn" / "plans.json"
    plans = json.loads(file.read_text())
    plans["configurations"]["3d_fullres"]["architecture"] = network
    file.write_text(json.dumps(plans))
    with pytest.raises(ModelError):
        read(tmp_path / "nn")


@pytest.mark.parametrize(
    ("name", "usual"),
    [
        ("nnUNetTrainer", True),
        ("nnUNetTrainer_100epochs", True),
        ("nnUNetTrainerDA5_10epochs", True),
        ("nnUNetTrainerAdam3en4", True),
        ("nnUNetTrainer_probabilisticOversampling_033", True),
        ("nnUNetTrainerDiceCELoss_noSmooth", True),
        ("nnUNetTrainerMine", False),
        ("nnUNetTrainer" + "AdamLoss" * 20 + "!", False),  # and no search without end
    ],
)
def test_a_trainer_that_may_differ_is_told(name, usual):
    assert bool(USUAL_TRAINER.fullmatch(name)) == usual
