"""The new records of one run, in Aim's form.

| in the run directory | in Aim |
|---|---|
| run.json: name, spec, versions, data | experiment, params `run.spec.…`, `run.versions.…`, `run.data.…` |
| note.json: tags of the user | tags |
| status: state, grades | tags, end time, params `run.agents.NAME.…` and, in short, `run.result.…` |
| a metrics row | a point per metric: step = global_step, epoch = iteration, context {subset} |
| histograms | distributions `rewards`, `actions`, `gradients` |
| plots | images |
| events | texts `events`: step = sequence number, context {kind}; an intervention begins with before → after |
| interventions that changed an agent | tag `intervened`, params `run.interventions`, points `interventions` |

The points `interventions` count interventions at their steps. `context.agent` exists only if a run trains several
agents. Numbers that are not finite are sent unchanged: Aim keeps NaN and infinity as points, and its charts leave them
out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p3kit.aim_mirror import store as aim
from p3kit.aim_mirror.cursor import Cursor
from p3kit.diagnose.journal import DONE, changes_training, for_agent, in_short, whom
from p3kit.edge import label, shown_of
from p3kit.rundir import RunDir, concerns, file_name, read_note
from p3kit.rundir.directory import ACTIVE_STATES, STATES

GRADES = ("FAIL", "PASS", "STRONG", "STRETCH")
SYNTHETIC, INTERVENED = "synthetic", "intervened"
TAG_VOCABULARY = (*STATES, *GRADES, SYNTHETIC, INTERVENED)
"""The tags that come and go with a run's state; all others are the trainer's name or tags of the user."""

DISTRIBUTIONS = {"reward": "rewards", "actions": "actions", "gradients": "gradients"}
Array = NDArray[np.float64]


class Sender:
    """One run's news on their way into Aim; moves the cursor along."""

    def __init__(self, run: RunDir, info: Mapping[str, Any], writer: aim.RunWriter, cursor: Cursor) -> None:
        self.run, self.info, self.writer, self.cursor = run, info, writer, cursor
        self.agents = [agent["name"] for agent in info["agents"]]
        self.histograms = run.histograms()  # in order of their steps
        self.events = run.read_events()

    def send(self) -> dict[str, int]:
        """Send what lies behind the cursor; returns how many of each."""
        self._description()
        return {
            "points": self._metrics(),
            "distributions": self._distributions(),
            "images": self._images(),
            "texts": self._events(),
        }

    def _description(self) -> None:
        status = self.run.status()
        own_tags = read_note(self.run).tags
        run_tags, vocabulary = tags(self.info, status).union(own_tags), (*TAG_VOCABULARY, *self.cursor.tags)
        self.writer.describe(self.run.name, self.info["name"], run_tags, vocabulary)
        self.cursor.tags = list(own_tags)
        self.writer.set_params(params(self.info, status) | {"interventions": interventions(self.events)})
        active = status["state"] in ACTIVE_STATES
        self.writer.set_end(None if active else status.get("heartbeat") or time.time())

    def _metrics(self) -> int:
        rows, self.cursor.metrics = self.run.tail_metrics(self.cursor.metrics)
        points = 0
        for row in rows:
            step = int(row["global_step"])
            for name, value in row["metrics"].items():
                context = {"subset": subset(name), **self._agent(row["agent"])}
                self.writer.track(
                    float(value), name, step=step, context=context, time=row["time"], epoch=row["iteration"]
                )
                points += 1
        return points

    def _distributions(self) -> int:
        sent = 0
        for histogram in self.histograms:
            name = DISTRIBUTIONS.get(histogram.kind)
            if name is None or not self._is_new(histogram.path):
                continue
            edges, counts = _bins(histogram.data)
            context = {"subset": "train", **self._agent(histogram.agent)}
            value = aim.distribution(edges, counts)
            self.writer.track(value, name, step=histogram.global_step, context=context, time=_modified(histogram.path))
            sent += 1
        return sent

    def _images(self) -> int:
        sent = 0
        for path in sorted(self.run.plots.glob("*.png")):
            if not self._is_new(path):
                continue
            kind, agent = picture_name(path.stem, self.agents)
            # a picture is drawn from the newest histogram of its kind
            step = max((h.global_step for h in self.histograms if (h.kind, h.agent) == (kind, agent)), default=0)
            value = aim.image(path, path.stem)
            self.writer.track(value, kind, step=step, context=self._agent(agent), time=_modified(path))
            sent += 1
        return sent

    def _events(self) -> int:
        sent = 0
        changed: dict[str, int] = {}  # interventions so far, by agent
        for event in self.events:
            own = [agent for agent in self.agents if self._changes(event, agent)]
            changed |= {agent: changed.get(agent, 0) + 1 for agent in own}
            if event["seq"] <= self.cursor.event:
                continue
            for agent in own:
                context = {"subset": "train", **self._agent(agent)}
                value, step = float(changed[agent]), int(event["global_step"])
                self.writer.track(value, "interventions", step=step, context=context, time=event["time"])
            context = {"kind": event["kind"], **self._agent(event.get("agent"))}
            # several events may share a global_step, and a step holds one text: the sequence number is unique
            self.writer.track(
                aim.text(event_text(event)), "events", step=event["seq"], context=context, time=event["time"]
            )
            self.cursor.event = event["seq"]
            sent += 1
        return sent

    def _changes(self, event: Mapping[str, Any], agent: str) -> bool:
        is_one = event["kind"] == "intervention" and concerns(event, agent)
        return is_one and changes_training(for_agent(event, agent))

    def _agent(self, agent: str | None) -> dict[str, str]:
        return {"agent": agent} if agent and len(self.agents) > 1 else {}

    def _is_new(self, path: Path) -> bool:
        """Return True if the file changed since it was last sent, and record its state."""
        key = f"{path.parent.name}/{path.name}"
        modified = path.stat().st_mtime_ns
        if self.cursor.files.get(key) == modified:
            return False
        self.cursor.files[key] = modified
        return True


