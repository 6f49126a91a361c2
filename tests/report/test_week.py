"""The weekly report: compared whole, frozen with its week, true to the files, kind to what people wrote into it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest

from p3kit import metrics
from p3kit.diagnose.findings import format_missed
from p3kit.errors import InputError, RunNotFound
from p3kit.report import summarise_week, write_week
from p3kit.report.hand_written import keep_hand_written
from p3kit.report.lessons_data import gather_attempts
from p3kit.report.lessons_page import render_lessons
from p3kit.report.markdown import experiment_title
from p3kit.report.run_history import command_line
from p3kit.report.week_issues import issues
from p3kit.report.week_page import agent_line, next_steps, stability
from p3kit.rundir import RunDir
from tests.command import invoke
from tests.diagnose.test_table import all_hold, never_trades
from tests.made_runs import MONDAY, Row, clock_at, intervene, make_run, spec_with

Golden = Callable[[str, str], None]
DAY = 86_400.0
SYMBOLS = ["AAPL", "AMD", "BAC", "HD", "JNJ", "JPM", "MSFT", "PG", "WMT", "XOM"]


def week_of_phase3(root: Path) -> None:
    """Ten agents in every state that a week can leave them in."""
    make_run(root, symbol="AAPL", best_sharpe=0.62, symbols=SYMBOLS)
    make_run(root, symbol="AMD", best_sharpe=0.05, verdict="FAIL", seed=2, symbols=SYMBOLS)
    make_run(root, symbol="BAC", best_sharpe=0.45, seed=3, symbols=SYMBOLS)
    spec = spec_with(ppo__ent_coef=0.001)
    make_run(root, symbol="HD", fault=all_hold, eval_fault=never_trades, verdict="FAIL", spec=spec, symbols=SYMBOLS)
    make_run(root, symbol="JNJ", until=0.45, state="running", symbols=SYMBOLS)
    make_run(root, symbol="JPM", until=0.12, state="crashed", message="its process is gone", symbols=SYMBOLS)
    make_run(root, symbol="MSFT", best_sharpe=0.9, verdict="STRETCH", seed=9, symbols=SYMBOLS)
    make_run(root, symbol="PG", until=0.3, state="stopped", symbols=SYMBOLS)
    make_run(root, symbol="WMT", until=0.0, state="queued", symbols=SYMBOLS)


def write(root: Path, output: Path, week: int = 1, now: float = MONDAY + DAY, name: str | None = None) -> str:
    return write_week(summarise_week(root, week, now, name), output, week).read_text(encoding="utf-8")


def test_the_guides_shape_with_numbers_from_files(tmp_path: Path, golden: Golden) -> None:
    week_of_phase3(tmp_path / "runs")
    text = write(tmp_path / "runs", tmp_path / "reports")
    golden("report/week-01.md", text)
    for picture in ("week-01/phase3-learning.png", "week-01/phase3-reward.png", "week-01/phase3-equity.png"):
        assert f"({picture})" in text
        assert (tmp_path / "reports" / picture).stat().st_size > 10_000


def test_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    make_run(tmp_path / "runs")
    files = []
    for output in ("first", "second"):
        write(tmp_path / "runs", tmp_path / output, now=MONDAY + (1 if output == "first" else 2) * DAY)
        files.append({path.name: path.read_bytes() for path in sorted((tmp_path / output).rglob("*.*"))})
    assert files[0] == files[1]
    assert len(files[0]) == 4


def test_an_edge_has_one_label_in_the_whole_line(tmp_path: Path) -> None:
    make_run(tmp_path, best_sharpe=0.62)
    (agent,) = summarise_week(tmp_path, 1, MONDAY + DAY)[0].agents
    too_few = {**agent.judged, "why_not": "6 trades, 10 are needed"}
    for judged, words in ((None, "the run keeps no returns"), (too_few, "6 trades, 10 are needed")):
        line = agent_line(replace(agent, judged=judged))
        assert line.startswith("➖ AAPL: Sharpe 0.64 (PASS), 95% interval")
        assert f"], passed; edge not judged: {words}" in line
        assert "not shown" not in line
    assert "edge not shown" in agent_line(agent)
    assert "not judged" not in agent_line(agent)


def test_an_old_week_never_changes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", until=0.4, state="running")
    before = write(tmp_path / "runs", tmp_path / "before", now=MONDAY + 8 * DAY)
    row = {
        "agent": "AAPL",
        "iteration": 99,
        "global_step": 100_000,
        "time": MONDAY + 8 * DAY,
        "metrics": {"policy/entropy": 0.1},
    }
    run.append_metrics([row])
    with clock_at(MONDAY + 8 * DAY):
        run.append_event("crash", message="gone in the second week")
        run.write_status({"state": "crashed", "heartbeat": MONDAY + 8 * DAY, "agents": {}})
    make_run(tmp_path / "runs", symbol="AAPL", started=MONDAY + 9 * DAY)
    after = write(tmp_path / "runs", tmp_path / "after", now=MONDAY + 30 * DAY)
    assert after == before
    second = write(tmp_path / "runs", tmp_path / "after", week=2, now=MONDAY + 30 * DAY)
    assert "## Agents Completed: 1/1" in second


def test_a_week_without_runs_names_the_weeks_that_have_some(tmp_path: Path, golden: Golden) -> None:
    make_run(tmp_path / "runs")
    make_run(tmp_path / "runs", symbol="AAPL", started=MONDAY + 15 * DAY)
    golden("report/empty-week.md", write(tmp_path / "runs", tmp_path / "reports", week=2, now=MONDAY + 60 * DAY))


def test_weeks_are_counted_from_start_date_or_the_first_run(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    [experiment] = summarise_week(tmp_path / "a", 1, MONDAY + DAY)
    assert (experiment.first_day, experiment.last_day) == (date(2027, 1, 4), date(2027, 1, 10))
    assert experiment.weeks_with_runs == [1]
    make_run(tmp_path / "b", spec=spec_with(start_date="2026-12-28"))
    [dated] = summarise_week(tmp_path / "b", 2, MONDAY + DAY)
    assert (dated.first_day, dated.weeks_with_runs) == (date(2027, 1, 4), [2])
    assert not summarise_week(tmp_path / "b", 1, MONDAY + DAY)[0].has_runs


def test_several_experiments_get_a_section_each(tmp_path: Path) -> None:
    make_run(tmp_path, name="phase3")
    make_run(tmp_path, name="smoke", symbol="MSFT")
    text = write(tmp_path, tmp_path / "reports")
    assert text.index("# Phase 3 Training Status - Week 1") < text.index("# smoke Training Status - Week 1")
    only = write(tmp_path, tmp_path / "reports", name="smoke")
    assert "Phase 3" not in only


def test_several_seeds_are_agents_of_their_own(tmp_path: Path) -> None:
    spec = spec_with(seeds=[1, 2])
    make_run(tmp_path, spec=spec, agent_name="AAPL.s1")
    text = write(tmp_path, tmp_path / "reports")
    assert "## Agents Completed: 1/2" in text
    assert "- ⏳ AAPL.s2: not started" in text


def test_seeds_are_aggregated_and_every_try_counts(tmp_path: Path) -> None:
    """The middle half of four seeds; each is deflated by all evaluations of the symbol, the other seeds' too."""
    make_run(tmp_path, best_sharpe=2.0)  # seed 1 alone, before there were several: a try, and no fifth seed
    spec = spec_with(seeds=[1, 2, 3, 4])
    for seed, best in enumerate((0.1, 0.5, 0.7, 3.0), start=1):
        make_run(tmp_path, spec=spec, agent_name=f"AAPL.s{seed}", seed=seed, best_sharpe=best)
    [experiment] = summarise_week(tmp_path, 1, MONDAY + DAY)
    [group] = experiment.over_seeds
    lowest, low, high, highest = sorted(group.sharpes)
    assert group.interquartile_mean == pytest.approx((low + high) / 2)
    assert group.mean == pytest.approx((lowest + low + high + highest) / 4)
    runs = [RunDir.open(path) for path in sorted(tmp_path.glob("run-*"))]
    tried = [e["metrics"]["eval/sharpe_ratio"] for run in runs for e in run.read_events("evaluation")]
    assert len(tried) > 4 * 3
    for agent in experiment.agents[:4]:
        assert agent.deflated is not None
        assert agent.deflated.trials == len(tried)
        assert agent.deflated.value == metrics.deflated_sharpe(
            agent.scores.sharpe, 252.0, bars=490, trials=len(tried), sharpe_std=np.std(tried, ddof=1),
            skewness=-0.3, kurtosis=6.0,
        )  # fmt: skip
    text = write(tmp_path, tmp_path / "reports")
    assert f"| AAPL | 4 of 4 | {group.mean:.2f} ± {group.std:.2f} | {group.interquartile_mean:.2f} |" in text
    assert f"{experiment.agents[3].deflated.value:.2f} ({len(tried)}) |" in text


