"""`python -m tests.measure.suite --repair`: measure repairs of degraded runs, and actions on healthy ones.

Each repairable fault is trained with the same seeds and the same step budget three times: without it (healthy), with it
and without rules (degraded), and with it under `interventions = "repair"` (repaired). A repaired run counts if its last
validation Sharpe ratio, under the unmodified reward and fees, is at most one standard deviation below the mean of the
healthy runs over all seeds. Steps before a rollback stay spent.

Healthy controls are trained under the same rules: an action there is harm that was only waiting to happen, and the aim
is none. A control in which nothing acted ends with the bits of the run that was only watched, so that its score need
not be compared.

One rule changes the rest of a repaired run, for any fault. So that this is not taken for a repair, healthy
runs are also trained with that rule alone, from a tenth of their steps on, and held against the same band.
"""

from __future__ import annotations

import json
import os
import platform
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from p3kit.diagnose.findings import format_steps
from p3kit.diagnose.journal import changes_training, for_agent, in_short, read_journal
from p3kit.rundir import RunDir
from p3kit.rundir.provenance import provenance
from p3kit.spec.expansion import read_pack
from tests.measure.suite.cases import Case, merged
from tests.measure.suite.scoring import Score
from tests.measure.suite.suite_runs import Job, fingerprint, train

WATCHED: dict[str, Any] = {"diagnose": {"mode": "watch"}}
REPAIRED: dict[str, Any] = {
    "interventions": "repair",
    "checkpoints": {"every": 4_096},  # to go back to
    "diagnose": {"mode": "act"},
}
STEADY = "repair-steady"
"""The rule of the pack that follows any other."""
REPAIRED_SHARE = 0.75
"""Target for the degraded runs."""
NEVER_TRADED = 0.0
"""The Sharpe ratio of a policy that never traded: it earned what cash earns."""


@dataclass(frozen=True)
class Action:
    """One thing that an intervention did to a run, at an env step."""

    agent: str
    at_step: int
    rule: str
    what: str
    row: str


@dataclass(frozen=True)
class Trained:
    """One run: what it scored, evaluation by evaluation, and what was done to it."""

    run: str
    state: str
    steps: tuple[int, ...]
    sharpes: tuple[float, ...]
    """Validation Sharpe ratio after each evaluation, the mean over agents."""
    actions: tuple[Action, ...]

    @property
    def score(self) -> float:
        return self.sharpes[-1] if self.sharpes else NEVER_TRADED


@dataclass(frozen=True)
class Band:
    """Scores of healthy runs at their end: the mean and the standard deviation of their scores over seeds."""

    mean: float
    std: float
    runs: int

    @property
    def low(self) -> float:
        return self.mean - self.std


@dataclass(frozen=True)
class Attempt:
    """One fault with one seed."""

    case: str
    title: str
    seed: int
    band: Band
    healthy: Trained | None
    sick: Trained
    repaired: Trained

    @property
    def is_well(self) -> bool:
        """Return True if the repaired run ended in the band of the healthy ones."""
        return self.repaired.state == "done" and self.repaired.score >= self.band.low

    @property
    def was_hurt(self) -> bool:
        """Return True if the faulty run ended below the band: a fault without harm needs no repair."""
        return self.sick.state != "done" or self.sick.score < self.band.low


@dataclass(frozen=True)
class Steadied:
    """A healthy run that went on as a repaired one does, held against the band of those that did not."""

    case: str
    seed: int
    band: Band
    trained: Trained

    @property
    def is_in_band(self) -> bool:
        return self.trained.score >= self.band.low


@dataclass(frozen=True)
class Control:
    """A healthy configuration with one seed, under the same rules."""

    case: str
    seed: int
    trained: Trained


