"""The environment for gymnasium: `p3kit/Trading-v1`, registered by `import p3kit.env`.

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
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode

from p3kit.env.account import HOLD
from p3kit.env.episodes import Array, Episodes, Info, one_or_many, read_spec
from p3kit.env.registration import register
from p3kit.env.render import FRAMES_PER_SECOND, RENDER_MODES, Episode, EpisodePicture, check_render_mode
from p3kit.env.timestep import Timestep
from p3kit.env.trading import TradingEnv
from p3kit.errors import InputError
from p3kit.market import FeatureRecipe, SymbolData, sample
from p3kit.metrics import ACTIONS
from p3kit.spec import Spec


class _Rendered:
    """The pictures of both adapters: the bars of each row's episode, kept only where `render_mode` is given."""

    def __init__(self, env: TradingEnv, market: Mapping[str, SymbolData], mode: str | None) -> None:
        check_render_mode(mode)
        self._episodes = [Episode(market[env.symbols[row % len(env.symbols)]]) for row in range(env.num_envs)]
        self._picture = EpisodePicture(mode) if mode else None
        self.is_window = mode == "human"

    def record(self, bar: Array, equity: Array, exposure: Array) -> None:
        """Add what each row shows now, (N,) each; show the first row where there is a window."""
        if self._picture is None:
            return
        for episode, *values in zip(self._episodes, bar.tolist(), equity.tolist(), exposure.tolist(), strict=True):
            episode.record(*values)
        if self.is_window:
            self._picture.draw(self._episodes[0])

    def frames(self) -> list[Array] | None:
        """A picture (480, 800, 3) uint8 per row; None for a window, and where no render_mode was given."""
        if self._picture is None or self.is_window:
            return None
        return [self._picture.draw(episode) for episode in self._episodes]  # type: ignore[misc]  # no window here

    def close(self) -> None:
        if self._picture is not None:
            self._picture.close()


