"""`p3kit evaluate` after the files have changed: appended bars, rescaled prices, corrected bars, and later days."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import Result

import p3kit
from p3kit.rundir import RunDir
from tests.cli.test_evaluate import CSV
from tests.command import invoke
from tests.trainers.conftest import load_trainer
from tests.trainers.test_ppo_runs import plan_run, train
from tests.trainers.tiny_runs import go_on

SPEC = CSV.replace("[ppo]", "stop = 0.06\nmax_hold = 15\n[ppo]")
BARS, MORE = 900, 120


def all_bars() -> pd.DataFrame:
    """Daily bars with two decimals and a volume; the run has the first 900 of them."""
    rng = np.random.default_rng(0)
    close = 100 * np.exp(np.cumsum(rng.normal(0.0002, 0.012, BARS + MORE)))
    opened = close * np.exp(rng.normal(0, 0.004, len(close)))
    high, low = np.maximum(close, opened) * 1.004, np.minimum(close, opened) * 0.996
    prices = pd.DataFrame({"open": opened, "high": high, "low": low, "close": close}).round(2)
    prices["high"], prices["low"] = prices.max(axis=1), prices.min(axis=1)
    days = pd.bdate_range("2018-01-01", periods=len(close)).strftime("%Y-%m-%d")
    return prices.assign(volume=rng.integers(10_000, 90_000, len(close))).set_index(days.rename("date"))


TABLE = all_bars()
LAST = str(TABLE.index[BARS - 1])
NEW = str(TABLE.index[BARS])


def write(folder: Path, table: pd.DataFrame) -> Path:
    path = folder / "MINE.csv"
    table.to_csv(path)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run and its file."""
    folder = tmp_path_factory.mktemp("outside")
    write(folder, TABLE[:BARS])
    go_on(load_trainer("ppo"), plan_run(folder, text=SPEC.format(folder=folder)))
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of the runs; the file of the spec is written again for each test."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    write(trained, TABLE[:BARS])
    return tmp_path


def call(folder: Path, *arguments: str) -> Result:
    return invoke("evaluate", "1", "--checkpoint", "last", *arguments, "--runs", f"{folder}/runs")


def result_of(folder: Path, *arguments: str) -> dict:
    result = call(folder, *arguments, "--json")
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)
    return found


@pytest.mark.slow
def test_appended_bars_change_nothing(folder: Path, trained: Path) -> None:
    before = result_of(folder)
    write(trained, TABLE)
    after = result_of(folder)
    assert after["metrics"] == before["metrics"]
    assert after["baselines"] == before["baselines"]
    assert after["notes"] == before["notes"]


@pytest.mark.slow
def test_appended_bars_keep_the_training_bars(folder: Path, trained: Path) -> None:
    """A resumed run trains on the same bits."""
    write(trained, TABLE)
    run = RunDir.open(folder / "runs" / "run-1")
    shutil.rmtree(run.path / "checkpoints")
    (run.path / "checkpoints").mkdir()
    again = train(run)
    weights = [event["metrics"] for event in again.read_events("evaluation")]
    half = len(weights) // 2
    assert weights[half:] == weights[:half]


@pytest.mark.slow
def test_prices_rescaled_at_two_dividends_are_accepted_with_factor_and_days(folder: Path, trained: Path) -> None:
    before = result_of(folder)
    table = TABLE.copy()
    prices = ["open", "high", "low", "close"]
    table.iloc[:200, :4] = (table.iloc[:200][prices] * 0.9702).round(4)
    table.iloc[200:600, :4] = (table.iloc[200:600][prices] * 0.985).round(4)
    write(trained, table)
    after = result_of(folder)
    notes = [note for note in after["notes"] if "those of the run" in note]
    assert [note.split(" as after")[0] for note in notes] == [
        f"prices of {TABLE.index[0]} to {TABLE.index[199]} are 0.9702 times those of the run,",
        f"prices of {TABLE.index[200]} to {TABLE.index[599]} are 0.985 times those of the run,",
    ]
    assert after["metrics"]["eval/buy_and_hold_sharpe"] == pytest.approx(before["metrics"]["eval/buy_and_hold_sharpe"])
    assert "0.985 times those of the run" in call(folder).output


def test_a_changed_bar_is_refused_with_its_day(folder: Path, trained: Path) -> None:
    table = TABLE.copy()
    table.iloc[640, :4] *= 1.004
    write(trained, table)
    result = call(folder)
    assert result.exit_code != 0
    assert f"the first bar that differs is that of {TABLE.index[640]}" in " ".join(result.output.split())


