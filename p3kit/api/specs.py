"""A spec file as a checked spec, and the plan of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from p3kit.spec import LoadedSpec
from p3kit.spec import load_spec as read_spec
from p3kit.spec.shipped import find_spec
from p3kit.spec.writing import toml_value

SpecLike = str | Path | LoadedSpec
"""A path of a spec file, `specs/NAME.toml` of a shipped one, or a spec that `load_spec` returned."""

Overrides = Mapping[str, Any] | Sequence[str]
"""`{"ppo.gamma": 0.995}`, or `["ppo.gamma=0.995"]` as `--set` takes it."""


def load_spec(path: SpecLike, overrides: Overrides = ()) -> LoadedSpec:
    """Read and check a spec file.

    Args:
        path: A TOML file. `specs/NAME.toml` falls back to the shipped spec of that name.
        overrides: Values that replace those of the file: a mapping from dotted key to value, or a list of
            `key=value` strings in TOML syntax. Later ones win.

    Returns:
        The spec with the origin of each value: `loaded.spec.ppo.gamma`, `loaded.origins["ppo.gamma"]`.

    Raises:
        SpecError: All faults of the spec at once, each with file, line and column.
        InputError: There is no such file.

    Example:
        >>> loaded = p3kit.load_spec("specs/smoke.toml", {"ppo.gamma": 0.995})
        >>> loaded.spec.ppo.gamma
        0.995
    """
    if isinstance(path, LoadedSpec):
        if not overrides:
            return path
        overrides, path = [*path.overrides, *_as_flags(overrides)], path.path
    return read_spec(find_spec(Path(path)), _as_flags(overrides))


def _as_flags(overrides: Overrides) -> list[str]:
    """Overrides as `--set` takes them."""
    if isinstance(overrides, Mapping):
        return [f"{key}={toml_value(value)}" for key, value in overrides.items()]
    return list(overrides)
