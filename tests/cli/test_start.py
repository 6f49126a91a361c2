"""The first hour: `p3kit init`, `p3kit eject`, and p3kit installed from a wheel, far from any checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from p3kit.spec import find_trainer, load_spec
from p3kit.spec.shipped import shipped_specs, shipped_trainers
from tests.command import invoke
from tests.market.made import write_hourly_csv

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test begins in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_init_writes_a_spec_that_is_right_and_its_schema(here: Path) -> None:
    result = invoke("init")
    assert (result.exit_code, result.stdout) == (0, "wrote experiment.toml\nwrote p3kit.schema.json\n")
    assert result.stderr == "next:  p3kit validate experiment.toml   p3kit run experiment.toml\n"
    text = (here / "experiment.toml").read_text()
    assert text.startswith("#:schema ./p3kit.schema.json\n")
    assert (here / "p3kit.schema.json").read_text() == (ROOT / "specs" / "p3kit.schema.json").read_text()
    assert load_spec("experiment.toml").spec.name == "experiment"


def test_every_choice_that_the_starter_offers_is_right(here: Path) -> None:
    invoke("init")
    text = (here / "experiment.toml").read_text()
    taken, count = re.subn(r"^#(?=[\w\[])", "", text, flags=re.MULTILINE)
    assert count >= 12
    Path("all.toml").write_text(taken)
    spec = load_spec("all.toml").spec
    assert (spec.env.num_envs, spec.reward.formulas) == (16, "guide")
    assert spec.schedules["ppo.ent_coef"].start == 0.1


def test_what_the_starter_writes_out_is_the_recommended_setting(here: Path) -> None:
    invoke("init")
    bare = 'name = "experiment"\nextends = "recommended.toml"\ntrainer = "ppo"\nsymbols = ["AAPL"]\n'
    Path("bare.toml").write_text(bare)
    assert load_spec("experiment.toml").spec == load_spec("bare.toml").spec


@pytest.mark.parametrize("name", ["recommended.toml", "specs/recommended.toml", "phase3.toml"])
def test_a_spec_extends_a_shipped_one_from_any_folder_and_an_own_file_of_that_name_first(here: Path, name: str) -> None:
    (here / "deep").mkdir()
    Path("deep/mine.toml").write_text(f'name = "mine"\nextends = "{name}"\nsymbols = ["AMD"]\n')
    loaded = load_spec("deep/mine.toml")
    assert loaded.spec.ppo == load_spec(ROOT / "specs" / Path(name).name).spec.ppo
    own = here / "deep" / name
    own.parent.mkdir(exist_ok=True)
    own.write_text("[ppo]\ngamma = 0.5\n")
    assert load_spec("deep/mine.toml").spec.ppo.gamma == 0.5


def test_init_writes_over_nothing_unless_told(here: Path) -> None:
    invoke("init")
    Path("experiment.toml").write_text("mine")
    Path("p3kit.schema.json").write_text("old")
    refused = invoke("init")
    assert (refused.exit_code, Path("experiment.toml").read_text()) == (2, "mine")
    assert refused.stderr == "experiment.toml: is there already; --force writes over it; or give another name\n"
    beside = invoke("init", "second.toml")
    assert beside.stdout == "wrote second.toml\n"
    assert beside.stderr.startswith("kept p3kit.schema.json, which was there; --force renews it\n")
    forced = json.loads(invoke("init", "--force", "--json").stdout)
    assert forced == {"spec": "experiment.toml", "written": ["experiment.toml", "p3kit.schema.json"], "kept": []}
    assert Path("p3kit.schema.json").read_text() != "old"
    assert "kept" not in invoke("init", "third.toml").stderr  # the same schema


def test_init_on_bars_of_ones_own(here: Path) -> None:
    for symbol in ("SPY", "AAPL"):
        write_hourly_csv(here / "bars" / f"{symbol}.csv", seed=1)
    assert invoke("init", "specs/hourly.toml", "--bars", "bars").exit_code == 0
    spec = load_spec("specs/hourly.toml").spec
    assert (spec.trainer, spec.symbols, spec.data.path) == ("ppo_stacked", ("AAPL", "SPY"), "bars/{symbol}.csv")
    assert invoke("data", "specs/hourly.toml").exit_code == 0


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "--bars bars: has no .csv and no .parquet file; "
             "expected one file per symbol, named SYMBOL.csv or SYMBOL.parquet"),
        (["A.csv", "A.parquet"], "--bars bars: has both .csv and .parquet files; "
                                 "a spec reads one kind: move the other away"),
        (["my bars.csv", "B.csv"], "--bars bars: my bars.csv is not named after a symbol; "
                                   "rename it, for example my-bars.csv: "),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_folder_of_bars(here: Path, files: list[str], message: str) -> None:
    (here / "bars").mkdir()
    for name in files:
        (here / "bars" / name).touch()
    result = invoke("init", "--bars", "bars")
    assert result.exit_code == 2
    assert result.stderr.startswith(message)
    assert not Path("experiment.toml").exists()


def test_init_copies_a_shipped_spec_with_those_it_extends(here: Path) -> None:
    assert invoke("init", "specs", "--from", "tune").exit_code == 0
    names = ["p3kit.schema.json", "phase3.toml", "phase3_stacked.toml", "tune.toml"]
    assert sorted(path.name for path in Path("specs").iterdir()) == names
    assert invoke("validate", "specs/tune.toml").exit_code == 0
    wrong = invoke("init", "--from", "phase5")
    assert (wrong.exit_code, wrong.stderr) == (2, '--from phase5: no shipped spec; did you mean "phase4"?\n')


def test_eject_copies_a_trainer_byte_for_byte(here: Path) -> None:
    result = invoke("eject", "ppo")
    assert (result.exit_code, result.stdout) == (0, "wrote my_ppo.py\n")
    assert Path("my_ppo.py").read_bytes() == find_trainer("ppo").read_bytes()
    again = invoke("eject", "ppo")
    assert (again.exit_code, again.stderr) == (
        2,
        "my_ppo.py: is there already; --force writes over it; or give another name\n",
    )
    assert invoke("eject", "ppo", "own", "--json").stdout.split() == ['{', '"trainer":', '"ppo",', '"file":',
                                                                     '"own/my_ppo.py"', '}']  # fmt: skip
    assert invoke("eject", "ppo_stackd").stderr == 'trainer: no trainer "ppo_stackd"; did you mean "ppo_stacked"?\n'
    assert invoke("eject", "ppo", "mine.txt").stderr.startswith("mine.txt: a trainer is a Python file; ")


def test_a_knob_of_ones_own_is_known_to_the_spec(here: Path) -> None:
    """From `eject` to a spec that is checked, documented and scheduled by a field that p3kit has never seen."""
    invoke("eject", "ppo")
    anchor = '    """Weight of the value loss."""\n'
    text = Path("my_ppo.py").read_text()
    assert text.count(anchor) == 1
    knob = '    entropy_floor: Annotated[float, Ge(0), Le(2)] = 0.0\n    """Nats below which entropy is paid for."""\n'
    Path("my_ppo.py").write_text(text.replace(anchor, anchor + knob))
    assert invoke("init", "mine.toml", "--trainer", "my_ppo.py").exit_code == 0
    schema = json.loads(Path("my_ppo.schema.json").read_text())
    assert "Nats below which entropy is paid for." in json.dumps(schema)
    set_ = ("--set", "ppo.entropy_floor=0.3")
    assert invoke("validate", "mine.toml", *set_).exit_code == 0
    assert load_spec("mine.toml", [set_[1]]).spec.ppo.entropy_floor == 0.3
    ramp = "schedules.entropy_floor={kind='linear', start=1.0, end=0.0}"
    assert invoke("validate", "mine.toml", "--set", ramp).exit_code == 0
    typo = invoke("validate", "mine.toml", "--set", "ppo.entropy_flor=0.3")
    assert typo.stderr.endswith('unknown key; did you mean "entropy_floor"?\n')
    high = invoke("validate", "mine.toml", "--set", "ppo.entropy_floor=3")
    assert high.stderr.endswith("expected a number from 0 to 2\n")
    others = invoke("validate", "mine.toml", *set_, "--set", "trainer=ppo")
    assert "ppo.entropy_floor = 0.3: unknown key" in others.stderr


# ---------------------------------------------------------------------- from a wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as it would be installed: its files in a folder of their own."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (archive,) = folder.glob("*.whl")
    zipfile.ZipFile(archive).extractall(folder / "installed")
    return folder / "installed"


def installed(wheel: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(wheel), "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-m", "p3kit", *words], capture_output=True, text=True, timeout=120, env=environment
    )


def test_a_wheel_holds_all_that_the_checkout_has(wheel: Path) -> None:
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "p3kit").rglob("*") if path.is_file()}
    shipped = wheel / "p3kit" / "_shipped"
    for name in package:
        assert "__pycache__" in name or (wheel / name).is_file(), name
    assert {path.name for path in (shipped / "specs").glob("*.toml")} == {path.name for path in shipped_specs()}
    assert {path.stem for path in (shipped / "trainers").glob("*.py")} >= set(shipped_trainers())
    assert not list(wheel.glob("tests"))


def test_a_first_hour_away_from_any_checkout(wheel: Path, here: Path) -> None:
    """An empty folder with only the wheel: a new spec, a shipped spec, a trainer of the user."""
    short = ["--no-aim", "--set", "ppo.total_timesteps=600", "--set", "ppo.n_steps=75", "--set", "ppo.n_epochs=1"]
    assert installed(wheel, "init").returncode == 0
    first = installed(wheel, "run", "experiment.toml", *short)
    assert first.returncode == 0, first.stderr
    assert "run-1/AAPL" in first.stdout
    assert installed(wheel, "eject", "ppo").returncode == 0
    own = installed(wheel, "run", "specs/smoke.toml", *short, "--set", 'trainer="my_ppo.py"')
    assert own.returncode == 0, own.stderr
    run = json.loads((here / "runs" / "run-2" / "run.json").read_text())
    assert (run["name"], run["spec"]["trainer"]) == ("smoke", "my_ppo.py")
    assert "site-packages" not in own.stderr
    assert sorted(path.name for path in here.iterdir()) == ["experiment.toml", "my_ppo.py", "p3kit.schema.json", "runs"]


FREES_LATE = """
import numpy as np, psutil
from p3kit.api.training import give_memory_back

def own():
    return psutil.Process().memory_full_info().uss / 2**20

np.ones(3_000_000)  # freed at once: from here on glibc takes smaller blocks from its heap, and keeps them
bars = [np.ones(60_000) for _ in range(300)]
later = [np.ones(1_000) for _ in range(200)]  # above them in the heap
full = own()
del bars
give_memory_back()
print(full - own())
"""


def test_what_planning_read_is_given_back_to_the_system() -> None:
    told = subprocess.run([sys.executable, "-c", FREES_LATE], capture_output=True, text=True, check=True, cwd=ROOT)
    assert float(told.stdout) > 100, "megabytes, of 137"