def test_synthetic_data_are_labelled(tmp_path: Path) -> None:
    make_run(tmp_path, synthetic=True)
    text = write(tmp_path, tmp_path / "reports")
    assert "**Synthetic data.**" in text
    assert "synthetic (not real)" in text


def test_a_graded_run_counts_until_its_successor_is_graded(tmp_path: Path) -> None:
    make_run(tmp_path, verdict="PASS")
    make_run(tmp_path, until=0.2, state="running", started=MONDAY + 3_600)
    [experiment] = summarise_week(tmp_path, 1, MONDAY + DAY)
    [agent] = experiment.agents
    assert agent.grade == "PASS"
    assert agent.retrained_in == "run-2"


def test_an_intervention_is_told_with_its_outcome(tmp_path: Path) -> None:
    def passing(row: Row, progress: float, tick: int) -> None:
        if 6 <= tick < 12:
            all_hold(row, 1.0, tick)

    run = make_run(tmp_path, fault=passing)
    with clock_at(MONDAY + 300):
        run.append_event(
            "intervention",
            agent="AAPL",
            global_step=31_000,
            row="policy.hold",
            decision="fired",
            keys={"ppo.ent_coef": [0.01, 0.05]},
        )
    text = write(tmp_path, tmp_path / "reports")
    assert "premature convergence (all HOLD), from 29k to 53k" in text
    assert "→ ppo.ent_coef 0.01 → 0.05 at 31k, recovered" in text


