"""docs/errors.md: every documented wrong input with its exact message.

`pytest tests/errors --refresh-golden` rewrites the page; then read the diff.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from p3kit.cli import main
from tests.documented import ROOT
from tests.errors.wrong_inputs import GROUPS, Wrong

PAGE = ROOT / "docs" / "errors.md"
WRONG_SPECS = ROOT / "tests" / "spec" / "wrong"
MESSAGES = ROOT / "tests" / "golden" / "spec"
HEAD = """# Error messages

Every message names the place, the value, the expected value, the nearest valid word if there is one, and the remedy.
p3kit prints all faults of a spec at once, with file, line and column. A mistake ends with exit code 2 before p3kit
writes anything. `p3kit predict` ends with 3 if bars are too few or too old. A traceback is always a bug of p3kit.

The tests compare this page with p3kit's output. `pytest tests/errors --refresh-golden` rewrites it.
"""
CASES = [case for group in GROUPS.values() for case in group]


def printed(case: Wrong, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Output for the user, without paths of the machine and dates."""
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    if case.prepare is not None:
        case.prepare(folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("P3KIT_RUNS", raising=False)
    result = CliRunner(env={"COLUMNS": "110"}).invoke(
        main, shlex.split(case.command), prog_name="p3kit", catch_exceptions=False
    )
    assert result.exit_code == case.exit_code, f"{case.what}: {result.exit_code}\n{result.output}"
    assert result.stdout == "", case.what
    return re.sub(
        r"--from 20\d\d-\d\d-\d\d is the earliest", "--from 20YY-MM-DD is the earliest", result.stderr.strip()
    )


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Command and folder → message, of every case."""
    with pytest.MonkeyPatch.context() as patch:
        return {case.what: printed(case, tmp_path_factory.mktemp("wrong"), patch) for case in CASES}


def test_the_page_is_current(messages: dict[str, str], request: pytest.FixtureRequest) -> None:
    parts = [HEAD]
    for title, group in GROUPS.items():
        parts.append(f"## {title}\n")
        parts += [_entry(f"p3kit {case.command}", case.what, messages[case.what]) for case in group]
    parts.append("## Specs\n")
    for spec in sorted(WRONG_SPECS.glob("*.toml")):
        message = MESSAGES / f"{spec.stem}.txt"
        if message.exists():
            text = spec.read_text(encoding="utf-8").strip("\n")
            what = re.search(r"^# Wrong: (.*)\.$", text, re.MULTILINE)
            assert what, f"{spec.name} lacks its line '# Wrong: ...'"
            body = "\n".join(line for line in text.splitlines() if not line.startswith("# Wrong: "))
            shown = message.read_text(encoding="utf-8").strip()
            parts.append(
                f'### {_title(what[1])}\n\n```toml title="{spec.name}"\n{body}\n```\n\n```text\n{shown}\n```\n'
            )
    current = "\n".join(parts)
    if request.config.getoption("--refresh-golden"):
        PAGE.write_text(current, encoding="utf-8")
    assert current == PAGE.read_text(encoding="utf-8"), "pytest tests/errors --refresh-golden, then read the diff"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_a_message_says_where_what_and_how_to_go_on(case: Wrong, messages: dict[str, str]) -> None:
    message = messages[case.what]
    for line in message.splitlines():
        if line.startswith(("Usage: ", "Try '", "Error: ")) or not line:
            continue  # click's own words around ours
        assert re.match(r"\S.*?: \S", line), f"no place: {line}"
        assert ";" in line or "expected" in line, f"no remedy: {line}"
    assert "Traceback" not in message
    assert "/tmp" not in message


def test_no_two_cases_have_one_name() -> None:
    assert len({case.what for case in CASES}) == len(CASES) >= 60


def _title(what: str) -> str:
    return what[0].upper() + what[1:]


def _entry(command: str, what: str, message: str) -> str:
    return f"### {_title(what)}\n\n```console\n$ {command}\n{message}\n```\n"