def test_later_days_are_outside_and_beside_every_baseline(folder: Path, trained: Path) -> None:
    write(trained, TABLE)
    found = result_of(folder, "--from", NEW)
    assert found["split"] == "outside"
    assert found["overlaps"] == {}
    assert set(found["baselines"]) == {"hold", "buy_and_hold", "moving_average", "random"}
    assert found["judged"] is not None
    assert "final_looks" not in found
    words = call(folder, "--from", NEW).output
    assert "outside the run's splits" in words
    assert f"{MORE - 1} bars, {TABLE.index[BARS + 1]} to {TABLE.index[-1]}" in words
    assert not RunDir.open(folder / "runs" / "run-1").read_events("final_evaluation")
    fewer = result_of(folder, "--from", NEW, "--to", str(TABLE.index[-11]))
    assert fewer["metrics"]["eval/total_return"] != found["metrics"]["eval/total_return"]


@pytest.mark.slow
def test_the_days_of_a_split_give_what_the_split_gives(folder: Path, trained: Path) -> None:
    write(trained, TABLE)
    first, last = RunDir.open(folder / "runs" / "run-1").info()["data"]["MINE"]["split_days"]["validation"]
    whole, days = result_of(folder), result_of(folder, "--from", first[:10], "--to", last[:10])
    for key in ("metrics", "baselines", "regimes", "fixed_rule", "signal_rule", "constant", "sharpe_interval"):
        assert days[key] == whole[key], key
    assert list(days["overlaps"]) == ["validation"]
    assert days["judged"] is None


@pytest.mark.slow
def test_a_file_of_new_bars_alone_needs_neither_the_old_file_nor_its_bars(folder: Path, trained: Path) -> None:
    new = folder / "new.csv"
    TABLE[BARS - 120 :].to_csv(new)
    (trained / "MINE.csv").unlink()
    alone = result_of(folder, "--bars", str(new), "--from", NEW)
    whole = folder / "whole.csv"
    TABLE.to_csv(whole)
    beside = result_of(folder, "--bars", str(whole))  # the default begins after the run's last bar
    for key in ("baselines", "fixed_rule", "equal_exposure", "regimes"):
        assert alone[key] == beside[key], key
    assert alone["metrics"]["eval/total_return"] == beside["metrics"]["eval/total_return"]
    assert "eval/train_sharpe_ratio" in beside["metrics"]
    assert "eval/train_sharpe_ratio" not in alone["metrics"]


@pytest.mark.slow
def test_later_days_work_whatever_has_happened_to_older_bars(folder: Path) -> None:
    table = TABLE.copy()
    table.iloc[300, :4] *= 1.01
    file = folder / "corrected.csv"
    table.to_csv(file)
    assert result_of(folder, "--bars", str(file), "--from", NEW)["overlaps"] == {}
    refused = call(folder, "--bars", str(file), "--from", str(TABLE.index[700]))
    assert f"the first bar that differs is that of {TABLE.index[300]}" in " ".join(refused.output.split())


@pytest.mark.slow
def test_days_of_the_test_split_are_counted_as_a_look(folder: Path, trained: Path) -> None:
    write(trained, TABLE)
    run = RunDir.open(folder / "runs" / "run-1")
    _, last = run.info()["data"]["MINE"]["split_days"]["test"]
    found = result_of(folder, "--from", last[:10])
    assert found["overlaps"] == {"test": 1}
    assert found["final_looks"] == {"agent": 1, "experiment": 1}
    words = call(folder, "--from", last[:10]).output
    assert "1 of these bars are in the test split of the run" in words
    assert "use 2 of the test split by this agent" in words
    assert [event["look"] for event in run.read_events("final_evaluation")] == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--from", "soon"], "is no day"),
        (["--from", NEW, "--final"], "--final: was given beside --bars, --from or --to"),
        (["--to", NEW, "--split", "train"], "--split train: was given beside"),
        ([], None),
    ],
)
def test_wrong_days_and_options(folder: Path, arguments: list[str], words: str | None) -> None:
    result = call(folder, *arguments)
    assert (result.exit_code == 2) == (words is not None), result.output
    assert (words or "") in " ".join(result.output.split())


@pytest.mark.slow
def test_the_same_from_python(folder: Path) -> None:
    file = folder / "new.csv"
    TABLE.to_csv(file)
    runs = folder / "runs"
    (backtest,) = p3kit.evaluate_run("1", checkpoint="last", runs_root=runs, bars=file, first_day=NEW)
    assert backtest.result["split"] == "outside"
    assert backtest.save_picture().stat().st_size > 10_000
    with pytest.raises(p3kit.P3kitError, match="has 0 bars from the last bar of the run to the end"):
        p3kit.evaluate_run("1", checkpoint="last", runs_root=runs, bars=write(folder, TABLE[:BARS]))
    TABLE[BARS:].to_csv(file)
    with pytest.raises(p3kit.P3kitError, match="has 0 bars before the first one of the backtest"):
        p3kit.evaluate_run("1", checkpoint="last", runs_root=runs, bars=file, first_day=NEW)
