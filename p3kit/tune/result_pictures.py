"""Four pictures of a sweep: how it went, what mattered, settings side by side, and each value against the score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from p3kit.escape import distinct_pictures
from p3kit.report.figure import figure_to
from p3kit.spec.models import SearchRange
from p3kit.tune.result_data import Result
from p3kit.tune.search_space import Space
from p3kit.tune.study import TrialRecord
from p3kit.tune.trial import in_short

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_BLUE, _ORANGE, _GREEN, _GREY, _RED = "#0072B2", "#E69F00", "#009E73", "#9a9a9a", "#D55E00"
_SHADES = "Blues"
_SYNTHETIC = ", SYNTHETIC data"


def draw_sweep(result: Result, space: Space, folder: Path) -> list[Path]:
    """`history.png`, `importance.png`, `parallel.png` and `slices.png` in `folder`, as far as there is anything to
    draw. Returns the files written."""
    scored = [trial for trial in result.trials if trial.value is not None]
    if not scored:
        return []
    title = f"{result.experiment}, {result.sweep}{_SYNTHETIC if result.synthetic else ''}"
    written = [folder / "history.png", folder / "slices.png"]
    draw_history(result, f"{title}: mean validation Sharpe by trial", written[0])
    draw_slices(result, scored, space, f"{title}: each value against the mean Sharpe", written[1])
    if result.importance:
        written.append(folder / "importance.png")
        draw_importance(result.importance, f"{title}: what mattered", written[-1])
    if len(result.complete) > 1:
        written.append(folder / "parallel.png")
        draw_parallel(result, space, f"{title}: completed trials", written[-1])
    return written


def draw_history(result: Result, title: str, path: Path) -> None:
    """Every trial's mean Sharpe ratio with its agents behind it, the best so far, the spec's own values dashed."""
    from matplotlib.ticker import MaxNLocator

    with figure_to(path, 8.0, 4.0) as figure:
        axes = figure.subplots()
        done = [trial for trial in result.trials if trial.state == "complete" and trial.value is not None]
        for trial in done:
            own = list(trial.agents.values())
            axes.scatter([trial.number] * len(own), own, s=7, color=_BLUE, alpha=0.25, linewidths=0)
        axes.scatter([t.number for t in done], [_value(t) for t in done], s=28, color=_BLUE, label="complete", zorder=4)
        _hollow(axes, [t.number for t in result.trials if t.state == "pruned"], result, "pruned")
        if failed := [trial.number for trial in result.trials if trial.state == "failed"]:
            low = axes.get_ylim()[0]
            axes.scatter(failed, [low] * len(failed), marker="x", s=22, color=_RED, label="failed", clip_on=False)
        if done:
            best = np.maximum.accumulate([_value(trial) for trial in done])
            steps = [trial.number for trial in done]
            axes.step(steps, best, where="post", color=_ORANGE, label="best so far", zorder=3)
        if result.own_trial is not None:
            axes.axhline(_value(result.own_trial), color=_GREEN, linestyle="--", linewidth=1.1, label="the spec's own")
        axes.set(title=title, xlabel="trial (small dots: its agents)", ylabel="validation Sharpe")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=7.5)


def _hollow(axes: Axes, numbers: Sequence[int], result: Result, label: str) -> None:
    own = [trial for trial in result.trials if trial.number in set(numbers) and trial.value is not None]
    if own:
        axes.scatter(
            [t.number for t in own], [_value(t) for t in own], s=24, facecolors="white", edgecolors=_GREY, label=label
        )


def _value(trial: TrialRecord) -> float:
    return math.nan if trial.value is None else trial.value


def draw_importance(importance: Mapping[str, float], title: str, path: Path) -> None:
    """Bars, the most important on top."""
    names = list(importance)
    with figure_to(path, 7.0, 1.1 + 0.34 * len(names)) as figure:
        axes = figure.subplots()
        bars = axes.barh(range(len(names)), [importance[name] for name in names], color=_BLUE)
        axes.bar_label(bars, [f"{importance[name]:.0%}" for name in names], padding=3, color="#333333")
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, max(importance.values()) * 1.15 or 1.0)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set(title=title, xlabel="part in the difference between good and medium settings (PED-ANOVA)")


def draw_parallel(result: Result, space: Space, title: str, path: Path) -> None:
    """A line per completed trial through its values, darker with a higher mean Sharpe ratio; the best in orange."""
    import matplotlib

    done = result.complete
    shades = matplotlib.colormaps[_SHADES]
    low, high = _value(done[-1]), _value(done[0])
    with figure_to(path, max(7.5, 1.5 * (len(space.paths) + 1)), 4.2) as figure:
        axes = figure.subplots()
        for trial in reversed(done):  # the best lies on top
            share = (_value(trial) - low) / (high - low or 1.0)
            heights = [*(_height(space, name, trial.values[name]) for name in space.paths), share]
            is_best = trial is done[0]
            colour = _ORANGE if is_best else shades(0.25 + 0.75 * share)
            axes.plot(range(len(heights)), heights, color=colour, linewidth=2.4 if is_best else 1.1)
        names = [name.rsplit(".", 1)[-1] for name in space.paths]
        axes.set_xticks(range(len(names) + 1), [*names, "mean Sharpe"])
        axes.set_xlim(-0.15, len(names) + 0.35)
        axes.set_ylim(-0.06, 1.06)
        axes.set_yticks([])
        axes.grid(visible=False)
        for spine in ("left", "bottom"):
            axes.spines[spine].set_visible(False)
        marks = [_marks(space, name) for name in space.paths]
        marks.append([(0.0, f"{low:z.2f}"), (1.0, f"{high:z.2f}")])
        for position, ends in enumerate(marks):
            axes.axvline(position, color="#777777", linewidth=0.8, zorder=0)
            for height, text in ends:
                box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1}
                axes.text(
                    position + 0.04,
                    height,
                    text,
                    fontsize=7,
                    color="#333333",
                    va="center",
                    bbox=box,
                    zorder=9,
                )
        axes.set_title(f"{title} (orange: the best)")


def _height(space: Space, path: str, value: Any) -> float:
    """Position of a value on its axis, 0 to 1; logarithmic if the search is."""
    one = space.ranges[path]
    if isinstance(one, SearchRange):
        low, high, at = (math.log(v) if one.log else float(v) for v in (one.low, one.high, value))
        return (at - low) / (high - low)
    items = [in_short(list(item) if isinstance(item, tuple) else item) for item in one]
    return items.index(in_short(value)) / max(len(items) - 1, 1)


def _marks(space: Space, path: str) -> list[tuple[float, str]]:
    one = space.ranges[path]
    if isinstance(one, SearchRange):
        return [(0.0, in_short(one.low)), (1.0, in_short(one.high))]
    items = [list(item) if isinstance(item, tuple) else item for item in one]
    labels = distinct_pictures(map(in_short, items))
    return [(_height(space, path, item), labels[in_short(item)]) for item in items]


def draw_slices(result: Result, scored: Sequence[TrialRecord], space: Space, title: str, path: Path) -> None:
    """A panel per value that was searched: the mean Sharpe ratio of every trial over it."""
    columns = min(len(space.paths), 3)
    rows = -(-len(space.paths) // columns)
    with figure_to(path, max(5.0, 3.0 * columns), 0.7 + 2.4 * rows) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes in grid.flat[len(space.paths) :]:
            axes.set_visible(False)
        for axes, name in zip(grid.flat, space.paths, strict=False):
            _slice(axes, result, scored, space, name)
        for axes in grid[:, 0]:
            axes.set_ylabel("mean Sharpe")
        figure.suptitle(title, x=0.01, ha="left", fontsize=9)
        handles = {}
        for handle, label in zip(*grid[0, 0].get_legend_handles_labels(), strict=True):
            handles[label] = handle
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=7.5)


def _slice(axes: Axes, result: Result, scored: Sequence[TrialRecord], space: Space, path: str) -> None:
    one = space.ranges[path]
    is_range = isinstance(one, SearchRange)

    def at(trials: Sequence[TrialRecord]) -> list[Any]:
        return [t.values[path] if is_range else _height(space, path, t.values[path]) for t in trials]

    done, cut = ([t for t in scored if t.state == state] for state in ("complete", "pruned"))
    if cut:
        axes.scatter(at(cut), [_value(t) for t in cut], s=18, facecolors="white", edgecolors=_GREY, label="pruned")
    axes.scatter(at(done), [_value(t) for t in done], s=22, color=_BLUE, label="complete", linewidths=0)
    if result.own_trial is not None:
        own = [result.own_trial]
        axes.scatter(at(own), [_value(own[0])], s=50, marker="D", color=_GREEN, label="the spec's own", zorder=4)
    if result.best is not None:
        axes.scatter(at([result.best]), [_value(result.best)], s=70, marker="*", color=_ORANGE, label="best", zorder=5)
    axes.set_xlabel(path)
    if isinstance(one, SearchRange):
        if one.log:
            axes.set_xscale("log")
            axes.minorticks_off()
            ticks = (one.low, math.sqrt(one.low * one.high), one.high)  # fewer than two powers of ten may lie between
            axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
            axes.set_xlim(one.low * 0.93, one.high * 1.07)
    else:
        marks = _marks(space, path)
        axes.set_xticks([height for height, _ in marks], [text for _, text in marks])
        axes.set_xlim(-0.15, 1.15)
