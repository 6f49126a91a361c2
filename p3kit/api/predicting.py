"""Decisions of the agents of a run on new bars."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p3kit.errors import InputError, P3kitError, P3kitWarning
from p3kit.rundir import find_run, folder_of_runs

if TYPE_CHECKING:
    import pandas as pd

    from p3kit.api.saved_run import SavedRun
    from p3kit.market import Bars
    from p3kit.policy import Account, Decision, Policy

    Accounts = Account | Mapping[str, Account] | str | os.PathLike[str] | None


@dataclass(frozen=True)
class AgentDecision:
    """The decision of one agent."""

    agent: str
    """`run-42/AAPL`."""
    symbol: str
    checkpoint: str
    account: Account
    decision: Decision
    synthetic: bool
    action_rule: str
    """The rule that picks the action from the probabilities: greedy, sharpened or sampled."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        own = {"agent": self.agent, "symbol": self.symbol, "checkpoint": self.checkpoint, "synthetic": self.synthetic}
        own["action_rule"] = self.action_rule
        return {**own, "account": self.account.to_dict(), **self.decision.to_dict()}


def predict_run(
    run: str | os.PathLike[str] | SavedRun,
    bars: str | os.PathLike[str] | pd.DataFrame,
    account: Accounts = None,
    checkpoint: str = "best",
    runs_root: str | Path | None = None,
) -> list[AgentDecision]:
    """Decide at the close of the last bar, for one agent or for each agent of a run whose symbol is in the bars.

    Args:
        run: A run, one agent of it (`run-42/AAPL`), a checkpoint file, or the folder of an exported policy.
        bars: A file of past bars, a folder with a file per symbol, a path with `{symbol}`, or a DataFrame.
        account: The account, accounts by agent or symbol, or a JSON file with either. Default: flat, with the initial
            capital of the spec.
        checkpoint: `best` (the weights that validation chose), `last`, or the name of a file in `checkpoints/`.
        runs_root: Folder of the run directories. Default: the environment variable `P3KIT_RUNS`, else `runs`.

    Returns:
        The decision of each agent: `agent`, `account` and `decision`.

    Raises:
        RunNotFound: No run or agent has that name.
        BarsError: Too few bars.
        DataError: Bars that cannot be trusted, or none of the symbol.
        InputError: A file or an account is wrong.

    Example:
        >>> for one in p3kit.predict_run("run-42", "data/{symbol}.csv"):
        ...     print(one.agent, one.decision.action, one.decision.order)
    """
    decided, errors = decide_each(run, bars, account, checkpoint, runs_root)
    if errors:
        raise next(iter(errors.values()))
    return decided


def decide_each(
    run: str | os.PathLike[str] | SavedRun,
    bars: str | os.PathLike[str] | pd.DataFrame,
    account: Accounts = None,
    checkpoint: str = "best",
    runs_root: str | Path | None = None,
) -> tuple[list[AgentDecision], dict[str, P3kitError]]:
    """Decide as `predict_run`, and return the errors of the other agents by name.

    An agent without bars is an error where `bars` is a folder or a template, and a warning where it is one file.
    """
    agents = _agents(os.fspath(run), runs_root)
    if isinstance(account, str | os.PathLike):
        from p3kit.policy.live_account import read_accounts

        account = read_accounts(Path(account))
    chosen, errors = _with_bars(agents, bars)
    decided = []
    for reference in chosen:
        try:
            decided.append(_decide(reference, bars, account, checkpoint, len(chosen)))
        except P3kitError as error:
            errors[reference] = error
    return decided, errors


def _agents(reference: str, runs_root: str | Path | None) -> dict[str, str]:
    """Reference of each agent for `load_policy` → its symbol; "" for a file or folder with a card that has it."""
    path = Path(reference)
    is_checkpoint = any(file.suffix == ".pt" and file.is_file() for file in (path, *path.parents))
    if is_checkpoint or (path / "card.json").is_file():
        return {reference: ""}
    run, agent = find_run(folder_of_runs(runs_root), reference)
    plans = {plan["name"]: plan["symbol"] for plan in run.info()["agents"]}
    names = [agent] if agent is not None else list(plans)
    return {f"{run.path}/{name}": plans[name] for name in names}