def subset(metric: str) -> str:
    """The data split that a metric was measured on."""
    return "validation" if metric.startswith("eval/") and metric != "eval/train_sharpe_ratio" else "train"


def tags(info: Mapping[str, Any], status: Mapping[str, Any]) -> set[str]:
    """Trainer, state, the grades its agents got, and whether the data are synthetic."""
    found = {str(info["trainer"]), str(status["state"])}
    if any(data.get("synthetic") for data in info["data"].values()):
        found.add(SYNTHETIC)
    if any(agent.get("interventions") for agent in status.get("agents", {}).values()):
        found.add(INTERVENED)
    verdicts = [agent.get("verdict") for agent in status.get("agents", {}).values()]
    return found | {str(verdict["grade"]) for verdict in verdicts if verdict}


def params(info: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, Any]:
    """Params by which Aim filters and groups runs. A run with one agent shows the spec as it applies to that agent."""
    states = status.get("agents", {})
    agents = {
        agent["name"]: {
            "symbol": agent["symbol"],
            "seed": agent["seed"],
            "point": agent["point"],
            "verdict": states.get(agent["name"], {}).get("verdict"),
        }
        for agent in info["agents"]
    }
    tree = {key: info.get(key) for key in ("trainer", "env_id", "versions", "git_commit", "data", "command", "created")}
    tree |= {"agents": agents, "spec": info["spec"], "result": result(states.values())}
    if "tune" in info:
        tree["tune"] = {key: info["tune"][key] for key in ("sweep", "trial")}  # its values stand in the spec
    if len(agents) == 1:
        tree |= {"spec": info["agents"][0]["spec"], **next(iter(agents.values()))}
    return tree


