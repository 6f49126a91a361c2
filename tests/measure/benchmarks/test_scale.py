"""The simulated cluster: where the answer is known without simulating, and that no run is lost."""

import math
from dataclasses import replace

import pytest

pytest.importorskip("simpy", reason="constraints/test.txt has it")

from tests.measure.benchmarks.scale import PER_GPU, World, simulate

WORLD = World(runs=40, gpus=1, work_s=110.0, start_s=10.0, checkpoint_s=5.0, make_s=0.1)


def test_without_failures_runs_go_in_rounds():
    outcome = simulate(WORLD)
    assert outcome.seconds == pytest.approx(40 * 0.1 + math.ceil(40 / PER_GPU) * 110.0)
    assert outcome.attempts == 40
    assert outcome.busy == pytest.approx(40 * 110.0 / (outcome.seconds * PER_GPU))


def test_more_gpus_help_until_every_run_has_a_slot():
    seconds = [simulate(replace(WORLD, gpus=gpus)).seconds for gpus in (1, 2, 4, 8)]
    assert seconds == pytest.approx([334.0, 224.0, 114.0, 114.0])


def test_failures_cost_attempts_and_time_but_no_run():
    failing = replace(WORLD, node_fails_every_s=100.0, node_back_s=60.0)
    outcomes = [simulate(failing, seed) for seed in range(20)]
    hit = [outcome for outcome in outcomes if outcome.attempts > WORLD.runs]
    assert len(hit) > 15
    assert all(outcome.seconds > simulate(WORLD).seconds for outcome in hit)
    assert simulate(failing, 3) == simulate(failing, 3)


def test_checkpoints_bound_what_a_failure_costs():
    failing = replace(WORLD, runs=18, node_fails_every_s=60.0, node_back_s=1.0, noticed_s=1.0)
    often = [simulate(failing, seed).seconds for seed in range(20)]
    never = [simulate(replace(failing, checkpoint_s=1e9), seed).seconds for seed in range(20)]
    assert sum(often) < 0.7 * sum(never)
