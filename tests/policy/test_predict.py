"""`policy.predict`: the decision of the continuous account in the environment, from bars and an account alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import p3kit
from p3kit.env import TradingEnv
from p3kit.errors import P3kitError
from p3kit.market import LOOKBACK, Bars, load_market
from p3kit.market.files import read_bars
from p3kit.metrics import ACTIONS
from p3kit.policy.live_account import from_tensors
from p3kit.policy.live_decision import order_of
from p3kit.policy.observing import observe
from p3kit.spec import shipped_trainers
from tests.market.made import frame_of, random_bars, write_csv

SPEC = """
name = "tiny"
trainer = "TRAINER"
symbols = ["AAA"]
[data]
source = "csv"
path = "bars/{symbol}.csv"
[env]
num_envs = 4
window = 8
episode_bars = 60
stop = 0.03
target = 0.05
max_hold = 30
[observation]
normalize = "NORMALIZE"
[ppo]
total_timesteps = 600
n_steps = 75
n_epochs = 2
hidden = [8]
[evaluation]
every = 300
action = "ACTION"
[checkpoints]
every = 300
[compute]
device = "cpu"
precision = "PRECISION"
"""
BARS = random_bars(700, 4, symbol="AAA")


def train(
    folder: Path,
    trainer: str = "ppo",
    normalize: str = "train",
    bars: Bars = BARS,
    precision: str = "auto",
    action: str = "greedy",
) -> Path:
    """Train one tiny agent on a CSV file. Returns its run directory."""
    (folder / "bars").mkdir(parents=True)
    write_csv(frame_of(bars), folder / "bars", "AAA")
    spec = folder / "tiny.toml"
    text = SPEC if "    hidden: " in shipped_trainers()[trainer].read_text() else SPEC.replace("hidden = [8]\n", "")
    text = text.replace("TRAINER", trainer).replace("NORMALIZE", normalize).replace("PRECISION", precision)
    text = text.replace("ACTION", action)
    spec.write_text(text)
    (run,) = p3kit.run_spec(spec, 1, folder / "runs", progress=False)
    assert run.state == "done", run.message
    return run.path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def policy(run: Path) -> p3kit.Policy:
    return p3kit.load_policy(str(run), "last")


def walk(policy: p3kit.Policy, run: Path) -> Iterator[tuple[int, TradingEnv, torch.Tensor]]:
    """A continuous account of the environment over the validation split, played by sampled actions."""
    folder = p3kit.open_run(str(run)).directory.paths_from()
    market = load_market(policy.spec, ["AAA"], folder)
    env = TradingEnv(market, policy.spec, symbols=["AAA"], split="validation", num_envs=1, continuous=True)
    first, last = market["AAA"].splits["validation"]
    symbol, begin, end = (torch.tensor([number]) for number in (0, first, last - 1))
    step = env.reset_windows(symbol, begin, end)
    generator = torch.Generator().manual_seed(7)
    action = torch.tensor([0])
    while bool(step.alive[0]):
        yield int(step.bar[0]), env, action
        noise = torch.rand(step.mask.shape, generator=generator)
        action = noise.masked_fill(~step.mask, -1).argmax(1)
        step = env.step(action)
        action = step.action


def compare_with_the_environment(policy: p3kit.Policy, run: Path) -> set[str]:
    """Compare each bar's observation, mask and action; returns the actions that were valid at some bar."""
    bars = read_bars("csv", str(run.parents[1] / "bars/{symbol}.csv"), "AAA")
    seen_actions: set[str] = set()
    capital = policy.spec.env.initial_capital
    for bar, env, action in walk(policy, run):
        standing = env.standing()
        account = from_tensors(env.accounts, int(action[0]), capital)
        past = bars.part(0, bar + 1)
        own = observe(past, account, policy.spec, policy.recipe)
        expected = env.observe(standing.index, standing.account)
        torch.testing.assert_close(own.observation, expected, rtol=0, atol=0)
        assert own.mask.tolist() == standing.mask.tolist()
        decision = policy.predict(past, account)
        assert decision.action == ACTIONS[int(policy.act(expected[0].numpy(), standing.mask[0].numpy()))]
        seen_actions |= {name for name, reason in decision.valid.items() if reason is None}
    return seen_actions


