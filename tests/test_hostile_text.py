"""Foreign text stays text in terminals, pages and pictures, whichever field of a run or a spec it stands in."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from p3kit import escape
from p3kit.errors import P3kitError
from p3kit.report.comparison_data import compare_runs
from p3kit.report.comparison_page import render_comparison, write_comparison
from p3kit.report.export_data import find_export
from p3kit.report.export_page import export_toml, export_yaml
from p3kit.report.lessons_data import gather_attempts
from p3kit.report.lessons_page import render_lessons
from p3kit.report.run_pictures import draw_run
from p3kit.report.week_data import summarise_week
from p3kit.report.week_page import render_week, write_week
from p3kit.rundir import RunDir
from p3kit.rundir.rows import line_of, write_json
from p3kit.spec.writing import to_toml
from tests.command import invoke
from tests.diagnose.test_table import all_hold
from tests.made_runs import MONDAY, SPEC, equity_curve, intervene, make_run

HOSTILE = (
    "\x1b[31mred\x1b]8;;http://evil.example\x07\x9b2J\u202e\r\n[x](javascript:alert(1)) "
    "![i](http://evil.example/i.png) <script>alert(1)</script> <http://evil.example> "
    "www.evil.example | `[y](javascript:alert(2)) \\[z](javascript:a) "
    "[/red] [bold]b $\\frac{"
)
ACTIVE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029]")
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable("table")
MARKDOWN.validateLink = lambda url: True  # type: ignore[method-assign]  # other renderers do not refuse javascript:


def assert_inert(text: str) -> None:
    found = ACTIVE.search(text)
    assert found is None, text[max(0, found.start() - 80) : found.start() + 20]  # type: ignore[union-attr]


def assert_page_inert(text: str) -> None:
    """No link, image or tag of the page comes from the hostile text."""
    assert_inert(text)
    tokens = [inner for token in MARKDOWN.parse(text) for inner in (token, *(token.children or ()))]
    for token in tokens:
        target = str(token.attrs.get("href", "") or token.attrs.get("src", ""))
        assert not re.search("evil|script:", target), text
        if token.type.startswith("html"):
            assert re.fullmatch(r"(<!-- /?keep[^\n]*-->\s*)+|<br>", token.content.strip()), token.content
    outside_code = re.sub(r"(?s)```.*?```", "", text)
    outside_code = re.sub(r"(?<!\\)(`+)[^\n]*?(?<!`)\1(?!`)", "", outside_code)
    assert not re.search(r"http://evil|www\.evil", outside_code), text  # GitHub links a bare address


# --- the functions ---


@given(st.text() | st.text(alphabet="[]()!<>`|\\*&;:/.w#\n\x1b"))
def test_markdown_of_any_text_is_one_inert_paragraph(text: str) -> None:
    shown = escape.markdown(f"a {text} b")
    tokens = MARKDOWN.parse(shown)
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    kinds = {inner.type for inner in tokens[1].children or ()}
    assert kinds <= {"text", "text_special", "em_open", "em_close", "strong_open", "strong_close"}, (shown, kinds)
    assert_inert(shown)


@given(st.text(alphabet="ab`|\\ <\n") | st.text())
def test_code_of_any_text_stays_in_its_cell(text: str) -> None:
    row = f"| a | b |\n|---|---|\n| {escape.code(f'x{text}y')} | {escape.markdown(f'x{text}y')} |\n"
    tokens = MARKDOWN.parse(row)
    cells = [tokens[i + 1] for i, token in enumerate(tokens) if token.type == "td_open"]
    assert len(cells) == 2
    assert [inner.type for inner in cells[0].children or ()] == ["code_inline"]


@given(st.lists(st.text(max_size=3).map(lambda end: "x" * 70 + end + "y" * 70) | st.text(), unique=True))
def test_labels_in_a_picture_differ_where_their_texts_do(texts: list[str]) -> None:
    labels = escape.distinct_pictures(texts)
    assert list(labels) == texts
    assert len(set(labels.values())) == len(texts)
    assert all(len(label.replace(r"\$", "$")) <= 64 for label in labels.values())


def test_two_settings_that_begin_alike_have_two_labels() -> None:
    alike = "learning_rate = 0.0003, " * 3
    assert list(escape.distinct_pictures([f"{alike}a", f"{alike}b"]).values()) == [
        f"{alike[:31]}…{alike[-30:]}{end}" for end in "ab"
    ]


@given(st.text())
def test_terminal_text_is_still_valid_in_json(text: str) -> None:
    printed = escape.terminal(json.dumps({"field": text}, ensure_ascii=False))
    assert json.loads(printed) == {"field": text}
    assert_inert(printed)


# --- every string field of a run directory ---


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all strings, with the indexes of lists left out."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, path)


def _with_hostile(value: Any, at: tuple[str, ...]) -> Any:
    if isinstance(value, list):
        return [_with_hostile(inner, at) for inner in value]
    if not at:
        return value + HOSTILE if isinstance(value, str) else value
    if isinstance(value, dict) and at[0] in value:
        return {**value, at[0]: _with_hostile(value[at[0]], at[1:])}
    return value


def _documents(run: Path) -> dict[str, Any]:
    documents = {name: json.loads((run / name).read_text()) for name in ("run.json", "status.json")}
    for name in ("events.jsonl", "metrics.jsonl"):
        documents[name] = [json.loads(line) for line in (run / name).read_text().splitlines()]
    return documents


def _write(run: Path, name: str, document: Any) -> None:
    if isinstance(document, list):
        rows = ({key: value for key, value in row.items() if key != "crc"} for row in document)
        (run / name).write_text("".join(map(line_of, rows)), encoding="utf-8")
    else:
        write_json(run / name, {key: value for key, value in document.items() if key != "crc"})


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two runs with findings, interventions, a matrix point and a message."""
    root = tmp_path_factory.mktemp("foreign") / "runs"
    point = {"ppo.gamma": 0.95, "ppo.lr_schedule": "linear"}
    run = make_run(root, fault=all_hold, point=point, verdict="FAIL", message="a message", state="done")
    intervene(run, "fired", 31_000, keys={"ppo.ent_coef": ["a", "b"]}, did=[{"note": "a note"}], checkpoint="init")
    intervene(run, "suppressed", 33_000)
    intervene(run, "failed", 45_000)
    make_run(root, symbol="HD", until=0.5, state="crashed", message="its process is gone")
    return root


