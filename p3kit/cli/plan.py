"""`p3kit plan`: what `p3kit run` would start, and what it would take."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p3kit.cli.options import available_cores, jobs_option, json_option, runs_option, set_option, spec_argument

if TYPE_CHECKING:
    from p3kit.plan import AgentPlan, RunPlan

UNKNOWN_TIME = "unknown until a run of this trainer and these sizes has finished here"


@click.command(
    epilog="""\b
Examples:
  p3kit plan specs/phase3.toml
  p3kit plan specs/phase3.toml --set env.num_envs=16 --json"""
)
@spec_argument
@set_option
@jobs_option
@runs_option
@json_option
def plan(spec: Path, overrides: tuple[str, ...], jobs: int | None, runs_root: Path, as_json: bool) -> None:
    """Show what `p3kit run SPEC` would start: runs, agents, iterations, gradient steps, memory and time.

    Time is an estimate only from runs that finished in the runs folder; nothing is trained and nothing is written.
    """
    from p3kit.launch import measured_pace, total_seconds
    from p3kit.launch.board import duration
    from p3kit.market import load_market, walk_windows
    from p3kit.plan import data_notes, plan_runs
    from p3kit.spec import load_spec
    from p3kit.spec.notes import notes

    loaded = load_spec(spec, overrides)
    market = load_market(loaded.spec, loaded.spec.symbols)
    plans = plan_runs(loaded.spec, jobs or available_cores(), walk_windows(loaded.spec, market))
    remarks = [*notes(loaded), *data_notes(loaded.spec, market)]
    slots = min(jobs or available_cores(), len(plans))
    pace = measured_pace(plans[0], runs_root)
    seconds = total_seconds(plans, pace, slots) if pace else None
    runs = [[_facts(agent) for agent in plan.agents] for plan in plans]
    if as_json:
        time = {
            "seconds": seconds,
            "steps_per_second": pace and pace.steps_per_second,
            "measured_in": pace and pace.runs,
        }
        result = {
            "name": loaded.spec.name,
            "trainer": plans[0].trainer.stem,
            "jobs": slots,
            "runs": [{"agents": agents} for agents in runs],
            "time": time,
            "notes": remarks,
        }
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
        return
    _print_table(loaded.spec.name, plans, runs, slots)
    if pace is None or seconds is None:
        click.echo(f"time: {UNKNOWN_TIME}")
    else:
        rate = f"{pace.steps_per_second:,.0f} steps/s a run, as measured in {_span(pace.runs)}"
        click.echo(f"time: about {duration(seconds)} with {slots} at a time ({rate})")
    for remark in remarks:
        click.echo(f"note: {remark}")


def _facts(agent: AgentPlan) -> dict[str, Any]:
    """The counted work of one agent; None where a trainer's knobs do not tell."""
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


def _print_table(name: str, plans: Sequence[RunPlan], runs: Sequence[Sequence[dict[str, Any]]], slots: int) -> None:
    from rich.console import Console
    from rich.table import Table

    from p3kit.launch.board import number

    count = f"{len(plans)} run{'s' if len(plans) > 1 else ''}"
    click.echo(f"{name}: {count} of the trainer {plans[0].trainer.stem}, {slots} at a time")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", footer_style="bold", show_footer=True)
    table.add_column("run", "", justify="right", no_wrap=True)
    agents = [agent for run in runs for agent in run]
    table.add_column("agent", "all", no_wrap=True, overflow="ellipsis")
    for title, key in (("env steps", "env_steps"), ("iterations", "iterations"), ("gradient steps", "gradient_steps")):
        values = [agent[key] for agent in agents]
        table.add_column(title, number(None if None in values else sum(values), ","), justify="right", no_wrap=True)
    table.add_column("buffer", "", justify="right", no_wrap=True)
    for index, run in enumerate(runs, 1):
        for agent in run:
            buffer = agent["buffer_bytes"]
            table.add_row(
                str(index),
                agent["agent"],
                number(agent["env_steps"], ","),
                number(agent["iterations"], ","),
                number(agent["gradient_steps"], ","),
                "–" if buffer is None else f"{buffer / 1e6:.1f} MB",
            )
    Console().print(table, markup=False)


def _span(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} runs, {names[0]} to {names[-1]}"
