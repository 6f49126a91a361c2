"""Comparison of the rows that the loss gets with those that the rollout recorded.

Three relations hold exactly, for any policy and any task:

- A field of the rollout buffer is what the environment returned at that step.
- The returns follow R = r + γ ((1 − λ) V′ + λ R′), and advantage = R − V.
- A row of a minibatch is that row of these tables. Before the first gradient step its value is that of the rollout.

So a field that something shifts, scales or mixes between rollout and loss departs here, in a single environment too.

Notation for shapes: T steps, N envs of an agent, B rows of a minibatch. A stack has tables of one agent here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from p3kit.env import Timestep, TradingEnv, VectorTask
from p3kit.env.account import ACCOUNT_FIELDS
from p3kit.metrics import COMPONENTS
from p3kit.runtime.field_changes import CHANGE, LEARNT, MISMATCH, STORED, Field, changes_of, is_exact
from p3kit.runtime.iteration import Iteration

_ROWS = 1_024
_EXACT, _RETURNS, _FLOAT32 = 1e-6, 1e-3, 4e-6
_NET, _NET_REDUCED = 1e-3, 5e-2
"""Relative difference between two passes of one net that rounding explains, in float32 and below."""
_BEFORE = {"index": "bar", "account": "account", "mask": "mask"}
_AFTER = {
    "components": "reward",
    "terminated": "terminated",
    "truncated": "truncated",
    "final_index": "final bar",
    "final_account": "final account",
    "equity": "equity",
}
_COLUMNS = {"account": ACCOUNT_FIELDS, "reward": COMPONENTS}


class StepRecord:
    """Steps of an environment since the rollout began. The record keeps references and copies nothing."""

    def __init__(self, env: TradingEnv | VectorTask) -> None:
        self._standing: Timestep | None = None
        self._actions: list[Tensor] = []
        self._steps: list[Timestep] = []
        step, reset, load = env.step, env.reset, env.load_state_dict

        def stepped(action: Tensor, start: Tensor | None = None) -> Timestep:
            self._actions.append(action)
            self._steps.append(step(action, start))
            return self._steps[-1]

        def kept(begin: Any) -> Any:
            def restart(*arguments: Any) -> Timestep:
                self._standing = begin(*arguments)
                return self._standing

            return restart

        env.step = stepped  # type: ignore[method-assign]
        env.reset, env.load_state_dict = kept(reset), kept(load)  # type: ignore[method-assign]

    def begin(self) -> None:
        """Start a rollout where the last one ended."""
        if self._steps:
            self._standing = self._steps[-1]
        self._actions, self._steps = [], []

    def tables(self) -> dict[str, Tensor]:
        """The fields of a rollout buffer (T, rows, …) as the environment returned them; empty without a record."""
        if self._standing is None or not self._steps:
            return {}
        before = [self._standing, *self._steps[:-1]]
        return {
            "action": torch.stack(self._actions),
            **{name: torch.stack([getattr(one, name) for one in before]) for name in _BEFORE},
            **{name: torch.stack([getattr(one, name) for one in self._steps]) for name in _AFTER},
        }


class LossCheck:
    """The steps of a rollout as the environment returned them, and rows that the loss got: those of the first
    minibatches of an iteration, about a thousand, and of its last one."""

    def __init__(self, env: TradingEnv | VectorTask, precision: torch.dtype, agents: int = 1) -> None:
        self._steps, self._agents = StepRecord(env), agents
        self._net_error = _NET if precision == torch.float32 else _NET_REDUCED
        self._fields: dict[int, list[Field]] = {}
        self.begin()

    def begin(self) -> None:
        """Start an iteration."""
        self._steps.begin()
        self._earlier = {
            place: {one.name: one.table for one in fields if one.table.dim() == 2}
            for place, fields in self._fields.items()
        }
        self._fields = {}
        self._first: list[tuple[Tensor, Any]] = []
        self._last: tuple[Tensor, Any] | None = None
        self._count = 0
        self._observed: tuple[Tensor, Tensor] | None = None

    def take(self, rows: Tensor, batch: Any) -> None:
        """Keep a minibatch: `rows` (…, B) of the flat tables, and the columns (…, B) that the loss gets of them."""
        self._last = rows, batch
        if self._count < _ROWS:
            self._first.append(self._last)
            self._count += rows.shape[-1]

    def observe(self, index: Tensor, account: Tensor) -> None:
        """Keep the place of the first observations of the update."""
        if self._last is not None and self._observed is None:
            self._observed = index, account

    def tables(self) -> dict[str, Tensor]:
        """The fields of a rollout buffer (T, rows of the environment, …) as the environment returned them."""
        return self._steps.tables()

    def compare(
        self,
        iteration: Iteration,
        tables: Mapping[str, Tensor],
        update: Mapping[str, Tensor],
        args: Any,
        place: int = 0,
    ) -> dict[str, Tensor]:
        """Per field the fraction of the environments in which it departs, 0-d; in a stack those of agent `place`."""
        own = {name: table[:, place :: self._agents] for name, table in tables.items()}
        kept = self._minibatches(place)
        fields = [*stored_fields(iteration.buffer, own), *derived_fields(iteration), *learnt_fields(iteration, kept)]
        if kept and self._observed is not None:
            index, account = (one if self._is_flat else one[place] for one in self._observed)
            fields += observed_fields(iteration, kept[0][0], index, account)
        self._fields[place] = fields
        shares = dict(share for field in fields for share in field.shares())
        return shares | self._of_first_step(iteration, kept, update, args)

    def changes(self, metrics: Mapping[str, float], place: int = 0) -> dict[str, float]:
        """The changes that explain the departing fields, as metrics; `metrics` are those of `compare`."""
        shares = {name.removeprefix(MISMATCH): one for name, one in metrics.items() if name.startswith(MISMATCH)}
        if not any(is_exact(name) for name in shares):
            return {}
        found = changes_of(self._fields[place], shares, self._earlier.get(place, {}))
        return {f"{CHANGE}{name}": value for name, value in found.items()}

    @property
    def _is_flat(self) -> bool:
        """True where minibatches belong to one agent (B,), False in a stack (K, B)."""
        return self._last is not None and self._last[0].dim() == 1

    def _minibatches(self, place: int) -> list[tuple[Tensor, Any]]:
        """(rows (B,), columns (B, …)) of one agent."""
        kept = [] if self._last is None else [*self._first, self._last]
        if self._is_flat:
            return kept
        return [(rows[place], type(batch)(*(column[place] for column in batch))) for rows, batch in kept]

    def _of_first_step(
        self, iteration: Iteration, kept: list[tuple[Tensor, Any]], update: Mapping[str, Tensor], args: Any
    ) -> dict[str, Tensor]:
        """`value loss`: 1 where that of the first gradient step is not that of its rows, by the values of the rollout.
        The net had other observations then, or the buffer has other values. `log_prob`: 1 where the ratio is not 1."""
        found: dict[str, Tensor] = {}
        if kept and len(update.get("value/value_loss", ())):
            rows, batch = kept[0]
            error = (iteration.buffer.value.flatten()[rows] - batch.returns).double().abs()
            is_huber = getattr(args, "value_loss", "") == "huber"
            expected = (torch.where(error < 1, error.square(), 2 * error - 1) if is_huber else error.square()).mean()
            rounding = self._net_error * expected + (_FLOAT32 * iteration.buffer.value.abs().amax().double()) ** 2
            found["value loss"] = ((update["value/value_loss"][0].double() - expected).abs() > rounding).double()
        if len(update.get("policy/ratio_error", ())):
            found["log_prob"] = (update["policy/ratio_error"][0] > self._net_error).double()
        return found


def stored_fields(buffer: Any, tables: Mapping[str, Tensor]) -> list[Field]:
    """The fields of a rollout buffer (T, N, …) beside what the environment returned; none for another length."""
    if not tables or len(tables["action"]) != len(buffer.action):
        return []
    swaps = {"terminated": tables["truncated"], "truncated": tables["terminated"]}
    return [
        Field(
            f"{STORED}{shown}",
            getattr(buffer, name),
            tables[name],
            _EXACT,
            columns=_COLUMNS.get(shown, ()) if tables[name].shape[-1] == len(_COLUMNS.get(shown, ())) else (),
            swapped=swaps.get(name),
        )
        for name, shown in ({"action": "action"} | _BEFORE | _AFTER).items()
    ]


def derived_fields(iteration: Iteration) -> list[Field]:
    """Tables (T, N) that follow from the buffer: rewards, returns, advantages, and the value of the next step."""
    buffer, rewards, returns = iteration.buffer, iteration.rewards, iteration.returns
    value, next_value, gae_lambda = buffer.value, iteration.next_value, iteration.gae_lambda
    following = torch.cat([returns[1:], next_value[-1:]])  # the rollout's last row has only V′
    ends = iteration.done.clone()
    ends[-1] = True
    later = torch.where(ends, next_value, (1 - gae_lambda) * next_value + gae_lambda * following)
    later = iteration.gamma * later * ~buffer.terminated
    level = torch.stack([one.abs().amax() for one in (returns, value, next_value, rewards.scaled)]).sum()
    near = _RETURNS * returns.std() + _FLOAT32 * level
    shown, bootstrapped = value[1:] * ~ends[:-1], next_value[:-1] * ~ends[:-1]

    def inside() -> list[Field]:
        right = right_returns(iteration)
        return [
            Field("reward", returns - later, rewards.scaled, 0.0, near),
            Field("advantage", iteration.advantage, right - value, 0.0, near),
            Field("returns", returns, right, 0.0, near),
        ]

    return [
        Field("next value", bootstrapped, shown, 0.0, near),
        *([_final_value(iteration)] if iteration.same_step else ()),
        Field("paid", rewards.weighted.sum(-1), _paid(iteration), _EXACT),
        Field("returns", returns, rewards.scaled + later, 0.0, near, inner=inside),
        Field("advantage", iteration.advantage, returns - value, 0.0, near),
    ]


def _final_value(iteration: Iteration) -> Field:
    """Truncated steps that bootstrap nothing, or the value of the episode that was started in their place, in place of
    that of their own final observation. A net whose values vary does neither, at every truncated step of an
    environment."""
    value, next_value, truncated = iteration.buffer.value, iteration.next_value, iteration.buffer.truncated
    restarted = torch.cat([value[1:], torch.full_like(value[:1], torch.nan)])
    wrong = truncated & ((next_value == 0) | (next_value == restarted))
    every = wrong.any(0, keepdim=True) & (wrong == truncated)[:-1].all(0, keepdim=True)
    every = every & (value != value[:1]).any(0, keepdim=True)
    return Field("final value", every, torch.zeros_like(every), 0.0, inner=lambda: ())


def right_returns(iteration: Iteration) -> Tensor:
    """The returns (T, N), from the last step back to the first one."""
    found = iteration.rewards.scaled.clone()
    following = iteration.next_value[-1]
    for t in reversed(range(len(found))):
        later = (1 - iteration.gae_lambda) * iteration.next_value[t] + iteration.gae_lambda * following
        later = torch.where(iteration.done[t], iteration.next_value[t], later)
        following = found[t] + iteration.gamma * later * ~iteration.buffer.terminated[t]
        found[t] = following
    return found


def _paid(iteration: Iteration) -> Tensor:
    """Rewards (T, N) by the weights that explain most of them; rows of other components remain unexplained."""
    raw, weighted = iteration.buffer.components.double(), iteration.rewards.weighted.double()
    square = raw.square().sum((0, 1))
    weights = torch.where(square > 0, (weighted * raw).sum((0, 1)) / square, 0.0)
    return (raw * weights).sum(-1)


def learnt_fields(iteration: Iteration, kept: list[tuple[Tensor, Any]]) -> list[Field]:
    """The columns that the loss got, beside the tables (T, N) of a rollout. `kept` are rows (B,) and columns (B, …)."""
    if not kept:
        return []
    rows = torch.cat([rows for rows, _ in kept])
    tables = {"advantage": iteration.advantage, "returns": iteration.returns}
    found = []
    for name in kept[0][1]._fields:
        table = tables.get(name, getattr(iteration.buffer, name, None))
        if table is not None:
            seen = torch.cat([getattr(batch, name) for _, batch in kept])
            found.append(Field(f"{LEARNT}{name}", seen, table, _EXACT, rows=rows))
    return found


def observed_fields(iteration: Iteration, rows: Tensor, index: Tensor, account: Tensor) -> list[Field]:
    """The places of observations (B,) that the first pass of the update got, beside those of the rollout."""
    buffer: Any = iteration.buffer
    pairs = (("bar", index, buffer.index), ("account", account, buffer.account))
    return [Field(f"{LEARNT}{name}", seen, table, _EXACT, rows=rows[: len(seen)]) for name, seen, table in pairs]