class TradingVectorEnv(gymnasium.vector.VectorEnv[Array, Array, Array]):
    """N accounts behind gymnasium's vector interface; account i trades `symbols[i % len(symbols)]`.

    `autoreset_mode` is gymnasium's, the default `SAME_STEP`: a row whose episode ends stands at a new start in the same
    step, and `info["final_obs"]` and `info["final_info"]` keep where it arrived. In `NEXT_STEP` the next step of that
    row only resets it (its action is ignored, its reward is 0). In `DISABLED` it has to be reset before the next step:
    `reset(options={"reset_mask": ended})`. `unwrapped.trading` is the `TradingEnv` underneath, for those who want
    tensors.
    """

    metadata = {  # noqa: RUF012  as gymnasium declares it
        "render_modes": [*RENDER_MODES],
        "render_fps": FRAMES_PER_SECOND,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

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
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        continuous: bool = False,
        recipes: Mapping[str, FeatureRecipe] | None = None,
    ) -> None:
        """`num_envs` is N in all (default: env.num_envs per symbol); `spec`, `symbols` and `overrides` as `read_spec`
        takes them, so that without any of them the accounts trade the ten symbols of the sample. With `continuous`, an
        account lives from the first bar of the split to its last, without episodes (see `p3kit.env`). `recipes` make
        the features of a symbol as a trained agent had them: `{policy.symbol: policy.recipe}`. Raises P3kitError
        (SpecError, DataError, InputError) with what is wrong and the remedy."""
        self._mode = _autoreset_mode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self._mode}
        checked, chosen = read_spec(spec, one_or_many(symbol, symbols), overrides)
        self._episodes = Episodes(
            checked,
            chosen,
            num_envs=num_envs,
            split=split,
            device=device,
            invalid_action=invalid_action,
            continuous=continuous,
            recipes=recipes,
        )
        self.trading = self._episodes.env
        self.num_envs = self.trading.num_envs
        self.single_observation_space = self._episodes.observation_space
        self.single_action_space = self._episodes.action_space
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, self.num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, self.num_envs)
        self.render_mode = render_mode
        self._rendered = _Rendered(self.trading, self._episodes.market, render_mode)
        self._masks: Array | None = None  # None before the first reset
        self._ended = np.zeros(self.num_envs, dtype=bool)  # rows that wait for a reset

    @property
    def masked_actions(self) -> Array:
        """(N,) masked actions requested since the last reset."""
        counts: Array = self.trading.masked_actions.cpu().numpy()
        return counts

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, Info]:
        """New episodes in all rows, or in those of `options["reset_mask"]`, (N,) bool; `seed` decides where they start
        and all that follows. Other options are refused. Raises ClosedEnvironmentError after `close`."""
        _refuse_closed(self.closed)
        mask = _reset_mask(options, self.num_envs)
        super().reset(seed=seed)
        if mask is None or self._masks is None:
            self._episodes.restart(self.np_random)
            mask = np.ones(self.num_envs, dtype=bool)
        else:
            self._episodes.restart_some(np.flatnonzero(mask), self.np_random.random(self.num_envs)[mask])
        self._ended &= ~mask
        observation, facts = self._standing()
        self._note(facts)
        return observation, _present(facts)

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, Info]:
        """One bar for every account. Raises ResetNeeded before the first reset and for rows that ended where autoreset
        is disabled, ClosedEnvironmentError after `close`, ValueError for actions that are none."""
        _refuse_closed(self.closed)
        if self._masks is None:
            raise ResetNeeded("step before the first reset: call reset() first")
        if self._mode != AutoresetMode.SAME_STEP:
            return self._step_without_restart(actions)
        step = self._episodes.play(actions, self.np_random)
        observation = self._episodes.observe(step.index, step.account)
        terminated, truncated = step.terminated.cpu().numpy(), step.truncated.cpu().numpy()
        facts = self._episodes.facts(step, actions) | {"action_mask": step.mask.cpu().numpy().copy()}
        ended = terminated | truncated
        info = _present(facts)
        if ended.any():
            info |= self._final(step, facts, ended)
        self._note(facts)
        return observation, self._episodes.reward(step), terminated, truncated, info

    def action_masks(self) -> Array:
        """(N, 7) bool: actions that each account may take next (the method that sb3-contrib's MaskablePPO calls)."""
        if self._masks is None:
            raise ResetNeeded("action_masks before the first reset: call reset() first")
        return self._masks.copy()

    def render(self) -> tuple[Array, ...] | None:
        """A picture of each row's episode, (480, 800, 3) uint8; None in mode "human", whose window shows row 0."""
        _refuse_closed(self.closed)
        frames = self._rendered.frames() if self._masks is not None else None
        return None if frames is None else tuple(frames)

    def close_extras(self, **_: Any) -> None:
        """Close the window."""
        self._rendered.close()

    def _note(self, facts: Info) -> None:
        """Keep what the next call needs of the facts of all rows."""
        self._masks = facts["action_mask"].copy()
        self._rendered.record(facts["bar"], facts["equity"], facts["exposure"])

    def _standing(self) -> tuple[Array, Info]:
        """Observations and facts of all rows before any of them moves."""
        step = self.trading.standing()
        facts = self._episodes.facts(step, step.action.cpu().numpy())
        return self._episodes.observe(step.index, step.account), facts | {"action_mask": step.mask.cpu().numpy().copy()}

    def _step_without_restart(self, actions: Array) -> tuple[Array, Array, Array, Array, Info]:
        """One bar for the rows whose episode continues. A row that ended last time begins its next one instead."""
        if self._ended.any() and self._mode == AutoresetMode.DISABLED:
            raise ResetNeeded('some episodes have ended: call reset(options={"reset_mask": terminated | truncated})')
        self._episodes.checked(actions, self.num_envs)
        moving, start = np.flatnonzero(~self._ended), self.np_random.random(self.num_envs)
        observation, facts = self._standing()
        reward = np.zeros(self.num_envs)
        terminated, truncated = np.zeros(self.num_envs, dtype=bool), np.zeros(self.num_envs, dtype=bool)
        if len(moving):
            chosen = np.asarray(actions)[moving]
            step = self._episodes.play_some(moving, chosen, start[moving])
            observation[moving] = self._episodes.observe(step.final_index, step.final_account)
            reward[moving] = self._episodes.reward(step)
            terminated[moving], truncated[moving] = step.terminated.cpu().numpy(), step.truncated.cpu().numpy()
            for name, values in self._episodes.facts(step, chosen).items():
                facts[name][moving] = values
            facts["action_mask"][moving] = step.mask.cpu().numpy()
        self._ended = terminated | truncated
        facts["action_mask"][self._ended] = _ONLY_HOLD
        self._note(facts)
        return observation, reward, terminated, truncated, _present(facts)

    def _final(self, step: Timestep, facts: Info, ended: Array) -> Info:
        """Final observations and infos in Gymnasium's form; `facts` gets the new accounts of those rows."""
        rows = torch.as_tensor(ended, device=self.trading.device)
        last = self._episodes.observe(step.final_index[rows], step.final_account[rows])
        final_obs = np.full(self.num_envs, None, dtype=object)
        for row, seen in zip(np.flatnonzero(ended), last, strict=True):
            final_obs[row] = seen
        final_info: Info = {}
        for name, values in facts.items():
            initial = self._initial_values(name, values)
            of_row = ended.reshape(-1, *[1] * (values.ndim - 1))
            final_info |= {name: np.where(of_row, values, np.zeros_like(values)), f"_{name}": ended.copy()}
            values[ended] = initial[ended]
        final_info["action_mask"][ended] = _ONLY_HOLD
        return {"final_obs": final_obs, "_final_obs": ended, "final_info": final_info, "_final_info": ended.copy()}

    def _initial_values(self, name: str, values: Array) -> Array:
        """Info fields of accounts right after a reset."""
        if name == "action_mask":
            return values.copy()
        if name == "equity":
            return np.full_like(values, self.trading.rules.initial_capital)
        if name == "bar":
            return self.trading.standing().bar.cpu().numpy()
        return np.zeros_like(values)


