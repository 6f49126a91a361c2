"""Defaults of options per project and per user: `p3kit.toml`, `[tool.p3kit]` of pyproject.toml, the user's own file.

They are about where and how runs are started, never about values of a spec: a spec is the same run in every folder.
A project's file may come with foreign code, so its folder of runs has to be inside the project.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p3kit.errors import Fault, SpecError

NAME = "p3kit.toml"
KEYS = {"runs": "a folder", "jobs": "a whole number of at least 1", "aim": "true or false"}
"""Key → the values that it takes."""
BUILT_IN: Mapping[str, Any] = {"runs": "runs", "jobs": None, "aim": True}
MAX_BYTES = 1_000_000


@dataclass(frozen=True)
class Default:
    """The value of a key, and where it was set."""

    value: Any
    origin: str = "default"


def read_defaults() -> dict[str, Default]:
    """Read every key: the project's file over the user's file over the built-in value.

    Raises SpecError with all faults of a file, each with its place.
    """
    found = {key: Default(value) for key, value in BUILT_IN.items()}
    project = project_file()
    for path, is_project in ((user_file(), False), (project, True)):
        if path is not None and path.is_file():
            found |= _read(path, is_project)
    return found


def option_values(defaults: Mapping[str, Default]) -> dict[str, Any]:
    """Values by the parameter names of the commands; without those that are built in."""
    set_by_file = {key: one.value for key, one in defaults.items() if one.origin != "default"}
    names = {"runs": "runs_root", "jobs": "jobs", "aim": "no_aim"}
    return {names[key]: not value if key == "aim" else value for key, value in set_by_file.items()}


def user_file() -> Path:
    """`~/.config/p3kit/p3kit.toml`, or below `XDG_CONFIG_HOME`."""
    configured = os.environ.get("XDG_CONFIG_HOME", "")
    folder = Path(configured) if Path(configured).is_absolute() else Path.home() / ".config"
    return folder / "p3kit" / NAME


def project_file() -> Path | None:
    """The nearest `p3kit.toml`, or pyproject.toml with `[tool.p3kit]`, in this folder or above it."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / NAME).is_file():
            return folder / NAME
        pyproject = folder / "pyproject.toml"
        if pyproject.is_file() and b"[tool.p3kit]" in pyproject.read_bytes()[:MAX_BYTES]:
            return pyproject
    return None


def _read(path: Path, is_project: bool) -> dict[str, Default]:
    import tomli

    from p3kit.spec.nearest import did_you_mean
    from p3kit.spec.positions import Lines, scan

    try:
        text = path.read_bytes()[:MAX_BYTES].decode("utf-8-sig").replace("\r\n", "\n")
        tables = tomli.loads(text)
    except (tomli.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError([Fault(str(path), f"not TOML: {error}", "correct the file, or remove it")]) from None
    above: tuple[str, ...] = ("tool", "p3kit") if path.name != NAME else ()
    for key in above:
        tables = tables.get(key, {}) if isinstance(tables, dict) else {}
    lines, offsets = Lines(text), scan(text).offsets
    places = {key: f"{path}:{lines.at(offsets[(*above, key)])}" for key in tables if (*above, key) in offsets}
    faults, found = [], {}
    for key, value in tables.items():
        place = places.get(key, str(path))
        if key not in KEYS:
            hint = did_you_mean(key, list(KEYS)).removeprefix("; ") or f"keys: {', '.join(KEYS)}"
            faults.append(Fault(place, f"{key}: is no default", f"{hint}; values of a spec stand in the spec"))
        elif what := _wrong(key, value, path, is_project):
            faults.append(Fault(place, f"{key} = {value!r}: {what}", f"expected {KEYS[key]}"))
        else:
            found[key] = Default(_seen_from_here(path, value) if key == "runs" else value, place)
    if faults:
        raise SpecError(faults)
    return found


def _wrong(key: str, value: Any, path: Path, is_project: bool) -> str:
    """The fault of a value; "" for a right one."""
    if key == "jobs":
        return "" if isinstance(value, int) and not isinstance(value, bool) and value >= 1 else "is no number of jobs"
    if key == "aim":
        return "" if isinstance(value, bool) else "is neither true nor false"
    if not isinstance(value, str) or not value or "\0" in value:
        return "is no folder"
    if is_project:
        inside = (path.parent / value).resolve().is_relative_to(path.parent.resolve())
        return "" if inside and not value.startswith("~") else "is outside the project; use --runs or P3KIT_RUNS"
    return "" if value.startswith("~") or Path(value).is_absolute() else "is relative; expected an absolute path or ~"


def _seen_from_here(path: Path, value: str) -> str:
    """A folder of a file as a path from the current folder, short where it is below it."""
    folder = path.parent / Path(value).expanduser()
    return os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else str(folder)
