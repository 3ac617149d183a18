"""The classical networks against published counts, MONAI's ResNet, and features followed by hand."""

import pytest
import torch
from monai.networks.nets.mednext import create_mednext
from monai.networks.nets.resnet import resnet18, resnet50
from torch import nn

from medseg.core.errors import ConfigError
from medseg.models.architectures import ARCHITECTURES
from medseg.models.deeplab import ASPP
from medseg.models.encoders import RESNETS, VGG16, ResNet, group_norm
from medseg.models.fcn import fcn
from medseg.models.padded import Padded
from medseg.models.segnet import segnet

TWOS = [[2, 2]] * 5
# Parameters of torchvision's models (docs.pytorch.org/vision/stable/models), less those of the last, linear layer.
PUBLISHED = {
    "resnet18": 11_689_512 - 513_000,
    "resnet34": 21_797_672 - 513_000,
    "resnet50": 25_557_032 - 2_049_000,
    "resnet101": 44_549_160 - 2_049_000,
}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [m for m in module.modules() if isinstance(m, nn.Conv2d)]


def test_vgg16_has_its_13_convolutions_of_64_to_512() -> None:
    network = VGG16(2, 3, (64, 128, 256, 512, 512), TWOS)
    found = convolutions(network)
    assert [c.out_channels for c in found] == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    assert all(c.kernel_size == (3, 3) for c in found)
    # 14,714,688 without its top (keras.io/api/applications/vgg), of which 4,224 are the biases that a norm makes needless
    assert sum(c.weight.numel() for c in found) == 14_714_688 - 4_224
    assert [tuple(f.shape[1:]) for f in network(torch.zeros(1, 3, 64, 96))] == [
        (64, 32, 48),
        (128, 16, 24),
        (256, 8, 12),
        (512, 4, 6),
        (512, 2, 3),
    ]


@pytest.mark.parametrize("name", RESNETS)
def test_resnets_have_the_published_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        network = ResNet(2, name, in_channels=3, features=(64, 128, 256, 512), strides=TWOS)
    assert count(network) == PUBLISHED[name]


@pytest.mark.parametrize(("name", "peer"), [("resnet18", resnet18), ("resnet50", resnet50)])
def test_resnet_features_are_those_of_monai_with_its_weights(name: str, peer: object) -> None:
    torch.manual_seed(0)
    theirs = peer(
        spatial_dims=2,
        n_input_channels=3,
        conv1_t_stride=2,
        feed_forward=False,
        shortcut_type="B",
        bias_downsample=False,
    )
    ours = ResNet(2, name, in_channels=3, features=(64, 128, 256, 512), strides=TWOS)
    # MONAI lists a block's projection last, as we do; only the norms differ, so both are told to do nothing.
    for module in [*theirs.modules(), *ours.modules()]:
        for key, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d | nn.GroupNorm):
                setattr(module, key, nn.Identity())
    weights = [c.weight.detach() * 0.5 for c in convolutions(theirs)]
    assert [w.shape for w in weights] == [c.weight.shape for c in convolutions(ours)]
    for one, another, weight in zip(convolutions(theirs), convolutions(ours), weights, strict=True):
        one.weight.data, another.weight.data = weight, weight.clone()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected, found = theirs(x), ours(x)[-1].mean((2, 3))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(("fuse", "widths"), [(8, [4096, 512, 256]), (16, [4096, 512]), (32, [4096])])
def test_fcn_fuses_pool4_and_pool3(fuse: int, widths: list[int]) -> None:
    with torch.device("meta"):
        network = fcn(in_channels=3, out_channels=21, dimensions=2, fuse=fuse)
    assert [score.in_channels for score in network.scores] == widths


def test_fcn_8s_on_vgg16_is_as_large_as_published() -> None:
    with torch.device("meta"):
        network = fcn(in_channels=3, out_channels=21, dimensions=2)
    weights = [c for c in convolutions(network) if c.out_channels != 21]
    assert (
        sum(c.weight.numel() + c.out_channels for c in weights) == 134_260_544
    )  # VGG16 less fc8: 138,357,544 - 4,097,000


