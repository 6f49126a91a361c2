"""Properties of every spec, and of text that is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from p3kit.errors import Fault, SpecError
from p3kit.spec import Spec, agent_spec, load_spec, resolve_spec
from p3kit.spec.keypath import leaves, written_path
from p3kit.spec.positions import scan
from p3kit.spec.writing import to_toml, toml_text
from tests.strategies import spec_tables

slow_to_draw = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


def faults_of(attempt: Callable[[], object]) -> tuple[Fault, ...]:
    """Return the faults; any exception but a SpecError fails the test."""
    try:
        attempt()
    except SpecError as error:
        return error.faults
    return ()


def resolved(tables: dict[str, Any]) -> Spec:
    return resolve_spec(tables, "a test")


@slow_to_draw
@given(tables=spec_tables())
def test_a_spec_survives_write_and_reread(tables: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "whole.toml"
    spec = resolved(tables)
    path.write_text(to_toml(tables), encoding="utf-8")
    assert load_spec(path).spec.model_copy(update={"data": spec.data}) == spec  # data.path moves with the file
    plain = spec.model_dump(mode="json")
    assert resolved(json.loads(json.dumps(plain))) == spec
    assert resolved(tomli.loads(to_toml(plain))) == spec


@slow_to_draw
@given(tables=spec_tables())
def test_every_value_has_an_origin(tables: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(to_toml(tables), encoding="utf-8")
    loaded = load_spec(path)
    assert set(loaded.origins) == {written_path(leaf) for leaf, _ in leaves(loaded.spec.model_dump(mode="json"))}
    assert loaded.origins["name"] == f"{path}:1:1"


@slow_to_draw
@given(tables=spec_tables())
def test_every_agent_has_a_whole_spec_of_its_own(tables: dict[str, Any]) -> None:
    spec = resolved(tables)
    for symbol in spec.symbols:
        for point in spec.points()[:3]:
            agent = agent_spec(spec, symbol, point)
            assert agent.agents == {}
            assert agent.matrix == {}
            assert resolved(agent.model_dump(mode="json")) == agent


words = st.text(max_size=12) | st.sampled_from(["name", "ppo", "data", "kind", "schedules", "agents", "matrix", "set"])
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
top_level = st.sampled_from([*Spec.model_fields, "interventions", "nonsense"])


@slow_to_draw
@given(tables=st.dictionaries(top_level, junk, max_size=6))
def test_junk_is_refused_and_never_crashes(tables: dict[str, Any]) -> None:
    base = {"name": "junk", "symbols": ["AAPL"]}
    for attempt in (tables, {**base, **tables}):
        assert all(fault.what for fault in faults_of(lambda tables=attempt: resolved(tables)))


@slow_to_draw
@given(text=st.text(max_size=200))
@example(text="[[a]]\n[a]\n")
@example(text="a.b = 1\na = 2\n")
def test_text_is_refused_and_never_crashes(text: str, tmp_path: Path) -> None:
    path = tmp_path / "text.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert all(fault.where.startswith(str(path)) for fault in faults_of(lambda: load_spec(path)))


toml_values = st.recursive(
    st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def all_paths(value: Any, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {path} | {below for key, item in inside for below in all_paths(item, (*path, key))}


@given(tables=st.dictionaries(st.text(max_size=4), toml_values, max_size=4))
def test_the_scanner_finds_every_key(tables: dict[str, Any]) -> None:
    text = to_toml(tables)
    assert tomli.loads(text) == tables
    offsets = scan(text).offsets
    assert set(offsets) == all_paths(tables) - {()}


TEXTS = {"3e-4": 3e-4, "64": 64, "true": True, "[64, 64]": [64, 64], '"1"': "1"}
WORDS = ("tanh", "0700", "", 'a"b\\', "1\nname = 2", "C:\\data", "1, 2")


@pytest.mark.parametrize(("text", "value"), [*TEXTS.items(), *((word, word) for word in WORDS)])
def test_text_of_a_flag_as_toml(text: str, value: Any) -> None:
    assert tomli.loads(f"value = {toml_text(text)}") == {"value": value}
