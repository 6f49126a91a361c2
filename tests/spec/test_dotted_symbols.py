"""Symbols with a dot as keys: the hint of an error is what works."""

from __future__ import annotations

from pathlib import Path

import pytest

from p3kit.errors import SpecError
from p3kit.spec import agent_spec, load_spec

HEAD = 'name = "x"\nsymbols = ["AAPL", "BRK.B", "RDS.A.L"]\n[data]\nsource = "csv"\npath = "{symbol}.csv"\n'
WRONG = {
    "[agents.BRK.B]\nppo.gamma = 0.9": 'agents."BRK.B"',
    "[agents.RDS.A.L.ppo]\ngamma = 0.9": 'agents."RDS.A.L"',
    "[agents]\nBRK.B.ppo.gamma = 0.9": 'agents."BRK.B"',
    "[baselines.supervised]\nBRK.B = 0.1": 'baselines.supervised."BRK.B"',
}


@pytest.mark.parametrize("text", WRONG)
def test_a_dot_that_parts_a_key_is_named_with_the_quotes_to_write(text: str, tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(HEAD + text + "\n")
    with pytest.raises(SpecError) as caught:
        load_spec(file)
    (fault,) = caught.value.faults
    assert fault.where.startswith(f"{file}:")
    assert fault.hint == f"put the symbol in quotes: {WRONG[text]}"


def test_the_hint_works(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(HEAD + '[agents."BRK.B"]\nppo.gamma = 0.9\n[baselines.supervised]\n"BRK.B" = 0.1\n')
    spec = load_spec(file, ['agents."RDS.A.L".ppo.gamma=0.8']).spec
    assert agent_spec(spec, "BRK.B").ppo.gamma == 0.9
    assert agent_spec(spec, "RDS.A.L").ppo.gamma == 0.8
    with pytest.raises(SpecError, match=r'in quotes: agents\."BRK\.B"'):
        load_spec(file, ["agents.BRK.B.ppo.gamma=0.8"])
