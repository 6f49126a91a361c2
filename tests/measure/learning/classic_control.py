"""CartPole-v1 and LunarLander-v3: `trainers/ppo.py` against Stable-Baselines3's PPO, equal settings, EnvPool's tasks.

    python -m tests.measure.learning.classic_control --work /tmp/classic --seeds 10 --steps 500000 --processes 2

Every training is a process of its own with one thread. A finished one leaves its result in the work folder and is not
trained again, so an interrupted comparison continues. Results of other settings or lengths are refused.

A score is the mean return of the final greedy policy over 100 episodes of gymnasium's own task, whose seeds are the
same for all. Both sides use the same EnvPool rows with the same seeds, and whole rollouts, as many as `--steps` needs.
One difference: EnvPool answers the step after an episode's end with the next beginning. The adapter of
Stable-Baselines3 requests that beginning at once. `ppo.py` spends a step on it, which it counts but does not learn
from. Another: SB3 shuffles by NumPy and samples by PyTorch's global generator, and p3kit draws from its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import product
from math import ceil
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from p3kit.errors import InputError, P3kitError

ROOT = Path(__file__).parents[3]
SEEDS = 10
"""Fewer show what the comparison looks like and settle nothing."""
EPISODES = 100
FIRST_EPISODE_SEED = 1_000_000
BOOTSTRAPS = 50_000
ALLOWED_LOSS = 0.05
"""What ours may fall short by, as a share of the score range."""
FALL_TO = 0.01
"""Where the Zoo lets a knob fall to 0, which our specs refuse for a learning rate and a clip range."""
PACKAGES = ("torch", "stable_baselines3", "envpool", "gymnasium", "numpy")
SIDES = ("ours", "sb3")

Array = NDArray[Any]
Greedy = Callable[[Array], Array]
"""Observations (rows, D) → actions (rows,)"""


@dataclass(frozen=True)
class Knobs:
    """Settings of both sides. On neither: early stop by KL, value clipping, scaling of rewards or observations."""

    num_envs: int
    n_steps: int
    batch_size: int
    n_epochs: int
    learning_rate: float
    gamma: float
    gae_lambda: float
    ent_coef: float
    clip_range: float = 0.2
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    hidden: tuple[int, ...] = (64, 64)
    falling: tuple[str, ...] = ()
    """Knobs that fall in a straight line to FALL_TO of what they start at; each rollout has one value."""

    def total_timesteps(self, steps: int) -> int:
        """Whole rollouts of at least `steps`."""
        rollout = self.num_envs * self.n_steps
        return ceil(steps / rollout) * rollout


@dataclass(frozen=True)
class Task:
    """`low` and `high` bound the score range by which a difference is judged."""

    low: float
    high: float
    source: str
    knobs: Knobs
    packages: tuple[str, ...] = ()
    """What gymnasium's task is made of, beside gymnasium."""


# The settings that Stable-Baselines3's authors publish for their PPO, so that it is at its best here. For CartPole they
# use 39,000 gradient steps in 500,000 env steps; ours are the 7,800 that they take in the 100,000 of their own.
ZOO = "RL Baselines3 Zoo, hyperparams/ppo.yml"
TASKS = {
    "CartPole-v1": Task(
        0,
        500,
        f"{ZOO}; rollouts four times as long in four minibatches, 4 epochs instead of 20, five times its steps",
        Knobs(
            num_envs=8,
            n_steps=128,
            batch_size=256,
            n_epochs=4,
            learning_rate=1e-3,
            gamma=0.98,
            gae_lambda=0.8,
            ent_coef=0.0,
            falling=("learning_rate", "clip_range"),
        ),
    ),
    "LunarLander-v3": Task(
        -200,
        300,
        f"{ZOO}; half its steps",
        Knobs(
            num_envs=16,
            n_steps=1024,
            batch_size=64,
            n_epochs=4,
            learning_rate=3e-4,
            gamma=0.999,
            gae_lambda=0.98,
            ent_coef=0.01,
        ),
        packages=("box2d",),
    ),
}

# ── training ──────────────────────────────────────────────────────────────────────────────────────────────────────────


NOT_FLAGS = ("num_envs", "hidden", "falling")


