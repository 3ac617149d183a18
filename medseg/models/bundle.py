"""The model folder: model.json, safetensors and a card. Nothing in it is ever executed or unpickled."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from medseg.core.component import Component
from medseg.core.errors import MedsegError, ModelError
from medseg.core.files import sha256_of, staged_folder, write_durable, write_json, write_text
from medseg.core.labels import Labels
from medseg.core.plan import Fingerprint, Plan
from medseg.core.structures import StructureDetails, detailed
from medseg.models import WRAPPERS, build_network
from medseg.models.how_to_run import HowToRun

FORMAT_VERSION = 1
MAX_JSON_BYTES = 64 * 2**20
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
HOW_TO_GET_ONE = "train one with `medseg train --config FILE`, or try `medseg demo`"


class ModelCard(BaseModel):
    """What model.json holds. Keys that medseg does not know are ignored: a model never chooses where output goes."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    format_version: int
    name: str
    created: str
    plan: Plan
    labels: dict[str, int]
    structures: dict[str, StructureDetails] = Field(default_factory=dict, description="own codes and colours, by name")
    weights: dict[str, str] = Field(description="file name -> sha256")
    fingerprint: Fingerprint | None = None
    validation: dict[str, Any] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)
    licence: str | None = None
    training: dict[str, Any] = Field(
        default_factory=dict, description="weights without ending -> how they were trained"
    )
    inference: HowToRun = HowToRun()


@dataclass(frozen=True, eq=False)
class Model:
    """A verified model folder: its card, one network per fold, and the hash that names it in results."""

    folder: Path
    card: ModelCard
    sha256: str

    @cached_property
    def networks(self) -> tuple[nn.Module, ...]:
        """The networks of all folds, read when they are first asked for. Raises as ``network``."""
        return tuple(self.network(fold) for fold in range(len(self.card.weights)))

    def network(self, fold: int) -> nn.Module:
        """The network of a fold, read anew and verified: hash, names, shapes, types and finiteness of every weight.

        Raises ModelError naming the file, the cause and what to do.
        """
        file = self.weights()[fold]
        network = _planned(self.plan, self.folder / "model.json")
        try:
            _fill(network, file, self.card)
        except ModelError as error:
            raise ModelError(f"{file}: {'' if self._intact(file) else _DAMAGED + '; '}{error}") from None
        self.check_hash(fold)
        return network

    def check_hash(self, fold: int) -> None:
        """Raise ModelError where the weights of a fold are not those that model.json names."""
        file = self.weights()[fold]
        if not self._intact(file):
            raise ModelError(f"{file}: {_DAMAGED}; copy the model folder again")

    def _intact(self, file: Path) -> bool:
        return sha256_of(file) == self.card.weights[file.name]

    def weights(self) -> list[Path]:
        """The file with the weights of each fold. Raises ModelError for a file that is missing, or lies elsewhere."""
        files = []
        for name in sorted(self.card.weights):
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise ModelError(
                    f"{self.folder / 'model.json'}: weights file {name!r} is not a plain safetensors name in the folder"
                )
            if not (self.folder / name).is_file():
                raise ModelError(f"{self.folder / name}: weights file missing; copy the model folder again")
            files.append(self.folder / name)
        return files

    @property
    def plan(self) -> Plan:
        return self.card.plan

    @property
    def labels(self) -> Labels:
        return detailed(self.plan.structure_labels, self.card.structures)


def network_for(plan: Plan, *, deep_supervision: bool = False) -> nn.Module:
    """The untrained network of ``plan``."""
    options = {**plan.architecture.options, "deep_supervision": deep_supervision}
    return build_network(
        Component(name=plan.architecture.name, options=options),
        in_channels=plan.channels,
        out_channels=plan.structure_labels.outputs,
        dimensions=plan.dimensions,
        slice_axis=plan.slice_axis,
    )


def weights_of(network: nn.Module) -> nn.Module:
    """The module whose state is stored: without the wrappers that take volumes apart, pad them or choose a head."""
    while isinstance(network, WRAPPERS):
        network = network.network
    return network


def save_model(folder: Path, card: ModelCard, states: Mapping[str, Mapping[str, Tensor]], readme: str) -> None:
    """Write ``folder`` whole or not at all: ``states`` is ``{"fold_0": state_dict}``; an older folder is replaced."""
    with staged_folder(folder) as staging:
        weights = {}
        for name, state in states.items():
            tensors = {key: value.detach().to("cpu", torch.float32).contiguous() for key, value in state.items()}
            weights[f"{name}.safetensors"] = write_durable(
                staging / f"{name}.safetensors", safetensors.torch.save(tensors, {"format": "medseg"})
            )
        content = card.model_copy(update={"weights": weights}).model_dump(mode="json")
        write_json(staging / "model.json", content)
        write_text(staging / "README.md", readme)


