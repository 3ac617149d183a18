"""How well readers agree: by structure over all readers, and pair by pair."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medseg.core.files import write_together

NOTES = (
    "dice: mean over the pairs of readers and the cases where either holds the structure, with a 95 % bootstrap interval by "
    "patient. ICC: ICC(2,1) of volumes, two-way random, absolute agreement. SDC: smallest detectable change. Bias: mean of the "
    "second's volume less the first's, with 95 % limits of agreement. * percentile interval, where BCa is undefined. –: undefined."
)
HEADER = ("structure", "cases", "dice [95 % interval]", "ICC [95 % interval]", "SDC (mL)", "least pairwise dice")
PAIR_HEADER = ("structure", "first", "second", "cases", "dice", "bias [limits] (mL)")


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
class Agreement:
    """What ``agree`` found; ``readers`` by the names of their folders."""

    readers: tuple[str, ...]
    structures: tuple[StructureAgreement, ...]
    pairs: tuple[PairAgreement, ...]

    def table(self) -> list[list[str]]:
        """Header and rows by structure, as people read them."""
        rows = [
            [
                s.structure,
                str(s.cases),
                _limits(s.dice, s.dice_low, s.dice_high, 4) + ("*" if s.dice_interval == "percentile" else ""),
                _limits(s.icc, s.icc_low, s.icc_high, 3),
                _text(s.sdc_ml, 2),
                _text(s.least_dice, 4),
            ]
            for s in self.structures
        ]
        return [list(HEADER), *rows]

    def pair_table(self) -> list[list[str]]:
        """Header and rows by structure and pair, as people read them."""
        rows = [
            [p.structure, p.first, p.second, str(p.cases), _text(p.dice, 4), _limits(p.bias_ml, p.low_ml, p.high_ml, 2)]
            for p in self.pairs
        ]
        return [list(PAIR_HEADER), *rows]

    def save(self, folder: Path) -> None:
        """Write ``agreement.csv`` and ``pairs.csv`` into ``folder``, both or neither.

        Raises OutputError or ResourceError where the place is read-only or full.
        """
        files = {"agreement.csv": _csv(self.structures), "pairs.csv": _csv(self.pairs)}
        write_together({folder / name: text.encode("utf-8", "backslashreplace") for name, text in files.items()})


def _csv(rows: Sequence[Any]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(asdict(rows[0]) if rows else [])
    writer.writerows(
        ["" if isinstance(v, float) and math.isnan(v) else v for v in asdict(row).values()] for row in rows
    )
    return text.getvalue()


def _limits(value: float, low: float, high: float, decimals: int) -> str:
    if math.isnan(low):
        return _text(value, decimals)
    return f"{_text(value, decimals)} [{_text(low, decimals)}, {_text(high, decimals)}]"


def _text(value: float, decimals: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{decimals}f}".replace("-", "−")
