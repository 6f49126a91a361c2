"""`p3kit export`: the values that were validated, as a file to go on from (guide 7.1), with what speaks for them.

A *setting* is all that shapes training but the symbol and the seed; every attempt of the runs folder with that setting
stands behind it, whichever run it was in. The TOML is a whole spec: another one starts from it with `extends`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from p3kit.errors import InputError
from p3kit.metrics import ReturnShape, deflated_choice, mean_interval
from p3kit.report.experience import NO_KNOBS, Attempt, gather_experience
from p3kit.report.page import count_of
from p3kit.rundir import RunDir, find_run
from p3kit.spec.keypath import split_path, with_value, written_path
from p3kit.spec.knobs import read_agents
from p3kit.spec.loading import VALIDATED, overrides_of, stored_origins
from p3kit.spec.shipped import looks_like_a_file
from p3kit.spec.writing import to_toml, toml_value

_ABOUT_AGENTS = tuple(name for name in NO_KNOBS if name not in ("agents", "criteria", "baselines"))
"""Tables that two runs of one setting may differ in."""


@dataclass(frozen=True)
class Export:
    """One setting and its record. `every`: all its attempts, in the order of the runs."""

    runs_root: Path
    every: tuple[Attempt, ...]
    tried: tuple[float, ...] = ()
    """Mean Sharpe ratios of every setting of the experiment that was evaluated, this one's among them; of one that was
    not trained to its end, as far as it came."""

    @property
    def name(self) -> str:
        """Of the experiment."""
        return self.every[0].experiment

    @cached_property
    def attempts(self) -> tuple[Attempt, ...]:
        """The newest one of every symbol and seed; the newest graded one where there is any."""
        newest: dict[tuple[str, int], Attempt] = {}
        for attempt in self.every:
            who = (attempt.agent.symbol, attempt.agent.seed)
            if who not in newest or attempt.agent.complete or not newest[who].agent.complete:
                newest[who] = attempt
        return tuple(newest.values())

    @property
    def graded(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.agent.complete]

    @property
    def sharpes(self) -> list[float]:
        """Of the graded agents that traded."""
        return [attempt.sharpe for attempt in self.graded if attempt.sharpe is not None]

    @property
    def worth(self) -> tuple[float, float]:
        """What `best` goes by: the lower end of the 95 % interval of the mean Sharpe ratio over agents, so that one
        lucky agent is no best setting; without an interval, after all those that have one, the ratio itself. An agent
        that never traded counts as 0."""
        values = np.array([attempt.sharpe or 0.0 for attempt in self.graded])
        bounds = mean_interval(values)
        return (1.0, bounds[0]) if bounds is not None else (0.0, float(values.mean()))

    @property
    def mean(self) -> float | None:
        """Sharpe ratio over the agents that were evaluated; one that never traded counts as 0."""
        known = [attempt.agent.scores.sharpe or 0.0 for attempt in self.attempts if attempt.agent.scores]
        return float(np.mean(known)) if known else None

    @property
    def deflated(self) -> float | None:
        """Probability that the mean Sharpe ratio is truly above 0, the luck of the best of `tried` taken off; None
        where nothing else was tried, or no agent traded.

        Agents of one market are no independent witnesses: the bars count once, as if there were one agent, so the
        figure errs on the low side.
        """
        scores = [attempt.agent.scores for attempt in self.graded]
        shapes = [one.returns for one in scores if one is not None and one.returns is not None]
        if len(self.tried) < 2 or not shapes or self.mean is None:
            return None
        shape: ReturnShape = {
            "bars": min(one["bars"] for one in shapes),
            "bars_per_year": float(np.mean([one["bars_per_year"] for one in shapes])),
            "skewness": float(np.mean([one["skewness"] for one in shapes])),
            "kurtosis": float(np.mean([one["kurtosis"] for one in shapes])),
        }
        return deflated_choice(self.mean, shape, self.tried)

    @property
    def seeds(self) -> list[int]:
        return sorted({attempt.agent.seed for attempt in self.attempts})

    @property
    def symbols(self) -> list[str]:
        """In the order of the spec."""
        own = {attempt.agent.symbol for attempt in self.attempts}
        asked = [symbol for attempt in self.attempts for symbol in attempt.info["spec"].get("symbols") or []]
        return [symbol for symbol in dict.fromkeys(asked) if symbol in own]

    @property
    def point(self) -> Mapping[str, Any]:
        return self.attempts[0].agent.point

    @property
    def synthetic(self) -> bool:
        return any(attempt.agent.data.get("synthetic") for attempt in self.attempts)

    def seed_means(self) -> dict[int, float]:
        """Seed → mean Sharpe ratio over its symbols."""
        means = {}
        for seed in self.seeds:
            own = [a.sharpe for a in self.graded if a.agent.seed == seed and a.sharpe is not None]
            if own:
                means[seed] = float(np.mean(own))
        return means


def find_export(runs_root: Path, reference: str, name: str | None = None) -> Export:
    """The setting of `reference`: a run, an agent of it, or `best` among all of the folder (of the experiment `name`).

    Raises InputError where a run has several settings or nothing was graded, RunNotFound for a name that is none.
    """
    settings = _settings(runs_root, name if reference == "best" else None)
    if reference == "best":
        candidates = [Export(runs_root, attempts) for attempts in settings.values()]
        candidates = [export for export in candidates if export.graded]
        if not candidates:
            raise InputError("best", "nothing was graded yet", "p3kit runs shows what is under way")
        return _beside_the_others(max(candidates, key=lambda export: export.worth), settings)
    run, agent = find_run(runs_root, reference)
    if run.path.resolve().parent != runs_root.resolve():  # another run may have its name here
        raise InputError(reference, f"is no run of {runs_root}", "give its folder by --runs")
    own = {  # setting → the agent of this run that has it
        key: next(a.agent.name for a in attempts if a.run == run.name)
        for key, attempts in settings.items()
        if any(a.run == run.name and agent in (None, a.agent.name) for a in attempts)
    }
    if len(own) > 1:
        hint = f"name an agent: {', '.join(f'{run.name}/{agent_name}' for agent_name in list(own.values())[:6])}"
        raise InputError(reference, f"has {len(own)} settings", hint)
    if not own:
        run.verify()  # a damaged run has no say among the settings; its own fault is what to tell
    export = Export(runs_root, settings[next(iter(own))])
    if not export.graded:
        raise InputError(reference, "has no verdict yet", f"p3kit resume {run.name}, or wait until it is done")
    return _beside_the_others(export, settings)


def _beside_the_others(export: Export, settings: Mapping[str, tuple[Attempt, ...]]) -> Export:
    """The setting with what else its experiment tried: whoever chooses among many takes some luck along."""
    others = [Export(export.runs_root, attempts) for attempts in settings.values()]
    means = [other.mean for other in others if other.name == export.name]
    return replace(export, tried=tuple(mean for mean in means if mean is not None))


def _settings(runs_root: Path, name: str | None) -> dict[str, tuple[Attempt, ...]]:
    """Every setting of the folder, by its identity, with all its attempts."""
    found: dict[str, list[Attempt]] = {}
    shared: dict[str, bool] = {}
    for attempt in gather_experience(runs_root, name).attempts:
        if attempt.code not in shared:
            shared[attempt.code] = read_agents(RunDir(runs_root / attempt.run).trainer_file) == "all"
        found.setdefault(_identity(attempt, together=shared[attempt.code]), []).append(attempt)
    return {key: tuple(attempts) for key, attempts in found.items()}


def _identity(attempt: Attempt, *, together: bool) -> str:
    """What two attempts of one setting have in common. `together`: the trainer's agents learn from one another, so that
    the symbols belong to it."""
    spec = attempt.info["spec"]
    tables = {key: value for key, value in spec.items() if key not in _ABOUT_AGENTS}
    point = sorted((path, toml_value(value)) for path, value in attempt.agent.point.items())
    return json.dumps([attempt.experiment, attempt.code, tables, point, together and spec["symbols"]], sort_keys=True)


# --- the document ---


def spec_tables(export: Export, folder: Path) -> dict[str, Any]:
    """The setting as a whole spec for a file in `folder`: every value pinned, the matrix point applied, no sweep."""
    first = export.attempts[0]
    tables = {key: value for key, value in first.info["spec"].items() if key not in ("matrix", "tune", "start_date")}
    for path, value in export.point.items():
        tables = with_value(tables, split_path(path), value)
    tables |= {"name": f"{export.name}-production", "symbols": export.symbols, "seeds": export.seeds}
    if overrides := tables.get("agents"):
        tables["agents"] = {symbol: own for symbol, own in overrides.items() if symbol in export.symbols}
    paths_from = (export.runs_root / str(first.info.get("paths_from", ".."))).resolve()
    if looks_like_a_file(tables["trainer"]):
        tables["trainer"] = _from(folder, paths_from, tables["trainer"])
    if bars := (tables.get("data") or {}).get("path"):
        tables = with_value(tables, ("data", "path"), _from(folder, paths_from, bars))
    return {key: value for key, value in tables.items() if value not in ({}, [])}


def _from(folder: Path, paths_from: Path, name: str) -> str:
    """Relative to the file that is written, as paths in a spec are."""
    return name if Path(name).is_absolute() else Path(os.path.relpath(paths_from / name, folder.resolve())).as_posix()


def record(export: Export) -> dict[str, Any]:
    """What speaks for the setting, and against it: scores over seeds, stability, grades, bars, provenance.

    `validation_sharpe_mean` is the mean over seeds of the mean over symbols, `validation_sharpe_std` its standard
    deviation over seeds (absent for one seed), `training_stability_score` the share of agents that neither crashed or
    failed nor ended with a symptom that was not repaired, `deflated_sharpe` the probability that the ratio is truly
    above 0 after `settings_tried` settings.
    """
    means = list(export.seed_means().values())
    begun = [attempt for attempt in export.every if attempt.agent.global_step > 0]  # those trained again count too
    first = export.attempts[0].info
    told: dict[str, Any] = {}
    if means:
        told["validation_sharpe_mean"] = _rounded(np.mean(means))
    if len(means) > 1:
        told["validation_sharpe_std"] = _rounded(np.std(means, ddof=1))
    if len(export.sharpes) > 1:
        told["validation_sharpe_std_over_agents"] = _rounded(np.std(export.sharpes, ddof=1))
    if begun:
        told["training_stability_score"] = _rounded(np.mean([attempt.sound for attempt in begun]))
    if export.deflated is not None:
        told |= {"settings_tried": len(export.tried), "deflated_sharpe": _rounded(export.deflated)}
    told |= {
        "agents": len(export.attempts),
        "agents_traded": len(export.sharpes),
        "agents_passed": sum(attempt.agent.passed for attempt in export.graded),
        "agents_with_shown_edge_over_buy_and_hold": sum(
            attempt.agent.over_buy_and_hold == "shown" for attempt in export.graded
        ),
        "agents_intervened": sum(attempt.agent.intervened for attempt in export.attempts),
        "looks_at_the_test_split": sum(a.agent.final.looks for a in export.attempts if a.agent.final),
        "synthetic": export.synthetic,
        "sharpe": {
            attempt.agent.name: _rounded(attempt.sharpe) for attempt in export.graded if attempt.sharpe is not None
        },
        "data": {
            attempt.agent.symbol: {
                key: attempt.agent.data[key] for key in ("source", "first", "last", "bars", "fingerprint")
            }
            for attempt in export.attempts
            if attempt.agent.data
        },
        "provenance": {
            "experiment": export.name,
            "runs": list(dict.fromkeys(attempt.run for attempt in export.attempts)),
            "commands": list(dict.fromkeys(_command(attempt) for attempt in export.attempts)),
            "git_commits": list(dict.fromkeys(filter(None, (a.info.get("git_commit") for a in export.attempts)))),
            "trainer_sha256": export.attempts[0].code,
            "versions": dict(first.get("versions") or {}),
        },
    }
    return told


def remarks(export: Export) -> list[str]:
    """What a reader must know before trusting the values."""
    lines = [f"Values of {export.name}, as validated by {count_of(len(export.graded), 'graded agent')}."]
    if export.synthetic:
        lines.append("SYNTHETIC data: nothing is said about a real market.")
    shown = sum(attempt.agent.over_buy_and_hold == "shown" for attempt in export.graded)
    lines.append(f"{shown} of {len(export.graded)} show an edge over buy-and-hold on the validation split.")
    if len(export.graded) - len(export.sharpes):
        lines.append(f"{count_of(len(export.graded) - len(export.sharpes), 'agent')} never traded: no Sharpe ratio.")
    if export.deflated is not None:
        lines.append(
            f"One of {len(export.tried)} settings tried: its true Sharpe ratio is above 0 with probability "
            f"{export.deflated:.0%}, their luck taken off (deflated Sharpe ratio)."
        )
    if len(export.seed_means()) < 2:
        lines.append("One seed: how far the scores move with the seed is not known.")
    return lines


def export_toml(export: Export, folder: Path) -> str:
    """The spec with its record in a table of its own, every value with its origin behind it."""
    tables = spec_tables(export, folder)
    origins = _origins(export, tables)
    head = "".join(f"# {line}\n" for line in remarks(export))
    spec = to_toml(tables, lambda path: origins.get(written_path(path), ""))
    return f"{head}\n{spec}\n{to_toml({VALIDATED: record(export)})}"


def export_yaml(export: Export, folder: Path) -> str:
    """The same as YAML, laid out as in the guide: the spec's tables, then the validation results beside them."""
    head = "".join(f"# {line}\n" for line in remarks(export))
    return f"{head}\n{to_yaml(spec_tables(export, folder))}\n# How these values did\n{to_yaml(record(export))}"


