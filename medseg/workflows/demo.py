"""Demo: phantoms -> threshold baseline -> train -> segment unseen scans -> evaluate -> pictures and tables."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from medseg.core.errors import OutputError
from medseg.core.files import check_writable, make_folder, write_json
from medseg.core.progress import Progress, silent
from medseg.data.phantom import Phantom, threshold_baseline
from medseg.io.reading import read_label_map, read_volume
from medseg.report.evaluation import Report
from medseg.report.overlay import save_overlays
from medseg.workflows.evaluate import evaluate
from medseg.workflows.infer import infer
from medseg.workflows.phantom import PhantomDataset, write_msd
from medseg.workflows.train import train

Say = Callable[[str], None]
TRAINING_CASES, UNSEEN_CASES = 24, 6
TRAINING_BUDGET = "175s"
ABDOMEN = (-160.0, 240.0)  # HU shown from black to white
_MARK = "demo.json"  # the sign that --force may replace the folder


@dataclass(frozen=True, eq=False)
class DemoResult:
    """What the demo measured on unseen phantoms, and where everything lies."""

    folder: Path
    report: Report
    baseline: dict[str, float]
    seconds: dict[str, float]

    @property
    def rows(self) -> list[list[str]]:
        """Structure, Dice of the best fixed threshold, Dice and volumes of the trained network: means over unseen scans."""
        mean = self.report.mean
        return [
            [name, f"{self.baseline[name]:.3f}", f"{mean('dice', name):.3f}", f"{mean('volume_ml', name):.1f}",
             f"{mean('reference_volume_ml', name):.1f}"]
            for name in self.report.labels.names
        ]  # fmt: skip

    def __repr__(self) -> str:
        return f"DemoResult({self.folder}, {', '.join(f'{row[0]} {row[2]}' for row in self.rows)})"

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(column)}</th>" for column in COLUMNS)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows)
        return f"<table><tr>{head}</tr>{body}</table><p>{escape(str(self.folder))}</p>"


COLUMNS = ["structure", "Dice, best threshold", "Dice, trained", "volume mL", "reference mL"]


def demo(
    output: Path | str = "demo",
    *,
    force: bool = False,
    seed: int = 0,
    budget: str = TRAINING_BUDGET,
    progress: Progress = silent,
    say: Say = lambda line: None,
) -> DemoResult:
    """Go the whole way on phantom CT scans, in ``output``: data, run, predictions, evaluation, overlays.

    ``budget`` is the training's. Raises OutputError where ``output`` exists, unless ``force`` and it is an earlier demo.
    """
    folder = Path(output)
    _make_room(folder, force=force)
    clock = {"start": time.monotonic()}
    write_json(folder / _MARK, {"made_by": "medseg demo", "seed": seed})

    say(f"1/5 making {TRAINING_CASES} phantom CT scans to train on and {UNSEEN_CASES} that stay unseen")
    data = write_msd(
        folder / "data",
        cases=TRAINING_CASES,
        test=UNSEEN_CASES,
        seed=seed,
        progress=progress,
    )
    baseline = threshold_baseline(_read_pairs(data))
    said = ", ".join(f"{name} {value:.2f}" for name, value in baseline.items())
    say(f"    best fixed intensity threshold on the unseen scans, Dice: {said}")
    clock["phantoms"] = time.monotonic()

    say(f"2/5 training a 3D U-Net for {budget}")
    config = _config(data, folder, budget, seed)
    trained = train(config, output=folder / "run", progress=progress, say=lambda line: say(f"    {line}"))
    clock["training"] = time.monotonic()

    say("3/5 segmenting the unseen scans")
    for done, case in enumerate(data.test, 1):
        infer(data.folder / "imagesTs" / f"{case}.nii.gz", model=trained.model_folder, output=folder / "predictions")
        progress("segment", done, len(data.test))
    clock["segmenting"] = time.monotonic()

    say("4/5 evaluating them")
    report = evaluate(
        folder / "predictions", data.folder / "labelsTs", labels=data.labels, output=folder / "evaluation"
    )
    clock["evaluation"] = time.monotonic()

    say("5/5 drawing them")
    for done, case in enumerate(data.test, 1):
        _draw(folder, data, report, case)
        progress("draw", done, len(data.test))
    clock["pictures"] = time.monotonic()
    stages = list(clock)
    seconds = {name: clock[name] - clock[before] for before, name in pairwise(stages)}
    return DemoResult(folder, report, baseline, seconds)


def _make_room(folder: Path, *, force: bool) -> None:
    check_writable(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not force or not _is_demo(folder):
            hint = "replace it with --force" if _is_demo(folder) else "choose another --output"
            raise OutputError(f"{folder}: exists already; {hint}")
        shutil.rmtree(folder)
    make_folder(folder)


def _is_demo(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / _MARK).read_text())["made_by"] == "medseg demo")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _config(data: PhantomDataset, folder: Path, budget: str, seed: int) -> dict[str, Any]:
    return {
        "name": "phantom demo",
        "data": {"layout": "msd", "root": str(data.folder)},
        "labels": data.labels.mapping(),
        "modality": "CT",
        "train": {"budget": budget, "fold": "final", "seed": seed},
        "output": str(folder / "run"),
    }


def _read_pairs(data: PhantomDataset) -> list[Phantom]:
    return [
        Phantom(
            read_volume(data.folder / "imagesTs" / f"{case}.nii.gz"),
            read_label_map(data.folder / "labelsTs" / f"{case}.nii.gz", data.labels),
            data.true_volumes_ml[case],
        )
        for case in data.test
    ]


def _draw(folder: Path, data: PhantomDataset, report: Report, case: str) -> None:
    dice = {s.structure: s.value for s in report.scores if s.case == case and s.metric == "dice"}
    title = f"{case} (unseen): Dice " + ", ".join(f"{name} {value:.2f}" for name, value in dice.items())
    save_overlays(
        folder / "overlays" / f"{case}.png",
        read_volume(data.folder / "imagesTs" / f"{case}.nii.gz"),
        read_label_map(folder / "predictions" / f"{case}_seg.nii.gz", data.labels),
        read_label_map(data.folder / "labelsTs" / f"{case}.nii.gz", data.labels),
        title=title,
        window=ABDOMEN,
    )
