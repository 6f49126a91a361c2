"""docs/own.md: your own hyperparameter, reward term and bars, each exactly as on the page."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import pytest

from p3kit.check import probe_reward
from p3kit.check.custom_reward import own_term
from p3kit.cli import main
from p3kit.errors import InputError
from p3kit.market import load_market
from p3kit.rundir import RunDir
from p3kit.spec import Spec, load_spec
from p3kit.spec.starter import eject
from tests.command import invoke
from tests.documented import ROOT, apply, execute, steps
from tests.market.made import write_hourly_csv

PAGE = (ROOT / "docs" / "own.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed, symbol in enumerate(("SPY", "AAPL")):
        write_hourly_csv(tmp_path / "data" / f"{symbol}.csv", seed)
    return tmp_path


@pytest.fixture
def changed(folder: Path) -> Path:
    """The ejected trainer with every change of the page."""
    trainer = eject("ppo", None, overwrite=False)
    for step in steps(PAGE):
        if step.kind == "diff":
            apply(step.text, trainer)
    return trainer


def own_spec(*overrides: str) -> Spec:
    invoke("init", "mine.toml", "--trainer", "my_ppo.py", "--force")
    return load_spec("mine.toml", ["env.episode_bars=60", *overrides]).spec


@pytest.mark.slow
def test_every_step_of_the_page_works(folder: Path) -> None:
    for step in steps(PAGE):
        if step.kind == "diff":
            apply(step.text, folder / "my_ppo.py")
        elif step.marker not in ("network", "hourly"):
            result = execute(step.text, folder)
            assert result.returncode == 0, f"{step.text}\n{result.stdout}\n{result.stderr}"
            assert "Traceback" not in result.stderr, step.text
    terms = RunDir(folder / "runs" / "run-2").series("AAPL")
    weighted = sum(terms[f"reward/{name}"].values for name in ("pnl", "cost", "time", "sharpe", "drawdown", "sizing"))
    assert (terms["reward/total"].values < weighted + terms["reward/hold"].values - 1e-6).all()


def test_what_needs_a_network_is_at_least_spelt_right() -> None:
    (step,) = [step for step in steps(PAGE) if step.marker == "network"]
    name, sub, *words = shlex.split(step.text)[1:]
    context = click.Context(main, info_name="p3kit", help_option_names=["-h", "--help"])
    group = main.get_command(context, name)
    assert isinstance(group, click.Group)
    group.commands[sub].make_context(sub, words, parent=click.Context(group, info_name=name, parent=context))


@pytest.mark.usefixtures("changed")
def test_the_page_shows_every_knob_that_it_adds() -> None:
    spec = own_spec("ppo.advantage_clip=3", "ppo.exposure_cost=0.02")
    assert (spec.ppo.advantage_clip, spec.ppo.exposure_cost) == (3.0, 0.02)
    result = invoke("validate", "mine.toml", "--set", "ppo.advantage_clop=3")
    assert result.stderr.endswith('unknown key; did you mean "advantage_clip"?\n')


@pytest.mark.usefixtures("changed")
def test_a_term_that_costs_is_asked_and_passes() -> None:
    spec = own_spec("ppo.exposure_cost=0.02")
    free, edge = probe_reward(spec, load_market(spec, ["AAPL"])["AAPL"], 400)
    assert free.passed, free.evidence
    assert edge.passed, edge.evidence
    holder = next(row for row in free.details["rules"] if row["rule"] == "buy and hold")
    assert holder["paid"]["extra_reward"] == pytest.approx(-0.02 * 58, rel=0.05)  # 60 bars, less the fill


def test_a_term_that_can_be_farmed_is_named(changed: Path) -> None:
    change = "-    return -args.exposure_cost * step.account[..., EXPOSURE].double()\n"
    change += "+    return args.exposure_cost * (step.action == 1).double()\n"
    apply(change, changed)
    spec = own_spec("ppo.exposure_cost=0.5", "env.episode_bars=20")
    free, _ = probe_reward(spec, load_market(spec, ["AAPL"])["AAPL"], 400)
    assert not free.passed
    assert "extra_reward pays" in free.evidence
    assert free.remedy == (
        "extra_reward of my_ppo.py: what it pays per event must be at most 0, or a share of net profit"
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("step.account", r"returned \(16, 19\); expected a tensor \(16,\), one number per row"),
        ("1.0", r"returned float; expected a tensor \(16,\), one number per row"),
        ("step.equity / 0 - step.equity / 0", "returned a number that is not finite"),
        ("step.nothing", "raised AttributeError"),
    ],
)
def test_a_term_that_is_no_term_is_refused_with_its_line(folder: Path, body: str, message: str) -> None:
    import torch

    from p3kit.env import TradingEnv

    (folder / "term.py").write_text(f"def extra_reward(step, args):\n    return {body}\n")
    spec = load_spec(ROOT / "specs" / "smoke.toml", ["env.num_envs=16"]).spec
    env = TradingEnv(load_market(spec, ["AAPL"]), spec, symbols=["AAPL"])
    env.reset(torch.zeros(16))
    step = env.step(torch.zeros(16, dtype=torch.int64), torch.zeros(16))
    term = own_term(folder / "term.py", None)
    assert term is not None
    with pytest.raises(InputError, match=rf"term\.py:1:1: extra_reward {message}"):
        term(step)


def test_shipped_trainers_have_no_term_and_are_not_imported() -> None:
    for trainer in (ROOT / "trainers").glob("*.py"):
        assert own_term(trainer, None) is None
