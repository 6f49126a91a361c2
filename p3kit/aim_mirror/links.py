"""Addresses that open Aim's explorers on a comparison.

Aim keeps the state of an explorer in its address: `select=O-` and the URL-safe base64 (no padding) of encodeURI(JSON),
see `utils/encoder/encoder.ts` of aim-ui 3.29.1. Only `select` is sent: Aim fills in the rest of its state when it is
absent, but not when a part of it is.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

_ENCODE_URI_KEEPS = ";,/?:@&=+$-_.!~*'()#"  # what JavaScript's encodeURI leaves alone, besides letters and digits

COMPARISONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Sharpe ratio and drawdown", ("eval/sharpe_ratio", "eval/sharpe_excess", "eval/max_drawdown")),
    ("exploration", ("policy/entropy_norm", "policy/hold_share", "policy/kl_divergence", "policy/clip_fraction")),
    ("value function", ("value/explained_variance", "value/value_loss", "grad/grad_norm")),
    ("reward", ("episode/episode_reward_mean", "reward/mean", "reward/clipped_share")),
)
"""Title and metrics of each comparison, one chart per metric."""


def encode_state(state: Any) -> str:
    """A piece of explorer state as Aim's addresses hold it."""
    plain = quote(json.dumps(state, separators=(",", ":"), ensure_ascii=False), safe=_ENCODE_URI_KEEPS)
    return "O-" + base64.urlsafe_b64encode(plain.encode("ascii")).decode("ascii").rstrip("=")


def metric_option(name: str) -> dict[str, Any]:
    """A metric (or a sequence of images) as the explorers' search takes it, in all its contexts."""
    value = {"option_name": name, "context": None}
    return {"label": name, "group": "metrics", "color": "#83899E", "type": "metrics", "value": value}


def metrics_link(url: str, metrics: Sequence[str], query: str) -> str:
    """The metrics explorer on `metrics` of the runs for which `query` holds (Aim's query language)."""
    options = [metric_option(name) for name in metrics]
    state = {"options": options, "query": query, "advancedMode": False, "advancedQuery": ""}
    return f"{url}/metrics?select={encode_state(state)}"


def distributions_link(url: str, run_hash: str) -> str:
    """A run's distributions of rewards, actions and gradients: the one page of Aim that shows any."""
    return f"{url}/runs/{run_hash}/distributions"


def runs_link(url: str, query: str) -> str:
    """The table of the runs for which `query` holds."""
    return f"{url}/runs?select={encode_state({'query': query})}"


def deep_links(url: str, experiments: Iterable[str], hashes: Iterable[str] = ()) -> list[tuple[str, str]]:
    """(title, address) of the comparisons worth opening first: the run table, then `COMPARISONS`.

    They show the runs of `experiments` (names of specs), or only those with `hashes`, where some are given.
    """
    names, chosen = sorted(set(experiments)), sorted(set(hashes))
    query = f"run.experiment in {json.dumps(names)}" if names else ""
    query = f"run.hash in {json.dumps(chosen)}" if chosen else query
    links = [("runs", runs_link(url, query))]
    return links + [(title, metrics_link(url, metrics, query)) for title, metrics in COMPARISONS]
