"""The look of every picture: one style, one size, colours, margins and time axes.

matplotlib is imported inside functions only, and never through pyplot: no window system and no global state, so that
threads can draw. Backgrounds are opaque. Style, size and metadata are fixed: the same numbers give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from p3kit.metrics import COMPONENTS
from p3kit.rundir.rows import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 110
_STYLE: Any = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # matplotlib would look for a free place, for a fifth of the time of a picture
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#777777",
    "axes.labelcolor": "#333333",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
    "lines.linewidth": 1.5,
}
# Colours that stay apart for colour-blind readers (Okabe and Ito 2008).
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#8A8A8A"
GROUP_COLOURS = (BLUE, RED, GREEN, PURPLE, ORANGE, "#56B4E9", "#000000")
COMPONENT_COLOURS = dict(zip(COMPONENTS, (BLUE, RED, ORANGE, GREEN, PURPLE, "#56B4E9", "#B0B0B0"), strict=True))
BONUS_COLOUR = "#F0E442"
REGIME_COLOURS = {"bear": "#F6D9CC", "sideways": "#F3F3F3", "bull": "#D6EEE5"}
BASELINE_STYLES: Mapping[str, tuple[str, str]] = {
    "buy_and_hold": (ORANGE, "-"),
    "moving_average": (PURPLE, "--"),
    "random": (GREY, ":"),
    "hold": ("#444444", (0, (1, 2))),  # type: ignore[dict-item]
}
SYNTHETIC = "synthetic data: not a market result"
LARGEST_GRID = 12
"""Agents that get a row of panels each; more are drawn into one row with their median."""


def load_matplotlib() -> None:
    """Import what pictures need: a second that a process may spend while it waits."""
    import matplotlib.backends.backend_agg
    import matplotlib.dates
    import matplotlib.figure  # noqa: F401


@contextmanager
def figure_to(path: Path, width: float, height: float, *, measured: bool = True) -> Iterator[Figure]:
    """A figure of `width` × `height` inches, written to `path` at the end. `measured`: matplotlib finds the margins,
    which takes seconds for a grid of panels; a grid sets its own."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained" if measured else None)
        FigureCanvasAgg(figure)
        yield figure
        path.parent.mkdir(parents=True, exist_ok=True)
        content = BytesIO()
        figure.savefig(content, format=path.suffix[1:], dpi=_DPI, metadata={"Software": None})
        write_bytes(path, content.getvalue(), durable=False)


def draw_equity_lines(axes: Axes, time: Any, equity: Any, baselines: Mapping[str, Sequence[float]]) -> None:
    for name, (colour, line) in BASELINE_STYLES.items():
        if name in baselines:
            label = "all HOLD" if name == "hold" else name.replace("_", " ")
            axes.plot(
                time, np.asarray(baselines[name], float), color=colour, linestyle=line, linewidth=1.1, label=label
            )
    axes.plot(time, equity, color=BLUE, linewidth=1.9, label="policy", zorder=5)


def point_marker(values: Sequence[float] | NDArray[np.float64]) -> str:
    """The marker of a curve: a dot for a single value, of which a line shows nothing."""
    return "o" if len(values) == 1 else ""


def time_axis(axes: Axes) -> None:
    locator = _dates().AutoDateLocator(minticks=3, maxticks=8)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(_dates().ConciseDateFormatter(locator))


def _dates() -> Any:
    """matplotlib.dates, which has no type hints."""
    import matplotlib.dates

    return matplotlib.dates


def set_margins(
    figure: Figure, *, left: float, right: float, top: float, bottom: float, between: float, beside: float
) -> None:
    """Margins of a grid, and the gaps between its rows and columns, in inches."""
    width, height = figure.get_size_inches()
    rows, columns = figure.axes[0].get_subplotspec().get_gridspec().get_geometry()  # type: ignore[union-attr]
    panel_width = (width - left - right - beside * (columns - 1)) / columns
    panel_height = (height - top - bottom - between * (rows - 1)) / rows
    figure.subplots_adjust(
        left / width, bottom / height, 1 - right / width, 1 - top / height, beside / panel_width, between / panel_height
    )


def mark_synthetic(figure: Figure, *, synthetic: bool) -> None:
    if synthetic:
        figure.suptitle(SYNTHETIC, color=RED, fontsize=9)
