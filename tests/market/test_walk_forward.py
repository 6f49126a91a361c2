"""Walk-forward: windows of time before the test split, an agent for each, and what they add up to."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from p3kit.errors import DataError, SpecError
from p3kit.market import load_market, walk_windows
from p3kit.plan import plan_runs
from p3kit.report import render_week, summarise_week, week_json
from p3kit.report.week_page import walk_forward_words
from p3kit.rundir import list_runs
from p3kit.spec import Spec, resolve_spec
from p3kit.spec.models import Split, parse_range
from p3kit.spec.trainer_file import read_trainer
from tests.command import invoke
from tests.made_runs import MONDAY, make_run

YEARLY = {"train": "4y", "validation": "1y", "step": "1y"}
HILL = Path(__file__).parents[1] / "tune" / "hill.py"


def spec_of(walk: dict[str, str] = YEARLY, **tables: Any) -> Spec:
    given = {"name": "walk", "symbols": ["AAPL", "XOM"], "data": {"source": "sample", "walk_forward": walk}}
    return resolve_spec(given | tables, "test")


def windows_of(spec: Spec) -> list[Split]:
    return walk_windows(spec, load_market(spec, spec.symbols))


def days(part: Any) -> tuple[date, date]:
    return parse_range(str(part))


@pytest.mark.parametrize(
    "walk", [YEARLY, {"train": "30m", "validation": "6m", "step": "3m"}, {**YEARLY, "step": "90d"}]
)
def test_windows_follow_one_another_and_leave_the_test_split_alone(walk: dict[str, str]) -> None:
    spec = spec_of(walk)
    market = load_market(spec, spec.symbols)
    windows = walk_windows(spec, market)
    assert len(windows) > 3
    test = min(str(bars.timestamps[bars.splits["test"][0]])[:10] for bars in market.values())
    for window in windows:
        train, validation, held_out = days(window.train), days(window.validation), days(window.test)
        assert validation[0] == train[1] + timedelta(days=1)
        assert validation[1] < date.fromisoformat(test) == held_out[0]
    starts = [days(window.train)[0] for window in windows]
    assert starts[0] == date(2010, 1, 4)
    assert sorted(set(starts)) == starts
    if walk is YEARLY:
        assert [days(window.validation)[0].isoformat() for window in windows] == [
            f"{y}-01-04" for y in range(2014, 2021)
        ]


def test_months_end_where_they_end() -> None:
    from p3kit.market.walk_forward import add_span

    assert add_span(date(2020, 1, 31), "1m") == date(2020, 2, 29)
    assert add_span(date(2020, 1, 31), "1m", 2) == date(2020, 3, 31)
    assert add_span(date(2020, 2, 29), "1y") == date(2021, 2, 28)
    assert add_span(date(2020, 11, 30), "3m") == date(2021, 2, 28)
    assert add_span(date(2020, 1, 31), "10d", 3) == date(2020, 3, 1)


@pytest.mark.parametrize("trainer", ["ppo", "ppo_stacked", "ppo_shared"])
def test_every_window_has_agents_and_runs_of_its_own(trainer: str) -> None:
    spec = spec_of(trainer=trainer, seeds=[1, 2], matrix={"ppo.gamma": [0.9, 0.95]})
    windows = windows_of(spec)
    plans = plan_runs(spec, read_trainer(spec.trainer), 2, windows)
    names = [agent.name for plan in plans for agent in plan.agents]
    assert len(names) == len(set(names)) == len(windows) * 8
    assert "XOM.s2.w2016-01-04.gamma=0.95" in names
    for plan in plans:
        assert len({agent.window for agent in plan.agents}) == 1
        assert plan.spec.data.walk_forward is None
        assert all(agent.spec.data.split == plan.spec.data.split for agent in plan.agents)
        (agent,) = {agent.window for agent in plan.agents}
        assert str(plan.spec.data.split.validation).startswith(str(agent))
        assert len(plan.windows) == len(windows)


def test_a_window_that_does_not_fit_and_a_word_that_is_no_span() -> None:
    with pytest.raises(
        DataError, match=r"walk_forward: train 20y \+ validation 1y do not fit between 2010-01-04 and the test"
    ):
        windows_of(spec_of({**YEARLY, "train": "20y"}))
    with pytest.raises(SpecError, match=r'walk_forward.step = "1": expected years, months or days, such as "5y"'):
        spec_of({**YEARLY, "step": "1"})
    with pytest.raises(SpecError, match=r"data.walk_forward: windows of time are not made here"):
        plan_runs(spec_of(), read_trainer("ppo"))


def test_run_trains_a_window_each_on_its_own_bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = f'name = "walk"\ntrainer = "{HILL}"\nsymbols = ["AAPL"]\n'
    text += 'data.walk_forward = { train = "6y", validation = "1y", step = "2y" }\n'
    Path("walk.toml").write_text(text)
    result = invoke("run", "walk.toml", "--no-aim", "--jobs", "1", "--json")
    assert result.exit_code == 0, result.output
    assert "walk-forward: 3 windows, each an agent of its own, judged on 2016-01-04 to 2021-01-03" in result.stderr
    agents = [agent["agent"] for agent in json.loads(result.stdout)["agents"]]
    assert agents == ["AAPL.w2016-01-04", "AAPL.w2018-01-04", "AAPL.w2020-01-04"]
    splits = [run.info()["data"]["AAPL"]["splits"]["validation"] for run in list_runs("runs")]
    assert splits == sorted(splits)
    assert len({json.dumps(split) for split in splits}) == 3
    too_long = invoke("run", "walk.toml", "--no-aim", "--set", 'data.walk_forward.validation="3d"', "--runs", "none")
    assert (too_long.exit_code, Path("none").exists()) == (2, False), "a window without enough bars stops all of it"
    assert "data.split" in too_long.stderr


def test_the_report_has_every_window_and_their_spread(tmp_path: Path) -> None:
    years = (2016, 2017, 2018, 2019)
    excesses = (0.4, -0.1, 0.3, 0.2)
    windows = [f"{year}-01-04" for year in years]
    for year, excess in zip(years, excesses, strict=True):

        def scored(row: dict[str, float], progress: float, tick: int, excess: float = excess) -> None:
            row["eval/sharpe_excess"] = excess

        run = make_run(tmp_path, agent_name=f"AAPL.w{year}-01-04", eval_fault=scored)
        (agent,) = run.info()["agents"]
        agent["window"] = f"{year}-01-04"
        agent["spec"]["data"]["split"]["validation"] = f"{year}-01-04..{year + 1}-01-03"
        run.update_info(agents=[agent], windows=[*windows, "2020-01-04"])
    (experiment,) = summarise_week(tmp_path, 1, MONDAY + 86_400.0)
    page = render_week([experiment], {})
    assert "## Agents Completed: 4/5" in page
    assert "AAPL.w2020-01-04: not started" in page
    assert "| 2017-01-04 to 2018-01-03 | 490 | 1 |" in page
    assert "window is shorter" not in page
    assert "Better than buy-and-hold in 3 of 4 windows (95% interval 30% to 95%). Mean excess +0.20" in page
    assert "standard deviation over windows 0.22" in page
    assert "so this is no evidence of an edge" in page
    last = experiment.walk_forward[-1]
    cut = walk_forward_words([*experiment.walk_forward[:-1], replace(last, bars=172)])
    assert cut.endswith("The last window is shorter: bars before the test split are left out (embargo).")
    told = week_json([experiment], Path("week-01.md"))["experiments"][0]["walk_forward"]
    assert [window["excess"] for window in told] == pytest.approx(list(excesses))
