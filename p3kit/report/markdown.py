"""Markdown pages: templates, numbers and names as markdown, tables, and the file on disk.

A template is looked up in the user's folder first, then among the package's own (`templates/*.md.j2`).
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import (
    ChoiceLoader,
    Environment,
    FileSystemLoader,
    StrictUndefined,
    TemplateError,
    TemplateSyntaxError,
)

from p3kit import escape
from p3kit.diagnose.findings import format_number, format_steps
from p3kit.edge import bound
from p3kit.errors import InputError
from p3kit.escape import markdown as safe
from p3kit.report.hand_written import keep_hand_written
from p3kit.rundir.rows import write_bytes

TEMPLATES = Path(__file__).parent / "templates"
Interval = tuple[float, float]
_RENAMED = {"experience": "history"}
"""Old name of a template variable → its new name."""


def render(template: str, own_templates: Path | None = None, **values: Any) -> str:
    """The page that `template` (`week.md.j2`) makes of `values`, without empty lines in a row.

    Raises InputError where `own_templates` holds no template of a page of ours, or one that is at fault.
    """
    if own_templates is not None:
        _check_own(own_templates)
    folders = [TEMPLATES] if own_templates is None else [own_templates, TEMPLATES]
    environment = Environment(
        loader=ChoiceLoader([FileSystemLoader(folder) for folder in folders]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  (markdown, not HTML; what comes from users is escaped)
    )
    environment.filters |= {
        "plain": escape.markdown,
        "code": escape.code,
        "fenced": escape.fenced,
        "shell": shlex.quote,
        "steps": format_steps,
        "percent": percent,
        "interval": interval,
    }
    environment.filters |= {"ratio": ratio, "commit": commit, "number": format_number}
    is_own = own_templates is not None and (own_templates / template).is_file()
    try:
        text = environment.get_template(template).render(**values)
    except (TemplateError, TypeError, ValueError, AttributeError) as error:
        if not is_own or own_templates is None:
            raise
        line = _line_of(error, own_templates / template)
        what = f"the template cannot be filled in: {error}"
        new = next((f"`{old}` is now `{new}`; " for old, new in _RENAMED.items() if f"'{old}'" in str(error)), "")
        hint = f"{new}compare it with {TEMPLATES / template}"
        raise InputError(f"{own_templates / template}{line}", what, hint) from None
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"


def _check_own(folder: Path) -> None:
    ours = sorted(path.name for path in TEMPLATES.glob("*.j2"))
    if not any((folder / name).is_file() for name in ours):
        raise InputError(f"--templates {folder}", "contains no known template", f"templates are {', '.join(ours)}")


def _line_of(error: Exception, path: Path) -> str:
    """`:12`, if the error has its line in the template."""
    if isinstance(error, TemplateSyntaxError):
        return f":{error.lineno}"
    trace, line = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return "" if line is None else f":{line}"


def write_page(text: str, path: Path) -> Path:
    """Write a page in one step, with the hand-written parts of the file that was there. Returns the path."""
    whole = keep_hand_written(text, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, whole.encode(), durable=False)
    return path


# --- names and numbers ---


def experiment_title(name: str) -> str:
    """`phase3` is "Phase 3", as the guide writes it; any other name stands as it is."""
    match = re.fullmatch(r"phase[-_ ]?(\d+)", name)
    return f"Phase {match[1]}" if match else safe(name)


def listed(names: Sequence[str], most: int = 12) -> str:
    """A, B, C and 4 more."""
    names = [safe(name) for name in names]
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[:most])} and {len(names) - most} more"


def count_of(count: int, what: str) -> str:
    """1 agent, 2 agents."""
    return f"{count} {what}" + ("" if count == 1 else "s")


def commit(name: str) -> str:
    """The first twelve digits of a commit, and whether there were changes beside it."""
    digits, plus, changes = name.partition("+")
    return digits[:12] + plus + changes


def percent(value: float | None) -> str:
    """A share as a signed percentage: +12.3%; n/a where there is none."""
    return "n/a" if value is None else f"{value:+.1%}"


def ratio(value: float | None) -> str:
    """A ratio with two digits: 0.42; n/a where there is none."""
    return "n/a" if value is None else f"{float(value):z.2f}"


def interval(bounds: Interval | None) -> str:
    """[-0.48, 1.32]; a bound that is not 0 is never rounded to 0."""
    return "" if bounds is None else f"[{bound(bounds[0])}, {bound(bounds[1])}]"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table whose columns also line up where it is read as plain text; the first column to the left."""
    lines = [list(headings), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    rule = [f":{'-' * (max(widths[0], 3) - 1)}", *(f"{'-' * (max(width, 3) - 1)}:" for width in widths[1:])]
    padded = [
        [
            line[0].ljust(max(widths[0], 3)),
            *(cell.rjust(max(w, 3)) for cell, w in zip(line[1:], widths[1:], strict=True)),
        ]
        for line in lines
    ]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [padded[0], rule, *padded[1:]])


def relative_to_here(path: Path) -> str:
    """A path as the reader would type it from where they are."""
    try:
        return os.path.relpath(path)
    except ValueError:  # another drive on Windows
        return str(path)