class TradingGymEnv(gymnasium.Env[Array, int]):
    """One account of one symbol behind gymnasium's plain interface."""

    metadata = {"render_modes": [*RENDER_MODES], "render_fps": FRAMES_PER_SECOND}  # noqa: RUF012  as gymnasium declares it

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
        render_mode: str | None = None,
        continuous: bool = False,
        recipes: Mapping[str, FeatureRecipe] | None = None,
    ) -> None:
        """As `TradingVectorEnv`, but one account has room for one symbol: several are refused, and where neither a spec
        nor a symbol is given it is the sample's first."""
        named = one_or_many(symbol, symbols)
        if named is None and spec is None and "symbols" not in (overrides or {}):
            named = sample.SYMBOLS[:1]
        checked, chosen = read_spec(spec, named, overrides)
        if len(chosen) > 1:
            hint = f'use symbol="{chosen[0]}", or gymnasium.make_vec for several'
            raise InputError("symbol", f"one account cannot trade {', '.join(chosen)}", hint)
        self._episodes = Episodes(
            checked,
            chosen,
            num_envs=1,
            split=split,
            device=device,
            invalid_action=invalid_action,
            continuous=continuous,
            recipes=recipes,
        )
        self.trading = self._episodes.env
        self.observation_space = self._episodes.observation_space
        self.action_space = self._episodes.action_space  # type: ignore[assignment]  # its numbers are numpy's
        self.render_mode = render_mode
        self._rendered = _Rendered(self.trading, self._episodes.market, render_mode)
        self._mask: Array | None = None  # None before the first reset
        self._ended = self._closed = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, Info]:
        """A new episode; `seed` decides where it starts and all that follow it. Options are refused. Raises
        ClosedEnvironmentError after `close`."""
        _refuse_closed(self._closed)
        _refuse_options(options)
        super().reset(seed=seed)
        step = self._episodes.restart(self.np_random)
        self._ended = False
        self._mask = step.mask[0].cpu().numpy().copy()
        return self._episodes.observe(step.index, step.account)[0], self._info(step, [0])

    def step(self, action: int) -> tuple[Array, float, bool, bool, Info]:
        """One bar. Raises ResetNeeded before the first reset and after an end, ClosedEnvironmentError after `close`,
        ValueError for an action that is none."""
        _refuse_closed(self._closed)
        if self._mask is None or self._ended:
            raise ResetNeeded(f"step {'after the end of an episode' if self._ended else 'before reset'}: call reset()")
        step = self._episodes.play([action], self.np_random)
        terminated, truncated = bool(step.terminated), bool(step.truncated)
        self._ended = terminated or truncated
        self._mask = _ONLY_HOLD if self._ended else step.mask[0].cpu().numpy().copy()
        observation = self._episodes.observe(step.final_index, step.final_account)[0]
        return observation, float(self._episodes.reward(step)[0]), terminated, truncated, self._info(step, [action])

    def action_masks(self) -> Array:
        """(7,) bool: actions that the account may take next (the method that sb3-contrib's MaskablePPO calls)."""
        if self._mask is None:
            raise ResetNeeded("action_masks before reset: call reset() first")
        return self._mask.copy()

    def render(self) -> Array | None:
        """A picture of the episode so far, (480, 800, 3) uint8; None in mode "human", which has a window."""
        _refuse_closed(self._closed)
        frames = self._rendered.frames() if self._mask is not None else None
        return frames[0] if frames else None

    def close(self) -> None:
        """Close the window. The environment cannot be used any more."""
        self._closed = True
        self._rendered.close()

    def _info(self, step: Timestep, requested: Sequence[int]) -> Info:
        facts = self._episodes.facts(step, requested)
        self._rendered.record(facts["bar"], facts["equity"], facts["exposure"])
        return {name: values[0] for name, values in facts.items()} | {"action_mask": self.action_masks()}


