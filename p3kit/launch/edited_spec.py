"""Detection of a spec file that was edited after a run was made from it: a resume uses what the run recorded."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from p3kit.errors import P3kitError
from p3kit.rundir import RunDir, first_plan
from p3kit.spec import LoadedSpec, load_spec
from p3kit.spec.keypath import leaves, written_path
from p3kit.spec.loading import overrides_of, stored_origins
from p3kit.spec.paths import beside
from p3kit.spec.shipped import looks_like_a_file
from p3kit.spec.writing import toml_value

_MOST = 5
"""Differences that are printed."""


def edited_spec_note(run: RunDir) -> str:
    """A note on the values that the spec file has changed since the run was made; "" where it is as it was or gone."""
    info = run.info()
    if "spec_file" not in info or {"retrain", "tune"} & info.keys():
        return ""
    path = Path(beside(run.paths_from(), info["spec_file"]))
    if not path.is_file():
        return ""
    overrides = overrides_of(info.get("command") or [])
    again = f"p3kit run {shlex.join([str(path), *(word for one in overrides for word in ('--set', one))])}"
    try:
        loaded = load_spec(path, overrides)
    except P3kitError as error:
        what = f"has changed since {run.name} was made, and has a fault now ({str(error).splitlines()[0]})"
        return f"{path} {what}; {run.name} continues with the spec that it recorded"
    changed = _changes(run, info, loaded)
    if not changed:
        return ""
    more = f" and {len(changed) - _MOST} more" if len(changed) > _MOST else ""
    return (
        f"{path} has changed since {run.name} was made: {', '.join(changed[:_MOST])}{more}; {run.name} continues with "
        f"the spec that it recorded. A new run with the edited one: {again}"
    )


def _changes(run: RunDir, info: Mapping[str, Any], loaded: LoadedSpec) -> list[str]:
    """`ppo.gamma 0.99 → 0.95` for each value that a user wrote, then or now, and that is another one now."""
    before = {written_path(path): toml_value(value) for path, value in leaves(_recorded(run, info))}
    after = {written_path(path): toml_value(value) for path, value in leaves(loaded.spec.model_dump(mode="json"))}
    given = overrides_of(info.get("command") or [])
    origins = stored_origins(info["spec"], run.trainer_file, run.spec_text(), given)
    ignored = {"data.split"} if info.get("windows") else set()  # a window of a walk-forward has its own
    changed = []
    for path in dict.fromkeys((*before, *after)):
        written = {origins.get(path, "default"), loaded.origins.get(path, "default")} != {"default"}
        is_ignored = any(path.startswith(one) for one in ignored)
        if written and not is_ignored and before.get(path) != after.get(path):
            changed.append(f"{path} {before.get(path, 'absent')} → {after.get(path, 'absent')}")
    return changed


def _recorded(run: RunDir, info: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of the run without extensions, its paths as they are seen from here."""
    tables: dict[str, Any] = json.loads(json.dumps(info["spec"]))
    if "total_timesteps" in tables.get("ppo", {}):
        tables["ppo"]["total_timesteps"] = first_plan(info["agents"][0])["total_timesteps"]
    if path := tables.get("data", {}).get("path"):
        tables["data"]["path"] = beside(run.paths_from(), path)
    if looks_like_a_file(str(tables.get("trainer", ""))):
        tables["trainer"] = beside(run.paths_from(), tables["trainer"])
    return tables
