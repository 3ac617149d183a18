"""The model card: what the model folder's README.md says, from its model.json alone."""

import json
import re
import shlex
from collections.abc import Sequence
from typing import Any

from medseg.core.plan import Plan
from medseg.models.model_json import ModelCard

_PRESETS, _CITATION = "## Presets", "## Citation"


def model_readme(card: ModelCard) -> str:
    """Markdown with the front matter that model hubs read: use, limits, training, validation, commands, citation."""
    plan, structures = card.plan, ", ".join(f"{_text(name)} ({value})" for name, value in card.labels.items() if value)
    licence = f"license: {json.dumps(card.licence)}" if card.licence else "license: unknown"
    front = [
        "---",
        "library_name: medseg",
        f"tags: [medical-imaging, segmentation, {plan.modality}]",
        licence,
        "---",
        "",
    ]
    lines = [
        *front,
        f"# {_text(card.name)}",
        "",
        f"Segments {structures} in {plan.modality} scans. Not a medical device.",
        "",
        "```bash",
        f"medseg infer {_inputs(plan)} --model THIS_FOLDER --output predictions",
        "medseg evaluate predictions references   # on cases of your own, before you rely on it",
        "```",
        "",
        "## Intended use and limits",
        "",
        f"Research on {plan.modality} scans like those it was trained on{_seen(card)}. Other scanners, protocols, ages or",
        "diseases may give wrong label maps without a warning: evaluate it on cases of your own first, and look at the results.",
        "It is no medical device, and nothing it finds may decide on a patient alone.",
        "",
        "## Training",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in _facts(card).items()),
    ]
    for fold, scores in card.validation.items():
        lines += ["", f"## Validation, {fold.replace('_', ' ')}", ""]
        lines += [f"Whole volumes, {scores.get('cases', 0)} cases that training never saw{_of_folds(fold)}.", ""]
        lines += ["| structure | mean Dice | 95 % interval |", "|---|---|---|"]
        intervals = scores.get("dice_interval", {})
        lines += [
            f"| {_text(name)} | {'undefined' if v is None else f'{v:.4f}'} | {_interval(intervals.get(name))} |"
            for name, v in scores.get("dice", {}).items()
        ]
    if card.validation:
        lines += ["", "Intervals of the mean by bootstrap over patients (BCa, doi:10.1080/01621459.1987.10478410)."]
    elif imported_from(card):
        lines += ["", "No validation came with it. Evaluate it on cases of your own before use."]
    else:
        lines += ["", "No validation: every case was training. Evaluate it on cases of your own before use."]
    lines += preset_lines(card)
    lines += [
        "",
        _CITATION,
        "",
        "Cite the data set it was trained on, medseg with its version above, and nnU-Net, whose",
    ]
    lines += ["recipe this is (doi:10.1038/s41592-020-01008-z)."]
    return "\n".join(lines) + "\n"


def preset_lines(card: ModelCard) -> list[str]:
    """The section on presets, with an empty line before it; nothing where there is none."""
    presets = card.inference.presets
    if not presets:
        return []
    first = next(iter(presets.values()))
    rows = [
        f"| {name} | {p.overlap:g} | {mirrored(p.mirror)} | {'on' if p.roi else 'off'} | {p.refine.name if p.refine else '–'} "
        f"| {p.mean_dice:.4f} | {p.seconds_per_scan:.3g} |"
        for name, p in presets.items()
    ]
    return [
        *(
            "",
            _PRESETS,
            "",
            f"Measured by `medseg tune` on {first.cases} {_text(first.measured_on)}, on {_text(first.machine)};",
        ),
        *("`medseg infer SCAN --preset fast` runs one.", ""),
        *(
            "| preset | overlap | mirrored axes | roi | refined by | mean Dice | seconds a scan |",
            "|---|---|---|---|---|---|---|",
            *rows,
        ),
    ]


def with_presets(readme: str, card: ModelCard) -> str:
    """``readme`` with the presets of ``card`` in place of those in it, or before its citation; else as it is."""
    lines = readme.splitlines()
    if _PRESETS in lines:
        start = lines.index(_PRESETS)
        end = next((n for n in range(start + 1, len(lines)) if lines[n].startswith("## ")), len(lines))
        lines[start:end] = [""] if end < len(lines) else []
        at = start
    else:
        at = lines.index(_CITATION) if _CITATION in lines else len(lines)
    section = preset_lines(card)[1:]
    before = [""] if at and lines[at - 1] else []
    lines[at:at] = [*before, *section, *([""] if lines[at:] and lines[at] else [])]
    return "\n".join(lines) + "\n"


def mirrored(axes: Sequence[int]) -> str:
    """Such as ``i,j``, or ``off``."""
    return ",".join("ijk"[axis] for axis in axes) or "off"


