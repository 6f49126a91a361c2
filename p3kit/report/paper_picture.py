"""Picture of a paper account: equity beside buy-and-hold, the price with the trades, and the exposure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from p3kit.escape import picture as label_of
from p3kit.report.figure import BASELINE_STYLES, BLUE, GREEN, GREY, PURPLE, RED, figure_to, mark_synthetic, time_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from p3kit.paper.book import Book


def draw_account(book: Book, title: str, path: Path) -> None:
    """Draw an account since its opening; `title` names its agent."""
    time = np.array([point.time for point in book.points]).astype("datetime64[s]")
    with figure_to(path, 9.6, 6.0) as figure:
        equity, price, exposure = figure.subplots(3, 1, sharex=True, height_ratios=(2.2, 2.0, 0.8))
        _equity(equity, book, time)
        equity.set_title(label_of(title))
        _price(price, book, time)
        exposure.fill_between(time, [point.exposure for point in book.points], step="post", color=BLUE, alpha=0.25)
        exposure.set(ylabel="exposure", ylim=(0, 1.02))
        time_axis(exposure)
        mark_synthetic(figure, synthetic=bool(book.opened.get("synthetic")))


def _equity(axes: Axes, book: Book, time: np.ndarray) -> None:
    colour, line = BASELINE_STYLES["buy_and_hold"]
    hold = [point.hold_equity / book.capital for point in book.points]
    axes.plot(time, hold, color=colour, linestyle=line, linewidth=1.1, label="buy and hold")
    own = [point.equity / book.capital for point in book.points]
    axes.plot(time, own, color=BLUE, linewidth=1.9, label="paper account")
    _mark_events(axes, book)
    axes.axhline(1.0, color="#777777", linewidth=0.8)
    axes.set(ylabel="growth of 1")
    axes.legend(loc="best", fontsize=7.5)


def _mark_events(axes: Axes, book: Book) -> None:
    """Upright lines where other weights took over, or prices were rescaled."""
    styles = {"weights": (PURPLE, "other weights"), "rescaled": (GREY, "prices rescaled")}
    named: set[str] = set()
    for time, kind in book.event_times:
        if kind in styles:
            colour, label = styles[kind]
            axes.axvline(
                time.astype(object), color=colour, linewidth=0.9, linestyle=":", label=None if kind in named else label
            )
            named.add(kind)


def _price(axes: Axes, book: Book, time: np.ndarray) -> None:
    axes.plot(time, [point.close for point in book.points], color="#b5b5b5", linewidth=1.0, label="close")
    for side, colour, marker in (("buy", GREEN, "^"), ("sell", RED, "v")):
        fills = [(point.time, fill["price"]) for point in book.points for fill in point.fills if fill["side"] == side]
        if fills:
            moments, prices = zip(*fills, strict=True)
            stamps = np.array(moments).astype("datetime64[s]")
            axes.scatter(stamps, prices, color=colour, marker=marker, s=22, zorder=5, label=f"{side} ({len(fills)})")
    axes.set(ylabel="close, and fills")
    axes.legend(loc="best", fontsize=7.5)