def test_a_journal_as_trainers_write_it_reads_well(tmp_path: Path) -> None:
    """A controller's many turns are one line, a change whose time was up recovered nothing, verbs have words."""
    run = make_run(tmp_path)
    for step, (before, after) in ((4_096, (3e-4, 2e-4)), (8_192, (2e-4, 1.33e-4)), (12_288, (1.33e-4, 2e-4))):
        keys = {"ppo.learning_rate": [before, after]}
        intervene(run, "fired", step, row="", keys=keys, rule="kl-adaptive-lr", factor=after / 3e-4)
    cost = {"reward.weights.cost": [0.15, 0.05]}
    intervene(run, "fired", 20_480, row="trade.never", keys=cost, rule="cheap")
    back = {"reward.weights.cost": [0.05, 0.15]}
    intervene(run, "released", 30_480, row="trade.never", keys=back, rule="cheap", expired=True)
    intervene(run, "fired", 24_576, row="net.dormant", rule="wake", did=[{"reinit": "dormant"}])
    intervene(run, "verified", 32_768, row="net.dormant", rule="wake")
    intervene(run, "fired", 40_960, row="reward.bimodal", rule="look", did=[{"dump": "episode_replay", "episodes": 2}])
    text = write(tmp_path, tmp_path / "reports")
    assert 'AAPL: intervention "kl-adaptive-lr" → ppo.learning_rate 3e-4 → 2e-4 in 3 turns from 4.1k on' in text
    assert "→ reward.weights.cost 0.15 → 0.05 at 20k, outcome not known (over at 30k)" in text
    assert "AAPL: Dormant units → dormant units reinitialised at 25k, recovered (verified at 33k)" in text
    assert "→ episodes written to replays/ at 41k" in text
    assert "| AAPL | PASS, intervened |" in text
    assert "; intervened" in text.split("## Training Stability")[0]