def measure(
    cases: Mapping[str, Case],
    only: Sequence[str],
    seeds: Sequence[int],
    references: Sequence[int],
    controls: Sequence[int],
    root: Path,
    trainer: Path | None,
    processes: int,
    output: Path | None,
    command: str,
) -> None:
    """Train, score and print. `seeds` are those of the faults, `references` those of the healthy runs for
    comparison, `controls` those of the healthy configurations under the same rules."""
    wanted = [case for case in cases.values() if not only or case.name in only or case.id in only]
    faults = [case for case in wanted if case.kind == "fault" and case.repairable]
    healthy = [case for case in wanted if case.kind == "control"]
    laid_over = {name: cases[name] for name in dict.fromkeys(case.reference for case in faults)}
    jobs = {
        **{("healthy", name, seed): Job(case, seed, "long") for name, case in laid_over.items() for seed in references},
        **{("sick", case.name, seed): Job(_over(case, WATCHED), seed, "long") for case in faults for seed in seeds},
        **{
            ("repaired", case.name, seed): Job(_over(case, REPAIRED), seed, "long") for case in faults for seed in seeds
        },
        **{
            ("control", case.name, seed): Job(_over(case, REPAIRED), seed, "long")
            for case in healthy
            for seed in controls
        },
        **{
            ("steadied", name, seed): Job(_over(case, steadied()), seed, "long")
            for name, case in laid_over.items()
            for seed in seeds
        },
    }
    trained = dict(zip(jobs, _train(list(jobs.values()), root, trainer, processes), strict=True))
    bands = {name: band_of([trained["healthy", name, seed] for seed in references]) for name in laid_over}
    attempts = [
        Attempt(
            case.name,
            case.title,
            seed,
            bands[case.reference],
            trained.get(("healthy", case.reference, seed)),
            trained["sick", case.name, seed],
            trained["repaired", case.name, seed],
        )
        for case in faults
        for seed in seeds
    ]
    left_alone = [
        Control(case.name, seed, trained["control", case.name, seed]) for case in healthy for seed in controls
    ]
    compared = [
        Steadied(name, seed, bands[name], trained["steadied", name, seed]) for name in laid_over for seed in seeds
    ]
    _tell(attempts, left_alone, compared, output, command)


def steadied() -> dict[str, Any]:
    """A spec on top of a healthy one: what the pack does to a run once it was repaired, without a repair."""
    (rule,) = (rule for rule in read_pack("repair") if rule["id"] == STEADY)
    begun = {"metric": "progress", "op": ">=", "value": 0.1}
    on = {"all": [begun if part["metric"] == "actions" else part for part in rule["on"]["all"]]}
    return REPAIRED | {"interventions": "off", "intervention": [rule | {"on": on}]}


def _over(case: Case, overlay: dict[str, Any]) -> Case:
    return replace(case, spec=merged(case.spec, overlay))


def _train(jobs: Sequence[Job], root: Path, trainer: Path | None, processes: int) -> list[Trained]:
    """The runs in the order of the jobs; they end in any."""
    root.mkdir(parents=True, exist_ok=True)
    made: dict[str, Path] = {}
    for count, (job, seconds) in enumerate(train(jobs, root, processes, trainer), 1):
        assert job.path is not None
        made[fingerprint(job, trainer)] = job.path
        click.echo(f"[{count}/{len(jobs)}] {job.name} ({seconds:.0f} s)", err=True)
    return [read_trained(RunDir.open(made[fingerprint(job, trainer)])) for job in jobs]


def read_trained(run: RunDir) -> Trained:
    """Read the records of a run."""
    scores: dict[int, list[float]] = {}
    for event in run.read_events("evaluation"):
        sharpe = event["metrics"].get("eval/sharpe_ratio", NEVER_TRADED)
        scores.setdefault(int(event["global_step"]), []).append(float(sharpe))
    return Trained(
        run=run.name,
        state=str(run.status()["state"]),
        steps=tuple(scores),
        sharpes=tuple(float(np.mean(values)) for values in scores.values()),
        actions=tuple(_actions(run)),
    )


def _actions(run: RunDir) -> Iterable[Action]:
    """Everything that changed how an agent trained; what only looked is none."""
    for agent in run.agent_names():
        for event in read_journal(run, agent):
            own = for_agent(event, agent)
            if changes_training(own):
                told = in_short(own) or str(own["reason"])
                yield Action(agent, int(own["global_step"]), str(own["id"]), told, str(own.get("row") or ""))


