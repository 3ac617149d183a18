"""A picture of augmented patches beside what they were: the structures in their colours on the network's own input."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from medseg.core.labels import Labels
from medseg.core.text import printable
from medseg.report.figures import figure_bytes, new_figure
from medseg.report.overlay import MAX_NAMES, Plane, best_slice, planes_of, view

Array = npt.NDArray[Any]
WIDTH = 13.0  # inches
GAP = 0.06  # between before and after, of the width of a view


@dataclass(frozen=True, eq=False)
class Pair:
    """A patch of a case: ``before`` and ``after`` are an image (I, J, K) and its contiguous channels (I, J, K)."""

    case: str
    before: tuple[Array, Array]
    after: tuple[Array, Array]


def preview_png(
    pairs: Sequence[Pair], labels: Labels, spacing_mm: tuple[float, float, float], *, title: str, foot: str
) -> bytes:
    """A PNG with a row for each pair: its axial, coronal and sagittal slice, or the only one, before and after.

    Of each patch the slice is drawn that shows its structures best. Grey runs over percentiles 0.5 to 99.5 of the
    patch before; the same intensities are black and white after. True proportions, radiological convention.
    """
    shape = pairs[0].before[0].shape
    planes = planes_of((shape[0], shape[1], shape[2]))
    size = np.array(shape) * spacing_mm
    widths = [float(size[plane.across]) for plane in planes]
    tallest = max(float(size[plane.up]) for plane in planes)
    per_row = 1 if len(planes) > 1 else 2  # pairs
    rows = -(-len(pairs) // per_row)
    gap = GAP * sum(widths)
    ratios = [gap, *widths, gap, *widths] * per_row
    height = WIDTH * tallest / sum(ratios)
    present = [s for n, s in enumerate(labels.structures, 1) if any((pair.after[1] == n).any() for pair in pairs)]
    legend_rows = -(-min(len(present), MAX_NAMES) // 7)
    figure = new_figure(WIDTH, min(height * rows + 1.1 + 0.2 * legend_rows, 60.0))
    figure.suptitle(printable(title), fontsize=12, parse_math=False)
    grid = figure.subplots(rows, len(ratios), width_ratios=ratios, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for n, pair in enumerate(pairs):
        row, place = divmod(n, per_row)
        start = place * 2 * (1 + len(planes))
        cells = grid[row, start : start + 2 * (1 + len(planes))]
        cells[0].text(
            0.4, 0.5, printable(pair.case), rotation=90, ha="center", va="center", fontsize=9, parse_math=False
        )
        window = _window(pair.before[0])
        for side, (image, channels) in enumerate((pair.before, pair.after)):
            for axes, plane in zip(cells[1 + side * (1 + len(planes)) :], planes, strict=False):
                _draw(axes, plane, image, channels, labels, window, spacing_mm)
                if row == 0:
                    name = "before", "after"
                    axes.set_title(
                        f"{name[side]}, {plane.name}" if len(planes) > 1 else name[side], fontsize=9, color="0.2"
                    )
    _legend(figure, present, foot)
    return figure_bytes(figure, "png")


def _window(image: Array) -> tuple[float, float]:
    low, high = (float(end) for end in np.percentile(image, (0.5, 99.5)))
    return low, max(high, low + 1e-6)


def _draw(
    axes: Axes,
    plane: Plane,
    image: Array,
    channels: Array,
    labels: Labels,
    window: tuple[float, float],
    spacing_mm: tuple[float, float, float],
) -> None:
    k = best_slice([channels], plane.along)
    aspect = spacing_mm[plane.up] / spacing_mm[plane.across]
    axes.imshow(view(image, plane, k), cmap="gray", vmin=window[0], vmax=window[1], origin="lower", aspect=aspect)
    picture = view(channels, plane, k)
    paint = np.zeros((*picture.shape, 4))
    rows, columns = np.arange(-1, picture.shape[0] + 1), np.arange(-1, picture.shape[1] + 1)
    for channel in np.unique(picture[picture > 0]):
        colour = labels.structures[int(channel) - 1].colour
        mask = picture == channel
        paint[mask] = (*to_rgb(colour), 0.3)
        axes.contour(columns, rows, np.pad(mask.astype(float), 1), levels=[0.5], colors=[colour], linewidths=0.9)
    axes.imshow(paint, origin="lower", interpolation="nearest", aspect=aspect)
    axes.set_xlim(-0.5, picture.shape[1] - 0.5)
    axes.set_ylim(-0.5, picture.shape[0] - 0.5)


def _legend(figure: Figure, present: Sequence[Any], foot: str) -> None:
    """Colours and names below, and what the picture shows in words."""
    handles = [Patch(facecolor=s.colour, edgecolor="0.2", linewidth=0.6) for s in present[:MAX_NAMES]]
    names = [printable(s.name) for s in present[:MAX_NAMES]]
    legend = figure.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=min(7, max(1, len(names))),
        fontsize=8,
        frameon=False,
        title=foot,
        title_fontsize=8,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
