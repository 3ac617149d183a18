"""The model card: what the model folder's README.md says, from its model.json alone."""

import shlex
from collections.abc import Sequence

from medseg.core.plan import Plan
from medseg.models.bundle import ModelCard


def model_readme(card: ModelCard) -> str:
    """Markdown with the front matter that model hubs read."""
    plan = card.plan
    structures = ", ".join(f"{name} ({value})" for name, value in card.labels.items() if value)
    lines = [
        "---",
        "library_name: medseg",
        f"tags: [medical-imaging, segmentation, {plan.modality}]",
        *([f"license: {card.licence}"] if card.licence else []),
        "---",
        "",
        f"# {card.name}",
        "",
        f"Segments {structures} in {plan.modality} scans. Trained with medseg on {card.created}. Not a medical device.",
        "",
        "```bash",
        f"medseg infer {_inputs(plan)} --model THIS_FOLDER",
        "```",
        "",
        "| | |",
        "|---|---|",
        f"| network | {plan.architecture.name}, {plan.dimensions}D, patch {'x'.join(map(str, plan.patch_size))} |",
        f"| voxels | {' x '.join(f'{s:g}' for s in plan.spacing_mm)} mm (right-left, back-front, foot-head) |",
        f"| training | {plan.steps} steps of {plan.batch_size} patches, {plan.optimizer.name}, seed {plan.seed} |",
    ]
    if card.fingerprint is not None:
        lines.append(f"| cases | {card.fingerprint.cases} |")
    for fold, scores in card.validation.items():
        lines += ["", f"## Validation, {fold.replace('_', ' ')}", ""]
        lines += [f"Whole volumes, {scores.get('cases', 0)} cases that training never saw{_of_folds(fold)}.", ""]
        lines += ["| structure | mean Dice | 95 % interval |", "|---|---|---|"]
        intervals = scores.get("dice_interval", {})
        lines += [
            f"| {name} | {'undefined' if v is None else f'{v:.4f}'} | {_interval(intervals.get(name))} |"
            for name, v in scores.get("dice", {}).items()
        ]
    if not card.validation:
        lines += ["", "No validation: every case was training. Evaluate it on cases of your own before use."]
    return "\n".join(lines) + "\n"


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
