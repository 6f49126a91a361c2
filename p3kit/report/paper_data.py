"""The paper accounts of an experiment, as they stood at the end of a day."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import numpy as np

from p3kit.errors import P3kitError
from p3kit.paper.account_journal import Journal
from p3kit.paper.book import Book
from p3kit.paper.standing import sentences, status_of
from p3kit.rundir import RunDir


@dataclass(frozen=True)
class PaperLine:
    """One account in a report."""

    run: str
    agent: str
    folder: str
    """Seen from the folder of the runs."""
    status: dict[str, Any] = field(default_factory=dict)
    """See `p3kit.paper.standing`; empty where the journal cannot be read."""
    fault: str = ""

    @property
    def sentences(self) -> list[str]:
        """The result beside buy-and-hold and beside validation."""
        return sentences(self.status) if self.status else []

    def to_json(self) -> dict[str, Any]:
        return {"run": self.run, "agent": self.agent, "folder": self.folder, "fault": self.fault, **self.status}


def paper_lines(runs: Iterable[RunDir], last_day: date) -> list[PaperLine]:
    """The accounts that agents of these runs opened, each once, with bars up to `last_day`."""
    found: dict[str, PaperLine] = {}
    for run in runs:
        for event in run.read_events("paper"):
            folder = str(event.get("folder", ""))
            line = _line(run, str(event["agent"]), folder, last_day)
            if line is not None:
                found[folder] = line
    return list(found.values())


def _line(run: RunDir, agent: str, folder: str, last_day: date) -> PaperLine | None:
    """One account; None where it was opened later, or is gone."""
    journal = Journal(run.path.parent / folder)
    if not journal.path.is_file():
        return None
    end = np.datetime64(last_day + timedelta(days=1))
    try:
        rows = journal.read()
    except P3kitError as error:
        return PaperLine(run.name, agent, folder, fault=str(error))
    bars = [at for at, row in enumerate(rows) if row["kind"] == "bar" and np.datetime64(row["time"]) < end]
    if not bars:
        return None
    return PaperLine(run.name, agent, folder, status_of(Book.replay(rows[: bars[-1] + 1]), agent))
