"""What the dataset doctor found: the cases, the structures and the findings, for the terminal and for programs."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medseg import __version__
from medseg.core.findings import SEVERITIES, Finding, named

FORMAT = 1
_ERRORS_TOLD = 5


@dataclass(frozen=True)
class CheckedCase:
    """A case as it was measured, triples along i, j, k of RAS storage; ``orientation`` is that of its image's storage.

    ``volumes_ml`` holds 0.0 for a structure that is not there. ``usable`` is False where a finding of the case is an error.
    """

    id: str
    patient: str
    usable: bool
    shape: tuple[int, int, int] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    orientation: str = ""
    channels: int = 0
    volumes_ml: dict[str, float] | None = None


@dataclass(frozen=True)
class Fixed:
    """A corrected copy: its ``folder``, how many cases became what in one line, a line for each that is not as it was,
    how many were left out, and the section of a config that names it."""

    folder: str
    summary: str
    lines: tuple[str, ...]
    left_out: int
    data_block: str


@dataclass(frozen=True)
class Diagnosis:
    """``findings``, errors first. ``labels`` are the structures by value, ``labels_block`` what to paste where the config's
    do not fit, ``names_from`` where its names come from. ``fixed`` is the corrected copy, if one was made.
    """

    config: str
    cases: tuple[CheckedCase, ...]
    labels: dict[str, int]
    findings: tuple[Finding, ...]
    labels_block: str = ""
    names_from: str = ""
    fixed: Fixed | None = None

    @property
    def errors(self) -> list[Finding]:
        return [one for one in self.findings if one.severity == "error"]

    @property
    def exit_code(self) -> int:
        """0 without errors; 2 where the config must be changed first, else 3. Of a corrected copy 0, or 1 if it lacks cases."""
        if self.fixed is not None:
            return 1 if self.fixed.left_out else 0
        return min((one.exit_code for one in self.errors), default=0)

    @property
    def problem(self) -> str:
        """The errors in one line, as training would refuse the dataset; empty without."""
        told = [one.line for one in self.errors]
        more = f" (and {len(told) - _ERRORS_TOLD} more)" if len(told) > _ERRORS_TOLD else ""
        return f"{len(told)} problem(s): " + "; ".join(told[:_ERRORS_TOLD]) + more if told else ""

    @property
    def summary(self) -> str:
        """How many findings of each severity, in one line."""
        counts = {name: sum(one.severity == name for one in self.findings) for name in SEVERITIES}
        words = ("error(s)", "warning(s)", "remark(s)")
        said = ", ".join(f"{counts[name]} {word}" for name, word in zip(SEVERITIES, words, strict=True))
        verdict = "not fit for training" if self.errors else "fit for training"
        return f"{len(self.cases)} case(s), {said}: {verdict}"

    @property
    def overview(self) -> str:
        """Shapes, spacings, channels and orientations of the cases that could be measured, in one line."""
        measured = [one for one in self.cases if one.shape and one.spacing_mm]
        if not measured:
            return ""
        shapes = _ranges([one.shape for one in measured if one.shape], "d")
        spacings = _ranges([one.spacing_mm for one in measured if one.spacing_mm], ".3g")
        channels = sorted({one.channels for one in measured})
        orientations = sorted({one.orientation for one in measured})
        return (
            f"{len(measured)} of {len(self.cases)} case(s) measured, {len({one.patient for one in self.cases})} patient(s); "
            f"shape {shapes} voxels; spacing {spacings} mm; {' or '.join(map(str, channels))} channel(s); {', '.join(orientations)}"
        )

    def structure_table(self) -> list[list[str]]:
        """A header and a row for each structure: its value, the cases that hold it, its volume's median and range (ml)."""
        rows = [["structure", "value", "cases", "median ml", "least ml", "most ml"]]
        for name, value in sorted(self.labels.items(), key=lambda item: item[1]):
            if value == 0:
                continue
            volumes = [v for one in self.cases if (v := (one.volumes_ml or {}).get(name, 0.0)) > 0]
            numbers = [f"{n:.3g}" for n in (np.median(volumes), min(volumes), max(volumes))] if volumes else [""] * 3
            rows.append([name, str(value), str(len(volumes)), *numbers])
        return rows

    def finding_table(self) -> list[list[str]]:
        """A header and a row for each finding."""
        rows = [["", "kind", "cases", "finding"]]
        return rows + [[one.severity, one.code, named(one.cases, 2), one.message] for one in self.findings]

    def content(self) -> dict[str, Any]:
        """The schema of ``medseg check --json``, described in docs/check.md. NaN never occurs."""
        counts = {name: sum(one.severity == name for one in self.findings) for name in SEVERITIES}
        return {
            "format": FORMAT,
            "medseg": __version__,
            "config": self.config,
            "exit_code": self.exit_code,
            "counts": {"cases": len(self.cases), **counts},
            "findings": [
                {"code": one.code, "severity": one.severity, "cases": list(one.cases), "message": one.message}
                for one in self.findings
            ],
            "labels": self.labels,
            "labels_block": self.labels_block or None,
            "names_from": self.names_from or None,
            "fixed": asdict(self.fixed) if self.fixed else None,
            "cases": [
                {
                    "id": one.id,
                    "patient": one.patient,
                    "usable": one.usable,
                    "shape": one.shape,
                    "spacing_mm": one.spacing_mm,
                    "orientation": one.orientation or None,
                    "channels": one.channels or None,
                    "volumes_ml": one.volumes_ml,
                }
                for one in self.cases
            ],
        }


def _ranges(triples: list[Any], form: str) -> str:
    low, high = np.min(triples, axis=0).tolist(), np.max(triples, axis=0).tolist()
    pairs = zip(low, high, strict=True)
    return " x ".join(f"{a:{form}}" if f"{a:{form}}" == f"{b:{form}}" else f"{a:{form}}-{b:{form}}" for a, b in pairs)
