"""Choice of the engine by `env.backend`, for everything that trains or evaluates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch

from p3kit.env.scalar_env import ScalarTradingEnv
from p3kit.env.trading import TradingEnv

if TYPE_CHECKING:
    from p3kit.market import SymbolData
    from p3kit.spec import Spec

BACKENDS: dict[str, type[TradingEnv]] = {"batched": TradingEnv, "scalar": ScalarTradingEnv}


def make_trading_env(
    market: Mapping[str, SymbolData],
    spec: Spec,
    *,
    symbols: Sequence[str],
    split: str = "train",
    num_envs: int | None = None,
    device: str | torch.device = "cpu",
    invalid_action: Literal["error", "hold"] = "error",
    continuous: bool = False,
) -> TradingEnv:
    """The environment that `spec.env.backend` names; arguments and errors are those of `TradingEnv`."""
    backend = BACKENDS[spec.env.backend]
    return backend(
        market,
        spec,
        symbols=symbols,
        split=split,
        num_envs=num_envs,
        device=device,
        invalid_action=invalid_action,
        continuous=continuous,
    )
