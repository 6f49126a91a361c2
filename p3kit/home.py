"""`~` in paths of the user: apart from the spec language, whose import takes three times as long as a run directory."""

from __future__ import annotations

from pathlib import Path


def home(path: str | Path) -> Path:
    """`path` with `~` and `~user` as folders. The home of a user that there is not stays as it is written."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
