"""The portfolio section of the weekly report: rows and sentences for the data of `portfolio_data.py`."""

from __future__ import annotations

from p3kit.edge import family_sentence
from p3kit.metrics import share_interval
from p3kit.report.markdown import count_of, interval
from p3kit.report.portfolio_data import Account, Portfolio


def portfolio_rows(portfolio: Portfolio | None) -> list[tuple[str, Account]]:
    """The accounts of the table, by what they are."""
    if portfolio is None:
        return []
    rows = [
        (f"All {portfolio.agents.members} agents, equal shares", portfolio.agents),
        ("Buy-and-hold of their symbols, equal shares", portfolio.buy_and_hold),
    ]
    if portfolio.passed is not None:
        rows.append((f"The {portfolio.passed.members} that passed (chosen on these bars)", portfolio.passed))
    return rows


def portfolio_words(portfolio: Portfolio | None) -> str:
    """Text on the agents' joint value, their correlation, and the number that chance alone would show."""
    if portfolio is None:
        return ""
    count = len(portfolio.names)
    low, high = share_interval(portfolio.passes, count)
    words = [
        f"{portfolio.passes} of {count_of(count, 'agent')} of {portfolio.symbols} symbols passed (95% interval "
        f"{low:.0%} to {high:.0%}). {family_sentence(portfolio.family)}"
    ]
    if portfolio.excess is not None and portfolio.excess_interval is not None:
        words.append(
            f"The account's Sharpe ratio minus buy-and-hold's is {portfolio.excess:+z.2f} "
            f"{interval(portfolio.excess_interval)}. Every agent's weights were chosen on these bars, so the "
            "interval is no evidence of an edge."
        )
    if portfolio.mean_correlation is not None:
        alike = f"Mean correlation of two agents {portfolio.mean_correlation:z.2f}"
        if portfolio.independent is not None:
            alike += f": they spread risk as {portfolio.independent:.1f} uncorrelated ones would"
        words.append(f"{alike}.")
    if still := count - len(portfolio.moving):
        words.append(f"{count_of(still, 'agent')} never traded.")
    return " ".join(words)
