"""The paragraph for a paper's methods section: what was compared and how, with the figures of this very comparison."""

from collections.abc import Mapping, Sequence
from typing import Any

from medseg.core.provenance import versions
from medseg.metrics import empty_mask_policy
from medseg.report.cited import Cited
from medseg.statistics.bootstrap import RESAMPLES
from medseg.statistics.comparison import Difference, Endpoint, ModelScores
from medseg.statistics.paired import EXACT_UP_TO, PERMUTATIONS
from medseg.statistics.ranking import RANK_RESAMPLES, Ranking

SOURCES = {
    "bca": "Efron 1987, doi:10.1080/01621459.1987.10478410 (BCa intervals)",
    "wilcoxon": "Wilcoxon 1945, doi:10.2307/3001968",
    "flips": "Fisher 1935, The Design of Experiments, section 21; Phipson and Smyth 2010, doi:10.2202/1544-6115.1585",
    "holm": "Holm 1979, Scandinavian Journal of Statistics 6:65-70",
    "margin": "Piaggio et al. 2012, doi:10.1001/jama.2012.87802 (non-inferiority, CONSORT)",
    "effects": "Kerby 2014, doi:10.2466/11.IT.3.1; Lakens 2013, doi:10.3389/fpsyg.2013.00863",
    "stability": "Wiesenfarth et al. 2021, doi:10.1038/s41598-021-82017-6 (stability of rankings)",
    "tau": "Kendall 1945, doi:10.1093/biomet/33.3.239 (tau-b)",
}


def methods_text(
    models: Sequence[ModelScores],
    endpoints: Sequence[Endpoint],
    rows: Sequence[Difference],
    *,
    patients: Mapping[str, str],
    group: str | None,
    seed: int,
    judged: Mapping[str, Any],
    skipped: Mapping[str, Mapping[str, str]],
    rankings: Sequence[Ranking] = (),
) -> str:
    """Markdown: cases, differences, intervals, tests, margin, ranking, what lies outside the differences, versions, sources."""
    cite = Cited(SOURCES)
    people = len(set(patients.values()))
    units = (
        f"{people} patients (by the expression `{group}` on the case id)" if group else "each case taken as one patient"
    )
    names = ", ".join(m.name for m in models)
    policy = empty_mask_policy(judged.get("missed", "diagonal"))
    parts = [
        "# Statistical methods\n",
        f"{len(models)} models ({names}) were compared on {len(patients)} cases, {units}. Endpoints: {_listed(endpoints)}. "
        "Each figure is the mean over cases of the second model less the first, over the cases where both are defined; "
        "signed figures were compared by their absolute value.\n",
        f"Intervals are 95 % bootstrap intervals, bias-corrected and accelerated (BCa) {cite('bca')}, from {RESAMPLES} "
        "resamples of "
        f"whole patients, seed {seed}{_fallback(rows)}; each is that of its row alone, not adjusted for multiplicity. Two "
        f"paired tests, both two-sided: Wilcoxon's signed-rank test {cite('wilcoxon')} on "
        "the patients' mean differences, zeros left out; and a permutation test that flips the sign of a patient's "
        f"differences {cite('flips')}, counted out in full up to {EXACT_UP_TO} patients and from {PERMUTATIONS} random draws "
        "above. "
        f"{_family(rows, cite)} Effect sizes: matched-pairs rank-biserial correlation r and d_z {cite('effects')}, positive "
        "where the second "
        "model is better.\n",
        _margin_text(rows, cite),
        _ranking_text(rankings, seed, cite),
        f"{_tolerances(endpoints, judged)}Empty masks: {policy}. "
        "A case that only one model defines is in no difference; it counts as a loss of the "
        "model that missed the structure, claimed one where there is none, or gave no prediction, and bars a claim of "
        "non-inferiority for that model; a distance that a miss left undefined withholds every figure of its row but wins and "
        f"losses. {_outside(rows)}{_skipped(skipped)}\n",
        f"Software: {_software()}.\n",
    ]
    return "\n".join([*(part for part in parts if part), cite.listed()])


