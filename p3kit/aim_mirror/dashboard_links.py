"""The links that `p3kit ui` prints: bookmarks, distributions of runs, and comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from p3kit.aim_mirror.bookmarks import best_run, dashboard, write_bookmarks
from p3kit.aim_mirror.links import deep_links, distributions_link
from p3kit.aim_mirror.mirror import Mirror
from p3kit.aim_mirror.server import AimServer
from p3kit.errors import P3kitError

MOST_DISTRIBUTIONS = 5
"""The newest runs whose distributions get a link."""


def links_of(server: AimServer, mirror: Mirror, chosen: Sequence[str]) -> tuple[list[tuple[str, str]], str]:
    """Write the bookmarks of `server`, and return (title, address without the token) of each link.

    `chosen`: hashes of the runs to compare, or none for all. The second value is the reason why there are no
    bookmarks, or empty.
    """
    url = server.url
    infos = {key: run.info() for key, run in mirror.runs().items()}
    best = best_run(_verdicts(mirror))
    links, problem = [], ""
    try:
        for bookmark in write_bookmarks(url, dashboard(infos, best), mirror.bookmarks, server.token):
            links.append((f"bookmark: {bookmark.name}", bookmark.url))
    except P3kitError as error:  # the rest of Aim works without them
        problem = str(error)
    links += _distributions(url, infos, best, chosen)
    links += deep_links(url, {info["name"] for info in infos.values()}, chosen)
    return links, problem


def _verdicts(mirror: Mirror) -> list[tuple[str, Any]]:
    """(hash of the run, verdict) of every agent that has one."""
    return [
        (key, state["verdict"])
        for key, run in mirror.runs().items()
        for state in (run.status().get("agents") or {}).values()
        if state.get("verdict")
    ]


def _distributions(
    url: str, infos: Mapping[str, Mapping[str, Any]], best: str | None, chosen: Sequence[str]
) -> list[tuple[str, str]]:
    newest = sorted(infos, key=lambda key: -float(infos[key]["created"]))[:MOST_DISTRIBUTIONS]
    keys = chosen or dict.fromkeys(key for key in (best, *newest) if key is not None)
    words = {key: ", the best model" if key == best else "" for key in keys}
    return [(f"distributions of {infos[key]['run']}{words[key]}", distributions_link(url, key)) for key in keys]
