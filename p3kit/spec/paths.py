"""Paths of a spec: relative to its file, `..` as the file system means it, `{symbol}`, braces and `~`."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from p3kit.home import home


def straight(path: str | Path) -> Path:
    """`path` without `..`. After a symbolic link, `..` leads to the parent of the real folder."""
    path = Path(path)
    if ".." not in path.parts:
        return path
    last = len(path.parts) - path.parts[::-1].index("..")
    real = Path(os.path.realpath(Path(*path.parts[:last])), *path.parts[last:])
    return real if path.is_absolute() else Path(os.path.relpath(real))


def beside(folder: Path, name: str) -> str:
    """`name` of a spec in `folder`, as a path from the current folder, so that no run directory holds the path of
    somebody's home. Absolute paths and `~` stay."""
    return name if Path(name).is_absolute() or name.startswith("~") else os.path.relpath(straight(folder / name))


def file_of(template: str, symbol: str) -> Path:
    """The file of a symbol: `{symbol}` is replaced, `{{` and `}}` are braces, `~` is the home folder."""
    name = re.sub(r"\{\{|\}\}|\{symbol\}", lambda found: {"{{": "{", "}}": "}"}.get(found[0], symbol), template)
    return home(name)


def template_of(path: Path) -> str:
    """A folder or file as text for `data.path`: its braces doubled."""
    return path.as_posix().replace("{", "{{").replace("}", "}}")


def special_file(path: Path) -> str | None:
    """`a pipe`, `a device` or `a socket`; None for folders, regular files, and what is not there."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return None
    if stat.S_ISFIFO(mode):
        return "a pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else None
