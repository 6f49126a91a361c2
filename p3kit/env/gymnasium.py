"""Our environment as gymnasium knows environments: `p3kit/Trading-v1`, registered by `import p3kit.env`.

    gymnasium.make_vec("p3kit/Trading-v1", num_envs=8, symbols=["AAPL", "AMD"])
    gymnasium.make("p3kit/Trading-v1", symbol="AAPL", overrides={"env.stop": 0.02})
    TradingVectorEnv("specs/phase3.toml")                       # from a spec to an environment in one call

**Observation**: float32 within ± observation.clip, as `TradingEnv.observe` gives it. **Action**: one of the seven of
`metrics.ACTIONS`; a masked one is executed as HOLD, marked in `info["invalid_action"]` and counted in `masked_actions`
(or raises at the next step, with `invalid_action="error"`). **Reward**: the components weighted by reward.weights, plus
reward.action_bonus where an action other than HOLD was executed; not scaled and not clipped, since that belongs to the
learner. **Episode**: starts at random in the split; `terminated` is ruin, `truncated` the end of the window.

`info` holds, for every row, `action_mask` (7 bools), `invalid_action`, `equity`, `exposure`, `cost_paid`, `bar` (inside
its symbol) and `components` (7 raw reward components in the order of `metrics.COMPONENTS`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from p3kit.env.account import HOLD
from p3kit.env.backends import make_trading_env
from p3kit.env.reward import combine
from p3kit.env.timestep import Timestep
from p3kit.env.trading import TradingEnv
from p3kit.errors import InputError
from p3kit.market import load_market, sample
from p3kit.metrics import ACTIONS, COMPONENTS
from p3kit.spec import Spec, agent_spec, load_spec, resolve_spec
from p3kit.spec.shipped import find_spec
from p3kit.spec.writing import toml_value

ENV_ID = "p3kit/Trading-v1"
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
        raise InputError("symbols", "is empty", 'say symbols=["AAPL"], or leave it out')
    changes = {**(overrides or {})}
    if symbols is not None and "symbols" in changes:
        raise InputError("overrides", "has symbols, and symbols were given beside it", "say one of them")
    if isinstance(spec, Spec):
        if changes:
            raise InputError("overrides", "were given beside a Spec", "change the Spec, or give the path of its file")
        loaded = spec
    elif spec is not None:
        path = find_spec(Path(spec))
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
        raise InputError("symbol", "was given beside symbols", "say one of them")
    if isinstance(symbols, str):
        raise InputError("symbols", f"{symbols!r} is one word", f'say symbols=["{symbols}"] or symbol="{symbols}"')
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
    ) -> None:
        if invalid_action not in ("error", "hold"):
            raise InputError("invalid_action", f"is {invalid_action!r}", 'expected "error" or "hold"')
        market = load_market(spec, tuple(dict.fromkeys(symbols)))
        self.env: TradingEnv = make_trading_env(
            market,
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
        chosen = self._checked(action, self.env.num_envs)
        step = self.env.step(chosen, self._tensor(random.random(self.env.num_envs)))
        if self._strict:
            self.env.raise_if_faulty()
        return step

    def restart_some(self, rows: Array, start: Array) -> None:
        """New episodes in `rows` (n,), at `start` (n,) in [0, 1)."""
        self.env.restart_some(self._tensor(rows), self._tensor(start))

    def play_some(self, rows: Array, action: Any, start: Array) -> Timestep:
        """One step of `rows` (n,) alone; a row that ends stands at `start` (n,) in [0, 1)."""
        step = self.env.step_some(self._tensor(rows), self._checked(action, len(rows)), self._tensor(start))
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

    def facts(self, step: Timestep, asked: Any) -> Info:
        """What `info` says of the step each row has just made; `asked` (N,) the actions asked for."""
        columns = {name: getattr(step, name) for name in ("equity", "exposure", "cost_paid", "bar", "components")}
        facts = {
            name: values.cpu().numpy().copy() for name, values in columns.items()
        }  # copies: users may write on them
        return facts | {"invalid_action": step.action.cpu().numpy() != np.asarray(asked)}

    def _checked(self, action: Any, rows: int) -> torch.Tensor:
        chosen = np.asarray(action)
        if chosen.shape != (rows,) or not np.issubdtype(chosen.dtype, np.integer):
            raise ValueError(f"expected {rows} whole numbers as actions, got {action!r}")
        if ((chosen < 0) | (chosen >= self.env.num_actions)).any():
            raise ValueError(f"expected actions of 0 … {self.env.num_actions - 1}, got {action!r}")
        return self._tensor(chosen.astype(np.int64))

    def _tensor(self, values: Array) -> torch.Tensor:
        return torch.as_tensor(values, device=self.env.device)


class TradingVectorEnv(gymnasium.vector.VectorEnv[Array, Array, Array]):
    """N accounts behind gymnasium's vector interface; account i trades `symbols[i % len(symbols)]`.

    A row whose episode ends stands at a new start in the same step (`AutoresetMode.SAME_STEP`): `info["final_obs"]` and
    `info["final_info"]` keep where it arrived. `unwrapped.trading` is the `TradingEnv` underneath, for those who want
    tensors.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012  as gymnasium declares it

    def __init__(
        self,
        spec: Spec | str | Path | None = None,
        *,
        num_envs: int | None = None,
        symbols: Sequence[str] | None = None,
        symbol: str | None = None,
        split: str = "train",
        device: str | torch.device = "cpu",
        invalid_action: Literal["error", "hold"] = "hold",
        overrides: Mapping[str, Any] | None = None,
        continuous: bool = False,
    ) -> None:
        """`num_envs` is N in all (default: env.num_envs per symbol); `spec`, `symbols` and `overrides` as `read_spec`
        takes them, so that without any of them the accounts trade the ten symbols of the sample. With `continuous`, an
        account lives from the first bar of the split to its last, without episodes (see `p3kit.env`). Raises P3kitError
        (SpecError, DataError, InputError) with what is wrong and the remedy."""
        checked, chosen = read_spec(spec, one_or_many(symbol, symbols), overrides)
        self._episodes = Episodes(
            checked,
            chosen,
            num_envs=num_envs,
            split=split,
            device=device,
            invalid_action=invalid_action,
            continuous=continuous,
        )
        self.trading = self._episodes.env
        self.num_envs = self.trading.num_envs
        self.single_observation_space = self._episodes.observation_space
        self.single_action_space = self._episodes.action_space
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, self.num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, self.num_envs)
        self.render_mode = None

    @property
    def masked_actions(self) -> Array:
        """(N,) masked actions asked for since the last reset."""
        counts: Array = self.trading.masked_actions.cpu().numpy()
        return counts

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, Info]:
        """New episodes in all rows; `seed` decides where they start and all that follows. Options are refused."""
        super().reset(seed=seed)
        _refuse_options(options)
        step = self._episodes.restart(self.np_random)
        self._step = step
        facts = self._episodes.facts(step, step.action.cpu().numpy())
        return self._episodes.observe(step.index, step.account), _present(facts | {"action_mask": self.action_masks()})

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, Info]:
        """One bar for every account."""
        step = self._step = self._episodes.play(actions, self.np_random)
        observation = self._episodes.observe(step.index, step.account)
        terminated, truncated = step.terminated.cpu().numpy(), step.truncated.cpu().numpy()
        facts = self._episodes.facts(step, actions) | {"action_mask": self.action_masks()}
        ended = terminated | truncated
        info = _present(facts)
        if ended.any():
            info |= self._final(step, facts, ended)
        return observation, self._episodes.reward(step), terminated, truncated, info

    def action_masks(self) -> Array:
        """(N, 7) bool: what each account may do next (as sb3-contrib's MaskablePPO asks for it)."""
        return self._step.mask.cpu().numpy().copy()

    def _final(self, step: Timestep, facts: Info, ended: Array) -> Info:
        """Where the rows that ended arrived, in gymnasium's form; in `facts` they become accounts just begun."""
        rows = torch.as_tensor(ended, device=self.trading.device)
        last = self._episodes.observe(step.final_index[rows], step.final_account[rows])
        final_obs = np.full(self.num_envs, None, dtype=object)
        for row, seen in zip(np.flatnonzero(ended), last, strict=True):
            final_obs[row] = seen
        final_info: Info = {}
        for name, values in facts.items():
            begun = self._begun(name, values)
            of_row = ended.reshape(-1, *[1] * (values.ndim - 1))
            final_info |= {name: np.where(of_row, values, np.zeros_like(values)), f"_{name}": ended.copy()}
            values[ended] = begun[ended]
        final_info["action_mask"][ended] = np.eye(len(ACTIONS), dtype=bool)[0]  # nothing is left to do there
        return {"final_obs": final_obs, "_final_obs": ended, "final_info": final_info, "_final_info": ended.copy()}

    def _begun(self, name: str, values: Array) -> Array:
        """What `facts` says of accounts that have just begun."""
        if name == "action_mask":
            return self.action_masks()
        if name == "equity":
            return np.full_like(values, self.trading.rules.initial_capital)
        if name == "bar":
            return self.trading.standing().bar.cpu().numpy()
        return np.zeros_like(values)


