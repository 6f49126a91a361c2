"""Probes of a spec before training: the environment, the trainer, the reward."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from p3kit.api.specs import SpecLike, load_spec
from p3kit.errors import InputError

if TYPE_CHECKING:
    from p3kit.check import Probe


@dataclass(frozen=True)
class ProbeOptions:
    """The trainings that are not part of every check, and the size of the reward probe."""

    episodes: int = 600
    """Episodes per fixed rule, at least 400."""
    learn: bool = False
    """Train on five probe tasks, for half a minute."""
    leak: bool = False
    """Train on a market with an obvious edge, for minutes."""


def check_spec(
    spec: SpecLike,
    symbol: str | None = None,
    progress: Callable[[str], None] | None = None,
    options: ProbeOptions = ProbeOptions(),
) -> list[Probe]:
    """Probe a spec before training. Returns a result per probe: `passed`, `question`, `evidence`, `remedy`.

    `symbol` is the symbol to probe, by default the first of the spec. `progress` takes the name of each step.
    """
    from p3kit.check import probe_environment, probe_features, probe_leak, probe_learning, probe_reward, probe_update
    from p3kit.launch import run_trainer
    from p3kit.market import load_market
    from p3kit.spec import agent_spec

    loaded, report = load_spec(spec).spec, progress or _ignore
    chosen = symbol or loaded.symbols[0]
    if chosen not in loaded.symbols:
        raise InputError(f"--symbol {chosen}", "is not in the spec", f"it has {', '.join(loaded.symbols)}")
    own = agent_spec(loaded, chosen)
    bars = load_market(own, [chosen])[chosen]
    with tempfile.TemporaryDirectory(prefix="p3kit-check-") as folder:
        report("environment")
        probes = [probe_environment(own, bars), probe_features(bars)]
        report("one update of the trainer")
        probes += probe_update(own, bars, Path(folder), run_trainer)
        probes += probe_reward(own, bars, options.episodes, report)
        if options.learn:
            probes += probe_learning(own, Path(folder), run_trainer, report)
        if options.leak:
            report("a market with an obvious edge")
            probes += probe_leak(own, Path(folder), run_trainer)
    return probes


def _ignore(step: str) -> None:
    """Show nothing."""
