"""The course of a training as pictures: loss and Dice over the steps."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from medseg.core.files import write_durable
from medseg.core.labels import PALETTE
from medseg.report.figures import tidy

Points = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
_LINES = ("-", "--", "-.", ":")
_PREFIX = "val_dice_"


def save_curves(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a PNG of the loss and of the validation Dice over the training steps.

    ``rows`` are those of the training log: ``step``, and where present ``loss``, ``learning_rate``, ``val_dice`` and
    ``val_dice_<structure>``; text (as read from CSV), empty fields and None are taken. The loss is drawn faint as it
    is and strong as its running mean. Raises OutputError or ResourceError where ``path`` cannot be written.
    """
    figure = Figure(figsize=(10.5, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _draw_loss(left, rows)
    _draw_dice(right, rows)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    write_durable(path, image.getvalue())


def points_of(rows: Sequence[Mapping[str, Any]], column: str) -> Points:
    """Steps and values of ``column``, in the order of the rows, where both are finite numbers.

    >>> points_of([{"step": "10", "loss": "0.5"}, {"step": "20", "loss": ""}], "loss")
    (array([10.]), array([0.5]))
    """
    pairs = [(_number(row.get("step")), _number(row.get(column))) for row in rows]
    kept = np.array([p for p in pairs if math.isfinite(p[0]) and math.isfinite(p[1])], float).reshape(-1, 2)
    return kept[:, 0], kept[:, 1]


def running_mean(values: npt.NDArray[np.float64], window: int) -> npt.NDArray[np.float64]:
    """Mean of the ``window`` values around each one, of fewer at both ends; same length.

    >>> running_mean(np.array([1.0, 2.0, 6.0]), 3)
    array([1.5, 3. , 4. ])
    """
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    start, stop = np.maximum(at - window // 2, 0), np.minimum(at + window // 2 + 1, len(values))
    mean: npt.NDArray[np.float64] = (total[stop] - total[start]) / (stop - start)
    return mean


def _draw_loss(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    steps, loss = points_of(rows, "loss")
    axes.set_title("Training loss", fontsize=10)
    axes.set_xlabel("step", fontsize=9)
    if not len(steps):
        _say(axes, "no loss was logged")
        return
    smooth = running_mean(loss, max(3, len(loss) // 20))
    axes.plot(steps, loss, color=PALETTE[1], alpha=0.25, linewidth=0.8)
    axes.plot(steps, smooth, color=PALETTE[1], linewidth=1.8, label="loss, running mean")
    tidy(axes)
    rate_steps, rate = points_of(rows, "learning_rate")
    if len(rate_steps):
        other = axes.twinx()
        other.plot(rate_steps, rate, color="0.45", linestyle=":", linewidth=1.2, label="learning rate")
        other.set_ylim(0, float(rate.max()) * 1.05 or 1.0)
        other.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        other.tick_params(labelsize=8, colors="0.35")
        other.spines["top"].set_visible(False)
        lines = [*axes.get_lines()[1:], *other.get_lines()]
        axes.legend(lines, [str(line.get_label()) for line in lines], fontsize=8, frameon=False)


def _draw_dice(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    axes.set_title("Dice on the validation cases", fontsize=10)
    axes.set_xlabel("step", fontsize=9)
    axes.set_ylim(0, 1)
    names = [name for name in dict.fromkeys(key for row in rows for key in row) if name.startswith(_PREFIX)]
    drawn = False
    for n, name in enumerate(names):
        steps, dice = points_of(rows, name)
        if len(steps):
            (line,) = axes.plot(steps, dice, color=PALETTE[n % len(PALETTE)], linewidth=1.2)
            line.set(label=name.removeprefix(_PREFIX), linestyle=_LINES[n // len(PALETTE) % 4])
            line.set(marker="osDv^<>P"[n % 8], markersize=3.5)
            drawn = True
    steps, dice = points_of(rows, "val_dice")
    if len(steps):
        axes.plot(steps, dice, color="black", linewidth=2.0, marker="o", markersize=4, label="mean")
        drawn = True
    if not drawn:
        _say(axes, "no validation yet")
        return
    tidy(axes)
    axes.set_xlim(left=0)
    _, labels = axes.get_legend_handles_labels()
    legend = axes.legend(fontsize=8, frameon=False, loc="lower right", ncols=1 + len(labels) // 9)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", color="0.4", transform=axes.transAxes)
    axes.set(xticks=[], yticks=[])


def _number(value: Any) -> float:
    try:
        return math.nan if value is None else float(value)
    except (TypeError, ValueError):
        return math.nan
