"""Register `p3kit/Trading-v1` with Gymnasium by name, so that the classes are imported when one is made."""

from __future__ import annotations

ENV_ID = "p3kit/Trading-v1"


def register() -> None:
    """Add the environment to Gymnasium's registry."""
    from gymnasium.envs import registration

    if ENV_ID not in registration.registry:  # a module that is loaded again registers nothing twice
        place = "p3kit.env.gymnasium"
        registration.register(
            ENV_ID, entry_point=f"{place}:TradingGymEnv", vector_entry_point=f"{place}:TradingVectorEnv"
        )
