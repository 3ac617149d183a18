"""What every figure of a report shares: its canvas, its quiet axes, its bytes."""

import io

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure of so many inches, drawn without a display."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes) -> None:
    """A faint grid behind the data, small figures, no box."""
    axes.grid(color="0.88", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """``figure`` as ``png`` or ``svg``, the same bytes every time."""
    content = io.BytesIO()
    with rc_context({"svg.hashsalt": "medseg"}):
        figure.savefig(content, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return content.getvalue()
