"""p3kit: declarative experiment specs for PPO trading agents.

    import p3kit

    spec = p3kit.load_spec("specs/smoke.toml", {"ppo.total_timesteps": 20_000})
    (run,) = p3kit.run_spec(spec)
    print(run.verdict.grade)
    run.metrics.plot("global_step", "policy/entropy_norm")

Each name is imported when it is first used, so `import p3kit` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
    from p3kit.api.judging import compare_runs as compare_runs
    from p3kit.api.judging import diagnose_run as diagnose_run
    from p3kit.api.judging import evaluate_run as evaluate_run
    from p3kit.api.paper_account import PaperAccount as PaperAccount
    from p3kit.api.paper_account import PaperOptions as PaperOptions
    from p3kit.api.paper_account import paper_accounts as paper_accounts
    from p3kit.api.paper_account import trade_on_paper as trade_on_paper
    from p3kit.api.predicting import predict_run as predict_run
    from p3kit.api.saved_run import SavedRun as SavedRun
    from p3kit.api.saved_run import list_runs as list_runs
    from p3kit.api.saved_run import load_metrics as load_metrics
    from p3kit.api.saved_run import open_run as open_run
    from p3kit.api.specs import PlanOptions as PlanOptions
    from p3kit.api.specs import load_spec as load_spec
    from p3kit.api.specs import plan_runs as plan_runs
    from p3kit.api.training import RunOptions as RunOptions
    from p3kit.api.training import run_spec as run_spec
    from p3kit.errors import BarsError as BarsError
    from p3kit.errors import InputError as InputError
    from p3kit.errors import Interrupted as Interrupted
    from p3kit.errors import P3kitError as P3kitError
    from p3kit.errors import P3kitWarning as P3kitWarning
    from p3kit.policy.exporting import export_policy as export_policy
    from p3kit.policy.live_account import Account as Account
    from p3kit.policy.live_decision import Decision as Decision
    from p3kit.policy.loading import load_policy as load_policy
    from p3kit.policy.trained_agent import Policy as Policy

_MODULES = {
    "compare_runs": "api.judging",
    "diagnose_run": "api.judging",
    "evaluate_run": "api.judging",
    "PaperAccount": "api.paper_account",
    "PaperOptions": "api.paper_account",
    "paper_accounts": "api.paper_account",
    "trade_on_paper": "api.paper_account",
    "predict_run": "api.predicting",
    "SavedRun": "api.saved_run",
    "list_runs": "api.saved_run",
    "load_metrics": "api.saved_run",
    "open_run": "api.saved_run",
    "PlanOptions": "api.specs",
    "load_spec": "api.specs",
    "plan_runs": "api.specs",
    "RunOptions": "api.training",
    "run_spec": "api.training",
    "BarsError": "errors",
    "InputError": "errors",
    "Interrupted": "errors",
    "P3kitError": "errors",
    "P3kitWarning": "errors",
    "Account": "policy.live_account",
    "export_policy": "policy.exporting",
    "Decision": "policy.live_decision",
    "load_policy": "policy.loading",
    "Policy": "policy.trained_agent",
}
"""Module of each public name. A submodule of p3kit may not have one of these names: it would hide the function."""

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'p3kit' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"p3kit.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