_ONLY_HOLD = np.eye(len(ACTIONS), dtype=bool)[HOLD]
"""The mask of an account whose episode has ended."""


def _autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """Gymnasium's mode, also by its name or value. Raises InputError for another."""
    names = {name.lower(): parsed for parsed in AutoresetMode for name in (parsed.name, parsed.value)}
    parsed = mode if isinstance(mode, AutoresetMode) else names.get(str(mode).lower())
    if parsed is None:
        expected = ", ".join(one.name for one in AutoresetMode)
        raise InputError("autoreset_mode", f"is {mode!r}", f"expected one of {expected}")
    return parsed


def _reset_mask(options: dict[str, Any] | None, rows: int) -> Array | None:
    """`options["reset_mask"]`, (N,) bool with at least one True; None without one. Raises InputError for others."""
    others = dict(options or {})
    mask = others.pop("reset_mask", None)
    _refuse_options(others)
    if mask is None:
        return None
    mask = np.asarray(mask)
    if mask.shape != (rows,) or mask.dtype != np.bool_ or not mask.any():
        what = f"has shape {mask.shape} and dtype {mask.dtype}"
        raise InputError('options["reset_mask"]', what, f"give {rows} booleans, at least one True")
    return mask


def _refuse_closed(closed: bool) -> None:
    if closed:
        raise ClosedEnvironmentError("the environment was closed: make another one")


def _refuse_options(options: Mapping[str, Any] | None) -> None:
    if options:
        hint = "choose bars with split=…, and starts with seed=…"
        raise InputError("options", f"{', '.join(map(str, options))}: unknown", hint)


def _present(facts: Info) -> Info:
    """Facts of every row, each with gymnasium's `_name`, the rows that have it: all."""
    everywhere = {f"_{name}": np.ones(len(values), dtype=bool) for name, values in facts.items()}
    return facts | everywhere


register()
