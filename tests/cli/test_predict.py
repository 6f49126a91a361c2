"""`p3kit predict`: tables, JSON, exit codes of a cron job."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import Result

import p3kit
from tests.command import invoke
from tests.market.made import frame_of, random_bars

SPEC = """
name = "two"
trainer = "ppo_stacked"
symbols = ["AAA", "BBB"]
[data]
source = "csv"
path = "{symbol}.csv"
[env]
num_envs = 4
window = 8
episode_bars = 60
[ppo]
total_timesteps = 600
n_steps = 75
n_epochs = 2
hidden = [8]
[evaluation]
every = 300
[checkpoints]
every = 300
[compute]
device = "cpu"
group = 2
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with bars of two symbols and run-1, which has an agent for each; other files beside them."""
    home = tmp_path_factory.mktemp("home")
    bars = {symbol: frame_of(random_bars(700, seed, symbol=symbol)) for seed, symbol in enumerate(("AAA", "BBB"))}
    for symbol, frame in bars.items():
        frame.to_csv(home / f"{symbol}.csv", index=False)
    (home / "two.toml").write_text(SPEC)
    (run,) = p3kit.run_spec(home / "two.toml", 1, home / "runs", progress=False)
    assert (run.state, run.agents) == ("done", ["AAA", "BBB"]), run.message
    long = pd.concat([frame.assign(symbol=symbol) for symbol, frame in bars.items()])
    long.to_csv(home / "long.csv", index=False)
    (home / "folder").mkdir()
    bars["AAA"].to_csv(home / "folder" / "AAA.csv", index=False)
    bars["AAA"][:70].to_csv(home / "few.csv", index=False)
    strange = bars["AAA"].assign(close=np.r_[bars["AAA"]["close"][:-1], bars["AAA"]["close"].iloc[-1] * 3])
    strange["high"] = strange[["high", "close"]].max(axis=1)
    strange.to_csv(home / "strange.csv", index=False)
    return home


@pytest.fixture
def predict(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(home)

    def call(line: str, code: int = 0) -> Result:
        result = invoke("predict", *line.split(), "--checkpoint", "last")
        assert result.exit_code == code, result.output
        return result

    return call


def decisions(result: Result) -> dict[str, str]:
    return {one["agent"]: one["action"] for one in json.loads(result.stdout)}


def test_one_agent_prints_action_order_and_reasons(predict) -> None:
    result = predict("run-1/AAA --bars AAA.csv")
    for text in (
        "run-1/AAA: ",
        "order    ",
        "account  flat, 100,000.00 cash",
        "last.pt",
        "there is no position",
        "novelty",
    ):
        assert text in result.stdout
    assert "the last bar is" in result.stderr, "old bars are noted"


def test_a_file_a_folder_a_template_and_python_decide_alike(predict, home: Path) -> None:
    expected = decisions(predict("run-1 --bars {symbol}.csv --json"))
    assert list(expected) == ["run-1/AAA", "run-1/BBB"]
    assert decisions(predict("run-1 --bars long.csv --json")) == expected
    own = {one.agent: one.decision for one in p3kit.predict_run("run-1", home / "long.csv", None, "last")}
    assert {name: decision.action for name, decision in own.items()} == expected
    frame = pd.read_csv("BBB.csv")
    assert p3kit.load_policy("run-1/BBB", "last").predict(frame) == own["run-1/BBB"]
    assert predict("run-1 --bars {symbol}.csv").stdout.count("run-1/") == 2


def test_agents_without_bars_are_named_and_the_others_decide(predict) -> None:
    result = predict("run-1 --bars folder --json", 2)
    assert list(decisions(result)) == ["run-1/AAA"]
    assert "has no bars of BBB; add its bars" in result.stderr


def test_the_name_of_a_file_stands_for_its_symbol(predict) -> None:
    result = predict("run-1 --bars BBB.csv --json")
    assert list(decisions(result)) == ["run-1/BBB"]
    assert "note: --bars BBB.csv: has no bars of AAA" in result.stderr


def test_a_file_without_symbols_needs_the_name_of_an_agent(predict) -> None:
    result = predict("run-1 --bars few.csv", 2)
    assert "names no symbol, and the run has 2 agents (AAA, BBB); name one, for example run-1/AAA" in result.stderr
    assert "has no bars of" not in result.stderr


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("run-1/AAA --bars few.csv", 3, "has 70 bars; a decision needs 72"),
        ("run-1/AAA --bars AAA.csv --max-age 4d", 3, "--max-age allows 4 days; append the newest bars"),
        ("run-1/AAA --bars AAA.csv --max-age 4", 2, "expected a number and m, h, d or w"),
        ("run-1 --bars nope.csv", 2, "no such file or folder"),
        ("run-1/AAA --bars nope.csv", 2, "no such file or folder"),
        ("run-1/AAA --bars BBB/{symbol}.csv", 2, "no such file"),
        ("run-9/AAA --bars AAA.csv", 2, "did you mean"),
        ("run-1/AAA --bars long.csv --account no.json", 2, "no.json: cannot be read as JSON"),
        (
            "run-1 --bars long.csv --account flat.json",
            2,
            "is one account, and 2 agents decide; write accounts by agent",
        ),
        ("run-1 --bars long.csv --account lone.json", 2, "BBB: has no account; there are accounts of AAA"),
        ("run-1/AAA --bars strange.csv", 0, "the inputs are unlike the training bars"),
        ("run-1/AAA --bars strange.csv --strict", 4, "the inputs are unlike the training bars"),
        ("run-1/AAA --bars strange.csv --strict --max-age 4d", 3, "the inputs are unlike the training bars"),
        ("run-1/AAA --bars AAA.csv --strict", 0, ""),
    ],
)
def test_exit_codes_and_messages(predict, home: Path, line: str, code: int, message: str) -> None:
    (home / "flat.json").write_text('{"cash": 5000}')
    (home / "lone.json").write_text('{"AAA": {"cash": 5000}}')
    result = predict(line, code)
    assert message in result.stderr


def test_a_checkpoint_file_stands_for_its_run(predict, home: Path) -> None:
    expected = predict("run-1/BBB --bars BBB.csv --json")
    alone = predict("runs/run-1/checkpoints/last.pt/BBB --bars BBB.csv --json")
    one, other = (json.loads(result.stdout)[0] for result in (expected, alone))
    assert {**one, "agent": ""} == {**other, "agent": ""}
    (home / "lone.json").write_text('{"BBB": {"cash": 5000}}')
    again = predict("runs/run-1/checkpoints/last.pt/BBB --bars BBB.csv --account lone.json --json")
    assert json.loads(again.stdout)[0]["account"]["cash"] == 5000


def test_accounts_by_agent(predict, home: Path) -> None:
    price = float(pd.read_csv(home / "AAA.csv")["close"].iloc[-1])
    accounts = {"AAA": {"cash": 10, "shares": 50, "entry_price": price}, "BBB": {"cash": 7000}}
    (home / "accounts.json").write_text(json.dumps(accounts))
    first, second = json.loads(predict("run-1 --bars long.csv --account accounts.json --json").stdout)
    assert (first["account"]["shares"], second["account"]["cash"]) == (50, 7000)
    assert first["valid"]["BUY_SMALL"] == "a position is open"
    assert second["valid"]["SELL_ALL"] == "there is no position"