def _tolerances(endpoints: Sequence[Endpoint], judged: Mapping[str, Any]) -> str:
    """The lengths that figures depend on, where such figures are compared."""
    said = ""
    for metric, rule, what in (
        ("nsd", "tolerance_mm", "Tolerance"),
        ("boundary_iou", "boundary_mm", "Width of the rim"),
    ):
        if any(e.metric.startswith(metric) for e in endpoints):
            by_structure = judged.get(rule)
            listed = ", ".join(f"{name} {mm:g} mm" for name, mm in by_structure.items()) if by_structure else ""
            said += f"{what} of {metric}: {listed or 'not recorded in these scores'}. "
    return said


def _listed(endpoints: Sequence[Endpoint]) -> str:
    by_metric: dict[str, list[str]] = {}
    for e in endpoints:
        by_metric.setdefault(f"{e.metric} ({e.better} is better)", []).append(e.structure or "whole case")
    return "; ".join(f"{metric} of {_some(structures)}" for metric, structures in by_metric.items())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 12 else f"{len(names)} structures"


def _fallback(rows: Sequence[Difference]) -> str:
    percentile = sum(r.interval == "percentile" for r in rows)
    none = sum(r.interval == "" for r in rows)
    said = [f"{percentile} of {len(rows)} are percentile intervals, where BCa is undefined"] if percentile else []
    said += [f"{none} of {len(rows)} have none, with fewer than two patients"] if none else []
    return f" ({'; '.join(said)})" if said else ""


def _family(rows: Sequence[Difference], cite: Cited) -> str:
    tested = sum(r.wilcoxon_p == r.wilcoxon_p for r in rows)
    return (
        f"For each test p was adjusted by Holm's method {cite('holm')}; the family is all {tested} rows of the comparison "
        "that could be "
        "tested (every metric, structure and pair of models)."
    )


def _margin_text(rows: Sequence[Difference], cite: Cited) -> str:
    margins = {r.endpoint.metric: r.margin for r in rows if r.non_inferior is not None}
    if not margins:
        return ""
    listed = ", ".join(f"{metric} {margin:g}" for metric, margin in margins.items())
    return (
        f"The second model counts as not inferior where the 95 % interval lies wholly on the good side of the margin ({listed}), "
        f"which is a one-sided test at 2.5 % {cite('margin')}, not adjusted for multiplicity; without a BCa interval nothing "
        "is claimed.\n"
    )


def _ranking_text(rankings: Sequence[Ranking], seed: int, cite: Cited) -> str:
    if not rankings:
        return ""
    return (
        "The models were ranked by two rules. Mean then rank: by the mean over the cases that each defines, over several "
        "structures by the "
        "mean of these means. Rank then mean: in each case, ties sharing the mean rank, then by the mean rank. A model that "
        "failed where a "
        "figure has no value (no prediction, a distance that a miss left undefined) was the last, by its mean and in that "
        "case; one that "
        "rightly found nothing where another claimed a structure was the first in that case. Stability: the ranking was "
        "repeated on "
        f"{RANK_RESAMPLES} bootstrap samples of whole patients, seed {seed} {cite('stability')}, and compared with that of "
        "all cases by "
        f"Kendall's tau-b {cite('tau')}. "
        "It describes; it tests nothing.\n"
    )


def _outside(rows: Sequence[Difference]) -> str:
    count = {
        "undefined in both": sum(r.both_undefined for r in rows),
        "against the first model": sum(r.against_first for r in rows),
        "against the second": sum(r.against_second for r in rows),
        "undefined in one for an unknown reason": sum(r.unclear for r in rows),
    }
    said = ", ".join(f"{n} {what}" for what, n in count.items() if n)
    return f"Over all rows, values outside the differences: {said or 'none'}."


def _skipped(skipped: Mapping[str, Mapping[str, str]]) -> str:
    said = "; ".join(f"{name}: {', '.join(sorted(cases))}" for name, cases in skipped.items() if cases)
    return f" Cases that could not be scored: {said}." if said else ""


def _software() -> str:
    found = versions()
    return ", ".join(
        f"{name} {found[name]}" for name in ("medseg", "python", "numpy", "scipy", "statsmodels") if name in found
    )
