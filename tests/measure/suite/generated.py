"""`python -m tests.measure.suite.generated`: train drawn runs, calibrate on healthy ones, score faults that were drawn.

  python -m tests.measure.suite.generated train pool        healthy configurations for calibration
  python -m tests.measure.suite.generated train development faults that may be looked at, and their healthy runs
  python -m tests.measure.suite.generated train held-out    those that are scored once
  python -m tests.measure.suite.generated calibrate         thresholds from the pool, written for the rows to read
  python -m tests.measure.suite.generated score held-out    recall, precision, delay and false alarms, with intervals
  python -m tests.measure.suite.generated train repaired    degraded held-out faults and healthy runs under repair
  python -m tests.measure.suite.generated page              the committed results into docs/diagnosis.md
  python -m tests.measure.suite.generated repair            what became of them, beside unrepaired runs of the same seed

Runs are kept with their records, so that changed rows judge them again in seconds. See `drawn_cases.py` for the seeds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from scipy import stats

from p3kit.diagnose import DETECTORS, Evidence, gather_run, judge
from p3kit.diagnose.calibration import FILE, calibration, pool_hash
from p3kit.interventions import STRICT
from p3kit.rundir import RunDir
from tests.measure.suite import drawn_cases
from tests.measure.suite.cases import Case
from tests.measure.suite.repair_rates import REPAIRED, read_trained
from tests.measure.suite.scoring import Outcome, Score, judge_live, unexplained
from tests.measure.suite.suite_runs import Job, finished, train

ROOT = Path("runs/generated")


PARTS = ("pool", "healthy", "development", "held-out", "repaired")


def jobs_of(part: str, root: Path = ROOT) -> list[Job]:
    """The runs of a part, those that are compared first."""
    if part == "repaired":
        return _repaired_jobs(root)
    if part == "pool":
        return [Job(drawn_cases.draw_configuration(seed), seed) for seed in drawn_cases.POOL]
    if part == "healthy":
        return [Job(drawn_cases.draw_configuration(seed), seed) for seed in drawn_cases.HELD_OUT_HEALTHY]
    held_out = part == "held-out"
    bases = drawn_cases.HELD_OUT_BASES if held_out else drawn_cases.BASES
    seeds = drawn_cases.HELD_OUT if held_out else drawn_cases.DEVELOPMENT
    references = [Job(drawn_cases.draw_base(base), seed) for seed in drawn_cases.REFERENCES for base in bases]
    faults = [Job(drawn_cases.draw_fault(seed, bases[seed // 4 % 2]), seed) for seed in seeds]
    return [*references, *faults]


def _repaired_jobs(root: Path) -> list[Job]:
    """Held-out faults that degraded their run by its outcome, and healthy configurations, under the repair rules."""
    stored = {(kept.case, kept.seed): read_trained(kept.run) for kept in finished(root / "held-out")}
    found = [(job, stored[key]) for job in jobs_of("held-out") if (key := (job.case.name, job.seed)) in stored]
    faults = []
    for job, trained in (pair for pair in found if pair[0].case.kind == "fault"):
        healthy_scores = [one.score for other, one in found if other.case.name == job.case.reference]
        fall, p = effect_of(trained.score, healthy_scores)
        if (fall > 1 and p < 0.05) or trained.state != "done":
            faults.append(Job(job.case, job.seed, overlay=REPAIRED))
    healthy = [
        Job(drawn_cases.draw_configuration(seed), seed, overlay=REPAIRED) for seed in drawn_cases.HELD_OUT_HEALTHY[:10]
    ]
    return [*faults, *healthy]


# --- outcomes ---------------------------------------------------------------------------------------------------------


def health_of(run: RunDir) -> str:
    """The reason why a run is not healthy by its outcome; "" for a healthy one. No row is read.

    A healthy run reaches its end with finite numbers. Its last validation Sharpe ratio is not worse than the lesser of
    HOLD and buy-and-hold, nor than its own first one, by more than the 95 % noise.
    """
    if run.status()["state"] != "done":
        return str(run.status()["state"])
    if run.read_events("nonfinite"):
        return "numbers that are not finite"
    for agent in run.agent_names():
        events = run.read_events("evaluation", agent=agent)
        (first, _), (last, noise) = _scored(events[0]), _scored(events[-1])
        hold = float(events[-1]["metrics"].get("eval/buy_and_hold_sharpe") or 0.0)
        if last + noise < min(0.0, hold, first):
            return f"{agent}: Sharpe {last:.2f} ± {noise:.2f}, {first:.2f} at first, buy-and-hold {hold:.2f}"
    return ""


def _scored(event: dict[str, Any]) -> tuple[float, float]:
    interval = event.get("sharpe_interval") or (0.0, 0.0)
    return float(event["metrics"].get("eval/sharpe_ratio") or 0.0), (interval[1] - interval[0]) / 2


def effect_of(score: float, healthy: Sequence[float]) -> tuple[float, float]:
    """Fall of one run below healthy ones in their standard deviations, and the one-sided p of that.

    The p is of Student's prediction interval for one more run: a permutation of 1 among 6 cannot fall below 0.14.
    """
    spread = max(float(np.std(healthy, ddof=1)), 1e-9)
    fall = (float(np.mean(healthy)) - score) / spread
    return fall, float(stats.t.sf(fall / np.sqrt(1 + 1 / len(healthy)), len(healthy) - 1))


@dataclass(frozen=True)
class Drawn:
    """One drawn fault: the effect that it had, and the rows that answered it."""

    case: Case
    outcome: Outcome
    fall: float
    p: float

    @property
    def counts(self) -> bool:
        """True if it degrades the run by more than one deviation with p < 0.05, ends it, or breaks a contract."""
        is_hurt = self.fall > 1 and self.p < 0.05
        return is_hurt or self.case.harm == "contract" or self.outcome.state != "done"

    @property
    def right(self) -> list[Any]:
        """Root rows of the fault's family at warning or critical, from its onset on."""
        begin, family = self.case.onset * self.outcome.total_timesteps, drawn_cases.FAMILIES[self.case.strength]
        own = [alarm for alarm in unexplained(self.outcome) if alarm.symptom.partition(".")[0] in family]
        return [alarm for alarm in own if alarm.at_step >= begin]

    @property
    def delay(self) -> float:
        """Share of the budget from the onset to the first right row; infinite without one."""
        steps = [alarm.at_step for alarm in self.right]
        return min(steps) / self.outcome.total_timesteps - self.case.onset if steps else np.inf


