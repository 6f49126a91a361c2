"""The result of a group of agents in one sentence that needs no explanation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_MOST_NAMED = 5
HARDLY_TRAINED = "hardly trained"
"""Label of a verdict."""


@dataclass(frozen=True)
class Scored:
    """One agent on the bars that it is judged on. Returns and drawdowns are fractions; None where not recorded."""

    name: str
    label: str
    """`shown`, `not shown` or `not judged` (p3kit.edge.label)."""
    total_return: float | None
    hold_return: float | None
    """Total return of buy-and-hold on the same bars."""
    drawdown: float | None
    hold_drawdown: float | None
    window: str | None = None
    """Window of a walk-forward; agents of different windows have different bars."""
    synthetic: bool = False
    hardly_trained: bool = False
    """Too few updates to learn anything, or still near the highest entropy (label of the verdict)."""


def headline(agents: Sequence[Scored]) -> str:
    """Return up to three sentences: who is shown to beat buy-and-hold, what all earned beside it, who hardly trained.

    `No agent is shown to beat buy-and-hold. Together +27 %, buy-and-hold +59 %; mean drawdown 12 % against 43 %.`
    Together: equal shares of the capital, left alone. Empty for no agents.
    """
    if not agents:
        return ""
    warning = "SYNTHETIC data. " if any(agent.synthetic for agent in agents) else ""
    parts = (_who(agents), _money(agents), _training(agents))
    return warning + " ".join(part for part in parts if part)


def agents_sentence(agents: Sequence[Scored]) -> str:
    """Return who is shown to beat buy-and-hold and who hardly trained, without returns. Empty for no agents."""
    return " ".join(part for part in (_who(agents), _training(agents)) if part) if agents else ""


def _who(agents: Sequence[Scored]) -> str:
    shown = [agent.name for agent in agents if agent.label == "shown"]
    left = sum(agent.label == "not judged" for agent in agents)
    if len(agents) == 1:
        words = {"shown": "is shown to beat buy-and-hold", "not shown": "is not shown to beat buy-and-hold"}
        return f"{agents[0].name} {words.get(agents[0].label, 'cannot be judged against buy-and-hold yet')}."
    if left == len(agents):
        return f"None of {len(agents)} agents can be judged against buy-and-hold yet."
    open_ones = f" ({left} of {len(agents)} cannot be judged yet)" if left else ""
    if not shown:
        return f"No agent is shown to beat buy-and-hold{open_ones}."
    names = ", ".join(shown[:_MOST_NAMED]) + (
        f" and {len(shown) - _MOST_NAMED} more" if len(shown) > _MOST_NAMED else ""
    )
    verb = "is" if len(shown) == 1 else "are"
    return f"{len(shown)} of {len(agents)} agents {verb} shown to beat buy-and-hold: {names}{open_ones}."


def _money(agents: Sequence[Scored]) -> str:
    """Returns and drawdowns beside buy-and-hold; empty where they are not recorded for all."""
    own, held = [agent.total_return for agent in agents], [agent.hold_return for agent in agents]
    if any(value is None for value in (*own, *held)):
        return ""
    together = "On average" if len({agent.window for agent in agents}) > 1 else "Together"
    text = f"{together + ' ' if len(agents) > 1 else ''}{_percent(own)}, buy-and-hold {_percent(held)}"
    own, held = [agent.drawdown for agent in agents], [agent.hold_drawdown for agent in agents]
    if any(value is None for value in (*own, *held)):
        return f"{text}."
    mean = "mean drawdown" if len(agents) > 1 else "drawdown"
    return f"{text}; {mean} {_percent(own, '')} against {_percent(held, '')}."


def _training(agents: Sequence[Scored]) -> str:
    """Agents that hardly trained: their results are no evidence about the setting."""
    count = sum(agent.hardly_trained for agent in agents)
    if not count:
        return ""
    if count == len(agents):
        return "Hardly trained: train longer before you judge."
    return f"Hardly trained: {count} of {len(agents)} agents."


def _percent(values: Sequence[float | None], sign: str = "+") -> str:
    return format(_mean(values), f"{sign}z.0%").replace("%", " %")


def _mean(values: Sequence[float | None]) -> float:
    return float(np.mean([value for value in values if value is not None]))


LEGEND = (
    "Grade: the training guide's fixed criteria, which ignore buy-and-hold. "
    "Edge: the comparison with buy-and-hold, with every evaluation counted."
)
"""The line below a table of grades and edges."""
