"""The contract that every architecture keeps, in 2D and 3D, with the options that the planner gives it."""

import math

import pytest
import torch
from torch import nn

from medseg.core.component import Component
from medseg.core.config import config_from
from medseg.core.errors import ConfigError
from medseg.core.plan import Fingerprint, ForegroundIntensity, Plan
from medseg.data.architecture import PLANNERS, size_multiple
from medseg.data.planning import Rung, architecture_for, make_frame
from medseg.losses import dice_ce
from medseg.losses.deep_supervision import deep_supervision
from medseg.models.architectures import ARCHITECTURES, build_network, supervision_weights
from medseg.models.bundle import load_model, weights_of
from tests.models.tiny_model import tiny_model, tiny_plan

GRIDS = {  # patch and spacing in mm
    2: {"even": ([32, 24, 1], (1.0, 1.0, 4.0)), "odd": ([19, 37, 1], (1.0, 1.0, 4.0))},
    3: {
        "even": ([16, 24, 16], (1.0, 1.0, 1.0)),
        "odd": ([9, 17, 11], (1.0, 1.0, 1.0)),
        "thin": ([32, 32, 4], (0.5, 0.5, 4.0)),
    },
}
SLOW = {("swin_unetr", 3), ("unet_plus_plus", 3)}  # to overfit: half a minute each
LEARNING_RATE = {"swin_unetr": 1e-3}