def test_it_sees_and_does_what_the_continuous_account_does(policy: p3kit.Policy, run: Path) -> None:
    assert compare_with_the_environment(policy, run) == set(ACTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("normalize", ["running", "none"])
@pytest.mark.parametrize("trainer", sorted(shipped_trainers()))
def test_so_does_every_trainer_under_every_normaliser(tmp_path: Path, trainer: str, normalize: str) -> None:
    run = train(tmp_path, trainer, normalize)
    assert compare_with_the_environment(p3kit.load_policy(str(run), "last"), run) == set(ACTIONS)


def test_a_data_frame_and_a_file_give_the_same_decision(policy: p3kit.Policy) -> None:
    column = frame_of(BARS)
    index = column.set_index("timestamp")
    rows = pd.concat([column.iloc[:0], column])[column["close"] > 0]  # row numbers instead of a row index
    capitals = index.rename(columns=str.title)
    zone = index.tz_localize("America/New_York")
    decisions = [policy.predict(bars) for bars in (BARS, column, index, rows, capitals, zone)]
    assert all(decision == decisions[0] for decision in decisions[1:])


def test_bars_before_the_needed_ones_change_nothing(policy: p3kit.Policy) -> None:
    assert policy.bars_needed == 8 + LOOKBACK
    whole = policy.predict(BARS)
    short = policy.predict(BARS.part(len(BARS) - policy.bars_needed, len(BARS)))
    assert replace(short, weights_age_bars=whole.weights_age_bars) == whole
    assert short.weights_age_bars == pytest.approx(whole.weights_age_bars, abs=2)


def test_a_file_with_the_newest_bar_first_decides_as_the_sorted_one(policy: p3kit.Policy) -> None:
    assert policy.predict(frame_of(BARS)[::-1]) == policy.predict(frame_of(BARS))


def test_too_few_bars_name_the_number_that_is_needed(policy: p3kit.Policy) -> None:
    with pytest.raises(p3kit.BarsError, match=r"has 71 bars; a decision needs 72 \(env.window 8 \+ look-back 64\)"):
        policy.predict(frame_of(BARS.part(0, 71)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="close"), "has no column close"),
        (lambda frame: frame.drop(columns=["open"]), "has no column open; the agent was trained with it"),
        (lambda frame: frame.iloc[[1, 0, *range(2, len(frame))]], "is earlier than the row before"),
        (lambda frame: frame.assign(close=-1.0), "close is -1"),
        (lambda frame: frame.drop(columns="timestamp"), "has no timestamp column"),
        (lambda frame: frame.iloc[:0], "is empty"),
        (lambda frame: [1, 2], "is list; give a pandas DataFrame"),
    ],
)
def test_wrong_bars_are_refused_as_files_are(policy: p3kit.Policy, change, message: str) -> None:
    with pytest.raises(p3kit.InputError, match=message):
        policy.predict(change(frame_of(BARS)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cash": -1}, "cash: is -1; an account has no debt"),
        ({"cash": float("nan")}, "cash: is nan"),
        ({"cash": "1000"}, "cash: is '1000'; give a number"),
        ({"cash": 0}, "neither cash nor shares"),
        ({"cash": 5, "shares": 3}, "entry_price: is missing"),
        ({"cash": 5, "shares": -3, "entry_price": 4}, "short positions"),
        ({"cash": 5, "bars_held": 3}, "bars_held given, and no shares"),
        ({"cash": 5, "shares": 1, "entry_price": 4, "bars_held": 1.5}, "bars_held: is 1.5"),
        ({"cash": 5, "shares": 1, "entry_price": 4, "max_drawdown": 5.0}, "give a fraction below 1"),
        ({"cash": 5, "last_action": "BUY"}, "last_action: is 'BUY'; it is one of HOLD"),
        ({"cash": 5, "share": 1}, "unknown key 'share'; did you mean shares"),
        ({"shares": 5}, "has no key cash"),
    ],
)
def test_an_account_that_cannot_be_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(p3kit.InputError, match=message):
        p3kit.Account.from_dict(values)


def test_an_account_goes_through_json_and_tensors_exactly(policy: p3kit.Policy, run: Path) -> None:
    for _, env, action in walk(policy, run):
        account = from_tensors(env.accounts, int(action[0]), 1e5)
        again = p3kit.Account.from_dict(json.loads(json.dumps(account.to_dict())))
        assert again == account


def test_what_is_left_out_is_derived_exactly_for_one_order(policy: p3kit.Policy, run: Path) -> None:
    simple = 0
    for bar, env, action in walk(policy, run):
        exact = from_tensors(env.accounts, int(action[0]), 1e5)
        paid = float(env.accounts.paid[0])
        if not exact.shares or abs(exact.cash + paid - (exact.entry_cash or 0)) > 1e-6:
            continue  # some of the trade was sold
        given = ("cash", "shares", "entry_price", "bars_held", "adds", "max_drawdown", "last_action", "peak")
        plain = p3kit.Account(**{name: getattr(exact, name) for name in given}, start_capital=1e5)
        past = BARS.part(0, bar + 1)
        ours, theirs = (observe(past, one, policy.spec, policy.recipe) for one in (plain, exact))
        torch.testing.assert_close(ours.observation, theirs.observation, rtol=1e-6, atol=1e-6)
        assert ours.valid == theirs.valid
        simple += 1
    assert simple > 5


