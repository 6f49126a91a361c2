"""Agents with columns of the user's files: training, loading, and decisions on new bars."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import p3kit
from p3kit.errors import DataError
from p3kit.policy.exporting import export_policy
from tests.market.made import frame_of, random_bars, write_csv

SPEC = """
name = "own"
symbols = ["X"]
trainer = "{trainer}"
[data]
source = "csv"
path = "{{symbol}}.csv"
columns.own = {{ sentiment = "News Score" }}
[observation]
features = {features}
columns = {columns}
[env]
num_envs = 2
window = 4
episode_bars = 40
[ppo]
total_timesteps = 64
n_steps = 32
batch_size = 32
n_epochs = 1
hidden = [8]
"""


@pytest.fixture
def frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("P3KIT_RUNS", "runs")
    rng = np.random.default_rng(4)
    columns = {"rsi": rng.uniform(0, 100, 700), "News Score": rng.standard_normal(700)}
    table = frame_of(random_bars(700)).assign(**columns)
    write_csv(table, tmp_path)
    return table


def train(
    *, features: str = '["return_1"]', columns: str = '["rsi", "sentiment"]', trainer: str = "ppo", more: str = ""
):  # type: ignore[no-untyped-def]
    Path("own.toml").write_text(SPEC.format(features=features, columns=columns, trainer=trainer) + more)
    return p3kit.run_spec("own.toml", progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["ppo", "ppo_stacked"])
def test_a_decision_needs_and_uses_the_columns(frame: pd.DataFrame, trainer: str) -> None:
    (run,) = train(trainer=trainer)
    Path("X.csv").unlink()
    policy = p3kit.load_policy(f"{run.name}/X")
    assert policy.feature_names == ("return_1", "rsi", "sentiment")
    whole = policy.predict(frame)
    assert policy.predict(frame.tail(policy.bars_needed)).to_dict() == whole.to_dict()
    other = frame.assign(rsi=frame["rsi"].where(frame.index < 699, 0.0))
    assert policy.predict(other).value != whole.value
    for name in ("rsi", "News Score"):
        with pytest.raises(DataError, match=f"has no column {name}"):
            policy.predict(frame.drop(columns=[name]))


@pytest.mark.slow
def test_an_exported_policy_reads_the_columns_of_the_file(frame: pd.DataFrame) -> None:
    frame.assign(rsi=frame["rsi"].where(frame.index >= 14)).to_csv("X.csv", index=False)
    (run,) = train()
    policy = p3kit.load_policy(f"{run.name}/X")
    export_policy(f"{run.name}/X", "exported")
    command = [sys.executable, "exported/policy.py", "X.csv"]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    decision = policy.predict(pd.read_csv("X.csv"))
    assert told["action"] == decision.action
    assert told["probabilities"] == pytest.approx(dict(decision.probabilities), abs=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("frame")
@pytest.mark.parametrize("features", ['["regime_bull"]', "[]", '["gap", "volume_20"]'])
def test_any_choice_of_features_trains(features: str) -> None:
    columns = '["rsi"]' if features == "[]" else "[]"
    (run,) = train(features=features, columns=columns)
    assert run.state == "done"
    assert p3kit.load_policy(run).predict(pd.read_csv("X.csv")).value


@pytest.mark.slow
@pytest.mark.usefixtures("frame")
def test_columns_as_a_matrix_are_compared_on_the_same_bars() -> None:
    runs = train(columns="[]", more='[matrix]\n"observation.columns" = [[], ["sentiment"]]\n')
    names = [p3kit.load_policy(run).feature_names for run in runs]
    assert names == [("return_1",), ("return_1", "sentiment")]
    comparison = p3kit.compare_runs(runs)
    assert [difference.path for difference in comparison.differences] == ["observation.columns"]
    assert not [line for line in comparison.beside if "the bars of" in line]
