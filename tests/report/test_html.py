"""`p3kit report --html`: one file to send, looked at in a browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from p3kit.report.html_page import html_page, write_html
from tests.browser import MISSING, open_browser
from tests.command import invoke
from tests.made_runs import make_run

EXAMPLE = Path(__file__).parents[2] / "docs/examples/week-01.md"


def test_the_page_is_one_file_that_loads_nothing(tmp_path: Path) -> None:
    text = write_html(EXAMPLE, tmp_path / "a/week.html").read_text(encoding="utf-8")
    assert text.count("data:image/png;base64,") == EXAMPLE.read_text(encoding="utf-8").count("![")
    assert not re.findall(r"""(?:src|href)=["'](?!data:|https?:|#)""", text)
    assert "default-src 'none'" in text
    assert "<title>Phase 3 Training Status - Week 1</title>" in text
    assert "keep:notes" not in text


def test_foreign_text_does_nothing(tmp_path: Path) -> None:
    (tmp_path.parent / "secret.png").write_bytes(b"secret")
    hostile = "\n\n".join(
        (
            "# <script>alert(1)</script>",
            "<img src=x onerror=alert(1)>",
            "[a](javascript:alert(1)) [b](run-1) [c](https://example.org/?a=1&b=2)",
            "![p](https://example.org/p.png) ![q](../secret.png) ![r](/etc/passwd) ![s](data:image/png;base64,AAAA)",
        )
    )
    text = html_page(hostile, tmp_path)
    body = text[text.index("<body>") : text.index("<script>")]
    assert "<img" not in body
    assert "javascript:alert" not in re.sub(r">[^<]*<", "><", body)
    assert "<span>b</span>" in body
    assert 'href="https://example.org/?a=1&amp;b=2"' in body
    assert "<title>&lt;script&gt;" in text


@pytest.mark.parametrize(
    ("flags", "written"),
    [
        (("--lessons", "--html", "--output", "pages"), ["pages/lessons-learned.html", "pages/lessons-learned.md"]),
        (("--lessons", "--output", "pages/a.html"), ["pages/a.html"]),
        (("--lessons", "--output", "pages/a.md"), ["pages/a.md"]),
        (("--week", "1", "--output", "pages/a.html"), ["pages/a.html"]),
        (("--week", "1", "--output", "pages", "--html"), ["pages/week-01.html", "pages/week-01.md"]),
    ],
)
def test_the_ending_picks_the_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], written: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs"))
    result = invoke("report", *flags)
    assert result.exit_code == 0, result.output
    assert sorted(str(path) for path in Path("pages").rglob("*.*") if path.suffix != ".png") == written
    assert result.stdout.strip() == written[0]


@pytest.mark.parametrize("flags", [("--output", "a.pdf"), ("--output", "a.md", "--html")])
@pytest.mark.parametrize("kind", [("--lessons",), ("--week", "1")])
def test_another_ending_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], kind: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("report", *kind, *flags)
    assert result.exit_code == 2
    assert ".html" in result.stderr
    assert not list(tmp_path.iterdir())


COMMANDS = (["compare", "run-1", "run-2"], ["diagnose", "run-1"])


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_other_pages_are_written_the_same_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        make_run(Path("runs"), fault=lambda row, progress, tick: row.update({"policy/clip_fraction": 0.5}))
    for name in ("pages/a.html", "pages/b.md"):
        result = invoke(*command, "--output", name)
        assert (result.exit_code, result.stdout.strip()) == (0, name)
    text = Path("pages/a.html").read_text(encoding="utf-8")
    assert "<h1>" in text
    assert "<table>" in text
    assert "&lt;br" not in text
    assert not re.findall(r"""(?:src|href)=["'](?!data:|https?:|#)""", text)
    assert Path("pages/b.md").read_text(encoding="utf-8").startswith("# ")
    for name in ("a", "a.pdf", "a.htm"):
        result = invoke(*command, "--output", name)
        assert result.exit_code == 2
        assert ".html" in result.stderr


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_it_reads_well_at_two_widths_and_its_tables_sort(tmp_path: Path) -> None:
    page = write_html(EXAMPLE, tmp_path / "week.html")
    with open_browser(tmp_path / "profile") as browser:
        browser.open(page.as_uri())
        names = "return [...document.querySelector('tbody').rows].map(row => row.cells[0].textContent)"
        sharpe = "return [...document.querySelector('tbody').rows].map(row => parseFloat(row.cells[2].textContent))"
        before = browser.run(sharpe)
        browser.run("document.querySelectorAll('th button')[2].click()")
        assert browser.run(sharpe) == sorted(before) != before
        browser.run("document.querySelectorAll('th button')[2].click()")
        assert browser.run(sharpe) == sorted(before, reverse=True)
        browser.run("document.querySelectorAll('th button')[0].click()")
        assert browser.run(names) == sorted(browser.run(names))
        widths = "return [document.documentElement.scrollWidth, window.innerWidth]"
        for width in (1_600, 420):
            browser.run(f"document.body.style.width = '{width}px'")
            scrolled, inner = browser.run(widths)
            assert scrolled <= inner
        pictures = browser.run("return [...document.images].map(image => image.naturalWidth)")
        assert pictures
        assert min(pictures) > 100
