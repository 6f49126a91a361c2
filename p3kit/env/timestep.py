"""Result of an environment's `reset` and of every `step`."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Timestep(NamedTuple):
    """One moment of N rows. Notation for shapes: N rows, K account fields, A actions.

    `index`, `account` and `mask` are where the row acts next: after a restart, where an episode ended. `final_index`
    and `final_account` are where the step itself arrived: its last observation, to bootstrap a truncated episode from.
    What follows describes the step that was made; after `reset` it is zero (NaN for `closed_profit`).
    """

    index: Tensor  # type: ignore[assignment]  # (N,) int64, row of the feature table (tuple.index is not needed)
    account: Tensor  # (N, K) float32
    mask: Tensor  # (N, A) bool, True where the action is allowed
    components: Tensor  # (N, 7) float64, raw
    terminated: Tensor  # (N,) bool: ruined; the value of the future is 0
    truncated: Tensor  # (N,) bool: the window ended; the future is cut off
    final_index: Tensor  # (N,) int64
    final_account: Tensor  # (N, K) float32
    equity: Tensor  # (N,) float64, at the close of `bar`, before a restart
    bar_return: Tensor  # (N,) float64, equity / equity before − 1
    traded_value: Tensor  # (N,) float64, shares × fill price over all fills of the step
    cost_paid: Tensor  # (N,) float64, commission and slippage
    closed_profit: Tensor  # (N,) float64, net profit of a round trip that ended flat in this step, else NaN
    exposure: Tensor  # (N,) float64, market value / equity at the close of `bar`
    bar: Tensor  # (N,) int64, the bar inside its symbol where the step arrived
    action: Tensor  # (N,) int64, the action executed
    alive: Tensor  # (N,) bool: still playing; False only after a window of `reset_windows` ended
    valid: Tensor  # (N,) bool: this step was a real transition (rows that already ended and NEXT_STEP resets are not)