def test_who_only_looked_has_not_intervened(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    intervene(run, "fired", 40_960, row="reward.bimodal", did=[{"dump": "episode_replay"}, {"note": "see the replay"}])
    intervene(run, "suppressed", 40_960, keys={"ppo.ent_coef": [0.01, 0.05]})
    assert "intervened" not in write(tmp_path, tmp_path / "reports")


def test_a_rule_for_several_agents_is_told_of_those_it_changed(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    each = {"AAPL": {"keys": {"ppo.clip_range": [0.3, 0.15]}, "checkpoint": None}}
    keys = {"ppo.clip_range": [0.2, 0.1]}
    intervene(run, "fired", 31_000, row="train.kl", keys=keys, agent=None, agents=["AAPL", "AMD"], by_agent=each)
    intervene(run, "fired", 35_000, row="train.kl", keys=keys, agent=None, agents=["AMD", "BAC"], rule="theirs")
    text = write(tmp_path, tmp_path / "reports")
    assert "→ ppo.clip_range 0.3 → 0.15 at 31k" in text
    assert "at 35k" not in text


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda root: make_run(root), "GOOD"),
        (lambda root: make_run(root, fault=lambda r, p, t: r.update({"policy/clip_fraction": 0.5})), "FAIR"),
        (lambda root: make_run(root, fault=all_hold), "POOR"),
        (lambda root: make_run(root, until=0.3, state="crashed"), "POOR"),
        (lambda root: make_run(root, until=0.0, state="queued"), "NOT KNOWN"),
    ],
    ids=["healthy", "warning", "critical", "crashed", "nothing"],
)
def test_the_word_for_stability(make: Callable[[Path], object], word: str, tmp_path: Path) -> None:
    make(tmp_path)
    [experiment] = summarise_week(tmp_path, 1, MONDAY + DAY)
    assert stability(experiment).word == word


@pytest.mark.parametrize(("count", "words"), [(1, "S00: "), (10, "10 of 10 agents: ")])
def test_information_that_all_agents_share_is_an_issue(tmp_path: Path, count: int, words: str) -> None:
    make_run(tmp_path, fault=lambda row, progress, tick: row.update({"policy/entropy_norm": 0.96}))
    [experiment] = summarise_week(tmp_path, 1, MONDAY + DAY)
    [agent] = experiment.agents
    told = [one for one in agent.findings if one.raised and one.severity == "information" and one.follows is None]
    assert told
    shared = [replace(agent, name=f"S{n:02d}", findings=told) for n in range(count)]
    lines = issues(replace(experiment, agents=shared))
    assert [line for line in lines if line.startswith(words) and told[0].row.title in line]
    if count > 1:  # what one agent alone has is left to its diagnosis
        assert issues(replace(experiment, agents=[*shared[:-1], replace(shared[-1], findings=())])) == []


def test_an_agent_that_hardly_trained_is_to_train_longer(tmp_path: Path) -> None:
    make_run(tmp_path)
    [experiment] = summarise_week(tmp_path, 1, MONDAY + DAY)
    agents = [replace(agent, labels=["hardly trained"]) for agent in experiment.agents]
    steps = next_steps(replace(experiment, agents=agents))
    assert len(steps) == 1
    assert steps[0].startswith(f"Train {agents[0].name} longer")
    assert len(next_steps(experiment)) > 1


def test_an_agent_whose_edge_is_not_judged_is_not_among_the_best(tmp_path: Path) -> None:
    make_run(tmp_path)
    [experiment] = summarise_week(tmp_path, 1, MONDAY + DAY)
    agents = [replace(agent, judged=None) for agent in experiment.agents]
    steps = next_steps(replace(experiment, agents=agents))
    assert steps == [f"Train {agents[0].name} with other settings: passed, but an edge cannot be judged"]


def test_a_long_list_of_issues_is_grouped_by_symptom(tmp_path: Path) -> None:
    make_run(tmp_path, fault=all_hold)
    [experiment] = summarise_week(tmp_path, 1, MONDAY + DAY)
    [agent] = experiment.agents
    few, many = (
        issues(replace(experiment, agents=[replace(agent, name=f"S{n:02d}") for n in range(count)]))
        for count in (3, 60)
    )
    assert [line.partition(":")[0] for line in few] == [f"S{n:02d}" for n in range(3) for _ in agent.alarms]
    assert len(many) == len(agent.alarms)
    names = ", ".join(f"S{n:02d}" for n in range(8))
    assert re.match(rf"[A-Z].*: 60 agents \({names} and 52 more\), still open in 60\. S00 since \d+k \(.*→", many[0])


