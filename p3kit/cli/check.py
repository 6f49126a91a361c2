"""`p3kit check SPEC`: what can be known before anything is trained."""

from __future__ import annotations

from pathlib import Path

import click

from p3kit.cli.options import Whole, json_option, set_option, spec_argument
from p3kit.cli.output import print_json, progress_console

NOT_MET = 3


@click.command(
    epilog="""\b
Examples:
  p3kit check specs/phase3.toml
  p3kit check specs/phase3.toml --set 'reward.formulas="guide"'
  p3kit check specs/phase3.toml --learn --leak
  p3kit check specs/phase3.toml --set reward.weights.time=0.6 --json"""
)
@spec_argument
@set_option
@click.option("--symbol", metavar="NAME", help="The symbol to probe.", show_default="the first of the spec")
@click.option("--episodes", type=Whole(min=400), default=600, help="Episodes per rule.")
@click.option("--learn", is_flag=True, help="Also let the trainer solve five probe tasks (half a minute).")
@click.option("--leak", is_flag=True, help="Also train on a market with an obvious edge (minutes).")
@json_option
def check(
    spec: Path, overrides: tuple[str, ...], symbol: str | None, episodes: int, learn: bool, leak: bool, as_json: bool
) -> None:
    """Probe SPEC before training: the environment, the trainer's forward pass and update, and the reward.

    1. The environment alone over 1,000 random steps. 2. The policy on many observations and on one. 3. One update: the
    loss falls on a repeated batch, the ratio starts at 1, every layer moves. Then fixed rules (churning, quick profits,
    …) play the spec's reward in a market without profit, at the spec's fees and at 1 bp. No rule may beat staying flat.
    4. With --learn and --leak: short trainings that a sound trainer passes. Exit code 3 if a probe does not pass.
    """
    from p3kit.api.probing import ProbeOptions, check_spec
    from p3kit.api.specs import load_spec
    from p3kit.check.table import print_probes
    from p3kit.console import Console

    loaded = load_spec(spec, overrides)
    options = ProbeOptions(episodes, learn, leak)
    with progress_console().status("environment") as status:
        probes = check_spec(loaded, symbol, status.update, options)
    if as_json:
        print_json([probe.to_json() for probe in probes])
    else:
        print_probes(probes, f"{loaded.spec.name}/{symbol or loaded.spec.symbols[0]}", Console())
    if not all(probe.passed for probe in probes):
        raise SystemExit(NOT_MET)
