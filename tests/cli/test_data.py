"""`p3kit data`: facts on stdout, the sample's caution repeated, refusals with exit code 2."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import Result

from p3kit.market import sample
from tests.command import invoke


def run(tmp_path: Path, text: str, *options: str) -> Result:
    spec = tmp_path / "spec.toml"
    spec.write_text(text)
    return invoke("data", spec, *options)


def test_the_sample_says_where_it_comes_from_and_repeats_the_caution(tmp_path: Path) -> None:
    result = run(tmp_path, 'name = "x"\nsymbols = ["AAPL", "XOM"]\n')
    assert result.exit_code == 0, result.output
    assert sample.CAUTION in result.stdout
    assert sample.PROVENANCE in result.stdout
    lines = result.stdout.splitlines()
    assert lines[1].split()[:5] == ["AAPL", "3,270", "2010-01-04", "2022-12-28", "252.0"]
    assert "train   bars  first       last        close  bear  sideways  bull" in lines


def test_json_has_the_same_facts(tmp_path: Path) -> None:
    result = run(tmp_path, 'name = "x"\nsymbols = ["AAPL"]\n', "--json")
    facts = json.loads(result.stdout)["AAPL"]
    assert facts["bars"] == 3_270
    assert len(facts["fingerprint"]) == 64
    assert len(facts["features"]) == 20
    assert facts["splits"]["train"]["bars"] == 2_113
    assert sum(facts["splits"]["test"]["regimes"].values()) > 0.999
    assert facts["caution"] == sample.CAUTION


def test_synthetic_bars_say_so_and_overrides_count(tmp_path: Path) -> None:
    text = 'name = "x"\nsymbols = ["MADE"]\n[data]\nsource = "synthetic"\n'
    result = run(tmp_path, text, "--set", "data.synthetic.bars=5000")
    assert "5,000" in result.stdout
    assert "synthetic (not real)" in result.stdout
    assert sample.CAUTION not in result.stdout


def test_bad_bars_end_with_code_2_and_a_message_on_stderr(tmp_path: Path) -> None:
    (tmp_path / "X.csv").write_text("timestamp,close\n2020-01-01,1\n2020-01-02,-1\n")
    result = run(tmp_path, 'name = "x"\nsymbols = ["X"]\n[data]\nsource = "csv"\npath = "{symbol}.csv"\n')
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "X.csv: row 3 (2020-01-02): close is -1: a price must be above 0" in result.stderr