class TradingGymEnv(gymnasium.Env[Array, int]):
    """One account of one symbol behind gymnasium's plain interface."""

    metadata = {"render_modes": []}  # noqa: RUF012  as gymnasium declares it

    def __init__(
        self,
        spec: Spec | str | Path | None = None,
        *,
        symbol: str | None = None,
        symbols: Sequence[str] | None = None,
        split: str = "train",
        device: str | torch.device = "cpu",
        invalid_action: Literal["error", "hold"] = "hold",
        overrides: Mapping[str, Any] | None = None,
        continuous: bool = False,
    ) -> None:
        """As `TradingVectorEnv`, but one account has room for one symbol: several are refused, and where neither a spec
        nor a symbol is given it is the sample's first."""
        named = one_or_many(symbol, symbols)
        if named is None and spec is None and "symbols" not in (overrides or {}):
            named = sample.SYMBOLS[:1]
        checked, chosen = read_spec(spec, named, overrides)
        if len(chosen) > 1:
            hint = f'say symbol="{chosen[0]}", or gymnasium.make_vec for several'
            raise InputError("symbol", f"one account cannot trade {', '.join(chosen)}", hint)
        self._episodes = Episodes(
            checked,
            chosen,
            num_envs=1,
            split=split,
            device=device,
            invalid_action=invalid_action,
            continuous=continuous,
        )
        self.trading = self._episodes.env
        self.observation_space = self._episodes.observation_space
        self.action_space = self._episodes.action_space  # type: ignore[assignment]  # its numbers are numpy's
        self.render_mode = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, Info]:
        """A new episode; `seed` decides where it starts and all that follow it. Options are refused."""
        super().reset(seed=seed)
        _refuse_options(options)
        step = self._episodes.restart(self.np_random)
        self._mask = step.mask[0].cpu().numpy().copy()
        return self._episodes.observe(step.index, step.account)[0], self._info(step, [0])

    def step(self, action: int) -> tuple[Array, float, bool, bool, Info]:
        """One bar. After an end, `reset` comes before the next step."""
        step = self._episodes.play([action], self.np_random)
        terminated, truncated = bool(step.terminated), bool(step.truncated)
        self._mask = step.mask[0].cpu().numpy().copy()
        if terminated or truncated:
            self._mask = np.eye(len(ACTIONS), dtype=bool)[0]  # nothing is left to do there
        observation = self._episodes.observe(step.final_index, step.final_account)[0]
        return observation, float(self._episodes.reward(step)[0]), terminated, truncated, self._info(step, [action])

    def action_masks(self) -> Array:
        """(7,) bool: what the account may do next (as sb3-contrib's MaskablePPO asks for it)."""
        return self._mask

    def _info(self, step: Timestep, asked: Sequence[int]) -> Info:
        facts = {name: values[0] for name, values in self._episodes.facts(step, asked).items()}
        return facts | {"action_mask": self._mask}


def _refuse_options(options: Mapping[str, Any] | None) -> None:
    if options:
        known = "reset takes none; choose bars with split=…, and starts with seed=…"
        raise InputError("options", f"{', '.join(map(str, options))}: unknown", known)


def _present(facts: Info) -> Info:
    """Facts of every row, each with gymnasium's `_name` that says which rows have it: all."""
    everywhere = {f"_{name}": np.ones(len(values), dtype=bool) for name, values in facts.items()}
    return facts | everywhere


if ENV_ID not in gymnasium.registry:  # a module that is loaded again registers nothing twice
    gymnasium.register(
        ENV_ID, entry_point=f"{__name__}:TradingGymEnv", vector_entry_point=f"{__name__}:TradingVectorEnv"
    )