@pytest.mark.parametrize("dimensions", [2, 3])
def test_segnet_puts_each_maximum_back_where_it_was(dimensions: int) -> None:
    network = segnet(in_channels=1, out_channels=1, dimensions=dimensions, features=[1] * 5)
    network.encoder = nn.ModuleList([nn.Identity()] * 5)
    network.decoder = nn.ModuleList([nn.Identity()] * 5)
    network.head = nn.Identity()
    x = torch.rand(1, 1, *(33, 7, 18)[:dimensions])
    found = network(x)
    blocks = x.shape[2:]
    kept = found != 0
    expected = 1
    for n in blocks:
        expected *= -(-n // 32)
    assert int(kept.sum()) == expected  # one maximum in each block of 2^5
    assert torch.equal(found[kept], x[kept])
    assert found.max() == x.max()


def test_dilated_branches_look_as_far_as_their_rates() -> None:
    torch.manual_seed(0)
    aspp = ASPP(2, 8, 8, (6, 12))
    for rate, branch in zip((0, 6, 12), aspp.branches, strict=True):
        x = torch.zeros(1, 8, 41, 41)
        x[..., 20, 20] = 1
        seen = branch[0](x).abs().sum((0, 1)).nonzero()
        assert {tuple(s) for s in (seen - 20).tolist()} == {(i, j) for i in (-rate, 0, rate) for j in (-rate, 0, rate)}


def test_dilation_keeps_the_size_that_strides_would_halve() -> None:
    for strides, dilations, size in (
        (TWOS, (1, 1, 1, 1), 2),
        ([[2, 2]] * 4 + [[1, 1]], (1, 1, 1, 2), 4),
        ([[2, 2]] * 3 + [[1, 1]] * 2, (1, 1, 2, 4), 8),
    ):
        network = ResNet(2, "resnet18", in_channels=1, features=(8, 8, 8, 8), strides=strides, dilations=dilations)
        assert network(torch.zeros(1, 1, 64, 64))[-1].shape[2:] == (size, size)


def test_padding_is_zeros_at_the_far_end_and_is_cut_off_again() -> None:
    seen: list[torch.Tensor] = []

    class Network(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return 2 * x

    x = torch.randn(1, 1, 5, 8)
    assert torch.equal(Padded(Network(), (4, 4))(x), 2 * x)
    assert seen[-1].shape == (1, 1, 8, 8)
    assert torch.equal(seen[-1][..., :5, :], x)
    assert not seen[-1][..., 5:, :].any()
    assert Padded(Network(), (16, 16))(x).shape == x.shape
    assert seen[-1].shape == (1, 1, 16, 32)  # two units at least
    assert Padded(Network(), (1, 2))(x) is not None
    assert seen[-1] is x


def test_group_norm_keeps_four_channels_a_group() -> None:
    assert {c: group_norm(c).num_groups for c in (1, 4, 8, 24, 32, 48, 64)} == {
        1: 1,
        4: 1,
        8: 2,
        24: 6,
        32: 8,
        48: 8,
        64: 8,
    }


def test_no_network_norms_over_the_batch() -> None:
    for name in (
        "fcn",
        "segnet",
        "pspnet",
        "deeplabv3plus",
        "attention_unet",
        "segresnet",
        "unet_plus_plus",
        "mednext",
    ):
        with torch.device("meta"):
            network = ARCHITECTURES[name](in_channels=1, out_channels=2, dimensions=3)
        assert not [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)], name


def test_mednext_is_monais_s_by_default() -> None:
    with torch.device("meta"):
        ours = ARCHITECTURES["mednext"](in_channels=1, out_channels=14, dimensions=3)
        theirs = create_mednext("S", 3, 1, 14)
    assert {k: v.shape for k, v in ours.network.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("fcn", {"fuse": 4}, "fuse is 4; choose 8, 16 or 32"),
        ("fcn", {"encoder": "vgg19"}, "encoder is 'vgg19'; choose one of vgg16, resnet18"),
        ("fcn", {"features": [8, 8]}, r"features is \[8, 8\]; expected 5"),
        ("pspnet", {"encoder": "vgg16"}, "encoder is 'vgg16'; choose one of resnet18"),
        ("pspnet", {"dilations": [1, 2]}, "dilations is .* expected 4"),
        ("segnet", {"strides": [[2, 2]] * 4}, "strides is .* expected 5 entries of 2 numbers"),
        ("segnet", {"strides": [[3, 3]] * 5}, "each 1 or 2"),
        ("deeplabv3plus", {"rates": [0]}, r"rates is \[0\]"),
        ("segresnet", {"features": [8, 24]}, "twice those of the one before"),
        ("swin_unetr", {"features": [16, 32, 64, 128, 256]}, "multiple of 12"),
        ("mednext", {"kernel": 4}, "kernel is 4"),
        ("attention_unet", {"features": [8]}, "two resolution stages"),
        ("segresnet", {"dimensions": 4}, "dimensions is 4"),
    ],
)
def test_options_that_do_not_fit_together_are_refused_by_name(
    name: str, wrong: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ARCHITECTURES[name](**{"in_channels": 1, "out_channels": 2, "dimensions": 2, **wrong})
