"""Pages written from code are current; `pytest tests/docs --refresh-golden` rewrites them."""

from __future__ import annotations

import pytest

from p3kit.spec import field_types
from p3kit.spec.models import Spec
from tests.docs.generated_pages import PAGES
from tests.documented import ROOT


@pytest.mark.parametrize("name", PAGES)
def test_a_page_from_code_is_current(name: str, request: pytest.FixtureRequest) -> None:
    path, current = ROOT / "docs" / name, PAGES[name]()
    if request.config.getoption("--refresh-golden"):
        path.write_text(current, encoding="utf-8")
    assert current == path.read_text(encoding="utf-8"), "pytest tests/docs --refresh-golden, then read the diff"


def test_the_reference_has_every_key_with_a_sentence() -> None:
    page = PAGES["spec.md"]()
    for path in field_types.key_paths(Spec):
        assert f"`{path[-1]}`" in page or f"[{'.'.join(path)}]" in page or f"[[{path[-1]}]]" in page, path
    for line in page.splitlines():
        if line.startswith("| `"):
            assert not line.endswith("|  |"), f"no sentence: {line}"
