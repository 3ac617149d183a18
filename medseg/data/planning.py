"""From a fingerprint to a plan: published rules first, then a network that fits the time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from medseg.core.component import Component, build
from medseg.core.config import Config
from medseg.core.errors import ConfigError
from medseg.core.plan import Fingerprint, Intensity, Triple, TripleMm
from medseg.data.architecture import Rung as Rung
from medseg.data.architecture import Stages, options_for, reason_for, size_multiple
from medseg.data.intensity import INTENSITIES
from medseg.data.presets import LARGEST, patches_that_fit, preset_of

ANISOTROPIC = 3.0  # spacing ratio beyond which an axis is treated apart
GPU_VOXELS = 128**3
CPU_VOXELS = 64 * 64 * 48
MAX_STAGES = 6
FEWEST_PATCH_VOXELS = 8  # along an axis: half of it still makes a stage


@dataclass(frozen=True)
class Frame:
    """What does not depend on the time: grid, patch and the shape of the network."""

    dimensions: int
    slice_axis: int | None
    spacing_mm: TripleMm
    patch_size: Triple
    kernel_sizes: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    reasons: dict[str, str]
    batch_size: int = 2

    @property
    def stages(self) -> Stages:
        """Kernels, strides and patch along the axes that the network sees."""
        return Stages(
            self.kernel_sizes, self.strides, [n for axis, n in enumerate(self.patch_size) if axis != self.slice_axis]
        )


def target_spacing(fingerprint: Fingerprint) -> TripleMm:
    """Median spacing an axis; along a coarse axis with few voxels its 10th percentile, so that fewer slices are thrown away.

    Source: Isensee 2021, doi:10.1038/s41592-020-01008-z, supplementary note 2.
    """
    spacings = np.array(fingerprint.spacings_mm)
    target = np.median(spacings, axis=0)
    coarse = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != coarse]
    few_voxels = fingerprint.median_shape[coarse] * ANISOTROPIC < min(fingerprint.median_shape[a] for a in others)
    if target[coarse] > ANISOTROPIC * max(target[a] for a in others) and few_voxels:
        target[coarse] = max(np.percentile(spacings[:, coarse], 10), max(target[a] for a in others) + 1e-5)
    i, j, k = (round(float(s), 5) for s in target)
    return i, j, k


def make_frame(config: Config, fingerprint: Fingerprint, *, max_voxels: int) -> Frame:
    """Grid, patch and stages for ``config``; ``max_voxels``, or a preset, bounds the patch.

    Raises ConfigError for a patch that cannot be.
    """
    asked = config.plan.architecture
    preset = preset_of(asked.name, asked.options)
    if preset is None:
        return _frame(config, fingerprint, max_voxels)
    voxels = LARGEST
    while True:
        frame = _frame(config, fingerprint, voxels)
        options = architecture_for(config, frame, Rung(32)).options
        patches = patches_that_fit(preset, options, tuple(frame.stages.patch), len(config.labels))
        if patches or config.plan.patch_size != "auto" or voxels < 64**2:
            break
        voxels = int(voxels * 0.95)
    why = f"what {preset.memory_gb} GB hold: preset {asked.options['preset']}"
    reasons = {**frame.reasons, "batch_size": why}
    if config.plan.patch_size == "auto":
        reasons["patch_size"] = f"shape of the median case, cut down to {why}"
    held = max(1, int(np.prod(np.array(fingerprint.shapes), axis=1).sum() // math.prod(frame.patch_size)))
    return replace(frame, batch_size=max(2, min(patches, held)), reasons=reasons)


def _frame(config: Config, fingerprint: Fingerprint, max_voxels: int) -> Frame:
    reasons = {}
    asked = config.plan.spacing_mm
    spacing = target_spacing(fingerprint) if asked == "auto" else asked
    reasons["spacing_mm"] = "median of the cases" if asked == "auto" else "given"
    there = np.array(fingerprint.shapes) * np.array(fingerprint.spacings_mm) / spacing  # each case on the plan's grid
    shape = [max(1, round(float(n))) for n in np.median(there, axis=0)]
    coarse = int(np.argmax(spacing)) if max(spacing) > 1.5 * min(spacing) else int(np.argmin(shape))
    dimensions = config.plan.dimensions
    if dimensions == "auto":
        dimensions = 2 if shape[coarse] < 8 else 3
        reasons["dimensions"] = f"median of {shape[coarse]} slices is " + (
            "too few for 3D" if dimensions == 2 else "enough for 3D"
        )
    else:
        reasons["dimensions"] = "given"
    slice_axis = coarse if dimensions == 2 else None
    if config.plan.patch_size == "auto":
        patch = _patch(shape, spacing, max_voxels, slice_axis)
        cut = math.prod(patch) < math.prod(n for axis, n in enumerate(shape) if axis != slice_axis)
        bound = f"cut down to what the device takes ({max_voxels} voxels in 3D)" if cut else "fits whole"
        reasons["patch_size"] = f"the median case has {' x '.join(map(str, shape))} voxels at that spacing; {bound}"
    else:
        patch = _given_patch(config.plan.patch_size, slice_axis)
        reasons["patch_size"] = "given"
    name = config.plan.architecture.name
    whole = shape if config.plan.patch_size == "auto" else patch
    kernels, strides, patch = _stages(patch, spacing, slice_axis, whole)
    if config.plan.patch_size == "auto" and size_multiple(name) > 1:
        patch = [n if axis == slice_axis else _up(n, size_multiple(name)) for axis, n in enumerate(patch)]
        reasons["patch_size"] += f", then up to multiples of {size_multiple(name)}, which {name} needs"
    if math.prod(patch) > 2**28:
        raise ConfigError(f"plan.patch_size {list(patch)} is too large: {math.prod(patch)} voxels, at most {2**28}")
    i, j, k = patch
    frame = Frame(dimensions, slice_axis, spacing, (i, j, k), kernels, strides, reasons)
    reasons["architecture"] = reason_for(name, frame.stages)
    return frame


def _up(n: int, multiple: int) -> int:
    return math.ceil(n / multiple) * multiple


def _given_patch(size: Sequence[int], slice_axis: int | None) -> list[int]:
    patch = list(size)
    if len(patch) == 2:
        if slice_axis is None:
            raise ConfigError(f"plan.patch_size {patch} has two sizes, a 3D plan needs three")
        patch.insert(slice_axis, 1)
    if slice_axis is not None:
        patch[slice_axis] = 1
    return patch


def _patch(shape: Sequence[int], spacing: TripleMm, max_voxels: int, slice_axis: int | None) -> list[int]:
    """The largest patch of the shape of the median case, shrunk evenly in millimetres down to ``max_voxels``."""
    flat = [axis == slice_axis for axis in range(3)]
    patch = [1 if f else n for f, n in zip(flat, shape, strict=True)]
    if slice_axis is not None:
        max_voxels = max(max_voxels // 3, 64 * 64)  # 256 x 256 where a 3D patch has 64 x 64 x 48
    while math.prod(patch) > max_voxels and (able := [a for a in range(3) if patch[a] > FEWEST_PATCH_VOXELS]):
        largest = max(able, key=lambda a: patch[a] * spacing[a])
        patch[largest] = max(FEWEST_PATCH_VOXELS, math.floor(patch[largest] * 0.95))
    return patch


def _stages(
    patch: Sequence[int], spacing: TripleMm, slice_axis: int | None, whole: Sequence[int]
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...], list[int]]:
    """Kernels and strides of each stage, and the patch rounded to what they divide: up where it holds the ``whole`` case.

    An axis is halved while at least 4 voxels remain and its spacing is within twice the finest still being halved;
    a kernel is 1 along an axis so coarse that its neighbours say little.
    """
    axes = [axis for axis in range(3) if axis != slice_axis]
    size = {a: float(patch[a]) for a in axes}
    mm = {a: spacing[a] for a in axes}
    halvings = dict.fromkeys(axes, 0)
    kernels, strides = [], [tuple(1 for _ in axes)]
    while True:
        finest = min(mm.values())
        kernels.append(tuple(3 if mm[a] < 2 * finest or halvings[a] else 1 for a in axes))
        able = [a for a in axes if size[a] >= 8]
        if not able and len(strides) == 1:
            able = axes  # tiny volumes: a U-Net has two stages at least, and the patch is padded
        if not able or len(strides) == MAX_STAGES:
            break
        finest_able = min(mm[a] for a in able)
        step = [a for a in able if mm[a] < 2 * finest_able]
        for a in step:
            size[a], mm[a], halvings[a] = size[a] / 2, mm[a] * 2, halvings[a] + 1
        strides.append(tuple(2 if a in step else 1 for a in axes))
    wanted = [max(n, FEWEST_PATCH_VOXELS // 2) for n in patch]
    rounded = [1] * 3
    for a in axes:
        unit = 2 ** halvings[a]
        rounded[a] = unit * (math.ceil(wanted[a] / unit) if patch[a] >= whole[a] else max(1, round(wanted[a] / unit)))
    return tuple(kernels), tuple(strides), rounded


def architecture_for(config: Config, frame: Frame, rung: Rung) -> Component:
    """The network of ``frame`` and ``rung``; options given in the config overrule."""
    asked = config.plan.architecture
    return Component(name=asked.name, options=options_for(asked.name, asked.options, rung, frame.stages))


def intensities_for(config: Config, fingerprint: Fingerprint) -> tuple[Intensity, ...]:
    """As asked, else for CT the window that the structures fill in all cases, and each volume's own z-score for anything else.

    What a ``ct_window`` in the config leaves open is measured. Raises ConfigError for an unknown scheme or option, or
    where the schemes are not as many as the channels.
    """
    asked = config.plan.intensity
    if asked == "auto":
        asked = Component(name="ct_window" if config.modality == "CT" else "z_score")
    schemes = asked if isinstance(asked, tuple) else (asked,) * fingerprint.channels
    if len(schemes) != fingerprint.channels:
        raise ConfigError(
            f"plan.intensity has {len(schemes)} entries, the images have {fingerprint.channels} channel(s)"
        )
    found = []
    for scheme, f in zip(schemes, fingerprint.foreground, strict=True):
        if scheme.name == "ct_window":
            measured = {"lower": f.percentile_0_5, "upper": f.percentile_99_5, "mean": f.mean, "sd": f.sd}
            scheme = Component(name=scheme.name, options=measured | scheme.options)
        build("plan.intensity", INTENSITIES, scheme)
        found.append(Intensity(scheme=scheme))
    return tuple(found)


def mirror_axes_for(config: Config, patch: Triple) -> tuple[tuple[int, ...], str]:
    """The axes to mirror, and why.

    None for CT and MR: every scan is stored as RAS, so front and back or left and right tell structures apart.
    Hippocampus, 600 steps: mean validation Dice 0.876 with none, 0.832 with every axis (benchmarks/README.md).
    Images without an anatomical orientation are mirrored along every axis, but not where that would make of a structure
    its missing partner. Raises ConfigError where the config asks for that.
    """
    asked, alone = config.plan.mirror_axes, config.structure_labels.one_sided
    lonely = f"{alone[0]!r} has no partner on the other side" if alone else ""
    if asked != "auto":
        if 0 in asked and alone:
            raise ConfigError(
                f"plan.mirror_axes {list(asked)}: axis 0 turns left into right, and {lonely}; leave axis 0 out"
            )
        return tuple(sorted(set(asked))), "given"
    if config.modality in ("CT", "MR"):
        return (), f"{config.modality} has an orientation: front and back, left and right tell structures apart"
    axes = tuple(axis for axis in range(3) if patch[axis] > 1 and not (axis == 0 and alone))
    return axes, "no anatomical orientation" + (f"; not axis 0: {lonely}" if alone else "")
