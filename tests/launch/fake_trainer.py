"""A trainer that learns nothing: it keeps every promise of a trainer to the launcher, and breaks them on request.

It imports only p3kit.rundir, so it starts at once.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from p3kit.rundir import RunDir

STRIDE = 100


@dataclass(frozen=True)
class Args:
    """The knobs of `[ppo]`."""

    total_timesteps: int = 1000
    """Env steps."""
    n_steps: int = 100
    """Rollout length."""
    pause: float = 0.01
    """Seconds per 100 steps."""
    end: Literal["well", "raise", "exit", "kill", "deaf", "talk", "eat"] = "well"
    """End of the first attempt: "deaf" ignores SIGTERM and stops printing, "talk" prints 8 MB and continues, "eat"
    takes memory until it is refused."""
    at: int = 0
    """The step at which it does."""


def main(arguments: list[str]) -> None:
    run = RunDir.open(Path(arguments[arguments.index("--run-dir") + 1]))
    args = Args(**run.info()["spec"]["ppo"])
    names = run.agent_names()
    print(f"training {', '.join(names)} with {os.environ['OMP_NUM_THREADS']} thread", flush=True)
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    step = 0
    if "--resume" in arguments:
        step = json.loads(run.checkpoint("last").read_text())["step"]
        dropped = run.cut_after(dict.fromkeys(names, step))
        run.append_event("resume", global_step=step, rows_dropped=dropped)

    def report(state: str, message: str = "") -> None:
        agents = {name: agent_status(name, state, step, args.total_timesteps) for name in names}
        status = {"state": state, "pid": os.getpid(), "heartbeat": time.time(), "message": message, "agents": agents}
        run.write_status(status)

    report("running")
    while step < args.total_timesteps:
        if asked or run.stop_requested():
            run.checkpoint("last").write_text(json.dumps({"step": step}))
            report("stopped")
            return
        step += STRIDE
        time.sleep(args.pause)
        now = time.time()
        for name in names:
            metrics = {"policy/entropy": 1.0 / step, "perf/steps_per_second": STRIDE / args.pause}
            row = {"agent": name, "iteration": step // STRIDE, "global_step": step, "time": now, "metrics": metrics}
            run.append_metrics([row])
        if step % 500 == 0:
            run.checkpoint("last").write_text(json.dumps({"step": step}))
        report("running")
        if step == args.at and "--resume" not in arguments:
            misbehave(args.end, report)
    report("done")


def misbehave(end: str, report) -> None:
    if end == "raise":
        report("failed", "the market caught fire")
        raise RuntimeError("the market caught fire")
    if end == "exit":
        print("about to vanish", flush=True)
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])  # a child left behind
        os._exit(3)
    if end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "talk":
        for _ in range(80):
            print("x" * 100_000, flush=True)
            time.sleep(0.01)
    if end == "eat":
        resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
        hoard = []
        while True:
            hoard.append(bytearray(2**26))
    if end == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)


def agent_status(name: str, state: str, step: int, steps: int) -> dict:
    return {
        "state": state,
        "global_step": step,
        "total_timesteps": steps,
        "steps_per_second": 1234.5,
        "sharpe": 0.41,
        "entropy_norm": 0.7,
        "hold_share": 0.2,
        "verdict": verdict() if state == "done" else None,
    }


def verdict() -> dict:
    def row(total, sharpe):
        return {"total_return": total, "sharpe_ratio": sharpe, "max_drawdown": 0.2, "total_trades": 5}

    return {
        "grade": "PASS",
        "reasons": [
            {"criterion": "validation_sharpe", "value": 0.41, "threshold": "> 0.3", "met": True, "set": "minimum"},
            {"criterion": "validation_sharpe", "value": 0.41, "threshold": "> 0.5", "met": False, "set": "strong"},
            {"criterion": "max_drawdown", "value": 0.25, "threshold": "< 0.2", "met": False, "set": "strong"},
        ],
        "labels": ["constant"],
        "over_buy_and_hold": "not shown",
        "judged": {
            "candidates": 7,
            "tries": 1.0,
            "bars": 402,
            "trades": 42,
            "switches": 84,
            "rule": "moving average",
            "why_not": "",
            "over": {
                name: {"excess": 0.05, "interval": [-0.8, 0.9], "p": 0.4, "shown": False}
                for name in ("buy_and_hold", "equal_exposure", "fixed_rule")
            },
        },
        "chosen_step": 500,
        "supervised_return": -0.88,
        "sharpe_interval": [-0.31, 1.2],
        "excess_interval": [-0.5, 0.6],
        "metrics": {
            "eval/sharpe_ratio": 0.41,
            "eval/total_return": 0.123,
            "eval/max_drawdown": 0.25,
            "eval/total_trades": 42,
            "eval/sharpe_excess": 0.05,
        },
        "baselines": {
            "hold": row(0.0, None),
            "buy_and_hold": row(0.11, 0.36),
            "random": row(-0.2, -0.9),
            "moving_average": row(0.02, 0.1),
        },
    }


if __name__ == "__main__":
    main(sys.argv[1:])
