"""`p3kit paper` with trained agents: live equals backtest, day by day, from the shell and from Python."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import p3kit
from p3kit.env import TradingEnv
from p3kit.market import Bars, load_market
from p3kit.metrics import ACTIONS
from p3kit.spec import shipped_trainers
from tests.command import invoke
from tests.market.made import frame_of, random_bars, write_csv
from tests.policy.test_predict import SPEC, train

BARS = random_bars(700, 4, symbol="AAA")


@dataclass(frozen=True)
class Trained:
    """A tiny run, and what its last weights do in the environment's continuous account on the validation split."""

    run: Path
    bars: Bars
    first: int
    last: int
    equities: list[float]
    actions: list[str]

    def file(self, folder: Path, until: int) -> Path:
        """A file with the bars up to a row."""
        folder.mkdir(exist_ok=True)
        return write_csv(frame_of(self.bars.part(0, until + 1)), folder, "AAA")

    @property
    def start(self) -> str:
        return str(self.bars.timestamps[self.first])[:10]


def trained(folder: Path, trainer: str = "ppo", bars: Bars = BARS) -> Trained:
    run = train(folder, trainer, bars=bars)
    policy = p3kit.load_policy(str(run), "last")
    market = load_market(policy.spec, ["AAA"], p3kit.open_run(str(run)).directory.paths_from())
    env = TradingEnv(market, policy.spec, symbols=["AAA"], split="validation", num_envs=1, continuous=True)
    first, end = market["AAA"].splits["validation"]
    step = env.reset_windows(*(torch.tensor([number]) for number in (0, first, end - 1)))
    equities, actions = [float(step.equity[0])], []
    while bool(step.alive[0]):
        action = int(policy.act(env.observe(step.index, step.account)[0].numpy(), step.mask[0].numpy()))
        step = env.step(torch.tensor([action]))
        equities.append(float(step.equity[0]))
        actions.append(ACTIONS[action])
    return Trained(run, bars, first, end - 1, equities, actions)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(tmp_path_factory.mktemp("run"))


def compare(agent: Trained, account: p3kit.PaperAccount) -> None:
    points = account.book.points
    assert [point.equity for point in points] == agent.equities
    assert [point.decision["action"] for point in points[:-1]] == agent.actions


