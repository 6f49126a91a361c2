"""`python -m tests.measure.label`: error rates, power and coverage of the label "shown to beat buy-and-hold".

Each market is simulated, each candidate is the exposure of one evaluation. Early stop, the choice of the weights and
the label are p3kit's own code. Prints the tables of docs/evaluation.md and writes the figures as JSON.

Settings were chosen on seeds below 1,000. Scored seeds begin at 1,000.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from p3kit import edge
from p3kit import significance as s
from p3kit.runtime.grading import EarlyStop
from p3kit.spec import Spec, resolve_spec
from tests.measure.estimates import estimate_each

Floats = NDArray[np.float64]
YEAR = 252.0
VOLATILITY = 0.015
COST = 0.0015
"""Commission and slippage of a switch, as in the shipped spec."""
STAY = 0.9
"""Autocorrelation of the policies' signal: they change sides every seven bars."""
TOTAL = 100_000


@dataclass(frozen=True)
class World:
    """One row of the table."""

    name: str
    bars: int = 402
    sharpe: float = 0.0
    """Of the market, a year."""
    kind: str = "iid"
    cost: float = 0.0
    candidates: int = 20
    alike: float = 0.9
    """Share of the bars on which two candidates do the same; 0.5 for independent ones."""
    edge: float = 0.0
    """True Sharpe ratio of a policy minus buy-and-hold's."""
    agents: int = 1
    with_edge: int = 0
    """Agents that have the edge."""


NULLS = (
    World("independent candidates", alike=0.5),
    World("70 % alike", alike=0.7),
    World("90 % alike"),
    World("90 % alike, seven candidates", candidates=7),
    World("70 % alike, fees, market at Sharpe 0.8", alike=0.7, cost=COST, sharpe=0.8),
    World("70 % alike, GARCH", alike=0.7, kind="garch"),
    World("90 % alike, GARCH, fees", kind="garch", cost=COST),
    World("70 % alike, regimes of 60 bars", alike=0.7, kind="regimes"),
    World("70 % alike, bull market at Sharpe 1.5", alike=0.7, sharpe=1.5),
    World("70 % alike, bear market at Sharpe -1.5", alike=0.7, sharpe=-1.5),
)
"""No policy has an edge. In the bear market holding less beats buy-and-hold, so only equal exposure is a null there."""
EDGES = tuple(
    World(f"excess {excess}, {round(100 * alike)} % alike", bars=504, alike=alike, edge=excess, with_edge=1)
    for alike, excess in ((0.9, 1.0), (0.9, 1.5), (0.9, 2.0), (0.7, 2.0))
)
TENS = (
    World("ten agents, none has an edge", agents=10, candidates=7),
    World("ten agents, one has excess 2.0", bars=504, agents=10, candidates=7, edge=2.0, with_edge=1),
)


@dataclass
class Counts:
    """Number of simulated markets, and of those in which a test returned "shown"."""

    world: World
    markets: int = 0
    shown: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def rate(self, test: str) -> float:
        return self.shown.get(test, 0) / max(self.markets, 1)

    def error(self, test: str) -> float:
        """Monte Carlo standard error."""
        rate = self.rate(test)
        return math.sqrt(rate * (1 - rate) / max(self.markets, 1))

    def to_json(self) -> dict[str, Any]:
        rates = {test: {"rate": self.rate(test), "error": self.error(test)} for test in self.shown}
        return {"world": asdict(self.world), "markets": self.markets, "rates": rates, "seconds": round(self.seconds)}


