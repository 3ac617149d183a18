"""Pictures of a segmentation on its scan: three planes, prediction filled, reference outlined."""

import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke

from medseg.core.errors import GeometryError
from medseg.core.files import write_durable
from medseg.core.geometry import order_between
from medseg.core.labels import PALETTE, Labels, Structure
from medseg.core.volume import LabelMap, Volume

Slice2D = npt.NDArray[Any]
MAX_NAMES = 60  # structures in the legend; the rest is counted


@dataclass(frozen=True)
class Plane:
    """A view: the RAS voxel axis it looks along, the axes to the right and upward, and the letters at left, right, top, bottom."""

    name: str
    along: int
    across: int
    up: int
    letters: str


# Radiological convention: the patient's right is on the left of the picture; the sagittal view comes from the left.
PLANES = (
    Plane("axial", 2, 0, 1, "RLAP"),
    Plane("coronal", 1, 0, 2, "RLSI"),
    Plane("sagittal", 0, 1, 2, "APSI"),
)


def save_overlays(
    path: Path,
    volume: Volume,
    prediction: LabelMap,
    reference: LabelMap | None,
    *,
    title: str,
    window: tuple[float, float] | None = None,
) -> None:
    """Write ``overlays_png`` to ``path``. Raises as that does, and OutputError or ResourceError where it cannot be written."""
    write_durable(path, overlays_png(volume, prediction, reference, title=title, window=window))


