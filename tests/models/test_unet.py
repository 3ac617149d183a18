"""Our U-Nets against nnU-Net's own library."""

import itertools
import subprocess
import sys

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

from medseg.core.component import Component
from medseg.core.errors import ConfigError
from medseg.models.architectures import ARCHITECTURES, build_network
from medseg.models.unet import from_nnunet_state_dict

REFERENCES = {"unet": PlainConvUNet, "resenc_unet": ResidualEncoderUNet}
COUNTS = {"unet": "convs_per_stage", "resenc_unet": "blocks_per_stage"}
KERNELS = {"isotropic": [[3, 3, 3]] * 3, "anisotropic": [[1, 3, 3], [1, 3, 3], [3, 3, 3]]}
STRIDES = {"isotropic": [[1, 1, 1], [2, 2, 2], [2, 2, 2]], "anisotropic": [[1, 1, 1], [1, 2, 2], [2, 2, 2]]}
SIZES = {2: (16, 24), 3: (8, 16, 12)}

both_dimensions = pytest.mark.parametrize("dimensions", [2, 3])
all_architectures = pytest.mark.parametrize("name", REFERENCES)
matrix = pytest.mark.parametrize(
    ("name", "dimensions", "grid", "counts", "conv_bias", "deep_supervision"),
    list(itertools.product(REFERENCES, (2, 3), KERNELS, ([1, 2, 3], [2, 1, 1]), (True, False), (True, False))),
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def options(name, dimensions, *, grid="isotropic", counts=(1, 1, 1), features=(4, 6, 6), **more):
    # The middle and the last stage have equal features, so that a residual skip of pooling alone occurs too.
    return {
        "features": list(features),
        "kernel_sizes": [row[:dimensions] for row in KERNELS[grid]],
        "strides": [row[:dimensions] for row in STRIDES[grid]],
        COUNTS[name]: list(counts),
        "decoder_convs_per_stage": [2, 1],
        **more,
    }


def small(name, dimensions, **more):
    component = Component(name=name, options=options(name, dimensions, **more))
    return build_network(component, in_channels=2, out_channels=3, dimensions=dimensions)


def reference(name, dimensions, chosen):
    return REFERENCES[name](
        2,
        len(chosen["features"]),
        chosen["features"],
        {2: nn.Conv2d, 3: nn.Conv3d}[dimensions],
        chosen["kernel_sizes"],
        chosen["strides"],
        chosen[COUNTS[name]],
        3,
        chosen["decoder_convs_per_stage"],
        conv_bias=chosen["conv_bias"],
        norm_op={2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dimensions],
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=chosen["deep_supervision"],
    )


def randomise(network):
    """No parameter at 0 or 1, where an error could hide."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, mean=0.1, std=0.3)
    return network


def patch(dimensions, batch=2):
    return torch.randn(batch, 2, *SIZES[dimensions])


@matrix
def test_nnunet_weights_load_strictly_and_give_nnunet_logits(
    name, dimensions, grid, counts, conv_bias, deep_supervision
):
    chosen = options(name, dimensions, grid=grid, counts=counts, conv_bias=conv_bias, deep_supervision=deep_supervision)
    theirs = randomise(reference(name, dimensions, chosen))
    ours = ARCHITECTURES[name](in_channels=2, out_channels=3, dimensions=dimensions, **chosen)
    assert list(ours.load_state_dict(from_nnunet_state_dict(theirs.state_dict()), strict=True)) == [[], []]
    x = patch(dimensions)
    with torch.no_grad():
        torch.testing.assert_close(ours.train()(x), theirs.train()(x), rtol=1e-5, atol=1e-6)
        theirs.decoder.deep_supervision = False
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-6)


@all_architectures
@both_dimensions
def test_a_fresh_network_is_initialised_as_nnunet_does(name, dimensions):
    chosen = options(name, dimensions, features=(24, 32, 32), conv_bias=True, deep_supervision=True)
    theirs = reference(name, dimensions, chosen)
    theirs.apply(theirs.initialize)
    expected = from_nnunet_state_dict(theirs.state_dict())
    ours = ARCHITECTURES[name](in_channels=2, out_channels=3, dimensions=dimensions, **chosen).state_dict()
    for key, tensor in ours.items():
        if tensor.ndim == 1:
            assert torch.equal(tensor, expected[key]), key
        elif tensor.numel() > 1000:
            assert tensor.std().item() == pytest.approx(expected[key].std().item(), rel=0.1), key


def test_wrappers_of_compile_and_of_data_parallel_leave_the_nnunet_keys():
    weight = torch.ones(1)
    for prefix in ("", "module.", "_orig_mod.", "module._orig_mod."):
        state = {f"{prefix}encoder.stem.convs.0.conv.weight": weight}
        state[f"{prefix}encoder.stem.convs.0.all_modules.0.weight"] = weight
        state[f"{prefix}decoder.encoder.stem.convs.0.conv.weight"] = weight
        assert from_nnunet_state_dict(state) == {"encoder.stem.convs.0.conv.weight": weight}


@all_architectures
@both_dimensions
def test_deep_supervision_lists_logits_from_full_resolution_in_training_mode_only(name, dimensions):
    network = small(name, dimensions, deep_supervision=True)
    x = patch(dimensions)
    full, half = network.train()(x)
    assert full.shape == (2, 3, *SIZES[dimensions])
    assert half.shape == (2, 3, *(size // 2 for size in SIZES[dimensions]))
    assert torch.equal(network.eval()(x), full)


@all_architectures
@both_dimensions
def test_the_whole_forward_is_one_exported_graph(name, dimensions):
    network, x = small(name, dimensions).eval(), patch(dimensions)
    exported = torch.export.export(network, (x,)).module()
    torch.testing.assert_close(exported(x), network(x))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dimensions": 4}, "dimensions is 4"),
        ({"features": [4]}, "2 to 16 resolution stages"),
        ({"kernel_sizes": [[3, 3]] * 2}, r"kernel_sizes .* expected 3 entries of 2 numbers"),
        ({"kernel_sizes": [[3, 3], [2, 3], [3, 3]]}, "odd"),
        ({"strides": [[1, 1], [2, 2, 2], [2, 2]]}, "strides"),
        ({"strides": [[2, 2]] * 3}, r"strides\[0\] is \[2, 2\]"),
        ({"convs_per_stage": [1, 0, 1]}, r"convs_per_stage is \[1, 0, 1\]"),
        ({"decoder_convs_per_stage": [1, 1, 1]}, "decoder_convs_per_stage .* expected 2 entries"),
    ],
)
def test_options_that_do_not_fit_together_are_refused_by_name(wrong, message):
    valid = {"in_channels": 1, "out_channels": 2, "dimensions": 2, **options("unet", 2)}
    with pytest.raises(ConfigError, match=message):
        ARCHITECTURES["unet"](**{**valid, **wrong})


def test_an_unknown_architecture_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'resenc_unet'"):
        build_network(Component(name="resnc_unet"), in_channels=1, out_channels=2, dimensions=2)


def test_importing_our_networks_and_losses_imports_no_monai():
    code = "import sys, medseg.models, medseg.losses; sys.exit('monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
