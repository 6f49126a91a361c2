"""`p3kit retrain`: a run again with the bars of today, and what it does with the days of its splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from p3kit.api.retraining import plan_retraining
from p3kit.errors import InputError
from p3kit.rundir import RunDir
from p3kit.rundir.threads import available_cores
from tests.command import invoke

SPEC = """
name = "tiny"
trainer = "{trainer}"
symbols = {symbols}
[data]
source = "csv"
path = "{{symbol}}.csv"
{split}
[env]
num_envs = 4
episode_bars = 32
window = 4
[ppo]
total_timesteps = 256
n_steps = 32
batch_size = 64
n_epochs = 2
{net}
[evaluation]
every = 256
[compute]
threads = {threads}
"""
SHARED = "patch = 2\nd_model = 16\nlayers = 1\nheads = 2\nhead_width = 16"
DAYS = """[data.split]
train = "2010-01-01..2012-02-28"
validation = "2012-02-29..2012-09-28"
test = "2012-09-29..2013-06-14"
"""


def write_bars(folder: Path, symbol: str, count: int, seed: int = 1) -> None:
    days = pd.bdate_range("2010-01-04", periods=count)
    moves = 0.01 * np.random.default_rng(seed).standard_normal(2_000)[:count]
    bars = pd.DataFrame({"date": days.strftime("%Y-%m-%d"), "close": (100 * np.exp(np.cumsum(moves))).round(4)})
    bars.to_csv(folder / f"{symbol}.csv", index=False)


def train(folder: Path, monkeypatch: pytest.MonkeyPatch, *, trainer: str = "ppo", split: str = "",
          symbols: tuple[str, ...] = ("TINY",)) -> RunDir:  # fmt: skip
    """A finished run on 900 bars of each symbol."""
    monkeypatch.chdir(folder)
    for number, symbol in enumerate(symbols):
        write_bars(folder, symbol, 900, number + 1)
    net = SHARED if trainer == "ppo_shared" else "hidden = [16]"
    threads = available_cores()  # so all agents of a stack are one run, on any machine
    text = SPEC.format(trainer=trainer, symbols=json.dumps(symbols), split=split, net=net, threads=threads)
    (folder / "tiny.toml").write_text(text)
    assert invoke("run", "tiny.toml", "--no-aim", "--jobs", "1").exit_code == 0
    return RunDir(folder / "runs" / "run-1")


@pytest.mark.slow
def test_shares_move_by_themselves_and_the_old_weights_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = train(tmp_path, monkeypatch)
    refused = invoke("retrain", "run-1", "--dry-run")
    assert refused.exit_code == 2
    assert "has no bars of TINY after 2013-06-14, the last day of run-1" in refused.stderr
    write_bars(tmp_path, "TINY", 960)
    looked = invoke("retrain", "run-1", "--dry-run", "--json")
    plan = json.loads(looked.stdout)
    assert plan["days_passed"] == 84
    assert plan["after"]["TINY"]["train"][1] > plan["before"]["TINY"]["train"][1]
    assert not (tmp_path / "runs" / "run-2").exists()
    done = invoke("retrain", "run-1", "--no-aim")
    assert done.exit_code == 0, done.stderr
    assert "run-1 is trained again from the weights of run-1" in done.stderr
    new = RunDir(tmp_path / "runs" / "run-2")
    assert new.info()["retrain"] == plan
    assert new.info()["agents"][0]["init"]["from"] == "run-1/TINY"
    assert new.info()["data"]["TINY"]["recipe"] == old.info()["data"]["TINY"]["recipe"]
    scratch = invoke("retrain", "run-1", "--scratch", "--no-aim", "--set", "ppo.total_timesteps=128")
    assert scratch.exit_code == 0, scratch.stderr
    info = RunDir(tmp_path / "runs" / "run-3").info()
    assert "init" not in info["agents"][0]
    assert info["agents"][0]["total_timesteps"] == 128
    assert info["data"]["TINY"]["recipe"] != old.info()["data"]["TINY"]["recipe"]


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["ppo_stacked", "ppo_shared"])
def test_days_move_by_the_days_that_passed_and_all_agents_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer: str
) -> None:
    old = train(tmp_path, monkeypatch, trainer=trainer, split=DAYS, symbols=("ONE", "TWO"))
    write_bars(tmp_path, "ONE", 960, 1)
    write_bars(tmp_path, "TWO", 940, 2)
    done = invoke("retrain", "run-1", "--no-aim")
    assert done.exit_code == 0, done.stderr
    new = RunDir(tmp_path / "runs" / "run-2").info()
    assert new["retrain"]["days_passed"] == 56  # of TWO, which has fewer new bars
    assert new["spec"]["data"]["split"]["test"] == "2012-11-24..2013-08-09"
    assert [agent["init"]["from"] for agent in new["agents"]] == ["run-1/ONE", "run-1/TWO"]
    assert {agent["init"]["checkpoint"] == "last" for agent in new["agents"]} == {trainer == "ppo_shared"}
    assert new["data"]["ONE"]["recipe"] == old.info()["data"]["ONE"]["recipe"]


@pytest.mark.slow
def test_looks_at_the_old_test_split_count_for_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = train(tmp_path, monkeypatch)
    for number in (1, 2):
        old.append_event("final_evaluation", "TINY", 256, look=number)
    write_bars(tmp_path, "TINY", 960)
    done = invoke("retrain", "run-1", "--no-aim")
    assert "which the new one shares in part, are carried over: TINY 2" in done.stderr
    looks = RunDir(tmp_path / "runs" / "run-2").read_events("final_evaluation", "TINY")
    assert [(event["look"], event["carried_from"]) for event in looks] == [(1, "run-1"), (2, "run-1")]
    write_bars(tmp_path, "TINY", 1_980)
    assert plan_retraining("run-1").looks == {"TINY": 0}  # no bar is common to both test splits
    notes = " ".join(plan_retraining("run-1").notes())
    assert "2012-06-04..2012-09-04 was validation; 2012-12-10..2013-06-14 was test" in notes


@pytest.mark.slow
def test_a_test_split_of_bars_that_it_was_trained_on_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path, monkeypatch)
    write_bars(tmp_path, "TINY", 901)
    earlier: dict[str, Any] = {"data.split": {"train": 0.4, "validation": 0.2, "test": 0.4}}
    with pytest.raises(InputError, match=r"the new test split of TINY begins on 2012-01-30, and run-1 was trained"):
        plan_retraining("run-1", overrides=earlier)
    words = ["--set=data.split={train=0.4, validation=0.2, test=0.4}", "--set=init.from=run-1"]
    refused = invoke("run", "tiny.toml", "--no-aim", *words)
    assert refused.exit_code == 2
    assert "data.split.test: begins on 2012-01-30" in refused.stderr


@pytest.mark.slow
def test_an_extended_run_and_one_of_another_folder_are_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path, monkeypatch)
    assert invoke("resume", "run-1", "--total-timesteps", "384", "--no-aim").exit_code == 0
    write_bars(tmp_path, "TINY", 930)
    monkeypatch.chdir(tmp_path.parent)
    folder = tmp_path / "runs"
    done = invoke("retrain", str(folder / "run-1"), "--no-aim", "--runs", str(tmp_path / "other"))
    assert done.exit_code == 0, done.stderr
    info = RunDir(tmp_path / "other" / "run-1").info()
    assert info["agents"][0]["total_timesteps"] == 256  # the spec's, without the extension
    assert info["agents"][0]["init"]["lineage"] == ["run-1/TINY"]
