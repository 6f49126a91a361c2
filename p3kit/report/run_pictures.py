"""Pictures of one run: rewards, actions, the value function, and the equity curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from p3kit.diagnose import diagnose
from p3kit.escape import picture as label_of
from p3kit.report.figure import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    REGIME_COLOURS,
    draw_equity_lines,
    figure_to,
    set_margins,
    time_axis,
)
from p3kit.rundir import Histogram, RunDir, file_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_run(run: RunDir, agents: Sequence[str] | None = None) -> list[Path]:
    """Draw `plots/*.png` of all or some agents from the newest histograms: rewards, actions, value map, and the equity
    curve of the evaluation that the verdict chose (the newest one before there is a verdict). Returns the files
    written."""
    statuses, info = run.status().get("agents") or {}, run.info()
    symbols = {planned["name"]: planned.get("symbol") for planned in info["agents"]}
    findings = {diagnosis.agent: diagnosis.findings for diagnosis in diagnose(run)}
    written = []
    for agent in run.agent_names() if agents is None else agents:
        synthetic = info.get("data", {}).get(symbols[agent], {}).get("synthetic", False)
        verdict = (statuses.get(agent) or {}).get("verdict") or {}
        chosen: dict[str, Histogram] = {}
        for histogram in run.histograms(agent=agent):
            if histogram.kind != "equity" or chosen.get("equity") is None or not _is_chosen(chosen["equity"], verdict):
                chosen[histogram.kind] = histogram
        raised = [finding for finding in findings[agent] if finding.raised]
        for kind, draw in _PICTURES.items():
            if kind in chosen:
                path = run.plots / f"{kind}-{file_name(agent)}.png"
                rows = [one for one in raised if one.symptom in _FLAGS.get(kind, ())]
                draw(
                    {**chosen[kind].data, "flags": [f"{one.row.title}: {one.evidence}" for one in rows]},
                    f"{label_of(agent)} at {chosen[kind].global_step:,} steps{', SYNTHETIC data' if synthetic else ''}",
                    path,
                )
                written.append(path)
    return written


_FLAGS = {
    "reward": ("reward.bimodal", "reward.one_sign", "reward.tail"),
    "reward_to_go": ("reward.rtg_flat", "reward.rtg_erratic"),
}
"""The rows of the diagnosis that a picture shows."""


def _is_chosen(histogram: Histogram, verdict: Mapping[str, Any]) -> bool:
    return histogram.global_step == verdict.get("chosen_step")


def draw_reward_histogram(data: Mapping[str, Any], title: str, path: Path) -> None:
    """Rewards per step as the learner saw them: {edges (n + 1), counts (n), classes: {what happened: counts}}.
    Logarithmic, for the tails are what matters."""
    edges, counts = np.asarray(data["edges"], float), np.asarray(data["counts"], float)
    with figure_to(path, 6.4, 3.8, measured=False) as figure:
        axes = _one_panel(figure)
        axes.stairs(counts, edges, fill=True, color="#c9d6de", label="all steps")
        for (name, own), colour in zip((data.get("classes") or {}).items(), (BLUE, ORANGE, GREEN), strict=False):
            axes.stairs(np.asarray(own, float), edges, color=colour, linewidth=1.4, label=label_of(name))
        axes.axvline(0, color="#444444", linewidth=0.8)
        if counts.max(initial=0) > 0:
            axes.set_yscale("log")
            axes.set_ylim(0.5, counts.max() * 2)
            axes.minorticks_off()  # they take longer to draw than all the rest
        axes.set(title=f"{title}: rewards per step", xlabel="reward that the learner receives", ylabel="steps")
        axes.legend(fontsize=7, loc="upper right")
        _write_flags(axes, data)


def draw_reward_to_go(data: Mapping[str, Any], title: str, path: Path) -> None:
    """Discounted reward still to come over the bars of an episode: {bar, mean, low, high, episodes, gamma}."""
    bar = np.asarray(data["bar"], float)
    with figure_to(path, 6.4, 3.4, measured=False) as figure:
        axes = _one_panel(figure)
        low, high = np.asarray(data["low"], float), np.asarray(data["high"], float)
        axes.fill_between(bar, low, high, color=BLUE, alpha=0.18, linewidth=0, label="10 to 90 % of the episodes")
        axes.plot(bar, np.asarray(data["mean"], float), color=BLUE, label=f"mean of {data['episodes']} episodes")
        axes.axhline(0, color="#444444", linewidth=0.8)
        axes.set(
            title=f"{title}: reward-to-go (gamma {data['gamma']:g})", xlabel="bar of the episode", ylabel="reward-to-go"
        )
        axes.legend(fontsize=7)
        _write_flags(axes, data)


def _one_panel(figure: Figure, left: float = 0.75) -> Axes:
    axes = figure.subplots()
    set_margins(figure, left=left, right=0.2, top=0.35, bottom=0.5, between=0, beside=0)
    return axes


def _write_flags(axes: Axes, data: Mapping[str, Any]) -> None:
    """The red flags of the diagnosis that this picture is about, where there are any."""
    if flags := data.get("flags"):
        box = {"facecolor": "white", "edgecolor": RED, "alpha": 0.9, "pad": 3}
        text = "\n".join(map(label_of, flags))
        axes.text(0.015, 0.97, text, transform=axes.transAxes, va="top", fontsize=7, color=RED, bbox=box, zorder=9)


def draw_actions(data: Mapping[str, Any], title: str, path: Path) -> None:
    """Shares of the actions taken: {labels, counts}."""
    counts = np.asarray(data["counts"], float)
    shares = counts / max(counts.sum(), 1)
    with figure_to(path, 6.4, 3.2, measured=False) as figure:
        axes = _one_panel(figure, left=1.15)
        labels = [label_of(str(label)) for label in data["labels"]]
        bars = axes.barh(range(len(labels)), shares, color=[GREY if label == "HOLD" else BLUE for label in labels])
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
        set_margins(figure, left=0.75, right=0.75, top=0.4, bottom=0.85, between=0.15, beside=0)
        time = np.array(data["timestamps"], dtype="datetime64[s]")
        equity = np.asarray(data["equity"], float)
        _shade_regimes(top, time, data.get("regime") or [])
        draw_equity_lines(top, time, equity, data.get("baselines") or {})
        top.set(title=f"{title}: {label_of(str(data.get('split', 'validation')))}, growth of 1", ylabel="equity")
        _legend_outside(figure, top)
        peak = np.maximum.accumulate(np.concatenate([[1.0], equity]))[1:]
        middle.fill_between(time, equity / peak - 1, 0, color=RED, alpha=0.6, linewidth=0)
        middle.set_ylabel("drawdown")
        middle.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        bottom.fill_between(
            time, np.asarray(data["position"], float), 0, step="post", color=BLUE, alpha=0.35, linewidth=0
        )
        bottom.set_ylabel("exposure")
        bottom.set_ylim(0, 1.05)
        price = bottom.twinx()
        price.plot(time, np.asarray(data["price"], float), color="#444444", linewidth=0.9)
        for name, marker, colour in (("entries", "^", GREEN), ("exits", "v", RED)):
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


_PICTURES = {
    "reward": draw_reward_histogram,
    "reward_to_go": draw_reward_to_go,
    "actions": draw_actions,
    "value_map": draw_value_map,
    "equity": draw_equity,
}


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
