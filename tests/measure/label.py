"""`python -m tests.measure.label`: error rates, power and coverage of the label "shown to beat buy-and-hold".

Each market is simulated, each candidate is the exposure of one evaluation. Early stop, the choice of the weights and the
label are p3kit's own code. Prints the tables of docs/evaluation.md and writes them as JSON.

Settings were chosen on seeds below 1,000. Scored seeds begin at 1,000.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p3kit import significance as s
from p3kit.runtime.grading import EarlyStop
from p3kit.spec import Spec, resolve_spec

Floats = NDArray[np.float64]
YEAR = 252.0
VOLATILITY = 0.015
COST = 0.0015
"""Commission and slippage of a switch, as in the shipped spec."""
STAY = 0.9
"""Autocorrelation of what the policies go by: they change sides every seven bars."""
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
    yardsticks: tuple[str, ...] = ("buy_and_hold", "equal_exposure")


@dataclass
class Counts:
    """How many markets were simulated, and in how many a test said "shown"."""

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
    """Unit-variance returns (T, …): iid, fat (Student's t with 5 degrees), garch, arX (autoregression X), or regimes that
    last 60 bars."""
    warm = 200
    e = rng.standard_normal((shape[0] + warm, *shape[1:]))
    if kind == "fat":
        return np.asarray(rng.standard_t(5, shape) / math.sqrt(5 / 3))
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


def play(world: World, markets: int, pull: float, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Returns of buy-and-hold (T, M, A), of the candidates and their excess at equal exposure (T, M, A, K)."""
    shape = (world.bars, markets, world.agents)
    own = noise(world.kind, shape, rng)
    if world.agents > 1:  # symbols of one market
        own = math.sqrt(0.4) * noise(world.kind, shape[:2], rng)[..., None] + math.sqrt(0.6) * own
    common = latent(shape, rng)
    share = correlation(world.alike)
    signal = math.sqrt(share) * common[..., None] + math.sqrt(1 - share) * latent((*shape, world.candidates), rng)
    has_edge = np.arange(world.agents) < (world.with_edge if world.edge else 0)
    market = VOLATILITY * (world.sharpe / math.sqrt(YEAR) + own + pull * has_edge * common)
    position = (signal > 0).astype(np.float64)
    switch = np.abs(np.diff(position, axis=0, prepend=0.0))
    policy = position * market[..., None] - world.cost * switch
    held = market.copy()
    held[0] -= world.cost
    exposure = position.mean(0)
    return held, policy, policy - exposure * held[..., None]


def sharpes(returns: Floats) -> Floats:
    """Annualised, along the first axis."""
    return np.asarray(returns.mean(0) / returns.std(0, ddof=1) * math.sqrt(YEAR))


def pull_for(world: World) -> float:
    """How strongly the next return goes with the signal, so that a candidate's true excess Sharpe ratio is the edge."""
    if not world.edge:
        return 0.0
    low, high = 0.0, 1.0
    long = World(
        "", bars=200_000, sharpe=world.sharpe, cost=world.cost, alike=world.alike, candidates=1, edge=1.0, with_edge=1
    )
    for _ in range(12):
        middle = (low + high) / 2
        held, policy, _ = play(long, 1, middle, np.random.default_rng(7))
        reached = float((sharpes(policy)[..., 0] - sharpes(held)).mean())
        low, high = (middle, high) if reached < world.edge else (low, middle)
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


def simulate(world: World, markets: int, seed: int, *, heldout: bool = True) -> Counts:
    """Run one row."""
    clock = time.perf_counter()
    spec = resolve_spec({"name": "label", "symbols": ["AAPL"]}, "label")
    counts, pull = Counts(world), pull_for(world)
    at_once = max(1, 4_000 // (world.candidates * world.agents))
    rng = np.random.default_rng(seed)
    for begin in range(0, markets, at_once):
        batch = min(at_once, markets - begin)
        held, policy, timing = play(world, batch, pull, rng)
        for m in range(batch):
            for test, shown in judge(world, spec, held[:, m], policy[:, m], timing[:, m], heldout=heldout):
                counts.shown[test] = counts.shown.get(test, 0) + shown
        counts.markets += batch
    counts.seconds = time.perf_counter() - clock
    return counts


def judge(
    world: World, spec: Spec, held: Floats, policy: Floats, timing: Floats, *, heldout: bool
) -> Iterator[tuple[str, bool]]:
    """(test, shown) of one market: held (T, A), policy and timing (T, A, K)."""
    made, chosen = zip(
        *(stop_and_choose(spec, sharpes(policy[:, a]), float(sharpes(held[:, a]))) for a in range(world.agents)),
        strict=True,
    )
    if world.agents > 1:
        columns = [policy[:, a, : made[a]] for a in range(world.agents)]
        holds = [np.repeat(held[:, a : a + 1], made[a], 1) for a in range(world.agents)]
        found = s.estimate(s.Sums.of(np.hstack(columns)), s.Sums.of(np.hstack(holds)))
        starts = np.cumsum([0, *made[:-1]])
        best = max((int(b + c) for b, c in zip(starts, chosen, strict=True)), key=lambda k: found.ratio[k])
        yield "any agent", found.p_value(best, world.candidates / min(made)) <= s.TAIL
        return
    n, k = made[0], chosen[0]
    tries = world.candidates / n
    hold = s.Sums.of(held)
    for name in world.yardsticks:
        own, reference = (policy, hold) if name == "buy_and_hold" else (timing, None)
        columns = own[:, 0]
        yield f"chosen, {name}", s.estimate(s.Sums.of(columns[:, :n]), reference).p_value(k, tries) <= s.TAIL
        yield f"one alone, {name}", s.estimate(s.Sums.of(columns[:, :1]), reference).p_value(0) <= s.TAIL
        yield f"chosen, untold, {name}", s.estimate(s.Sums.of(columns[:, k : k + 1]), reference).p_value(0) <= s.TAIL
        if heldout:
            half = world.bars // 2
            _, first = stop_and_choose(spec, sharpes(policy[:half, 0]), float(sharpes(held[:half, 0])))
            rest = s.Sums.of(columns[half:, first : first + 1])
            other = None if reference is None else s.Sums.of(held[half:])
            yield f"held out, {name}", s.estimate(rest, other).p_value(0) <= s.TAIL