def test_a_missed_value_never_reads_as_its_threshold() -> None:
    assert (format_missed(0.29996, "> 0.3"), format_missed(0.21, "> 0.3")) == ("0.29996", "0.21")


def test_hand_written_parts_survive(tmp_path: Path) -> None:
    make_run(tmp_path / "runs")
    write(tmp_path / "runs", tmp_path / "reports")
    path = tmp_path / "reports" / "week-01.md"
    note = "We moved the desk on Tuesday.\n"
    text = path.read_text(encoding="utf-8").replace("<!-- /keep -->", f"{note}<!-- /keep -->")
    path.write_text(text, encoding="utf-8")
    make_run(tmp_path / "runs", symbol="AAPL", started=MONDAY + 3_600, best_sharpe=1.2)
    again = write(tmp_path / "runs", tmp_path / "reports")
    assert note in again
    assert again != text


def test_a_kept_part_without_a_place_is_not_dropped(tmp_path: Path) -> None:
    path = tmp_path / "old.md"
    path.write_text("<!-- keep:gone -->\nprecious\n<!-- /keep -->\n", encoding="utf-8")
    assert "precious" in keep_hand_written("# new\n", path)


@pytest.mark.parametrize(
    "text", ["<!-- keep:a -->\nno end\n", "<!-- /keep -->\n", "<!-- keep:a -->\n<!-- keep:b -->\n"]
)
def test_broken_markers_stop_before_anything_is_overwritten(text: str, tmp_path: Path) -> None:
    path = tmp_path / "old.md"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"old\.md:\d"):
        keep_hand_written("# new\n", path)
    assert path.read_text(encoding="utf-8") == text


def test_no_runs_and_unknown_names_are_said(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match="no runs to report on"):
        summarise_week(tmp_path, 1, MONDAY)
    make_run(tmp_path)
    with pytest.raises(RunNotFound, match="there are: phase3"):
        summarise_week(tmp_path, 1, MONDAY, "phase4")


def test_words_from_users_cannot_break_the_page() -> None:
    assert experiment_title("phase3") == "Phase 3"
    assert experiment_title("my|test") == "my\\|test"


