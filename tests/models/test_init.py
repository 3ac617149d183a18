"""What a start takes over of another model, tensor by tensor."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medseg.core.errors import ModelError
from medseg.core.plan import Plan
from medseg.models.bundle import load_model, network_for, weights_of
from medseg.models.init import first_weights, read_source
from tests.models.tiny_model import LABELS, tiny_model, tiny_plan

FIRST = "encoder.stages.0.0.convs.0.conv.weight"
HEAD = "decoder.seg_layers.0"


def fresh(plan: Plan) -> dict[str, torch.Tensor]:
    torch.manual_seed(plan.seed)
    return weights_of(network_for(plan)).state_dict()


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    return weights_of(load_model(folder).networks[0]).state_dict()


def test_the_same_labels_take_every_tensor(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    state, taken = first_weights(tiny_plan(seed=5), read_source(folder))
    assert taken.structures == ("liver", "tumour")
    assert taken.new_structures == ()
    for key, value in state_of(folder).items():
        assert torch.equal(state[key], value), key


def test_heads_go_by_the_name_of_the_structure_not_by_its_place(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")  # background, liver, tumour
    plan = tiny_plan(seed=5, labels={"background": 0, "spleen": 1, "tumour": 2, "liver": 7})
    state, taken = first_weights(plan, read_source(folder))
    before, chance = state_of(folder), fresh(plan)
    for part in ("weight", "bias"):
        new, old, untrained = state[f"{HEAD}.{part}"], before[f"{HEAD}.{part}"], chance[f"{HEAD}.{part}"]
        assert torch.equal(new[[0, 2, 3]], old[[0, 2, 1]])  # background, tumour, liver
        assert torch.equal(new[1], untrained[1])
    assert (taken.structures, taken.new_structures) == (("tumour", "liver"), ("spleen",))
    assert torch.equal(state[FIRST], before[FIRST])
    assert len(taken.whole) == len(before) - 2
    assert taken.line() == (
        f"{len(before) - 2} of {len(before)} tensors taken whole; in the heads the channels of tumour, liver; "
        "new in the heads: spleen"
    )


def test_as_many_structures_of_other_names_do_not_take_over_each_other(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    plan = tiny_plan(seed=5, labels={"background": 0, "left kidney": 1, "right kidney": 2})
    state, taken = first_weights(plan, read_source(folder))
    assert torch.equal(state[f"{HEAD}.weight"][1:], fresh(plan)[f"{HEAD}.weight"][1:])
    assert taken.structures == ()


def test_another_number_of_channels_makes_the_first_convolution_new(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    plan = tiny_plan(seed=5, channels=2, intensity=[{"scheme": "z_score"}] * 2)
    state, taken = first_weights(plan, read_source(folder))
    assert torch.equal(state[FIRST], fresh(plan)[FIRST])
    assert torch.equal(
        state["encoder.stages.1.0.convs.0.conv.weight"], state_of(folder)["encoder.stages.1.0.convs.0.conv.weight"]
    )
    assert taken.other_channels
    assert "the first convolution is new" in taken.line()


def test_a_model_whose_body_differs_is_refused(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    options = {**tiny_plan().architecture.options, "features": [4, 12]}
    with pytest.raises(ModelError, match=r"tensors do not fit this plan's network, such as .*12.* here, .*8.* there"):
        first_weights(tiny_plan(architecture={"name": "unet", "options": options}), read_source(folder))


@pytest.mark.parametrize("prefix", ["", "module.", "network.", "student.backbone.", "encoder.", "_orig_mod.encoder."])
def test_an_encoder_file_fits_under_any_prefix(tmp_path: Path, prefix: str) -> None:
    plan = tiny_plan(seed=1)
    encoder = {key: value + 1 for key, value in fresh(plan).items() if key.startswith("encoder.")}
    bare = {key.removeprefix("encoder."): value.contiguous() for key, value in encoder.items()}
    save_file({prefix + key: value for key, value in bare.items()}, tmp_path / "encoder.safetensors")
    state, taken = first_weights(plan, read_source(tmp_path / "encoder.safetensors"))
    assert set(taken.whole) == encoder.keys()
    assert all(torch.equal(state[key], value) for key, value in encoder.items())
    assert torch.equal(state[f"{HEAD}.weight"], fresh(plan)[f"{HEAD}.weight"])


def test_weights_of_nnunet_fit_with_their_double_names(tmp_path: Path) -> None:
    from dynamic_network_architectures.architectures.unet import PlainConvUNet
    from torch import nn

    plan = tiny_plan(seed=1)
    o = plan.architecture.options
    theirs = PlainConvUNet(
        1, 2, o["features"], nn.Conv3d, o["kernel_sizes"], o["strides"], [1, 1], 5, [1], True, nn.InstanceNorm3d,
        {"affine": True}, nonlin=nn.LeakyReLU,
    )  # fmt: skip
    save_file({key: value.clone() for key, value in theirs.state_dict().items()}, tmp_path / "nnunet.safetensors")
    state, taken = first_weights(plan, read_source(tmp_path / "nnunet.safetensors"))
    assert torch.equal(state[FIRST], theirs.encoder.stages[0][0].convs[0].conv.weight)
    assert not [key for key in taken.fresh if not key.startswith("decoder.seg_layers")]


def test_a_file_of_which_less_than_half_fits_is_refused(tmp_path: Path) -> None:
    plan = tiny_plan()
    save_file({"encoder.stages.0.0.convs.0.conv.weight": torch.ones(4, 1, 3, 3, 3)}, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match="only 1 of the 8 tensors of the encoder fit by name and shape"):
        first_weights(plan, read_source(tmp_path / "a.safetensors"))


def test_only_safetensors_and_model_folders_are_read(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(1)}, tmp_path / "weights.pth")
    with pytest.raises(ModelError, match="checkpoints and pickles may hold code and are not read"):
        read_source(tmp_path / "weights.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"\x80\x04no")
    with pytest.raises(ModelError, match="not a valid safetensors file"):
        read_source(tmp_path / "broken.safetensors")
    save_file({"x": torch.tensor([float("nan")])}, tmp_path / "nan.safetensors")
    with pytest.raises(ModelError, match="not finite"):
        read_source(tmp_path / "nan.safetensors")
    with pytest.raises(ModelError, match="does not exist"):
        read_source(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["fcn", "pspnet", "segresnet"])
def test_heads_of_other_architectures_are_found_by_their_shape(tmp_path: Path, name: str) -> None:
    features = [8, 16] if name == "segresnet" else [8] * (5 if name == "fcn" else 4)
    more = {"fcn": {"head_features": 8}, "pspnet": {"encoder": "resnet18"}, "segresnet": {"blocks_per_stage": [1, 1]}}
    plan = tiny_plan(architecture={"name": name, "options": {"features": features, **more[name]}})
    states = {"fold_0": {key: value + 1 for key, value in fresh(plan).items()}}
    folder = tiny_model(tmp_path / "model", plan=plan, states=states)
    swapped = plan.model_copy(update={"labels": {"background": 0, "tumour": 1, "liver": 2}})
    state, taken = first_weights(swapped, read_source(folder))
    heads = {key for key in state if key not in taken.whole}
    assert 0 < len(heads) <= 6
    assert all(torch.equal(state[key], states["fold_0"][key][[0, 2, 1]]) for key in heads)
    assert LABELS == {"background": 0, "liver": 1, "tumour": 2}
