"""A spec file as a checked spec, and the plan of its runs."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from p3kit.errors import InputError, Interrupted, MissingExtra
from p3kit.home import home
from p3kit.rundir import folder_of_runs
from p3kit.spec import LoadedSpec
from p3kit.spec import load_spec as read_spec
from p3kit.spec.shipped import find_spec
from p3kit.spec.writing import toml_value

if TYPE_CHECKING:
    from p3kit.launch import Pace
    from p3kit.launch.calibrate import Cost
    from p3kit.launch.cluster import Packing
    from p3kit.launch.progress import Progress
    from p3kit.market import SymbolData
    from p3kit.plan import AgentPlan, RunPlan
    from p3kit.rundir import RunDir

SpecLike = str | Path | LoadedSpec
"""A path of a spec file, `specs/NAME.toml` of a shipped one, or a spec that `load_spec` returned."""

Overrides = Mapping[str, Any] | Sequence[str]
"""`{"ppo.gamma": 0.995}`, or `["ppo.gamma=0.995"]` as `--set` takes it."""


def load_spec(path: SpecLike, overrides: Overrides = ()) -> LoadedSpec:
    """Read and check a spec file.

    Args:
        path: A TOML file. `specs/NAME.toml` falls back to the shipped spec of that name.
        overrides: Values that replace those of the file: a mapping from dotted key to value, or a list of
            `key=value` strings in TOML syntax. Later ones win.

    Returns:
        The spec with the origin of each value: `loaded.spec.ppo.gamma`, `loaded.origins["ppo.gamma"]`.

    Raises:
        SpecError: All faults of the spec at once, each with file, line and column.
        InputError: There is no such file.

    Example:
        >>> loaded = p3kit.load_spec("specs/smoke.toml", {"ppo.gamma": 0.995})
        >>> loaded.spec.ppo.gamma
        0.995
    """
    if isinstance(path, LoadedSpec):
        if not overrides:
            return path
        overrides, path = [*path.overrides, *as_flags(overrides)], path.path
    return read_spec(find_spec(home(path)), as_flags(overrides))


def as_flags(overrides: Overrides) -> list[str]:
    """Overrides as `--set` takes them."""
    if isinstance(overrides, Mapping):
        return [f"{key}={toml_value(value)}" for key, value in overrides.items()]
    return list(overrides)


@dataclass(frozen=True)
class PlanOptions:
    """Settings of `plan_runs` that are rarely needed."""

    engine: Literal["local", "ray"] = "local"
    """Plan for this machine, or for a Ray cluster (`RAY_ADDRESS`, else `gpus` and `cpus`, else this machine's)."""
    gpus: int | None = None
    cpus: int | None = None
    calibrate: bool = False
    """Train the beginning of the first runs in a temporary folder, and estimate time, memory and disk from it."""


@dataclass(frozen=True)
class Plan:
    """The runs of a spec, and an estimate of what they take. Nothing has been written."""

    loaded: LoadedSpec
    runs: tuple[RunPlan, ...]
    jobs: int
    """Runs that train at a time."""
    notes: tuple[str, ...]
    """Sentences about the spec and its bars that a user should read before training."""
    seconds: float | None
    """Estimated time of all runs. None without a finished run of these sizes and without a calibration."""
    pace: Pace | None
    """Env steps per second of finished runs of the same trainer and sizes."""
    cost: Cost | None
    """Time, memory and disk by a calibration."""
    packing: Packing | None
    """Runs on a Ray cluster."""

    @property
    def trainer(self) -> str:
        """Name of the trainer."""
        return self.runs[0].trainer.stem

    @property
    def threads(self) -> int:
        """Torch threads of each run."""
        return self.runs[0].threads

    def to_json(self) -> dict[str, Any]:
        """Return what `p3kit plan --json` prints."""
        return {
            "name": self.loaded.spec.name,
            "trainer": self.trainer,
            "jobs": self.jobs,
            "threads": self.threads,
            "runs": [{"agents": [agent_work(agent) for agent in run.agents]} for run in self.runs],
            "time": {
                "seconds": self.seconds,
                "steps_per_second": self.pace and self.pace.steps_per_second,
                "measured_in": self.pace and self.pace.runs,
            },
            "calibration": None if self.cost is None else asdict(self.cost),
            "packing": None if self.packing is None else asdict(self.packing),
            "notes": list(self.notes),
        }


def plan_runs(
    spec: SpecLike,
    jobs: int | None = None,
    runs_root: str | Path | None = None,
    progress: Progress = True,
    options: PlanOptions = PlanOptions(),
) -> Plan:
    """Plan the runs of a spec: agents, iterations, gradient steps, and an estimate of the time.

    Args:
        spec: Path of a spec file, or the result of `load_spec`.
        jobs: Runs that will train at a time. Default: as many as have a core for each of their threads.
        runs_root: Folder of finished runs, which the estimate of the time rests on. Default: the environment variable
            `P3KIT_RUNS`, else `runs`.
        progress: Progress of a calibration; see `run_spec`.
        options: A Ray cluster, and calibration.

    Returns:
        The plan: `plan.runs`, `plan.seconds`, `plan.notes`.

    Raises:
        SpecError, DataError: The spec or its bars have faults.

    Example:
        >>> plan = p3kit.plan_runs("specs/phase3.toml", jobs=2)
        >>> sum(agent.gradient_steps for run in plan.runs for agent in run.agents)
        156300
    """
    from p3kit.launch import measured_pace, total_seconds
    from p3kit.market import load_market, walk_windows
    from p3kit.plan import data_notes
    from p3kit.spec.notes import notes

    _check_options(options)
    loaded = load_spec(spec)
    market = load_market(loaded.spec, loaded.spec.symbols)
    windows = walk_windows(loaded.spec, market)
    plans, slots, packing = _packed(loaded, windows, jobs, options)
    inherited = _check_ancestry(loaded, plans, market, folder_of_runs(runs_root))
    cost = _calibrated(plans, loaded, market, slots, progress) if options.calibrate else None
    pace = measured_pace(plans[0], folder_of_runs(runs_root))
    seconds = cost.seconds if cost else total_seconds(plans, pace, slots) if pace else None
    remarks = (*notes(loaded), *data_notes(loaded.spec, market, windows), *inherited)
    return Plan(loaded, tuple(plans), slots, remarks, seconds, pace, cost, packing)


def agent_work(agent: AgentPlan) -> dict[str, Any]:
    """Return the counted work of one agent. A count is None where the knobs of its trainer do not determine it."""
    from p3kit.spec.notes import ROW_BYTES, rollout_steps

    rollout = rollout_steps(agent.spec)
    has_minibatches = all(hasattr(agent.spec.ppo, knob) for knob in ("batch_size", "accumulation_steps", "n_epochs"))
    return {
        "agent": agent.name,
        "symbol": agent.symbol,
        "seed": agent.seed,
        "point": dict(agent.point),
        "env_steps": agent.spec.ppo.total_timesteps,
        "iterations": None if rollout is None else agent.iterations,
        "gradient_steps": agent.gradient_steps if rollout is not None and has_minibatches else None,
        "buffer_bytes": None if rollout is None else rollout * ROW_BYTES,
    }


def _check_ancestry(
    loaded: LoadedSpec, plans: Sequence[RunPlan], market: Mapping[str, SymbolData], runs_root: Path
) -> list[str]:
    """Notes on the agents that `[init]` starts from, after every check that this installation can make."""
    from p3kit.launch.ancestors import Ancestry
    from p3kit.market import load_market

    agents = [agent for plan in plans for agent in plan.agents]
    ancestry = Ancestry.find(agents, runs_root, loaded.origins.get("init.from", "init.from"))
    if ancestry.recipes:
        market = load_market(loaded.spec, loaded.spec.symbols, recipes=ancestry.recipes)
    days = ancestry.check(plans, market, networks=importlib.util.find_spec("torch") is not None)
    return [*ancestry.notes(), *days]


def check_init(loaded: LoadedSpec, runs_root: str | Path | None = None) -> list[str]:
    """Check that the runs of `[init]` are there and that their settings fit; return notes. Bars are not read.

    Raises SpecError with all faults.
    """
    from p3kit.launch.ancestors import Ancestry
    from p3kit.plan import plan_runs as make_plans
    from p3kit.spec import read_trainer

    if loaded.spec.init is None:
        return []
    data = loaded.spec.data.model_copy(update={"walk_forward": None})  # its windows need bars, and change no setting
    plans = make_plans(loaded.spec.model_copy(update={"data": data}), read_trainer(loaded.spec.trainer))
    agents = [agent for plan in plans for agent in plan.agents]
    return Ancestry.find(agents, folder_of_runs(runs_root), loaded.origins.get("init.from", "init.from")).notes()


def _check_options(options: PlanOptions) -> None:
    if options.engine == "local" and (options.gpus is not None or options.cpus is not None):
        raise InputError("PlanOptions", "gpus and cpus are those of a cluster", 'add engine="ray"')
    if options.engine == "ray" and options.calibrate:
        what = "a calibration trains on this machine, not on the nodes of a cluster"
        raise InputError("PlanOptions", what, 'calibrate on a node with engine="local"')
    if options.calibrate and importlib.util.find_spec("torch") is None:
        raise MissingExtra("torch", "train", "--calibrate")


def _packed(
    loaded: LoadedSpec, windows: Sequence[Any], jobs: int | None, options: PlanOptions
) -> tuple[list[RunPlan], int, Packing | None]:
    """The runs, how many train at a time, and how a cluster takes them."""
    from p3kit.launch.engines import local_jobs
    from p3kit.plan import plan_runs as make_plans
    from p3kit.rundir.threads import available_cores
    from p3kit.spec import read_trainer

    trainer = read_trainer(loaded.spec.trainer)
    if options.engine == "local":
        plans = make_plans(loaded.spec, trainer, available_cores(), windows)
        return plans, min(local_jobs(jobs, plans[0].threads), len(plans)), None
    from p3kit.launch.cluster import Cluster, needs_of, pack

    needs = needs_of([loaded.spec.compute.model_dump()])
    cpus, gpus = _cluster_size(options)
    slots = Cluster(cpus, gpus, nodes=1).slots(needs)
    plans = make_plans(loaded.spec, trainer, available_cores(), windows, slots)
    packing = pack(len(plans), cpus, gpus, replace(needs, threads=plans[0].threads), jobs)
    return plans, packing.at_a_time, packing


def _cluster_size(options: PlanOptions) -> tuple[float, int]:
    """CPUs and GPUs: as given, else those of the cluster at RAY_ADDRESS, else those of this machine."""
    from p3kit.launch.cluster import local_gpus, ray_cluster
    from p3kit.rundir.threads import available_cores

    if os.environ.get("RAY_ADDRESS") and options.gpus is None and options.cpus is None:
        with ray_cluster(available_cores()) as cluster:
            return cluster.cpus, cluster.gpus
    gpus = options.gpus if options.gpus is not None else local_gpus()
    return options.cpus or max(available_cores(), gpus), gpus


def _calibrated(
    plans: Sequence[RunPlan], loaded: LoadedSpec, market: Mapping[str, SymbolData], slots: int, progress: Progress
) -> Cost:
    from p3kit.launch.calibrate import calibrate
    from p3kit.launch.progress import open_display

    with open_display(progress, f"{loaded.spec.name}, calibrating") as display:
        cost = calibrate(
            [plan.without_init() for plan in plans], loaded, market, jobs=slots, display=display, on_end=_draw
        )
    if cost is None:
        raise Interrupted
    return cost


def _draw(run: RunDir) -> None:
    """Draw the pictures of a run, which take time and disk in a training as well."""
    from p3kit.report.run_pictures import draw_run

    draw_run(run)
