"""How well readers agree: by structure over all readers, pair by pair, and models and a consensus beside them."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medseg.core.files import write_together
from medseg.core.provenance import provenance
from medseg.core.text import printable
from medseg.statistics.bootstrap import Interval
from medseg.statistics.readers import AgainstReaders

NOTES = (
    "dice: mean over the pairs of readers and the cases where either holds the structure, with a 95 % bootstrap interval by "
    "patient. ICC: ICC(2,1) of volumes, two-way random, absolute agreement. SDC: smallest detectable change. Bias: mean of the "
    "second's volume less the first's, with 95 % limits of agreement. * percentile interval, where BCa is undefined. –: "
    "undefined."
)
MODEL_NOTES = (
    "readers: mean Dice of the readers with one another; model: mean Dice of the model with the readers; over the cases that any "
    "reader drew. Williams' index: the second over the first, above 1 where the model agrees with the readers better than they "
    "do with one another, as a model that draws what lies between them will. Intervals are 95 %, by patient, for these readers. "
    "Spurious: cases that the model drew and no reader did, in no other figure."
)
QUALITY_NOTES = (
    "Sensitivity and specificity by STAPLE, in the box around all that any reader drew of the structure, so that a larger box "
    "would "
    "give a higher specificity; means over cases. The consensus is made of these readers, so the figures flatter each. STAPLE "
    "takes readers to err independently: what most of them do wrong is "
    "its truth."
)
HEADER = ("structure", "cases", "dice [95 % interval]", "ICC [95 % interval]", "SDC (mL)", "least pairwise dice")
PAIR_HEADER = ("structure", "first", "second", "cases", "dice", "bias [limits] (mL)")
MODEL_HEADER = (
    *("structure", "cases", "readers", "model", "difference [95 % interval]", "Williams' index [95 % interval]"),
    *("spurious", "margin"),
)
QUALITY_HEADER = ("structure", "reader", "cases", "sensitivity [95 % interval]", "specificity [95 % interval]")
Table = list[list[str]]


@dataclass(frozen=True)
class StructureAgreement:
    """All readers on one structure, over the ``cases`` where any of them holds it."""

    structure: str
    cases: int
    dice: float
    dice_low: float
    dice_high: float
    dice_interval: str
    icc: float
    icc_low: float
    icc_high: float
    sem_ml: float
    sdc_ml: float
    least_dice: float


@dataclass(frozen=True)
class PairAgreement:
    """Two readers on one structure, over the ``cases`` where either holds it; volumes of the second less the first."""

    structure: str
    first: str
    second: str
    cases: int
    dice: float
    bias_ml: float
    low_ml: float
    high_ml: float


@dataclass(frozen=True)
class ReaderAgreement:
    """One reader with the others on one structure: mean Dice over the ``cases`` where any of them holds it."""

    structure: str
    reader: str
    cases: int
    dice: float


@dataclass(frozen=True)
class ModelAgreement:
    """A model among the readers on one structure; ``not_inferior`` is None without a ``margin``."""

    structure: str
    model: str
    found: AgainstReaders
    margin: float | None = None
    not_inferior: bool | None = None


@dataclass(frozen=True)
class ReaderQuality:
    """A reader's means of sensitivity and specificity by STAPLE, over the ``cases`` where any reader drew the structure."""

    structure: str
    reader: str
    cases: int
    sensitivity: float
    sensitivity_interval: Interval
    specificity: float
    specificity_interval: Interval


