"""What a check has found: one sentence each, how bad it is, and the cases it is about."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """``message`` says what, got, expected and what to do, without the case; ``code`` is the kind, for programs.

    ``told`` is the sentence that names the file, where there is one. ``exit_code`` is that of the error it would be.
    """

    code: str
    severity: Severity
    cases: tuple[str, ...]
    message: str
    told: str = ""
    exit_code: int = 3

    @property
    def line(self) -> str:
        """The finding as one sentence by itself, with its file or its cases."""
        return self.told or (f"{named(self.cases)}: {self.message}" if self.cases else self.message)


def named(cases: Sequence[str], most: int = 3) -> str:
    """The first ``most`` of ``cases`` and how many more there are.

    >>> named(("a", "b", "c", "d", "e"))
    'a, b, c and 2 more'
    """
    more = f" and {len(cases) - most} more" if len(cases) > most else ""
    return ", ".join(cases[:most]) + more


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """``findings`` with equal words about several cases made one; errors first, then as they came."""
    found: dict[tuple[str, Severity, str], Finding] = {}
    for one in findings:
        key = one.code, one.severity, one.message
        before = found.get(key)
        cases = dict.fromkeys((*before.cases, *one.cases)) if before else one.cases
        found[key] = replace(before, cases=tuple(cases), told="") if before else one
    return sorted(found.values(), key=lambda one: SEVERITIES.index(one.severity))