def judged(folder: Path, jobs: Sequence[Job]) -> Iterator[tuple[Job, RunDir, Outcome]]:
    """The stored runs of some jobs, judged as they would have been live."""
    stored = {(kept.case, kept.seed): kept.run for kept in finished(folder)}
    for job in jobs:
        run = stored.get((job.case.name, job.seed))
        if run is not None:
            yield job, run, judge_live(run, job.case, job.seed, job.sizes)


def drawn_faults(folder: Path, part: str) -> tuple[list[Drawn], list[Outcome]]:
    """The faults of a part with their effects, and the healthy runs that they were compared with."""
    found = list(judged(folder / part, jobs_of(part)))
    healthy = [(job.case.name, outcome) for job, _, outcome in found if job.case.kind == "reference"]
    drawn = []
    for job, _, outcome in found:
        if job.case.kind == "fault":
            scores = [one.score or 0.0 for name, one in healthy if name == job.case.reference]
            drawn.append(Drawn(job.case, outcome, *effect_of(outcome.score or 0.0, scores)))
    return drawn, [outcome for _, outcome in healthy]


# --- calibration ------------------------------------------------------------------------------------------------------


def threshold_of(row: str, evidences: Sequence[Evidence]) -> float | None:
    """The threshold nearest to the row's own at which it is silent on all evidences: the maximum statistic."""
    warn = catalogue_threshold(row)
    factors = 1.05 ** np.arange(0, 60)
    for factor in sorted([*factors, *1 / factors], key=lambda one: abs(float(np.log(one)))):
        if all(_is_silent(row, evidence, warn * float(factor)) for evidence in evidences):
            return float(f"{warn * factor:.3g}")
    return None


