"""A slice of the fuzz in every test run, and what it brought to light, kept."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from p3kit.spec import load_spec
from tests.made_runs import make_run
from tests.measure.fuzz import damaged_directories, damaged_specs
from tests.measure.fuzz.commands import Finding, call


def test_changed_specs_are_read_or_refused(tmp_path: Path) -> None:
    answers = {}
    for number, kind, content, answer, finding in damaged_specs.trials(tmp_path / "specs", 77, range(120)):
        assert not finding, f"spec {number} of seed 77: {finding}\n{content!r}"
        answers[kind, answer] = answers.get((kind, answer), 0) + 1
    assert answers.keys() == {(kind, answer) for kind in ("grammar", "bytes") for answer in ("valid", "refused")}


def test_damaged_directories_are_read_or_named(tmp_path: Path) -> None:
    answers: set[str] = set()
    for trial in damaged_directories.trials(tmp_path, 77, range(10), trained=False):
        assert not trial.findings, f"directory {trial.number} of seed 77: {trial.harm}: {trial.findings}"
        answers |= set(trial.answers)
    assert {"runs: exit code 0", "diagnose: exit code 1", "report: exit code 1"} <= answers


def test_the_fuzz_itself_finds_what_it_looks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that fails with a traceback, that never ends, or that writes over a file of a run."""
    run = make_run(tmp_path / "trial" / "runs", until=0.2)
    make_run(tmp_path / "trial" / "runs", until=0.2)
    make_run(tmp_path / "trial" / "runs", until=0.2)

    def fails(*_: object, **__: object) -> None:
        raise KeyError("name")

    def hangs(*_: object, **__: object) -> None:
        while True:
            time.sleep(0.001)

    def writes(*_: object, **__: object) -> list[str]:
        (run.path / "metrics.jsonl").write_text("")
        return []

    monkeypatch.setattr("p3kit.api.saved_run.run_lines", fails)
    with pytest.raises(Finding, match="KeyError: 'name'"):
        call("runs", "--runs", str(run.path.parent))
    monkeypatch.setattr("p3kit.api.saved_run.run_lines", hangs)
    with pytest.raises(Finding, match=r"no answer after 0\.1 s"):
        call("runs", "--runs", str(run.path.parent), seconds=0.1)
    monkeypatch.setattr("p3kit.api.saved_run.run_lines", writes)
    trial = damaged_directories.Trial(0, "run-2", [])
    damaged_directories.try_directory(tmp_path / "trial", trial, ["runs"])
    assert any("not what they were" in finding for finding in trial.findings)


# ---------------------------------------------------------------------- findings, kept


@pytest.mark.parametrize(
    "line", ['extends = "\\u0000"', 'trainer = "\\u0000.py"', 'data = { source = "csv", path = "\\u0000/{symbol}" }']
)
def test_a_path_that_no_system_has(line: str, tmp_path: Path) -> None:
    """Found: ValueError of the file system, for a base with a null byte in its name."""
    path = damaged_specs.prepare(tmp_path / "specs")
    assert damaged_specs.try_spec(f'{line}\nname = "x"\nsymbols = ["AAPL"]\n'.encode(), path) == "refused"


@pytest.mark.parametrize(
    "text",
    [
        "[ppo]\ngamma = 0.9\n[ppo\n",  # found: ValueError, looking for what stands twice before the end of the header
        '[ppo]\n[ppo]\n"\\q" = 1\n[ppo\n',
        'a."\\q" = 1\na = 2\n',
    ],
)
def test_a_spec_that_ends_in_the_middle_of_its_grammar(text: str, tmp_path: Path) -> None:
    path = damaged_specs.prepare(tmp_path / "specs")
    assert damaged_specs.try_spec(f'name = "x"\nsymbols = ["AAPL"]\n{text}'.encode(), path) == "refused"


def test_a_spec_of_a_hundred_and_fifty_rules_is_judged_in_a_moment(tmp_path: Path) -> None:
    """Found: for every key that a rule moves, the whole spec with all rules was validated again. Half a minute."""
    rules = "".join(
        f'[[intervention]]\nid = "rule-{number}"\non = "policy.hold"\n'
        f'do = [{{ scale = "ppo.ent_coef", by = 2.0, max = {number + 1}e-4, min = 1e-5 }}]\n'
        for number in range(150)
    )
    agents = "".join(f"[agents.{symbol}]\nppo = {{ gamma = 0.9 }}\n" for symbol in ("AAPL", "AMD", "BAC", "HD"))
    path = tmp_path / "rules.toml"
    path.write_text(f'name = "rules"\nsymbols = ["AAPL", "AMD", "BAC", "HD"]\n{agents}{rules}')
    begun = time.process_time()
    assert len(load_spec(path).spec.intervention) == 150
    assert time.process_time() - begun < 8


def test_a_slip_in_every_symbol_is_told_sixty_times_at_most(tmp_path: Path) -> None:
    """Found: 143 symbols that the sample lacks gave 20,000 characters of message."""
    path = tmp_path / "many.toml"
    path.write_text(f'name = "many"\nsymbols = {[f"S{number}" for number in range(143)]}\n')
    lines = call("validate", str(path), codes=[2]).stderr.splitlines()
    assert len(lines) == 61
    assert lines[-1].endswith(": 83 more faults; correct these first")


def test_a_damaged_run_that_is_exported_is_named(tmp_path: Path) -> None:
    """Found: StopIteration, because a damaged run is not among the exported settings."""
    make_run(tmp_path / "runs")
    damaged = make_run(tmp_path / "runs")
    content = (damaged.path / "metrics.jsonl").read_bytes()
    (damaged.path / "metrics.jsonl").write_bytes(damaged_directories.zero_a_block(content, random.Random(1)))
    answer = call("export", "run-2", "--runs", str(tmp_path / "runs"))
    assert answer.code == 1
    assert "run-2/metrics.jsonl:" in answer.stderr
    elsewhere = make_run(tmp_path / "elsewhere")
    answer = call("export", str(elsewhere.path), "--runs", str(tmp_path / "runs"))
    assert (answer.code, "give its folder by --runs" in answer.stderr) == (2, True)