def train_ours(task: str, seed: int, steps: int, folder: Path) -> Greedy:
    """Run `trainers/ppo.py` as a user would; its last weights."""
    import torch

    from p3kit.rundir import list_runs
    from p3kit.runtime.checkpoints import load_checkpoint, part

    from .learning_scores import require_done, trainer_module

    knobs = TASKS[task].knobs
    flags = {name: value for name, value in asdict(knobs).items() if name not in NOT_FLAGS}
    flags |= {"hidden": list(knobs.hidden), "target_kl": "off", "total_timesteps": knobs.total_timesteps(steps)}
    words = [word for name, value in flags.items() for word in ("--" + name.replace("_", "-"), str(value))]
    runs = folder / f"{task}-{seed}"
    command = [sys.executable, str(ROOT / "trainers" / "ppo.py"), "--env-id", f"envpool:{task}", "--runs", str(runs)]
    command += ["--seed", str(seed), "--set", f"env.num_envs={knobs.num_envs}", *words]
    for name in knobs.falling:
        start = getattr(knobs, name)
        line = f'{{ kind = "linear", start = {start}, end = {FALL_TO * start} }}'
        command += ["--set", f'schedules."ppo.{name}"={line}']
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{result.stderr[-3_000:]}")
    run = list_runs(runs)[-1]
    require_done(run)
    trainer = trainer_module(run.path / "trainer.py")
    weights = part("net", part("trainer", load_checkpoint(run.checkpoint("last"))))
    size, actions = weights["policy.layers.0.weight"].shape[1], weights["policy.layers.2.bias"].shape[0]
    net = trainer.ActorCritic(size, actions, trainer.Args(hidden=knobs.hidden), torch.Generator())
    net.load_state_dict(weights)

    def policy(observation: Array) -> Array:
        with torch.no_grad():
            return net.policy(torch.as_tensor(observation)).argmax(-1).numpy()

    return policy


def train_sb3(task: str, seed: int, steps: int) -> Greedy:
    """Stable-Baselines3's PPO on the same EnvPool rows."""
    total = TASKS[task].knobs.total_timesteps(steps)
    model = sb3_model(task, seed, total)
    model.learn(total)
    return lambda observation: model.predict(observation, deterministic=True)[0]


def sb3_model(task: str, seed: int, total: int) -> Any:
    """The untrained model. Its defaults are ours: Adam with eps 1e-5, orthogonal gains √2, 0.01 and 1, tanh."""
    import torch
    from stable_baselines3 import PPO

    from .sb3 import EnvPoolVecEnv

    torch.set_num_threads(1)
    knobs = asdict(TASKS[task].knobs)
    hidden, num_envs, falling = knobs.pop("hidden"), knobs.pop("num_envs"), knobs.pop("falling")
    rollout = num_envs * knobs["n_steps"]
    knobs |= {name: falling_line(knobs[name], rollout / total) for name in falling}
    net = {"net_arch": {"pi": list(hidden), "vf": list(hidden)}}
    return PPO("MlpPolicy", EnvPoolVecEnv(task, num_envs, seed), **knobs, policy_kwargs=net, seed=seed, device="cpu")


def falling_line(start: float, rollout: float) -> Callable[[float], float]:
    """Start at `start`, end at FALL_TO of it. Stable-Baselines3 passes the fraction of training that remains after the
    rollout to be learnt from (itself a fraction `rollout`), p3kit the fraction that remains before it: here p3kit's."""
    return lambda remaining: start * (FALL_TO + (1 - FALL_TO) * (remaining + rollout))


# ── scores ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def play(task: str, policy: Greedy, episodes: int = EPISODES) -> Array:
    """Returns (episodes,) of gymnasium's own task, episode i seeded by FIRST_EPISODE_SEED + i."""
    envs = [gymnasium.make(task) for _ in range(episodes)]
    seen = np.stack([env.reset(seed=FIRST_EPISODE_SEED + i)[0] for i, env in enumerate(envs)])
    returns, playing = np.zeros(episodes), np.arange(episodes)
    while len(playing):
        over = np.zeros(len(playing), dtype=bool)
        for k, (row, action) in enumerate(zip(playing, policy(seen[playing]), strict=True)):
            seen[row], reward, terminated, truncated, _ = envs[row].step(int(action))
            returns[row] += reward
            over[k] = terminated or truncated
        playing = playing[~over]
    return returns


def interquartile_mean(scores: Array) -> Array:
    """Mean over the last axis of what is left when the lowest and the highest quarter are cut (whole scores; Agarwal et
    al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice")."""
    cut = scores.shape[-1] // 4
    return np.sort(scores, axis=-1)[..., cut : scores.shape[-1] - cut].mean(-1)