def catalogue_threshold(row: str) -> float:
    """The threshold that the catalogue gives a row, before calibration."""
    own = calibration()["rows"].get(row)
    return DETECTORS[row].warn if own is None else float(own["catalogue"])


def _is_silent(row: str, evidence: Evidence, warn: float) -> bool:
    diagnose = dict(evidence.spec.get("diagnose") or {})
    rows = {**(diagnose.get("rows") or {}), row: {"warn": warn}}
    finding = DETECTORS[row](replace(evidence, spec={**evidence.spec, "diagnose": {**diagnose, "rows": rows}}))
    return not (finding.raised and finding.alarming)


def calibrated(folder: Path) -> dict[str, Any]:
    """Thresholds of the rows that healthy runs of the pool raise, and what they were made from."""
    runs = [kept.run for kept in finished(folder / "pool") if not health_of(kept.run)]
    evidences = [replace(one, twins=None) for run in runs for one in gather_run(run)]
    raised = {f.symptom for one in evidences for f in judge(one) if f.raised and f.alarming and f.follows is None}
    rows, unmoved = {}, []
    for row in sorted(raised):
        warn = threshold_of(row, evidences)
        if warn is None or catalogue_threshold(row) == 0:
            unmoved.append(row)
        elif warn != catalogue_threshold(row):
            rows[row] = {"warn": warn, "catalogue": catalogue_threshold(row)}
    rule = "the threshold of the catalogue, or the largest statistic of the pool if that is beyond it"
    return {
        "rule": rule,
        "pool": pool_hash([run.path for run in runs]),
        "runs": len(runs),
        "rows": rows,
        "not_by_a_threshold": unmoved,
    }


# --- words ------------------------------------------------------------------------------------------------------------


def summary(drawn: Sequence[Drawn], healthy: Sequence[Outcome]) -> dict[str, Any]:
    """Recall, precision and delay over the faults that count, and false alarms of healthy runs."""
    counted = [one for one in drawn if one.counts]
    roots = [(one, alarm) for one in counted for alarm in unexplained(one.outcome)]
    delays = [one.delay for one in counted]
    return {
        "faults": len(drawn),
        "counted": len(counted),
        "recall": Score(sum(bool(one.right) for one in counted), len(counted)).to_json(),
        **{
            f"recall_{kind}": Score(
                sum(bool(one.right) for one in counted if one.case.strength == kind),
                sum(one.case.strength == kind for one in counted),
            ).to_json()
            for kind in drawn_cases.KINDS
        },
        "recall_any_row": Score(sum(bool(unexplained(one.outcome)) for one in counted), len(counted)).to_json(),
        "precision": Score(sum(alarm in one.right for one, alarm in roots), len(roots)).to_json(),
        "median_delay": median(delays) if delays and np.isfinite(median(delays)) else None,
        "healthy": Score(sum(bool(_alarms(one)) for one in healthy), len(healthy)).to_json(),
    }


def _alarms(outcome: Outcome) -> list[str]:
    return [alarm.symptom for alarm in outcome.alarms if alarm.severity in ("warning", "critical")]


def _lines(drawn: Sequence[Drawn], healthy: Sequence[Outcome]) -> Iterator[str]:
    for one in drawn:
        roots = ", ".join(
            f"{a.symptom}@{a.at_step / one.outcome.total_timesteps:.0%}" for a in unexplained(one.outcome)
        )
        state = "counts" if one.counts else "no harm"
        mark = "found " if one.right else "MISSED" if one.counts else "      "
        effect = f"{state}, {one.fall:.1f} sd, p {one.p:.3f}"
        yield f"{mark} {one.case.name} {one.case.title}: {effect}: {roots or 'nothing'}"
    for outcome in healthy:
        if alarms := _alarms(outcome):
            yield f"false alarm {outcome.case} seed {outcome.seed}: {', '.join(alarms)}"