def test_command_writes_the_file_and_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    now = datetime.now(UTC).timestamp()
    make_run(tmp_path / "runs", started=now - 7_200)
    make_run(tmp_path / "runs", started=now - 7_200, name="../../etc", symbol="MSFT")
    plain_result = invoke("report", "--week", "1", "--name", "phase3")
    assert plain_result.exit_code == 0, plain_result.output
    assert plain_result.stdout.strip() == "reports/week-01-phase3.md"
    result = invoke("report", "--week", "1", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert [e["name"] for e in told["experiments"]] == ["../../etc", "phase3"]
    assert told["experiments"][1]["agents"][0]["grade"] == "PASS"
    assert {path.parent.parent for path in tmp_path.rglob("*.png") if "week-01" in str(path)} == {tmp_path / "reports"}
    usage = invoke("report", "--week", "0")
    assert usage.exit_code == 2


def test_a_damaged_run_is_named_and_does_not_hide_the_others(tmp_path: Path) -> None:
    root, started = tmp_path / "runs", datetime.now(UTC).timestamp() - 7_200
    make_run(root, started=started)
    for file in ("run.json", "metrics.jsonl", "events.jsonl"):
        damaged = make_run(root, started=started)
        (damaged.path / file).write_text("{\n")
    result = invoke("report", "--week", "1", "--runs", root, "--output", tmp_path / "reports")
    assert result.exit_code == 1
    assert result.stdout.strip().endswith("week-01.md")
    told = result.stderr.splitlines()
    assert [line.split("runs/")[1].split(":")[0] for line in told] == [
        "run-2/run.json",
        "run-3/metrics.jsonl",
        "run-4/events.jsonl",
    ]
    assert "Runs run-1 ·" in (tmp_path / "reports" / "week-01.md").read_text(encoding="utf-8")


def test_a_run_dated_after_the_clock_is_not_known_yet(tmp_path: Path) -> None:
    make_run(tmp_path / "runs")
    page = write(tmp_path / "runs", tmp_path / "reports", now=MONDAY - DAY)
    assert "No runs of `phase3` in week 1 " in page
    assert "There are runs" not in page


def test_intervened_agents_read_well(tmp_path: Path, golden: Golden) -> None:
    """Repaired and verified, repaired in vain, rolled back, held back, and on a trigger that no row shows."""

    def passing(row: Row, progress: float, tick: int) -> None:
        if 6 <= tick < 12:
            all_hold(row, 1.0, tick)

    root, symbols = tmp_path / "runs", ["AAPL", "AMD", "BAC", "HD", "JNJ"]
    verified = make_run(root, symbol="AAPL", symbols=symbols, fault=passing)
    intervene(verified, "suppressed", 26_000)
    intervene(verified, "fired", 31_000, keys={"ppo.ent_coef": [0.01, 0.05]})
    intervene(verified, "released", 45_000)
    intervene(verified, "verified", 49_000)
    in_vain = make_run(root, symbol="AMD", symbols=symbols, fault=all_hold, eval_fault=never_trades, verdict="FAIL")
    intervene(in_vain, "fired", 40_000, agent="AMD", keys={"ppo.ent_coef": [0.01, 0.05]})
    intervene(in_vain, "failed", 60_000, agent="AMD")
    intervene(in_vain, "fired", 62_000, agent="AMD", keys={"reward.weights.cost": [0.15, 0.05]})
    back = make_run(root, symbol="BAC", symbols=symbols)
    keys = {"ppo.learning_rate": [3e-4, 3e-5]}
    intervene(back, "fired", 8_192, agent="BAC", row="opt.step_too_big", keys=keys, checkpoint="init.pt")
    intervene(back, "verified", 20_480, agent="BAC", row="opt.step_too_big")
    held = make_run(root, symbol="HD", symbols=symbols, fault=all_hold, verdict="FAIL")
    for step in (40_000, 44_000):
        intervene(held, "suppressed", step, agent="HD")
    on_metric = make_run(root, symbol="JNJ", symbols=symbols, until=0.5, state="running")
    intervene(on_metric, "fired", 30_000, agent="JNJ", row="", keys={"ppo.clip_range": [0.2, 0.1]})
    golden("report/intervened.md", write(root, tmp_path / "reports").split("## Validation")[0])


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    make_run(tmp_path / "runs")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "week.md.j2").write_text(
        "{% for section in sections %}{{ section.experiment.complete | length }} done{% endfor %}\n"
    )
    experiments = summarise_week(tmp_path / "runs", 1, MONDAY + DAY)
    path = write_week(experiments, tmp_path / "reports", 1, templates=tmp_path / "own")
    assert path.read_text() == "1 done\n"


def test_an_own_template_with_an_old_name_gets_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "lessons.md.j2").write_text("\n{{ experience.runs }}\n")
    make_run(tmp_path / "runs")
    history = gather_attempts(tmp_path / "runs")
    with pytest.raises(InputError, match=r"lessons\.md\.j2:2: .*`experience` is now `history`"):
        render_lessons(history, tmp_path / "l.md", tmp_path / "runs", tmp_path)


def test_links_are_relative_and_lead_to_files(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", name="my tests/2")
    path = write_week(summarise_week(tmp_path / "runs", 1, MONDAY + DAY), tmp_path / "reports", 1)
    links = re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8"))
    assert len(links) == 3
    assert all((path.parent / link).is_file() and "/../" not in link for link in links)


@pytest.mark.parametrize(
    ("recorded", "printed"),
    [
        (["/opt/p3kit", "run", "a b.toml", "--runs", "/home/me/r", "--jobs", "2"], "p3kit run 'a b.toml' --jobs 2"),
        (["p3kit", "run", "a.toml", "--runs=/home/me/r"], "p3kit run a.toml"),
        ([], "p3kit run"),
    ],
)
def test_a_command_to_repeat_names_no_folder_of_the_author(recorded: list[str], printed: str) -> None:
    assert command_line({"command": recorded}) == printed
