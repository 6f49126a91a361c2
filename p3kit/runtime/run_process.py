"""The process of a run, without its agents: files, device, number format, compiling, and the request to stop."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, TypeVar

import torch

from p3kit.errors import P3kitError
from p3kit.rundir import RunDir, first_plan
from p3kit.runtime.backtest_request import Backtest
from p3kit.runtime.compiling import compiled_or_plain
from p3kit.runtime.machine import device_of, precision_of
from p3kit.runtime.walks import Mode
from p3kit.spec import resolve_spec

A = TypeVar("A")


class Process(Generic[A]):
    """One trainer process: the part of a run that its agents use."""

    def __init__(self, directory: RunDir, args_type: type[A]) -> None:
        self.directory, self.args_type = directory, args_type
        self.info = info = directory.info()
        """`run.json`, which does not change while its trainer runs."""
        self.env_id: str | None = info["env_id"]
        self.evaluation_mode: Mode = info.get("evaluation_mode", "windows")
        """Runs of an older p3kit were evaluated in windows, and go on so."""
        self.spec = resolve_spec(info["spec"], str(directory.path / "run.json"), directory.trainer_file)
        self.device = device_of(self.spec)
        self.precision = precision_of(self.spec, self.device)
        self.planned_timesteps = sum(first_plan(agent)["total_timesteps"] for agent in info["agents"])
        """Env steps of all agents, without extensions: an extended run computes as it began."""
        self.backtest: Backtest | None = None  # set by p3kit evaluate before the trainer begins
        self.overlaps: Mapping[str, int] = {}
        """Bars of a backtest outside the splits that are in a split all the same."""
        self._stop_signal = False
        self._said_not_compiled = False

    @property
    def stop_requested(self) -> bool:
        """True if a checkpoint and an end were requested, by a signal or `p3kit stop`."""
        return self._stop_signal or self.directory.stop_requested()

    def autocast(self) -> AbstractContextManager[Any]:
        """The forward passes' number format: bf16 or fp16 under autocast, or fp32 as it is."""
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.precision)

    def grad_scaler(self) -> torch.amp.GradScaler:
        """Scales the loss where gradients are fp16, and hands it through otherwise."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)

    def compiled(self, function: Any, *, pays_from: float = math.inf) -> Any:
        """`function` through torch.compile if `compute.compile` requires it, or if it saves time: on CUDA, and on a CPU
        for runs of at least `pays_from` env steps over all agents.

        Compiling happens at the first call; on CUDA the kernels of a call become one graph. If it fails, the run
        continues with `function` itself, with one note.
        """
        wanted = self.spec.compute.compile
        if wanted == "off" or (wanted == "auto" and self.device.type == "cpu" and self.planned_timesteps < pays_from):
            return function
        return compiled_or_plain(function, self._not_compiled, on_cuda=self.device.type == "cuda")

    def _not_compiled(self, reason: str) -> None:
        """Note once that functions run as they are."""
        if not self._said_not_compiled:
            self._said_not_compiled = True
            print(f"not compiled, slower but the same: {reason}", file=sys.stderr)
            self.directory.append_event("note", text=f"compute.compile: not compiled ({reason})")

    def refuse_to_train(self) -> None:
        """Protect the run: a backtest does not change it, for any script of the trainer."""
        if self.backtest is not None:
            raise P3kitError(
                str(self.directory.trainer_file),
                "cannot be evaluated: it has no load_policy",
                "define it as trainers/ppo.py does, and open the run with it",
            )

    def _on_signal(self, *_: Any) -> None:
        self._stop_signal = True
