"""The trading environment: N accounts, one symbol each, moved together by tensors.

**One step.** This definition holds for the whole package, the batched engine and the plain reference alike:

1. *Decide.* The agent stands at the close of bar t. Its observation holds the `window` bars up to and including t and
   the account at that close. E is equity there: cash + shares × close(t).
2. *Fill.* `fill = "next"`: at the open of t + 1, or at its close where a symbol has no open (a *late* fill).
   `fill = "close"`: at the close of t just seen. A purchase pays fill × (1 + slippage) a share and commission on that;
   a sale gets fill × (1 − slippage) a share less commission on that. A BUY of size w spends min(w, max_position) × E
   *including* its costs, so it can be paid at any price. An ADD spends the least of the opening w × E, of max_position
   × E − market value, and of the cash, all at the close of t. SELL_HALF sells half the shares, SELL_ALL all.
3. *Resting orders.* On bar t + 1 a position meets its stop (average fill price × (1 − stop)), its target
   (× (1 + target)) and its holding limit. First the open: at or beyond a level, the position is sold at the open. Then
   the rest of the bar: the stop first, at its level, then the target, at its level. Then the close, where a position
   that has been held `max_hold` bars is sold. The path of the bar is its open, high and low. Each column may be
   missing on its own. A missing high is the larger, a missing low the smaller, of the open and the close of t + 1.
   Where the open is missing, too, either one is the close of t + 1, and the path starts from the close of t: raised to
   the low, then lowered to the high. With closes alone the path is the close of t + 1, where stops and targets fill.
   An order filled
   before the path begins is under its resting orders at once. A late order fills after the path: what was held before
   it meets the path, a position sold there voids the order, and what the order bought meets its first path on t + 2.
4. *Mark.* Equity is marked at the close of t + 1. Below `ruin` × initial: `terminated`, and the position is sold at
   that close. Else, if t + 1 is the last bar of the episode: `truncated`, and the position is sold at that close. A
   forced sale costs what any sale costs. E′ is equity after all that.
5. *Reward.* The components describe E → E′ (`p3kit.env.reward`). The new observation is of bar t + 1; in training, a
   row whose episode ended stands at a new start in the same step, and `Timestep.final_*` keeps where it arrived.

*Bars held* counts the closes since the opening fill. A late fill's own bar does not count, because its path was over. A
sale inside or at the close of a bar counts that bar; a sale at a fill before the bar's path does not. *Entry value* is
shares at their average fill price, and *paid* is their cost with fees. A sale of a fraction of the position takes the
same fraction of both. The profit of a *piece* (each sale, by order or by force) is its proceeds net of fees less its
part of
paid. A *round trip* runs from flat to flat. A position is *under water* when its market value is less than paid.

*Continuous accounts.* A live account has no episodes. With `Rules.continuous` one account lives from its first bar to
its last: it is never forced out at the end, and its last bar is marked at the close. An episode begins where the open
trade began, so a decision depends only on the open trade. For the observation, cash before the open trade (while
flat: cash) replaces the initial capital. Peak, largest drawdown and realised profit start there. While flat, every
field has its start value. `episode_left` is 1 − bars held / `episode_bars`, at least 0. Order sizes remain fractions of
equity, and ruin a fraction of the initial capital: below it nothing is bought any more. The reward is pnl alone.

*Mask.* HOLD always; flat: the three BUYs; long: SELL_HALF, SELL_ALL, and ADD when it would spend at least half the
smallest size × E, fewer than `max_adds` ADDs were made, and the position is not under water at the close of t.

*Ties.* Comparisons of money or price at a threshold (stop, target, ruin, ADD) allow one part in 10⁹: a stop counts as
hit, an ADD as allowed, an account as not ruined; a profit within 10⁻⁹ × initial of 0 is not a win.
"""

import importlib
from typing import TYPE_CHECKING

from p3kit.env.registration import register

if TYPE_CHECKING:
    from p3kit.env.backends import make_trading_env as make_trading_env
    from p3kit.env.gymnasium import TradingGymEnv as TradingGymEnv
    from p3kit.env.gymnasium import TradingVectorEnv as TradingVectorEnv
    from p3kit.env.rules import Rules as Rules
    from p3kit.env.scalar_env import ScalarTradingEnv as ScalarTradingEnv
    from p3kit.env.task import VectorTask as VectorTask
    from p3kit.env.timestep import Timestep as Timestep
    from p3kit.env.trading import TradingEnv as TradingEnv

_MODULES = {
    "Rules": "rules",
    "ScalarTradingEnv": "scalar_env",
    "Timestep": "timestep",
    "TradingEnv": "trading",
    "TradingGymEnv": "gymnasium",
    "TradingVectorEnv": "gymnasium",
    "VectorTask": "task",
    "make_trading_env": "backends",
}

__all__ = [*_MODULES]


register()


def __getattr__(name: str) -> object:
    """Import a name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"p3kit.env.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
