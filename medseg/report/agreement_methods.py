"""The paragraph for a paper's methods section: how readers, models and a consensus were judged, with this study's figures."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medseg.core.provenance import versions
from medseg.core.text import printable
from medseg.report.cited import Cited
from medseg.statistics.bootstrap import RESAMPLES

if TYPE_CHECKING:
    from medseg.report.agreement import Agreement, ModelAgreement

SOURCES = {
    "dice": "Dice 1945, doi:10.2307/1932409",
    "bca": "Efron 1987, doi:10.1080/01621459.1987.10478410 (BCa intervals)",
    "icc": "Shrout and Fleiss 1979, doi:10.1037/0033-2909.86.2.420; McGraw and Wong 1996, doi:10.1037/1082-989X.1.1.30",
    "sdc": "de Vet et al. 2006, doi:10.1016/j.jclinepi.2005.10.015",
    "limits": "Bland and Altman 1986, doi:10.1016/S0140-6736(86)90837-8",
    "williams": "Williams 1976, doi:10.2307/2529750; Chalana and Kim 1997, doi:10.1109/42.640755; Bouix et al. 2007, "
    "doi:10.1016/j.neuroimage.2007.04.031",
    "margin": "Piaggio et al. 2012, doi:10.1001/jama.2012.87802 (non-inferiority, CONSORT)",
    "staple": "Warfield et al. 2004, doi:10.1109/TMI.2004.828354",
}


def methods_text(found: "Agreement") -> str:
    """Markdown: cases, agreement, models, consensus, versions, sources."""
    cite = Cited(SOURCES)
    people = len(set(found.patients.values()))
    units = (
        f"{people} patients (by the expression `{found.group}` on the case id)"
        if found.group
        else "each case one patient"
    )
    parts = [
        "# Statistical methods\n",
        f"{len(found.readers)} readers ({', '.join(found.readers)}) outlined {len(found.patients)} cases, {units}. Agreement was "
        f"measured by the Dice coefficient {cite('dice')} of each pair of readers, averaged over the pairs of a case and over "
        "the "
        "cases where any reader drew the structure: a pair where one drew nothing has Dice 0, a pair where neither drew anything "
        f"has none. Intervals are 95 % bootstrap intervals, bias-corrected and accelerated (BCa) {cite('bca')}, from {RESAMPLES} "
        f"resamples of whole patients, seed {found.seed}; percentile intervals, marked, where BCa is undefined. Volumes: "
        "ICC(2,1), two-way "
        f"random, absolute agreement, of a single reader {cite('icc')}; smallest detectable change {cite('sdc')}; 95 % limits "
        "of agreement "
        f"of each pair {cite('limits')}. ICC, its interval and the limits take cases as independent.\n",
        _models(found, cite),
        _consensus(found, cite),
        f"Software: {_software()}.\n",
    ]
    return "\n".join([*(part for part in parts if part), cite.listed()])


def _models(found: "Agreement", cite: Cited) -> str:
    if not found.models:
        return ""
    names = ", ".join(dict.fromkeys(m.model for m in found.models))
    text = (
        f"Models ({names}) were set against the readers: in each case the mean Dice of the model with the readers, less the "
        "mean Dice "
        "of the readers with one another, over the cases that any reader drew; and Williams' index, the ratio of the two "
        "means over "
        f"cases {cite('williams')}. The readers are taken as they are: intervals speak of other patients, not of other "
        "readers. An index "
        "above 1 is no proof of a model better than a reader: whoever draws what lies between the readers agrees with each "
        "better "
        "than they do with one another. "
    )
    margin = found.models[0].margin
    if margin is None:
        return text + "No margin was set, so no claim of non-inferiority is made.\n"
    return text + (
        f"A model counts as not inferior to the readers where the interval of the difference lies wholly above the margin of "
        f"−{margin:g} in Dice, a one-sided test at 2.5 % {cite('margin')}, for each structure by itself, not adjusted for "
        "multiplicity; "
        "never without a BCa interval, nor where the model drew the structure in a case in which no reader did.\n"
    )


def _consensus(found: "Agreement", cite: Cited) -> str:
    if found.consensus is None:
        return ""
    left = (
        f" {found.undecided_ml:.2f} mL over all cases became background although half of the readers or more drew "
        "some structure there."
    )
    if found.consensus == "majority":
        return (
            "Consensus: in each voxel the structure that more than half of the readers drew, background where there is none; "
            f"ties are background.{left}\n"
        )
    moving = f" {found.unsettled} estimates had not settled." if found.unsettled else ""
    return (
        f"Consensus: STAPLE {cite('staple')} for each structure by itself, within the box around all that any reader drew of "
        "it, on which "
        "prior and specificity depend; the prior is the mean fraction that the readers drew; true where the probability is "
        "above one "
        f"half, and the more probable structure where two are.{left}{moving}\n"
    )


def conclusion(name: str, rows: Sequence["ModelAgreement"]) -> str:
    """What may be said of one model, over its structures."""
    judged = [m for m in rows if m.found.cases]
    if not judged:
        return f"{name}: no reader drew any structure, so nothing can be said of it."
    if judged[0].margin is None:
        higher = sum(m.found.difference > 0 for m in judged)
        return (
            f"{name}: agrees with the readers better on average than they do with one another in {higher} of {len(judged)} "
            "structure(s); "
            "without a margin (--margin) set beforehand this is no claim of non-inferiority."
        )
    shown = [printable(m.structure) for m in judged if m.not_inferior]
    rest = [printable(m.structure) for m in judged if not m.not_inferior]
    said = (
        [f"not inferior to the readers by a margin of {judged[0].margin:g} in Dice for {_listed(shown)}"]
        if shown
        else []
    )
    said += [f"{'this was' if shown else 'non-inferiority was'} not shown for {_listed(rest)}"] if rest else []
    return f"{name}: {'; '.join(said)}."


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _software() -> str:
    found = versions()
    return ", ".join(f"{name} {found[name]}" for name in ("medseg", "python", "numpy", "scipy") if name in found)
