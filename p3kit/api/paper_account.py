"""Paper accounts: agents that trade on new bars in plain files, without a broker."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from p3kit.api.predicting import read_past_bars
from p3kit.api.saved_run import RunLike, SavedRun, check_agent, open_run
from p3kit.errors import InputError, P3kitError
from p3kit.paper.account_journal import Journal, accounts_in, held, parse_time
from p3kit.paper.standing import sentences, validation_of
from p3kit.paper.taking_in import Decider, Result, account_folder, read_account, take_in
from p3kit.rundir import find_checkpoint

if TYPE_CHECKING:
    from p3kit.market import Bars
    from p3kit.paper.book import Book
    from p3kit.policy import Policy


@dataclass(frozen=True)
class PaperAccount:
    """The paper account of one agent."""

    path: Path
    """Folder with `journal.jsonl` and `status.json`."""
    book: Book
    status: dict[str, Any]
    """Equity, buy-and-hold, position, newest decision, and the result beside validation, as `status.json` has them."""
    new_bars: int = 0
    """Bars that this call took in."""
    notes: tuple[str, ...] = ()
    """Corrected and rescaled bars, and a torn line that was cut."""

    @property
    def sentences(self) -> list[str]:
        """The result beside buy-and-hold and beside validation."""
        return sentences(self.status)

    @property
    def warnings(self) -> list[str]:
        """A sentence per new decision on inputs that are unlike the training bars."""
        from p3kit.market.novelty import Novelty

        new = self.book.points[len(self.book.points) - self.new_bars :]
        tables = [(point.time, point.decision.get("novelty")) for point in new]
        found = [(time, Novelty.from_dict(table)) for time, table in tables if table]
        return [f"{self.status['agent']} {str(time)[:16]}: {one.warning}" for time, one in found if one.is_novel]

    def save_picture(self, output: str | Path | None = None) -> Path:
        """Draw equity, trades and exposure. `output`: default `account.png` in the folder of the account."""
        from p3kit.report.paper_picture import draw_account

        path = self.path / "account.png" if output is None else Path(output)
        draw_account(self.book, f"{self.status['agent']}: paper account since {self.status['opened'][:10]}", path)
        return path


@dataclass(frozen=True)
class PaperOptions:
    """Settings of `trade_on_paper` that are rarely needed."""

    checkpoint: str = "best"
    """`best` (the weights that validation chose), `last`, or the name of a file in `checkpoints/`."""
    start: str | None = None
    """Day of the first decision, for an account that does not exist yet. None: the newest bar."""
    accept_gap: bool = False
    """Take bars after a longer pause than any before."""


def trade_on_paper(
    run: RunLike,
    account: str | Path,
    bars: str | Path,
    options: PaperOptions = PaperOptions(),
    runs_root: str | Path | None = None,
) -> list[PaperAccount]:
    """Take the new bars of a file into a paper account, decide on each, and fill at the spec's costs.

    The account is a folder of plain files, one sub-folder per agent. A call on bars that it has changes nothing. A
    call that was killed is finished by the next one. Nothing is sent to a broker.

    Args:
        run: A run, or one agent of it (`run-42/AAPL`).
        account: Folder of the account. It is made by the first call.
        bars: A file of bars, a folder with a file per symbol, or a path with `{symbol}`.
        options: Checkpoint, first day of a new account, and gaps.
        runs_root: Folder of the run directories. Default: the environment variable `P3KIT_RUNS`, else `runs`.

    Returns:
        An account per agent: `status`, `sentences`, `notes`, `warnings`, `save_picture()`.

    Raises:
        RunNotFound: No run or agent has that name.
        DataError: Bars with a gap, of another symbol, or that cannot be trusted.
        BarsError: Too few bars, or an older file.

    Example:
        >>> (account,) = p3kit.trade_on_paper("run-42/AAPL", "paper/AAPL", "data/AAPL.csv")
        >>> account.status["equity"], account.status["decision"]["action"]
    """
    from p3kit.policy import load_policy

    saved, folder = open_run(run, runs_root), Path(account)
    check_agent(saved)
    policies = {name: load_policy(f"{saved.path}/{name}", options.checkpoint) for name in saved.agents}
    for policy in policies.values():
        _refuse_other_symbol(bars, policy)
    files = {name: read_past_bars(bars, policy) for name, policy in policies.items()}
    start = None if options.start is None else _day(options.start)
    accounts = []
    with held(folder):
        for name, policy in policies.items():
            journal = Journal(account_folder(folder, name))
            journal.folder.mkdir(exist_ok=True)
            decider = _decider(saved, name, options.checkpoint, policy)
            result = take_in(journal, decider, files[name], start, accept_gap=options.accept_gap)
            accounts.append(_account(journal, result, [*result.notes, *_register(saved, name, journal)]))
    return accounts


def paper_accounts(account: str | Path) -> list[PaperAccount]:
    """Read the paper accounts in a folder. Nothing is written.

    Args:
        account: Folder of the account, as `trade_on_paper` takes it.

    Returns:
        An account per agent, as `trade_on_paper` returns them.

    Raises:
        InputError: There is no account.
        P3kitError: A journal is damaged; the message names the line.

    Example:
        >>> [account.sentences[0] for account in p3kit.paper_accounts("paper")]
        ['AAPL: +1.20% since 2024-01-02 (45 bars), buy-and-hold +0.80%']
    """
    found = [(journal, read_account(journal)) for journal in accounts_in(Path(account))]
    accounts = [PaperAccount(journal.folder, *state) for journal, state in found if state is not None]
    if not accounts:
        hint = f"open one: p3kit paper RUN --account {account} --bars FILE"
        raise InputError(str(account), "holds no paper account", hint)
    return accounts


def _account(journal: Journal, result: Result, notes: list[str]) -> PaperAccount:
    return PaperAccount(journal.folder, result.book, result.status, result.new_bars, tuple(notes))


def _decider(saved: SavedRun, agent: str, checkpoint: str, policy: Policy) -> Decider:
    from p3kit.env.rules import Rules

    run, rules = saved.directory, Rules.from_spec(policy.spec, continuous=True)
    path = run.checkpoint(find_checkpoint(run, agent, checkpoint))
    evaluations = run.read_events("evaluation", agent=agent)
    chosen = next((event for event in reversed(evaluations) if event["global_step"] == policy.global_step), None)
    data = (run.info().get("data") or {}).get(policy.symbol) or {}
    weights = {
        "run": saved.name,
        "agent": agent,
        "checkpoint": policy.checkpoint,
        "global_step": policy.global_step,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "validation": validation_of(chosen),
        "chosen_until": ((data.get("split_days") or {}).get("validation") or [None, None])[1],
    }
    return Decider(
        agent, policy.symbol, rules, policy.bars_needed, weights, _Deciding(policy, rules.initial_capital),
        synthetic=bool(data.get("synthetic")),
    )  # fmt: skip


@dataclass(frozen=True)
class _Deciding:
    """A policy as a paper account calls it."""

    policy: Policy
    capital: float

    def __call__(self, bars: Bars, account: Any, last_action: str) -> Mapping[str, Any]:
        from p3kit.metrics import ACTIONS
        from p3kit.policy.live_account import from_tensors

        state = from_tensors(account, ACTIONS.index(last_action), self.capital)
        return self.policy.predict(bars, state).to_dict()


def _refuse_other_symbol(bars: str | Path, policy: Policy) -> None:
    """Raise InputError for a file that has the name of another symbol, and no symbols in it."""
    from p3kit.market.folder import named_symbols, stem_of
    from p3kit.market.sample import SYMBOLS
    from p3kit.market.shapes import same_symbol

    path = Path(bars).expanduser()
    if "{symbol}" in str(bars) or not path.is_file() or named_symbols(path):
        return
    own, name = policy.symbol, stem_of(path)
    if not same_symbol(own, name) and any(same_symbol(other, name) for other in (*policy.spec.symbols, *SYMBOLS)):
        what = f"has the name of another symbol; the agent trades {own}"
        raise InputError(f"--bars {bars}", what, f"give the bars of {own}; rename the file if it has them")


def _day(text: str) -> np.datetime64:
    try:
        return parse_time(text)
    except ValueError as error:
        raise InputError(f"--from {text}", "is no day", "write it as 2024-12-31") from error


def _register(saved: SavedRun, agent: str, journal: Journal) -> Iterator[str]:
    """Journal in the run where its account is, so that the weekly report finds it."""
    run = saved.directory
    folder = os.path.relpath(journal.folder.resolve(), run.path.parent.resolve())
    try:
        if not any(event.get("folder") == folder for event in run.read_events("paper", agent=agent)):
            run.append_event("paper", agent=agent, folder=folder)
    except (OSError, P3kitError) as error:
        yield f"the weekly report will not show this account: {error}"
