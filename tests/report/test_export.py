"""Exported values: a spec that loads back, a record with the evidence against them, the same as YAML."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from p3kit.errors import InputError, SpecError
from p3kit.report.export_data import find_export
from p3kit.report.export_page import export_json, export_toml, export_yaml, record
from p3kit.report.yaml_writer import to_yaml
from p3kit.spec import load_spec
from tests.command import invoke
from tests.diagnose.test_table import all_hold, never_trades
from tests.made_runs import TRAINER, make_run, spec_with

SYMBOLS = ["AAPL", "XOM"]


def tuned(root: Path) -> None:
    """Two settings of a sweep over two symbols and three seeds; the second one is better."""
    for value, sharpe in ((0.95, 0.4), (0.9, 0.8)):
        for symbol in SYMBOLS:
            for seed in (1, 2, 3):
                make_run(
                    root,
                    symbol=symbol,
                    seed=seed,
                    symbols=SYMBOLS,
                    point={"ppo.gae_lambda": value},
                    agent_name=f"{symbol}.s{seed}.gae_lambda={value}",
                    best_sharpe=sharpe + 0.05 * seed,
                    spec=spec_with(seeds=[1, 2, 3], matrix={"ppo.gae_lambda": [0.95, 0.9]}, ppo__ent_coef=0.02),
                    command=["p3kit", "run", "specs/phase3.toml", "--set", "ppo.ent_coef=0.02"],
                )


def test_it_loads_back_through_extends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tuned(Path("runs"))
    result = invoke("export", "best", "--output", "specs/production.toml")
    assert (result.exit_code, result.stdout.strip()) == (0, "specs/production.toml"), result.output
    Path("specs/phase4.toml").write_text('name = "phase4"\nextends = "production.toml"\nsymbols = ["AMD"]\n')
    whole, derived = load_spec("specs/production.toml"), load_spec("specs/phase4.toml")
    assert (whole.spec.ppo.gae_lambda, whole.spec.ppo.ent_coef) == (0.9, 0.02)
    assert (whole.spec.matrix, whole.spec.tune, whole.spec.seeds) == ({}, None, (1, 2, 3))
    stored = json.loads(Path("runs/run-7/run.json").read_text())["agents"][0]["spec"]
    told = whole.spec.model_dump(mode="json")
    assert {key: told[key] for key in told if key not in ("name",)} == {
        key: stored[key] for key in stored if key not in ("name",)
    }
    assert (derived.spec.name, derived.spec.symbols, derived.spec.ppo) == ("phase4", ("AMD",), whole.spec.ppo)
    text = Path("specs/production.toml").read_text()
    assert "gae_lambda = 0.9 " in text
    assert "# tuned: one of 0.95, 0.9" in text
    assert "ent_coef = 0.02                                         # --set ppo.ent_coef=0.02" in text


def test_the_record_over_seeds(tmp_path: Path) -> None:
    tuned(tmp_path)
    export = find_export(tmp_path, "best")
    told = record(export)
    by_seed = [
        np.mean([a.sharpe for a in export.graded if a.agent.seed == seed and a.sharpe is not None])
        for seed in (1, 2, 3)
    ]
    assert told["validation_sharpe_mean"] == pytest.approx(np.mean(by_seed), abs=1e-4)
    assert told["validation_sharpe_std"] == pytest.approx(np.std(by_seed, ddof=1), abs=1e-4)
    assert (told["training_stability_score"], told["agents"], told["agents_passed"]) == (1.0, 6, 6)
    assert told["data"]["XOM"]["fingerprint"] == "584f4d0000"
    assert told["provenance"]["runs"] == [f"run-{number}" for number in range(7, 13)]
    assert told["provenance"]["commands"] == ["p3kit run specs/phase3.toml --set ppo.ent_coef=0.02"]


def test_crashes_symptoms_and_silence_are_counted(tmp_path: Path) -> None:
    make_run(tmp_path, symbols=SYMBOLS)
    make_run(tmp_path, symbol="XOM", symbols=SYMBOLS, until=0.2, state="crashed")
    make_run(tmp_path, symbol="XOM", symbols=SYMBOLS, fault=all_hold, eval_fault=silence, verdict="FAIL")
    told = record(find_export(tmp_path, "run-1"))
    assert told["training_stability_score"] == pytest.approx(1 / 3, abs=1e-4)
    assert (told["agents"], told["agents_traded"], told["agents_passed"]) == (2, 1, 1)
    assert "validation_sharpe_std" not in told
    text = export_toml(find_export(tmp_path, "run-1"), tmp_path)
    assert "# 1 agent never traded" in text
    assert "# One seed:" in text


def silence(row: dict[str, float], progress: float, tick: int) -> dict[str, float]:
    never_trades(row, progress, tick)
    return {name: value for name, value in row.items() if "sharpe" not in name}


def test_one_lucky_agent_is_not_the_best_setting(tmp_path: Path) -> None:
    make_run(tmp_path, best_sharpe=3.0, spec=spec_with(ppo__gamma=0.9))
    for seed in (1, 2, 3):
        make_run(tmp_path, seed=seed, best_sharpe=0.5, spec=spec_with(seeds=[1, 2, 3]), agent_name=f"AAPL.s{seed}")
    best = find_export(tmp_path, "best")
    assert [attempt.run for attempt in best.attempts] == ["run-2", "run-3", "run-4"]


def test_yaml_says_the_same(tmp_path: Path) -> None:
    make_run(tmp_path, spec=spec_with(ppo__learning_rate=3e-5, diagnose__rows={"policy.hold": {"warn": 0.95}}))
    export = find_export(tmp_path, "latest")
    told = export_json(export, tmp_path)
    read = yaml.safe_load(export_yaml(export, tmp_path))
    assert read == {**told["spec"], **told["validated"]}
    assert read["ppo"]["learning_rate"] == 3e-5


@pytest.mark.parametrize(
    "tables",
    [
        {"off": "off", "y": "y", "2": 1, "a b": 'a "no"', "date": "2027-01-04", "empty": {}, "none": []},
        {"small": 1e-5, "huge": 1e22, "negative": -3.0, "true": True, "text": "1e3", "tab": "a\tb\nc", "ü": "ü"},
        {
            "rules": [{"id": "a", "do": [{"scale": "ppo.ent_coef", "by": 5.0}]}, {"id": "b"}],
            "after": [[0.0, 1.0], [1.0, 2.0]],
        },
    ],
)
def test_yaml_of_awkward_values(tables: dict[str, Any]) -> None:
    assert yaml.safe_load(to_yaml(tables)) == tables


def test_settings_are_told_apart(tmp_path: Path) -> None:
    for seed in (1, 2):
        make_run(tmp_path, seed=seed, spec=spec_with(seeds=[1, 2]), agent_name=f"AAPL.s{seed}")
    make_run(tmp_path, spec=spec_with(ppo__gamma=0.9))
    repaired = make_run(tmp_path, seed=3, spec=spec_with(seeds=[3]))
    repaired.trainer_file.write_text(repaired.trainer_file.read_text() + "# changed\n")
    assert [a.run for a in find_export(tmp_path, "run-1").attempts] == ["run-1", "run-2"]
    assert [a.run for a in find_export(tmp_path, "run-3").attempts] == ["run-3"]
    assert [a.run for a in find_export(tmp_path, "run-4").attempts] == ["run-4"]


def test_a_run_with_several_settings_asks_for_an_agent(tmp_path: Path) -> None:
    run = make_run(tmp_path, point={"ppo.gae_lambda": 0.9}, agent_name="AAPL.s1.gae_lambda=0.9")
    plan = run.info()
    other = {**plan["agents"][0], "name": "AAPL.s1.gae_lambda=0.95", "point": {"ppo.gae_lambda": 0.95}}
    run.update_info(agents=[*plan["agents"], other])
    with pytest.raises(InputError, match=r"has 2 settings; name an agent: run-1/AAPL.s1.gae_lambda=0.9, run-1/AAPL"):
        find_export(tmp_path, "run-1")
    assert find_export(tmp_path, "run-1/AAPL.s1.gae_lambda=0.9").point == {"ppo.gae_lambda": 0.9}
    with pytest.raises(InputError, match="has no verdict yet"):
        find_export(tmp_path, "run-1/AAPL.s1.gae_lambda=0.95")


def test_paths_are_made_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    shutil.copy(TRAINER, "mine/own.py")
    own = spec_with(trainer="mine/own.py", data__source="csv", data__path="bars/{symbol}.csv")
    make_run(Path("runs"), spec=own)
    assert invoke("export", "latest", "--output", "deep/er/out.toml").exit_code == 0
    text = Path("deep/er/out.toml").read_text()
    assert 'trainer = "../../mine/own.py"' in text
    assert 'path = "../../bars/{symbol}.csv"' in text
    assert load_spec("deep/er/out.toml").spec.data.path == "bars/{symbol}.csv"


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke("export", "best").exit_code == 2
    make_run(Path("runs"), until=0.5, state="stopped")
    nothing = invoke("export", "best")
    assert (nothing.exit_code, "nothing was graded yet" in nothing.output) == (2, True)
    make_run(Path("runs"), synthetic=True)
    assert "# SYNTHETIC data" in invoke("export", "latest").stdout
    assert yaml.safe_load(invoke("export", "2", "--format", "yaml").stdout)["validation_sharpe_mean"] > 0
    assert json.loads(invoke("export", "2", "--json").stdout)["validated"]["synthetic"] is True
    assert invoke("export", "best", "--output", "out.yml").exit_code == 0
    assert yaml.safe_load(Path("out.yml").read_text())["ppo"]["gamma"] == 0.99
    for wrong in (["--output", "x.ini"], ["--output", "x.toml", "--format", "yaml"], ["--name", "phase3"]):
        assert invoke("export", "latest", *wrong).exit_code == 2


def test_a_record_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('name = "a"\nsymbols = ["AAPL"]\nvalidated = 3\n')
    with pytest.raises(SpecError, match=r"a.toml:3:1: validated: expected a table"):
        load_spec(tmp_path / "a.toml")