def _fields(root: Path) -> list[tuple[str, tuple[str, ...]]]:
    return [
        (name, path)
        for name, document in _documents(root / "run-1").items()
        for path in dict.fromkeys(_leaves(document))
    ]


def _pages(root: Path) -> dict[str, Callable[[], str]]:
    return {
        "week": lambda: render_week(summarise_week(root, 1, MONDAY + 86_400), {}),
        "lessons": lambda: render_lessons(gather_attempts(root), root.parent / "l.md", root),
        "comparison": lambda: render_comparison(compare_runs(root, ["run-1", "run-2"])),
    }


COMMANDS = (["runs"], ["runs", "--json"], ["diagnose", "run-1"], ["diagnose", "run-1", "--markdown"])


def check_run_with(root: Path, name: str, path: tuple[str, ...]) -> None:
    """Print and render a run whose field `path` is hostile. It may be refused; nothing may become active."""
    document = _documents(root / "run-1")[name]
    _write(root / "run-1", name, _with_hostile(document, path))
    try:
        for page, render in _pages(root).items():
            try:
                assert_page_inert(render())
            except P3kitError as error:
                assert_inert(str(error))
            except Exception as error:
                raise AssertionError(f"{name} {path}: {page}") from error
        for render in (export_toml, export_yaml):
            try:
                assert_inert(render(find_export(root, "run-1"), root))
            except P3kitError as error:
                assert_inert(str(error))
        for command in COMMANDS:
            result = invoke(*command, "--runs", root)
            fault = result.exception
            assert fault is None or isinstance(fault, SystemExit), (name, path, command, fault)
            assert_inert(result.output)
    finally:
        _write(root / "run-1", name, document)


FREE_TEXT = ("message", "note", "reason", "criterion", "labels", "source", "command", "id", "ppo.ent_coef", "name")


def test_free_text_of_a_run_is_inert(foreign: Path) -> None:
    fields = [field for field in _fields(foreign) if field[1][-1] in FREE_TEXT and "spec" not in field[1]]
    assert len(fields) >= len(FREE_TEXT) - 1
    for name, path in fields:
        check_run_with(foreign, name, path)


@pytest.mark.slow
def test_every_string_field_of_a_run_is_inert(foreign: Path) -> None:
    fields = _fields(foreign)
    assert len(fields) > 80
    for name, path in fields:
        check_run_with(foreign, name, path)


def test_pictures_show_hostile_text(foreign: Path, tmp_path: Path) -> None:
    copy = tmp_path / "runs"
    shutil.copytree(foreign, copy)
    documents = _documents(copy / "run-1")
    for name, path in (("run.json", ("agents", "name")), ("metrics.jsonl", ("agent",)), ("events.jsonl", ("agent",))):
        _write(copy / "run-1", name, _with_hostile(documents[name], path))
    page = write_week(summarise_week(copy, 1, MONDAY + 86_400), tmp_path, 1)
    assert_page_inert(page.read_text(encoding="utf-8"))
    assert [path.name for path in sorted(tmp_path.glob("week-01/*.png"))] == [
        "phase3-equity.png", "phase3-learning.png", "phase3-reward.png",
    ]  # fmt: skip
    write_comparison(compare_runs(copy, ["run-1", "run-2"]), tmp_path / "compare.md")
    assert_page_inert((tmp_path / "compare.md").read_text(encoding="utf-8"))
    run = RunDir(copy / "run-1")
    run.write_histogram("equity", run.agent_names()[0], 99_000, equity_curve(1))
    assert len(draw_run(run)) == 1


# --- every string field of a spec ---


def test_every_string_field_of_a_spec_is_inert(tmp_path: Path) -> None:
    tables = {key: value for key, value in SPEC.items() if value not in (None, {}, [])}
    tables["intervention"] = [{"id": "a", "row": "policy.hold", "note": "n", "action": {"note": "text"}}]
    for path in dict.fromkeys(_leaves(tables)):
        spec = tmp_path / "hostile.toml"
        spec.write_text(to_toml(_with_hostile(tables, path)), encoding="utf-8")
        for command in ("validate", "show"):
            result = invoke(command, spec)
            fault = result.exception
            assert fault is None or isinstance(fault, SystemExit), (path, command, fault)
            assert_inert(result.output)
