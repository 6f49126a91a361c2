"""`RunDir`: one run on disk. Trainers write through it, everything else reads through it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from p3kit.errors import P3kitError, RunNotFound
from p3kit.rundir import processes, rows, validation
from p3kit.rundir.file_names import file_name, take_number
from p3kit.rundir.locks import take_lock
from p3kit.rundir.provenance import provenance
from p3kit.rundir.records import DiskUsage, Histogram, Series

SCHEMA_VERSION = 2
"""Of run.json and the files beside it. A reader refuses directories of a newer version, and reads older ones.

1: until the feature recipe. 2: run.json and checkpoints hold the recipe of each symbol and the days of its splits."""

STATES = ("queued", "running", "done", "failed", "crashed", "stopped")
"""queued: not started. done: complete, or ended early by its own rules. failed: the trainer gave the reason. crashed:
the trainer could not give one. stopped: ended by request, with a checkpoint. The last three can be resumed."""

ACTIVE_STATES = ("queued", "running")

_AT_ONCE = "at once"
"""Content of the file `stop` if the launcher should not wait for a checkpoint."""

RUN_NAME = re.compile(r"run-(\d+)")
_HISTOGRAM_NAME = re.compile(r"(?P<kind>[a-z_]+)-(?P<agent>.+)-(?P<step>\d{9,})\.json")


@dataclass(frozen=True)
class RunDir:
    """One run directory. Cheap to make: files are read on access, and nothing is cached."""

    path: Path

    # ------------------------------------------------------------------ making and finding

    @classmethod
    def create(cls, runs_root: Path | str, run_json: Mapping[str, Any], spec_text: str, trainer_file: Path) -> RunDir:
        """Make `run-N` in `runs_root` with the next free number and fill it. Its state is `queued`.

        The number is taken by mkdir, so two processes never get the same. If anything fails (full disk, unreadable
        trainer) the directory is removed again. `run.json` comes last: a directory without it is no run.
        """
        root = Path(runs_root)
        trainer_source = Path(trainer_file).read_bytes()
        run = cls(take_number(root, "run"))
        try:
            for folder in ("checkpoints", "histograms", "plots", "replays"):
                (run.path / folder).mkdir()
            rows.write_bytes(run.path / "spec.toml", spec_text.encode("utf-8", "surrogateescape"))
            rows.write_bytes(run.trainer_file, trainer_source)
            run.write_status({"state": "queued", **processes.this_process(), "heartbeat": time.time(), "agents": {}})
            own = {
                "schema_version": SCHEMA_VERSION,
                "run": run.name,
                "paths_from": os.path.relpath(Path.cwd(), root.resolve()),
            }
            document = {"created": time.time(), **provenance(), **run_json, **own}
            rows.write_json(run.path / "run.json", document, sealed=True)
        except BaseException:
            shutil.rmtree(run.path, ignore_errors=True)
            raise
        return run

    @classmethod
    def open(cls, path: Path | str) -> RunDir:
        """The run in `path`. Raises RunNotFound when there is no `run.json`."""
        run = cls(Path(path))
        if not (run.path / "run.json").is_file():
            raise RunNotFound(str(path), "is no run directory (it has no run.json)", "p3kit runs lists the runs")
        return run

    @property
    def name(self) -> str:
        """`run-42`."""
        return self.path.resolve().name

    @property
    def number(self) -> int | None:
        """42 of `run-42`; None for a directory that was renamed."""
        match = RUN_NAME.fullmatch(self.name)
        return int(match[1]) if match else None

    def delete(self) -> None:
        """Remove the directory with all that is in it."""
        shutil.rmtree(self.path)

    # ------------------------------------------------------------------ files

    @property
    def trainer_file(self) -> Path:
        """The copy of the trainer that runs."""
        return self.path / "trainer.py"

    @property
    def log_file(self) -> Path:
        """Path of the trainer process's output."""
        return self.path / "log.txt"

    @property
    def plots(self) -> Path:
        """The folder of pictures."""
        return self.path / "plots"

    @property
    def replays(self) -> Path:
        """The folder of episode replays."""
        return self.path / "replays"

    def spec_text(self) -> str:
        """The spec as the user wrote it."""
        return (self.path / "spec.toml").read_bytes().decode("utf-8", "surrogateescape")

    def checkpoint(self, name: str, agent: str | None = None) -> Path:
        """Path of checkpoint `name` (`last`, `init`, `best-000049152`), written or not; `agent` if several."""
        whole = name.removesuffix(".pt") + (f"-{file_name(agent)}" if agent else "")
        return self.path / "checkpoints" / f"{file_name(whole)}.pt"

    def checkpoints(self) -> list[Path]:
        """The checkpoints that exist, by name."""
        return sorted(self.path.glob("checkpoints/*.pt"))

    def log_tail(self, lines: int = 15) -> list[str]:
        """The last lines that the trainer process printed, without trailing blanks."""
        with contextlib.suppress(FileNotFoundError), self.log_file.open("rb") as handle:
            handle.seek(max(0, handle.seek(0, os.SEEK_END) - 32_768))
            return handle.read().decode("utf-8", "replace").rstrip().splitlines()[-lines:]
        return []

    def trim_log(self, most: int = 64_000_000, keep: int = 1_000_000) -> int:
        """Cut a log of more than `most` bytes down to its last `keep`, with a line about it. Return the bytes removed.

        The process that prints continues at the new end, because it appends. Its output meanwhile may be lost.
        """
        with contextlib.suppress(FileNotFoundError):
            size = self.log_file.stat().st_size
            if size <= most:
                return 0
            with self.log_file.open("r+b") as handle:
                handle.seek(size - keep)
                tail = handle.read(keep)
                handle.truncate(0)
                handle.seek(0)
                handle.write(f"[{size - keep:,} bytes of output were cut off here]\n".encode() + tail)
            return size - keep
        return 0

    def disk_usage(self) -> DiskUsage:
        """Size of the directory in bytes."""
        sizes = {path: path.lstat().st_blocks * 512 for path in (self.path, *self.path.rglob("*"))}
        histograms = self.path / "histograms"
        grow = {self._metrics_file, self._events_file, histograms}
        growing = sum(size for path, size in sizes.items() if path in grow or path.parent == histograms)
        best = [size for path, size in sizes.items() if path.name.startswith("best-")]
        return DiskUsage(growing, sum(best), len(best), sum(sizes.values()) - growing - sum(best))

    # ------------------------------------------------------------------ run.json

    def info(self) -> dict[str, Any]:
        """`run.json`: name, run, trainer, spec, agents, env_id, versions, git_commit, data, command,
        created, notes, paths_from (the folder of its relative paths, seen from the runs folder).

        Raises P3kitError when it is damaged or was written by a newer p3kit.
        """
        path = self.path / "run.json"
        try:
            info: dict[str, Any] = rows.read_json(path)
        except FileNotFoundError:
            raise RunNotFound(
                str(self.path), "is no run directory (it has no run.json)", "p3kit runs lists the runs"
            ) from None
        if wrong := validation.wrong_run(info, SCHEMA_VERSION):
            newer = wrong.startswith("has a schema")
            raise P3kitError(str(path), wrong, "pip install -U p3kit" if newer else "restore the file")
        return info

    @property
    def is_older(self) -> bool:
        """True for a run of an earlier format than this p3kit writes."""
        return int(self.info().get("schema_version", 1)) < SCHEMA_VERSION

    def made_by(self) -> str:
        """The p3kit that made the run, for messages: `p3kit 0.1.0 at commit 7df7799 (format 1)`."""
        info = self.info()
        version = (info.get("versions") or {}).get("p3kit", "of unknown version")
        commit = f" at commit {str(info['git_commit'])[:7]}" if info.get("git_commit") else ""
        day = time.strftime("%Y-%m-%d", time.gmtime(info["created"])) if "created" in info else "an unknown day"
        return f"p3kit {version}{commit} on {day} (format {info.get('schema_version', 1)})"

    def paths_from(self) -> Path:
        """The folder that relative paths of `run.json` start from: where p3kit stood when it planned the run."""
        return self.path.resolve().parent / str(self.info().get("paths_from", ".."))

    def agent_names(self) -> list[str]:
        """The agents of the run, in the order of its plan."""
        return [agent["name"] for agent in self.info().get("agents", [])]

    def verify(self, *, of_metrics: bool = True) -> None:
        """Read all that a summary rests on. Raises P3kitError naming the first file that is damaged, and where."""
        self.info()
        rows.verify_rows(self._events_file, validation.EVENTS)
        if of_metrics:
            rows.verify_rows(self._metrics_file, validation.METRICS)

    def update_info(self, **fields: Any) -> None:
        """Change some fields of `run.json`. For the owner of the run, while no process trains it."""
        rows.write_json(self.path / "run.json", {**self.info(), **fields}, sealed=True)

    # ------------------------------------------------------------------ metrics

    @property
    def _metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    def append_metrics(self, metric_rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows `{"agent", "iteration", "global_step", "time", "metrics": {name: number}}`, all in one write.

        nan and inf are kept. A value of None (no value, as the Sharpe ratio of a policy that never trades) is left
        out: an absent name is the one form of "no value". Raises P3kitError for a name that is not in the glossary and
        for a value that is no number; then nothing is written.
        """
        prepared = [validation.checked_row(row) for row in metric_rows]
        if prepared:
            self._say_torn("metrics.jsonl", rows.append_rows(self._metrics_file, prepared))

    def read_metrics(self, agent: str | None = None) -> list[dict[str, Any]]:
        """All rows, or those of one agent, in the order they were recorded; an incomplete last row is left out."""
        return [row for row in self.tail_metrics()[0] if agent is None or row["agent"] == agent]

    def tail_metrics(self, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
        """The rows from byte `offset` on, and the offset for the next call.

        A resume rewrites the file without the rows newer than its checkpoint. Followers start again at 0 on an event of
        kind `resume`.
        """
        found, offset = rows.read_rows(self._metrics_file, validation.METRICS, offset)
        for row in found:
            row["metrics"] = rows.decode_numbers(row["metrics"])
        return found, offset

    def series(self, agent: str) -> dict[str, Series]:
        """Every metric of `agent` as arrays; a metric that was never recorded is absent."""
        columns: dict[str, list[tuple[int, float, int]]] = {}
        for row in self.read_metrics(agent):
            for name, value in row["metrics"].items():
                columns.setdefault(name, []).append((row["global_step"], value, row["iteration"]))
        series = {}
        for name, points in columns.items():
            steps, values, iterations = zip(*points, strict=True)
            series[name] = Series(
                np.asarray(steps, dtype=np.int64),
                np.asarray(values, dtype=np.float64),
                np.asarray(iterations, dtype=np.int64),
            )
        return series

    # ------------------------------------------------------------------ events

    @property
    def _events_file(self) -> Path:
        return self.path / "events.jsonl"

    def append_event(self, kind: str, agent: str | None = None, global_step: int | None = None, **fields: Any) -> int:
        """Add an event and return its number, one more than the last. Several processes may write.

        `kind` is one of EVENT_KINDS; `fields` are plain data. Raises P3kitError for an unknown kind.
        """
        if kind not in rows.EVENT_KINDS:
            known = ", ".join(rows.EVENT_KINDS)
            raise P3kitError(f"event {kind!r}", "is no kind of event", f"kinds: {known}")
        if reserved := {"seq", "time"} & fields.keys():
            raise P3kitError(f"event {kind!r}", f"may not set {sorted(reserved)}", "they are set when it is written")
        row = {"time": time.time(), "kind": kind, "agent": agent, "global_step": global_step, **fields}
        seq, torn = rows.append_numbered(self._events_file, row)
        self._say_torn("events.jsonl", torn)
        return seq

    def read_events(self, kind: str | None = None, agent: str | None = None, after: int = -1) -> list[dict[str, Any]]:
        """Events in order: `{"seq", "time", "kind", "agent", "global_step", …}`. Filters: a kind, an agent, or numbers
        above `after`. Numbers are unique, even after a resume.
        """
        found, _ = rows.read_rows(self._events_file, validation.EVENTS)
        return [
            rows.decode(row)
            for row in found
            if row["seq"] > after and (kind is None or row["kind"] == kind) and (agent is None or row["agent"] == agent)
        ]

    def _say_torn(self, file: str, torn_bytes: int) -> None:
        if torn_bytes:
            row = {"time": time.time(), "kind": "torn_line", "agent": None, "global_step": None}
            rows.append_numbered(self._events_file, {**row, "file": file, "bytes": torn_bytes})

    # ------------------------------------------------------------------ resume

    def cut_after(self, global_steps: Mapping[str, int]) -> int:
        """Drop rows and histograms newer than `global_steps[agent]`. Return the removed metric and event rows.

        For a resume, which records these steps again. Other agents keep their rows. Events without an agent are
        compared with the largest step in `global_steps`; events without a step stay. If events were removed, a `note`
        records it and keeps their numbering increasing.
        """

        def is_newer(row: Mapping[str, Any]) -> bool:
            agent, step = row.get("agent"), row.get("global_step")
            limit = global_steps.get(agent) if agent is not None else max(global_steps.values(), default=None)
            return step is not None and limit is not None and step > limit

        dropped = 0
        for path, kind in ((self._metrics_file, validation.METRICS), (self._events_file, validation.EVENTS)):
            if not path.exists():
                continue
            with rows.locked(path) as handle:
                torn = rows.cut_torn_row(handle)
                newer = sum(map(is_newer, self.read_events())) if path == self._events_file else 0
                if newer:  # recorded before they go, by a row without a step, which stays: numbers never come twice
                    note = {"time": time.time(), "kind": "note", "agent": None, "global_step": None}
                    text = f"{newer} events newer than the checkpoint were cut off"
                    last = {"seq": rows.last_seq(handle, path) + 1, **note, "text": text}
                    rows.write_at_end(handle, path, rows.line_of(last))
                gone = rows.drop_rows(handle, path, kind, is_newer)
            self._say_torn(path.name, torn)
            dropped += gone
        for histogram in self.histograms():
            if is_newer({"agent": histogram.agent, "global_step": histogram.global_step}):
                histogram.path.unlink()
        return dropped

    def sweep(self) -> list[str]:
        """Remove the temporary files of writers that were killed before their rename; returns their names.

        What a living process of this machine is writing stays. For the one who holds the lock.
        """
        swept = []
        for path in self.path.rglob(".*.tmp"):
            writer = rows.TEMPORARY_NAME.fullmatch(path.name)
            if writer and processes.process_start(int(writer["pid"])) is None:
                path.unlink(missing_ok=True)
                swept.append(path.name)
        return sorted(swept)

    # ------------------------------------------------------------------ status

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Replace `status.json` in one step. A `pid` is completed by its start mark and machine, so that a recycled
        number is never taken for this run. Raises P3kitError for an unknown state.

        A heartbeat need not outlive a power cut (a run whose status is damaged reads as crashed, which it is then).
        """
        if status.get("state") not in STATES:
            raise P3kitError(str(self.path / "status.json"), f"{status.get('state')!r} is no state", " | ".join(STATES))
        complete = dict(status)
        if isinstance(complete.get("pid"), int) and "pid_start" not in complete:
            complete |= processes.identity(complete["pid"])
        rows.write_json(self.path / "status.json", complete, durable=complete["state"] != "running", sealed=True)

    def status(self) -> dict[str, Any]:
        """`status.json`: state, pid, heartbeat, message, agents. A missing or damaged file reads as `crashed`."""
        try:
            status = rows.read_json(self.path / "status.json")
        except (FileNotFoundError, P3kitError) as error:
            return {"state": "crashed", "message": f"status.json cannot be read: {error}", "agents": {}}
        if wrong := validation.wrong_status(status, STATES):
            return {"state": "crashed", "message": f"status.json cannot be read: {wrong}", "agents": {}}
        return {"message": "", "agents": {}, **status}

    def update_status(self, **fields: Any) -> None:
        """Change some fields of the status. For the one who owns the run: before, or after, its process."""
        status = self.status()
        if "pid" in fields:
            status = {key: value for key, value in status.items() if key not in ("pid_start", "host")}
        self.write_status({**status, **fields})

    def is_alive(self) -> bool:
        """Return True if the process that wrote the status still exists."""
        return processes.is_alive(self.status(), time.time())

    def mark_crashed(self) -> bool:
        """Mark the run crashed if its state is queued or running but its process is gone. Return True if it did."""
        status = self.status()
        if status["state"] not in ACTIVE_STATES or processes.is_alive(status, time.time()) or self.is_locked():
            return False
        begun = status["state"] == "running"
        message = "its process is gone" if begun else "it never began: the p3kit run that queued it is gone"
        self.write_status({**status, "state": "crashed", "message": message})
        self.append_event("crash", message=message)
        return True

    # ------------------------------------------------------------------ stop and lock

    def request_stop(self, reason: str = "", *, at_once: bool = False) -> None:
        """Request a checkpoint and the end of the run: the file `stop`, and SIGTERM if its process is alive here.

        A queued run will not start. `reason` is journalled. With `at_once` the launcher kills the process on its
        machine; progress after the last checkpoint is lost.
        """
        (self.path / "stop").write_text(_AT_ONCE if at_once else "")
        if reason:
            self.append_event("stop", message=reason)
        else:
            self.append_event("stop")
        status = self.status()
        if (
            status["state"] == "running"
            and status.get("host") == processes.host()
            and processes.is_alive(status, time.time())
        ):
            with contextlib.suppress(ProcessLookupError):  # it ended just now
                os.kill(status["pid"], signal.SIGTERM)

    def stop_requested(self) -> bool:
        """True if a stop of the run was requested."""
        return (self.path / "stop").exists()

    def stop_at_once(self) -> bool:
        """True if an immediate kill was requested."""
        with contextlib.suppress(FileNotFoundError):
            return (self.path / "stop").read_text() == _AT_ONCE
        return False

    def clear_stop(self) -> None:
        """Forget a request to end."""
        (self.path / "stop").unlink(missing_ok=True)

    def lock(self, wait_s: float = 1.0) -> int:
        """Take the run for training; return an open file descriptor. The lock lasts while any process holds it open, so
        the trainer inherits it. Raises P3kitError if another process still trains this run after `wait_s` seconds (a
        process that only checks the lock holds it for an instant)."""
        descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        if not take_lock(descriptor, wait_s):
            os.close(descriptor)
            raise P3kitError(self.name, "is being trained by another process", f"p3kit stop {self.name} ends it")
        return descriptor

    def is_locked(self) -> bool:
        """Return True if a process trains this run, for any content of its status file."""
        try:
            os.close(self.lock(wait_s=0.0))
        except P3kitError:
            return True
        return False

    # ------------------------------------------------------------------ histograms

    def write_histogram(self, kind: str, agent: str, global_step: int, data: Mapping[str, Any]) -> Path:
        """Write the numbers behind one picture and return the file.

        Kinds: reward {edges, counts} · actions {labels, counts} · gradients {edges, counts} · value_map {bars (edges),
        unrealised (edges), values (rows × columns, null where empty)} · equity {timestamps (ISO), equity, price,
        position, baselines: {name: [equity]}, regime} · returns (`p3kit.edge.Candidate`, which no picture shows).
        """
        path = self.path / "histograms" / f"{kind}-{file_name(agent)}-{global_step:09d}.json"
        rows.write_json(path, {"kind": kind, "agent": agent, "global_step": global_step, "data": data}, sealed=True)
        return path

    def write_replay(self, name: str, document: Mapping[str, Any]) -> Path:
        """Write `replays/NAME.json`: an episode bar by bar."""
        self.replays.mkdir(exist_ok=True)
        path = self.replays / f"{name}.json"
        rows.write_json(path, document, sealed=True)
        return path

    def histograms(self, kind: str | None = None, agent: str | None = None) -> list[Histogram]:
        """The histograms that exist, by kind, agent and step; their numbers are read on demand."""
        agents = {file_name(name): name for name in self.agent_names()}
        found = []
        for path in self.path.glob("histograms/*.json"):
            match = _HISTOGRAM_NAME.fullmatch(path.name)
            if match:
                owner = agents.get(match["agent"], match["agent"])
                found.append(Histogram(match["kind"], owner, int(match["step"]), path))
        chosen = [h for h in found if (kind is None or h.kind == kind) and (agent is None or h.agent == agent)]
        return sorted(chosen, key=lambda h: (h.kind, h.agent, h.global_step))
