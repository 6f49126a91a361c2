"""Pictures of runs and experiments: numbers in, PNG files out.

matplotlib is imported only inside these functions and never through pyplot: no window system, no global state, so that
it can be called from threads. Backgrounds are opaque, so that the pictures read the same on light and dark pages.
Style, size and metadata are fixed: the same numbers give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from p3kit.diagnose import diagnose
from p3kit.diagnose.detectors_guide import ENTROPY_CORRIDOR
from p3kit.metrics import COMPONENTS
from p3kit.rundir import Histogram, RunDir, file_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from p3kit.report.comparison import Comparison
    from p3kit.report.portfolio import Portfolio
    from p3kit.report.summary import AgentSummary, Experiment

_DPI = 110
_STYLE: Any = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
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
_BLUE, _ORANGE, _GREEN, _RED, _PURPLE, _GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#8A8A8A"
_COMPONENT_COLOURS = dict(zip(COMPONENTS, (_BLUE, _RED, _ORANGE, _GREEN, _PURPLE, "#56B4E9", "#B0B0B0"), strict=True))
_BONUS_COLOUR = "#F0E442"
REGIME_COLOURS = {"bear": "#F6D9CC", "sideways": "#F3F3F3", "bull": "#D6EEE5"}
_BASELINE_STYLES: Mapping[str, tuple[str, str]] = {
    "buy_and_hold": (_ORANGE, "-"),
    "moving_average": (_PURPLE, "--"),
    "random": (_GREY, ":"),
    "hold": ("#444444", (0, (1, 2))),  # type: ignore[dict-item]
}
_SYNTHETIC = "synthetic data: not a market result"
LARGEST_GRID = 12
"""Agents that get a row of panels each; more are drawn into one row with their median."""


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
        figure.savefig(path, dpi=_DPI, metadata={"Software": None})


# --- pictures of one run ---


def draw_run(run: RunDir) -> list[Path]:
    """Draw `plots/*.png` of every agent from the newest histograms: rewards, actions, value map, and the equity curve
    of the evaluation that the verdict chose (the newest one before there is a verdict). Returns the files written."""
    statuses, info = run.status().get("agents") or {}, run.info()
    symbols = {planned["name"]: planned.get("symbol") for planned in info["agents"]}
    written = []
    for agent in run.agent_names():
        synthetic = info.get("data", {}).get(symbols[agent], {}).get("synthetic", False)
        verdict = (statuses.get(agent) or {}).get("verdict") or {}
        chosen: dict[str, Histogram] = {}
        for histogram in run.histograms(agent=agent):
            if histogram.kind != "equity" or chosen.get("equity") is None or not _is_chosen(chosen["equity"], verdict):
                chosen[histogram.kind] = histogram
        for kind, draw in _PICTURES.items():
            if kind in chosen:
                path = run.plots / f"{kind}-{file_name(agent)}.png"
                draw(
                    {**chosen[kind].data, "flags": _red_flags(run, agent, kind)},
                    f"{agent} at {chosen[kind].global_step:,} steps{', SYNTHETIC data' if synthetic else ''}",
                    path,
                )
                written.append(path)
    return written


_FLAGS = {
    "reward": ("reward.bimodal", "reward.one_sign", "reward.tail"),
    "reward_to_go": ("reward.rtg_flat", "reward.rtg_erratic"),
}
"""The rows of the diagnosis that a picture shows."""


def _red_flags(run: RunDir, agent: str, kind: str) -> list[str]:
    """The raised rows that belong to this picture, each with its evidence."""
    if kind not in _FLAGS:
        return []
    findings = [finding for diagnosis in diagnose(run, agent) for finding in diagnosis.findings]
    return [f"{f.row.title}: {f.evidence}" for f in findings if f.raised and f.symptom in _FLAGS[kind]]


def _is_chosen(histogram: Histogram, verdict: Mapping[str, Any]) -> bool:
    return histogram.global_step == verdict.get("chosen_step")


def draw_reward_histogram(data: Mapping[str, Any], title: str, path: Path) -> None:
    """Rewards per step as the learner saw them: {edges (n + 1), counts (n), classes: {what happened: counts}}.
    Logarithmic, for the tails are what matters."""
    edges, counts = np.asarray(data["edges"], float), np.asarray(data["counts"], float)
    with figure_to(path, 6.4, 3.8, measured=False) as figure:
        axes = _one_panel(figure)
        axes.stairs(counts, edges, fill=True, color="#c9d6de", label="all steps")
        for (name, own), colour in zip((data.get("classes") or {}).items(), (_BLUE, _ORANGE, _GREEN), strict=False):
            axes.stairs(np.asarray(own, float), edges, color=colour, linewidth=1.4, label=name)
        axes.axvline(0, color="#444444", linewidth=0.8)
        if counts.max(initial=0) > 0:
            axes.set_yscale("log")
            axes.set_ylim(0.5, counts.max() * 2)
            axes.minorticks_off()  # they take longer to draw than all the rest
        axes.set(title=f"{title}: rewards per step", xlabel="reward as the learner sees it", ylabel="steps")
        axes.legend(fontsize=7, loc="upper right")
        _write_flags(axes, data)


def draw_reward_to_go(data: Mapping[str, Any], title: str, path: Path) -> None:
    """Discounted reward still to come over the bars of an episode: {bar, mean, low, high, episodes, gamma}."""
    bar = np.asarray(data["bar"], float)
    with figure_to(path, 6.4, 3.4, measured=False) as figure:
        axes = _one_panel(figure)
        low, high = np.asarray(data["low"], float), np.asarray(data["high"], float)
        axes.fill_between(bar, low, high, color=_BLUE, alpha=0.18, linewidth=0, label="10 to 90 % of the episodes")
        axes.plot(bar, np.asarray(data["mean"], float), color=_BLUE, label=f"mean of {data['episodes']} episodes")
        axes.axhline(0, color="#444444", linewidth=0.8)
        axes.set(
            title=f"{title}: reward-to-go (gamma {data['gamma']:g})", xlabel="bar of the episode", ylabel="reward-to-go"
        )
        axes.legend(fontsize=7)
        _write_flags(axes, data)


def _one_panel(figure: Figure, left: float = 0.75) -> Axes:
    axes = figure.subplots()
    _set_margins(figure, left=left, right=0.2, top=0.35, bottom=0.5, between=0, beside=0)
    return axes


def _write_flags(axes: Axes, data: Mapping[str, Any]) -> None:
    """The red flags of the diagnosis that this picture is about, where there are any."""
    if flags := data.get("flags"):
        box = {"facecolor": "white", "edgecolor": _RED, "alpha": 0.9, "pad": 3}
        text = "\n".join(flags)
        axes.text(0.015, 0.97, text, transform=axes.transAxes, va="top", fontsize=7, color=_RED, bbox=box, zorder=9)


def draw_actions(data: Mapping[str, Any], title: str, path: Path) -> None:
    """Shares of the actions taken: {labels, counts}."""
    counts = np.asarray(data["counts"], float)
    shares = counts / max(counts.sum(), 1)
    with figure_to(path, 6.4, 3.2, measured=False) as figure:
        axes = _one_panel(figure, left=1.15)
        labels = [str(label) for label in data["labels"]]
        bars = axes.barh(range(len(labels)), shares, color=[_GREY if label == "HOLD" else _BLUE for label in labels])
        axes.bar_label(bars, [f"{share:.1%}" for share in shares], padding=3, color="#333333")
        axes.set_yticks(range(len(labels)), labels)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, max(float(shares.max(initial=0)) * 1.15, 0.05))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set(title=f"{title}: actions in the last rollout", xlabel="share of steps")


def draw_value_map(data: Mapping[str, Any], title: str, path: Path) -> None:
    """Mean value over bar of the episode × unrealised return: {bars (n + 1), unrealised (m + 1), values (n × m)}."""
    values = np.array([[np.nan if v is None else v for v in line] for line in data["values"]], float)
    unrealised = np.asarray(data["unrealised"], float)
    with figure_to(path, 6.4, 3.8, measured=False) as figure:
        axes = _one_panel(figure)
        limit = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0
        axes.set_facecolor("#efefef")  # where no state fell
        mesh = axes.pcolormesh(
            data["bars"], unrealised, values.T, cmap="RdBu", vmin=-limit, vmax=limit, rasterized=True
        )
        axes.axhline(0, color="#444444", linewidth=0.8)
        axes.grid(visible=False)
        axes.yaxis.set_major_formatter(
            lambda value, _: f"{value:.0%}" if abs(unrealised).max() > 0.05 else f"{value:.1%}"
        )
        figure.colorbar(mesh, ax=axes, label="value (scaled reward)")
        axes.set(title=f"{title}: what the value head expects", xlabel="bar of the episode", ylabel="unrealised return")


def draw_equity(data: Mapping[str, Any], title: str, path: Path) -> None:
    """Equity beside the fixed rules over the regimes, drawdown below, position and price at the bottom."""
    with figure_to(path, 8.4, 6.2, measured=False) as figure:
        top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=[3, 1, 1.6])
        _set_margins(figure, left=0.75, right=0.75, top=0.4, bottom=0.85, between=0.15, beside=0)
        time = np.array(data["timestamps"], dtype="datetime64[s]")
        equity = np.asarray(data["equity"], float)
        _shade_regimes(top, time, data.get("regime") or [])
        _equity_lines(top, time, equity, data.get("baselines") or {})
        top.set(title=f"{title}: {data.get('split', 'validation')}, growth of 1", ylabel="equity")
        _legend_outside(figure, top)
        peak = np.maximum.accumulate(np.concatenate([[1.0], equity]))[1:]
        middle.fill_between(time, equity / peak - 1, 0, color=_RED, alpha=0.6, linewidth=0)
        middle.set_ylabel("drawdown")
        middle.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        bottom.fill_between(
            time, np.asarray(data["position"], float), 0, step="post", color=_BLUE, alpha=0.35, linewidth=0
        )
        bottom.set_ylabel("exposure")
        bottom.set_ylim(0, 1.05)
        price = bottom.twinx()
        price.plot(time, np.asarray(data["price"], float), color="#444444", linewidth=0.9)
        for name, marker, colour in (("entries", "^", _GREEN), ("exits", "v", _RED)):
            if moments := data.get(name):
                stamps = np.array([stamp for stamp, _ in moments], dtype="datetime64[s]")
                size = 16 if len(moments) <= 150 else 6
                price.scatter(
                    stamps, [close for _, close in moments], s=size, marker=marker, color=colour, zorder=6, label=name
                )
        if data.get("entries"):
            price.legend(loc="upper left", fontsize=7)
        price.set_ylabel("price")
        price.grid(visible=False)
        price.spines["right"].set_visible(True)
        time_axis(bottom)


_ACTION_MARKS = {
    "BUY_SMALL": ("^", _GREEN, 22),
    "BUY_MEDIUM": ("^", _GREEN, 36),
    "BUY_LARGE": ("^", _GREEN, 52),
    "ADD": ("P", "#56B4E9", 34),
    "SELL_HALF": ("v", _ORANGE, 34),
    "SELL_ALL": ("v", _RED, 48),
}


def draw_episode(episode: Mapping[str, Any], title: str, path: Path) -> None:
    """One episode as `p3kit.runtime.replay` tells it: price with the trades, what each component paid, and how much
    reward was still to come beside what the account made. An order is drawn at the bar after the one it was decided on.
    """
    bars = episode["bars"]
    step = np.arange(1, len(bars["price"]) + 1)
    price = np.asarray(bars["price"], float)
    with figure_to(path, 8.6, 8.0) as figure:
        top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=[2.6, 2.2, 1.8])
        _episode_trades(top, step, price, bars)
        top.set(title=title, ylabel="price")
        top.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0))
        _episode_components(middle, step, bars, episode["totals"])
        middle.set_ylabel("weighted reward per bar")
        middle.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0))
        bottom.axhline(0, color="#444444", linewidth=0.8)
        label = f"reward-to-go (γ {episode['gamma']:g})"
        bottom.plot(step, np.asarray(bars["reward_to_go"], float), color=_BLUE, label=label)
        bottom.plot(
            step, np.cumsum(np.asarray(bars["reward"], float)), color=_BLUE, linestyle=":", label="reward so far"
        )
        bottom.set_ylabel("reward")
        money = bottom.twinx()
        money.plot(step, (np.asarray(bars["equity"], float) - 1) * 100, color=_GREEN, linewidth=1.1, label="return")
        money.set_ylabel("return of the account, %", color=_GREEN)
        money.grid(visible=False)
        money.spines["right"].set_visible(True)
        lines = [*bottom.get_legend_handles_labels()[0], *money.get_legend_handles_labels()[0]]
        bottom.legend(lines, [line.get_label() for line in lines], fontsize=7, loc="best")
        bottom.set_xlabel(f"bar of the episode, {bars['timestamp'][0]} to {bars['timestamp'][-1]}")
        bottom.set_xlim(0, len(step) + 1)


def _episode_trades(axes: Axes, step: Any, price: Any, bars: Mapping[str, Any]) -> None:
    """The price, shaded by exposure, with a mark per order; a position that the rules closed has a cross."""
    exposure = np.asarray(bars["exposure"], float)
    low, high = float(price.min()), float(price.max())
    room = 0.06 * max(high - low, 1e-9)
    axes.set_ylim(low - 2 * room, high + 2 * room)
    floor = np.full(len(step), low - 2 * room)
    axes.fill_between(
        step, floor, floor + exposure * (high - low + 4 * room), step="pre", color=_BLUE, alpha=0.10, linewidth=0
    )
    axes.plot(step, price, color="#444444", linewidth=1.1)
    actions = np.array(bars["action"])
    for name, (marker, colour, size) in _ACTION_MARKS.items():
        at = actions == name
        if at.any():
            shift = room if marker == "v" else -room
            axes.scatter(step[at], price[at] + shift, s=size, marker=marker, color=colour, zorder=5, label=name)
    closed = np.array([profit is not None for profit in bars["closed_profit"]])
    forced = closed & ~np.isin(actions, ["SELL_ALL", "SELL_HALF"])
    if forced.any():
        axes.scatter(step[forced], price[forced], s=34, marker="x", color=_RED, zorder=6, label="closed by the rules")


def _episode_components(axes: Axes, step: Any, bars: Mapping[str, Any], totals: Mapping[str, Any]) -> None:
    """What was paid upwards, what was charged downwards, stacked; components that never moved are left out."""
    parts = {name: np.asarray(values, float) for name, values in bars["weighted"].items()}
    parts["bonus"] = np.asarray(bars["bonus"], float)
    sums = {**totals["weighted"], "bonus": float(parts["bonus"].sum())}
    above, below = np.zeros(len(step)), np.zeros(len(step))
    for name, values in parts.items():
        if not np.any(values):
            continue
        base = np.where(values >= 0, above, below)
        axes.bar(
            step,
            values,
            bottom=base,
            width=1.0,
            color=_COMPONENT_COLOURS.get(name, _BONUS_COLOUR),
            linewidth=0,
            label=f"{name} {sums[name]:+.2f}",
        )
        above, below = above + np.maximum(values, 0), below + np.minimum(values, 0)
    axes.axhline(0, color="#444444", linewidth=0.8)


_PICTURES = {
    "reward": draw_reward_histogram,
    "reward_to_go": draw_reward_to_go,
    "actions": draw_actions,
    "value_map": draw_value_map,
    "equity": draw_equity,
}


def _equity_lines(axes: Axes, time: Any, equity: Any, baselines: Mapping[str, Sequence[float]]) -> None:
    for name, (colour, line) in _BASELINE_STYLES.items():
        if name in baselines:
            label = "all HOLD" if name == "hold" else name.replace("_", " ")
            axes.plot(
                time, np.asarray(baselines[name], float), color=colour, linestyle=line, linewidth=1.1, label=label
            )
    axes.plot(time, equity, color=_BLUE, linewidth=1.9, label="policy", zorder=5)


def _shade_regimes(axes: Axes, time: Any, regimes: Sequence[str]) -> None:
    """Tint the background by regime, one shape for all stretches of a regime."""
    if len(regimes) != len(time):
        return
    of_bar = np.asarray(regimes)
    for regime, colour in REGIME_COLOURS.items():
        if (here := of_bar == regime).any():
            axes.fill_between(
                time,
                0,
                1,
                where=here | np.concatenate([[False], here[:-1]]),  # up to the bar at which the next one begins
                transform=axes.get_xaxis_transform(),
                color=colour,
                linewidth=0,
                zorder=0,
                label=regime,
            )


def _legend_outside(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4 if len(labels) > 5 else 5))


def time_axis(axes: Axes) -> None:
    locator = _dates().AutoDateLocator(minticks=3, maxticks=8)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(_dates().ConciseDateFormatter(locator))


def _dates() -> Any:
    """matplotlib.dates, which has no type hints."""
    import matplotlib.dates

    return matplotlib.dates


# --- pictures of an experiment, for the weekly report ---

_CURVES = (
    ("eval/sharpe_ratio", "Validation Sharpe\n(dashed: buy-and-hold)"),
    ("episode/episode_reward_mean", "Episode reward"),
    ("policy/entropy_norm", "Entropy / maximum\n(tint: expected)"),
    ("policy/hold_share", "Share of HOLD"),
    ("value/value_loss", "Value loss"),
    ("value/explained_variance", "Explained variance\n(-- ridge, ·· guide)"),
)
PHASES = (0.2, 0.5, 0.8)
"""Where the guide's phases end (3.1), as shares of training: exploration, initial learning, refinement, convergence."""