def noise(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Unit-variance returns (T, …): iid, garch, arX (autoregression X), or regimes that last 60 bars."""
    warm = 200
    e = rng.standard_normal((shape[0] + warm, *shape[1:]))
    if kind == "garch":
        variance, out = np.ones(shape[1:]), np.empty_like(e)
        for t in range(len(e)):
            out[t] = np.sqrt(variance) * e[t]
            variance = 0.02 + 0.08 * out[t] ** 2 + 0.90 * variance
        return out[warm:]
    if kind.startswith("ar"):
        slope, out = float(kind[2:]), np.zeros_like(e)
        for t in range(1, len(e)):
            out[t] = slope * out[t - 1] + math.sqrt(1 - slope**2) * e[t]
        return out[warm:]
    if kind == "regimes":
        side = np.where(rng.random(shape[1:]) < 0.5, 1.0, -1.0)
        for t in range(warm, len(e)):
            side = np.where(rng.random(shape[1:]) < 1 / 60, -side, side)
            e[t] += 0.07 * side
    return e[warm:]


def latent(shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Unit-variance autoregressions (T, …)."""
    e = rng.standard_normal(shape)
    for t in range(1, shape[0]):
        e[t] = STAY * e[t - 1] + math.sqrt(1 - STAY**2) * e[t]
    return e


def correlation(alike: float) -> float:
    """Of Gaussian signals whose signs agree so often."""
    return math.sin(math.pi * (alike - 0.5))


def play(world: World, markets: int, pull: float, rng: np.random.Generator) -> tuple[Floats, ...]:
    """Returns of buy-and-hold (T, M, A); of the candidates, their excess at equal exposure, positions (T, M, A, K)."""
    shape = (world.bars, markets, world.agents)
    own = noise(world.kind, shape, rng)
    if world.agents > 1:  # symbols of one market
        own = math.sqrt(0.4) * noise(world.kind, shape[:2], rng)[..., None] + math.sqrt(0.6) * own
    common = latent(shape, rng)
    share = correlation(world.alike)
    own_part = latent((*shape, world.candidates), rng)
    signal = math.sqrt(share) * common[..., None] + math.sqrt(1 - share) * own_part
    has_edge = np.arange(world.agents) < (world.with_edge if world.edge else 0)
    # every candidate has the edge: its own signal goes with the return as strongly as any other's
    pulled = pull / math.sqrt(share) * common if world.edge else 0.0
    market = VOLATILITY * (world.sharpe / math.sqrt(YEAR) + own + has_edge * pulled)
    position = (signal > 0).astype(np.float64)
    switch = np.abs(np.diff(position, axis=0, prepend=0.0))
    policy = position * market[..., None] - world.cost * switch
    held = market.copy()
    held[0] -= world.cost
    exposure = position.mean(0)
    return held, policy, policy - exposure * held[..., None], position


def sharpes(returns: Floats) -> Floats:
    """Annualised, along the first axis."""
    return np.asarray(returns.mean(0) / returns.std(0, ddof=1) * math.sqrt(YEAR))


@lru_cache
def pull_for(edge: float) -> float:
    """Strength of the relation between signal and next return that makes the edge a candidate's true excess Sharpe
    ratio, in a market at Sharpe 0, without fees."""
    rng = np.random.default_rng(7)
    signal, own = latent((400_000,), rng), rng.standard_normal(400_000)
    low, high = 0.0, 1.0
    for _ in range(20):
        pull = (low + high) / 2
        market = own + pull * signal
        reached = sharpes((signal > 0) * market) - sharpes(market)
        low, high = (pull, high) if reached < edge else (low, pull)
    return (low + high) / 2


def stop_and_choose(spec: Spec, own: Floats, hold: float) -> tuple[int, int]:
    """(evaluations made, index of the chosen one) for validation Sharpe ratios (K,), by the rules of the spec."""
    stop, made = EarlyStop(), len(own)
    for k, sharpe in enumerate(own):
        step = round((k + 1) / len(own) * TOTAL)
        metrics = {"eval/sharpe_ratio": float(sharpe), "eval/sharpe_excess": float(sharpe - hold)}
        if stop.update(spec, metrics, step, step / TOTAL):
            made = k + 1
            break
    return made, int(np.argmax(own[:made]))


def simulate(world: World, markets: int, seed: int) -> Counts:
    """Run one row."""
    clock = time.process_time()
    spec = resolve_spec({"name": "label", "symbols": ["AAPL"]}, "label")
    counts, pull = Counts(world), pull_for(world.edge) if world.edge else 0.0
    at_once = max(1, 8_000 // (world.candidates * world.agents))
    rng = np.random.default_rng(seed)
    test = judge_single if world.agents == 1 else judge_many
    while counts.markets < markets:
        batch = min(at_once, markets - counts.markets)
        for name, shown in test(world, spec, *play(world, batch, pull, rng)).items():
            counts.shown[name] = counts.shown.get(name, 0) + shown
        counts.markets += batch
    counts.seconds = time.process_time() - clock
    return counts


def candidates_of(
    held: Floats, policy: Floats, timing: Floats, position: Floats, rule: Floats, made: int
) -> list[edge.Candidate]:
    """The evaluations that were made, as p3kit records them. held, rule (T,); the others (T, K)."""
    switches = np.abs(np.diff(position, axis=0, prepend=0.0)).sum(0)
    return [
        edge.Candidate.of(
            {"policy": policy[:, k], "timing": timing[:, k], "buy_and_hold": held, "fixed_rule": rule},
            global_step=k,
            span="",
            bars_per_year=YEAR,
            trades=int(switches[k] // 2),
            switches=int(switches[k]),
            rule="moving average",
        )
        for k in range(made)
    ]


def moving_average(held: Floats, cost: float) -> Floats:
    """Returns (T, M) of the rule that is in while the mean of 10 closes is above that of 50."""
    close = np.concatenate([np.ones((1, held.shape[1])), np.cumprod(1 + held, axis=0)])
    total = np.concatenate([np.zeros((1, held.shape[1])), close.cumsum(0)])
    long = np.zeros(held.shape)
    t = np.arange(49, len(held))  # the bar that is decided on; its close is known
    long[t] = (total[t + 1] - total[t - 9]) / 10 > (total[t + 1] - total[t - 49]) / 50
    return np.asarray(long * held - cost * np.abs(np.diff(long, axis=0, prepend=0.0)))


def judge_single(
    world: World, spec: Spec, held: Floats, policy: Floats, timing: Floats, position: Floats
) -> dict[str, int]:
    """Test → markets with the label "shown", for one agent a market: held (T, M, 1), the others (T, M, 1, K)."""
    held, policy, timing, position = held[..., 0], policy[:, :, 0], timing[:, :, 0], position[:, :, 0]
    everyone = np.arange(held.shape[1])
    made, chosen = choices(spec, policy, held)
    half = world.bars // 2
    _, first = choices(spec, policy[:half], held[:half])
    rule = moving_average(held, world.cost)
    found: dict[str, int] = {}
    for name, columns, reference in (
        ("buy_and_hold", policy, held),
        ("equal_exposure", timing, None),
        ("fixed_rule", policy, rule),
    ):
        ignored = p_alone(columns[:, everyone, chosen], reference)
        found[f"choice ignored, {name}"] = int((ignored <= s.TAIL).sum())
        found[f"one policy, not chosen, {name}"] = int((p_alone(columns[..., 0], reference) <= s.TAIL).sum())
        rest = None if reference is None else reference[half:]
        found[f"held out, {name}"] = int((p_alone(columns[half:, everyone, first], rest) <= s.TAIL).sum())
        found[f"label, {name}"] = 0
        for m in np.flatnonzero(ignored <= SURELY_NOT):
            parts = (held[:, m], policy[:, m], timing[:, m], position[:, m], rule[:, m])
            candidates = candidates_of(*parts, made[m])
            judged = edge.judge(candidates, chosen[m], world.candidates / made[m], (name,))
            found[f"label, {name}"] += judged["over"][name]["shown"]
    return found


SURELY_NOT = 0.08
"""The best of several is not shown where the same policy alone has a p-value above this: the maximum is larger yet."""


def choices(spec: Spec, policy: Floats, held: Floats) -> tuple[list[int], list[int]]:
    """(evaluations made, index of the chosen one) of each market: policy (T, M, K), held (T, M)."""
    own, hold = sharpes(policy), sharpes(held)
    made, chosen = zip(*(stop_and_choose(spec, one, float(h)) for one, h in zip(own, hold, strict=True)), strict=True)
    return list(made), list(chosen)


def p_alone(returns: Floats, reference: Floats | None) -> Floats:
    """(M,) p-values of the same test for policies (T, M) that were not chosen among others."""
    other = None if reference is None else s.Sums.of(reference)
    found = np.ones(returns.shape[1])
    for m, one in estimate_each(s.Sums.of(returns), other):
        found[m] = one.p_value(0)
    return found


def judge_many(
    world: World, spec: Spec, held: Floats, policy: Floats, timing: Floats, position: Floats
) -> dict[str, int]:
    """Test → markets with the label "shown": held (T, M, A), the others (T, M, A, K)."""
    found: dict[str, int] = {}
    for m in range(held.shape[1]):
        members = []
        made, chosen = choices(spec, policy[:, m], held[:, m])
        for a in range(world.agents):
            parts = (held[:, m, a], policy[:, m, a], timing[:, m, a], position[:, m, a], held[:, m, a])
            own = candidates_of(*parts, made[a])
            judged = edge.judge(own, chosen[a], world.candidates / made[a], ("buy_and_hold",))
            members.append(edge.Member(str(a), judged, lambda own=own: own, chosen[a]))
        family = edge.family(members)
        for name, shown in {
            "any agent": family.any_p is not None and family.any_p <= 0.05,
            "any agent at 2.5 %": family.any_p is not None and family.any_p <= s.TAIL,
            "some agent holds by Benjamini-Hochberg": bool(family.hold),
            "some agent shown": bool(family.shown),
            "the first agent shown": "0" in family.shown,
        }.items():
            found[name] = found.get(name, 0) + shown
    return found


# --- coverage ---------------------------------------------------------------------------------------------------------

COVERED = ("iid", "ar0.1", "ar0.2", "ar0.3", "garch", "50 % exposure", "80 % exposure")


def coverage(kind: str, bars: int, replications: int, seed: int) -> dict[str, Any]:
    """Coverage of the true Sharpe ratio by the 95 % interval, 0.8 a year. With an exposure, the policy changes sides
    about eight times, by chance; the truth is that of the exposure that it had."""
    rng = np.random.default_rng([seed, bars, *kind.encode()])
    per_bar, inside, given = 0.8 / math.sqrt(YEAR), 0, 0
    for begin in range(0, replications, 250):
        count = min(250, replications - begin)
        share = float(kind.split(" ")[0]) / 100 if "%" in kind else 1.0
        returns = noise(kind if share == 1 else "iid", (bars, count), rng) + per_bar
        held = spells(bars, count, share, rng) if share < 1 else np.ones((bars, count))
        real = held.mean(0)
        truth = real * per_bar / np.sqrt(real * (1 + per_bar**2) - (real * per_bar) ** 2) * math.sqrt(YEAR)
        own = s.Sums.of(returns * held * VOLATILITY)
        for m, one in estimate_each(own):
            found = one.interval() if own.enough[m] else None
            given += found is not None
            inside += found is not None and found[0] <= truth[m] / math.sqrt(YEAR) <= found[1]
    rate = inside / max(given, 1)
    error = math.sqrt(rate * (1 - rate) / max(given, 1))
    return {"kind": kind, "bars": bars, "coverage": rate, "error": error, "given": given / replications}


def spells(bars: int, count: int, share: float, rng: np.random.Generator) -> Floats:
    """(bars, count) in the market or out of it, in spells of chance lengths: about four of each."""
    leave = 4 / (bars * share)
    enter = leave * share / (1 - share)
    side, found = rng.random(count) < share, np.zeros((bars, count))
    for t in range(bars):
        side = np.where(rng.random(count) < np.where(side, leave, enter), ~side, side)
        found[t] = side
    return found


# --- tables -----------------------------------------------------------------------------------------------------------


def rate_table(rows: Sequence[Counts], tests: Mapping[str, str]) -> list[str]:
    """A markdown table: a row per world, a column per test, each with its Monte Carlo standard error."""
    lines = [f"| | {' | '.join(tests.values())} |", "|---" * (len(tests) + 1) + "|"]
    for row in rows:
        cells = (f"{row.rate(test):.1%} ± {row.error(test):.1%}" for test in tests)
        lines.append(f"| {row.world.name} | {' | '.join(cells)} |")
    return lines


def coverage_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A markdown table: a row per kind of return, a column per number of bars."""
    lengths = list(dict.fromkeys(row["bars"] for row in rows))
    lines = [f"| returns | {' | '.join(f'{bars:,} bars' for bars in lengths)} |", "|---" * (len(lengths) + 1) + "|"]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        cells = [f"{row['coverage']:.1%} ± {row['error']:.1%}" for row in rows if row["kind"] == kind]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return lines


NULL_TESTS = {
    "label, buy_and_hold": "shown over buy-and-hold",
    "label, equal_exposure": "shown at equal exposure",
    "label, fixed_rule": "shown over the fixed rule",
    "choice ignored, buy_and_hold": "not corrected",
    "held out, buy_and_hold": "held-out half",
}
POWER_TESTS = {
    "one policy, not chosen, buy_and_hold": "one policy, over buy-and-hold",
    "label, buy_and_hold": "label, over buy-and-hold",
    "held out, buy_and_hold": "held-out half",
    "one policy, not chosen, equal_exposure": "one policy, at equal exposure",
    "label, equal_exposure": "label, at equal exposure",
}
TEN_TESTS = {
    "any agent at 2.5 %": "joint test, 2.5 %",
    "any agent": "joint test, 5 %",
    "some agent holds by Benjamini-Hochberg": "at least one agent after Benjamini-Hochberg",
    "the first agent shown": "that one agent labelled shown",
    "some agent shown": "at least one agent labelled shown",
}


@click.command()
@click.option("--markets", default=2_000, show_default=True, help="Markets per row.")
@click.option("--seed", default=1_000, show_default=True, help="Of the first row; settings were chosen below 1,000.")
@click.option("--part", type=click.Choice(["nulls", "power", "ten", "coverage"]), multiple=True)
@click.option("--output", type=click.Path(path_type=Path), help="Folder of PART.md and PART.json.")
def main(markets: int, seed: int, part: tuple[str, ...], output: Path | None) -> None:
    """Measure the label."""
    for name in part or ("nulls", "power", "ten", "coverage"):
        if name == "coverage":
            cells = [coverage(kind, bars, markets, seed) for kind in COVERED for bars in (250, 500, 2_000)]
            table, figures = coverage_table(cells), cells
        else:
            worlds, tests = {"nulls": (NULLS, NULL_TESTS), "power": (EDGES, POWER_TESTS), "ten": (TENS, TEN_TESTS)}[
                name
            ]
            rows = []
            for i, world in enumerate(worlds):
                rows.append(simulate(world, markets, seed + i))
                click.echo(f"{world.name}: {rows[-1].shown} in {rows[-1].seconds:.0f} s", err=True)
            table, figures = rate_table(rows, tests), [row.to_json() for row in rows]
        print("\n".join([f"{name}, {markets} markets a row, seeds from {seed}", "", *table, ""]), flush=True)
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            (output / f"{name}.md").write_text("\n".join(table) + "\n", encoding="utf-8")
            (output / f"{name}.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
