"""Plans over the fake trainer: what `plan_runs` gives, without a spec or a market."""

import io
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from p3kit.launch import make_runs
from tests.launch.launching import launch

FAKE_TRAINER = Path(__file__).parent / "fake_trainer.py"


@dataclass(frozen=True)
class FakePlan:
    agent: str
    fake: dict
    trainer: Path = FAKE_TRAINER
    windows: tuple = ()

    @property
    def market_spec(self):
        return SimpleNamespace(observation=None)

    def run_json(self, market, command):
        return {
            "name": "fake",
            "trainer": "fake_trainer",
            "spec": {"compute": {"threads": "auto"}, "ppo": self.fake},
            "agents": [
                {"name": self.agent, "symbol": self.agent, "seed": 1, "total_timesteps": self.fake["total_timesteps"]}
            ],
            "data": {self.agent: {"synthetic": True}},
            "command": list(command),
        }


@pytest.fixture
def plan():
    def make(agent="AAPL", **fake):
        return FakePlan(agent, {"total_timesteps": 1000, **fake})

    return make


@pytest.fixture
def loaded():
    return SimpleNamespace(
        path=Path("fake.toml"), source_text="name = 'fake'\n", spec=SimpleNamespace(name="fake", observation=None)
    )


@pytest.fixture
def console():
    return Console(file=io.StringIO(), force_terminal=False, width=100)


@pytest.fixture
def start(tmp_path, loaded, console):
    def start(*plans, jobs=2, **options):
        runs = make_runs(plans, loaded, {}, tmp_path / "runs", command=["p3kit"])
        return launch(runs, jobs=jobs, console=console, **options)

    return start
