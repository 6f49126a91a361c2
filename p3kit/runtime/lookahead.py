"""Continuous accounts in plain floats: a policy that decides on several bars per forward pass, and rules.

An action depends on the account, and the account on all actions before. Bars therefore come one by one. A forward pass
over sixteen rows costs little more than one over a single row, so each agent guesses its next actions and plays them.
The policy then decides on all these bars at once. Its decisions hold up to the first one that differs from the guess,
that one included: until there the account was the true one. The next pass continues from the bar after it.

The path is that of one bar at a time. Passes have the same shape at every bar, and an agent's guesses depend on that
agent alone.

Notation for shapes: K agents, L bars looked ahead, B bars of a span, D observation, A actions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from p3kit.env import TradingEnv
from p3kit.env.account import HOLD, mask_table
from p3kit.env.float_account import ALLOWED, BarRow, FloatAccount, FloatEngine, Outcome
from p3kit.runtime.walks import Array, Player, Split, Walk, env_of, walk_of

BARS_AHEAD = 16
"""L"""


class Irregular(Exception):
    """A masked action, or an account that is not finite."""


class Guess(NamedTuple):
    """An action that was guessed for one bar, and what follows from it."""

    mask_row: int
    action: int
    account: FloatAccount
    outcome: Outcome


class Path:
    """One account on its way over the bars that actions are decided on."""

    def __init__(self, engine: FloatEngine, bars: Sequence[BarRow]) -> None:
        self._engine, self._bars = engine, bars
        self._account = engine.fresh()
        self._decided: list[dict[int, int]] = [{}, {}, {}]  # by row of the mask: the newest decision on each bar
        self._newest = [HOLD] * 3  # by row of the mask
        self._guesses: list[Guess] = []
        self._outcomes: list[Outcome] = []
        self.actions: list[int] = []

    @property
    def is_over(self) -> bool:
        """True after the last bar, or where the account was ruined."""
        return len(self.actions) == len(self._bars) or bool(self._outcomes and self._outcomes[-1].terminated)

    def follow(self, actions: Sequence[Sequence[int]]) -> None:
        """Play all bars; `actions` (3, B) by row of the mask and bar."""
        while not self.is_over:
            action = actions[self._account.mask_row][len(self.actions)]
            self._arrive(action, *self._engine.step(self._account, action, self._bars[len(self.actions)]))

    def look_ahead(self) -> tuple[list[tuple[float, ...]], list[int]]:
        """Fields of the account and rows of the mask at the next L bars, if the guesses hold. The last one is repeated
        where fewer are left."""
        account, last_action = self._account, self.actions[-1] if self.actions else HOLD
        fields: list[tuple[float, ...]] = []
        self._guesses = []
        for at in range(len(self.actions), min(len(self.actions) + BARS_AHEAD, len(self._bars))):
            fields.append(self._engine.fields(account, last_action))
            row = account.mask_row
            last_action = self._decided[row].get(at, self._newest[row])
            account, outcome = self._engine.step(account, last_action, self._bars[at])
            self._guesses.append(Guess(row, last_action, account, outcome))
            if outcome.terminated:
                break
        rows = [guess.mask_row for guess in self._guesses]
        missing = BARS_AHEAD - len(rows)
        return fields + fields[-1:] * missing, rows + rows[-1:] * missing

    def move(self, decisions: Sequence[int]) -> None:
        """Carry out what the policy decided at the fields of `look_ahead`, (L,), as far as these were the true ones.
        Raises Irregular for a masked action."""
        begin, differs = len(self.actions), False
        for at, (guess, action) in enumerate(zip(self._guesses, decisions, strict=False), begin):
            self._decided[guess.mask_row][at] = action
            if differs:
                continue
            if action not in ALLOWED[guess.mask_row]:
                raise Irregular
            differs = action != guess.action
            self._newest[guess.mask_row] = action
            if differs:
                self._arrive(action, *self._engine.step(self._account, action, self._bars[at]))
            else:
                self._arrive(action, guess.account, guess.outcome)

    def _arrive(self, action: int, account: FloatAccount, outcome: Outcome) -> None:
        self._account = account
        self.actions.append(action)
        self._outcomes.append(outcome)

    def columns(self) -> dict[str, Array]:
        """Columns of the played path, for `walk_of`. Raises Irregular if a number is not finite."""
        table = np.array(self._outcomes).T
        if not np.isfinite(table[0]).all():
            raise Irregular
        return {"action": np.array(self.actions), **dict(zip(Outcome._fields, table, strict=True))}


DecideRows = Callable[[Tensor, Tensor, Tensor], Tensor]
"""K agents on P paths each: (observation (K, P, L, D), mask (K, P, L, A), bar (K, P, L)) → action (K, P, L)"""
Rows = tuple[int, int]
"""Rows of the bar table that a player acts on: the first, and the last + 1."""


def walk_ahead(players: Sequence[Player], split: Split, decide: DecideRows, paths: int) -> list[Walk] | None:
    """The `paths` of each player over a whole split, player by player.

    Returns None where accounts have to be played one bar at a time: in windows, on the plain reference, after a masked
    action, and where an account cannot be computed.
    """
    spans = [one.spans(split)[0] for one in players for _ in range(paths)]

    def play(env: TradingEnv, rows: Sequence[Rows]) -> list[Path]:
        return _play_policy(env, [own for own in rows for _ in range(paths)], spans, decide, paths)

    return _walks(players, split, play, [paths] * len(players))


def walk_actions(players: Sequence[Player], split: Split, actions: Sequence[Array]) -> list[Walk] | None:
    """The paths of rules over a whole split, player by player, or None as `walk_ahead` returns it.

    `actions` (rules, 3, B) of each player, by row of the mask and bar.
    """
    return _walks(players, split, lambda env, rows: _play_rules(env, rows, actions), [len(own) for own in actions])


def _walks(
    players: Sequence[Player],
    split: Split,
    play: Callable[[TradingEnv, Sequence[Rows]], list[Path]],
    counts: Sequence[int],
) -> list[Walk] | None:
    """The walks of what `play` returns: `counts` paths of each player."""
    if players[0].mode_of(split) != "continuous" or players[0].spec.env.backend != "batched":
        return None
    env = env_of(players, split, len(players), continuous=True)
    offsets = dict(zip(env.bars.symbols, env.bars.offsets.tolist(), strict=True))
    spans = [one.spans(split)[0] for one in players]
    rows = [
        (first + offsets[one.symbol], last + offsets[one.symbol])
        for one, (first, last) in zip(players, spans, strict=True)
    ]
    whose = [span for span, count in zip(spans, counts, strict=True) for _ in range(count)]
    try:
        columns = [path.columns() for path in play(env, rows)]
    except (Irregular, ZeroDivisionError):
        return None
    return [walk_of(own, *span, env.rules.initial_capital) for own, span in zip(columns, whose, strict=True)]


@torch.no_grad()
def _play_policy(
    env: TradingEnv, rows: Sequence[Rows], spans: Sequence[tuple[int, int]], decide: DecideRows, count: int
) -> list[Path]:
    engine, ahead, masks = FloatEngine(env.rules, env.bars.any_late), torch.arange(BARS_AHEAD), mask_table(env.device)
    first, end = torch.tensor(rows).T
    offset = first - torch.tensor(spans).T[0]
    paths = [Path(engine, env.bars.transitions[slice(*own)].tolist()) for own in rows]
    looks = [path.look_ahead() for path in paths]
    while not all(path.is_over for path in paths):
        now = first + torch.tensor([len(path.actions) for path in paths])
        index = torch.minimum(now.unsqueeze(1) + ahead, end.unsqueeze(1) - 1)
        bar = (index - offset.unsqueeze(1)).to(env.device)
        fields = torch.as_tensor(np.array([own for own, _ in looks], dtype=np.float32), device=env.device)
        mask = masks[torch.tensor([own for _, own in looks], device=env.device)]
        tables = (env.observe(index.to(env.device), fields), mask, bar)
        seen = (table.unflatten(0, (-1, count)) for table in tables)
        for k, decisions in enumerate(decide(*seen).flatten(0, 1).tolist()):
            if not paths[k].is_over:
                paths[k].move(decisions)
                looks[k] = looks[k] if paths[k].is_over else paths[k].look_ahead()
    return paths


def _play_rules(env: TradingEnv, rows: Sequence[Rows], actions: Sequence[Array]) -> list[Path]:
    engine, paths = FloatEngine(env.rules, env.bars.any_late), []
    for own, rules in zip(rows, actions, strict=True):
        bars = env.bars.transitions[slice(*own)].tolist()
        for rule in rules.tolist():
            paths.append(Path(engine, bars))
            paths[-1].follow(rule)
    return paths
