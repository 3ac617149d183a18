"""The transforms after the network of a MONAI bundle and its channels' names, as labels and regions of a plan."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from medseg.core.component import Component
from medseg.core.errors import ModelError
from medseg.models.importers.monai_config import BundleConfig
from medseg.models.importers.monai_pipeline import HARMLESS, Options, is_monais, plain_name

Stage = Literal["logits", "probabilities", "labels"]
# torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, ... 0)): the first region that is there gives the value.
_WHERE = re.compile(r"torch\.where\(x\[\[?(\d+)\]?\]>0(?:\.0)?,(\d+),")


@dataclass(frozen=True)
class After:
    """How outputs become labels.

    ``stage``: what the transforms so far made of the logits. ``inverted``: at what stage they came back to the scan's grid,
    linearly or from the ``nearest`` voxel. ``writes``: (channel, value) of each region, the first that is
    there gives the value. ``kept``: values of which the largest component stays.
    """

    stage: Stage = "logits"
    activation: Literal["none", "softmax", "sigmoid"] = "none"
    regions: bool = False
    inverted: Stage | None = None
    nearest: bool = False
    writes: tuple[tuple[int, int], ...] = ()
    kept: tuple[int, ...] | Literal["every"] = ()
    count: int = 1


@dataclass(frozen=True)
class Named:
    """What the outputs are: ``labels``, the ``regions`` in the order of writing, and the ``outputs`` in that order."""

    labels: dict[str, int]
    regions: tuple[dict[str, Any], ...] = ()
    outputs: tuple[int, ...] | None = None


def after_of(config: BundleConfig, image: str, *, resampled: bool, turned: bool) -> After:
    """The transforms of ``postprocessing``, which has ``image`` and pred. Raises ModelError naming what a plan cannot say."""
    found = After()
    for part in config.parts(config.content.get("postprocessing"), "postprocessing"):
        name = plain_name(part)
        options = Options(config, part, "postprocessing", "pred")
        if not options.check_keys("pred", image) or name in HARMLESS or name == "SaveImage":
            continue
        if name not in AFTER or not is_monais(part):
            raise options.error(
                f"is not a transform that medseg has; it has {', '.join((*HARMLESS, *AFTER))} for dictionaries"
            )
        found = AFTER[name](found, options)
        options.done()
        if name == "KeepLargestConnectedComponent" and resampled and found.inverted is None:
            raise options.error("comes before Invertd: medseg keeps components on the scan's grid; move it behind")
    if found.stage != "labels":
        raise config.error("postprocessing: neither argmax nor threshold makes labels of the outputs")
    if found.inverted is None and (resampled or turned):
        raise config.error("postprocessing: no Invertd brings the labels back to the scan's grid")
    if resampled and found.nearest:
        raise config.error(
            "postprocessing: Invertd has nearest_interp: true, so MONAI's rounding decides where two voxels are as near, which "
            "medseg does not have; only false, before AsDiscreted"
        )
    if resampled and found.inverted == "labels":
        raise config.error(
            "postprocessing: Invertd interpolates finished labels linearly (nearest_interp: false), which makes values that "
            "stand for nothing; put it before AsDiscreted"
        )
    if resampled and found.inverted == "probabilities" and found.activation == "sigmoid" and not found.regions:
        raise config.error("postprocessing: argmax of sigmoids that were interpolated, which medseg does not have")
    return found


def _activations(found: After, options: Options) -> After:
    softmax, sigmoid = options.take("softmax", False), options.take("sigmoid", False)
    options.fixed(other=None)
    if found.stage != "logits" or bool(softmax) == bool(sigmoid):
        raise options.error("must be softmax or sigmoid, once, before the outputs are labels")
    return replace(found, stage="probabilities", activation="softmax" if softmax else "sigmoid")


def _discrete(found: After, options: Options) -> After:
    argmax, threshold = options.take("argmax", False), options.take("threshold")
    options.fixed(to_onehot=None, rounding=None)
    if found.stage == "labels" or bool(argmax) == (threshold is not None):
        raise options.error("must be argmax or threshold, once")
    if argmax:
        return replace(found, stage="labels")
    expected = {"sigmoid": 0.5, "none": 0.0}.get(found.activation)
    if isinstance(threshold, bool) or threshold != expected:
        raise options.error(
            f"has threshold: {threshold!r} of {found.activation}; medseg has 0.5 of a sigmoid, or 0 of logits"
        )
    return replace(found, stage="labels", regions=True)


def _invert(found: After, options: Options) -> After:
    for name in ("transform", "orig_keys", "orig_meta_keys"):
        options.left.pop(name, None)
    nearest = options.take("nearest_interp", True)
    options.fixed(post_func=None)
    if found.inverted is not None or not isinstance(nearest, bool):
        raise options.error(f"comes twice, or has nearest_interp: {nearest!r}")
    return replace(found, inverted=found.stage, nearest=nearest)


def _where(found: After, options: Options) -> After:
    """The one Lambda that is read: regions become values, by torch.where of one after the other."""
    code = options.left.pop("func", None)
    options.fixed(overwrite=True, inv_func=None)
    text = "".join(code.split()) if isinstance(code, str) else ""
    pairs = _WHERE.findall(text)
    again = "".join(f"torch.where(x[[{n}]]>0,{value}," for n, value in pairs) + "0" + ")" * len(pairs)
    plain = text.removeprefix("$lambdax:").replace(">0.0,", ">0,")
    if not pairs or plain != again or not (found.stage == "labels" and found.regions) or found.writes or found.kept:
        raise options.error(f"has func: {str(code)[:60]!r}: code, which is not executed")
    return replace(found, writes=tuple((int(n), int(value)) for n, value in pairs))


def _largest(found: After, options: Options) -> After:
    labels, count = options.whole("applied_labels"), options.take("num_components", 1)
    options.fixed(is_onehot=None, independent=True, connectivity=None)
    if found.stage != "labels" or found.kept or not isinstance(count, int):
        raise options.error("must come once, and after labels are made")
    values = labels if isinstance(labels, list) else [labels]
    if labels is not None and not all(isinstance(value, int) and value > 0 for value in values):
        raise options.error(f"has applied_labels: {labels!r}; expected values of structures, from 1")
    if count < 1:
        raise options.error(f"has num_components: {count}; expected 1 or more")
    return replace(found, kept="every" if labels is None else tuple(values), count=count)


AFTER: dict[str, Callable[[After, Options], After]] = {
    "Activations": _activations,
    "AsDiscrete": _discrete,
    "Invert": _invert,
    "Lambda": _where,
    "KeepLargestConnectedComponent": _largest,
}


def named(config: BundleConfig, after: After, names: Sequence[str]) -> Named:
    """Labels, and regions where outputs are thresholded one by one, for outputs of these ``names``. Raises ModelError."""
    there = [n for n, name in enumerate(names) if name.casefold() == "background"]
    if there and (there != [0] or after.regions):
        file, value = (
            config.file.with_name("metadata.json"),
            dict(after.writes).get(there[-1], there[-1] + after.regions),
        )
        raise ModelError(
            f"{file}: channel_def calls output {there[-1]} {names[there[-1]]!r}, which gets the value {value}; medseg's background "
            "has 0"
        )
    if not after.regions:
        return Named({name: value for value, name in enumerate(names)})
    writes = after.writes
    if not writes:
        if len(names) != 1:
            raise config.error(
                f"postprocessing writes {len(names)} masks that may overlap ({', '.join(names)}); medseg writes one label map: "
                "add a Lambdad of torch.where that says which value each gives"
            )
        writes = ((0, 1),)
    channels, values = zip(*writes, strict=True)
    if sorted(channels) != list(range(len(names))):
        raise config.error(
            f"postprocessing: Lambdad gives values to the outputs {', '.join(map(str, channels))}; expected each of the "
            f"{len(names)} from 0 once"
        )
    if 0 in values or len({*values}) != len(values):
        raise config.error(
            f"postprocessing: Lambdad gives outputs the values {', '.join(map(str, values))}; expected another one for each, not 0"
        )
    labels, regions = {"background": 0}, []
    order = writes[::-1]  # what is looked at first writes last
    for n, (channel, value) in enumerate(order):
        later = [names[other] for other, _ in order[n + 1 :]]
        value_name = names[channel] + (f" without {' and '.join(later)}" if later else "")
        labels[value_name] = value
        regions.append({"name": names[channel], "structures": (value_name,)})
    return Named(labels, tuple(regions), tuple(channel for channel, _ in order))


def kept_components(after: After, labels: Mapping[str, int]) -> dict[str, tuple[Component, ...]]:
    """The post-processing of each structure whose largest component alone stays."""
    step = Component(name="largest_component", options={"count": after.count, "connectivity": 26})
    wanted = [value for value in labels.values() if value] if after.kept == "every" else list(after.kept)
    return {name: (step,) for name, value in labels.items() if value in wanted}
