"""Tests of the progress display and of the verdicts after it."""

import io
import time
from pathlib import Path

import pytest
from fake_trainer import agent_status, verdict
from rich.console import Console

from p3kit.launch import agent_results, run_lines, verdict_lines
from p3kit.launch.display import AgentView, LiveTable, PlainLines, agent_views, duration, make_display
from p3kit.rundir import RunDir


def terminal(width=80, height=24):
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None)


def plain():
    return Console(file=io.StringIO(), force_terminal=False, width=80)


def agent(name="run-1/AAPL", state="running", step=45_000, **more):
    return AgentView(name, state, step, 100_000, **more)


def drawn(display):
    console = terminal(height=1_000)
    console.print(display)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


FULL = {"steps_per_second": 1234.5, "sharpe": -0.41, "entropy_norm": 0.7, "hold_share": 0.25}


def test_the_live_table_fits_80_columns():
    display = LiveTable(terminal(), "phase3")
    display.show(
        [
            agent(**FULL),
            agent("run-2/AAPL.s2.gae_lambda=0.98,clip_range=0.3", "queued", 0),
            agent("run-3/AMD", "done", 60_000, **FULL),
            agent("run-4/BAC", silent_s=600.0, **FULL),
            agent("run-5/HD", "crashed", 3_000),
        ]
    )
    assert drawn(display) == [
        "phase3 · 1 done, 2 running, 1 queued, 1 crashed · 0:00 · about 1:25 left",
        "agent                    state      progress        steps/s Sharpe entropy HOLD",
        "run-1/AAPL               running    ━━━━╸       45%   1,234  -0.41    0.70 0.25",
        "run-2/AAPL.s2.gl=0.98,c… queued                  0%       –      –       –    –",
        "run-3/AMD                done       ━━━━━━━━━━ 100%   1,234  -0.41    0.70 0.25",
        "run-4/BAC                silent 10m ━━━━╸       45%   1,234  -0.41    0.70 0.25",
        "run-5/HD                 crashed                 3%       –      –       –    –",
    ]


def test_a_small_terminal_shows_the_agents_that_matter():
    display = LiveTable(terminal(height=9), "phase3")
    states = ["done"] * 70 + ["running", "crashed", "running"] + ["queued"] * 70
    display.show([agent(f"run-{n}/A", state) for n, state in enumerate(states, 1)])
    lines = drawn(display)
    assert [line.split()[0] for line in lines[2:5]] == ["run-71/A", "run-72/A", "run-73/A"]
    assert lines[-1] == "… and 140 more: 70 done, 2 running, 70 queued, 1 crashed"
    assert len(lines) == 6


def test_the_live_table_really_draws_on_a_terminal():
    console = terminal()
    with make_display(console, "phase3") as display:
        assert isinstance(display, LiveTable)
        display.show([agent(**FULL)])
        display.print("run-9 crashed: [red]not markup[/red]")
        time.sleep(0.3)
    text = console.file.getvalue()
    assert "run-1/AAPL" in text
    assert "[red]not markup[/red]" in text


def test_without_a_terminal_there_are_plain_lines():
    console = plain()
    with make_display(console, "phase3") as display:
        assert isinstance(display, PlainLines)
        for step in range(0, 100_000, 5_000):
            display.show([agent(step=step, **FULL)])
        display.show([agent(step=96_000, silent_s=300.0)])
        display.show([agent(step=96_000, silent_s=301.0)])
        display.show([agent(state="done", step=100_000)])
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 12  # start, nine tenths, silent, done
    assert lines[1] == (
        "[0:00] run-1/AAPL running 10,000/100,000 · 1,234 steps/s · Sharpe -0.41 · entropy 0.70 · HOLD 0.25"
    )
    assert lines[-2] == "[0:00] run-1/AAPL running, but silent for 5 min 96,000/100,000"
    assert lines[-1] == "[0:00] run-1/AAPL done 100,000/100,000"


def test_a_dumb_terminal_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_display(terminal(), ""), PlainLines)


