"""docs/diagnosis.md shows the catalogue as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from p3kit.diagnose.markdown_table import catalogue_as_markdown

PAGE = Path(__file__).parents[2] / "docs" / "diagnosis.md"
BEGIN, END = "--refresh-golden -->\n", "<!-- end of catalogue -->"


def test_the_catalogue_page_is_current(request: pytest.FixtureRequest) -> None:
    page = PAGE.read_text(encoding="utf-8")
    head, rest = page.split(BEGIN)
    _, tail = rest.split(END)
    current = head + BEGIN + "\n" + catalogue_as_markdown() + "\n" + END + tail
    if request.config.getoption("--refresh-golden"):
        PAGE.write_text(current, encoding="utf-8")
    assert current == PAGE.read_text(encoding="utf-8"), "pytest --refresh-golden, then read the diff"
