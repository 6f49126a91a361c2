"""Tests of the agents of a spec, and of their grouping into runs."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import p3kit.plan
from p3kit.errors import SpecError
from p3kit.plan import RunPlan, agent_name, data_notes, plan_runs
from p3kit.spec import resolve_spec
from p3kit.spec.trainer_file import read_trainer

TEN = [f"S{i}" for i in range(10)]


def plans(trainer: str, *, cores: int = 1, symbols: list[str] = TEN, **tables: Any) -> list[RunPlan]:
    given = {"name": "plan", "trainer": trainer, "symbols": symbols, "data": {"source": "synthetic"}}
    spec = resolve_spec(given | tables, "test")
    return plan_runs(spec, read_trainer(spec.trainer), cores)


def groups(trainer: str, **given: Any) -> list[list[str]]:
    return [[agent.name for agent in run.agents] for run in plans(trainer, **given)]


def test_ppo_trains_one_agent_a_run() -> None:
    runs = groups("ppo", symbols=["A", "B"], seeds=[1, 2], matrix={"ppo.gamma": [0.9, 0.95]})
    assert len(runs) == 8
    assert runs[0] == ["A.s1.gamma=0.9"]
    assert runs[-1] == ["B.s2.gamma=0.95"]


@pytest.mark.parametrize(("cores", "sizes"), [(1, [10]), (2, [5, 5]), (4, [3, 3, 2, 2]), (16, [1] * 10)])
def test_stacks_keep_all_cores_busy(cores: int, sizes: list[int]) -> None:
    assert [len(run) for run in groups("ppo_stacked", cores=cores)] == sizes


def test_stacks_leave_a_core_to_each_thread() -> None:
    assert [len(run) for run in groups("ppo_stacked", cores=4, compute={"threads": 2})] == [5, 5]


@pytest.mark.parametrize(
    ("trainer", "cores", "tables", "threads"),
    [
        ("ppo_shared", 1, {}, 1),
        ("ppo_shared", 2, {}, 2),
        ("ppo_shared", 64, {}, 4),
        ("ppo_shared", 2, {"seeds": [1, 2]}, 1),
        ("ppo_shared", 4, {"seeds": [1, 2]}, 2),
        ("ppo_shared", 2, {"compute": {"threads": 3}}, 3),
        ("ppo_stacked", 64, {"symbols": ["A"]}, 1),
        ("ppo", 64, {"symbols": ["A"]}, 1),
    ],
)
def test_threads_follow_from_the_spec_and_the_cores(trainer: str, cores: int, tables: Any, threads: int) -> None:
    for run in plans(trainer, cores=cores, **tables):
        assert run.threads == run.run_json({}, [])["threads"] == threads


def test_a_stack_is_as_large_as_asked_or_as_fits_into_the_cache() -> None:
    assert [len(run) for run in groups("ppo_stacked", compute={"group": 4})] == [4, 3, 3]
    wide = groups("ppo_stacked", ppo={"hidden": [256, 256]})
    assert [len(run) for run in wide] == [5, 5]
    for_two = groups("ppo_stacked", cores=2, ppo={"hidden": [384, 384]})
    assert [len(run) for run in for_two] == [2, 2, 2, 2, 1, 1], (
        "five stacks of two would leave one core idle at the end"
    )
    assert [name for run in wide for name in run] == TEN


def test_stacks_hold_agents_of_equal_shapes_and_rules_only() -> None:
    other = {"S3": {"ppo": {"n_steps": 512}}, "S4": {"env": {"commission_bps": 20}}, "S5": {"ppo": {"gamma": 0.9}}}
    runs = groups("ppo_stacked", agents=other)
    assert runs == [[name for name in TEN if name not in ("S3", "S4")], ["S3"], ["S4"]]


def test_agents_that_share_an_encoder_are_those_of_a_seed_and_a_matrix_point() -> None:
    runs = groups("ppo_shared", symbols=["A", "B"], seeds=[1, 2], matrix={"ppo.gamma": [0.9, 0.95]})
    assert runs == [[f"{symbol}.s{seed}.gamma={gamma}" for symbol in "AB"] for seed in (1, 2) for gamma in (0.9, 0.95)]


def test_agents_that_share_an_encoder_have_equal_sizes() -> None:
    with pytest.raises(SpecError, match=r"agents\.B: its sizes or its environment differ from A's"):
        groups("ppo_shared", symbols=["A", "B"], agents={"B": {"ppo": {"n_steps": 512}}})


OUTSIDE = ("open", "os.", "subprocess.", "socket.", "shutil.", "tempfile.", "time.", "import")
"""Audit events of files, processes, networks and imports; see the table of audit events in Python's documentation."""
IMPORTED = {"__future__", "collections.abc", "dataclasses", "itertools", "json", "math", "typing"}


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Events of the process while the fixture is used; a clock that is read fails."""
    seen: list[str] = []
    active = True

    def hook(event: str, _: tuple[Any, ...]) -> None:
        if active and event.startswith(OUTSIDE):
            seen.append(event)

    def fails() -> float:
        raise AssertionError("a clock was read")

    monkeypatch.setattr("time.time", fails)
    monkeypatch.setattr("time.monotonic", fails)
    sys.addaudithook(hook)
    yield seen
    active = False


TABLES: dict[str, dict[str, Any]] = {
    "ppo": {"symbols": ["A", "B"], "seeds": [1, 2], "matrix": {"ppo.gamma": [0.9, 0.95]}},
    "ppo_stacked": {"symbols": TEN, "agents": {"S3": {"ppo": {"n_steps": 512}}}},
    "ppo_shared": {"symbols": TEN},
}


@pytest.mark.parametrize("trainer", TABLES)
def test_planning_touches_nothing_outside(trainer: str, outside: list[str]) -> None:
    spec = resolve_spec({"name": "plan", "trainer": trainer, "data": {"source": "synthetic"}} | TABLES[trainer], "test")
    facts = read_trainer(spec.trainer)
    assert outside, "reading the spec and the trainer opens files: the fixture records it"
    outside.clear()
    for run in plan_runs(spec, facts, cores=2):
        run.run_json({}, ["p3kit", "run"])
        assert all(agent.gradient_steps and agent.to_json() for agent in run.agents)
    assert data_notes(spec, {}) == []
    assert outside == []


def test_planning_imports_no_module_of_files_processes_or_clocks() -> None:
    tree = ast.parse(Path(p3kit.plan.__file__).read_text(encoding="utf-8"))
    inner = [
        node for function in ast.walk(tree) if isinstance(function, ast.FunctionDef) for node in ast.walk(function)
    ]
    assert not [node for node in inner if isinstance(node, ast.Import | ast.ImportFrom)]
    at_run_time = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {name for node in at_run_time for name in modules_of(node)}
    assert {name for name in names if not name.startswith("p3kit.")} <= IMPORTED


def modules_of(node: ast.Import | ast.ImportFrom) -> list[str]:
    return [str(node.module)] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]


@pytest.mark.parametrize(
    ("value", "name"),
    [([64, 64], "64x64"), ((0.1, 0.5, 1.0), "0.1x0.5x1.0"), ([], "none"), (0.9, "0.9")],
)
def test_a_list_in_a_name_needs_no_quotes_in_a_shell(value: object, name: str) -> None:
    assert agent_name("AAPL", 1, {"ppo.hidden": value}, several_seeds=False) == f"AAPL.s1.hidden={name}"
