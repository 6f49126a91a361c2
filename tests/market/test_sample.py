"""The shipped sample agrees with its provenance."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest

from p3kit.errors import P3kitError
from p3kit.market import load_market, sample
from p3kit.spec.models import SAMPLE_SYMBOLS
from tests.market.made import market_spec

FOLDER = resources.files("p3kit.market.sample")


def test_numbers_of_the_original() -> None:
    """First and last rows of skfolio's file."""
    aapl, xom = sample.sample_bars("AAPL"), sample.sample_bars("XOM")
    assert len(aapl) == 3_270
    assert (str(aapl.timestamps[0])[:10], aapl.close[0], xom.close[0]) == ("2010-01-04", 6.496, 41.319)
    assert (str(aapl.timestamps[-1])[:10], aapl.close[-1], xom.close[-1]) == ("2022-12-28", 125.674, 106.627)
    assert aapl.open is aapl.high is aapl.low is aapl.volume is None


def test_provenance_repeats_checksum_caution_and_licence() -> None:
    text = (FOLDER / "PROVENANCE.md").read_text(encoding="utf-8")
    assert sample.SHA256 in text
    assert sample.CAUTION in text.replace("\n> ", " ")
    assert "BSD 3-Clause License" in text
    assert "skfolio" in text
    assert 90_000 < len((FOLDER / "prices.csv.gz").read_bytes()) < 110_000


def test_an_altered_sample_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "SHA256", "0" * 64)
    sample._table.cache_clear()
    try:
        with pytest.raises(P3kitError, match="altered; reinstall"):
            sample.sample_bars("AAPL")
    finally:
        sample._table.cache_clear()


def test_all_ten_load_and_look_like_daily_stocks() -> None:
    market = load_market(market_spec(SAMPLE_SYMBOLS), SAMPLE_SYMBOLS)
    assert tuple(market) == sample.SYMBOLS == SAMPLE_SYMBOLS
    for data in market.values():
        assert data.bars_per_year == pytest.approx(252, abs=0.5)
        assert data.features.shape == (3_270, 20)
        assert data.features.dtype == np.float32
        assert 0.1 < np.nanmedian(data.volatility) < 0.6
        assert data.source == "sample"
        assert not data.synthetic
        assert not data.notes
        shares = data.regime_shares("train")
        assert sum(shares.values()) == pytest.approx(1.0)
        assert min(shares.values()) > 0.05


def test_spring_2020_is_a_bear_market_and_2013_a_bull_market() -> None:
    data = load_market(market_spec(["JPM"]), ["JPM"])["JPM"]
    year = data.timestamps.astype("datetime64[M]")
    assert (data.regime[year == np.datetime64("2020-04")] == 0).all()
    assert (data.regime[(year >= np.datetime64("2013-01")) & (year <= np.datetime64("2013-12"))] == 2).mean() > 0.5


def test_callers_cannot_spoil_the_sample_for_one_another() -> None:
    sample.sample_bars("PG").close[:] = -1.0
    assert (sample.sample_bars("PG").close > 0).all()
