"""Natural wishes get an answer, and whole numbers may be written as people write them."""

from __future__ import annotations

import pytest

from p3kit.errors import SpecError
from p3kit.spec import load_spec, resolve_spec
from p3kit.spec.error_messages import OTHER_WORDS
from p3kit.spec.field_types import key_paths
from p3kit.spec.models import Spec
from p3kit.spec.not_offered import NOT_OFFERED
from p3kit.spec.shipped import find_trainer

KEYS = {path[-1] for path in key_paths(Spec)}


def resolve(**tables: object) -> Spec:
    return resolve_spec({"name": "wish", "symbols": ["AAPL"], **tables}, "wish")


@pytest.mark.parametrize("word", [word for wish in NOT_OFFERED for word in wish.words])
def test_a_wish_is_answered_wherever_it_is_written(word: str) -> None:
    assert word not in KEYS
    for tables in ({word: True}, {"env": {word: 2}}, {"ppo": {word: "x"}}, {word: {"key": 1}}):
        with pytest.raises(SpecError, match=r"not offered, because .*; nearest: "):
            resolve(**tables)
    with pytest.raises(SpecError, match="not offered, because"):
        find_trainer(word.upper())


@pytest.mark.parametrize("word", ["fees", "cash", "window_size", "lookback", "stop_loss", "initial_balance"])
def test_words_of_other_tools_lead_to_ours(word: str) -> None:
    with pytest.raises(SpecError, match=f'here it is called "{OTHER_WORDS[word]}"'):
        resolve(env={word: 3})
    with pytest.raises(SpecError, match=f"{OTHER_WORDS[word]}.* belongs in .env."):
        resolve(**{word: 3})


def test_whole_numbers_may_be_written_as_floats_without_a_fraction() -> None:
    spec = resolve(seeds=[1.0, 2e0], env={"num_envs": 1e1, "commission_bps": 5}, ppo={"total_timesteps": 1e6})
    assert (spec.seeds, spec.env.num_envs, spec.ppo.total_timesteps) == ((1, 2), 10, 1_000_000)
    assert all(type(value) is int for value in (*spec.seeds, spec.env.num_envs, spec.ppo.total_timesteps))
    assert type(spec.env.commission_bps) is float
    loaded = load_spec("specs/smoke.toml", ["ppo.total_timesteps=1e5", "env.max_hold=2e1"]).spec
    assert (loaded.ppo.total_timesteps, loaded.env.max_hold) == (100_000, 20)
    for wrong in (2048.5, 1e17, -1e3, True, "1e6"):
        with pytest.raises(SpecError, match="expected a whole number"):
            resolve(ppo={"n_steps": wrong})


def test_numbers_with_a_fraction_stay_what_they_are() -> None:
    assert resolve(ppo={"gamma": 1.0}).ppo.gamma == 1.0
    assert resolve(env={"target": 1.0}).env.target == 1.0
