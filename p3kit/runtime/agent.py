"""One agent of a run, for its trainer: schedules, records, evaluations, and its best checkpoints."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic

import numpy as np
import torch
from torch import Tensor

from p3kit.edge import judge
from p3kit.env import TradingEnv, make_trading_env
from p3kit.env.account import ACCOUNT_FIELDS
from p3kit.errors import NumericalFault, P3kitError
from p3kit.headline import HARDLY_TRAINED
from p3kit.interventions import Check, Record
from p3kit.market import SymbolData
from p3kit.market.novelty import Distribution, count_novel
from p3kit.metrics import COMPONENTS
from p3kit.rundir import (
    BACKTEST_RESULT,
    Segments,
    chosen_evaluation,
    encode,
    extension_label,
    judge_evaluations,
    planned_over_made,
    read_candidates,
)
from p3kit.runtime.attainable import attainable_share
from p3kit.runtime.backtest_request import forward_pass
from p3kit.runtime.best_checkpoints import BestCheckpoints
from p3kit.runtime.card import make_card
from p3kit.runtime.checkpoints import Flat, part, under
from p3kit.runtime.evaluation import Evaluation, Evaluator, Policy
from p3kit.runtime.fixed_rules import ChosenRules, seed_of
from p3kit.runtime.grading import EarlyStop, explained_after, is_hardly_trained, verdict
from p3kit.runtime.machine import peak_memory_mb
from p3kit.runtime.recording import EpisodeLedger, Rollout, histogram, tick_rows, value_map
from p3kit.runtime.repair import Repair
from p3kit.runtime.replay import replay_episodes
from p3kit.runtime.reward_shape import (
    CORRELATED_EPISODES,
    episode_correlations,
    reward_histogram,
    reward_shape,
    reward_to_go_curve,
)
from p3kit.runtime.rollout_check import RolloutCheck
from p3kit.runtime.run_process import A, Process
from p3kit.runtime.scaling import ObservationScaler, RewardScaler, Shaping
from p3kit.runtime.walks import Mode, Split
from p3kit.spec import Spec, get_path, resolve_spec
from p3kit.spec.schedules import value_at

if TYPE_CHECKING:
    from p3kit.env.task import VectorTask

_CARRIED = (  # from the newest update into the event of an evaluation
    "value/explained_variance",
    "diag/ev_reference",
    "policy/entropy",
    "policy/entropy_norm",
    "policy/hold_share",
)
_STATUS = {  # what the live table shows of an agent, and where it comes from
    "steps_per_second": "perf/steps_per_second",
    "sharpe": "eval/sharpe_ratio",
    "entropy_norm": "policy/entropy_norm",
    "hold_share": "policy/hold_share",
}


class Agent(Generic[A]):
    """One agent of a run: its spec, its generator, its schedules, its record."""

    def __init__(
        self,
        process: Process[A],
        plan: Mapping[str, Any],
        market: Mapping[str, SymbolData],
        at_check: Callable[[Check, Agent[A]], None],
        *,
        alone: bool,
        journal: list[dict[str, Any]] | None,
    ) -> None:
        """`at_check` is called when an update or an evaluation has been recorded; `alone` is True for the only agent
        of its run; `journal` has the events to replay."""
        self.process, self.name, self.symbol, self.seed = process, plan["name"], plan["symbol"], plan["seed"]
        self._plan, self._at_check = plan, at_check
        where = f"{process.directory.path / 'run.json'}: {self.name}"
        self.spec: Spec = resolve_spec(plan["spec"], where, process.directory.trainer_file)
        self.total_timesteps: int = plan["total_timesteps"]
        self.segments = Segments.of(plan)
        self.generator = self.new_generator("agent")
        self.global_step = 0
        self.state = "running"
        self.market = market
        self.fault: P3kitError | None = None
        self._early_stop = EarlyStop()
        self._is_planned = True  # the evaluation of now; others do not count for early stopping
        self._ledger = EpisodeLedger.empty(self.spec.env.num_envs)
        self._observation_scaler: ObservationScaler | None = None
        self._nonfinite = 0.0
        self._ended_early = ""  # why, if by its own rules
        self._latest: dict[str, float] = {}
        self._verdict: dict[str, Any] | None = None
        self.is_alone = alone
        number = self.spec.checkpoints.keep_best
        self.card = make_card(process.info, plan)
        """Facts that a decision needs beside the weights."""
        self._best = BestCheckpoints(process.directory, plan, None if alone else self.name, number, self.card)
        self._lost: NumericalFault | None = None  # what was found in the update just recorded
        task = process.env_id or ""
        record = Record(self.name, plan["spec"], self.total_timesteps, str(process.device), task)
        group = json.dumps([self.seed, plan.get("point") or {}], sort_keys=True)
        self.repair = Repair(record, self.spec, self.scheduled_now, group=group, journal=journal)

    # ── what the trainer builds on ───────────────────────────────────────────────────────────────────────────────────

    def new_generator(self, purpose: str) -> torch.Generator:
        """A generator of its own for `purpose`, seeded by (seed, symbol), so that nothing else shifts what it draws."""
        return torch.Generator().manual_seed(seed_of(purpose, self.seed, self.symbol))

    def make_env(self) -> TradingEnv | VectorTask:
        """The training environment, on the run's device."""
        if self.process.env_id:
            from p3kit.env.task import VectorTask  # gymnasium and envpool are slow to import and rarely needed

            return VectorTask(self.process.env_id, self.spec.env.num_envs, self.seed)
        env = make_trading_env(self.market, self.spec, symbols=[self.symbol], split="train", device=self.process.device)
        env.compile(self.process.compiled)
        return env

    def rollout_check(self, agents: Sequence[Agent[Any]] | None = None) -> RolloutCheck | None:
        """The replay of this agent's rollouts, or of a stack of `agents`; None for a task without bars."""
        if not self.market:
            return None
        symbols = [agent.symbol for agent in agents or [self]]

        def make() -> TradingEnv:
            return make_trading_env(
                self.market,
                self.spec,
                symbols=symbols,
                split="train",
                device=self.process.device,
                invalid_action="hold",
            )

        return RolloutCheck(make, [self.market[symbol] for symbol in dict.fromkeys(symbols)])

    def args_at(self, global_step: int) -> A:
        """The trainer's arguments in force at `global_step`, schedules and interventions applied."""
        moved = dict.fromkeys([*self.spec.schedules, *sorted(self.repair.live_keys())])
        knobs = {
            path.removeprefix("ppo."): self.repair.value(path, self.scheduled_at(path, global_step))
            for path in moved
            if path.startswith("ppo.")
        }
        total = {"total_timesteps": self.segments.starting(global_step).total_timesteps}
        return self.process.args_type(**(self.spec.ppo.model_dump() | total | knobs))

    def value_at(self, path: str, global_step: int) -> float:
        """A spec value in force at `global_step`: what is scheduled, as live interventions change it."""
        return float(self.repair.value(path, self.scheduled_at(path, global_step)))

    def scheduled_at(self, path: str, global_step: int) -> float | str:
        """A spec value without interventions: its schedule at the share of training done, else the value itself, which
        may be a word such as "off"."""
        return self._scheduled(path, global_step, self.segments.starting(global_step).schedule_steps)

    def scheduled_now(self, path: str) -> float | str:
        """A spec value without interventions, at the agent's own step."""
        return self._scheduled(path, self.global_step, self.segments.reaching(self.global_step).schedule_steps)

    def _scheduled(self, path: str, global_step: int, schedule_steps: int) -> float | str:
        schedule = self.spec.schedules.get(path)
        if schedule is not None:
            return value_at(schedule, global_step / schedule_steps)
        value = get_path(self.spec, path)
        return value if isinstance(value, str) else float(value)

    def reward_weights_at(self, global_step: int) -> Tensor:
        """(7,) float64, the weights of the components in force."""
        if self.process.env_id:  # a foreign task has one reward; it sits in the first slot
            return torch.eye(1, len(COMPONENTS), dtype=torch.float64)[0]
        weights = [self.value_at(f"reward.weights.{name}", global_step) for name in COMPONENTS]
        return torch.tensor(weights, dtype=torch.float64, device=self.process.device)

    def reward_scaler(self, num_envs: int, agents: Sequence[Agent[Any]] | None = None) -> RewardScaler:
        """The scaler of this agent's rewards; with `agents`, of a stack of them, which have its settings."""
        of = [self] if agents is None else list(agents)

        def in_force() -> list[Shaping]:
            return [
                Shaping(agent.repair.normalizes["rewards"], agent.reward_clip(), agent.repair.reward_edits)
                for agent in of
            ]

        count = None if agents is None else len(of)
        return RewardScaler(self.spec.reward.scaling, None, num_envs, self.process.device, count, in_force)

    def reward_clip(self) -> float:
        """The reward clip in force; infinite where it is off."""
        clip = self.repair.value("reward.clip", self.scheduled_now("reward.clip"))
        return math.inf if clip == "off" else float(clip)

    def observation_scaler(self, size: int) -> ObservationScaler:
        observation = self.spec.observation
        self._observation_scaler = ObservationScaler(
            size,
            running=observation.normalize == "running",
            clip=observation.clip,
            device=self.process.device,
            is_frozen=lambda: self.repair.frozen_normalizer,
            has_begun=lambda: self.repair.normalizes["observations"],
        )
        return self._observation_scaler

    def begin_normalizing(self) -> None:
        """Start the statistics of observations, or start them again, if an intervention did so."""
        again, self.repair.starts_observations_again = self.repair.starts_observations_again, False
        if self._observation_scaler is not None:
            self._observation_scaler.begin(again=again)

    def take_rollback(self) -> str | None:
        """The checkpoint that a rollback restores, returned once. The number of rollbacks seeds the generator again, or
        the same failure would repeat; spent steps stay spent."""
        name = self.repair.take_checkpoint()
        if name is not None:
            self.generator.manual_seed(seed_of("agent", self.seed, self.symbol, self.repair.member.rollbacks))
        return name

    def take_reinits(self) -> list[tuple[str, torch.Generator]]:
        """Parts of the net to reinitialise, each with its generator; returned once."""
        parts = self.repair.take_reinits()
        return [(name, self.new_generator(f"reinit {name} {self.global_step}")) for name in parts]

    @property
    def encoder_is_frozen(self) -> bool:
        """True if an intervention has frozen the encoder that all agents share."""
        return self.repair.frozen_encoder

    # ── what the trainer reports ─────────────────────────────────────────────────────────────────────────────────────

    def finished(self, global_step: int) -> bool:
        """Return True if training ends: all steps taken, an early stop, or a requested stop."""
        self.global_step = global_step
        if self.state != "running":
            return True
        if self.segments.extended_at(global_step):
            self._begin_extension()
        if global_step >= self.total_timesteps:
            self.state = "done"
        elif self.process.stop_requested:
            self.state = "stopped"
        return self.state != "running"

    def _begin_extension(self) -> None:
        """Count by the new number of steps from here on, and journal that once. The patience of early stopping starts
        again."""
        segment, step = self.segments.starting(self.global_step), self.global_step
        self.repair.record.total_timesteps = segment.total_timesteps
        self._early_stop.begin_again(step)
        fields = {"total_timesteps": segment.total_timesteps, "schedule_steps": segment.schedule_steps}
        told = self.process.directory.read_events("extension", self.name)
        if not any(event["global_step"] == step and event.items() >= fields.items() for event in told):
            before = self.segments.reaching(step).total_timesteps
            self.process.directory.append_event("extension", self.name, step, from_total=before, **fields)

    def fail(self, fault: P3kitError) -> None:
        """End this agent permanently. The others of its run continue, and the run ends as failed."""
        self.state, self.fault = "failed", fault
        text = str(fault).splitlines()[0]
        self.process.directory.append_event("failed", agent=self.name, global_step=self.global_step, message=text)
        print(f"{self.process.directory.name}: {fault}", file=sys.stderr)

    def end_early(self, reason: str) -> None:
        """End this agent's training as done, before its last step."""
        if self.state == "running":
            self.state, self._ended_early = "done", reason
            self.journal("early_stop", reason=reason)

    def journal(self, kind: str, **fields: Any) -> None:
        """Write an event of this agent, at its step."""
        self.process.directory.append_event(kind, agent=self.name, global_step=self.global_step, **fields)
        self.repair.happened(kind, global_step=self.global_step, **fields)

    def due(self, every: int, before: int) -> bool:
        """Return True if an action `every` N steps is due between `before` and now, or training ended."""
        total = self.segments.starting(before).total_timesteps
        return self.global_step // every > before // every or self.global_step >= total

    def evaluates(self, before: int) -> bool:
        """True if an evaluation is planned between `before` and now, or an intervention needs one to compare."""
        self._is_planned = self.due(self.spec.evaluation.every, before)
        return self._is_planned or self.repair.wants_evaluation

    def record(
        self,
        iteration: int,
        start_step: int,
        global_step: int,
        rollout: Rollout,
        update: Mapping[str, Any],
        whole: Mapping[str, float],
    ) -> None:
        """Write the rows of one iteration: rollout per tick, optimiser beside it, `whole` with the last row. After all
        agents of the run, the interventions decide.

        An update without one finite gradient step ends an agent, if no intervention reverts it. Alone in its run it
        raises NumericalFault; beside others it fails and they continue.
        """
        self.process.refuse_to_train()
        self.global_step = global_step
        rows = tick_rows(rollout, self._ledger, update, start_step, global_step)
        gamma = float(getattr(self.args_at(start_step), "gamma", 1.0))
        whole = dict(whole) | self._effective(start_step) | reward_shape(rollout, gamma)
        if (ended := self._ledger.take_ended(CORRELATED_EPISODES)) is not None:
            whole |= episode_correlations(ended)
        if self._observation_scaler is not None and self._observation_scaler.drift is not None:
            whole["diag/obs_drift"] = float(self._observation_scaler.drift)
        whole["perf/steps_per_second"] = (global_step - start_step) / (whole["perf/rollout_s"] + whole["perf/update_s"])
        whole["perf/memory_mb"] = peak_memory_mb()
        rows[-1][1].update(whole)
        now = time.time()
        written = [self._row(iteration, step, now, metrics) for step, metrics in rows]
        self.process.directory.append_metrics(written)
        for _, metrics in rows:
            self._latest |= metrics
        self._lost = self._count_nonfinite(np.asarray(update["diag/nonfinite"]))
        self._refuse_to_be_ignored()
        self.repair.recorded(written, rollout, update, global_step - start_step)
        self._at_check("update", self)

    def fail_if_lost(self) -> None:
        """End the agent if its update had not one finite step and no rollback reverts it."""
        lost, self._lost = self._lost, None
        if lost is None or self.state != "running" or self.repair.going_back_to is not None:
            return
        if self.is_alone:
            raise lost
        self.fail(lost)

    def evaluate(self, iteration: int, policy: Policy, weights: Flat) -> None:
        """Backtest `policy` on the validation split; keep the weights if they are among the best; maybe stop early."""
        if not self.market:
            return
        clock = time.perf_counter()
        evaluation = self.evaluator(policy)
        self.take_in(iteration, evaluation, time.perf_counter() - clock, weights)
        self._at_check("eval", self)

    @cached_property
    def evaluator(self) -> Evaluator:
        """Play this agent's validation split."""
        return self._make_evaluator()

    def take_in(self, iteration: int, evaluation: Evaluation, seconds: float, weights: Flat) -> None:
        """Write an evaluation that took `seconds`; keep `weights` if they are among the best; maybe stop early."""
        clock = time.perf_counter()
        metrics = dict(evaluation.metrics)
        seconds += time.perf_counter() - clock
        self._latest |= metrics
        row = self._row(iteration, self.global_step, time.time(), metrics | {"perf/evaluation_s": seconds})
        self.process.directory.append_metrics([row])
        event = evaluation.summary()
        event["metrics"] = metrics | {name: self._latest[name] for name in _CARRIED if name in self._latest}
        sharpe, compress = metrics.get("eval/sharpe_ratio"), self.spec.checkpoints.compress
        event["new_best"] = self._best.keep(self.global_step, sharpe, weights, compress=compress)
        step = self.global_step
        self.process.directory.write_histogram("returns", self.name, step, evaluation.candidate(step).to_json())
        self.journal("evaluation", **event)
        self.process.directory.write_histogram("equity", self.name, step, evaluation.equity_curves())
        if self._is_planned:
            self._stop_early(metrics)
        self.repair.evaluated(row)

    def _stop_early(self, metrics: Mapping[str, float]) -> None:
        progress = self.global_step / self.segments.reaching(self.global_step).total_timesteps
        reason = self._early_stop.update(self.spec, metrics, self.global_step, progress)
        if reason and progress < 1 and not self.segments.extended_at(self.global_step):
            self.end_early(reason)

    def report_backtest(self, policy: Policy) -> None:
        """Backtest `policy` with the options of `run.backtest`, and print the result as one line of JSON on stdout.

        A use of the test split is journalled before the backtest, and its result after it.
        """
        backtest = self.process.backtest
        if backtest is None or not self.market:
            raise P3kitError(
                self.process.directory.name, "there is nothing to backtest on", "only runs on bars have splits"
            )
        told = {"agent": self.name, "global_step": backtest.global_step, "checkpoint": backtest.checkpoint}
        told["synthetic"] = self.market[self.symbol].synthetic
        if backtest.forward:
            print(BACKTEST_RESULT + json.dumps({**told, **self._forward_pass(policy, backtest.forward)}), flush=True)
            return
        if backtest.episodes:
            found = self.episodes(policy, backtest.split, backtest.episodes, backtest.global_step or 0)
            print(BACKTEST_RESULT + json.dumps(encode({**told, "episodes": found})), flush=True)
            return
        overlaps = dict(self.process.overlaps)
        if backtest.final or "test" in overlaps:
            looks = [e for e in self.process.directory.read_events("final_evaluation", agent=self.name) if "look" in e]
            self.process.directory.append_event("final_evaluation", **told, look=len(looks) + 1)
        evaluator = self._make_evaluator(backtest.split, final=backtest.final, mode=backtest.mode)
        evaluation = evaluator(policy)
        summary = evaluation.summary() | {"judged": self._judge_backtest(evaluation, backtest.global_step or 0)}
        if backtest.final:
            self.process.directory.append_event("final_evaluation", **told, **summary)
        result = {
            **told,
            **summary,
            "hardly_trained": self._is_hardly_trained(step := backtest.global_step or 0, self._entropy_at(step)),
            "mode_of_run": self.process.evaluation_mode,
            "overlaps": overlaps,
            "notes": self.market[self.symbol].notes,
            "supervised_return": self.spec.baselines.supervised_return(self.symbol),
            "novelty": self._novelty(evaluation),
            "attainable": self._attainable(evaluation),
            "curves": evaluation.equity_curves(),
        }
        print(BACKTEST_RESULT + json.dumps(encode(result)), flush=True)

    def _novelty(self, evaluation: Evaluation) -> dict[str, Any] | None:
        """Bars of a backtest whose inputs are unlike the training bars; None for a run without their distribution."""
        stored = (self.process.info.get("data") or {}).get(self.symbol, {}).get("distribution")
        if stored is None:
            return None
        bars = evaluation.policy.bar
        span = int(bars[0]), int(bars[-1]) + 1
        found = count_novel(Distribution.from_json(stored), evaluation.bars.features, *span)
        first = found["first"]
        return found | {"first": None if first is None else str(evaluation.bars.timestamps[first])[:19]}

    def _attainable(self, evaluation: Evaluation) -> dict[str, Any] | None:
        """Share of the attainable score on one path over synthetic bars; None for windows and bars of a file."""
        if evaluation.mode != "continuous" or evaluation.split == "outside":
            return None
        return attainable_share(self.spec, self.symbol, evaluation.policy)

    def _judge_backtest(self, evaluation: Evaluation, global_step: int) -> dict[str, Any] | None:
        """Judge a backtest: on validation as one of all evaluations, on the test split as one of all looks. A policy is
        not judged on the bars that it was trained on, nor beside evaluations of another mode."""
        own = evaluation.candidate(global_step)
        if evaluation.split == "outside" and {"train", "validation"} & set(self.process.overlaps):
            return None
        if evaluation.split in ("test", "outside"):
            looks = self.process.directory.read_events("final_evaluation", agent=self.name)
            return judge([own], 0, max(1, sum("look" in event for event in looks)))
        if evaluation.mode != self.process.evaluation_mode:
            return None
        events = self.process.directory.read_events("evaluation", self.name)
        others = read_candidates(self.process.directory, self.name, events)
        if evaluation.split == "train" or not others:
            return None
        others = [one for one in others if one.global_step != global_step]
        return judge([own, *others], 0, planned_over_made(self._plan, events))

    def _forward_pass(self, policy: Policy, rows: int) -> dict[str, int]:
        symbols, device = [self.symbol], self.process.device
        env = make_trading_env(self.market, self.spec, symbols=symbols, num_envs=rows, device=device)
        return forward_pass(policy, env, rows, self.new_generator("forward pass"))

    def episodes(self, policy: Policy, split: Split, count: int, global_step: int) -> list[dict[str, Any]]:
        """`count` windows of a split bar by bar, from the best paid to the worst paid; see `p3kit.runtime.replay`."""
        gamma = float(getattr(self.args_at(global_step), "gamma", 1.0))
        return replay_episodes(self._make_evaluator(split), policy, split, count, gamma)

    def _make_evaluator(
        self, split: Split = "validation", *, final: bool = False, mode: Mode | None = None
    ) -> Evaluator:
        return Evaluator(
            self.spec,
            self.market[self.symbol],
            self.symbol,
            self.seed,
            self.process.device,
            split=split,
            final=final,
            mode=mode or self.process.evaluation_mode,
            chosen_rules=ChosenRules.of_event(self._newest_evaluation()) if split == "outside" else None,
        )

    def _newest_evaluation(self) -> dict[str, Any] | None:
        events = self.process.directory.read_events("evaluation", self.name)
        return events[-1] if events else None

    def write_histograms(
        self, env: TradingEnv | VectorTask, rollout: Rollout, account: Tensor, value: Tensor, gradient: Tensor
    ) -> None:
        """Write the distributions of the last rollout and gradient. account (R, K), value (R,), gradient (P,)."""
        counts = np.bincount(rollout.action.flatten(), minlength=env.num_actions)
        tables: dict[str, dict[str, Any]] = {
            "reward": reward_histogram(rollout),
            "actions": {"labels": list(env.action_names), "counts": counts.tolist()},
            "gradients": histogram(gradient.cpu().numpy()),
        }
        if isinstance(env, TradingEnv):
            bar = (1 - account[:, ACCOUNT_FIELDS.index("episode_left")]) * self.spec.env.episode_bars
            unrealised = account[:, ACCOUNT_FIELDS.index("unrealised_return")]
            tables["value_map"] = value_map(bar.cpu().numpy(), unrealised.cpu().numpy(), value.cpu().numpy())
        gamma = float(getattr(self.args_at(self.global_step), "gamma", 1.0))
        if (curve := reward_to_go_curve(rollout, gamma)) is not None:
            tables["reward_to_go"] = dict(curve)
        for kind, table in tables.items():
            self.process.directory.write_histogram(kind, self.name, self.global_step, table)

    def conclude(self) -> None:
        """Judge the agent at the weights that validation chose, and journal it. A stopped agent has no verdict yet."""
        events = [event for event in self.process.directory.read_events("evaluation") if event["agent"] == self.name]
        if self.state in ("stopped", "failed") or not events:
            return
        chosen = chosen_evaluation(self._plan, events) or events[-1]
        metrics = chosen["metrics"] | explained_after(self.process.directory.series(self.name), chosen["global_step"])
        judged = judge_evaluations(self.process.directory, self._plan, events, chosen)
        self._verdict = verdict(self.spec, self.symbol, metrics, self._nonfinite, chosen | {"metrics": metrics}, judged)
        self._verdict["ended_early"] = self._ended_early
        if self._is_hardly_trained(chosen["global_step"], metrics.get("policy/entropy_norm")):
            self._verdict["labels"].append(HARDLY_TRAINED)
        if self.repair.fired:
            self._verdict["labels"].append("intervened")
        if init := self._plan.get("init"):
            self._verdict["labels"].append(f"started from {init['from']}")
        if label := extension_label(self._plan):
            self._verdict["labels"].append(label)
        told = self.process.directory.read_events("verdict", self.name)
        if not any(event["global_step"] == self.global_step for event in told):  # killed after it, before the end
            self.journal("verdict", **self._verdict)

    def _is_hardly_trained(self, global_step: int, entropy_norm: float | None) -> bool:
        return is_hardly_trained(self.args_at(global_step), global_step, entropy_norm)

    def _entropy_at(self, global_step: int) -> float | None:
        """Recorded entropy of the policy as a fraction of its maximum, of the last update before `global_step`."""
        series = self.process.directory.series(self.name).get("policy/entropy_norm")
        if series is None or series.steps[0] > global_step:
            return None
        return float(series.values[series.steps <= global_step][-1])

    def latest(self, metric: str) -> float | None:
        """The newest recorded value of a metric; None before there is one."""
        return self._latest.get(metric)

    def status(self) -> dict[str, Any]:
        """The agent's part of `status.json`."""
        latest = {key: self._latest.get(name) for key, name in _STATUS.items()}
        return {
            "symbol": self.symbol,
            "state": self.state,
            "global_step": self.global_step,
            "total_timesteps": self.total_timesteps,
            **latest,
            "interventions": self.repair.fired,
            "acts": self.repair.acts,
            "verdict": self._verdict,
        }

    # ── resume ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def state_dict(self) -> Flat:
        state: Flat = {"global_step": self.global_step, "nonfinite": self._nonfinite}
        state["ended_early"], state["fault"] = self._ended_early, str(self.fault or "")
        state["generator"] = self.generator.get_state()
        state |= under("early_stop", self._early_stop.state_dict())
        state |= under("best", self._best.state_dict())
        state |= under("latest", self._latest)
        state |= under("repair", self.repair.state_dict())
        state |= under("ledger", {name: torch.as_tensor(value) for name, value in self._ledger.state_dict().items()})
        return state

    def load_state_dict(self, state: Flat) -> None:
        """Restore what `state_dict` gave; the environment's state is the trainer's to load."""
        self.global_step, self._nonfinite = int(state["global_step"]), float(state["nonfinite"])
        self._ended_early = "" if self.segments.extended_at(self.global_step) else state["ended_early"]
        self.state = "done" if self._ended_early else "running"
        self.repair.record.total_timesteps = self.segments.reaching(self.global_step).total_timesteps
        if state["fault"]:
            self.state, self.fault = "failed", P3kitError(self.name, state["fault"])
        self.generator.set_state(state["generator"].cpu())
        self._early_stop.load_state_dict(part("early_stop", state))
        self._best.load_state_dict(part("best", state))
        self._latest = dict(part("latest", state))
        self.repair.load_state_dict(part("repair", state))
        self._ledger.load_state_dict({name: value.cpu().numpy() for name, value in part("ledger", state).items()})

    def reload(self, rows: Iterable[Mapping[str, Any]], events: Iterable[Mapping[str, Any]]) -> None:
        """Take the rows and events of the run from before an interruption."""
        self.repair.reload(rows, events)

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _row(self, iteration: int, step: int, now: float, metrics: Mapping[str, float]) -> dict[str, Any]:
        row = {"agent": self.name, "iteration": iteration, "global_step": step, "time": now}
        return row | {"metrics": dict(metrics)}

    def _refuse_to_be_ignored(self) -> None:
        """A trainer of the user's own may not carry out every action of a rule."""
        if self.repair.reinits:
            what = f'does not support reinit = "{self.repair.reinits[0]}", which an intervention requires'
            raise P3kitError(str(self.process.directory.trainer_file), what, "trainers/ppo.py shows how")

    def _effective(self, global_step: int) -> dict[str, float]:
        """Every scheduled value, those that interventions may move, and the dials that a reader looks for first, as
        they were in force; but for words such as "off"."""
        paths = {"ppo.learning_rate", "ppo.ent_coef", "ppo.clip_range", *self.spec.schedules}
        paths |= self.repair.moved_keys()
        found = {path: self.repair.value(path, self.scheduled_at(path, global_step)) for path in sorted(paths)}
        return {f"effective/{path}": float(value) for path, value in found.items() if not isinstance(value, str)}

    def _count_nonfinite(self, nonfinite: np.ndarray[Any, Any]) -> NumericalFault | None:
        """Count and journal gradient steps that were thrown away; a fault where that is all of them."""
        if not nonfinite.any():
            return None
        self._nonfinite += float(nonfinite.sum())
        self.journal(
            "nonfinite",
            gradient_steps=len(nonfinite),
            thrown_away=int(nonfinite.sum()),
            first=int(np.flatnonzero(nonfinite)[0]),
        )
        if not nonfinite.all():
            return None
        return NumericalFault(
            f"{self.name} at step {self.global_step}",
            f"none of the {len(nonfinite)} gradient steps of this update was finite",
            f"p3kit diagnose {self.process.directory.name} names the first tensor that went wrong",
        )
