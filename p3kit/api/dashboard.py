"""The dashboard of `p3kit ui`: a page of results in front of Aim, kept up to date while runs train."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from p3kit.errors import P3kitError, RunNotFound

if TYPE_CHECKING:
    from p3kit.aim_mirror import AimServer, Mirror

_REST = 20.0
"""Pause between two pages in multiples of the time that a page takes: training has priority."""


class ResultsPage:
    """The first page of a dashboard. `links`: (title, address) of pages of Aim on `server`."""

    def __init__(
        self, mirror: Mirror, server: AimServer, links: Sequence[tuple[str, str]], only: Sequence[str] = ()
    ) -> None:
        self._mirror, self._file, self._only = mirror, server.page, only
        self._links = [(title, address.removeprefix(server.url)) for title, address in links]
        self._next = 0.0

    def update(self) -> str:
        """Write the page again, unless it was written a moment ago. Returns the reason where it cannot be written."""
        from p3kit.report.results_page import Links, write_results

        begin, problem = time.monotonic(), ""
        if begin < self._next:
            return problem
        runs = {run.name: f"/runs/{key}" for key, run in self._mirror.runs().items()}
        try:
            write_results(self._mirror.runs_root, self._file, Links(runs, self._links), self._only)
        except (P3kitError, OSError) as error:  # Aim works without it
            problem = f"no page of results: {error}"
        self._next = time.monotonic() + _REST * (time.monotonic() - begin)
        return problem


def require_runs(mirror: Mirror) -> None:
    """Raise RunNotFound where there is nothing to show."""
    if not mirror.runs():
        raise RunNotFound(
            str(mirror.runs_root), "there are no runs to show", "start one with: p3kit run specs/smoke.toml"
        )
