"""A trained agent as an object. `loading.py` reads it from a run, `trained_agent.py` has what it can do."""

from p3kit.policy.live_account import Account
from p3kit.policy.live_decision import Decision, Order
from p3kit.policy.loading import load_policy
from p3kit.policy.trained_agent import Policy

__all__ = ["Account", "Decision", "Order", "Policy", "load_policy"]
