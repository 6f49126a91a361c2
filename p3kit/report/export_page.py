"""`p3kit export`: a validated setting as TOML, YAML or JSON (guide 7.1), with its record.

The TOML is a whole spec: another one can start from it with `extends`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from p3kit import escape
from p3kit.edge import family_sentence
from p3kit.report.export_data import Export
from p3kit.report.markdown import count_of
from p3kit.report.run_history import command_line
from p3kit.rundir import find_run
from p3kit.spec.keypath import split_path, with_value, written_path
from p3kit.spec.loading import VALIDATED, overrides_of, stored_origins
from p3kit.spec.models import derived_name
from p3kit.spec.shipped import looks_like_a_file
from p3kit.spec.writing import to_toml, toml_value

# --- the document ---


def spec_tables(export: Export, folder: Path) -> dict[str, Any]:
    """The setting as a whole spec for a file in `folder`: every value pinned, the matrix point applied, no sweep."""
    first = export.attempts[0]
    tables = {key: value for key, value in first.info["spec"].items() if key not in ("matrix", "tune", "start_date")}
    for path, value in export.point.items():
        tables = with_value(tables, split_path(path), value)
    tables |= {"name": derived_name(export.name, "-production"), "symbols": export.symbols, "seeds": export.seeds}
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
    """Evidence for and against the setting: scores over seeds, stability, grades, bars, provenance.

    - `validation_sharpe_mean`: mean over seeds of the mean over symbols
    - `validation_sharpe_std`: its standard deviation over seeds (absent for one seed)
    - `training_stability_score`: fraction of agents without a crash, a failure and an unrepaired symptom
    - `deflated_sharpe`: probability that the true ratio is above 0 after `settings_tried` settings
    """
    means = list(export.seed_means().values())
    begun = [attempt for attempt in export.every if attempt.agent.global_step > 0]  # those trained again count too
    first = export.attempts[0].info
    result: dict[str, Any] = {}
    if means:
        result["validation_sharpe_mean"] = _rounded(np.mean(means))
    if len(means) > 1:
        result["validation_sharpe_std"] = _rounded(np.std(means, ddof=1))
    if len(export.sharpes) > 1:
        result["validation_sharpe_std_over_agents"] = _rounded(np.std(export.sharpes, ddof=1))
    if begun:
        result["training_stability_score"] = _rounded(np.mean([attempt.sound for attempt in begun]))
    if export.deflated is not None:
        result |= {"settings_tried": len(export.tried), "deflated_sharpe": _rounded(export.deflated)}
    result |= {
        "agents": len(export.attempts),
        "agents_traded": len(export.sharpes),
        "agents_passed": sum(attempt.agent.passed for attempt in export.graded),
        "agents_with_shown_edge_over_buy_and_hold": len(export.family.shown) if export.family else 0,
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
            "commands": list(dict.fromkeys(command_line(attempt.info) for attempt in export.attempts)),
            "git_commits": list(dict.fromkeys(filter(None, (a.info.get("git_commit") for a in export.attempts)))),
            "trainer_sha256": export.attempts[0].code,
            "versions": dict(first.get("versions") or {}),
        },
    }
    return result


def remarks(export: Export) -> list[str]:
    """Remarks that limit the meaning of the values."""
    lines = [f"Values of {export.name}, as validated by {count_of(len(export.graded), 'graded agent')}."]
    if export.synthetic:
        lines.append("SYNTHETIC data: no evidence about a real market.")
    if export.family is not None:
        lines.append(family_sentence(export.family))
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
    head = "".join(f"# {escape.one_line(line)}\n" for line in remarks(export))
    spec = to_toml(tables, lambda path: origins.get(written_path(path), ""))
    return escape.terminal(f"{head}\n{spec}\n{to_toml({VALIDATED: record(export)})}")


def export_yaml(export: Export, folder: Path) -> str:
    """The same as YAML, for other programs: the spec's tables, then the validation results beside them."""
    from p3kit.report.yaml_writer import to_yaml

    head = "".join(f"# {escape.one_line(line)}\n" for line in remarks(export))
    tables, results = to_yaml(spec_tables(export, folder)), to_yaml(record(export))
    purpose = "# For readers and other programs. p3kit reads the TOML form: p3kit export --format toml\n"
    return escape.terminal(f"{head}{purpose}\n{tables}\n# How these values did\n{results}")


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


def _rounded(value: Any) -> float:
    """Four digits after the point: more would be noise."""
    return round(float(value), 4)
