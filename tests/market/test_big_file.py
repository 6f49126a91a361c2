"""Half a million 1-minute bars: `p3kit data` within 5 seconds of processor time and 400 MB."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

BARS = 500_000


@pytest.mark.slow
def test_half_a_million_bars(tmp_path: Path) -> None:
    days = pd.bdate_range("2018-01-02", periods=BARS // 390 + 1)
    minutes = np.timedelta64(570, "m") + np.arange(390) * np.timedelta64(1, "m")
    times = (days.to_numpy()[:, None] + minutes).ravel()[:BARS]
    close = 100 * np.exp(np.cumsum(np.random.default_rng(0).normal(0, 4e-4, BARS)))
    prices = {"open": close, "high": close * 1.0001, "low": close * 0.9999, "close": close}
    stamps = pd.DatetimeIndex(times).tz_localize("America/New_York")
    frame = pd.DataFrame({"timestamp": stamps, **{k: v.round(4) for k, v in prices.items()}, "volume": 100})
    frame.to_csv(tmp_path / "SPY.csv", index=False)
    (tmp_path / "s.toml").write_text('name = "b"\nsymbols = ["SPY"]\n[data]\nsource = "csv"\npath = "{symbol}.csv"\n')
    process = subprocess.Popen(
        [sys.executable, "-m", "p3kit", "data", "s.toml"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    print(f"{used.ru_utime + used.ru_stime:.1f} s, {used.ru_maxrss / 1024:.0f} MB")
    assert process.returncode == 0
    assert used.ru_utime + used.ru_stime < 5
    assert used.ru_maxrss / 1024 < 400