_GUIDE_VARIANCE = ((0.5, 0.5), (0.8, 0.5), (0.8, 0.7), (1.0, 0.7))
"""(share of training, explained variance) that the guide expects to be passed in its last two phases."""


def draw_learning_curves(experiment: Experiment, path: Path) -> bool:
    """Small multiples: a row per agent, a column per curve, one scale per column. Upright lines part the guide's four
    phases; the tint behind the entropy is the path expected over them, the dotted line the guide's explained variance.
    Dashed: buy-and-hold's Sharpe ratio and the ridge reference of explained variance. More than twelve agents share one
    row, with their median. False where nothing was recorded."""
    agents = [agent for agent in experiment.agents if agent.curves]
    if not agents:
        return False
    single_row = len(agents) > LARGEST_GRID
    groups = [agents] if single_row else [[agent] for agent in agents]
    budget = max(agent.total_timesteps for agent in agents) / 1_000
    tallest = 2.6 if single_row else max(1.1, 2.4 - 0.25 * len(groups))
    labels = [f"{len(group)} agents" if single_row else group[0].name for group in groups]
    margins = {
        "left": 0.55 + 0.085 * max(map(len, labels)),
        "right": 0.15,
        "top": 0.7 if experiment.synthetic else 0.45,
        "bottom": 0.45,
    }
    with figure_to(path, 13, tallest * len(groups) + 1.0, measured=False) as figure:
        grid = figure.subplots(len(groups), len(_CURVES), sharex=True, sharey="col", squeeze=False)
        _set_margins(figure, **margins, between=0.3, beside=0.45)
        for group, label, row in zip(groups, labels, grid, strict=True):
            for axes, (metric, _) in zip(row, _CURVES, strict=True):
                _curve_panel(axes, metric, group, budget)
            row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontweight="bold", labelpad=8)
        for axes, (_, title) in zip(grid[0], _CURVES, strict=True):
            axes.set_title(title)
        for axes in grid[-1]:
            axes.set_xlabel("thousand env steps")
        _mark_synthetic(figure, experiment)
    return True