def overlays_png(
    volume: Volume,
    prediction: LabelMap,
    reference: LabelMap | None,
    *,
    title: str,
    window: tuple[float, float] | None = None,
) -> bytes:
    """A PNG of the axial, coronal and sagittal slice that shows the structures best, or of the only slice.

    The first channel of ``volume`` in grey, ``prediction`` filled in its labels' colours and numbered, ``reference``
    outlined in white on black dashes. ``window``: the intensities shown as black and white; without it what the
    structures and their surroundings span. Each plane is the slice where the structures' areas, each relative to its
    own largest, add up highest: small structures count like large ones, or more. Radiological convention, true proportions.

    Raises GeometryError where a label map does not lie on the volume's grid.
    """
    scan = volume.canonical()
    maps = [_on_grid_of(scan, m) for m in (prediction, reference) if m is not None]
    labels = prediction.labels or (reference.labels if reference else None) or _labels_of(maps)
    shown = scan.data[0]
    low, high = window or _window(shown, maps)
    planes = planes_of(scan.geometry.shape)
    at = [best_slice(maps, plane.along) for plane in planes]
    present = {int(v) for m, plane, k in _each(maps, planes, at) for v in np.unique(view(m, plane, k)) if v}
    listed = [s for s in labels.structures if s.value in present]
    figure, panels = _page(scan, planes, title, legend_rows=1 + (len(listed) + 1) // _columns(listed))
    for axes, plane, k in zip(panels, planes, at, strict=True):
        _draw_scan(axes, plane, view(shown, plane, k), scan, (low, high))
        _draw_prediction(axes, view(maps[0], plane, k), labels)
        if reference is not None:
            _draw_reference(axes, view(maps[1], plane, k))
        axes.set_title(f"{plane.name}, slice {k + 1} of {shown.shape[plane.along]}", fontsize=9, color="0.2")
    _legend(figure, listed, with_reference=reference is not None)
    image = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # a title in a script without a font here
        figure.savefig(image, format="png")
    return image.getvalue()


def planes_of(shape: tuple[int, int, int]) -> tuple[Plane, ...]:
    """The views worth drawing of a scan of ``shape``: of a single slice, such as a 2D picture, that slice alone.

    >>> [plane.name for plane in planes_of((512, 512, 1))]
    ['axial']
    """
    flat = tuple(plane for plane in PLANES if shape[plane.along] == 1)
    return flat if len(flat) == 1 else PLANES


def _each(
    maps: list[npt.NDArray[Any]], planes: Sequence[Plane], at: list[int]
) -> Iterator[tuple[npt.NDArray[Any], Plane, int]]:
    return ((m, plane, k) for m in maps for plane, k in zip(planes, at, strict=True))


def _columns(listed: list[Structure]) -> int:
    """Columns of the legend, which also says what fill and dashes mean."""
    return 6 if len(listed) <= 24 else 7


def _on_grid_of(scan: Volume, label_map: LabelMap) -> npt.NDArray[Any]:
    order = order_between(label_map.geometry, scan.geometry)
    if order is None:
        raise GeometryError(
            f"the label map's grid {label_map.geometry} is not the scan's {scan.geometry}; "
            "draw label maps on the scan they were made for"
        )
    return order.array(label_map.data)


def _labels_of(maps: list[npt.NDArray[Any]]) -> Labels:
    found = sorted({int(v) for m in maps for v in np.unique(m) if v})
    return Labels(tuple(Structure(str(v), v, PALETTE[n % len(PALETTE)]) for n, v in enumerate(found)))


def _window(data: npt.NDArray[Any], maps: list[npt.NDArray[Any]]) -> tuple[float, float]:
    """Percentiles 1 and 99 of the structures, widened by half; of the whole scan where there is none."""
    inside = np.any([m > 0 for m in maps], axis=0)
    values = data[inside] if inside.any() else data.ravel()
    low, high = (float(v) for v in np.percentile(values[:: max(1, len(values) // 1_000_000)], [1, 99]))
    margin = 0.5 * (high - low) if inside.any() else 0.0
    return max(low - margin, float(data.min())), min(high + margin, float(data.max()))


def best_slice(maps: list[npt.NDArray[Any]], along: int) -> int:
    """The slice whose structures' areas, each over its largest, add up highest; the middle one where several do.

    A small structure counts up to half as much again, so that it wins where no slice shows it beside the large ones.
    """
    last = max(int(m.max()) for m in maps)
    areas = np.zeros((maps[0].shape[along], last + 1))
    for m in maps:
        for k, plane in enumerate(np.moveaxis(m, along, 0)):
            areas[k] += np.bincount(plane.ravel(), minlength=last + 1)
    areas = areas[:, 1:][:, areas[:, 1:].any(axis=0)]
    if not areas.size:
        return int(maps[0].shape[along]) // 2
    weights = 1.5 - 0.5 * areas.sum(axis=0) / areas.sum()
    worth = (weights * areas / areas.max(axis=0)).sum(axis=1)
    best = np.flatnonzero(worth >= worth.max() - 1e-9)
    return int(best[len(best) // 2])


def view(data: npt.NDArray[Any], plane: Plane, k: int) -> Slice2D:
    """The slice as a picture (rows upward, columns to the right as radiologists look at it)."""
    # np.take leaves the two other axes in rising order: across before up.
    picture: Slice2D = np.take(data, k, axis=plane.along)[::-1].T
    return picture


def _page(scan: Volume, planes: Sequence[Plane], title: str, *, legend_rows: int) -> tuple[Figure, list[Axes]]:
    size = np.array(scan.geometry.shape) * np.array(scan.geometry.spacing_mm)
    widths = [float(size[p.across]) for p in planes]
    tallest = max(float(size[p.up]) for p in planes)
    height = float(np.clip(11.0 * tallest / sum(widths), 2.2, 6.0))
    figure = Figure(
        figsize=(11.5, height + 0.75 + 0.18 * legend_rows), dpi=130, layout="constrained", facecolor="white"
    )
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure, list(figure.subplots(1, len(planes), width_ratios=widths, squeeze=False)[0])


def _draw_scan(axes: Axes, plane: Plane, picture: Slice2D, scan: Volume, window: tuple[float, float]) -> None:
    spacing = scan.geometry.spacing_mm
    axes.imshow(
        picture,
        cmap="gray",
        vmin=window[0],
        vmax=max(window[1], window[0] + 1e-6),
        origin="lower",
        interpolation="bilinear",
        aspect=spacing[plane.up] / spacing[plane.across],
    )
    axes.set_axis_off()
    places = (
        (0.02, 0.5, "left", "center"),
        (0.98, 0.5, "right", "center"),
        (0.5, 0.98, "center", "top"),
        (0.5, 0.02, "center", "bottom"),
    )
    for letter, (x, y, horizontal, vertical) in zip(plane.letters, places, strict=True):
        _outlined_text(axes, x, y, letter, ha=horizontal, va=vertical, transform=axes.transAxes, fontsize=10)


def _draw_prediction(axes: Axes, picture: Slice2D, labels: Labels) -> None:
    """Fill and outline each structure in its colour and number it."""
    known = {s.value: s for s in labels.structures}
    seen = {int(v) for v in np.unique(picture) if v}
    paint = np.zeros((*picture.shape, 4))
    for value in seen:
        colour = to_rgb(known[value].colour if value in known else "0.7")
        paint[picture == value] = (*colour, 0.45)
    axes.imshow(paint, origin="lower", interpolation="nearest", aspect=axes.get_aspect())
    for value in sorted(seen):
        mask = picture == value
        _outline(axes, mask, colors=[known[value].colour if value in known else "0.7"], linewidths=1.0)
        column, row = _inner_point(mask)
        _outlined_text(axes, column, row, str(value), ha="center", va="center", fontsize=6.5)


def _draw_reference(axes: Axes, picture: Slice2D) -> None:
    for value in np.unique(picture[picture > 0]):
        mask = picture == value
        _outline(axes, mask, colors="black", linewidths=1.6)
        _outline(axes, mask, colors="white", linewidths=1.0, linestyles=[(0, (3, 2))])


def _outline(axes: Axes, mask: Slice2D, **style: Any) -> None:
    """The border of a mask, closed also at the picture's edge."""
    padded = np.pad(mask.astype(float), 1)
    rows, columns = np.arange(-1, mask.shape[0] + 1), np.arange(-1, mask.shape[1] + 1)
    axes.contour(columns, rows, padded, levels=[0.5], **style)


def _inner_point(mask: Slice2D) -> tuple[float, float]:
    """Column and row of the mask's voxel that lies nearest to its centre, so that the number is inside."""
    points = np.argwhere(mask)
    row, column = points[np.abs(points - points.mean(axis=0)).sum(axis=1).argmin()]
    return float(column), float(row)


def _outlined_text(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    edge = [Stroke(linewidth=2.0, foreground="black"), Normal()]
    axes.text(x, y, text, color="white", fontweight="bold", path_effects=edge, **style)


def _legend(figure: Figure, seen: list[Structure], *, with_reference: bool) -> None:
    """Below the panels: number, colour and name of each structure in them, and what fill and dashes mean."""
    handles: list[Any] = [Patch(facecolor=s.colour, edgecolor="0.2", linewidth=0.6) for s in seen[:MAX_NAMES]]
    names = [s.name if s.name == str(s.value) else f"{s.value} {s.name}" for s in seen[:MAX_NAMES]]
    if len(seen) > MAX_NAMES:
        handles.append(Patch(facecolor="none"))
        names.append(f"and {len(seen) - MAX_NAMES} more")
    handles.append(Patch(facecolor="0.75", edgecolor="0.4"))
    names.append("filled: prediction")
    if with_reference:
        black = Line2D([], [], color="black", linewidth=2.2)
        white = Line2D([], [], color="white", linewidth=1.2, linestyle=(0, (3, 2)))
        handles.append((black, white))
        names.append("dashed: reference")
    legend = figure.legend(
        handles,
        names,
        handler_map={tuple: HandlerTuple(ndivide=1, pad=0)},
        loc="outside lower center",
        ncols=min(_columns(seen), len(names)),
        fontsize=8 if len(seen) <= 24 else 6.5,
        frameon=False,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
