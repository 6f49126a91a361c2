"""The outcome in one sentence: who is shown to beat buy-and-hold, and the money beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p3kit.edge import bound
from p3kit.headline import Scored, agents_sentence, headline


def agent(name: str, label: str = "not shown", earned: float | None = 0.27, held: float | None = 0.59) -> Scored:
    return Scored(name, label, earned, held, 0.12, 0.43)


ALONE = "+27 %, buy-and-hold +59 %; drawdown 12 % against 43 %."


@pytest.mark.parametrize(
    ("agents", "text"),
    [
        ([], ""),
        ([agent("AAPL")], f"AAPL is not shown to beat buy-and-hold. {ALONE}"),
        ([agent("AAPL", "shown")], f"AAPL is shown to beat buy-and-hold. {ALONE}"),
        (
            [agent("AAPL"), agent("XOM", earned=0.01, held=-0.19)],
            "No agent is shown to beat buy-and-hold. "
            "Together +14 %, buy-and-hold +20 %; mean drawdown 12 % against 43 %.",
        ),
        (
            [agent("AAPL"), agent("XOM", "not judged"), agent("PG", "shown")],
            "1 of 3 agents is shown to beat buy-and-hold: PG (1 of 3 cannot be judged yet). "
            "Together +27 %, buy-and-hold +59 %; mean drawdown 12 % against 43 %.",
        ),
        ([agent("AAPL", "not judged", None)], "AAPL cannot be judged against buy-and-hold yet."),
        (
            [agent("A", "not judged", None), agent("B", "not judged")],
            "None of 2 agents can be judged against buy-and-hold yet.",
        ),
    ],
)  # fmt: skip
def test_the_sentence(agents: list[Scored], text: str) -> None:
    assert headline(agents) == text


def test_many_names_are_counted() -> None:
    text = headline([agent(f"S{i}", "shown") for i in range(8)])
    assert text.startswith("8 of 8 agents are shown to beat buy-and-hold: S0, S1, S2, S3, S4 and 3 more.")


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.00"), (0.004, "0.004"), (-0.0004, "-0.0004"), (0.006, "0.01"), (-3.2, "-3.20")]
)
def test_a_bound_that_is_not_zero_never_reads_as_zero(value: float, text: str) -> None:
    assert bound(value) == text


@pytest.mark.parametrize(
    ("new", "words"),
    [
        ([True], "Hardly trained: train longer before you judge."),
        ([True, False], "Hardly trained: 1 of 2 agents."),
        ([False, False], ""),
    ],
)
def test_short_trainings_are_named_in_the_headline(new: list[bool], words: str) -> None:
    agents = [replace(agent(f"S{i}"), hardly_trained=one) for i, one in enumerate(new)]
    assert headline(agents).endswith(words or "43 %.")
    assert agents_sentence(agents).endswith(words or "buy-and-hold.")
