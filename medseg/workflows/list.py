"""List: what the tables hold, each entry with its options, read from the functions themselves."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from typing import Any

from medseg.core.component import find
from medseg.core.errors import ConfigError
from medseg.data.architecture import PLANNER_OPTIONS

# Kind -> where its table is, and what chooses from it. A table is imported when it is asked for.
TABLES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "architectures": ("medseg.models.architectures", ("ARCHITECTURES",), "plan.architecture"),
    "intensities": ("medseg.data.intensity", ("INTENSITIES",), "plan.intensity"),
    "augmentations": ("medseg.data.augment", ("AUGMENTATIONS",), "train.augmentation"),
    "losses": ("medseg.losses", ("LOSSES",), "train.loss"),
    "optimizers": ("medseg.training.optimizers", ("OPTIMIZERS",), "train.optimizer"),
    "schedules": ("medseg.training.optimizers", ("SCHEDULES",), "train.schedule"),
    "layouts": ("medseg.data.layouts", ("LAYOUTS",), "data.layout"),
    "metrics": (
        "medseg.metrics.table",
        ("METRICS", "LESION_METRICS", "CASE_METRICS", "PROBABILITY_METRICS", "CASE_PROBABILITY_METRICS"),
        "evaluate --metrics",
    ),
    "backends": ("medseg.inference.backends", ("BACKENDS",), "infer --backend"),
    "refinements": ("medseg.inference.refine", ("REFINEMENTS",), "inference.refine and infer --refine"),
    "postprocesses": (
        "medseg.inference.postprocess",
        ("POSTPROCESSES",),
        "inference.postprocess and infer --postprocess",
    ),
    "writers": ("medseg.workflows.infer_case", ("OUTPUTS",), "infer --NAME, and also=[NAME] in Python"),
}
FROM_THE_DATA = ("in_channels", "out_channels", "dimensions", "deep_supervision")  # options that no config gives


@dataclass(frozen=True)
class Option:
    """An option and its default as YAML reads it; None where the planner decides it."""

    name: str
    default: Any


@dataclass(frozen=True)
class Entry:
    """An entry of a table: its name in YAML or on the command line, one sentence, and its options."""

    name: str
    summary: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Listing:
    """The entries of one kind, and the key or option that ``chosen_by`` names one with."""

    kind: str
    chosen_by: str
    entries: tuple[Entry, ...]

    @property
    def planned(self) -> bool:
        """Whether the planner gives the options that a config leaves open."""
        return self.kind == "architectures"

    def content(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def listings(kind: str | None = None) -> list[Listing]:
    """The tables: the one called ``kind``, or all. Raises ConfigError for a kind that there is not, with all that there are."""
    if kind is None:
        return [_listing(name) for name in TABLES]
    find("list", dict.fromkeys(TABLES, _listing), kind)
    return [_listing(kind)]


def _listing(kind: str) -> Listing:
    module, names, chosen_by = TABLES[kind]
    tables = [getattr(import_module(module), name) for name in names]
    more = PLANNER_OPTIONS if kind == "architectures" else {}
    entries = (_entry(name, part, more.get(name, ())) for table in tables for name, part in table.items())
    return Listing(kind, chosen_by, tuple(entries))


def _entry(name: str, part: Any, planner_options: Sequence[str]) -> Entry:
    function = _function(part)
    parameters = inspect.signature(function).parameters.values()
    options = tuple(
        Option(p.name, _plain(p.default))
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.name not in FROM_THE_DATA
    )
    return Entry(name, _sentence(function), (*options, *(Option(option, None) for option in planner_options)))


def _function(part: Any) -> Callable[..., Any]:
    """What says what ``part`` does: itself, or the function that a metric or a writer holds."""
    for attribute in ("function", "contents", "func"):
        part = getattr(part, attribute, part)
    if not callable(part):
        raise ConfigError(f"a table holds {part!r}, which nothing can call")
    return part.func if isinstance(part, partial) else part


def _sentence(function: Callable[..., Any]) -> str:
    paragraph = (inspect.getdoc(function) or "").split("\n\n")[0]
    return " ".join(paragraph.replace("``", "").split())


def _plain(default: Any) -> Any:
    if default is inspect.Parameter.empty:
        return None
    return list(default) if isinstance(default, Sequence) and not isinstance(default, str) else default
