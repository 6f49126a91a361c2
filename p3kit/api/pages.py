"""Pages and files that are written from runs: the weekly report, the lessons learned, an export of validated values."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from p3kit.api.saved_run import RunLike
from p3kit.errors import InputError, P3kitError
from p3kit.home import home
from p3kit.rundir import file_name, folder_of_runs, intact_runs, mark_crashed

if TYPE_CHECKING:
    from p3kit.diagnose import AgentDiagnosis
    from p3kit.report.comparison_data import Comparison

PAGES = (".md", ".html")
"""Endings of a page that is named as a file."""

FORMATS = {".toml": "toml", ".yaml": "yaml", ".yml": "yaml"}
"""Formats of an export by the ending of its file."""


@dataclass(frozen=True)
class WrittenPage:
    """A page that was written, and the runs that could not be read for it."""

    path: Path
    data: dict[str, Any]
    """Content of the page, as `p3kit report --json` prints it."""
    damaged: Sequence[P3kitError]
    """Faults of the runs that are not in the page."""
    not_marked: Sequence[str]
    """Reasons why a crashed run could not be marked, for example a read-only folder."""


@dataclass(frozen=True)
class Exported:
    """The values of a setting as text, and where it was written."""

    text: str
    path: Path | None
    data: dict[str, Any]
    """Content as `p3kit export --json` prints it."""


def write_week_report(
    week: int,
    output: str | Path = "reports",
    runs_root: str | Path | None = None,
    name: str | None = None,
    templates: Path | None = None,
    *,
    html: bool = False,
) -> WrittenPage:
    """Write the weekly status report and its pictures.

    `output` is a folder, or a file that ends in `.md` or `.html`. One HTML file has the pictures inside. In a folder,
    `html` writes it beside the markdown page. `week` counts from 1, `name` limits the report to one experiment,
    `templates` is a folder of page templates. The report of a past week shows what was known at its end.
    """
    from p3kit.report.week_data import summarise_week
    from p3kit.report.week_page import week_json, write_week

    root, place = folder_of_runs(runs_root), home(output)
    is_file = _names_a_file(place, html)
    _, not_marked = mark_crashed(root)
    intact, damaged = intact_runs(root)
    several = len({run.info()["name"] for run in intact}) > 1
    stem = f"week-{week:02d}-{file_name(name)}" if name is not None and several else None
    experiments = summarise_week(root, week, time.time(), name)
    folder, stem = (place.parent, place.stem) if is_file else (place, stem)
    path = _written(lambda to: write_week(experiments, to, week, stem, templates), folder, place, html)
    return WrittenPage(path, week_json(experiments, path), damaged, not_marked)


def write_lessons_report(
    output: str | Path = "reports",
    runs_root: str | Path | None = None,
    name: str | None = None,
    templates: Path | None = None,
    *,
    html: bool = False,
) -> WrittenPage:
    """Write the lessons learned from all runs. `output` is a folder, or a file that ends in `.md` or `.html`. In a
    folder, `html` writes an HTML file beside the markdown page."""
    from p3kit.report.lessons_data import gather_attempts
    from p3kit.report.lessons_page import lessons_json, write_lessons

    root, place = folder_of_runs(runs_root), home(output)
    is_file = _names_a_file(place, html)
    _, not_marked = mark_crashed(root)
    _, damaged = intact_runs(root)
    history = gather_attempts(root, name)
    folder, stem = (place.parent, place.stem) if is_file else (place, "lessons-learned")
    path = _written(lambda to: write_lessons(history, to / f"{stem}.md", root, templates), folder, place, html)
    return WrittenPage(path, lessons_json(history, path), damaged, not_marked)


def write_comparison_page(comparison: Comparison, output: str | Path, templates: Path | None = None) -> Path:
    """Write a comparison as a page with its picture: `.md`, or `.html` for one file. Returns its path."""
    from p3kit.report.comparison_page import write_comparison

    place = _page_file(output)
    return _written(lambda to: write_comparison(comparison, to / f"{place.stem}.md", templates), place.parent, place)


def write_diagnosis_page(title: str, diagnoses: Sequence[AgentDiagnosis], output: str | Path) -> Path:
    """Write the troubleshooting table of a run as a page: `.md`, or `.html` for one file. Returns its path."""
    from p3kit.diagnose.markdown_table import diagnoses_as_markdown
    from p3kit.escape import markdown
    from p3kit.report.markdown import write_page

    place, text = _page_file(output), f"# Diagnosis of {markdown(title)}\n\n{diagnoses_as_markdown(diagnoses)}"
    return _written(lambda to: write_page(text, to / f"{place.stem}.md"), place.parent, place)


def export_run(
    run: RunLike,
    output: str | Path | None = None,
    runs_root: str | Path | None = None,
    name: str | None = None,
    kind: Literal["toml", "yaml"] | None = None,
) -> Exported:
    """Export the spec of a run with every value pinned, and its validation results.

    `run` is a run, or `best`: the setting with the highest lower end of the 95 % interval of its mean Sharpe ratio. The
    setting is from the experiment `name`, if given. The text is also written to `output`, in the format of its ending.
    """
    from p3kit.report.export_data import find_export
    from p3kit.report.export_page import export_json, export_toml, export_yaml

    file = None if output is None else home(output)
    format_ = _format(file, kind)
    reference = os.fspath(run)
    if name is not None and reference != "best":
        raise InputError(f"--name {name}", "chooses among experiments, and a run was named", "use it with best")
    found = find_export(folder_of_runs(runs_root), reference, name)
    folder = file.parent if file is not None else Path()
    text = export_toml(found, folder) if format_ == "toml" else export_yaml(found, folder)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return Exported(text, file, {"file": file and file.as_posix(), **export_json(found, folder)})


def _page_file(output: str | Path) -> Path:
    """The file of a page. Raises InputError for another ending, or none."""
    place = home(output)
    if place.suffix not in PAGES:
        raise InputError(f"--output {place}", "what to write is not known", "end it in .md or .html")
    return place


def _names_a_file(place: Path, html: bool) -> bool:
    """True for the name of a page, False for a folder. Raises InputError for another ending."""
    if place.is_dir() or (not place.suffix and not place.is_file()):
        return False
    if place.suffix not in PAGES:
        raise InputError(f"--output {place}", "what to write is not known", "name a folder, or end it in .md or .html")
    if html and place.suffix == ".md":
        raise InputError("--html", f"does not go with --output {place}", "end it in .html, or name a folder")
    return True


def _written(write: Callable[[Path], Path], folder: Path, place: Path, html: bool = False) -> Path:
    """The page that `write` makes in `folder`, as HTML if `place` or `html` requires it."""
    from p3kit.report.html_page import write_html

    if place.suffix == ".html" and not place.is_dir():
        with tempfile.TemporaryDirectory() as scratch:
            return write_html(write(Path(scratch)), place)
    page = write(folder)
    return write_html(page, page.with_suffix(".html")) if html else page


def _format(file: Path | None, kind: str | None) -> str:
    """Format of an export: as given, else by the ending of the file, else TOML."""
    if file is not None and file.suffix not in FORMATS:
        raise InputError(f"--output {file}", "what to write is not known", "end it in .toml, .yaml or .yml")
    if file is not None and kind is not None and FORMATS[file.suffix] != kind:
        raise InputError(f"--format {kind}", f"does not go with --output {file}", "leave one of them out")
    return kind or (FORMATS[file.suffix] if file is not None else "toml")
