"""Trainer files are scripts; tests import the very file that trains."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

TRAINERS = Path(__file__).parents[2] / "trainers"


def load_trainer(name: str) -> ModuleType:
    return load_module(f"trainer_{name}", TRAINERS / f"{name}.py")


def load_module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def ppo() -> ModuleType:
    return load_trainer("ppo")


@pytest.fixture(scope="session")
def trainers() -> Callable[[str], ModuleType]:
    loaded: dict[str, ModuleType] = {}
    return lambda name: loaded.setdefault(name, load_trainer(name))
