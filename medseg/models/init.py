"""Weights to start from: of a model folder or of a safetensors file, laid into the network of another plan.

Nothing is unpickled. Which tensors follow from the number of structures and of channels is found by building the network
once more with another number, so it holds for every architecture.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from medseg.core.errors import ModelError
from medseg.core.files import sha256_of
from medseg.core.labels import Labels
from medseg.core.plan import Plan
from medseg.models.architectures import build_network
from medseg.models.bundle import load_model, network_for, weights_of
from medseg.models.unet import from_nnunet_state_dict

LEAST_SHARE = 0.5  # of the encoder's tensors must fit
ENCODERS = ("encoder.", "swinViT.")  # what the encoders of our networks and of MONAI's are called

State = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Source:
    """Where weights come from: their ``state``, and the ``plan`` that they were trained with where that is known."""

    path: Path
    name: str
    sha256: str
    state: State
    plan: Plan | None


@dataclass(frozen=True)
class Taken:
    """What a start took over: tensors ``whole``, and of the heads the rows of these ``structures``; the rest is ``fresh``."""

    whole: tuple[str, ...]
    structures: tuple[str, ...]
    new_structures: tuple[str, ...]
    fresh: tuple[str, ...]
    other_channels: bool

    def line(self) -> str:
        """All of it in one sentence."""
        parts = [f"{len(self.whole)} of {len(self.whole) + len(self.fresh)} tensors taken whole"]
        if self.structures:
            parts.append(f"in the heads the channels of {', '.join(self.structures)}")
        if self.new_structures:
            parts.append(f"new in the heads: {', '.join(self.new_structures)}")
        if self.other_channels:
            parts.append("the first convolution is new, because the number of channels differs")
        return "; ".join(parts)


def read_source(path: Path) -> Source:
    """The weights in a model folder (of its first fold), verified, or in a safetensors file. Raises ModelError."""
    if path.suffix == ".safetensors" and path.is_file():
        try:
            state = safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
            raise ModelError(f"{path}: not a valid safetensors file: {error}") from None
        _require_numbers(path, state)
        return Source(path, path.name, sha256_of(path), from_nnunet_state_dict(state), None)
    if path.is_file():
        raise ModelError(
            f"{path}: training starts from a model folder or a .safetensors file; checkpoints and pickles may hold code "
            "and are not read"
        )
    model = load_model(path)
    return Source(path, model.card.name, model.sha256, dict(weights_of(model.networks[0]).state_dict()), model.plan)


def first_weights(plan: Plan, source: Source) -> tuple[State, Taken]:
    """The state that ``plan``'s training starts with: fresh by its seed, and what fits of ``source`` in its place.

    From a model folder everything fits but the heads (``Taken.structures`` keep theirs, by name) and, with another number
    of channels, the first convolution. From a file, tensors fit by name, under any prefix, and shape. Raises ModelError
    where more differs, or less than half of the encoder fits.
    """
    torch.manual_seed(plan.seed)
    fresh = {key: value.clone() for key, value in weights_of(network_for(plan)).state_dict().items()}
    heads = _differing(plan, structures=1)
    inputs = _differing(plan, channels=1)
    given = source.state if source.plan is not None else _named_alike(source.state, fresh)
    same_channels = source.plan is None or source.plan.channels == plan.channels
    body = fresh.keys() - heads - (set() if same_channels else inputs)
    whole = {key for key in body if key in given and given[key].shape == fresh[key].shape}
    _require_half(source, fresh, given, whole, body)
    state = {**fresh, **{key: given[key].to(fresh[key].dtype) for key in whole}}
    kept: tuple[str, ...] = ()
    if source.plan is not None:
        rows, kept = _rows_by_name(source.plan, plan)
        for key in heads:
            state[key] = _with_rows(fresh[key], given[key], rows)
    names = Labels.from_mapping(plan.labels).names
    return state, Taken(
        whole=tuple(sorted(whole)),
        structures=kept,
        new_structures=tuple(name for name in names if name not in kept),
        fresh=tuple(sorted(fresh.keys() - whole)),
        other_channels=not same_channels,
    )


def _differing(plan: Plan, *, structures: int = 0, channels: int = 0) -> set[str]:
    """The tensors of the plan's network whose shape follows from the number of structures or of channels."""

    def shapes(more_structures: int, more_channels: int) -> dict[str, torch.Size]:
        with torch.device("meta"):
            network = build_network(
                plan.architecture,
                in_channels=plan.channels + more_channels,
                out_channels=len(plan.labels) + more_structures,
                dimensions=plan.dimensions,
            )
        return {key: value.shape for key, value in weights_of(network).state_dict().items()}

    before, after = shapes(0, 0), shapes(structures, channels)
    return {key for key, shape in before.items() if after[key] != shape}


