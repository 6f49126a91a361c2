"""Bookmarks in Aim, ready when it opens: the training guide's monitoring dashboard (appendix B).

| the guide's tab | in Aim |
|---|---|
| scalars: losses, metrics | a bookmark per group of metrics, one chart per metric |
| images: value heat maps | a bookmark of reward histograms, value heat maps and equity curves |
| run comparison table | a bookmark of verdicts and results (and a link to the run table: it takes no bookmark) |
| hyperparameters | a bookmark of parallel coordinates, from the knobs that differ to the Sharpe ratio |
| best model | a bookmark of the run with the best validation Sharpe ratio |
| distributions | links: a run's own page is the only place where Aim shows them |

A file beside the mirror records each written bookmark. A bookmark that a user changed, renamed or deleted is not
touched.
"""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from p3kit.aim_mirror.links import metric_option
from p3kit.aim_mirror.server import bearer
from p3kit.errors import P3kitError
from p3kit.rundir.rows import write_json
from p3kit.spec.keypath import leaves, written_path
from p3kit.spec.writing import toml_value

SCALARS: Mapping[str, tuple[str, ...]] = {
    "policy": (
        "policy/policy_loss", "policy/entropy_norm", "policy/kl_divergence", "policy/clip_fraction",
        "policy/hold_share",
    ),
    "value": ("value/value_loss", "value/explained_variance", "diag/ev_reference", "value/value_mean"),
    "gradients": ("grad/grad_norm", "grad/grad_clipped_pct", "diag/update_ratio"),
    "reward": (
        "episode/episode_reward_mean", "reward/mean", "reward/episode_share.pnl", "reward/episode_share.cost",
        "reward/clipped_share",
    ),
    "episodes": ("episode/episode_success_rate", "episode/episode_length_mean", "episode/trades"),
    "validation": (
        "eval/sharpe_ratio", "eval/sharpe_excess", "eval/max_drawdown", "eval/total_trades", "eval/win_rate",
        "eval/profit_factor",
    ),
    "speed": ("perf/steps_per_second", "perf/memory_mb"),
}  # fmt: skip
"""The guide's metrics (6.1, 6.2) by group: a bookmark each."""

IMAGES = ("reward", "value_map", "equity")
TUNED = (
    "ppo.learning_rate", "ppo.ent_coef", "ppo.gae_lambda", "ppo.clip_range", "ppo.n_epochs", "ppo.batch_size",
)  # fmt: skip
"""The guide's tuning grid (appendix A): shown where no knob differs between the runs."""

RESULTS = ("verdicts", "sharpe_mean", "sharpe_best", "edge_shown", "agents", "stopped_early")
"""Keys of `sender.result` for a run, in the order of the run table."""
_MOST_AXES = 8
_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Bookmark:
    """A named state of one of Aim's explorers: `metrics`, `images` or `params`."""

    name: str
    description: str
    explorer: str
    state: Mapping[str, Any]


@dataclass(frozen=True)
class BookmarkLink:
    """A bookmark as it is in Aim now, and its address."""

    name: str
    url: str


def dashboard(runs: Mapping[str, Mapping[str, Any]], best: str | None) -> list[Bookmark]:
    """The bookmarks for these runs (Aim hash → run.json); `best` is the hash of the best one, if any was graded."""
    found = [
        Bookmark(
            f"Scalars: {group}",
            f"{', '.join(metrics)}: one chart each, a colour per run",
            "metrics",
            {"select": _select([metric_option(name) for name in metrics]), "grouping": _COLOUR_PER_RUN},
        )
        for group, metrics in SCALARS.items()
    ]
    found.append(
        Bookmark(
            "Images: reward histogram, value heat map, equity curve",
            "The pictures of every run, a row per kind",
            "images",
            {
                "select": _select([metric_option(name) for name in IMAGES]),
                "grouping": {"row": ["name"]},
                "images": {"additionalProperties": {"mediaItemSize": 40}},
                "table": {"resizeMode": "hide"},
            },
        )
    )
    axes = [f"spec.{path}" for path in differing_knobs(list(runs.values()))]
    found.append(
        Bookmark(
            "Hyperparameters: parallel coordinates",
            "From the knobs that differ between the runs to the mean validation Sharpe ratio",
            "params",
            {"select": _select([param_option(path) for path in (*axes, "result.sharpe_mean")])},
        )
    )
    results = [f"result.{name}" for name in RESULTS]
    found.append(
        Bookmark(
            "Run table: verdicts",
            "Every run with its verdicts, Sharpe ratios and how many agents show an edge over buy-and-hold",
            "params",
            {
                "select": _select([param_option(path) for path in results]),
                "table": {"resizeMode": "maxHeight", "columnsOrder": {"left": ["run"], "middle": results, "right": []}},
            },
        )
    )
    if best is not None:
        found.append(
            Bookmark(
                "Best model",
                "The run of the agent with the highest validation Sharpe ratio",
                "metrics",
                {
                    "select": _select([metric_option(name) for name in SCALARS["validation"]], f'run.hash == "{best}"'),
                    "grouping": _COLOUR_PER_RUN,
                },
            )
        )
    return found


