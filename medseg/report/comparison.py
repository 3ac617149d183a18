"""What a comparison of models found: tables, figures and the methods paragraph."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.core.files import write_together
from medseg.core.provenance import provenance
from medseg.report.comparison_methods import methods_text
from medseg.report.comparison_tables import HEADER, cells, to_csv, to_latex, to_markdown
from medseg.report.ranking import RANKING_NOTES, overall, ranking_csv, ranking_table
from medseg.statistics.comparison import Difference, Endpoint, ModelScores
from medseg.statistics.ranking import Ranking

NOTES = (
    "Difference: second less first, mean over the cases that both define, its interval that of the row by itself; ↑ higher is "
    "better, "
    "↓ lower is better. p: adjusted by Holm's method over all rows. r: rank-biserial correlation, positive where the second "
    "is better. Win/tie/loss: cases, of the "
    "second model. Outside: cases in no difference. * percentile interval, where BCa is undefined. –: undefined."
)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Every endpoint of every pair of models: ``rows``; ``patients`` of all cases.

    ``judged``: tolerance and rule for missed structures, where known; ``skipped``: why, by model and case. ``rankings`` of
    three or more models.
    """

    models: tuple[ModelScores, ...]
    endpoints: tuple[Endpoint, ...]
    rows: tuple[Difference, ...]
    patients: Mapping[str, str]
    group: str | None
    seed: int
    judged: Mapping[str, Any] = field(default_factory=dict)
    skipped: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    rankings: tuple[Ranking, ...] = ()

    def table(self) -> list[list[str]]:
        """Header and rows as people read them."""
        return [list(HEADER), *(cells(row) for row in self.rows)]

    def ranking_table(self) -> list[list[str]]:
        """Header and rows as people read them: of each metric the rankings over all structures. Empty with two models."""
        names = [m.name for m in self.models]
        return ranking_table(overall(self.rankings), names) if self.rankings else []

    def methods(self) -> str:
        """The methods paragraph, in Markdown."""
        return methods_text(
            self.models,
            self.endpoints,
            self.rows,
            patients=self.patients,
            group=self.group,
            seed=self.seed,
            judged=self.judged,
            skipped=self.skipped,
            rankings=self.rankings,
        )

    def caption(self) -> str:
        people = len(set(self.patients.values()))
        return f"Paired comparison on {len(self.patients)} cases of {people} patients. {NOTES}"

    def save(self, folder: Path) -> None:
        """Write comparison.html, .csv, .md, .tex, methods.md, forest.png, .svg and box.png into ``folder``, all or none.

        Three or more models have ranking.csv, .png and .svg, too.
        Raises OutputError or ResourceError where the place is read-only or full.
        """
        from medseg.report.plots_comparison import box_plot, forest_plot

        texts = {
            "comparison.csv": to_csv(self.rows),
            "comparison.md": f"{to_markdown(self.rows)}\n{self.caption()}\n",
            "comparison.tex": to_latex(self.rows, caption=self.caption()),
            "methods.md": self.methods(),
        }
        files = {name: text.encode("utf-8", "backslashreplace") for name, text in texts.items()}
        files |= {f"forest.{kind}": forest_plot(self.rows, kind) for kind in ("png", "svg")}
        files["box.png"] = box_plot(self.models, self.endpoints, "png")
        if self.rankings:
            from medseg.report.plots_ranking import rank_plot

            names = [m.name for m in self.models]
            files["ranking.csv"] = ranking_csv(self.rankings, names).encode("utf-8", "backslashreplace")
            files |= {f"ranking.{kind}": rank_plot(overall(self.rankings), names, kind) for kind in ("png", "svg")}
        files["comparison.html"] = self._page(files)
        write_together({folder / name: content for name, content in files.items()})

    def _page(self, files: Mapping[str, bytes]) -> bytes:
        from medseg.report.html import inline, rendered

        place = HEADER.index("comparison")
        by_pair: dict[str, list[list[str]]] = {}
        for row in self.rows:
            listed = cells(row)
            by_pair.setdefault(listed.pop(place), []).append(listed)
        return rendered(
            "comparison.html",
            models=[m.name for m in self.models],
            cases=len(self.patients),
            patients=len(set(self.patients.values())),
            created=provenance()["created"],
            skipped=[[name, *item] for name, bad in self.skipped.items() for item in bad.items()],
            columns=[name for name in HEADER if name != "comparison"],
            tables=list(by_pair.items()),
            notes=NOTES,
            forest=inline(files["forest.svg"]),
            box=inline(files["box.png"]),
            ranking=self.ranking_table(),
            ranking_notes=RANKING_NOTES,
            blobs=inline(files["ranking.svg"]) if self.rankings else "",
            methods=self.methods().partition("\n")[2].strip(),
        )

    def __repr__(self) -> str:
        return f"Comparison({len(self.models)} models, {len(self.patients)} case(s), {len(self.rows)} row(s))"

    def _repr_html_(self) -> str:
        from html import escape

        header, *rows = self.table()
        head = "".join(f"<th>{escape(c)}</th>" for c in header)
        body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{escape(self.caption())}</p>"

    def to_dict(self) -> dict[str, Any]:
        """The rows as plain JSON values; None where undefined."""
        from dataclasses import asdict

        return {
            "models": [m.name for m in self.models],
            "cases": len(self.patients),
            "patients": len(set(self.patients.values())),
            "rows": [{k: _plain(v) for k, v in asdict(row).items()} for row in self.rows],
            "rankings": [r.to_dict([m.name for m in self.models]) for r in self.rankings],
            "methods": self.methods(),
        }


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and value != value else value  # NaN is not itself