def test_views_come_from_the_files_of_a_run():
    run = RunDir(Path("run-3"))
    info = {"agents": [{"name": "AAPL", "total_timesteps": 1000}, {"name": "AMD", "total_timesteps": 1000}]}
    status = {"state": "running", "heartbeat": 100.0, "agents": {"AAPL": agent_status("AAPL", "done", 600, 1000)}}
    first, second = agent_views(run, info, status, now=250.0)
    assert (first.state, first.progress, first.global_step, first.sharpe) == ("done", 1.0, 600, 0.41)
    assert (second.state, second.progress, second.total_timesteps) == ("running", 0.0, 1000)
    assert second.is_silent
    crashed, _ = agent_views(run, info, {**status, "state": "crashed"}, now=250.0)
    assert (crashed.state, crashed.is_silent) == ("crashed", False)


@pytest.mark.parametrize(("seconds", "text"), [(5.9, "0:05"), (65, "1:05"), (3905, "1:05:05")])
def test_durations(seconds, text):
    assert duration(seconds) == text


# ---------------------------------------------------------------------- verdicts


@pytest.fixture
def runs(tmp_path):
    trainer = tmp_path / "t.py"
    trainer.touch()

    def make(agent, state, given, message="", synthetic=False):
        info = {
            "name": "phase3",
            "agents": [{"name": agent, "symbol": agent}],
            "data": {agent: {"synthetic": synthetic}},
        }
        run = RunDir.create(tmp_path / "runs", info, "", trainer)
        run.write_status({"state": state, "message": message, "agents": {agent: {"verdict": given}}})
        return run

    return make


def failed_verdict():
    reasons = [
        {"criterion": "validation_sharpe", "value": None, "threshold": "> 0.3", "met": False, "set": "minimum"},
        {"criterion": "entropy", "value": 0.012345, "threshold": "0.5 to 1.5 nats", "met": False, "set": "minimum"},
        {"criterion": "validation_sharpe", "value": None, "threshold": "> 0.5", "met": False, "set": "strong"},
    ]
    metrics = {"eval/total_return": 0.0, "eval/max_drawdown": 0.0, "eval/total_trades": 0}
    labels = ["constant", "never traded"]
    return {
        **verdict(),
        "grade": "FAIL",
        "reasons": reasons,
        "metrics": metrics,
        "labels": labels,
        "sharpe_interval": None,
        "judged": None,
    }


def rendered(runs, width=80):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    for part in verdict_lines(agent_results(runs)):
        console.print(part)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_the_verdict_table_stands_beside_the_baselines(runs):
    lines = rendered(
        [
            runs("AAPL", "done", verdict()),
            runs("AMD", "done", failed_verdict()),
            runs("BAC", "crashed", None, "its process ended with exit code 3"),
        ]
    )
    assert lines == [
        "No agent is shown to beat buy-and-hold (1 of 2 cannot be judged yet). Together",
        "+6 %, buy-and-hold +11 %; mean drawdown 12 % against 20 %.",
        "",
        "phase3: verdicts on the validation split",
        "",
        "agent       grade  what it shows",
        "run-1/AAPL  PASS   Sharpe 0.41, no evidence of an edge over buy-and-hold",
        "                   (+0.05, 95 % CI -0.80 to 0.90)",
        "run-2/AMD   FAIL   never traded: nothing to judge",
        "",
        "Grade: the training guide's fixed criteria, which ignore buy-and-hold. Edge: the",
        "comparison with buy-and-hold, with every evaluation counted.",
        "",
        "agent       Sharpe [95 % interval]  drawdown  trades",
        "run-1/AAPL      0.41 [-0.31, 1.20]     0.250      42",
        "run-2/AMD                      n/a     0.000       0",
        "",
        "total return   agent  all-HOLD  buy & hold  random  mov. avg  supervised",
        "run-1/AAPL    +0.123    +0.000      +0.110  -0.200    +0.020      -0.880",
        "run-2/AMD     +0.000    +0.000      +0.110  -0.200    +0.020      -0.880",
        "",
        "run-1/AAPL PASS at step 500 · not STRONG: validation_sharpe is 0.41, needs > 0.5",
        "(and 1 more) · constant",
        "run-2/AMD FAIL at step 500 · not PASS: validation_sharpe is n/a, needs > 0.3",
        "(and 1 more) · constant · never traded",
        "run-3/BAC crashed: its process ended with exit code 3",
        "2 agents: 1 PASS, 1 FAIL; 0 shown to beat buy-and-hold",
    ]