def _facts(card: ModelCard) -> dict[str, str]:
    """What the table of the training says."""
    plan, versions = card.plan, card.provenance.get("versions", {})
    passes = "".join(
        f" x {n} {what}" for n, what in ((plan.accumulate, "passes"), (plan.processes, "processes")) if n > 1
    )
    origin = imported_from(card)
    native = ", between slices the scan's own" if plan.feed.native_axes else ""
    facts = {
        **({"imported": card.created} | origin if origin else {"trained": card.created}),
        "network": f"{plan.architecture.name}, {plan.dimensions}D, patch {'x'.join(map(str, plan.patch_size))}",
        "voxels": f"{' x '.join(f'{s:g}' for s in plan.spacing_mm)} mm (right-left, back-front, foot-head){native}",
    }
    if not origin:
        facts["steps"] = f"{plan.steps} of {plan.batch_size} patches{passes}, {plan.optimizer.name}, seed {plan.seed}"
        facts["precision"] = plan.precision
    if card.fingerprint is not None:
        facts["cases"] = str(card.fingerprint.cases)
    for name, told in card.training.items():
        seconds = f"{told['seconds'] / 60:.1f} min" if told.get("seconds") else "time unknown"
        facts[name.replace("_", " ")] = f"{told.get('cases', '?')} cases, {seconds} on {told.get('machine', '?')}"
    if versions:
        facts["made with"] = ", ".join(
            f"{name} {versions[name]}" for name in ("medseg", "torch", "monai") if name in versions
        )
    facts["licence"] = _text(card.licence) if card.licence else "not stated: ask who made it before you pass it on"
    return facts


def imported_from(card: ModelCard) -> dict[str, str]:
    """Where an imported model comes from; empty for a model that medseg trained."""
    origin = card.provenance.get("imported")
    if not isinstance(origin, dict):
        return {}
    keys = ("tool", "dataset", "trainer", "plans", "configuration", "training_cases")
    told = {key.replace("_", " "): _text(str(origin[key])) for key in keys if origin.get(key)}
    if isinstance(folds := origin.get("folds"), dict):
        told["folds"] = ", ".join(map(str, folds))
    return told


def _seen(card: ModelCard) -> str:
    """Such as ``: 208 cases, voxels of 1 to 1.2 mm``."""
    seen = card.fingerprint
    if seen is None or not seen.spacings_mm:
        return ""
    sizes = [mm for spacing in seen.spacings_mm for mm in spacing]
    return f": {seen.cases} cases, voxels of {min(sizes):.3g} to {max(sizes):.3g} mm"


def _text(name: str) -> str:
    """A name that is not Markdown."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", name)


def _of_folds(name: str) -> str:
    return "" if name.startswith("fold_") else ", each scored by the fold that held it out"


def _interval(limits: Sequence[float] | None) -> str:
    return f"{limits[0]:.4f} to {limits[1]:.4f}" if limits else "–"


def _inputs(plan: Plan) -> str:
    """The scan on the command line: a file for each channel, in the network's order."""
    if plan.channels == 1:
        return "scan.nii.gz"
    names = plan.channel_names or tuple(map(str, range(plan.channels)))
    return " ".join(shlex.quote(f"scan_{name}.nii.gz") for name in names) + " --channels"


def mean_dice(card: ModelCard) -> float | None:
    """The mean validation Dice of all structures and folds; None where nothing was validated or anything is undefined."""
    values = [value for scores in card.validation.values() for value in scores.get("dice", {}).values()]
    return sum(values) / len(values) if values and None not in values else None


def card_facts(card: ModelCard) -> dict[str, Any]:
    """What `medseg models info` tells of a model, as JSON has it."""
    plan, facts = card.plan, _facts(card)
    return {
        "name": card.name,
        "modality": plan.modality,
        "channels": list(plan.channel_names) or plan.channels,
        "structures": {name: value for name, value in card.labels.items() if value},
        "network": facts["network"],
        "spacing_mm": list(plan.spacing_mm),
        "patch_size": list(plan.patch_size),
        "created": card.created,
        "licence": card.licence,
        "validation": card.validation,
        "presets": {name: preset.model_dump(mode="json") for name, preset in card.inference.presets.items()},
        "weights": card.weights,
    }


def validation_lines(card: ModelCard) -> list[str]:
    """A line for each structure of each validated fold: mean Dice and its 95 % interval."""
    return [
        f"{fold} ({scores.get('cases', '?')} cases) {name}: Dice "
        + (
            "undefined"
            if value is None
            else f"{value:.4f}, 95 % {_interval(scores.get('dice_interval', {}).get(name))}"
        )
        for fold, scores in card.validation.items()
        for name, value in scores.get("dice", {}).items()
    ]
