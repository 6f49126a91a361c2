"""`python -m tests.measure.same_bits BASE`: does the working tree train to the same bits as the commit BASE?

Both sides train the same specs with the same seeds, each with its own code, in a process of its own: the shipped smoke
spec, a stacked and a shared run, and runs with interventions of every trainer, group rules among them. Compared are the
tensors of every checkpoint, every metric row and every evaluation and intervention event. Times, processor figures and
the names of tensors are left out. Prints one line per workload and the first differences; exits with 1 when anything
differs.

Metrics that exist on one side only are listed. They count as a difference unless `--allow-new` is given.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parents[2]
SMALL = """
name = "{name}"
trainer = "{trainer}"
symbols = {symbols}
[data]
source = "synthetic"
synthetic = {{ bars = 4_000 }}
[env]
window = 4
num_envs = 4
episode_bars = 60
[ppo]
total_timesteps = 1_536
n_steps = 64
batch_size = 64
n_epochs = 3
{net}
[evaluation]
every = 256
[checkpoints]
every = 256
keep_best = 2
[early_stop]
{early_stop}
[schedules]
ent_coef = {{ kind = "linear", start = 0.05, end = 0.001 }}
{rules}
"""
CALM = """
[[intervention]]
id = "calm"
on = { metric = "policy/entropy", op = ">", value = 0.2 }
min_data = { env_steps = 512 }
max_times = 2
cooldown = { updates = 1 }
do = [{ scale = "ppo.learning_rate", by = 0.7, min = 1e-5 }]
"""
RESTART = """
[[intervention]]
id = "restart"
on = { metric = "policy/entropy", op = ">", value = 0.2 }
min_data = { env_steps = 768 }
max_times = 1
do = [{ rollback = "last_good" }, { reinit = "value_head" }, { scale = "ppo.learning_rate", by = 0.5, min = 1e-5 }]
"""
GROUP_RULES = """
[[intervention]]
id = "all"
scope = "run"
on = { metric = "policy/entropy", op = ">", value = 0.2 }
min_data = { updates = 2 }
do = [{ scale = "ppo.clip_range", by = 0.5, min = 0.01, until = { updates = 1 } }]
[[intervention]]
id = "back"
scope = "group"
on = { metric = "progress", op = ">=", value = 0.6 }
do = [{ rollback = "last_good" }, { scale = "ppo.vf_coef", by = 0.5, min = 0.01 }]
"""
SHARED_NET = "patch = 2\nd_model = 16\nlayers = 1\nheads = 2\nhead_width = 16"
WORKLOADS = {
    "smoke": None,  # the shipped spec
    "stacked": {"trainer": "ppo_stacked", "symbols": '["AAA", "BBB", "CCC"]', "net": "", "rules": ""},
    "shared": {"trainer": "ppo_shared", "symbols": '["AAA", "BBB", "CCC"]', "net": SHARED_NET, "rules": ""},
    "interventions": {"trainer": "ppo", "symbols": '["AAA"]', "net": "", "rules": CALM + RESTART},
    "stacked_rules": {"trainer": "ppo_stacked", "symbols": '["AAA", "BBB"]', "net": "", "rules": CALM + RESTART},
    "group_rules": {"trainer": "ppo_shared", "symbols": '["AAA", "BBB"]', "net": SHARED_NET, "rules": GROUP_RULES},
}
DIGEST = """
import hashlib, json, sys
from p3kit.rundir import RunDir
from p3kit.runtime import load_checkpoint
import torch
def digest(tensor):
    return f"{tuple(tensor.shape)} {hashlib.sha256(tensor.contiguous().view(-1).view(torch.uint8).numpy()).hexdigest()}"
run = RunDir.open(sys.argv[1])
tensors = {}
for path in run.checkpoints():
    state = load_checkpoint(path, torch.device("cpu"))
    found = [value for value in state.values() if isinstance(value, torch.Tensor) and value.numel()]
    tensors[path.relative_to(run.path).as_posix()] = sorted(digest(value) for value in found)