@dataclass(frozen=True)
class Agreement:
    """What ``agree`` found; ``readers`` by the names of their folders, ``patients`` by case.

    ``alone``: each reader with the others. ``files`` are the consensus label maps by name, made by ``consensus``; of them
    ``undecided_ml`` became background although half of the readers or more said that they are not, and ``unsettled``
    counts estimates of STAPLE that still moved when it was stopped.
    """

    readers: tuple[str, ...]
    structures: tuple[StructureAgreement, ...]
    pairs: tuple[PairAgreement, ...]
    alone: tuple[ReaderAgreement, ...] = ()
    models: tuple[ModelAgreement, ...] = ()
    quality: tuple[ReaderQuality, ...] = ()
    patients: Mapping[str, str] = field(default_factory=dict)
    group: str | None = None
    seed: int = 0
    consensus: str | None = None
    undecided_ml: float = 0.0
    unsettled: int = 0
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def table(self) -> Table:
        """Header and rows by structure, as people read them."""
        rows = [
            [
                printable(s.structure),
                str(s.cases),
                _limits(s.dice, s.dice_low, s.dice_high, 4) + ("*" if s.dice_interval == "percentile" else ""),
                _limits(s.icc, s.icc_low, s.icc_high, 3),
                text(s.sdc_ml, 2),
                text(s.least_dice, 4),
            ]
            for s in self.structures
            if s.cases
        ]
        return [list(HEADER), *rows]

    def pair_table(self) -> Table:
        """Header and rows by structure and pair, as people read them."""
        rows = [
            [
                *(printable(p.structure), p.first, p.second, str(p.cases), text(p.dice, 4)),
                _limits(p.bias_ml, p.low_ml, p.high_ml, 2),
            ]
            for p in self.pairs
            if p.cases
        ]
        return [list(PAIR_HEADER), *rows]

    def model_tables(self) -> dict[str, Table]:
        """By model, header and rows by structure, as people read them."""
        found: dict[str, Table] = {}
        for m in self.models:
            a = m.found
            if not a.cases and not a.spurious:
                continue
            row = [printable(m.structure), str(a.cases), text(a.readers, 4), text(a.model, 4)]
            row += [
                _with(a.difference, a.interval, 4),
                _with(a.index, a.index_interval, 3),
                str(a.spurious),
                _verdict(m),
            ]
            found.setdefault(m.model, [list(MODEL_HEADER)]).append(row)
        return found

    def quality_table(self) -> Table:
        """Header and rows by structure and reader, as people read them; the header alone without STAPLE."""
        rows = [
            [
                *(printable(q.structure), q.reader, str(q.cases)),
                _with(q.sensitivity, q.sensitivity_interval, 4),
                _with(q.specificity, q.specificity_interval, 4),
            ]
            for q in self.quality
        ]
        return [list(QUALITY_HEADER), *rows]

    def nowhere(self) -> str:
        """The structures that no reader drew, which are in no table; empty where there are none."""
        names = [printable(s.structure) for s in self.structures if not s.cases]
        return f"No reader drew, so in no table of readers: {', '.join(names)}." if names else ""

    def notes(self) -> str:
        """What the tables' columns mean."""
        said = [self.nowhere(), NOTES, MODEL_NOTES if self.models else "", QUALITY_NOTES if self.quality else ""]
        return "\n".join(note for note in said if note)

    def conclusions(self) -> list[str]:
        """A sentence for each model: where it is not inferior to the readers, and where that was not shown."""
        from medseg.report.agreement_methods import conclusion

        names = dict.fromkeys(m.model for m in self.models)
        return [conclusion(name, [m for m in self.models if m.model == name]) for name in names]

    def methods(self) -> str:
        """The methods paragraph, in Markdown."""
        from medseg.report.agreement_methods import methods_text

        return methods_text(self)

    def save(self, folder: Path) -> None:
        """Write agreement.html, .csv, .png and .svg, pairs.csv, methods.md, of models models.csv, of a consensus its label maps.

        STAPLE adds readers.csv. All or none. Raises OutputError or ResourceError where the place is read-only or full.
        """
        from medseg.report.plots_agreement import agreement_plot

        texts = {"agreement.csv": _csv(self.structures), "pairs.csv": _csv(self.pairs), "methods.md": self.methods()}
        texts |= {"models.csv": _csv(self.models)} if self.models else {}
        texts |= {"readers.csv": _csv(self.quality)} if self.quality else {}
        files = {name: content.encode("utf-8", "backslashreplace") for name, content in texts.items()}
        files |= {f"agreement.{kind}": agreement_plot(self, kind) for kind in ("png", "svg")}
        files["agreement.html"] = self._page(files["agreement.svg"])
        write_together({folder / name: content for name, content in (files | dict(self.files)).items()})

    def _page(self, plot: bytes) -> bytes:
        from medseg.report.html import inline, rendered

        return rendered(
            "agreement.html",
            readers=self.readers,
            models=list(self.model_tables().items()),
            cases=len(self.patients),
            patients=len(set(self.patients.values())),
            created=provenance()["created"],
            agreement=self.table(),
            pairs=self.pair_table(),
            quality=self.quality_table(),
            notes=NOTES,
            nowhere=self.nowhere(),
            model_notes=MODEL_NOTES,
            quality_notes=QUALITY_NOTES,
            conclusions=self.conclusions(),
            plot=inline(plot),
            methods=self.methods().partition("\n")[2].strip(),
        )


def _verdict(m: ModelAgreement) -> str:
    return "–" if m.margin is None else f"{m.margin:g}: {'not inferior' if m.not_inferior else 'not shown'}"


def _csv(rows: Sequence[Any]) -> str:
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    listed = [_flat(asdict(row)) for row in rows]
    writer.writerow(listed[0] if listed else [])
    writer.writerows(["" if v is None or v != v else v for v in row.values()] for row in listed)
    return content.getvalue()


def _flat(row: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Rows within a row by names joined: interval_low; a row called ``found`` is the row itself."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= _flat(value, "" if name == "found" else f"{before}{name}_")
        else:
            flat[before + name] = value
    return flat


def _with(value: float, interval: Interval, decimals: int) -> str:
    return _limits(value, interval.low, interval.high, decimals) + ("*" if interval.method == "percentile" else "")


def _limits(value: float, low: float, high: float, decimals: int) -> str:
    if math.isnan(low):
        return text(value, decimals)
    return f"{text(value, decimals)} [{text(low, decimals)}, {text(high, decimals)}]"


def text(value: float, decimals: int) -> str:
    """A figure as people read it; a dash where undefined."""
    return "–" if math.isnan(value) else f"{value:.{decimals}f}".replace("-", "−")
