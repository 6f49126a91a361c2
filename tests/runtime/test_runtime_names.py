"""`p3kit.runtime` is the only import of a trainer. A removed name raises an error with the remedy."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest


@pytest.fixture
def runtime() -> ModuleType:
    return importlib.import_module("p3kit.runtime")


def test_every_public_name_exists(runtime: ModuleType) -> None:
    for name in runtime.__all__:
        assert getattr(runtime, name) is not None


@pytest.mark.parametrize(
    "name", ["Bodies", "Flat", "Rollout", "StackPolicy", "load_optimizer_state", "optimizer_state"]
)
def test_a_removed_name_names_the_new_word(runtime: ModuleType, name: str) -> None:
    with pytest.raises(ImportError, match=rf"p3kit\.runtime\.{name} was removed.*AgentRun.*p3kit eject ppo"):
        exec(f"from p3kit.runtime import {name}", {})


def test_a_name_that_never_was_is_no_removed_one(runtime: ModuleType) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Bodys'"):
        runtime.Bodys  # noqa: B018
