"""Pages as programs: their commands are run and their changes applied, in the order in which a reader meets them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Step:
    """One step of a page for its reader."""

    kind: Literal["sh", "diff", "toml", "python", "json"]
    text: str
    marker: str
    """The word of a `<!-- word -->` right above the block: "network", or the file a block is for."""


def steps(page: str) -> Iterator[Step]:
    """The blocks of a page, commands one by one. Python and JSON count where a file's name stands above them."""
    for marker, kind, text in re.findall(
        r"(?:<!-- ([^\n]+) -->\n)?```(sh|diff|toml|python|json)\n(.*?)```", page, re.S
    ):
        if kind in ("python", "json") and not marker:
            continue
        if kind != "sh":
            yield Step(kind, text, marker)
            continue
        for line in text.replace("\\\n", " ").splitlines():
            if command := line.split(" #")[0].strip():
                yield Step("sh", command, marker)


def commands(page: str) -> list[str]:
    """Every line of every `sh` block, without its comment."""
    return [step.text for step in steps(page) if step.kind == "sh"]


def execute(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """One command as a reader in `folder` would type it, with this Python and this p3kit."""
    words = shlex.split(command)
    if words[0] == "p3kit":
        words[:1] = [sys.executable, "-m", "p3kit"]
    elif words[0] == "python":
        words[:1] = [sys.executable]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "NO_COLOR": "1"}
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=600, env=environment)


def apply(change: str, file: Path) -> None:
    """A change as a page shows it: lines that begin with a space or a minus are in the file, once and in this order."""
    lines = change.splitlines()
    before = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
    after = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("-"))
    text = file.read_text(encoding="utf-8")
    assert text.count(before) == 1, f"{text.count(before)} places in {file.name} for:\n{before}"
    file.write_text(text.replace(before, after), encoding="utf-8")
