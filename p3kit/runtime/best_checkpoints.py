"""The best checkpoints of an agent by validation Sharpe: `best-<step>.pt`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from p3kit.rundir import RunDir, choice_rank
from p3kit.runtime.card import Card, card_entry
from p3kit.runtime.checkpoints import Flat, save_checkpoint


class BestCheckpoints:
    """Keeps the weights of the best evaluations."""

    def __init__(self, directory: RunDir, plan: Mapping[str, Any], agent: str | None, number: int, card: Card) -> None:
        """Keep `number` checkpoints, `card` in each; `agent` is in their names if the run has several."""
        self._directory, self._plan, self._agent, self._number = directory, plan, agent, number
        self._card = card_entry(card)
        self._kept: dict[int, float] = {}  # global_step → validation Sharpe

    def keep(self, step: int, sharpe: float | None, weights: Flat, *, compress: bool) -> bool:
        """Write the checkpoint of `step` if it is among the best; return True if it is the best of all."""
        if sharpe is None:
            return False
        is_best = all(self._rank(step, sharpe) > self._rank(*other) for other in self._kept.items())
        self._kept[step] = sharpe
        save_checkpoint(self._path(step), weights | self._card, compress=compress)
        while len(self._kept) > self._number:
            worst = min(self._kept, key=lambda one: (self._rank(one, self._kept[one]), -one))  # of equals the later one
            del self._kept[worst]
            self._path(worst).unlink(missing_ok=True)
        return is_best

    def _rank(self, step: int, sharpe: float) -> tuple[bool, float]:
        return choice_rank(self._plan, step, sharpe)

    def _path(self, step: int) -> Path:
        return self._directory.checkpoint(f"best-{step:09d}", agent=self._agent)

    def state_dict(self) -> dict[str, float]:
        return {str(step): sharpe for step, sharpe in self._kept.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._kept = {int(step): float(sharpe) for step, sharpe in state.items()}
