"""All folds together: every case scored once, by the network that never saw its patient."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from medseg.core.case import Case
from medseg.models.bundle import save_model, saved_folds
from medseg.models.card import model_readme
from medseg.models.model_json import read_card
from medseg.report.evaluation import Report
from medseg.statistics import summarise

NAME = "cross_validation"


def cross_validation(reports: Mapping[str, Report], cases: Sequence[Case]) -> Report | None:
    """One report over the cases of all folds, its intervals by patient; None for one fold, or where two share a case."""
    ids = [case.id for report in reports.values() for case in report.cases]
    if len(reports) < 2 or len(set(ids)) < len(ids):
        return None
    scores = tuple(score for report in reports.values() for score in report.scores)
    patients = {case.id: case.patient for case in cases}
    return Report(
        scores,
        tuple(summarise(scores, patients=patients)),
        next(iter(reports.values())).labels,
        tuple(case for report in reports.values() for case in report.cases),
        settings=next(iter(reports.values())).settings,
    )


def save_cross_validation(run_folder: Path, report: Report) -> None:
    """Write ``validation/`` of the run folder, and the figures of all cases into the model folder, before those of the folds."""
    report.save(run_folder / "validation")
    model = run_folder / "model"
    states, of_folds = saved_folds(model)
    validation = {NAME: report.validated(), **{name: told for name, told in of_folds.items() if name != NAME}}
    card = read_card(model).model_copy(update={"validation": validation})
    save_model(model, card, states, model_readme(card))