def test_windows_of_a_walk_forward_fit_into_eighty_columns(runs):
    lines = rendered([runs("XOM.w2015-01-04", "done", verdict()), runs("XOM.w2016-01-04", "done", failed_verdict())])
    assert lines[5:8] == [
        "agent            grade  what it shows",
        "XOM.w2015-01-04  PASS   Sharpe 0.41, no evidence of an edge over buy-and-hold",
        "                        (+0.05, 95 % CI -0.80 to 0.90)",
    ]
    assert lines[21].startswith("run-1/XOM.w2015-01-04 PASS at step 500")


def test_intervened_runs_are_labelled_in_the_verdicts_and_in_the_list(runs):
    def intervened(agent, state, given):
        run = runs(agent, state, given)
        run.update_status(agents={agent: {"verdict": given, "interventions": 2}})
        return run

    made = [intervened("AAPL", "done", verdict()), intervened("AMD", "failed", None), runs("BAC", "done", verdict())]
    text = "\n".join(rendered(made))
    assert "run-1/AAPL  PASS*  " in text
    assert "run-3/BAC   PASS   " in text
    assert "* intervened while training" in text
    assert "constant · intervened" in text
    assert "run-2/AMD failed, intervened" in text
    assert "2 agents: 2 PASS; 0 shown to beat buy-and-hold; 1 intervened" in text
    assert "0 of 2 agents are shown to beat buy-and-hold; luck alone shows about 0.0." in text
    assert [line.verdict for line in run_lines(made, 0.0)] == ["PASS (intervened)", "– (intervened)", "PASS"]


def test_a_long_name_takes_the_room_of_the_last_columns(runs):
    name = "AAPL.s2.gae_lambda=0.98"
    lines = rendered([runs(name, "done", verdict())])
    assert lines[6:8] == [
        "AAPL.s2.gae_lambda=0.98  PASS   Sharpe 0.41, no evidence of an edge over",
        "                                buy-and-hold (+0.05, 95 % CI -0.80 to 0.90)",
    ]


def test_synthetic_data_are_named_in_the_title(runs):
    lines = rendered([runs("AAPL", "done", verdict(), synthetic=True)])
    assert lines[0].startswith("SYNTHETIC data. AAPL is not shown to beat buy-and-hold.")
    assert " ".join(lines[3:5]).startswith(
        "phase3: verdicts on the validation split, SYNTHETIC data: no evidence about a real market"
    )


def test_a_run_without_verdicts_says_its_state(runs):
    assert rendered([runs("AAPL", "stopped", None, "on request")]) == [
        "phase3: verdicts on the validation split",
        "run-1/AAPL stopped: on request",
    ]


def test_what_an_intervention_did_is_said_once():
    acts = ((1, "ent-boost fired: ppo.ent_coef 0.01 → 0.05"), (2, "steady fired: ppo.clip_range 0.2 → 0.1"))
    console = Console(file=io.StringIO(), force_terminal=False, width=120)
    display = PlainLines(console)
    display.show([agent(interventions=2, acts=acts)])  # both since the last look
    display.show([agent(interventions=2, acts=acts)])
    display.show([agent(interventions=2, acts=(*acts, (3, "ent-boost released: ppo.ent_coef 0.05 → 0.01")))])
    said = console.file.getvalue()
    assert [said.count(did) for did in ("ent-boost fired", "steady fired", "ent-boost released")] == [1, 1, 1]
    assert said.index("ent-boost fired") < said.index("steady fired") < said.index("ent-boost released")


@pytest.mark.parametrize("acted", [False, True])
def test_the_live_table_counts_what_interventions_did(acted):
    display = LiveTable(terminal(), "phase3")
    moved = agent("run-1/AMD", interventions=2, acts=((2, "back fired: back to init"),))
    display.show([agent(), moved if acted else agent("run-1/AMD")])
    text = "\n".join(drawn(display))
    assert ("acts" in text) is acted
    assert ("back to init" in text) is acted