def result(states: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """A run's verdicts in a few columns: what the run table and the parallel coordinates show."""
    verdicts = [state["verdict"] for state in states if state.get("verdict")]
    if not verdicts:
        return {}
    grades = [str(verdict["grade"]) for verdict in verdicts]
    counted = [f"{grades.count(grade)} {grade}" for grade in reversed(GRADES) if grade in grades]
    fields: dict[str, Any] = {
        "agents": len(verdicts),
        "verdicts": grades[0] if len(grades) == 1 else ", ".join(counted),
        "edge_shown": shown_of([label(verdict.get("judged")) for verdict in verdicts]),
        "stopped_early": sum(bool(verdict.get("ended_early")) for verdict in verdicts),
        "intervened": sum("intervened" in (verdict.get("labels") or ()) for verdict in verdicts),
    }
    sharpes = [(verdict.get("metrics") or {}).get("eval/sharpe_ratio") for verdict in verdicts]
    if known := [float(sharpe) for sharpe in sharpes if sharpe is not None]:
        fields |= {"sharpe_mean": float(np.mean(known)), "sharpe_best": max(known)}
    return fields


MAX_INTERVENTIONS = 200
"""Interventions in the parameters of a run; all of them are among its texts."""


def interventions(events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Interventions of a run in order, as params: those that changed something or ended."""
    done = [event for event in events if event["kind"] == "intervention" and event.get("decision") in DONE]
    return [
        {
            "step": event["global_step"],
            "agent": whom(event),
            "id": event.get("id") or "",
            "decision": event["decision"],
            "on": event.get("row") or "",
            "changed": in_short(event),
            "reason": event.get("reason") or "",
        }
        for event in done[:MAX_INTERVENTIONS]
    ]


def picture_name(stem: str, agents: Iterable[str]) -> tuple[str, str | None]:
    """(kind, agent) of the picture `kind-AGENT.png`; the agent is None where the name has none."""
    for agent in sorted(agents, key=len, reverse=True):  # of AAPL and X-AAPL, the longer one is meant
        if stem.endswith(f"-{file_name(agent)}"):
            return stem.removesuffix(f"-{file_name(agent)}"), agent
    return stem, None


def event_text(event: Mapping[str, Any]) -> str:
    """`evaluation · AAPL · step 49,152`, then a line per field of the event. An intervention begins with its changes:
    `intervention ent-boost fired · AAPL · step 49,152`, `ppo.ent_coef 0.01 → 0.05`, and the reason."""
    heading, known, lines_before = [event["kind"]], ["seq", "kind", "agent", "global_step", "time"], []
    if event["kind"] == "intervention":
        heading = [f"intervention {event.get('id') or ''} {event.get('decision') or ''}"]
        lines_before = [line for line in (in_short(event), str(event.get("reason") or "")) if line]
        known += ["id", "decision", "keys", "checkpoint", "did", "reason", "agents"]
    if event.get("agent") or event.get("agents"):
        heading.append(whom(event))
    if event.get("global_step") is not None:
        heading.append(f"step {event['global_step']:,}")
    lines = [f"{key}: {_plain(value)}" for key, value in event.items() if key not in known]
    return "\n".join([" · ".join(heading), *lines_before, *lines])


def even_bins(edges: Any, counts: Any) -> tuple[Array, Array]:
    """The histogram over as many equally wide bins, each count shared out evenly over the width of its old bin.

    Aim keeps the two outer edges only and takes bins to be equal. Bins that are equal already come back unchanged.
    """
    edges, counts = np.asarray(edges, dtype=float), np.asarray(counts, dtype=float)
    even = np.linspace(edges[0], edges[-1], len(counts) + 1)
    if np.allclose(even, edges, rtol=0, atol=1e-9 * (edges[-1] - edges[0])):
        return edges, counts
    below = np.interp(even, edges, np.concatenate([[0.0], counts.cumsum()]))
    return even, np.diff(below)


def _bins(data: Mapping[str, Any]) -> tuple[Array, Array]:
    """Edges and counts of a histogram file. Named bars (actions) become bins [0, 1), [1, 2), … in their order."""
    edges = data["edges"] if "edges" in data else range(len(data["labels"]) + 1)
    return even_bins(edges, data["counts"])


def _modified(path: Path) -> float:
    return path.stat().st_mtime


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
