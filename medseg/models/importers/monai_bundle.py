"""A MONAI bundle as a medseg model: its configs read as data, its network from a known list, its weights as safetensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from medseg.core.component import Component
from medseg.core.errors import MedsegError, ModelError
from medseg.core.files import sha256_of
from medseg.core.plan import Plan
from medseg.core.provenance import provenance
from medseg.models.bundle import read_safetensors
from medseg.models.bundle_networks import NETWORKS
from medseg.models.how_to_run import HowToRun
from medseg.models.importers.imported import Imported, Importer, ImportOptions, fitting
from medseg.models.importers.monai_config import BundleConfig, read_config
from medseg.models.importers.monai_outputs import After, Named, after_of, kept_components, named
from medseg.models.importers.monai_pipeline import Before, before_of, windows_of
from medseg.models.importers.nnunet_files import read_json
from medseg.models.importers.torch_checkpoint import read_checkpoint
from medseg.models.model_json import FORMAT_VERSION, ModelCard, first_problem

METADATA = "configs/metadata.json"
CONFIGS = ("configs/inference.json", "configs/inference.yaml", "configs/inference.yml")
WEIGHTS = ("models/model.pt", "models/model.safetensors")
WHAT = "a MONAI bundle (configs/metadata.json, configs/inference.json, models/model.pt)"
UNKNOWN = "of the training of the MONAI bundle, not read from it"
FORGOTTEN = {"SwinUNETR": ("img_size",), "DynUNet": ("deep_supervision", "deep_supr_num")}  # change no output
LARGEST_EXACT = 2**24  # integer that a float32 holds
MOST_CHANNELS = 4096  # of an image, and of outputs


@dataclass(frozen=True)
class Data:
    """What metadata.json says of inputs and outputs."""

    image: str
    channel_names: tuple[str, ...]
    outputs: tuple[str, ...]
    modality: str


def recognises(folder: Path) -> bool:
    """Whether ``folder`` is a MONAI bundle."""
    return (folder / METADATA).is_file()


def read_bundle(folder: Path, options: ImportOptions) -> Imported:
    """The model of the bundle in ``folder``. Raises ModelError naming what is missing, or what medseg cannot say in a plan."""
    for name, value in (("--folds", options.folds), ("--configuration", options.configuration)):
        if value is not None:
            raise ModelError(f"{folder}: a MONAI bundle has one network; leave {name} out")
    metadata, file = read_json(folder / METADATA), _config_file(folder)
    config = read_config(file)
    data = data_of(metadata, config, folder / METADATA)
    before = before_of(config, data.image, len(data.channel_names))
    if before.orientation is not None and options.orientation is not None:
        raise config.error(f"feeds its network in {before.orientation}; leave --orientation out")
    orientation = before.orientation or options.orientation
    if orientation is None:
        raise config.error(
            "preprocessing has no Orientationd, so its network saw files as they were stored, and medseg turns scans: give "
            "--orientation, how its training files were stored, such as LPS"
        )
    after = after_of(config, data.image, resampled=before.spacing_mm is not None, turned=before.orientation is not None)
    found = named(config, after, data.outputs)
    try:
        plan, overlap = _plan(config, data, before, after, found, orientation)
    except ValueError as error:  # pydantic's too
        raise config.error(f"fits no plan: {first_problem(error)}") from None
    except MedsegError as error:
        words = str(error)
        raise ModelError(words if words.startswith(str(folder)) else f"{file}: {words}") from None
    weights = _weights_file(folder, config, options.checkpoint)
    state = fitting(plan, _state(weights), weights, weights.parent.parent)
    card = ModelCard(
        format_version=FORMAT_VERSION,
        name=options.name or str(metadata.get("name") or folder.name),
        created=datetime.now(UTC).isoformat(),
        plan=plan,
        labels=plan.labels,
        weights={},
        provenance=provenance() | {"imported": _origin(folder, metadata, (folder / METADATA, file, weights))},
        licence=options.licence or _text(metadata.get("license")),
        inference=HowToRun(overlap=overlap, ensemble="logits", postprocess=kept_components(after, plan.labels) or None),
    )
    return Imported(card, {"fold_0": state}, tuple(_remarks(card, folder)))


def data_of(metadata: Mapping[str, Any], config: BundleConfig, file: Path) -> Data:
    """The names of inputs and outputs. Raises ModelError."""
    try:
        formats = metadata["network_data_format"]
        (image, inputs), *others = formats["inputs"].items()
        outputs = formats["outputs"]["pred"]
        channels, made = inputs["num_channels"], outputs["num_channels"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{file}: network_data_format does not say what goes in and out ({error} is missing or not right)"
        ) from None
    if others:
        raise ModelError(
            f"{file}: the network has {1 + len(others)} inputs ({image}, {others[0][0]}); medseg feeds one image"
        )
    for count in (channels, made):
        if not isinstance(count, int) or not 1 <= count <= MOST_CHANNELS:
            raise ModelError(f"{file}: num_channels is {str(count)[:60]}; expected a number from 1 to {MOST_CHANNELS}")
    given = config.content.get("image_key")
    image = str(config.value(given, "image_key")) if given is not None else image
    modality = str(inputs.get("modality", "")).upper()
    return Data(
        image,
        _channels(inputs.get("channel_def"), channels, "channel_{}", file),
        _channels(outputs.get("channel_def"), made, "structure_{}", file),
        {"MRI": "MR"}.get(modality, modality if modality in ("CT", "MR") else "other"),
    )


def _channels(names: Any, count: int, unnamed: str, file: Path) -> tuple[str, ...]:
    for number, name in names.items() if isinstance(names, dict) else ():
        if not isinstance(name, str | int | float):
            raise ModelError(f"{file}: channel_def calls {number} {str(name)[:60]}; expected a name")
    known = names if isinstance(names, dict) and len({*names.values()}) == len(names) else {}
    return tuple(str(known.get(str(n), unnamed.format(n))) for n in range(count))


def _plan(
    config: BundleConfig, data: Data, before: Before, after: After, found: Named, orientation: str
) -> tuple[Plan, float]:
    network = config.part(
        next((config.content[key] for key in ("network_def", "network", "net") if key in config.content), None),
        "network_def",
    )
    known = {name.lower(): name for name in NETWORKS}
    name = known.get(network.name.lower())
    if name is None or not (network.target == network.name or network.target.startswith("monai.networks.nets.")):
        raise config.error(f"the network {network.target} is not one that medseg knows; it knows {', '.join(NETWORKS)}")
    arguments = {
        key: config.value(node, f"network_def: {key}")
        for key, node in network.options.items()
        if key not in FORGOTTEN.get(name, ())
    }
    sizes = {"spatial_dims": 3, "in_channels": len(data.channel_names), "out_channels": len(data.outputs)}
    for key, expected in sizes.items():
        default = expected if key == "spatial_dims" or name in ("SegResNet", "VNet", "BasicUNet") else None
        if (value := arguments.pop(key, default)) != expected:
            raise config.error(
                f"network_def: {key} is {value!r}, and metadata.json says {expected}; medseg takes 3D networks alone"
            )
    window, overlap, feed = windows_of(config)
    resampled = before.spacing_mm is not None
    probabilities = resampled and after.inverted == "probabilities"
    options: dict[str, Any] = {"network": name, "arguments": arguments}
    if found.outputs is not None and list(found.outputs) != sorted(found.outputs):
        options["outputs"] = list(found.outputs)
    plan = Plan.model_validate(
        {
            "dimensions": 3,
            "slice_axis": None,
            "spacing_mm": before.spacing_mm or (1.0, 1.0, 1.0),
            "patch_size": window,
            "batch_size": 1,
            "architecture": {"name": "monai", "options": options},
            "channels": len(data.channel_names),
            "channel_names": data.channel_names if len(data.channel_names) > 1 else (),
            "labels": found.labels,
            "regions": found.regions,
            "modality": data.modality,
            "intensity": [{"scheme": before.scheme}] * len(data.channel_names),
            "feed": {
                **feed,
                "orientation": orientation,
                "native_axes": () if resampled else (0, 1, 2),
                "grid": "monai",
                "normalise": before.normalise,
                "outputs": "probabilities" if probabilities else "logits",
            },
            "loss": "dice_ce",
            "optimizer": Component(name="adamw"),
            "schedule": "poly",
            "learning_rate": 0.001,
            "steps": 1,
            "validate_every": 1,
            "validation_cases": 1,
            "ema": 0.0,
            "foreground_fraction": 0.33,
            "mirror_axes": (),
            "precision": "f32",
            "seed": 0,
            "reasons": dict.fromkeys(
                ("loss", "optimizer", "schedule", "learning_rate", "ema", "seed", "steps"), UNKNOWN
            ),
        }
    )
    return plan, overlap


def _config_file(folder: Path) -> Path:
    found = next((folder / name for name in CONFIGS if (folder / name).is_file()), None)
    if found is None:
        raise ModelError(f"{folder}: has no configs/inference.json or .yaml, which says how its network is run")
    return found


def _weights_file(folder: Path, config: BundleConfig, asked: str | None) -> Path:
    """The checkpoint that is asked for, that the config loads, or of the usual name; it lies in ``models``."""
    wanted, loader = asked, config.content.get("checkpointloader")
    if asked is None and isinstance(loader, dict) and "load_path" in loader:
        try:
            path = str(config.value(loader["load_path"], "checkpointloader.load_path"))
            wanted = path.rpartition("/")[2]
        except ModelError:
            wanted = None
    names: tuple[str, ...] = WEIGHTS
    if wanted is not None:
        names = (f"models/{wanted}", f"models/{wanted.rpartition('.')[0]}.safetensors")
    for name in names:
        file = folder / name
        if file.is_file() and file.parent == folder / "models":
            return file
    scripted = (folder / "models" / "model.ts").is_file()
    what = "; model.ts is TorchScript, which holds code and is not run" if scripted else ""
    raise ModelError(f"{folder}: the weights {names[0]} are missing{what}")


def _state(file: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint as float32; integers (counters, indices) too, where that holds them."""
    if file.suffix == ".safetensors":
        try:
            state = read_safetensors(file)
        except ModelError as error:
            raise ModelError(f"{file}: {error}") from None
    else:
        state = dict(read_checkpoint(file, weights=None, facts={}).weights)
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            if tensor.numel() and tensor.abs().max() > LARGEST_EXACT:
                raise ModelError(f"{file}: {name} holds integers too large for float32")
            state[name] = tensor.float()
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _origin(folder: Path, metadata: Mapping[str, Any], sources: tuple[Path, ...]) -> dict[str, Any]:
    said = {
        key: _text(metadata.get(key)) for key in ("version", "monai_version", "data_source", "copyright", "authors")
    }
    return {
        "tool": "MONAI bundle",
        **{key: value for key, value in said.items() if value is not None},
        "sha256": {str(path.relative_to(folder)): sha256_of(path) for path in sources},
    }


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.isprintable() and len(value) < 500 else None


def _remarks(card: ModelCard, folder: Path) -> list[str]:
    said = []
    if any(name.startswith("structure_") for name in card.labels):
        said.append("metadata.json does not name every output (channel_def); those are called structure_N")
    if card.licence is None:
        there = next(
            (path for path in ("LICENSE", "docs/LICENSE", "docs/license.txt") if (folder / path).is_file()), None
        )
        where = f"; the bundle's {there} may say it" if there else ""
        said.append(f"the licence of the weights is unknown: give --licence once you know it{where}")
    return said


IMPORTER = Importer(recognises, read_bundle, WHAT)