@click.group()
def main() -> None:
    """Train, calibrate and score drawn runs."""


RESULTS = Path(__file__).parent / "results" / "generated.json"
PAGE = Path(__file__).parents[3] / "docs" / "diagnosis.md"
BEGIN, END = "<!-- drawn -->", "<!-- end of drawn -->"
TITLES = {
    "recall": "recall: a root row of the fault's family, warning or critical",
    "recall_key": "… numeric keys of the spec",
    "recall_component": "… components of the reward",
    "recall_buffer": "… fields of the rollout buffer",
    "recall_column": "… columns of the features",
    "recall_any_row": "recall of any root row",
    "precision": "precision of root rows",
    "median_delay": "median delay after onset",
    "healthy": "healthy runs with a warning",
    "references": "… of those that the faults are compared with",
    "repaired": "degraded runs back in the healthy band under `repair`",
    "repaired_settings": "… faults of a setting, which is what the rules claim to repair",
    "repaired_where_acted": "… where a rule acted",
    "worse_than_unrepaired": "… acted on, and worse than the unrepaired run of the same seed",
    "healthy_acted_on": "healthy runs that a rule acted on",
}
SHOWN = ("second held-out part", "fourth part", "fifth part")
"""The parts of the table; the text of the page has the others."""
OWN = {"recall": "recall", "precision": "precision", "healthy": "controls_alarmed", "median_delay": "median_delay"}
OWN_REPAIR = {"repaired": "repaired", "repaired_where_acted": "repaired_where_acted",
              "healthy_acted_on": "controls_acted_on"}  # fmt: skip


def page_table() -> str:
    """The figures of the committed results side by side."""
    folder = RESULTS.parent
    parts = [part for part in json.loads(RESULTS.read_text(encoding="utf-8"))["parts"] if part["title"] in SHOWN]
    own = json.loads((folder / "scored.json").read_text(encoding="utf-8"))["totals"]
    repaired = json.loads((folder / "repair.json").read_text(encoding="utf-8"))["totals"]
    columns = [
        {**{key: own[name] for key, name in OWN.items()}, **{key: repaired[name] for key, name in OWN_REPAIR.items()}},
        *parts,
    ]
    titles = ["own suite", *(f"{part['title']}, rows of {part['judged_by']}" for part in parts)]
    lines = [f"| | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    for key, title in TITLES.items():
        lines.append(f"| {title} | {' | '.join(_cell(column.get(key)) for column in columns)} |")
    return "\n".join(lines)


def _cell(figure: Any) -> str:
    if isinstance(figure, dict):
        return str(Score(figure["hits"], figure["of"])) if figure["of"] else "–"
    return "–" if figure is None else f"{figure:.1%} of the budget"


ROOT_OPTION = click.option(
    "--runs", "root", type=click.Path(path_type=Path), default=ROOT, show_default=True, help="Work folder."
)


@main.command("train")
@click.argument("part", type=click.Choice(PARTS))
@ROOT_OPTION
@click.option("--jobs", type=int, default=len(os.sched_getaffinity(0)), show_default=True)
@click.option("--first", type=int, help="Only this number of runs of the part, in the order of their seeds.")
def train_part(part: str, root: Path, jobs: int, first: int | None) -> None:
    """Train the runs of a part; what the folder holds already is not trained again."""
    folder = root / part
    folder.mkdir(parents=True, exist_ok=True)
    planned: Sequence[Job] = jobs_of(part, root)[:first]
    for count, (job, seconds) in enumerate(train(planned, folder, jobs), 1):
        click.echo(f"[{count}/{len(planned)}] {job.name} {job.case.title} ({seconds:.0f} s)", err=True)


@main.command("calibrate")
@ROOT_OPTION
@click.option("--output", type=click.Path(path_type=Path), default=FILE, show_default=True)
def calibrate(root: Path, output: Path) -> None:
    """Write the thresholds of the pool."""
    found = calibrated(root)
    output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(found, indent=1))