print(json.dumps({"tensors": tensors, "rows": run.read_metrics(), "events": run.read_events()}))
"""


def call(tree: Path, *words: str) -> str:
    """Run Python with the code of `tree`; returns its output. Raises CalledProcessError."""
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], env=environment, cwd=tree, text=True, stdout=subprocess.PIPE, check=True
    )
    return done.stdout


def train(tree: Path, folder: Path, name: str) -> dict[str, Any]:
    """Train one workload with the code of `tree`, and return what it left."""
    workload = WORKLOADS[name]
    spec = tree / "specs" / "smoke.toml"
    if workload is not None:
        spec = folder / f"{name}.toml"
        spec.write_text(SMALL.format(name=name, early_stop="min_progress = 1.0", **workload), encoding="utf-8")
    runs = folder / name
    call(tree, "-m", "p3kit", "run", str(spec), "--runs", str(runs), "--no-aim", "--quiet", "--jobs", "1")
    (run,) = sorted(path for path in runs.iterdir() if (path / "run.json").exists())
    found: dict[str, Any] = json.loads(call(tree, "-c", DIGEST, str(run)))
    return found


def steady(found: dict[str, Any]) -> dict[str, Any]:
    """Leave out what may differ between two equal runs: times, processes, versions."""
    rows = [
        (row["agent"], row["global_step"], name, value)
        for row in found["rows"]
        for name, value in sorted(row["metrics"].items())
        if not name.startswith("perf/")
    ]
    events = [
        {key: value for key, value in event.items() if key not in {"time", "seq", "sum", "catalogue_version"}}
        for event in found["events"]
        if event["kind"] in {"evaluation", "intervention"}
    ]
    return {"tensors": found["tensors"], "rows": rows, "events": events}


def differences(base: dict[str, Any], head: dict[str, Any], allow_new: bool) -> list[str]:
    """Describe each difference in a line."""
    lines = []
    for file in sorted(base["tensors"].keys() | head["tensors"].keys()):
        a, b = base["tensors"].get(file), head["tensors"].get(file)
        if a is None or b is None:
            lines.append(f"{file}: only {'after' if a is None else 'before'}")
        elif a != b:
            lines.append(f"{file}: {len(set(a) - set(b))} of {len(a)} tensors differ")
    names = [{name for _, _, name, _ in side["rows"]} for side in (base, head)]
    lines += [f"{name}: only before" for name in sorted(names[0] - names[1])]
    lines += [] if allow_new else [f"{name}: only after" for name in sorted(names[1] - names[0])]
    common = names[0] & names[1]
    a, b = ([row for row in side["rows"] if row[2] in common] for side in (base, head))
    lines += [f"rows: {len(a)} values before, {len(b)} after"] if len(a) != len(b) else []
    lines += [f"{x} before, {y} after" for x, y in zip(a, b, strict=False) if repr(x) != repr(y)]
    for x, y in zip(base["events"], head["events"], strict=False):
        keys = x.keys() & y.keys() if allow_new else x.keys() | y.keys()
        lines += [f"event {x['kind']}: {k} = {x.get(k)} before, {y.get(k)} after" for k in keys if x.get(k) != y.get(k)]
    if len(base["events"]) != len(head["events"]):
        lines.append(f"events: {len(base['events'])} before, {len(head['events'])} after")
    return lines


@click.command()
@click.argument("base")
@click.option("--only", multiple=True, type=click.Choice(list(WORKLOADS)), help="Train only this workload.")
@click.option("--allow-new", is_flag=True, help="Accept metrics and event fields that only the working tree has.")
def main(base: str, only: tuple[str, ...], allow_new: bool) -> None:
    """Compare the working tree with the commit BASE."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "base"
        subprocess.run(["git", "worktree", "add", "--detach", "-f", str(tree), base], cwd=ROOT, check=True)
        try:
            differ = False
            for name in only or WORKLOADS:
                sides = [Path(folder) / side for side in ("before", "after")]
                for side in sides:
                    side.mkdir(exist_ok=True)
                pair = [steady(train(code, side, name)) for code, side in zip((tree, ROOT), sides, strict=True)]
                lines = differences(*pair, allow_new)
                checked = sum(map(len, pair[0]["tensors"].values()))
                print(f"{name}: {'DIFFERS' if lines else 'the same bits'}: {checked} tensors,", end=" ")
                print(f"{len(pair[0]['rows'])} metric values, {len(pair[0]['events'])} events", flush=True)
                print(*(f"  {line[:300]}" for line in lines[:20]), sep="\n", end="\n" if lines else "")
                differ |= bool(lines)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)
    sys.exit(differ)


if __name__ == "__main__":
    main()
