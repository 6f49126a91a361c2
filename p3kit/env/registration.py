"""Register `p3kit/Trading-v1` with Gymnasium by name, so that neither side imports the other before it is used."""

from __future__ import annotations

import sys

ENV_ID = "p3kit/Trading-v1"


def register() -> None:
    """Add the environment to Gymnasium's registry. Gymnasium calls it through the entry point `gymnasium.envs`."""
    from gymnasium.envs import registration

    if ENV_ID not in registration.registry:  # a module that is loaded again registers nothing twice
        place = "p3kit.env.gymnasium"
        registration.register(
            ENV_ID, entry_point=f"{place}:TradingGymEnv", vector_entry_point=f"{place}:TradingVectorEnv"
        )


def register_where_imported() -> None:
    """Register at once where Gymnasium is imported already; a later import of it calls `register`."""
    if "gymnasium.envs.registration" in sys.modules:
        register()
