"""What a training returns: where everything lies and how well it validated, shown well in a notebook."""

import math
from dataclasses import dataclass
from html import escape
from pathlib import Path

from medseg.core.plan import Plan
from medseg.report.evaluation import Report


@dataclass(frozen=True, eq=False)
class TrainResult:
    """A finished training: its run folder, the model folder in it, the plan, and a validation report for each fold.

    ``cross_validation`` is the report over all folds, where more than one was trained.
    """

    run_folder: Path
    model_folder: Path
    plan: Plan
    validation: dict[str, Report]
    seconds: float
    cross_validation: Report | None = None

    @property
    def dice(self) -> dict[str, float]:
        """Mean validation Dice of each structure and region over all cases held out; empty after ``fold: final``."""
        reports = [self.cross_validation] if self.cross_validation else list(self.validation.values())
        names = [*reports[0].labels.names, *reports[0].settings.regions] if reports else []
        means = {name: [report.mean("dice", name) for report in reports] for name in names}
        # A fold whose cases do not annotate a structure says nothing of it.
        kept = {name: [v for v in values if not math.isnan(v)] or [math.nan] for name, values in means.items()}
        return {name: sum(values) / len(values) for name, values in kept.items()}

    def __repr__(self) -> str:
        scores = ", ".join(f"{name} {value:.4f}" for name, value in self.dice.items()) or "not validated"
        return f"TrainResult({self.model_folder}, {self.plan.steps} steps, validation Dice: {scores})"

    def _repr_html_(self) -> str:
        plan = self.plan
        facts = {
            "model folder": str(self.model_folder),
            "network": f"{plan.architecture.name}, {plan.dimensions}D, patch {'x'.join(map(str, plan.patch_size))}",
            "steps": f"{plan.steps} of {plan.batch_size} patches, {self.seconds:.0f} s",
        }
        rows = "".join(f"<tr><th style='text-align:left'>{k}</th><td>{escape(v)}</td></tr>" for k, v in facts.items())
        shown = {"all folds": self.cross_validation} if self.cross_validation else self.validation
        reports = "".join(f"<h4>Validation, {escape(n)}</h4>{r._repr_html_()}" for n, r in shown.items())
        return f"<h4>medseg training</h4><table>{rows}</table>{reports}"