def band_of(healthy: Sequence[Trained]) -> Band:
    """Raise ValueError where fewer than two healthy runs leave nothing to measure a spread by."""
    if len(healthy) < 2:
        raise ValueError("the healthy band takes at least two seeds")
    scores = np.array([run.score for run in healthy])
    return Band(float(scores.mean()), float(scores.std(ddof=1)), len(scores))


# --- words ------------------------------------------------------------------------------------------------------------


def summarise(attempts: Sequence[Attempt], controls: Sequence[Control], compared: Sequence[Steadied]) -> dict[str, Any]:
    """Every figure."""
    degraded = [one for one in attempts if one.was_hurt]
    acted = [one for one in degraded if one.repaired.actions]
    touched = [one for one in controls if one.trained.actions]
    untouched = {one.healthy.run: one.healthy.score >= one.band.low for one in attempts if one.healthy is not None}
    return {
        "repaired": Score(sum(one.is_well for one in degraded), len(degraded)).to_json(),
        "repaired_where_acted": Score(sum(one.is_well for one in acted), len(acted)).to_json(),
        "not_hurt": len(attempts) - len(degraded),
        "healthy_in_band": Score(sum(untouched.values()), len(untouched)).to_json(),
        "steadied_in_band": Score(sum(one.is_in_band for one in compared), len(compared)).to_json(),
        "controls_acted_on": Score(len(touched), len(controls)).to_json(),
        "actions_on_controls": sum(len(one.trained.actions) for one in controls),
    }