def _rows_by_name(before: Plan, plan: Plan) -> tuple[list[tuple[int, int]], tuple[str, ...]]:
    """Pairs of channels (here, there) of background and of the structures of one name, and these structures."""
    there = {name: n for n, name in enumerate(Labels.from_mapping(before.labels).names, 1)}
    here = Labels.from_mapping(plan.labels).names
    kept = tuple(name for name in here if name in there)
    return [(0, 0), *((n, there[name]) for n, name in enumerate(here, 1) if name in there)], kept


def _with_rows(fresh: Tensor, given: Tensor, rows: Iterable[tuple[int, int]]) -> Tensor:
    state = fresh.clone()
    for here, there in rows:
        state[here] = given[there].to(fresh.dtype)
    return state


def _named_alike(given: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> State:
    """``given`` under the names of ``fresh``: with the prefix dropped and the prefix added that let most tensors fit."""

    def renamed(drop: str, add: str) -> State:
        return {add + key.removeprefix(drop): value for key, value in given.items() if key.startswith(drop)}

    def fitting(state: Mapping[str, Tensor]) -> int:
        return sum(key in fresh and fresh[key].shape == value.shape for key, value in state.items())

    candidates = [renamed(drop, add) for drop in _prefixes(given, 3) for add in _prefixes(fresh, 1)]
    return max(candidates, key=fitting)


def _prefixes(keys: Iterable[str], depth: int) -> list[str]:
    """The empty prefix, and those of up to ``depth`` components that a key of ``keys`` begins with."""
    found = {""}
    for key in keys:
        parts = key.split(".")
        found |= {".".join(parts[:n]) + "." for n in range(1, min(depth, len(parts) - 1) + 1)}
    return sorted(found, key=lambda prefix: (len(prefix), prefix))


def _require_half(
    source: Source, fresh: Mapping[str, Tensor], given: Mapping[str, Tensor], whole: set[str], body: set[str]
) -> None:
    """Raise ModelError where a model folder's tensor does not fit, or less than half of the encoder's do."""
    missing = sorted(body - whole)
    if source.plan is not None and missing:
        raise ModelError(
            f"{source.path}: {len(missing)} tensors do not fit this plan's network, such as {_mismatch(missing[0], fresh, given)}; "
            "leave plan.architecture without options that change its shape"
        )
    encoder = {key for key in body if key.startswith(ENCODERS)} or body
    if len(encoder & whole) < LEAST_SHARE * len(encoder):
        shaped = [key for key in sorted(encoder - whole) if key in given]
        example = (
            _mismatch(shaped[0], fresh, given)
            if shaped
            else f"{sorted(encoder)[0]!r} here, {next(iter(source.state), 'nothing')!r} there"
        )
        raise ModelError(
            f"{source.path}: only {len(encoder & whole)} of the {len(encoder)} tensors of the encoder fit by name and shape "
            f"({example}); choose the plan.architecture, with its features and strides, that the weights were made for"
        )


def _mismatch(key: str, fresh: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    there = f"{tuple(given[key].shape)} there" if key in given else "missing there"
    return f"{key!r}: {tuple(fresh[key].shape)} here, {there}"


def _require_numbers(path: Path, state: Mapping[str, Tensor]) -> None:
    for key, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ModelError(f"{path}: weights {key!r} hold values that are not finite (NaN or infinity)")
