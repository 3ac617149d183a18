"""What a plan decides and what it will cost, for the terminal and for programs."""

from dataclasses import dataclass
from typing import Any

from medseg.core.component import Component
from medseg.core.plan import Fingerprint, Plan

SHOWN = (
    *(
        "dimensions",
        "spacing_mm",
        "patch_size",
        "batch_size",
        "architecture",
        "intensity",
        "loss",
        "optimizer",
        "schedule",
    ),
    *(
        "learning_rate",
        "precision",
        "steps",
        "ema",
        "validate_every",
        "foreground_fraction",
        "mirror_axes",
        "augmentation",
    ),
)
WAITING = ("steps", "ema", "validate_every", "validation_cases")
"""What is decided by measured times alone."""
IN_PLAN = ("dimensions", "spacing_mm", "patch_size", "batch_size", "architecture", "intensity", "mirror_axes")


@dataclass(frozen=True)
class Cost:
    """Seconds of the parts of one fold's training; ``step`` and ``case`` are those of one."""

    preprocessing: float
    step: float
    case: float
    training: float
    validation: float

    @property
    def total(self) -> float:
        return self.preprocessing + self.training + self.validation


@dataclass(frozen=True, eq=False)
class Planned:
    """A plan before it is trained. ``cost`` is None where no time was measured; the decisions ``waiting`` for that are open.

    ``memory_bytes``: the peak of a training step.
    """

    plan: Plan
    fingerprint: Fingerprint
    device: str
    memory_bytes: int
    cost: Cost | None = None
    waiting: tuple[str, ...] = ()

    def decisions(self) -> list[list[str]]:
        """Rows of key, value and reason."""
        return [[f"{'plan' if k in IN_PLAN else 'train'}.{k}", self._value(k), self._reason(k)] for k in SHOWN]

    def measured(self) -> list[list[str]]:
        """Rows of what was measured on the dataset."""
        f = self.fingerprint
        spacings = list(zip(*f.spacings_mm, strict=True))
        return [
            ["cases", str(f.cases)],
            ["channels", str(f.channels)],
            ["median shape", _times(f.median_shape)],
            ["spacing, mm", _times([_range(axis) for axis in spacings])],
            *(
                [
                    "intensity inside structures",
                    f"{c.percentile_0_5:.4g} to {c.percentile_99_5:.4g}, mean {c.mean:.4g}, sd {c.sd:.4g}",
                ]
                for c in f.foreground
            ),
            *([name, f"in {n} of {f.cases} cases"] for name, n in f.cases_per_structure.items() if n < f.cases),
        ]

    def costs(self) -> list[str]:
        """Sentences on memory and time."""
        where = "GPU memory" if self.device.startswith("cuda") else "memory"
        lines = [f"Peak {where} while training: {self.memory_bytes / 2**30:.2g} GiB (estimated from the network)."]
        if self.cost is None:
            is_open = (
                ": the network is the largest that may be taken, the steps are open" if "steps" in self.waiting else ""
            )
            return [*lines, f"Time was not measured (--no-timing){is_open}."]
        c = self.cost
        return [
            *lines,
            f"Time of a fold on {self.device}: {duration(c.total)}: preprocessing {duration(c.preprocessing)}, "
            f"{self.plan.steps} steps of {c.step:.3g} s {duration(c.training)}, validation {duration(c.validation)}.",
        ]

    def content(self) -> dict[str, Any]:
        """All of it as JSON holds it."""
        plan = self.plan.model_dump(mode="json")
        plan |= dict.fromkeys(self.waiting)
        cost = None if self.cost is None else {**vars(self.cost), "total": self.cost.total}
        return {
            "plan": plan,
            "fingerprint": self.fingerprint.model_dump(mode="json"),
            "device": self.device,
            "memory_bytes": self.memory_bytes,
            "seconds": cost,
        }

    def _reason(self, key: str) -> str:
        reasons = self.plan.reasons
        if key == "architecture":
            return "; ".join(reasons[k] for k in ("architecture", "network") if k in reasons)
        if key in self.waiting:
            return "what the time allows, once steps are measured"
        return reasons.get(key, "given")

    def _value(self, key: str) -> str:
        if key in self.waiting:
            return "by time"
        plan = self.plan
        value: Any = getattr(plan, key)
        if key == "spacing_mm" or key == "patch_size":
            return _times(f"{n:g}" for n in value)
        if key == "architecture":
            features = value.options.get("features")
            return f"{value.name}, features {' '.join(map(str, features))}" if features else str(value.name)
        if key == "intensity":
            return "; ".join(_part(one.scheme) for one in value)
        if key == "augmentation":
            return ", ".join(f"{part.name} {part.options['share']:g}" for part in value) or "none"
        if key == "validate_every":
            cases = "" if "validation_cases" in self.waiting else f", {plan.validation_cases} case(s)"
            return f"{value} steps{cases}"
        if key == "mirror_axes":
            return " ".join(map(str, value)) or "none"
        return (
            _part(value) if isinstance(value, Component) else f"{value:g}" if isinstance(value, float) else str(value)
        )


def duration(seconds: float) -> str:
    """Such as ``45 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _part(part: Component) -> str:
    shown = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in part.options.items())
    return f"{part.name} ({shown})" if shown else part.name


def _range(values: Any) -> str:
    low, high = min(values), max(values)
    return f"{low:.3g}" if high - low < 1e-3 * high else f"{low:.3g} to {high:.3g}"


def _times(values: Any) -> str:
    return " x ".join(map(str, values))