def as_markdown(
    attempts: Sequence[Attempt], controls: Sequence[Control], compared: Sequence[Steadied], how: str
) -> str:
    """Totals with Wilson intervals, a row per fault, a row per control that was acted on."""
    totals = summarise(attempts, controls, compared)

    def share(key: str) -> str:
        return str(Score(totals[key]["hits"], totals[key]["of"]))

    lines = [
        how,
        "",
        "| | measured [95 % Wilson interval] | target | |",
        "|---|---|---|---|",
        f"| degraded by the fault, and back in the healthy range within the same steps | {share('repaired')} "
        f"| ≥ {REPAIRED_SHARE:.0%} | {_met(totals['repaired']['share'] >= REPAIRED_SHARE)} |",
        f"| … where a rule acted at all | {share('repaired_where_acted')} | | |",
        f"| runs that the fault did not degrade, left out above | {totals['not_hurt']} of {len(attempts)} | | |",
        f"| for comparison: healthy runs of the same seeds in their own range | {share('healthy_in_band')} | | |",
        f"| … and with `{STEADY}` alone, from a tenth of their steps on | {share('steadied_in_band')} | | |",
        f"| healthy controls that a rule acted on | {share('controls_acted_on')} "
        f"| none | {_met(totals['actions_on_controls'] == 0)} |",
        "",
        "| fault | back in the range | healthy, mean ± std | degraded | repaired | first action |",
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(one.case for one in attempts):
        own = [one for one in attempts if one.case == name]
        degraded = [one for one in own if one.was_hurt]
        firsts = [one.repaired.actions[0] for one in own if one.repaired.actions]
        said = dict.fromkeys(f"{first.rule} at {format_steps(first.at_step)}" for first in firsts)
        cells = [
            f"{name} {own[0].title}",
            f"{sum(one.is_well for one in degraded)}/{len(degraded)}" if degraded else "not degraded",
            f"{own[0].band.mean:.2f} ± {own[0].band.std:.2f}",
            _scores([one.sick for one in own]),
            _scores([one.repaired for one in own]),
            ", ".join(said) or "none",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| control | runs | acted on | actions |", "|---|---|---|---|"]
    for name in dict.fromkeys(one.case for one in controls):
        runs = [one.trained for one in controls if one.case == name]
        done = dict.fromkeys(f"{action.rule} ({action.row})" for run in runs for action in run.actions)
        touched = sum(bool(run.actions) for run in runs)
        lines.append(f"| {name} | {len(runs)} | {touched} | {', '.join(done) or '–'} |")
    return "\n".join(lines) + "\n"


def _met(met: bool) -> str:
    return "met" if met else "**missed**"


def _scores(runs: Sequence[Trained]) -> str:
    return ", ".join(f"{run.score:z.2f}{'' if run.state == 'done' else f' ({run.state})'}" for run in runs)


def as_document(
    attempts: Sequence[Attempt], controls: Sequence[Control], compared: Sequence[Steadied], how: Mapping[str, Any]
) -> dict[str, Any]:
    """The same for programs."""
    told = [asdict(one) | {"is_well": one.is_well, "was_hurt": one.was_hurt} for one in attempts]
    return {
        "how": dict(how),
        "totals": summarise(attempts, controls, compared),
        "faults": told,
        "controls": [asdict(one) for one in controls],
        "steadied": [asdict(one) for one in compared],
    }


def _tell(
    attempts: Sequence[Attempt],
    controls: Sequence[Control],
    compared: Sequence[Steadied],
    output: Path | None,
    command: str,
) -> None:
    made = provenance()
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"
    seeds = sorted({one.seed for one in (*attempts, *controls)})
    how = {"command": command, "commit": made["git_commit"], "versions": made["versions"], "machine": machine}
    how |= {"seeds": seeds, "data": "SYNTHETIC"}
    words = f"`{command}`, commit {how['commit']}, seeds {seeds}, {machine}, SYNTHETIC data."
    text = as_markdown(attempts, controls, compared, words)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        document = json.dumps(as_document(attempts, controls, compared, how), indent=1)
        output.with_suffix(".json").write_text(document + "\n", encoding="utf-8")
        output.with_suffix(".md").write_text(text, encoding="utf-8")
        if (shown := most_telling(attempts)) is not None:
            draw(shown, output.with_suffix(".png"))
    click.echo(text)


# --- the picture ------------------------------------------------------------------------------------------------------


def most_telling(attempts: Sequence[Attempt]) -> Attempt | None:
    """The attempt to show: of those well again that have a healthy run of their own seed, the one that gained most;
    else the one that gained most. None where nothing acted."""
    acted = [one for one in attempts if one.repaired.actions and one.healthy is not None]
    return max(acted, key=lambda one: (one.is_well, one.repaired.score - one.sick.score), default=None)


def draw(attempt: Attempt, path: Path) -> None:
    """Three curves of the validation Sharpe ratio over training, the healthy band, and when what was done."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    band = attempt.band
    axes.axhspan(band.low, band.mean + band.std, color="#1b7837", alpha=0.12, lw=0, label="healthy, mean ± std")
    for trained, colour, style, label in (
        (attempt.healthy, "#1b7837", "-", "healthy"),
        (attempt.sick, "#b2182b", "-", "degraded"),
        (attempt.repaired, "#2166ac", "-", "repaired"),
    ):
        if trained is not None:
            axes.plot(trained.steps, trained.sharpes, style, color=colour, marker="o", ms=3.5, label=label)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.25 * (high - low))
    for number, action in enumerate(attempt.repaired.actions[:4]):
        axes.axvline(action.at_step, color="#2166ac", lw=0.8, ls=":")
        height = 0.97 - 0.07 * number
        axes.annotate(
            f"{format_steps(action.at_step)}: {textwrap.shorten(action.what, 64, placeholder=' …')}",
            (action.at_step, height),
            xycoords=("data", "axes fraction"),
            xytext=(4, 0),
            textcoords="offset points",
            va="top",
            fontsize=7.5,
            color="#2166ac",
            in_layout=False,  # a long text would leave the axes no room
        )
    axes.set_title(f"{attempt.case} {attempt.title}, seed {attempt.seed} (SYNTHETIC data)", fontsize=10)
    axes.set_xlabel("env steps")
    axes.set_ylabel("validation Sharpe ratio")
    axes.legend(loc="best", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
