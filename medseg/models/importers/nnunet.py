"""A folder that nnU-Net v2 trained, as a medseg model: its plan, its weights under our keys, and where they come from."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medseg.core.component import Component
from medseg.core.errors import MedsegError, ModelError
from medseg.core.files import sha256_of
from medseg.core.plan import Plan
from medseg.core.provenance import provenance
from medseg.models.how_to_run import HowToRun
from medseg.models.importers import nnunet_files as files
from medseg.models.importers import nnunet_plan as planning
from medseg.models.importers.imported import Imported, Importer, ImportOptions, fitting
from medseg.models.importers.nnunet_network import architecture_of, older_architecture, permuted
from medseg.models.importers.torch_checkpoint import Checkpoint, read_checkpoint
from medseg.models.model_json import FORMAT_VERSION, ModelCard, first_problem

FACTS = {
    "trainer": ("trainer_name",),
    "configuration": ("init_args", "configuration"),
    "fold": ("init_args", "fold"),
    "epochs": ("current_epoch",),
    "mirror_axes": ("inference_allowed_mirroring_axes",),
}
STEPS_PER_EPOCH = 250
UNKNOWN = "of the training by nnU-Net, not read from its folder"
# Trainers of nnU-Net's own that differ in the training alone: loss, optimizer, augmentation, length.
USUAL_TRAINER = re.compile(
    r"nnUNetTrainer(_?(\d+ep(och)?s?|NoMirroring|onlyMirror01|NoDeepSupervision|DA5|DASegOrd0|NoDA|ord0|Segord0|CosAnneal|"
    r"noDummy2DDA|warmup))*(_?((Vanilla)?Ada[mn]|probabilisticOversampling|\w*Loss)\w*)?"
)


def recognises(folder: Path) -> bool:
    """Whether ``folder`` is a trained configuration of nnU-Net, or holds some."""
    return bool(files.model_folders(folder))


def read_nnunet(folder: Path, options: ImportOptions) -> Imported:
    """The model in ``folder``, or in its only subfolder Trainer__Plans__configuration. Raises ModelError."""
    folder = files.chosen_folder(folder, options.configuration)
    plans, dataset = files.read_plans(folder), files.read_dataset(folder)
    checkpoints = {
        fold: read_checkpoint(file, weights="network_weights", facts=FACTS)
        for fold, file in files.chosen_checkpoints(folder, options).items()
    }
    facts = next(iter(checkpoints.values())).facts
    name = _configuration(folder, facts, options.configuration)
    try:
        axes, known = planning.axes_of(plans, options.orientation)
        configuration = _read_configuration(plans, name, folder)
        plan = _plan(plans, dataset, configuration, axes, facts)
    except ValueError as error:  # pydantic's too: figures that fit no plan
        raise ModelError(f"{folder / 'plans.json'}: configuration {name}: {first_problem(error)}") from None
    except MedsegError as error:
        words = str(error)
        where = folder if words.startswith(("dataset.json", "the checkpoint")) else folder / "plans.json"
        raise ModelError(words if words.startswith(str(folder)) else f"{where}: {words}") from None
    kernel = axes.kernel(plan.dimensions)
    states = {
        fold: fitting(plan, permuted(one.weights, kernel), folder / fold, folder / "plans.json")
        for fold, one in checkpoints.items()
    }
    card = _card(folder, options, plan, plans, dataset, checkpoints, axes, name)
    return Imported(card, states, tuple(_remarks(card, facts, known=known)))


def _configuration(folder: Path, facts: Mapping[str, Any], asked: str | None) -> str:
    trained = facts.get("configuration")
    if not isinstance(trained, str):
        raise ModelError(f"{folder}: the checkpoint names no configuration, so it is none of nnU-Net v2's")
    if asked is not None and asked != trained:
        raise ModelError(
            f"{folder}: was trained as {trained}, not as {asked}; leave --configuration out, or give its folder"
        )
    return trained


def _read_configuration(plans: files.Plans, name: str, folder: Path) -> files.Configuration:
    file = folder / "plans.json"
    content = files.resolved(plans, name, file)
    if content.get("previous_stage"):
        raise ModelError(
            f"{name} is the second stage of a cascade: it needs the label map of {content['previous_stage']} as an input, "
            f"which medseg does not feed; import the folder of {content['previous_stage']} or of 3d_fullres instead"
        )
    if "architecture" not in content:
        try:
            content["architecture"] = older_architecture(content)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"configuration {name} describes no network ({error} is missing or not right)") from None
    return files.parsed(files.Configuration, content, file)


def _plan(
    plans: files.Plans,
    dataset: files.Dataset,
    configuration: files.Configuration,
    axes: planning.Axes,
    facts: Mapping[str, Any],
) -> Plan:
    channel_names = tuple(name for _, name in sorted(dataset.channel_names.items()))
    labels, regions, ignore = planning.labels_of(dataset)
    dimensions = len(configuration.patch_size)
    if len(configuration.spacing) != dimensions:
        raise ModelError(f"spacing {configuration.spacing} does not fit patch_size {configuration.patch_size}")
    across = (plans.original_median_spacing_after_transp or [1.0])[0]
    patch, spacing = configuration.patch_size, configuration.spacing
    if dimensions == 2:
        patch, spacing = [1, *patch], [min(across, 1000.0), *spacing]
    architecture = configuration.architecture
    steps = max(1, STEPS_PER_EPOCH * epochs) if isinstance(epochs := facts.get("epochs"), int) else 1
    return Plan.model_validate(
        {
            "dimensions": dimensions,
            "slice_axis": axes.ours[0] if dimensions == 2 else None,
            "spacing_mm": axes.spread(spacing),
            "patch_size": axes.spread(patch),
            "batch_size": configuration.batch_size,
            "architecture": architecture_of(
                architecture.network_class_name, architecture.arch_kwargs, axes.kernel(dimensions)
            ),
            "channels": len(channel_names),
            "channel_names": channel_names if len(channel_names) > 1 else (),
            "labels": labels,
            "regions": regions,
            "ignore": ignore,
            "modality": planning.modality_of(channel_names),
            "intensity": planning.intensities_of(configuration, plans, len(channel_names)),
            "feed": planning.feed_of(configuration, axes),
            "loss": "dice_ce",
            "optimizer": Component(name="sgd"),
            "schedule": "poly",
            "learning_rate": 0.01,
            "steps": steps,
            "validate_every": STEPS_PER_EPOCH,
            "validation_cases": 1,
            "ema": 0.0,
            "foreground_fraction": 0.33,
            "mirror_axes": planning.mirror_axes_of(facts, axes, dimensions),
            "precision": "f32",
            "seed": 0,
            "reasons": dict.fromkeys(
                ("loss", "optimizer", "schedule", "learning_rate", "ema", "seed", "steps"), UNKNOWN
            ),
        }
    )


def _card(
    folder: Path,
    options: ImportOptions,
    plan: Plan,
    plans: files.Plans,
    dataset: files.Dataset,
    checkpoints: Mapping[str, Checkpoint],
    axes: planning.Axes,
    configuration: str,
) -> ModelCard:
    found = files.read_fingerprint(folder)
    sources = [folder / "plans.json", folder / "dataset.json", *files.chosen_checkpoints(folder, options).values()]
    facts = next(iter(checkpoints.values())).facts
    origin = {
        "tool": "nnU-Net v2",
        "dataset": plans.dataset_name,
        "trainer": facts.get("trainer"),
        "plans": plans.plans_name,
        "configuration": configuration,
        "reader": plans.image_reader_writer,
        "orientation": axes.orientation,
        "folds": {fold: {"epochs": one.facts.get("epochs")} for fold, one in checkpoints.items()},
        "training_cases": dataset.training_cases,
        "sha256": {str(path.relative_to(folder)): sha256_of(path) for path in sources},
    }
    names = tuple(name for _, name in sorted(dataset.channel_names.items()))
    return ModelCard(
        format_version=FORMAT_VERSION,
        name=options.name or f"{plans.dataset_name or folder.name} {configuration}",
        created=datetime.now(UTC).isoformat(),
        plan=plan,
        labels=plan.labels,
        weights={},
        fingerprint=None if found is None else planning.fingerprint_of(found, axes, plans, names),
        provenance=provenance() | {"imported": origin},
        licence=options.licence,
        inference=HowToRun(overlap=0.5, mirror_labels="kept", ensemble="logits", accumulators="nnunet"),
    )


def _remarks(card: ModelCard, facts: Mapping[str, Any], *, known: bool) -> list[str]:
    said = []
    if not known:
        said.append(
            "the folder does not say how its training files were stored: RAS is assumed; where they were stored otherwise, "
            "give --orientation, such as LPS"
        )
    if card.licence is None:
        said.append("the licence of the weights is unknown: give --licence once you know it")
    trainer = str(facts.get("trainer"))
    if not USUAL_TRAINER.fullmatch(trainer):
        said.append(
            f"{trainer} is no trainer that medseg knows: if it changes preprocessing or activations, results differ; compare "
            "a few cases with nnU-Net's"
        )
    return said


WHAT = "a folder that nnU-Net v2 trained (plans.json, dataset.json, fold_*)"
IMPORTER = Importer(recognises, read_nnunet, WHAT)
