"""Labels of agents in tables: short where there is no room, never folded, and as long as they are elsewhere."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p3kit.agent_labels import shorter_labels
from p3kit.console import Console, FittingTable

SWEEP = [
    f"AAPL.s{seed}.hidden={width}.learning_rate={rate}"
    for width in ("64x64", "128x128")
    for rate in ("0.0003", "0.001")
    for seed in (1, 2)
]


def printed(labels: list[str], width: int | None, sentence: str = "") -> list[str]:
    table = FittingTable(optional=("age",), agents="agent")
    table.add_column("agent")
    table.add_column("Sharpe", no_wrap=True)
    table.add_column("age", no_wrap=True)
    if sentence:
        table.add_column("text", overflow="fold")
    for label in labels:
        table.add_row(label, "0.62", "3 min", *([sentence] if sentence else []))
    stream = io.StringIO()
    Console(file=stream, **({"width": width} if width else {"width": 1_000})).print(table)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("labels", "first"),
    [
        (["AAPL.s1.gamma=0.9", "AAPL.s2.gamma=0.9"], ["s1", "s2"]),
        (["run-1/AAPL", "run-2/AAPL"], ["run-1", "run-2"]),
        (["run-1/BRK.B", "run-1/BRK.A"], ["BRK.B", "BRK.A"]),
        (["AAPL.s1.hidden=64x64", "AAPL.s1.hidden=8"], ["hidden=64x64", "hidden=8"]),
        (["AAPL.s1", "AMD.s1", "AMD.s2"], ["AAPL.s1", "AMD.s1", "AMD.s2"]),
        (["AAPL.w2018-01-04", "AAPL.w2019-01-04"], ["w2018-01-04", "w2019-01-04"]),
    ],
)
def test_what_all_agents_have_in_common_is_left_out(labels: list[str], first: list[str]) -> None:
    assert shorter_labels(labels)[0] == first


@given(st.lists(st.text(st.sampled_from("ab./=s1_"), min_size=1, max_size=12), min_size=1, max_size=6))
def test_every_form_is_as_unique_as_the_labels(labels: list[str]) -> None:
    for form in shorter_labels(labels):
        assert len(form) == len(labels)
        assert len(set(zip(labels, form, strict=True))) == len(set(labels)) == len(set(form))


@pytest.mark.parametrize("sentence", ["", "no evidence of an edge over buy-and-hold in these bars"])
@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_label_is_never_folded_and_keeps_what_differs(width: int, sentence: str) -> None:
    lines = printed(SWEEP, width, sentence)
    rows = [line for line in lines if " 0.62" in line]
    assert len(rows) == len(SWEEP)
    assert all(len(line) <= width for line in lines)
    if not sentence:
        assert len(lines) == len(SWEEP) + 1
    if width >= 80 or not sentence:
        assert len({line.split()[0] for line in rows}) == len(SWEEP)


def test_labels_are_whole_where_there_is_room() -> None:
    assert [line.split()[0] for line in printed(SWEEP, None)[1:]] == SWEEP
    assert "age" in printed(SWEEP, 80)[0]
