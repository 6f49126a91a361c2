"""Live equals backtest, bit for bit: the validation split bar by bar through paper and predict, and through evaluate.

A run is trained on a file of bars. `p3kit paper` takes the bars of the validation split in, one call a day. At each
close, `policy.predict` gets the account of the paper journal. Actions, fills and equity are those of `p3kit evaluate`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import p3kit
from p3kit.api.paper_account import PaperOptions
from p3kit.market import Bars, SymbolData, load_market, synthetic_market
from p3kit.market.sample import sample_bars
from p3kit.metrics import ACTIONS
from p3kit.runtime.evaluation import Evaluator
from p3kit.runtime.walks import Walk
from p3kit.spec import load_spec, resolve_spec, shipped_trainers
from tests.command import invoke
from tests.market.made import frame_of

SPEC = """
name = "live"
trainer = "{trainer}"
symbols = ["AAPL"]
[data]
source = "csv"
path = "bars/{{symbol}}.csv"
split = {{ train = 0.6, validation = 0.3, test = 0.1 }}
[env]
num_envs = 4
window = 8
episode_bars = 30
{rules}
[ppo]
total_timesteps = 600
learning_rate = 0.01
n_steps = 75
n_epochs = 2
[evaluation]
every = 300
action = "{action}"
[checkpoints]
every = 300
[compute]
device = "cpu"
"""
RULES = {
    "stop, target, limit": "stop = 0.03\ntarget = 0.05\nmax_hold = 12",
    "no limits": "",
    "close, stop": 'stop = 0.02\nfill = "close"\nmax_adds = 3',
    "ruin": "ruin = 0.97\nmax_hold = 5",
}


def bars_of(source: str, count: int) -> Bars:
    """The newest bars of the sample, which has closes alone, or synthetic ones with open, high and low, a bar a day."""
    if source == "sample":
        bars = sample_bars("AAPL")
        return bars.part(len(bars) - count, len(bars))
    tables = {"name": "t", "symbols": ["AAPL"], "data": {"source": "synthetic", "synthetic": {"bars": 2_000}}}
    bars = synthetic_market(resolve_spec(tables, "t"), "AAPL").bars.part(0, count)
    return replace(bars, timestamps=pd.bdate_range("2015-01-01", periods=count).to_numpy())


@dataclass(frozen=True)
class Trained:
    folder: Path
    file: Path
    frame: pd.DataFrame
    data: SymbolData

    @property
    def reference(self) -> str:
        return str(self.folder / "runs" / "run-1")

    def until(self, bar: int) -> Path:
        """The file with the bars up to one."""
        path = self.folder / "today.csv"
        self.frame[: bar + 1].to_csv(path, index=False)
        return path


def train(folder: Path, trainer: str, source: str, rules: str, count: int, action: str = "greedy") -> Trained:
    (folder / "bars").mkdir()
    frame = frame_of(bars_of(source, count))
    frame.to_csv(folder / "bars" / "AAPL.csv", index=False)
    spec = folder / "live.toml"
    spec.write_text(SPEC.format(trainer=trainer, rules=RULES[rules], action=action))
    (run,) = p3kit.run_spec(spec, 1, folder / "runs", progress=False)
    assert run.state == "done", run.message
    market = load_market(load_spec(spec).spec, ["AAPL"])
    return Trained(folder, folder / "bars" / "AAPL.csv", frame, market["AAPL"])


def walk_of(trained: Trained, policy: p3kit.Policy) -> Walk:
    """The policy's path over the validation split, as evaluations walk it."""

    def log_probs(observation: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(policy.logits(observation.numpy(), mask.numpy()))

    return Evaluator(policy.spec, trained.data, "AAPL", 1, torch.device("cpu")).walk("validation", log_probs)


def compare(trained: Trained, days_alone: int, every: int) -> dict[str, Any]:
    """Compare the three with evaluate. The first days are one call each; every so many days `p3kit predict` decides.

    Returns how often each action was taken, and the fills.
    """
    policy = p3kit.load_policy(trained.reference, "last")
    first, last = trained.data.splits["validation"]
    (backtest,) = p3kit.evaluate_run(trained.reference, checkpoint="last")
    walk = walk_of(trained, policy)
    assert backtest.result["curves"]["equity"] == walk.equity[1:].tolist()  # the walk is that of p3kit evaluate

    options = PaperOptions("last", str(trained.data.timestamps[first])[:10])
    account = trained.folder / "paper"
    for bar in [*range(first, first + days_alone), last - 1]:
        (paper,) = p3kit.trade_on_paper(trained.reference, account, trained.until(bar), options)
    points = paper.book.points
    assert len(points) == last - first
    equity = np.array([point.equity for point in points])
    returns = equity[1:] / equity[:-1] - 1
    assert (returns == walk.bar_return).all()
    assert [point.exposure for point in points[1:]] == walk.exposure.tolist()
    capital = policy.spec.env.initial_capital
    assert [point.cost / capital for point in points[1:]] == walk.cost.tolist()
    hold = np.array([point.hold_equity for point in points])
    own_hold = Evaluator(policy.spec, trained.data, "AAPL", 1, torch.device("cpu")).rules["buy_and_hold"][0]
    assert (hold[1:] / hold[:-1] - 1 == own_hold.bar_return).all()

    ruined = [bool(point.decision.get("ruined")) for point in points]
    actions = [point.decision["action"] for point in points[:-1]]
    assert actions == [ACTIONS[number] for number in walk.action]
    check_predictions(trained, policy, account, walk, every)
    fills = [fill for point in points for fill in point.fills]
    return {"actions": set(actions), "fills": [fill["reason"] for fill in fills], "ruined": any(ruined)}


def check_predictions(trained: Trained, policy: p3kit.Policy, account: Path, walk: Walk, every: int) -> None:
    """`policy.predict` at each close, and `p3kit predict` at every so many, from the accounts of the journal."""
    rows = [json.loads(line) for line in next(account.rglob("journal.jsonl")).read_text().splitlines()]
    rows = [row for row in rows if row["kind"] == "bar"]
    last_action = "HOLD"
    for row, bar, action in zip(rows, walk.bar, walk.action, strict=False):
        if row["ruined"][0]:
            break
        own = account_of(row["account"], last_action, policy.spec.env.initial_capital)
        decision = policy.predict(trained.frame[: bar + 1], own)
        assert decision.action == ACTIONS[action]
        assert decision.time == pd.Timestamp(trained.data.timestamps[bar])
        if (bar - walk.bar[0]) % every == 0:
            assert predicted_by_command(trained, int(bar), own) == (decision.action, decision.probabilities)
        last_action = decision.action


def account_of(numbers: dict[str, float], last_action: str, capital: float) -> p3kit.Account:
    """The account of a row of the journal, through JSON as a user would keep it."""
    names = ["cash", "shares", "max_drawdown", "peak"]
    if numbers["shares"] > 0:
        names += ["paid", "entry_value", "entry_cash", "entry_size", "bars_held", "adds"]
    values = {name: numbers[name] for name in names} | {"last_action": last_action, "start_capital": capital}
    for name in ("bars_held", "adds"):
        values[name] = int(numbers[name])
    return p3kit.Account.from_dict(json.loads(json.dumps(values)))


def predicted_by_command(trained: Trained, bar: int, account: p3kit.Account) -> tuple[str, dict[str, float]]:
    file = trained.folder / "account.json"
    file.write_text(json.dumps(account.to_dict()))
    command = ["predict", trained.reference, "--bars", str(trained.until(bar)), "--account", str(file)]
    result = invoke(*command, "--checkpoint", "last", "--json")
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)
    return found["action"], found["probabilities"]


SAMPLE = pytest.param("sample", "stop, target, limit", marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "action", ["sharpened", *(pytest.param(rule, marks=pytest.mark.slow) for rule in ("greedy", "sampled"))]
)
@pytest.mark.parametrize(("source", "rules"), [("synthetic", "stop, target, limit"), SAMPLE])
def test_paper_and_predict_are_the_backtest(tmp_path: Path, source: str, rules: str, action: str) -> None:
    found = compare(train(tmp_path, "ppo", source, rules, 600, action), days_alone=3, every=30)
    assert len(found["actions"]) > 1
    assert len(found["fills"]) > 3


@pytest.mark.slow
@pytest.mark.parametrize("action", ["greedy", "sharpened", "sampled"])
@pytest.mark.parametrize("rules", list(RULES))
@pytest.mark.parametrize("source", ["synthetic", "sample"])
@pytest.mark.parametrize("trainer", sorted(shipped_trainers()))
def test_so_they_are_for_every_trainer_and_rule(
    tmp_path: Path, trainer: str, source: str, rules: str, action: str
) -> None:
    compare(train(tmp_path, trainer, source, rules, 1_000, action), days_alone=40, every=20)