def test_orders_are_those_that_the_environment_fills(policy: p3kit.Policy, run: Path) -> None:
    """A purchase spends what the environment takes from cash; a sale sells as many shares."""
    kinds = set()
    before: tuple[p3kit.Account, int] | None = None
    bars = read_bars("csv", str(run.parents[1] / "bars/{symbol}.csv"), "AAA")
    for bar, env, action in walk(policy, run):
        after = from_tensors(env.accounts, int(action[0]), 1e5)
        if before is not None:
            account, last = before
            seen = observe(bars.part(0, last + 1), account, policy.spec, policy.recipe)
            order = order_of(int(action[0]), seen.account, float(bars.close[last]), seen.rules, "next open")
            if order is not None and order.side == "buy" and after.shares:
                assert after.cash == pytest.approx(account.cash - (order.spend or 0), abs=1e-9)
                kinds.add("ADD" if account.shares else "BUY")
            if order is not None and order.side == "sell" and after.shares:
                assert after.shares == pytest.approx(account.shares - order.quantity, abs=1e-9)
                kinds.add("SELL_HALF")
        before = after, bar
    assert {"BUY", "SELL_HALF"} <= kinds


def test_a_ruined_account_buys_nothing_and_sells(policy: p3kit.Policy) -> None:
    ruin = policy.spec.env.ruin
    flat = policy.predict(BARS, p3kit.Account(cash=ruin * 1e5 * 0.99, start_capital=1e5))
    assert flat.action == "HOLD"
    assert "below env.ruin" in str(flat.valid["BUY_SMALL"])
    price = float(BARS.close[-1])
    long = p3kit.Account(cash=1.0, shares=ruin * 1e5 * 0.9 / price, entry_price=price, start_capital=1e5)
    decision = policy.predict(BARS, long)
    assert decision.action == "SELL_ALL"
    assert decision.order is not None
    assert (decision.order.side, decision.order.quantity) == ("sell", long.shares)


def test_a_run_and_a_checkpoint_need_no_bars(run: Path, tmp_path: Path) -> None:
    """A checkpoint alone, moved away from its run, decides the same; its trainer is the shipped one."""
    expected = p3kit.load_policy(str(run), "last").predict(BARS)
    moved = shutil.copytree(run.parents[1], tmp_path / "moved")
    shutil.rmtree(moved / "bars")
    assert p3kit.load_policy(str(moved / "runs" / run.name), "last").predict(BARS) == expected
    for path in (moved / "runs" / run.name / "checkpoints").glob("*.pt"):
        assert p3kit.load_policy(str(path)).predict(BARS).time == expected.time
    (tmp_path / "alone" / "checkpoints").mkdir(parents=True)
    lone = shutil.copy(run / "checkpoints" / "last.pt", tmp_path / "alone" / "checkpoints" / "last.pt")
    policy = p3kit.load_policy(str(lone))
    assert policy.name == "last/AAA"
    assert policy.predict(BARS) == expected
    assert p3kit.load_policy(f"{lone}/AAA").predict(BARS) == expected
    with pytest.raises(p3kit.InputError, match="holds no agent BBB; its agents: AAA"):
        p3kit.load_policy(f"{lone}/BBB")


def test_a_run_without_an_action_rule_is_greedy_and_an_unknown_rule_is_refused(run: Path, tmp_path: Path) -> None:
    saved = p3kit.open_run(str(shutil.copytree(run, tmp_path / run.name)))
    (plan,) = saved.info["agents"]
    del plan["spec"]["evaluation"]["action"]
    saved.directory.update_info(agents=[plan])
    assert p3kit.load_policy(saved, "last").action_rule == "greedy"
    plan["spec"]["evaluation"]["action"] = "of a later version"
    saved.directory.update_info(agents=[plan])
    with pytest.raises(P3kitError, match="of a later version"):
        p3kit.load_policy(saved, "last")


PROBE = """
import sys, p3kit
policy = p3kit.load_policy(sys.argv[1], "last")
import pandas as pd
bars = pd.read_csv(sys.argv[2])
policy.predict(bars)
heavy = ("p3kit.runtime.agent", "p3kit.runtime.run", "p3kit.runtime.stack", "p3kit.runtime.evaluation", "p3kit.launch",
         "p3kit.interventions", "p3kit.diagnose", "p3kit.env.trading", "p3kit.env.gymnasium", "aim", "envpool",
         "optuna", "ray", "matplotlib")
print([name for name in sys.modules if name.startswith(heavy)])
"""


def test_no_training_code_is_imported(run: Path) -> None:
    command = [sys.executable, "-c", PROBE, str(run), str(run.parents[1] / "bars" / "AAA.csv")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_decision_takes_less_than_50_ms(policy: p3kit.Policy) -> None:
    frame = frame_of(BARS)
    taken = []
    for _ in range(11):
        began = time.perf_counter()
        policy.predict(frame)
        taken.append(time.perf_counter() - began)
    assert min(taken) < 0.05, np.round(taken, 4)
