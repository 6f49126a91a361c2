"""Pictures: drawn from what is there, opaque, the same bytes each time, and without waking a window system."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p3kit.metrics import ACTIONS
from p3kit.report import draw_run, summarise_week
from p3kit.report.figure import LARGEST_GRID
from p3kit.report.week_pictures import draw_equity_curves, draw_learning_curves
from p3kit.rundir import RunDir
from tests.made_runs import MONDAY, equity_curve, make_run


def with_histograms(root: Path, **settings: Any) -> RunDir:
    run = make_run(root, **settings)
    rng = np.random.default_rng(1)
    counts, edges = np.histogram(rng.standard_t(3, 4_000), bins=50)
    run.write_histogram("reward", "AAPL", 98_304, {"edges": edges, "counts": counts})
    run.write_histogram("actions", "AAPL", 98_304, {"labels": ACTIONS, "counts": [900, 80, 80, 100, 500, 260, 110]})
    values = rng.normal(size=(12, 10))
    cells: list[Any] = [[None if abs(v) > 1.5 else float(v) for v in line] for line in values]
    edges_of_map = {"bars": list(range(0, 260, 20)), "unrealised": np.linspace(-0.1, 0.1, 11).tolist()}
    run.write_histogram("value_map", "AAPL", 98_304, {**edges_of_map, "values": cells})
    return run


def pixels(path: Path) -> Any:
    from matplotlib.image import imread

    return imread(path)


def test_a_runs_plots(tmp_path: Path) -> None:
    run = with_histograms(tmp_path)
    drawn = draw_run(run)
    assert [path.name for path in drawn] == [
        "reward-AAPL.png",
        "actions-AAPL.png",
        "value_map-AAPL.png",
        "equity-AAPL.png",
    ]
    first = [path.read_bytes() for path in drawn]
    assert [path.read_bytes() for path in draw_run(run)] == first


def test_backgrounds_are_opaque_and_light(tmp_path: Path) -> None:
    for path in draw_run(with_histograms(tmp_path)):
        picture = pixels(path)
        if picture.shape[2] == 4:
            assert (picture[..., 3] == 1).all()
        assert picture[0, 0, :3].tolist() == [1, 1, 1]
        assert 0.01 < (picture[..., :3].min(-1) < 0.7).mean() < 0.9  # something is drawn, and not everything


def test_the_equity_curve_is_the_one_that_the_verdict_chose(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    chosen = draw_run(run)[0].read_bytes()
    run.write_histogram("equity", "AAPL", 999_999, equity_curve(seed=77))
    assert draw_run(run)[0].read_bytes() == chosen


def test_a_run_without_histograms_draws_nothing(tmp_path: Path) -> None:
    assert draw_run(make_run(tmp_path, until=0.0, state="queued")) == []


@pytest.mark.parametrize("agents", [1, LARGEST_GRID + 2])
def test_experiments_of_one_and_of_many_agents(agents: int, tmp_path: Path) -> None:
    symbols = [f"S{number:03d}" for number in range(agents)]
    for symbol in symbols:
        make_run(tmp_path / "runs", symbol=symbol, symbols=symbols)
    [experiment] = summarise_week(tmp_path / "runs", 1, MONDAY + 86_400)
    assert draw_learning_curves(experiment, tmp_path / "learning.png")
    assert draw_equity_curves(experiment, tmp_path / "equity.png")
    assert pixels(tmp_path / "learning.png").shape[0] < 2_500


def test_nothing_recorded_draws_nothing(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", until=0.0, state="queued")
    [experiment] = summarise_week(tmp_path / "runs", 1, MONDAY + 86_400)
    assert not draw_learning_curves(experiment, tmp_path / "learning.png")
    assert not draw_equity_curves(experiment, tmp_path / "equity.png")
    assert not (tmp_path / "learning.png").exists()


def test_importing_reports_and_diagnosis_wakes_nothing_heavy() -> None:
    code = (
        "import sys, p3kit.report, p3kit.diagnose, p3kit.cli.diagnose, p3kit.cli.report\n"
        "print([m for m in ('matplotlib', 'torch', 'aim', 'pandas', 'envpool') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
