"""A trainer's Args, read from its source."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from p3kit.errors import SpecError
from p3kit.spec import find_trainer
from p3kit.spec.knobs import knobs_model, read_knobs

ARGS = '''
import something_that_is_not_installed
import typing
from annotated_types import Ge, Gt, Le, Lt

@something_that_is_not_installed.wrapped
class Args:
    """Knobs."""

    total_timesteps: Annotated[int, Ge(1), "size"] = 100_000
    """Env steps,
    per agent."""
    rate: typing.Annotated[float, Gt(0), Le(1)] = 3e-4
    """Step size."""
    target_kl: Annotated[float | Literal["off"], Gt(0)] = "off"
    """Or off."""
    hidden: Annotated[tuple[int, ...], Gt(0), "size"] = (64, 64)
    """Widths."""
    gain: Annotated[float, "fixed"] = -0.5
    """Read once."""
    kind: Literal["a", "b"] = "a"
    """A word."""
    fast: bool = True
    """A switch."""

    @property
    def twice(self) -> float:
        return 2 * self.rate
'''


@pytest.fixture
def model(tmp_path: Path) -> Any:
    path = tmp_path / "trainer.py"
    path.write_text(ARGS)
    return knobs_model(read_knobs(path))


def faults(tmp_path: Path, body: str) -> list[str]:
    path = tmp_path / "trainer.py"
    path.write_text(body)
    with pytest.raises(SpecError) as error:
        read_knobs(path)
    return [str(fault).replace(str(path), "trainer.py") for fault in error.value.faults]


def test_args_are_read_without_importing(tmp_path: Path) -> None:
    path = tmp_path / "trainer.py"
    path.write_text(ARGS)
    knobs = {knob.name: knob for knob in read_knobs(path)}
    assert list(knobs) == ["total_timesteps", "rate", "target_kl", "hidden", "gain", "kind", "fast"]
    assert knobs["total_timesteps"].doc == "Env steps, per agent."
    assert (knobs["total_timesteps"].size, knobs["gain"].size) == (True, False)
    assert [name for name, knob in knobs.items() if knob.live] == ["rate", "target_kl"]
    assert knobs["gain"].default == -0.5


@pytest.mark.parametrize("right", [{"rate": 1}, {"target_kl": 0.1}, {"hidden": [8]}, {"hidden": []}, {"gain": -1}, {}])
def test_right_values(model: Any, right: dict[str, Any]) -> None:
    model.model_validate(right)


@pytest.mark.parametrize(
    "wrong",
    [{"rate": 0}, {"rate": True}, {"rate": "1"}, {"target_kl": -1}, {"target_kl": "of"}, {"hidden": [0]},
     {"hidden": [8.0]}, {"kind": "c"}, {"fast": 1}, {"total_timesteps": 1.5}, {"twice": 1}, {"rate": None},
     {"rate": float("nan")}],
)  # fmt: skip
def test_wrong_values(model: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        model.model_validate(wrong)


def test_equal_knobs_give_the_same_model(tmp_path: Path, model: Any) -> None:
    assert knobs_model(read_knobs(tmp_path / "trainer.py")) is model


def test_what_is_wrong_with_args_is_told_at_once(tmp_path: Path) -> None:
    assert faults(tmp_path, "class Args:\n    a: dict = 1\n    b: int = 2 + 3\n    c = 4\n") == [
        "trainer.py:2:5: Args.a has no sentence under it; write meaning, unit, and effect of raising it",
        "trainer.py:2:5: Args.a: dict is not a type a knob may have; see p3kit/spec/knobs.py",
        "trainer.py:3:5: Args.b has no sentence under it; write meaning, unit, and effect of raising it",
        "trainer.py:3:5: Args.b: expected a literal default",
        "trainer.py:4:5: a field of Args without a type; write name: type = value",
    ]


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("x = 1\n", "trainer.py:1:1: no class Args; a trainer's knobs are the fields of a dataclass Args"),
        ("def (:\n", "trainer.py:1:5: not Python: invalid syntax; python trainer.py shows it"),
        ('class Args:\n    a: Annotated[float, Gt(0)] = -1.0\n    """A."""\n',
         "trainer.py:2:5: Args.a = -1.0: Input should be greater than 0; give a default within its own bounds"),
        ('class Args:\n    a: Annotated[float, "sise"] = 1.0\n    """A."""\n',
         "trainer.py:2:5: Args.a: 'sise' is neither a bound (Gt, Ge, Lt, Le of a number) nor a marker "
         "('size', 'fixed'); see p3kit/spec/knobs.py"),
        ('class Args:\n    a: float = 1.0\n    """A."""\n',
         "trainer.py:1:1: Args has no total_timesteps: int, which every plan needs"),
        ('class Args:\n    total_timesteps: int = 1\n    """A."""\n    total_timesteps: int = 2\n    """B."""\n',
         "trainer.py:2:5: Args.total_timesteps is defined more than once"),
    ],
)  # fmt: skip
def test_one_fault(tmp_path: Path, body: str, fault: str) -> None:
    assert faults(tmp_path, body)[0] == fault


def test_the_reader_agrees_with_python() -> None:
    """Knobs read from the source of the reference trainer equal those of the imported module."""
    pytest.importorskip("torch")
    path = find_trainer("ppo")
    sys.path.insert(0, str(path.parent))
    try:
        import ppo
    finally:
        sys.path.remove(str(path.parent))
    fields = {field.name: field.default for field in dataclasses.fields(ppo.Args)}
    assert {knob.name: knob.default for knob in read_knobs(path)} == fields
