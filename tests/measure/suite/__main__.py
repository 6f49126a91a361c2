"""`python -m tests.measure.suite`: train, judge, score, write down."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from p3kit.diagnose.diagnosis import Rules
from p3kit.errors import P3kitError
from p3kit.rundir import RunDir
from p3kit.rundir.provenance import provenance
from p3kit.spec import load_rules
from tests.measure.suite.cases import BASE, Case, Sizes, load_cases
from tests.measure.suite.repair_rates import measure
from tests.measure.suite.scoring import Outcome, accepted, judge_live
from tests.measure.suite.suite_runs import Job, finished, train
from tests.measure.suite.tables import RESULTS, How, as_document, as_markdown, write_page

CALIBRATION_SEEDS, SCORE_SEEDS = 100, 200
"""Thresholds are chosen on seeds from 100 on; reported results come from seeds from 200 on."""
REPAIR_SEEDS = 240
"""First seed for repair: the pack, or its effect, was changed after the use of earlier seeds."""
REFERENCES = 10
"""Healthy runs behind each band: the edge of five moved by a quarter of a Sharpe ratio from seeds to seeds."""
QUICK_CONTROLS = ("C01", "C02", "C05", "C09", "C10", "C11")
Judged = tuple[RunDir, Outcome]


@click.command()
@click.option("--quick", is_flag=True, help="Short runs: every fault once at full strength, six controls once.")
@click.option("--full", is_flag=True, help="Long runs: every strength, healthy runs by the dozen, the guide's sizes.")
@click.option("--only", multiple=True, metavar="ID", help="These faults and controls (F01, F01.mild, C03).")
@click.option("--seeds", type=int, help="Seeds per fault at full strength; weaker ones get one fewer.  [1; full: 3]")
@click.option("--controls", type=int, help="Seeds per control; in --full also per reference.  [full: 7, repair: 5]")
@click.option("--calibrate", is_flag=True, help=f"Seeds from {CALIBRATION_SEEDS} on, not those that are reported.")
@click.option(
    "--rejudge",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    multiple=True,
    help="Judge the runs stored in this folder again; nothing is trained. Repeatable.",
)
@click.option("--rules", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Thresholds to judge by.")
@click.option("--repair", is_flag=True, help="Repairable faults: healthy, degraded and repaired runs; controls.")
@click.option("--page", is_flag=True, help="Write the committed results into docs/diagnosis.md.")
@click.option(
    "--runs",
    "root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/suite"),
    show_default=True,
    help="Work folder. What it holds already is not trained again, so that a call that was cut off can go on.",
)
@click.option("--minutes", type=float, help="Begin no run after this number of minutes.")
@click.option("--trainer", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="In place of ppo.py.")
@click.option("--jobs", type=int, default=len(os.sched_getaffinity(0)), show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="Write OUTPUT.json and OUTPUT.md.")
def main(
    quick: bool,
    full: bool,
    only: tuple[str, ...],
    seeds: int | None,
    controls: int | None,
    calibrate: bool,
    rejudge: tuple[Path, ...],
    rules: Path | None,
    repair: bool,
    page: bool,
    root: Path,
    minutes: float | None,
    trainer: Path | None,
    jobs: int,
    output: Path | None,
) -> None:
    """Measure the diagnosis on faults that are known."""
    if page:
        write_page()
        click.echo(f"docs/diagnosis.md from {', '.join(path.name for path in RESULTS.values())}")
        return
    cases = load_cases()
    overridden = None if rules is None else load_rules(rules)
    if rejudge:
        judged = _rejudged(rejudge, cases, only, overridden)
        _tell(judged, cases, output, "python -m tests.measure.suite --rejudge DIR")
        return
    if not (quick or full or only or repair):
        raise click.UsageError("give --quick, --full, --only ID, --repair, --rejudge DIR or --page")
    first = CALIBRATION_SEEDS if calibrate else SCORE_SEEDS
    command = " ".join(["python -m tests.measure.suite", *sys.argv[1:]])
    if repair:
        first = CALIBRATION_SEEDS if calibrate else REPAIR_SEEDS
        counts = (seeds or 1, REFERENCES, controls or 5)
        of_faults, of_references, of_controls = (range(first, first + count) for count in counts)
        measure(cases, only, of_faults, of_references, of_controls, root, trainer, jobs, output, command)
        return
    wanted = [case for case in cases.values() if not only or case.name in only or case.id in only]
    tier = full_tier(wanted, seeds or 3, controls or 7, first) if full else quick_tier(wanted, seeds or 1, first, only)
    judged = _run(tier, root, trainer, jobs, overridden, minutes)
    _tell(judged, cases, output, command)


def quick_tier(cases: Sequence[Case], seeds: int, first: int, only: Sequence[str] = ()) -> list[Job]:
    """Short runs: faults at full strength and a few controls, or the cases in `only`."""
    chosen = [
        case
        for case in cases
        if only or (case.kind == "fault" and case.strength == "full") or case.name in QUICK_CONTROLS
    ]
    return [Job(case, first + seed) for seed in range(seeds) for case in chosen]


def full_tier(cases: Sequence[Case], seeds: int, controls: int, first: int) -> list[Job]:
    """Every case on its first seed, then on its second, and so on: a tier that is cut off has seen all of them.

    Every other control is short, so that false alarms of both lengths are counted; the base run is always long, being
    what most faults are compared with. The guide's sizes come last.
    """
    rounds: list[list[Job]] = []
    for seed in range(max(seeds, controls)):
        jobs = []
        for case in sorted(cases, key=lambda case: case.kind == "fault"):  # healthy runs first: others are compared
            wanted = min(seeds - (case.strength != "full"), case.most_seeds or seeds)
            if case.kind == "fault" and seed < wanted:
                jobs.append(Job(case, first + seed, "long"))
            elif case.kind != "fault" and seed < controls:
                sizes: Sizes = "short" if case.kind == "control" and seed % 2 and case.name != BASE else "long"
                jobs.append(Job(case, first + seed, sizes))
        rounds.append(jobs)
    large = [Job(c, first, "guide") for c in cases if c.kind == "fault" and c.strength == "full" and _one_agent(c)]
    return [job for jobs in [*rounds, large] for job in jobs]


def _one_agent(case: Case) -> bool:
    return case.spec.get("trainer") is None


def _run(
    planned: Iterable[Job],
    root: Path,
    trainer: Path | None,
    processes: int,
    rules: Rules | None,
    minutes: float | None,
) -> list[Judged]:
    root.mkdir(parents=True, exist_ok=True)
    until = None if minutes is None else time.monotonic() + 60 * minutes
    planned = list(planned)
    judged = []
    for count, (job, seconds) in enumerate(train(planned, root, processes, trainer, until), 1):
        assert job.path is not None
        run = RunDir.open(job.path)
        outcome = judge_live(run, job.case, job.seed, job.sizes, rules)
        judged.append((run, outcome))
        said = ", ".join(
            f"{a.symptom} {a.severity[0]} {a.at_step / outcome.total_timesteps:.0%}" for a in outcome.alarms
        )
        mark = ("found " if accepted(outcome, job.case) else "MISSED") if job.case.kind == "fault" else job.case.kind
        line = f"[{count}/{len(planned)}] {mark} {job.name} ({outcome.state}, {seconds:.0f} s): {said or 'silent'}"
        click.echo(line, err=True)
    if len(judged) < len(planned):
        click.echo(f"{len(planned) - len(judged)} runs are left: the same command continues with them", err=True)
    return judged


def _rejudged(
    folders: Sequence[Path], cases: dict[str, Case], only: Sequence[str], rules: Rules | None
) -> list[Judged]:
    stored = [kept for folder in folders for kept in finished(folder) if kept.case in cases]
    return [
        (kept.run, judge_live(kept.run, cases[kept.case], kept.seed, kept.sizes, rules))
        for kept in stored
        if not only or kept.case in only or cases[kept.case].id in only
    ]


def _tell(judged: Sequence[Judged], cases: dict[str, Case], output: Path | None, command: str) -> None:
    outcomes = sorted((outcome for _, outcome in judged), key=lambda o: (o.case, o.sizes, o.seed))
    made = provenance()
    how = How(
        command=command,
        commit=made["git_commit"],
        trained_at=sorted({str(run.info().get("git_commit")) for run, _ in judged}),
        versions=made["versions"],
        machine=f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        seeds=sorted({outcome.seed for outcome in outcomes}),
    )
    text = as_markdown(outcomes, cases, how)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.with_suffix(".json").write_text(as_document(outcomes, cases, how), encoding="utf-8")
        output.with_suffix(".md").write_text(text, encoding="utf-8")
    click.echo(text)


if __name__ == "__main__":
    try:
        main()
    except P3kitError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