def export_json(export: Export, folder: Path) -> dict[str, Any]:
    return {"spec": spec_tables(export, folder), VALIDATED: record(export), "remarks": remarks(export)}


def _origins(export: Export, tables: Mapping[str, Any]) -> dict[str, str]:
    run, _ = find_run(export.runs_root, export.attempts[0].run)
    info = export.attempts[0].info
    given = overrides_of(info.get("command") or [])
    origins = stored_origins(tables, run.trainer_file, run.spec_text(), given)
    tried = info["spec"].get("matrix") or {}
    tuned = {path: f"tuned: one of {', '.join(map(toml_value, values))}" for path, values in tried.items()}
    if "tune" in info:
        space = info["spec"]["tune"]["space"]
        tuned |= {path: f"tuned: searched in {toml_value(space[path])}" for path in info["tune"]["values"]}
    made = dict.fromkeys(("name", "symbols", "seeds"), "")
    return {**origins, **tuned, **made}


def _command(attempt: Attempt) -> str:
    import shlex

    command = attempt.info.get("command") or ["p3kit", "run"]
    return shlex.join([Path(command[0]).name, *command[1:]])


def _rounded(value: Any) -> float:
    """Four digits after the point: more would be noise."""
    return round(float(value), 4)


# --- YAML ---