each = pytest.mark.parametrize("name", ARCHITECTURES)
both_dimensions = pytest.mark.parametrize("dimensions", [2, 3])
LARGE = ("swin_unetr", "mednext")  # seconds a grid in 3D
each_grid = pytest.mark.parametrize(
    ("name", "dimensions", "grid"),
    [
        pytest.param(name, d, grid, marks=[pytest.mark.slow] * (name in LARGE and d == 3 and grid != "even"))
        for name in ARCHITECTURES
        for d, grids in GRIDS.items()
        for grid in grids
    ],
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def planned(name, dimensions, grid, *, features=8, **options):
    """The architecture as planned for a patch given in the config, and that patch without the axis of slices."""
    patch, spacing = GRIDS[dimensions][grid]
    window = ForegroundIntensity(mean=0, sd=1, percentile_0_5=-1, percentile_99_5=1, minimum=-1, maximum=1)
    measured = Fingerprint(
        cases=1,
        channels=2,
        median_shape=patch,
        spacings_mm=(spacing,),
        shapes=(patch,),
        foreground=(window,) * 2,
        voxels_per_structure={},
        cases_per_structure={},
    )
    config = config_from(
        {
            "data": {"root": "x"},
            "labels": {"background": 0, "a": 1, "b": 2},
            "modality": "other",
            "plan": {"dimensions": dimensions, "patch_size": patch, "architecture": {"name": name, **options}},
        }
    )
    frame = make_frame(config, measured, max_voxels=10**6)
    return architecture_for(config, frame, Rung(features)), tuple(frame.stages.patch)


def network_of(component, dimensions, **options):
    whole = Component(name=component.name, options={**component.options, **options})
    return build_network(whole, in_channels=2, out_channels=3, dimensions=dimensions)


def listed(logits):
    return logits if isinstance(logits, list) else [logits]


def test_every_architecture_has_a_planner():
    assert set(PLANNERS) == set(ARCHITECTURES)


@each_grid
def test_logits_are_as_large_as_the_patch_and_every_parameter_learns(name, dimensions, grid):
    component, patch = planned(name, dimensions, grid)
    network = network_of(component, dimensions, deep_supervision=True).train()
    with torch.no_grad():
        for parameter in network.parameters():  # a fresh residual branch may be switched off
            parameter.add_(0.1 * torch.randn_like(parameter))
    logits = listed(network(torch.randn(1, 2, *patch)))
    assert logits[0].shape == (1, 3, *patch)
    assert all(one.dtype == torch.float32 and one.shape[:2] == (1, 3) for one in logits)
    sum(one.square().mean() for one in logits).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any() or key.endswith("bias"), key  # a norm undoes the bias before it
    assert network.eval()(torch.randn(1, 2, *patch)).shape == (1, 3, *patch)


@each
@both_dimensions
def test_sizes_that_the_planner_does_not_make_are_padded_within_or_a_multiple_of_the_strides(name, dimensions):
    component, patch = planned(name, dimensions, "even")
    if name in ("unet", "resenc_unet"):
        assert all(
            n % math.prod(row[axis] for row in component.options["strides"]) == 0 for axis, n in enumerate(patch)
        )
        return
    network = network_of(component, dimensions).train()
    for size in ((1, 7, 3), (5, 2, 9)):
        assert network(torch.randn(1, 2, *size[:dimensions])).shape == (1, 3, *size[:dimensions])


@each
@both_dimensions
def test_one_seed_makes_one_network_whose_state_does_not_depend_on_deep_supervision(name, dimensions):
    component, _ = planned(name, dimensions, "even")
    states = []
    for flag in (True, False):
        torch.manual_seed(7)
        states.append(weights_of(network_of(component, dimensions, deep_supervision=flag)).state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert all(value.dtype == torch.float32 for value in states[0].values())


@each
@both_dimensions
def test_a_model_folder_gives_the_same_logits(name, dimensions, tmp_path):
    component, patch = planned(name, dimensions, "even")
    flat = {"dimensions": 2, "slice_axis": 2} if dimensions == 2 else {}
    plan = tiny_plan(
        architecture=component.model_dump(),
        channels=2,
        intensity=[{"scheme": "z_score"}] * 2,
        patch_size=[*patch, 1][:3],
        **flat,
    )
    torch.manual_seed(3)
    network = build(plan).eval()
    folder = tiny_model(tmp_path / "model", plan=plan, states={"fold_0": weights_of(network).state_dict()})
    x = torch.randn(1, 2, *plan.patch_size)
    with torch.inference_mode():
        expected = network(x)
        assert expected.std() > 0
        assert torch.equal(load_model(folder).networks[0].eval()(x), expected)


def build(plan: Plan) -> nn.Module:
    return build_network(
        plan.architecture, in_channels=2, out_channels=3, dimensions=plan.dimensions, slice_axis=plan.slice_axis
    )


@pytest.mark.parametrize(
    ("name", "dimensions"),
    [
        pytest.param(name, dimensions, marks=[pytest.mark.slow] * ((name, dimensions) in SLOW))
        for name in ARCHITECTURES
        for dimensions in (2, 3)
    ],
)
def test_one_patch_is_learned_to_a_dice_above_0_9(name, dimensions):
    component, patch = planned(name, dimensions, "even", features=8)
    target = torch.zeros(1, *patch, dtype=torch.int64)
    target[(0, *(slice(0, n // 2) for n in patch))] = 1
    target[(0, *(slice(n // 2, n) for n in patch))] = 2
    x = torch.stack((target, target == 2), dim=1) + 0.3 * torch.randn(1, 2, *patch)
    network = network_of(component, dimensions, deep_supervision=True).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE.get(name, 5e-3))
    loss = deep_supervision(dice_ce(), supervision_weights(network))
    for _ in range(100):
        optimizer.zero_grad()
        loss(network(x), target).backward()
        optimizer.step()
        with torch.no_grad():
            predicted = network.eval()(x).argmax(1)
            network.train()
        dice = [
            2 * ((predicted == s) & (target == s)).sum() / ((predicted == s).sum() + (target == s).sum())
            for s in (1, 2)
        ]
        if min(dice) > 0.9:
            break
    assert min(dice) > 0.9, "after 100 steps"


@each
@both_dimensions
def test_what_training_checks_beforehand_can_be_built_on_the_meta_device(name, dimensions):
    component, _ = planned(name, dimensions, "even")
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in network_of(component, dimensions).parameters()) > 0


@each
@both_dimensions
def test_an_unknown_option_is_refused_by_name(name, dimensions):
    with pytest.raises(ConfigError, match=f"architecture {name}: unknown option 'depht'"):
        build_network(Component(name=name, options={"depht": 3}), in_channels=1, out_channels=2, dimensions=dimensions)


@each
def test_patches_that_are_planned_need_no_padding(name):
    for dimensions in (2, 3):
        for size in ((36, 50, 35), (13, 90, 61)):
            window = ForegroundIntensity(mean=0, sd=1, percentile_0_5=-1, percentile_99_5=1, minimum=-1, maximum=1)
            measured = Fingerprint(
                cases=1,
                channels=1,
                median_shape=size,
                spacings_mm=((1.0, 1.0, 1.0),),
                shapes=(size,),
                foreground=(window,),
                voxels_per_structure={},
                cases_per_structure={},
            )
            config = config_from(
                {
                    "data": {"root": "x"},
                    "labels": {"background": 0, "a": 1},
                    "modality": "MR",
                    "plan": {"dimensions": dimensions, "architecture": name},
                }
            )
            frame = make_frame(config, measured, max_voxels=10**6)
            assert all(n % size_multiple(name) == 0 for n in frame.stages.patch)
            assert (size_multiple(name) > 1) == ("multiples of" in frame.reasons["patch_size"])
