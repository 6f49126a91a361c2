"""Fixtures and flags for all tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine makes a test slow, not wrong.
settings.register_profile("p3kit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("p3kit")

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--refresh-golden", action="store_true", help="rewrite the golden files; then read the diff")
    parser.addoption("--screenshots", metavar="FOLDER", help="where tests/test_aim_dashboard.py keeps its pictures")
    parser.addoption("--screenshots-of", metavar="RUNS", help="the runs to show there, in place of made-up ones")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden("diagnose/hold.txt", text)` compares a whole text with tests/golden/diagnose/hold.txt."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--refresh-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{name} does not exist: run pytest --refresh-golden and read it"
        assert text == path.read_text(encoding="utf-8"), f"{name} differs: pytest --refresh-golden, then read the diff"

    return compare