def read_card(folder: Path) -> ModelCard:
    """model.json of a model folder, checked. Raises ModelError naming the folder and what to do."""
    try:
        if not folder.exists():
            raise ModelError(f"{folder}: this model folder does not exist; {HOW_TO_GET_ONE}")
        holds_nothing = folder.is_dir() and not any(folder.iterdir())
    except OSError as error:
        raise ModelError(f"{folder}: this model folder cannot be read ({error.strerror or error})") from None
    if not folder.is_dir():
        raise ModelError(
            f"{folder}: not a medseg model: a model is a folder with model.json and safetensors. Checkpoint, pickle and "
            "TorchScript files may hold code and are unsafe, so their weights are not loaded"
        )
    file = folder / "model.json"
    if not file.is_file():
        what = "is empty" if holds_nothing else "has no model.json (the model's metadata and config)"
        inside = folder / "model"
        hint = f"did you mean {inside}?" if (inside / "model.json").is_file() else HOW_TO_GET_ONE
        raise ModelError(f"{folder}: not a medseg model folder: it {what}; {hint}")
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise ModelError(f"{file}: larger than {MAX_JSON_BYTES} bytes; this is no model.json")
        content = json.loads(file.read_text(encoding="utf-8"))
        version = content.get("format_version") if isinstance(content, dict) else None
        if isinstance(version, int | float | str) and version not in range(1, FORMAT_VERSION + 1):
            raise ModelError(
                f"{file}: format version {version!r} is not {FORMAT_VERSION}, which this medseg reads; a newer model needs "
                "a newer medseg"
            )
        card = ModelCard.model_validate(content)
        if card.plan.labels != card.labels:
            raise ModelError(f"{file}: labels {card.labels} differ from the plan's labels {card.plan.labels}")
        Labels.from_mapping(card.labels)
    except MedsegError as error:
        raise ModelError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file}: not a model.json that medseg can read: {_first_problem(error)}") from None
    if not card.weights:
        raise ModelError(f"{file}: names no weights; copy the model folder again")
    return card


def open_model(folder: Path) -> Model:
    """A model folder whose weights are there, and are read and verified when they are asked for.

    Raises ModelError naming the file, the cause and what to do.
    """
    model = Model(folder, read_card(folder), sha256_of(folder / "model.json"))
    model.weights()
    return model


def load_model(folder: Path) -> Model:
    """Read and verify a model folder with all its networks: see ``Model.network``, whose ModelError it raises."""
    model = Model(folder, read_card(folder), sha256_of(folder / "model.json"))
    len(model.networks)
    return model


def saved_folds(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """States (``{"fold_0": state}``) and validation figures of the folds in ``folder`` so far; both empty where there is none."""
    if not (folder / "model.json").is_file():
        return {}, {}
    model = load_model(folder)
    names = [name.removesuffix(".safetensors") for name in sorted(model.card.weights)]
    states = {name: weights_of(net).state_dict() for name, net in zip(names, model.networks, strict=True)}
    return states, dict(model.card.validation)


_DAMAGED = "the sha256 hash (checksum) does not match model.json, so the weights are corrupt, truncated or exchanged"


def _planned(plan: Plan, source: Path) -> nn.Module:
    try:
        return network_for(plan)
    except Exception as error:  # the plan's numbers need not make a network
        raise ModelError(f"{source}: the plan's architecture cannot be built: {error}") from None


def _fill(network: nn.Module, file: Path, card: ModelCard) -> None:
    try:
        state = safetensors.torch.load_file(file)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"not a valid safetensors file (header corrupt, offsets wrong or truncated): {error}"
        ) from None
    check_weights(network, state, card.plan)
    weights_of(network).load_state_dict({key: value.float() for key, value in state.items()})


def check_weights(network: nn.Module, state: Mapping[str, Tensor], plan: Plan) -> None:
    """Raise ModelError saying which tensor of ``state`` is missing, too much, of another shape or type, or not finite."""
    expected = weights_of(network).state_dict()
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing:
        raise ModelError(f"weights do not match the architecture: {len(missing)} keys missing, such as {missing[0]!r}")
    if extra:
        raise ModelError(f"weights do not match the architecture: {len(extra)} unexpected keys, such as {extra[0]!r}")
    for key, value in state.items():
        if value.dtype not in FLOATS:
            raise ModelError(f"weights {key!r} have type {value.dtype}, expected a float type")
        if value.shape != expected[key].shape:
            raise ModelError(
                f"weights do not match the architecture: shape of {key!r} is {tuple(value.shape)}, expected "
                f"{tuple(expected[key].shape)} ({len(plan.labels)} output classes for the labels {', '.join(plan.labels)})"
            )
        if not torch.isfinite(value).all():
            raise ModelError(f"weights {key!r} hold values that are not finite (NaN or infinity)")


def _first_problem(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = "".join(f"{part}." for part in first["loc"]).removesuffix(".")
        return f"{where}{': ' if where else ''}{first['msg'].removeprefix('Value error, ')}"
    return str(error)


def newest_model(runs: Path) -> Path:
    """The model folder under ``runs`` that was made last, by the time in its model.json. Raises ModelError if there is none."""
    found: list[tuple[str, Path]] = []
    for file in runs.glob("*/model/model.json"):
        try:
            found.append((str(json.loads(file.read_text(encoding="utf-8"))["created"]), file.parent))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a damaged folder is not the newest model; naming it with --model says what is wrong
    if not found:
        raise ModelError(f"no model under {runs}; give --model FOLDER, or {HOW_TO_GET_ONE}")
    return max(found)[1]