def compare(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Both IQMs, their difference, and its 95 % percentile-bootstrap interval: seeds of each side are resampled."""
    random = np.random.default_rng(0)
    drawn = [interquartile_mean(random.choice(np.asarray(side), (BOOTSTRAPS, len(side)))) for side in (ours, theirs)]
    low, high = np.percentile(drawn[0] - drawn[1], [2.5, 97.5])
    own, other = (float(interquartile_mean(np.asarray(side))) for side in (ours, theirs))
    return {"iqm_ours": own, "iqm_sb3": other, "difference": own - other, "interval": [float(low), float(high)]}


# ── the comparison ────────────────────────────────────────────────────────────────────────────────────────────────────


def train_and_score(side: str, task: str, seed: int, steps: int, work: Path) -> dict[str, Any]:
    """One training in a process of its own, and its result on disk."""
    clock = time.perf_counter()
    policy = train_ours(task, seed, steps, work / "runs") if side == "ours" else train_sb3(task, seed, steps)
    wall = time.perf_counter() - clock
    spent = resource.getrusage(resource.RUSAGE_CHILDREN if side == "ours" else resource.RUSAGE_SELF)
    returns = play(task, policy)
    whole = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    result = {
        **identity(side, task, seed, steps),
        "score": float(returns.mean()),
        "return_std": float(returns.std()),
        "return_min": float(returns.min()),
        "return_max": float(returns.max()),
        "train_cpu_s": round(spent.ru_utime + spent.ru_stime, 1),
        "train_wall_s": round(wall, 1),
        "cpu_s": round(sum(used.ru_utime + used.ru_stime for used in whole), 1),
        "commit": commit(),
    }
    path = result_path(work, side, task, seed)
    path.with_suffix(".part").write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".part").rename(path)
    return result


def identity(side: str, task: str, seed: int, steps: int) -> dict[str, Any]:
    """Key of a result: everything that it depends on."""
    knobs = TASKS[task].knobs
    settings = json.loads(json.dumps(asdict(knobs)))  # as they read back from a file
    return {"side": side, "task": task, "seed": seed, "steps": knobs.total_timesteps(steps), "settings": settings}


def result_path(work: Path, side: str, task: str, seed: int) -> Path:
    return work / f"{task}-{side}-{seed}.json"


def finished(work: Path, side: str, task: str, seed: int, steps: int) -> dict[str, Any] | None:
    """The result of an earlier call, if there is one. Raises InputError where it is of something else."""
    path = result_path(work, side, task, seed)
    if not path.exists():
        return None
    result: dict[str, Any] = json.loads(path.read_text())
    if any(result[key] != value for key, value in identity(side, task, seed, steps).items()):
        raise InputError(str(path), "is of other settings or another length", "give another --work")
    return result


def run(tasks: Sequence[str], seeds: Sequence[int], steps: int, work: Path, processes: int) -> dict[str, Any]:
    """Train what is missing, print each score as it comes, and summarise."""
    (work / "runs").mkdir(parents=True, exist_ok=True)
    jobs = [(side, task, seed) for seed, task, side in product(seeds, tasks, SIDES)]
    done = {job: result for job in jobs if (result := finished(work, *job, steps))}
    os.environ["OMP_NUM_THREADS"] = "1"
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, max_tasks_per_child=1) as pool:
        waiting = {pool.submit(train_and_score, *job, steps, work): job for job in jobs if job not in done}
        for future in as_completed(waiting):
            done[waiting[future]] = result = future.result()
            line = f"{result['task']:14} {result['side']:4} seed {result['seed']:2}: {result['score']:8.2f}"
            print(f"{line}   {result['cpu_s']:.0f} s of a core   {len(done)}/{len(jobs)}", flush=True)
    return summary(tasks, seeds, steps, [done[job] for job in jobs])


def summary(tasks: Sequence[str], seeds: Sequence[int], steps: int, results: list[dict[str, Any]]) -> dict[str, Any]:
    """All contents of the file of figures."""
    packages = [*PACKAGES, *(package for name in tasks for package in TASKS[name].packages)]
    found: dict[str, Any] = {}
    for name in tasks:
        task, of_task = TASKS[name], [result for result in results if result["task"] == name]
        scores = {side: [r["score"] for r in of_task if r["side"] == side] for side in SIDES}
        compared = compare(scores["ours"], scores["sb3"])
        allowed = -ALLOWED_LOSS * (task.high - task.low)
        found[name] = {
            **compared,
            "score_range": [task.low, task.high],
            "allowed_difference": allowed,
            "reached": compared["difference"] >= allowed,
            "interval_above_allowed": compared["interval"][0] >= allowed,
            "scores": scores,
            "train_cpu_s": {
                side: float(np.median([r["train_cpu_s"] for r in of_task if r["side"] == side])) for side in SIDES
            },
            "total_timesteps": task.knobs.total_timesteps(steps),
            "settings": asdict(task.knobs),
            "settings_from": task.source,
        }
    return {
        "what": "mean return over 100 episodes of the final greedy policy in gymnasium's task",
        "command": f"python -m tests.measure.learning.classic_control --seeds {len(seeds)} --steps {steps}"
        + f" --tasks {' '.join(tasks)}",
        "commits": sorted({result["commit"] for result in results}),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, shared; one thread a training",
        "versions": {"python": platform.python_version()} | {package: version(package) for package in packages},
        "seeds": list(seeds),
        "episodes": EPISODES,
        "episode_seeds": [FIRST_EPISODE_SEED, FIRST_EPISODE_SEED + EPISODES - 1],
        "bootstraps": BOOTSTRAPS,
        "core_minutes": round(sum(result["cpu_s"] for result in results) / 60, 1),
        "tasks": found,
        "trainings": [{k: v for k, v in result.items() if k != "settings"} for result in results],
    }


def commit() -> str:
    """The commit this runs from, marked where what trains was changed since."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    dirty = [*git, "status", "--porcelain", "--", "p3kit", "trainers", "tests/measure/learning/*.py"]
    changed = subprocess.run(dirty, capture_output=True, text=True, check=True).stdout
    return head.strip() + ("+changes" if changed else "")


def told(figures: dict[str, Any]) -> str:
    """The figures as Markdown: where they are from, the comparison, the score of every seed."""
    versions = ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
    count = len(figures["seeds"])
    few = f"**{count} of {SEEDS} seeds: too few, and the interval has no meaning yet.** "
    lines = [
        (few if count < SEEDS else f"{count} seeds a side. ")
        + f"`{figures['command']}`, commit {', '.join(figures['commits'])}; "
        f"{versions}; {figures['machine']}, {figures['core_minutes']} core-minutes in all.",
        "",
        "| | IQM of ours | IQM of Stable-Baselines3 | difference (95 % interval) | allowed | a training costs |",
        "|---|---|---|---|---|---|",
    ]
    for name, task in figures["tasks"].items():
        verdict = "open" if count < SEEDS else "reached" if task["reached"] else "missed"
        low, high = task["interval"]
        cost = task["train_cpu_s"]
        lines.append(
            f"| {name} | {task['iqm_ours']:.1f} | {task['iqm_sb3']:.1f} "
            f"| **{task['difference']:+.1f}** ({low:+.1f} … {high:+.1f}) "
            f"| {task['allowed_difference']:+.0f}: {verdict} "
            f"| {cost['ours']:.0f} s of a core against {cost['sb3']:.0f} s |"
        )
    lines += ["", "| score of seed | " + " | ".join(map(str, figures["seeds"])) + " |"]
    lines.append("|---|" + "---|" * len(figures["seeds"]))
    for name, task in figures["tasks"].items():
        for side, label in zip(SIDES, ("ours", "Stable-Baselines3"), strict=True):
            lines.append(f"| {name}, {label} | " + " | ".join(f"{score:.0f}" for score in task["scores"][side]) + " |")
    return re.sub(r"(?<=[| (*])-(?=\d)", "−", "\n".join(lines))


BEGIN, END = "<!-- figures of classic_control -->", "<!-- end -->"


def put_into(page: Path, text: str) -> None:
    """Replace what stands between BEGIN and END in `page`. Raises InputError where they are missing."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise InputError(str(page), "has no place for the figures", f"it is between {BEGIN} and {END}")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS), help="default: both")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"how many, from 1 on (default: {SEEDS})")
    parser.add_argument("--steps", type=int, default=500_000, help="env steps of a training (default: 500000)")
    parser.add_argument("--processes", type=int, default=1, help="trainings at a time (default: 1)")
    parser.add_argument("--work", type=Path, required=True, help="folder for runs and finished results")
    parser.add_argument("--out", type=Path, help="where the figures go as JSON")
    parser.add_argument("--page", type=Path, help="a Markdown page to bring up to date with them")
    given = parser.parse_args()
    if min(given.seeds, given.steps, given.processes) < 1:
        parser.error("--seeds, --steps and --processes are at least 1")
    if given.page and BEGIN not in given.page.read_text():  # better an error now than in an hour
        parser.error(f"--page {given.page} has no {BEGIN} … {END} to put the figures between")
    try:
        figures = run(given.tasks, range(1, given.seeds + 1), given.steps, given.work, given.processes)
    except P3kitError as error:
        parser.exit(error.exit_code, f"{error}\n")
    print(told(figures))
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(figures, indent=1) + "\n")
    if given.page:
        put_into(given.page, told(figures))


if __name__ == "__main__":
    main()
