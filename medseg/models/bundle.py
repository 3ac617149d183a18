"""The model folder: model.json, safetensors and a card. Nothing in it is ever executed or unpickled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from medseg.core.component import Component
from medseg.core.errors import ModelError
from medseg.core.files import sha256_of, staged_folder, write_durable, write_json, write_text
from medseg.core.labels import Labels
from medseg.core.plan import Plan
from medseg.io.model_archive import is_weights_name
from medseg.models.architectures import WRAPPERS, build_network
from medseg.models.head import Head, cut_head, features_of, head_key
from medseg.models.model_json import ModelCard, read_card

RANDOM = {
    "normal_",
    "uniform_",
    "trunc_normal_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "xavier_uniform_",
    "xavier_normal_",
}
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
SMALLEST_FLOAT = 2  # bytes


@dataclass(frozen=True, eq=False)
class Model:
    """A verified model folder: its card, one network per fold, and the hash that names it in results.

    ``headless``: its networks give the features from which their last layer would make logits.
    """

    folder: Path
    card: ModelCard
    sha256: str
    headless: bool = False

    @cached_property
    def networks(self) -> tuple[nn.Module, ...]:
        """The networks of all folds, read when they are first asked for. Raises as ``network``."""
        return tuple(self.network(fold) for fold in range(len(self.card.weights)))

    def network(self, fold: int) -> nn.Module:
        """The network of a fold, read anew and verified: hash, names, shapes, types and finiteness of every weight.

        Raises ModelError naming the file, the cause and what to do.
        """
        file = self.weights()[fold]
        try:
            network = _planned(self.plan, file.stat().st_size)
            _fill(network, file, self.card)
        except ModelError as error:
            raise ModelError(f"{file}: {'' if self._intact(file) else _DAMAGED + '; '}{error}") from None
        self.check_hash(fold)
        if self.headless and (key := head_key(self.plan)):
            cut_head(network, key)
        return network

    def head(self, fold: int) -> Head:
        """The last layer of a fold's network, which was verified before. Raises ModelError where it has none."""
        key = head_key(self.plan)
        if key is None:
            raise ModelError(
                f"{self.folder}: the network {self.plan.architecture.name} has no last layer to take apart"
            )
        with safetensors.safe_open(self.weights()[fold], framework="pt") as file:
            weight, bias = (file.get_tensor(f"{key}.{part}").float() for part in ("weight", "bias"))
        return Head(weight.flatten(1), bias)

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
            if not is_weights_name(name):
                raise ModelError(
                    f"{self.folder / 'model.json'}: weights file {name!r} is not a plain safetensors name in the folder"
                )
            if not (self.folder / name).is_file():
                raise ModelError(f"{self.folder / name}: weights file missing; copy the model folder again")
            files.append(self.folder / name)
        return files

    def of_folds(self, names: Sequence[str]) -> "Model":
        """This model with the folds called ``names`` alone; with all of them where there are no ``names``."""
        kept = {
            file: digest for file, digest in self.card.weights.items() if file.removesuffix(".safetensors") in names
        }
        return replace(self, card=self.card.model_copy(update={"weights": kept})) if kept else self

    @property
    def outputs(self) -> int:
        """How many values a network gives for a voxel."""
        return features_of(self.plan) if self.headless else self.plan.structure_labels.outputs

    @property
    def plan(self) -> Plan:
        return self.card.plan

    @property
    def labels(self) -> Labels:
        return self.card.detailed_labels


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


class _Unfilled(TorchFunctionMode):
    """Random numbers are not drawn: for tensors without memory torch would import its compiler first, a second of time."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if getattr(func, "__name__", "") in RANDOM:
            return args[0] if args else named["tensor"]
        return func(*args, **named)


def _planned(plan: Plan, stored: int) -> nn.Module:
    """The network of ``plan`` where ``stored`` bytes can hold its weights: an absurd one is never given memory.

    It has no numbers yet where its weights are all that it has: random ones, soon replaced, would cost a second.
    """
    try:
        with torch.device("meta"), _Unfilled():
            network = network_for(plan)
        state = weights_of(network).state_dict()
        numbers = sum(value.numel() for value in state.values())
        if numbers * SMALLEST_FLOAT <= stored:
            held = sum(1 for _ in network.parameters()) + sum(1 for _ in network.buffers())
            return network if held == len(state) else network_for(plan)
    except Exception as error:  # the plan's numbers need not make a network
        raise ModelError(f"the plan's architecture cannot be built: {str(error)[:300]}") from None
    raise ModelError(f"weights do not match the plan's architecture: it has {numbers} numbers, the file {stored} bytes")


def _fill(network: nn.Module, file: Path, card: ModelCard) -> None:
    state = read_safetensors(file)
    check_weights(network, state, card.plan)
    inner = weights_of(network)
    kinds = {key: value.dtype for key, value in inner.state_dict().items()}
    copies = {
        key: value.to(kinds[key], copy=True) for key, value in state.items()
    }  # and not the file, which may change
    inner.load_state_dict(copies, assign=True)


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Every tensor in ``file``. Raises ModelError, which does not name it."""
    try:
        state: dict[str, Tensor] = safetensors.torch.load_file(file)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"not a valid safetensors file (header corrupt, offsets wrong or truncated): {error}"
        ) from None
    return state


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
