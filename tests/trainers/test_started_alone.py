"""A trainer as its user starts it: flags as they are typed, progress, a result and the next step."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p3kit.rundir import list_runs
from p3kit.runtime.entry import knob_value
from p3kit.spec import load_spec
from p3kit.spec.knobs import read_knobs

SHORT = ["--source", "synthetic", "--n-steps", "16", "--batch-size", "16", "--total-timesteps", "64", "--hidden", "[8]"]
SHORT += ["--set", "env.num_envs=2", "--set", "data.synthetic.bars=2_000", "--set", "env.episode_bars=20"]


def start(trainer: ModuleType, folder: Path, *flags: str) -> int:
    """The exit code of the trainer with these flags, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ppo.py", "--runs", str(folder), *flags])
        try:
            trainer.main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


@pytest.mark.parametrize("symbol", ["600519", "0700", "1e5", "true", "2020-01-01", "BRK-B", "a.b", "^GSPC"])
def test_a_symbol_is_text_whatever_toml_would_read(ppo: ModuleType, tmp_path: Path, symbol: str) -> None:
    assert start(ppo, tmp_path, "--symbol", symbol, *SHORT) == 0
    (run,) = list_runs(tmp_path)
    assert run.agent_names() == [symbol]
    assert load_spec(run.path / "spec.toml").spec.symbols == (symbol,)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(symbol=st.text(max_size=8).filter(lambda text: not all(c.isalnum() or c in ".-_^=" for c in text) or not text))
def test_a_symbol_that_cannot_be_one_is_named_as_it_was_typed(
    ppo: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], symbol: str
) -> None:
    assert start(ppo, tmp_path, f"--symbol={symbol}", *SHORT) == 2
    said = capsys.readouterr().err
    assert "expected a symbol" in said
    assert said.startswith("--symbol")
    assert "scratch" not in said
    assert not list_runs(tmp_path)


def test_every_fault_is_named_by_its_flag(ppo: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--gamma", "7", "--n-steps", "0700", "--activation", "5", "--set", "env.num_envs=x"]
    assert start(ppo, tmp_path, *flags) == 2
    lines = capsys.readouterr().err.splitlines()
    assert {line.split(":")[0] for line in lines} == {"--gamma 7", "--n-steps 0700", "--activation 5",
                                                      "--set env.num_envs=x"}  # fmt: skip
    assert start(ppo, tmp_path, "--env-id", "") == 2
    assert "--env-id: is empty" in capsys.readouterr().err
    for symbol in ("inf", "nan", "-inf"):
        assert start(ppo, tmp_path, f"--symbol={symbol}") == 2
        assert capsys.readouterr().err.startswith(f'--symbol {symbol}: symbols[0] = "{symbol}": expected another name')
    assert start(ppo, tmp_path, "--env-id", "NoSuch-v1") != 0
    assert "next:" not in capsys.readouterr().err


def test_a_knob_of_text_takes_text_that_toml_would_read_as_a_number(tmp_path: Path) -> None:
    trainer = tmp_path / "mine.py"
    fields = ["total_timesteps: int = 1", 'label: str = "a"', "widths: tuple[int, ...] = (1,)"]
    fields += ['limit: float | Literal["off"] = 1.0']
    trainer.write_text("class Args:\n" + "".join(f'    {field}\n    """Meaning."""\n' for field in fields))
    knobs = {knob.name: knob for knob in read_knobs(trainer)}
    for text in ("600519", "true", "[1]", 'an "x"', "a.b = 3"):
        assert knob_value(knobs["label"], text) == text
    assert knob_value(knobs["widths"], "[1, 2]") == [1, 2]
    assert [knob_value(knobs["limit"], text) for text in ("off", "0.5", "1e-3")] == ["off", 0.5, 1e-3]


def test_a_run_on_bars_ends_with_its_verdict_and_the_next_step(
    ppo: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(ppo, tmp_path, *SHORT) == 0
    *_, progress, verdict, following = capsys.readouterr().err.splitlines()
    assert progress.startswith("AAPL: 64 of 64 steps (100%), ")
    assert " steps/s, mean re" in progress
    assert " on the validation split (SYNTHETIC data): Sharpe " in verdict
    assert verdict.count("buy-and-hold") == 2
    assert following == f"next: p3kit diagnose run-1 --runs {tmp_path}   p3kit evaluate run-1 --runs {tmp_path}"


def test_a_task_ends_with_its_mean_return(
    ppo: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p3kit.runtime.standalone.PLAIN_SECONDS", 0.0)
    monkeypatch.setattr("p3kit.runtime.run.STATUS_SECONDS", 0.0)
    flags = ["--env-id", "CartPole-v1", "--n-steps", "64", "--total-timesteps", "1024", "--set", "env.num_envs=4"]
    assert start(ppo, tmp_path, *flags) == 0
    lines = capsys.readouterr().err.splitlines()
    assert any("of 1,024 steps (75%)" in line and line.endswith(" left") for line in lines)
    assert lines[-2].startswith("CartPole-v1: done, mean return ")
    assert lines[-1] == f"next: p3kit diagnose run-1 --runs {tmp_path}"
