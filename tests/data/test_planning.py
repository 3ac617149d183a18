"""Grids, patches and stages by hand, and by nnU-Net's own plan for a dataset we have."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from medseg.core.config import Config, config_from
from medseg.core.errors import ConfigError
from medseg.core.plan import Fingerprint, ForegroundIntensity
from medseg.data.planning import Rung, architecture_for, intensities_for, make_frame, mirror_axes_for, target_spacing

WINDOW = ForegroundIntensity(mean=50, sd=20, percentile_0_5=-10, percentile_99_5=120, minimum=-50, maximum=300)


def fingerprint_of(shape: tuple[int, int, int], *spacings: tuple[float, float, float]) -> Fingerprint:
    return Fingerprint(
        cases=len(spacings),
        channels=1,
        median_shape=shape,
        spacings_mm=spacings,
        shapes=(shape,) * len(spacings),
        foreground=(WINDOW,),
        voxels_per_structure={"liver": 1000.0},
        cases_per_structure={"liver": len(spacings)},
    )


def config_of(**plan: object) -> Config:
    labels = {"background": 0, "liver": 1}
    return config_from({"data": {"root": "x"}, "labels": labels, "modality": "CT", "plan": plan})


def test_the_target_spacing_is_the_median_of_each_axis() -> None:
    found = target_spacing(fingerprint_of((100, 100, 90), (1, 1, 2), (1, 1.2, 2.5), (3, 1.1, 2)))
    assert found == pytest.approx((1, 1.1, 2))


def test_a_coarse_axis_with_few_slices_takes_its_tenth_percentile() -> None:
    slices = (4.0, 5.0, 6.0, 7.0, 8.0)
    found = target_spacing(fingerprint_of((300, 300, 40), *((0.7, 0.7, s) for s in slices)))
    assert found == pytest.approx((0.7, 0.7, np.percentile(slices, 10)))


def test_the_patch_and_stages_of_hippocampus_are_those_of_nnunet(real_data: Path) -> None:
    plans = real_data.parent / "models" / "nnunet_hippocampus" / "plans.json"
    if not plans.exists():
        pytest.skip("no nnU-Net plan beside the real scans")
    nnunet = json.loads(plans.read_text())["configurations"]["3d_fullres"]
    frame = make_frame(config_of(), fingerprint_of((36, 50, 35), (1, 1, 1)), max_voxels=10**9)
    assert frame.patch_size == (40, 56, 40)
    assert sorted(frame.patch_size) == sorted(nnunet["patch_size"])
    kwargs = nnunet["architecture"]["arch_kwargs"]
    assert [list(s) for s in frame.strides] == kwargs["strides"]
    assert [list(k) for k in frame.kernel_sizes] == kwargs["kernel_sizes"]
    assert architecture_for(config_of(), frame, Rung(32)).options["features"] == kwargs["features_per_stage"]


@pytest.mark.parametrize("name", ["unet", "resenc_unet", "attention_unet"])
def test_features_that_are_given_say_how_many_stages_the_network_has(name: str) -> None:
    def options(features: list[int]) -> dict[str, object]:
        config = config_of(architecture={"name": name, "features": features})
        frame = make_frame(config, fingerprint_of((64, 64, 48), (1, 1, 1)), max_voxels=10**9)
        assert len(frame.strides) == 5
        return architecture_for(config, frame, Rung(32)).options

    whole, three = options([8, 16, 32, 64, 128]), options([8, 16, 32])
    assert three["features"] == [8, 16, 32]
    assert three["strides"] == whole["strides"][:2] if name == "attention_unet" else whole["strides"][:3]
    with pytest.raises(ConfigError, match="features has 6 entries, but a patch of 64x64x48 makes 5 stages"):
        options([8, 16, 32, 64, 128, 256])


@pytest.mark.parametrize("shape", [(250, 250, 12), (12, 250, 250), (7, 7, 7), (1, 9, 300), (512, 512, 300), (3, 3, 3)])
@pytest.mark.parametrize("spacing", [(0.4, 0.4, 9.0), (1.0, 1.0, 1.0), (9.0, 0.4, 0.4)])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_every_patch_is_divided_by_the_strides(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], dimensions: int
) -> None:
    frame = make_frame(config_of(dimensions=dimensions), fingerprint_of(shape, spacing), max_voxels=64 * 64 * 48)
    axes = [axis for axis in range(3) if axis != frame.slice_axis]
    assert len(axes) == dimensions
    assert len(frame.strides) >= 2
    bottleneck = []
    for place, axis in enumerate(axes):
        whole = math.prod(stride[place] for stride in frame.strides)
        assert frame.patch_size[axis] % whole == 0
        bottleneck.append(frame.patch_size[axis] // whole)
    assert math.prod(bottleneck) > 1  # instance norm needs more than one voxel
    if dimensions == 2:
        assert frame.slice_axis is not None
        assert frame.patch_size[frame.slice_axis] == 1


def test_the_patch_follows_the_cases_on_the_plans_grid_not_their_voxels() -> None:
    """Half the cases at 1 mm along all axes, half in slices of 9 mm: at the median of 5 mm both have 20 slices or fewer."""
    mixed = fingerprint_of((100, 100, 90), (1, 1, 1), (1, 1, 9)).model_copy(
        update={"shapes": ((100, 100, 90), (100, 100, 11))}
    )
    frame = make_frame(config_of(), mixed, max_voxels=10**7)
    assert frame.spacing_mm == (1, 1, 5)
    assert frame.patch_size[2] == 20  # 18 and 19.8 slices


def test_a_stack_of_few_slices_is_planned_in_2d_along_its_coarse_axis() -> None:
    frame = make_frame(config_of(), fingerprint_of((256, 256, 5), (0.7, 0.7, 8.0)), max_voxels=10**6)
    assert (frame.dimensions, frame.slice_axis) == (2, 2)


def test_coarse_axes_are_halved_later_and_convolved_later() -> None:
    frame = make_frame(config_of(), fingerprint_of((256, 256, 24), (0.5, 0.5, 4.0)), max_voxels=10**7)
    assert frame.strides[1] == (2, 2, 1)
    assert frame.kernel_sizes[0] == (3, 3, 1)
    assert frame.kernel_sizes[-1] == (3, 3, 3)


def test_what_the_config_gives_is_taken() -> None:
    config = config_of(spacing_mm=[2, 2, 3], patch_size=[32, 48, 16], dimensions=3)
    frame = make_frame(config, fingerprint_of((90, 90, 60), (1, 1, 1)), max_voxels=10**5)
    assert frame.spacing_mm == (2, 2, 3)
    assert frame.patch_size == (32, 48, 16)


def test_a_patch_with_two_sizes_needs_a_2d_plan() -> None:
    with pytest.raises(ConfigError, match="two sizes"):
        make_frame(
            config_of(patch_size=[32, 32], dimensions=3), fingerprint_of((90, 90, 60), (1, 1, 1)), max_voxels=10**5
        )


def test_ct_is_windowed_inside_the_structures_and_mr_is_z_scored() -> None:
    measured = fingerprint_of((9, 9, 9), (1, 1, 1))
    (ct,) = intensities_for(config_of(), measured)
    assert ct.scheme.options == {"lower": -10, "upper": 120, "mean": 50, "sd": 20}
    (mr,) = intensities_for(config_of().model_copy(update={"modality": "MR"}), measured)
    assert mr.scheme.name == "z_score"


def test_an_intensity_in_the_config_is_taken_and_what_a_window_leaves_open_is_measured() -> None:
    measured = fingerprint_of((9, 9, 9), (1, 1, 1))
    (ct,) = intensities_for(config_of(intensity={"name": "ct_window", "lower": -160, "upper": 240}), measured)
    assert ct.scheme.options == {"lower": -160, "upper": 240, "mean": 50, "sd": 20}
    (own,) = intensities_for(config_of(intensity=["percentile"]), measured)
    assert own.scheme.name == "percentile"
    with pytest.raises(ConfigError, match="2 entries, the images have 1 channel"):
        intensities_for(config_of(intensity=["z_score", "none"]), measured)
    with pytest.raises(ConfigError, match="did you mean 'z_score'"):
        intensities_for(config_of(intensity="z_scor"), measured)


def mirroring(modality: str, names: tuple[str, ...] = ("liver",), **plan: object) -> tuple[tuple[int, ...], str]:
    labels = {"background": 0} | {name: n for n, name in enumerate(names, 1)}
    content = {"data": {"root": "x"}, "labels": labels, "modality": modality, "plan": plan}
    return mirror_axes_for(config_from(content), (32, 32, 1))


def test_mirroring_is_off_in_ct_and_mr_and_along_every_axis_of_a_picture() -> None:
    assert mirroring("CT")[0] == mirroring("MR")[0] == ()
    assert mirroring("other")[0] == (0, 1)
    assert mirroring("CT", mirror_axes=[2, 0])[0] == (0, 2)
    assert mirroring("other", mirror_axes=[])[0] == ()


def test_a_side_without_its_partner_is_never_mirrored() -> None:
    axes, why = mirroring("other", ("left_eye", "nose"))
    assert axes == (1,)
    assert "'left_eye' has no partner" in why
    assert mirroring("other", ("left_eye", "right_eye"))[0] == (0, 1)
    with pytest.raises(ConfigError, match="'left_eye' has no partner"):
        mirroring("other", ("left_eye", "nose"), mirror_axes=[0])


@pytest.mark.parametrize("voxels", [64 * 64 * 48, 128**3])
def test_a_picture_of_512_pixels_gets_a_patch_of_a_quarter_of_it_or_more(voxels: int) -> None:
    frame = make_frame(config_of(), fingerprint_of((512, 512, 1), (1, 1, 1)), max_voxels=voxels)
    assert (frame.dimensions, frame.slice_axis) == (2, 2)
    assert frame.patch_size == ((256, 256, 1) if voxels < 10**6 else (512, 512, 1))