def _with_bars(agents: dict[str, str], bars: Any) -> tuple[dict[str, str], dict[str, P3kitError]]:
    """The agents whose symbol is in the bars, and an error for each other one. A single agent takes any bars."""
    if len(agents) == 1:
        return agents, {}
    from p3kit.market.shapes import same_symbol

    there = _symbols_of(bars)
    symbols = ", ".join(dict.fromkeys(agents.values()))
    chosen = {one: symbol for one, symbol in agents.items() if any(same_symbol(symbol, own) for own in there)}
    if not chosen and len(there) < 2:
        first = next(iter(agents)).split("/")
        hint = f"name one, for example {'/'.join(first[-2:])}, or give a folder or a path with {{symbol}}"
        raise InputError(_name_of(bars), f"names no symbol, and the run has {len(agents)} agents ({symbols})", hint)
    if not chosen:
        what = f"has no bars of {symbols}; it has bars of {', '.join(there[:6])}"
        raise InputError(_name_of(bars), what, "give the bars of a symbol of the run")
    without = {one: symbol for one, symbol in agents.items() if one not in chosen}
    name = _name_of(bars)
    if without and isinstance(bars, str | os.PathLike) and Path(bars).expanduser().is_file():
        warnings.warn(f"{name}: has no bars of {', '.join(without.values())}", P3kitWarning, stacklevel=3)
        return chosen, {}
    hint = "add its bars, or name the agents that have them"
    return chosen, {one: InputError(name, f"has no bars of {symbol}", hint) for one, symbol in without.items()}


def _name_of(bars: Any) -> str:
    return f"--bars {os.fspath(bars)}" if isinstance(bars, str | os.PathLike) else "bars"


def _symbols_of(bars: Any) -> tuple[str, ...]:
    """Symbols that a file, a folder or a template has. The name of a file without symbols is its symbol."""
    if not isinstance(bars, str | os.PathLike):
        return ()
    from p3kit.market.folder import find_bars, named_symbols, stem_of

    place = os.fspath(bars)
    if "{symbol}" in place:
        return _symbols_of_template(place)
    path = Path(place).expanduser()
    if path.is_dir():
        return find_bars(path).symbols
    if not path.is_file():
        raise InputError(_name_of(bars), "no such file or folder", "give a file of past bars")
    return named_symbols(path) or (stem_of(path),)


def _symbols_of_template(template: str) -> tuple[str, ...]:
    """Symbols whose file is there."""
    from p3kit.spec.paths import file_of

    pattern = file_of(template, "*")
    before, _, after = pattern.name.partition("*")
    files = sorted(pattern.parent.glob(pattern.name)) if pattern.parent.is_dir() else []
    return tuple(file.name.removeprefix(before).removesuffix(after) for file in files)


def _account_of(account: Any, policy: Policy, agents: int) -> Account | None:
    """The account of one agent."""
    agent, symbol = policy.name.rpartition("/")[2], policy.symbol
    if isinstance(account, Mapping):
        found: Account | None = account.get(agent, account.get(symbol))
        if found is None:
            raise InputError(agent, f"has no account; there are accounts of {', '.join(account)}", "add its account")
        return found
    if account is not None and agents > 1:
        what = f"is one account, and {agents} agents decide"
        raise InputError("--account", what, f'write accounts by agent: {{"{agent}": {{"cash": 10000}}, …}}')
    own: Account | None = account
    return own


def _decide(reference: str, bars: Any, accounts: Any, checkpoint: str, agents: int) -> AgentDecision:
    from p3kit.policy import Account, load_policy

    policy = load_policy(reference, checkpoint)
    account = _account_of(accounts, policy, agents)
    past = read_past_bars(bars, policy) if isinstance(bars, str | os.PathLike) else bars
    own = Account(cash=float(policy.spec.env.initial_capital)) if account is None else account
    synthetic = policy.spec.data.source == "synthetic"
    decision = policy.predict(past, account)
    return AgentDecision(policy.name, policy.symbol, policy.checkpoint, own, decision, synthetic, policy.action_rule)


def read_past_bars(bars: str | os.PathLike[str], policy: Policy) -> Bars:
    """The bars of the policy's symbol from a file, a folder or a template, read by the rules of the spec."""
    from p3kit.market.files import path_of, read_bars
    from p3kit.market.folder import find_bars, kind_of
    from p3kit.market.load import reading_of
    from p3kit.spec.paths import template_of

    place = os.fspath(bars)
    if "{symbol}" not in place:
        path = Path(place).expanduser()
        if not path.exists():
            raise InputError(_name_of(bars), "no such file or folder", "give a file of past bars")
        place = find_bars(path).template if path.is_dir() else template_of(path)
    reading = replace(reading_of(policy.spec), several=False)
    return read_bars(kind_of(path_of(place, policy.symbol)), place, policy.symbol, reading)
