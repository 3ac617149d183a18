"""The residual encoders' presets against nnU-Net's own count of feature maps and its published figures."""

import pytest
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from torch import device, nn

from medseg.core.errors import ConfigError
from medseg.data.planning import Rung, architecture_for, make_frame
from medseg.data.presets import feature_map_values
from tests.data.test_planning import config_of, fingerprint_of

CASES = 300


def frame_of(preset, shape, spacing, **plan):
    config = config_of(architecture={"name": "resenc_unet", "preset": preset}, **plan)
    return config, make_frame(config, fingerprint_of(shape, *[spacing] * CASES), max_voxels=1000)


@pytest.mark.parametrize(("shape", "spacing"), [((200, 180, 160), (1, 1, 1)), ((300, 300, 40), (0.7, 0.7, 4.0))])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_feature_maps_are_counted_as_nnunet_counts_them(shape, spacing, dimensions):
    config, frame = frame_of("M", shape, spacing, dimensions=dimensions)
    options = architecture_for(config, frame, Rung(32)).options
    with device("meta"):
        theirs = ResidualEncoderUNet(
            1,
            len(options["features"]),
            options["features"],
            {2: nn.Conv2d, 3: nn.Conv3d}[dimensions],
            options["kernel_sizes"],
            options["strides"],
            options["blocks_per_stage"],
            2,
            options["decoder_convs_per_stage"],
            norm_op={2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dimensions],
            nonlin=nn.LeakyReLU,
        )
    patch = tuple(frame.stages.patch)
    assert feature_map_values(options, patch, 2) == theirs.compute_conv_feature_map_size(patch)


def test_m_gives_the_patch_and_batch_of_the_default_and_larger_ones_larger_patches():
    # nnU-Net's standard configuration on isotropic scans: two patches of 128^3 voxels (doi:10.1038/s41592-020-01008-z)
    found = [frame_of(name, (512, 512, 512), (1, 1, 1))[1] for name in ("M", "L", "XL")]
    assert (found[0].patch_size, found[0].batch_size) == ((128, 128, 128), 2)
    voxels = [frame.patch_size[0] * frame.patch_size[1] * frame.patch_size[2] for frame in found]
    assert voxels == sorted(voxels)
    assert 24 / 8 * 0.7 < voxels[1] / voxels[0] < 24 / 8 * 1.3
    assert 40 / 8 * 0.7 < voxels[2] / voxels[0] < 40 / 8 * 1.3
    assert found[1].reasons["batch_size"] == "what 24 GB hold: preset L"


def test_a_preset_is_in_the_plan_as_what_it_decided_and_a_given_patch_stays():
    config, frame = frame_of("L", (512, 512, 512), (1, 1, 1), patch_size=[64, 64, 64])
    assert frame.patch_size == (64, 64, 64)
    assert frame.batch_size > 2
    options = architecture_for(config, frame, Rung(32)).options
    assert "preset" not in options
    assert options["blocks_per_stage"] == [1, 3, 4, 6, 6][: len(options["features"])]


def test_small_scans_fill_the_memory_with_patches_but_not_with_more_than_the_dataset_has():
    assert frame_of("XL", (36, 50, 35), (1, 1, 1))[1].batch_size == CASES * 36 * 50 * 35 // (40 * 56 * 40)


def test_an_unknown_preset_is_refused_with_those_that_there_are():
    with pytest.raises(ConfigError, match="preset is 'S'; choose one of M, L, XL"):
        frame_of("S", (36, 50, 35), (1, 1, 1))
