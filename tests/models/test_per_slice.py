"""A 2D network on 3D patches, checked slice by slice."""

import pytest
import torch

from medseg.core.component import Component
from medseg.core.errors import ConfigError
from medseg.models.architectures import build_network
from medseg.models.per_slice import PerSlice

OPTIONS = {
    "features": [4, 4, 4],
    "kernel_sizes": [[3, 3]] * 3,
    "strides": [[1, 1], [2, 2], [2, 2]],
    "convs_per_stage": [1, 1, 1],
    "decoder_convs_per_stage": [1, 1],
    "deep_supervision": True,
}
SIZES = {0: (5, 8, 12), 1: (8, 5, 12), 2: (8, 12, 5)}

every_axis = pytest.mark.parametrize("axis", SIZES)


def per_slice(axis):
    torch.manual_seed(0)
    component = Component(name="unet", options=OPTIONS)
    network = build_network(component, in_channels=2, out_channels=3, dimensions=2, slice_axis=axis)
    return network, torch.randn(2, 2, *SIZES[axis])


@every_axis
def test_each_slice_gets_the_logits_of_the_2d_network(axis):
    network, x = per_slice(axis)
    logits = network.eval()(x)
    assert logits.shape == (2, 3, *SIZES[axis])
    for i in range(5):
        expected = network.network(x.select(2 + axis, i))
        torch.testing.assert_close(logits.select(2 + axis, i), expected)


@every_axis
def test_deep_supervision_keeps_the_number_of_slices(axis):
    network, x = per_slice(axis)
    full, half = network.train()(x)
    assert full.shape == (2, 3, *SIZES[axis])
    assert half.shape == (2, 3, *(size if i == axis else size // 2 for i, size in enumerate(SIZES[axis])))
    expected = network.network(x.select(2 + axis, 4))
    torch.testing.assert_close(full.select(2 + axis, 4), expected[0])
    torch.testing.assert_close(half.select(2 + axis, 4), expected[1])


def test_the_inner_network_saves_under_the_keys_of_the_2d_network():
    network, _ = per_slice(0)
    plain = build_network(Component(name="unet", options=OPTIONS), in_channels=2, out_channels=3, dimensions=2)
    assert list(network.network.state_dict()) == list(plain.state_dict())


@every_axis
def test_the_whole_forward_is_one_exported_graph(axis):
    network, x = per_slice(axis)
    network.eval()
    torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), network(x))


@pytest.mark.parametrize("axis", [-1, 3])
def test_an_axis_outside_the_volume_is_refused(axis):
    with pytest.raises(ConfigError, match="expected 0, 1 or 2"):
        PerSlice(torch.nn.Identity(), axis)