def to_yaml(tables: Mapping[str, Any], indent: int = 0) -> str:
    """Plain tables as YAML 1.1 and 1.2 read them alike: words in quotes, lists of plain values on one line."""
    lines: list[str] = []
    blank = " " * indent
    for key, value in tables.items():
        name = key if _PLAIN_KEY.fullmatch(key) and key.lower() not in _TAKEN else json.dumps(key)
        if isinstance(value, Mapping) and value:
            lines.append(f"{blank}{name}:\n{to_yaml(value, indent + 2)}".rstrip("\n"))
        elif isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
            items = [to_yaml(item, indent + 4).lstrip() for item in value]
            lines.append(f"{blank}{name}:\n" + "\n".join(f"{blank}  - {item}".rstrip("\n") for item in items))
        else:
            lines.append(f"{blank}{name}: {_yaml_value(value)}")
    return "\n".join(lines) + "\n"


_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_TAKEN = ("true", "false", "yes", "no", "on", "off", "y", "n", "null")
"""Words that YAML 1.1 takes for something else."""


def _yaml_value(value: Any) -> str:
    if isinstance(value, float):
        text = repr(value)
        return text.replace("e", ".0e") if "e" in text and "." not in text else text  # 3e-05 would be a word
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_yaml_value, value))}]"
    return json.dumps(value, ensure_ascii=False)