def _set_margins(
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


def _mark_synthetic(figure: Figure, experiment: Experiment) -> None:
    if experiment.synthetic:
        figure.suptitle(_SYNTHETIC, color=_RED, fontsize=9)


def _curve_panel(axes: Axes, metric: str, agents: Sequence[AgentSummary], budget: float) -> None:
    axes.set_xlim(0, budget)
    for end in PHASES:
        axes.axvline(end * budget, color="#c4c4c4", linewidth=0.8, zorder=0)
    if metric == "policy/entropy_norm":
        progress, low, high = (np.asarray(bound) for bound in ENTROPY_CORRIDOR)
        axes.fill_between(progress * budget, low, high, color="#E4EEF6", linewidth=0, zorder=0)
        axes.set_ylim(0, 1.03)
    elif metric == "policy/hold_share":
        axes.set_ylim(0, 1.03)
    elif metric != "episode/episode_reward_mean":
        axes.axhline(0, color="#999999", linewidth=0.8)
    if metric == "value/explained_variance":
        axes.set_ylim(-0.5, 1)
        progress, expected = np.array(_GUIDE_VARIANCE).T
        axes.plot(progress * budget, expected, color="#777777", linestyle=":", linewidth=1.1)
    crowded = len(agents) > 1
    for agent in agents:
        if metric in agent.curves:
            steps, values = agent.curves[metric]
            style: dict[str, Any] = {"color": _GREY, "alpha": 0.4, "linewidth": 0.7} if crowded else {"color": _BLUE}
            axes.plot(np.asarray(steps) / 1_000, values, **style)
        if not crowded:
            _reference(axes, metric, agent)
    if crowded and (middle := _median_curve([agent.curves[metric] for agent in agents if metric in agent.curves])):
        axes.plot(np.asarray(middle[0]) / 1_000, middle[1], color=_BLUE, linewidth=2.2)


def _reference(axes: Axes, metric: str, agent: AgentSummary) -> None:
    other = {"eval/sharpe_ratio": "eval/buy_and_hold_sharpe", "value/explained_variance": "diag/ev_reference"}.get(
        metric
    )
    if other is not None and other in agent.curves:
        steps, values = agent.curves[other]
        axes.plot(np.asarray(steps) / 1_000, values, color=_ORANGE, linestyle="--", linewidth=1.1)


def _median_curve(curves: Sequence[tuple[Sequence[int], Sequence[float]]]) -> tuple[Any, Any] | None:
    """The median over curves on a common grid of steps, where at least three of them reach."""
    if len(curves) < 3:
        return None
    grid = np.linspace(min(c[0][0] for c in curves), max(c[0][-1] for c in curves), 60)
    stacked = np.array([np.where(grid <= c[0][-1], np.interp(grid, c[0], c[1]), np.nan) for c in curves])
    reached = np.isfinite(stacked).sum(0) >= 3
    return grid[reached], np.nanmedian(stacked[:, reached], axis=0)


def draw_reward_composition(experiment: Experiment, path: Path) -> bool:
    """What the reward was made of over training: shares of the seven components in the sum of |component over an
    episode|, stacked, a panel per agent. More than twelve agents are drawn as their mean. False where nothing was
    recorded."""
    agents = [agent for agent in experiment.agents if _composition([agent]) is not None]
    if not agents:
        return False
    together = len(agents) > LARGEST_GRID
    groups = [agents] if together else [[agent] for agent in agents]
    columns = min(len(groups), 4 if len(groups) > 6 else 3)
    rows = -(-len(groups) // columns)
    panel = 3.0 if rows == 1 else 1.9
    with figure_to(path, max(7.5, 3.1 * columns), 1.0 + panel * rows, measured=False) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        top = 0.55 if experiment.synthetic else 0.3
        _set_margins(figure, left=0.55, right=0.2, top=top, bottom=0.95, between=0.4, beside=0.2)
        for axes in grid.flat[len(groups) :]:
            axes.set_visible(False)
        for axes, group in zip(grid.flat, groups, strict=False):
            steps, shares = _composition(group) or (np.empty(0), np.empty((7, 0)))
            axes.stackplot(
                steps / 1_000, shares, labels=COMPONENTS, colors=list(_COMPONENT_COLOURS.values()), linewidth=0
            )
            axes.set_title(f"mean of {len(group)} agents" if together else group[0].name)
            axes.set_ylim(0, 1)
            axes.margins(x=0)
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        for axes in grid.flat[max(0, len(groups) - columns) : len(groups)]:
            axes.set_xlabel("thousand env steps")
            axes.tick_params(labelbottom=True)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=len(labels))
        _mark_synthetic(figure, experiment)
    return True


def _composition(agents: Sequence[AgentSummary]) -> tuple[Any, Any] | None:
    """(steps (n,), shares (7, n)) as the mean over agents, on the steps of the one that got furthest; None where none
    recorded them."""
    names = [f"reward/episode_share.{component}" for component in COMPONENTS]
    known = [agent for agent in agents if all(name in agent.curves for name in names)]
    if not known:
        return None
    furthest = max(known, key=lambda agent: (agent.curves[names[0]][0][-1], len(agent.curves[names[0]][0])))
    steps = np.asarray(furthest.curves[names[0]][0], float)
    shares = np.array([[np.interp(steps, *agent.curves[name]) for name in names] for agent in known])
    return steps, shares.mean(0)


def draw_equity_curves(experiment: Experiment, path: Path) -> bool:
    """One panel per agent at the evaluation that validation chose: the policy beside buy-and-hold, a moving average, a
    random policy and all HOLD. Of more than twelve agents the best twelve by Sharpe. False where there is none."""
    agents = [agent for agent in experiment.agents if agent.equity is not None]
    agents = sorted(agents, key=lambda agent: -agent.sharpe_or(-np.inf))[:LARGEST_GRID]
    agents.sort(key=lambda agent: [a.name for a in experiment.agents].index(agent.name))
    if not agents:
        return False
    columns = min(len(agents), 4 if len(agents) > 6 else 3)
    rows = -(-len(agents) // columns)
    panel = 3.2 if rows == 1 else 2.2
    with figure_to(path, max(7.5, 3.1 * columns), 1.0 + panel * rows, measured=False) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        _set_margins(
            figure, left=0.5, right=0.2, top=0.55 if experiment.synthetic else 0.3, bottom=0.75, between=0.6, beside=0.5
        )
        for axes in grid.flat[len(agents) :]:
            axes.set_visible(False)
        for axes, agent in zip(grid.flat, agents, strict=False):
            data = agent.equity or {}
            time = np.array(data["timestamps"], dtype="datetime64[s]")
            _equity_lines(axes, time, np.asarray(data["equity"], float), data.get("baselines") or {})
            axes.set_title(f"{agent.name}  {agent.sharpe_text}")
            time_axis(axes)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=len(labels))
        _mark_synthetic(figure, experiment)
    return True


_MOST_LABELS = 30


def draw_portfolio(experiment: Experiment, path: Path) -> bool:
    """The agents as one account, how their Sharpe ratios lie, and how alike they are. False without a portfolio."""
    portfolio = experiment.portfolio
    if portfolio is None:
        return False
    with figure_to(path, 12.5, 4.2) as figure:
        account, sharpes, alike = figure.subplots(1, 3, width_ratios=(1.5, 1.0, 1.25))
        _portfolio_lines(account, portfolio)
        _sharpe_bars(sharpes, experiment)
        _correlation_map(figure, alike, portfolio)
        _mark_synthetic(figure, experiment)
    return True


def _portfolio_lines(axes: Axes, portfolio: Portfolio) -> None:
    time = portfolio.times
    low, high = np.percentile(portfolio.curves[:, 1:], (10, 90), axis=0)
    axes.fill_between(time, low, high, color=_BLUE, alpha=0.13, linewidth=0, label="eight of ten agents")
    colour, style = _BASELINE_STYLES["buy_and_hold"]
    axes.plot(time, portfolio.buy_and_hold.equity[1:], color=colour, linestyle=style, label="buy and hold")
    if portfolio.passed is not None:
        label = f"the {portfolio.passed.members} that passed"
        axes.plot(time, portfolio.passed.equity[1:], color=_GREEN, linestyle="--", linewidth=1.1, label=label)
    axes.plot(time, portfolio.agents.equity[1:], color=_BLUE, linewidth=2.0, label=f"all {len(portfolio.names)} agents")
    axes.axhline(1.0, color="#777777", linewidth=0.8)
    axes.set(title="One account, equal shares", ylabel="growth of 1")
    time_axis(axes)
    axes.legend(loc="best", fontsize=7.5)


def _sharpe_bars(axes: Axes, experiment: Experiment) -> None:
    from matplotlib.ticker import MaxNLocator

    graded = [agent for agent in experiment.complete if agent.scores and agent.scores.sharpe is not None]
    passed = [agent.sharpe_or(0.0) for agent in graded if agent.passed]
    others = [agent.sharpe_or(0.0) for agent in graded if not agent.passed]
    edges = np.histogram_bin_edges([*passed, *others], bins=min(30, max(6, len(graded) // 4))) if graded else 6
    kinds = [(passed, _GREEN, "passed"), (others, _GREY, "failed")]
    values, colours, labels = zip(*[kind for kind in kinds if kind[0]] or kinds, strict=True)
    axes.hist(values, bins=edges, stacked=True, color=colours, label=labels, edgecolor="white", linewidth=0.6)  # type: ignore[arg-type]
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.axvline(0.0, color="#777777", linewidth=0.8)
    axes.set(title="Agents by Sharpe", xlabel="validation Sharpe", ylabel="agents")
    axes.grid(visible=False, axis="x")
    axes.legend(loc="best", fontsize=7.5)


def _correlation_map(figure: Figure, axes: Axes, portfolio: Portfolio) -> None:
    if len(portfolio.moving) < 2:
        axes.set_axis_off()
        return
    image = axes.imshow(portfolio.correlation, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
    figure.colorbar(image, ax=axes, shrink=0.85, ticks=(-1, -0.5, 0, 0.5, 1))
    names = portfolio.moving if len(portfolio.moving) <= _MOST_LABELS else []
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.grid(visible=False)
    told = "" if portfolio.mean_correlation is None else f", mean {portfolio.mean_correlation:z.2f}"
    axes.set_title(f"Correlation of returns{told}")


# --- the picture of a comparison ---

_GROUP_COLOURS = (_BLUE, _RED, _GREEN, _PURPLE, _ORANGE, "#56B4E9", "#000000")


def draw_comparison(comparison: Comparison, path: Path) -> bool:
    """Equity at the chosen evaluations in one picture: a panel per symbol (the first twelve), a colour per group, thin
    lines where a group has several agents of a symbol, buy-and-hold in grey. False where no curve was recorded."""
    drawn = [member for member in comparison.members if member.agent.equity is not None]
    symbols = list(dict.fromkeys(member.agent.symbol for member in drawn))[:LARGEST_GRID]
    if not symbols:
        return False
    columns = min(len(symbols), 3)
    rows = -(-len(symbols) // columns)
    size = (8.4, 4.6) if len(symbols) == 1 else (3.4 * columns + 0.5, 2.5 * rows + 0.9)
    with figure_to(path, *size, measured=False) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        top = 0.55 if comparison.synthetic else 0.3
        _set_margins(figure, left=0.5, right=0.2, top=top, bottom=0.8, between=0.6, beside=0.5)
        for axes in grid.flat[len(symbols) :]:
            axes.set_visible(False)
        for axes, symbol in zip(grid.flat, symbols, strict=False):
            _comparison_panel(axes, comparison, symbol)
        handles = {}
        for axes in grid.flat:
            handles.update({label: line for line, label in zip(*axes.get_legend_handles_labels(), strict=True)})
        figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=min(len(handles), 4))
        if comparison.synthetic:
            figure.suptitle(_SYNTHETIC, color=_RED, fontsize=9)
    return True


def _comparison_panel(axes: Axes, comparison: Comparison, symbol: str) -> None:
    beside = False
    for number, group in enumerate(comparison.groups):
        own = [member.agent.equity for member in group.members if member.agent.symbol == symbol and member.agent.equity]
        colour = _GROUP_COLOURS[number % len(_GROUP_COLOURS)]
        for data in own:
            time = np.array(data["timestamps"], dtype="datetime64[s]")
            if not beside and "buy_and_hold" in (data.get("baselines") or {}):
                line = np.asarray(data["baselines"]["buy_and_hold"], float)
                axes.plot(time, line, color="#9a9a9a", linestyle="--", linewidth=1.1, label="buy and hold", zorder=1)
                beside = True
            width, alpha = (1.7, 1.0) if len(own) == 1 else (0.9, 0.7)
            axes.plot(
                time, np.asarray(data["equity"], float), color=colour, linewidth=width, alpha=alpha, label=group.label
            )
    axes.set_title(symbol)
    time_axis(axes)
