"""A trainer that learns nothing and has a fixed score: best at x = 0.3, slightly better with seed 2.

It keeps every promise of a trainer to a sweep (metrics, verdicts, checkpoints, stop, resume). It imports only
p3kit.rundir, so it starts at once. HILL_PAUSE slows it down: seconds per 100 steps.
"""

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from p3kit.rundir import RunDir

AGENTS = "stack"
STRIDE = 100


@dataclass(frozen=True)
class Args:
    """The knobs of `[ppo]`."""

    total_timesteps: int = 1000
    """Env steps."""
    n_steps: int = 100
    """Rollout length."""
    hidden: tuple[int, ...] = (8,)
    """Widths; of no effect."""
    x: Annotated[float, Ge(0), Le(1)] = 0.9
    """Where on the hill."""
    steps: int = 3
    """Of no effect."""
    word: Literal["a", "b", "c"] = "a"
    """Of no effect."""
    crash_above: float = 2.0
    """An x beyond which the trainer is killed half-way."""
    idle_above: float = 2.0
    """An x beyond which no agent ever trades."""


def main(arguments: list[str]) -> None:
    run = RunDir.open(Path(arguments[arguments.index("--run-dir") + 1]))
    info = run.info()
    agents = {agent["name"]: agent for agent in info["agents"]}
    args = Args(**info["agents"][0]["spec"]["ppo"])
    asked: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    step = 0
    if "--resume" in arguments:
        step = json.loads(run.checkpoint("last").read_text())["step"]
        run.cut_after(dict.fromkeys(agents, step))
        run.append_event("resume", global_step=step)

    def report(state: str, verdicts: dict[str, Any] | None = None) -> None:
        told = {
            name: {"state": state, "global_step": step, "total_timesteps": args.total_timesteps, "verdict": verdict}
            for name, verdict in (verdicts or dict.fromkeys(agents)).items()
        }
        run.write_status({"state": state, "pid": os.getpid(), "heartbeat": time.time(), "message": "", "agents": told})

    report("running")
    while step < args.total_timesteps:
        if asked or run.stop_requested():
            report("stopped")
            return
        step += STRIDE
        time.sleep(float(os.environ.get("HILL_PAUSE", "0")))
        for name, agent in agents.items():
            metrics = scores(args, int(agent["seed"]), step)
            row = {"agent": name, "iteration": step // STRIDE, "global_step": step, "time": time.time()}
            run.append_metrics([{**row, "metrics": metrics}])
            run.append_event(
                "evaluation", name, step, split="validation", metrics=metrics, baselines={},
                returns={"bars": 400, "bars_per_year": 252.0, "skewness": 0.0, "kurtosis": 3.0},
            )  # fmt: skip
        run.checkpoint("last").write_text(json.dumps({"step": step}))
        report("running")
        if args.x > args.crash_above and step >= args.total_timesteps // 2:
            os.kill(os.getpid(), signal.SIGKILL)
    verdicts = {}
    for name, agent in agents.items():
        metrics = scores(args, int(agent["seed"]), step)
        verdicts[name] = {"grade": "FAIL", "reasons": [], "labels": [], "metrics": metrics, "chosen_step": step}
        run.append_event("verdict", name, step, **verdicts[name])
    report("done", verdicts)


def scores(args: Args, seed: int, step: int) -> dict[str, float]:
    """Sharpe ratio of the hill, reached in proportion to the steps."""
    metrics = {"eval/total_return": 0.0, "eval/total_trades": 0.0}
    if args.x > args.idle_above:
        return metrics
    height = 1.0 - 4.0 * (args.x - 0.3) ** 2 + 0.1 * (seed - 1.5)
    return {**metrics, "eval/sharpe_ratio": height * step / args.total_timesteps}


if __name__ == "__main__":
    main(sys.argv[1:])