@main.command("score")
@click.argument("part", type=click.Choice(["pool", "healthy", "development", "held-out"]))
@ROOT_OPTION
@click.option("--output", type=click.Path(path_type=Path), help="Write the figures as JSON.")
def score(part: str, root: Path, output: Path | None) -> None:
    """Judge the stored runs of a part and print its figures."""
    if part in ("pool", "healthy"):
        stored = list(judged(root / part, jobs_of(part)))
        drawn: list[Drawn] = []
        for job, run, _ in stored:
            if reason := health_of(run):
                click.echo(f"not healthy by its outcome: {job.name}: {reason}")
        healthy = [outcome for _, run, outcome in stored if not health_of(run)]
    else:
        drawn, healthy = drawn_faults(root, part)
    for line in _lines(drawn, healthy):
        click.echo(line)
    found = summary(drawn, healthy)
    click.echo(json.dumps(found, indent=1))
    if output is not None:
        output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def repair_figures(root: Path) -> dict[str, Any]:
    """Repaired runs of degraded held-out faults beside unrepaired ones of the same seed, and actions on healthy runs.

    A stop by `diagnose.strict` is no repair. A wrong component, buffer or column is a fault of the code, which lasts
    whatever a rule does: the claim is about faults of a setting. Both figures are stated.
    """
    stored = {
        part: {(kept.case, kept.seed): read_trained(kept.run) for kept in finished(root / part)}
        for part in ("held-out", "repaired")
    }
    before, after = stored["held-out"], stored["repaired"]
    jobs = [job for job in jobs_of("repaired", root) if (job.case.name, job.seed) in after]
    rows: list[dict[str, Any]] = []
    for job in (job for job in jobs if job.case.kind == "fault"):
        degraded, trained = before[job.case.name, job.seed], after[job.case.name, job.seed]
        healthy = [one.score for (name, _), one in before.items() if name == job.case.reference]
        fall, _ = effect_of(trained.score, healthy)
        did = [f"{action.rule}@{action.at_step}" for action in trained.actions if action.rule != STRICT]
        own = {"case": job.case.name, "title": job.case.title, "degraded": degraded.score, "repaired": trained.score}
        own["of_a_setting"] = job.case.strength == "key"
        rows.append(own | {"in_band": fall <= 1 and trained.state == "done", "did": did})
    acted = [row for row in rows if row["did"]]
    touched = [bool(after[job.case.name, job.seed].actions) for job in jobs if job.case.kind == "control"]
    return {
        "repaired": Score(sum(row["in_band"] for row in rows), len(rows)).to_json(),
        "repaired_settings": Score(
            sum(row["in_band"] for row in rows if row["of_a_setting"]), sum(row["of_a_setting"] for row in rows)
        ).to_json(),
        "repaired_where_acted": Score(sum(row["in_band"] for row in acted), len(acted)).to_json(),
        "worse_than_unrepaired": Score(sum(row["repaired"] < row["degraded"] for row in acted), len(acted)).to_json(),
        "healthy_acted_on": Score(sum(touched), len(touched)).to_json(),
        "rows": rows,
    }


@main.command("repair")
@ROOT_OPTION
@click.option("--output", type=click.Path(path_type=Path), help="Write the figures as JSON.")
def repair(root: Path, output: Path | None) -> None:
    """Print what became of degraded held-out faults under the repair rules."""
    text = json.dumps(repair_figures(root), indent=1)
    click.echo(text)
    if output is not None:
        output.write_text(text + "\n", encoding="utf-8")


@main.command("page")
def page() -> None:
    """Write the committed results into docs/diagnosis.md."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN, 1)
    PAGE.write_text(f"{before}{BEGIN}\n\n{page_table()}\n\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