def differing_knobs(infos: Sequence[Mapping[str, Any]]) -> list[str]:
    """The spec paths that the runs do not agree on, the guide's tuning grid first; that grid where nothing differs."""
    seen: dict[str, set[str]] = {}
    for info in infos:
        tables = info["agents"][0]["spec"] if len(info["agents"]) == 1 else info["spec"]
        for path, value in leaves({key: tables.get(key) or {} for key in ("ppo", "reward", "env")}):
            if isinstance(value, int | float):
                seen.setdefault(written_path(path), set()).add(toml_value(value))
    differing = [path for path, values in seen.items() if len(values) > 1]
    ordered = sorted(differing, key=lambda path: (path not in TUNED, path))
    return ordered[:_MOST_AXES] or list(TUNED)


def best_run(verdicts: Iterable[tuple[str, Mapping[str, Any]]]) -> str | None:
    """The Aim hash whose verdict has the highest Sharpe ratio, of (hash, verdict) pairs; None where none traded."""
    scored = [(_sharpe(verdict), key) for key, verdict in verdicts]
    known = [(sharpe, key) for sharpe, key in scored if sharpe is not None]
    return max(known)[1] if known else None


def _sharpe(verdict: Mapping[str, Any]) -> float | None:
    value = (verdict.get("metrics") or {}).get("eval/sharpe_ratio")
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def write_bookmarks(url: str, bookmarks: Sequence[Bookmark], memory: Path, token: str = "") -> list[BookmarkLink]:
    """Create or renew `bookmarks` in the Aim that answers at `url`, and return those that are there.

    `memory` is the file that remembers what was written. Raises P3kitError when Aim does not answer as it should.
    """
    remembered, ask = _read(memory), partial(_ask, url, token)
    boards = {board["id"]: board for board in ask("dashboards/")}
    apps = {app["id"]: app for app in ask("apps/")}
    links = []
    for bookmark in bookmarks:
        known = remembered.get(bookmark.name)
        if known is None:
            app = ask("apps/", {"type": bookmark.explorer, "state": bookmark.state})
            board = {"name": bookmark.name, "description": bookmark.description, "app_id": app["id"]}
            known = {"dashboard": ask("dashboards/", board)["id"], "app": app["id"]}
        elif known["dashboard"] not in boards or known["app"] not in apps:
            continue  # the user deleted it
        elif apps[known["app"]]["state"] == known["state"] != bookmark.state:
            ask(f"apps/{known['app']}/", {"type": bookmark.explorer, "state": bookmark.state}, "PUT")
        elif apps[known["app"]]["state"] != known["state"]:
            links.append(_link(url, bookmark, known["app"]))
            continue  # the user changed it
        remembered[bookmark.name] = {**known, "state": bookmark.state}
        write_json(memory, remembered)
        links.append(_link(url, bookmark, known["app"]))
    return links


def _read(memory: Path) -> dict[str, Any]:
    """Read the bookmarks written so far. A damaged file gives none, and the bookmarks are then made a second time."""
    try:
        found = json.loads(memory.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _link(url: str, bookmark: Bookmark, app: str) -> BookmarkLink:
    return BookmarkLink(bookmark.name, f"{url}/{bookmark.explorer}/{app}")


# --- states ---

_COLOUR_PER_RUN = {"color": ["run.props.name", "context.agent"], "chart": ["name"]}


def _select(options: Sequence[Mapping[str, Any]], query: str = "") -> dict[str, Any]:
    return {"options": list(options), "query": query, "advancedMode": False, "advancedQuery": ""}


def param_option(path: str) -> dict[str, Any]:
    """A parameter as an axis of the params explorer."""
    return {"label": path, "key": path, "group": "Params", "type": "params", "color": "#83899E"}


def _ask(url: str, token: str, path: str, body: Any = None, method: str | None = None) -> Any:
    """The answer of Aim's HTTP API. Its addresses end in a slash: without, it answers with another page."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(  # noqa: S310  (our own server on loopback)
        f"{url}/api/{path}", data=data, method=method, headers={"Content-Type": "application/json", **bearer(token)}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as response:
            return json.load(response)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise P3kitError("aim up", f"did not take the bookmarks ({error})", "everything else in it works") from error