def test_the_account_has_the_bits_of_the_environment(agent: Trained, tmp_path: Path) -> None:
    file = agent.file(tmp_path, agent.last)
    (account,) = p3kit.trade_on_paper(str(agent.run), tmp_path / "paper", file, p3kit.PaperOptions("last", agent.start))
    compare(agent, account)
    (read,) = p3kit.paper_accounts(tmp_path / "paper")
    compare(agent, read)
    assert read.status == account.status == json.loads((account.path / "status.json").read_text())
    (backtest,) = p3kit.evaluate_run(str(agent.run), checkpoint="last")
    assert account.status["total_return"] == pytest.approx(backtest.metrics["eval/total_return"], rel=1e-9)
    hold = backtest.result["baselines"]["buy_and_hold"]["total_return"]
    assert account.status["buy_and_hold"]["total_return"] == pytest.approx(hold, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", shipped_trainers())
@pytest.mark.parametrize("ohlcv", [True, False])
def test_every_trainer_trades_live_as_in_the_backtest(tmp_path: Path, trainer: str, ohlcv: bool) -> None:
    agent = trained(tmp_path / "run", trainer, random_bars(700, 5, ohlcv=ohlcv, symbol="AAA"))
    for until in np.linspace(agent.first, agent.last, 6).astype(int).tolist():  # as if called now and then
        file = agent.file(tmp_path, until)
        (account,) = p3kit.trade_on_paper(
            str(agent.run), tmp_path / "paper", file, p3kit.PaperOptions("last", agent.start)
        )
    compare(agent, account)


@pytest.mark.slow
def test_the_agents_of_a_run_keep_an_account_each(tmp_path: Path) -> None:
    """From a folder, from a path with {symbol} and from one file with both symbols: the same journals."""
    names = ("AAA", "BBB")
    frames = {name: frame_of(random_bars(700, seed, symbol=name)) for seed, name in enumerate(names)}
    (tmp_path / "bars").mkdir()
    for name, frame in frames.items():
        write_csv(frame, tmp_path / "bars", name)
    both = pd.concat([frame.assign(symbol=name) for name, frame in frames.items()]).sort_values("timestamp")
    both.to_csv(tmp_path / "both.csv", index=False)
    spec = tmp_path / "two.toml"
    values = {"TRAINER": "ppo_stacked", "NORMALIZE": "train", "PRECISION": "fp32", '["AAA"]': '["AAA", "BBB"]'}
    text = SPEC
    for word, value in values.items():
        text = text.replace(word, value)
    spec.write_text(text + "group = 2\n")
    (run,) = p3kit.run_spec(spec, 1, tmp_path / "runs", progress=False)
    options = p3kit.PaperOptions("last", "2016-06-01")
    journals = []
    for number, bars in enumerate([tmp_path / "bars", f"{tmp_path}/bars/{{symbol}}.csv", tmp_path / "both.csv"]):
        accounts = p3kit.trade_on_paper(run, tmp_path / f"paper-{number}", bars, options)
        assert [account.status["symbol"] for account in accounts] == list(names)
        journals.append([(account.path / "journal.jsonl").read_bytes() for account in accounts])
    assert journals[0] == journals[1] == journals[2]
    (one,) = p3kit.trade_on_paper(f"{run.path}/BBB", tmp_path / "paper-0", tmp_path / "bars", options)
    assert one.new_bars == 0


def paper(*words: object) -> tuple[int, str, str]:
    result = invoke("paper", *words)
    return result.exit_code, result.stdout, result.stderr


def test_day_by_day_from_the_command_line(agent: Trained, tmp_path: Path) -> None:
    words = [agent.run, "--account", tmp_path / "paper", "--checkpoint", "last", "--bars"]
    code, out, _ = paper(*words, agent.file(tmp_path / "a", agent.first), "--json")
    assert code == 0
    assert json.loads(out)[0]["bars"] == 0
    for day in range(agent.first + 1, agent.first + 4):
        code, out, _ = paper(*words, agent.file(tmp_path / "a", day))
        assert code == 0
    files = {path: path.read_bytes() for path in (tmp_path / "paper").rglob("*") if path.is_file()}
    code, out, err = paper(*words, tmp_path / "a", "--json")
    assert (code, err) == (0, "")
    (status,) = json.loads(out)
    assert (status["new_bars"], status["bars"], status["made_later"]) == (0, 3, None)
    assert status["equity"] == agent.equities[3]
    assert {path: path.read_bytes() for path in (tmp_path / "paper").rglob("*") if path.is_file()} == files
    code, out, _ = paper("status", tmp_path / "paper")
    assert code == 0
    assert f"since {agent.start} (3 bars), buy-and-hold" in out
    assert "3 bars are fewer than 20" in out
    assert "3 of 3 bars lie before the end of the validation split" in out


def test_exit_codes_follow_predict(agent: Trained, tmp_path: Path) -> None:
    account = ["--account", tmp_path / "paper", "--checkpoint", "last", "--bars"]
    few = write_csv(frame_of(agent.bars.part(0, 40)), tmp_path, "AAA")
    code, _, err = paper(agent.run, *account, few)
    assert (code, "72 are needed" in err) == (3, True)
    assert paper(agent.run, *account, agent.file(tmp_path, agent.first + 5))[0] == 0
    code, _, err = paper(agent.run, *account, agent.file(tmp_path, agent.first))
    assert (code, "an older file" in err) == (3, True)
    assert paper(agent.run, *account, tmp_path / "none.csv")[0] == 2
    assert paper("status", tmp_path / "nothing")[0] == 2
    code, _, err = paper(agent.run, *account, agent.file(tmp_path / "b", agent.last).rename(tmp_path / "AAPL.csv"))
    assert (code, "has the name of another symbol; the agent trades AAA" in err) == (2, True)
    frame = frame_of(agent.bars.part(0, agent.first + 12))
    frame.loc[agent.first + 6 :, ["open", "high", "low", "close"]] *= 3.0
    file = write_csv(frame, tmp_path, "AAA")
    code, out, err = paper(agent.run, *account, file, "--strict")
    assert code == 4
    assert "warning: AAA" in err
    assert "return_1" in err
    assert "AAA" in out, "the bars are taken in all the same"
    assert paper(agent.run, *account, file, "--strict")[0] == 0, "nothing is new"


def test_a_picture_is_drawn(agent: Trained, tmp_path: Path) -> None:
    file = agent.file(tmp_path, agent.last)
    p3kit.trade_on_paper(str(agent.run), tmp_path / "paper", file, p3kit.PaperOptions("last", agent.start))
    code, out, err = paper("status", tmp_path / "paper", "--picture")
    assert code == 0
    assert (tmp_path / "paper" / "AAA" / "account.png").read_bytes().startswith(b"\x89PNG")
    assert "account.png" in err
    assert "has no interval: too few of its bars have a return" in out
