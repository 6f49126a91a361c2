"""Common parts of the Gymnasium and the EnvPool adapters: a spec in, an environment with spaces, reward, facts out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from p3kit.env.account import HOLD
from p3kit.env.backends import make_trading_env
from p3kit.env.reward import combine
from p3kit.env.timestep import Timestep
from p3kit.env.trading import TradingEnv
from p3kit.errors import InputError
from p3kit.home import home
from p3kit.market import FeatureRecipe, load_market, sample
from p3kit.metrics import COMPONENTS
from p3kit.spec import Spec, agent_spec, load_spec, resolve_spec
from p3kit.spec.shipped import find_spec
from p3kit.spec.writing import toml_value

os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
"""A forked process inherits torch's pool of threads without the threads, and would wait for them for ever. With one
thread torch uses no pool, as in the workers of its DataLoader."""

Array = NDArray[Any]
Info = dict[str, Any]


def read_spec(
    spec: Spec | str | Path | None, symbols: Sequence[str] | None, overrides: Mapping[str, Any] | None
) -> tuple[Spec, tuple[str, ...]]:
    """A checked spec and the symbols to trade (default: the spec's; without a spec, all of the shipped sample).

    `spec` is a Spec, the path of a spec file, the name of a shipped one (`specs/phase3.toml`), or None for the defaults
    on the shipped sample. `overrides` maps spec paths to values (`{"env.stop": 0.02}`), as `--set` does; a Spec takes
    none. Raises SpecError or InputError, naming what is wrong.
    """
    if symbols is not None and not symbols:
        raise InputError("symbols", "is empty", 'use symbols=["AAPL"], or leave it out')
    changes = {**(overrides or {})}
    if symbols is not None and "symbols" in changes:
        raise InputError("overrides", "has symbols, and symbols were given beside it", "use one of them")
    if isinstance(spec, Spec):
        if changes:
            raise InputError("overrides", "were given beside a Spec", "change the Spec, or give the path of its file")
        loaded = spec
    elif spec is not None:
        path = find_spec(home(spec))
        loaded = load_spec(path, [f"{key}={toml_value(value)}" for key, value in changes.items()]).spec
    else:
        names = list(dict.fromkeys(symbols or sample.SYMBOLS))
        tables: dict[str, Any] = {"name": "gymnasium", "symbols": names}
        for key, value in changes.items():
            table = tables
            *above, last = key.split(".")
            for name in above:
                table = table.setdefault(name, {})
            table[last] = value
        loaded = resolve_spec(tables, "overrides")
    chosen = tuple(symbols or loaded.symbols)
    return _own_rules(loaded, chosen), chosen


def _own_rules(spec: Spec, symbols: Sequence[str]) -> Spec:
    """The spec with the tables of `[agents.X]` applied, which have to give all accounts of one env the same rules."""
    specs = [agent_spec(spec, symbol) for symbol in dict.fromkeys(symbols)]
    for symbol, other in zip(symbols, specs, strict=False):
        if (other.env, other.reward, other.observation) != (specs[0].env, specs[0].reward, specs[0].observation):
            raise InputError(
                f"[agents.{symbol}]", "has env, reward or observation rules of its own", "make an env for it alone"
            )
    return specs[0]


def one_or_many(symbol: str | None, symbols: Sequence[str] | None) -> Sequence[str] | None:
    """`symbol` as a list of one, or `symbols`. Raises InputError where both are given, or `symbols` is a word."""
    if symbol is not None and symbols is not None:
        raise InputError("symbol", "was given beside symbols", "use one of them")
    if isinstance(symbols, str):
        raise InputError("symbols", f"{symbols!r} is one word", f'use symbols=["{symbols}"] or symbol="{symbols}"')
    return [symbol] if symbol is not None else symbols


class Episodes:
    """Common base of both adapters: a `TradingEnv`, its spaces, its reward, and its facts as arrays."""

    def __init__(
        self,
        spec: Spec,
        symbols: Sequence[str],
        *,
        num_envs: int | None,
        split: str,
        device: str | torch.device,
        invalid_action: Literal["error", "hold"],
        continuous: bool = False,
        recipes: Mapping[str, FeatureRecipe] | None = None,
    ) -> None:
        if invalid_action not in ("error", "hold"):
            raise InputError("invalid_action", f"is {invalid_action!r}", 'expected "error" or "hold"')
        if spec.init is not None and set(symbols) - set(recipes or {}):
            what = "has [init], so its agents see features normalised as in an earlier run"
            raise InputError("spec", what, "give recipes={policy.symbol: policy.recipe}, or take [init] out")
        self.market = load_market(spec, tuple(dict.fromkeys(symbols)), recipes=recipes)
        self.env: TradingEnv = make_trading_env(
            self.market,
            spec,
            symbols=symbols,
            split=split,
            num_envs=num_envs,
            device=device,
            invalid_action=invalid_action,
            continuous=continuous,
        )
        clip = float(spec.observation.clip)
        self.observation_space = gymnasium.spaces.Box(-clip, clip, (self.env.observation_size,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(self.env.num_actions)
        weights = [float(getattr(spec.reward.weights, name)) for name in COMPONENTS]
        self._weights = torch.tensor(weights, dtype=torch.float64, device=self.env.device)
        self._bonus = float(spec.reward.action_bonus)
        self._strict = invalid_action == "error"

    def restart(self, random: np.random.Generator) -> Timestep:
        """New episodes in all rows."""
        return self.env.reset(self._tensor(random.random(self.env.num_envs)))

    def play(self, action: Any, random: np.random.Generator) -> Timestep:
        """One step of all rows; `action` (N,) whole numbers of 0 … 6. Raises ValueError for others."""
        chosen = self.checked(action, self.env.num_envs)
        step = self.env.step(chosen, self._tensor(random.random(self.env.num_envs)))
        if self._strict:
            self.env.raise_if_faulty()
        return step

    def restart_some(self, rows: Array, start: Array) -> None:
        """New episodes in `rows` (n,), at `start` (n,) in [0, 1)."""
        self.env.restart_some(self._tensor(rows), self._tensor(start))

    def play_some(self, rows: Array, action: Any, start: Array) -> Timestep:
        """One step of `rows` (n,) alone; a row that ends stands at `start` (n,) in [0, 1)."""
        step = self.env.step_some(self._tensor(rows), self.checked(action, len(rows)), self._tensor(start))
        if self._strict:
            self.env.raise_if_faulty()
        return step

    def reward(self, step: Timestep) -> Array:
        """(N,) float64."""
        reward: Array = (combine(step.components, self._weights) + self._bonus * (step.action != HOLD)).cpu().numpy()
        return reward

    def observe(self, index: torch.Tensor, account: torch.Tensor) -> Array:
        """(N, D) float32."""
        seen: Array = self.env.observe(index, account).cpu().numpy()
        return seen

    def facts(self, step: Timestep, requested: Any) -> Info:
        """Return `info` of the last step of each row; `asked` (N,) are the actions that were given."""
        columns = {name: getattr(step, name) for name in ("equity", "exposure", "cost_paid", "bar", "components")}
        facts = {
            name: values.cpu().numpy().copy() for name, values in columns.items()
        }  # copies: users may write on them
        return facts | {"invalid_action": step.action.cpu().numpy() != np.asarray(requested)}

    def checked(self, action: Any, rows: int) -> torch.Tensor:
        """Actions of `rows` accounts as a tensor. Raises ValueError for anything but whole numbers of 0 … 6."""
        chosen = np.asarray(action)
        if chosen.shape != (rows,) or not np.issubdtype(chosen.dtype, np.integer):
            raise ValueError(f"expected {rows} whole numbers as actions, got {action!r}")
        if ((chosen < 0) | (chosen >= self.env.num_actions)).any():
            raise ValueError(f"expected actions of 0 … {self.env.num_actions - 1}, got {action!r}")
        return self._tensor(chosen.astype(np.int64))

    def _tensor(self, values: Array) -> torch.Tensor:
        return torch.as_tensor(values, device=self.env.device)
