"""The run directory: plain files that hold all facts of a run. Only this package contains their names.

run.json        the plan: resolved spec, agents, versions, data fingerprints, command line; written once
spec.toml       the spec as the user wrote it
trainer.py      the very code that ran
status.json     state, pid, heartbeat, progress and verdict per agent; replaced atomically
metrics.jsonl   one row per agent and recorded point
events.jsonl    numbered events: evaluations, checkpoints, symptoms, interventions, resumes
log.txt         output of the trainer process
checkpoints/    last.pt, init.pt, best-<step>.pt, and start-1.pt where a run starts from old weights
histograms/     reward and action histograms, value maps, equity curves, returns of evaluations, as JSON
plots/          pictures drawn from them
replays/        episodes, bar by bar
note.json       note and tags of the user
prices/         prices of the bars from files, as 32-bit floats, to detect later changes
stop            present after a stop request

Rows and JSON documents end with their own checksum, `"crc"`: a row that was changed or damaged later is reported.
"""

from p3kit.rundir.candidates import judge_evaluations, planned_over_made, read_candidates
from p3kit.rundir.chosen import choice_rank, chosen_evaluation, find_checkpoint, missing_checkpoint_notes
from p3kit.rundir.directory import RunDir
from p3kit.rundir.extensions import (
    ScheduleChoice,
    Segments,
    extend_info,
    extended_origins,
    extension_label,
    first_plan,
    is_extended,
)
from p3kit.rundir.file_names import file_name, take_number
from p3kit.rundir.lookup import find_run, find_runs, folder_of_runs, intact_runs, list_runs, mark_crashed, started_with
from p3kit.rundir.records import Histogram, Series
from p3kit.rundir.removal import check_removable, dependants, remove_run
from p3kit.rundir.rows import BACKTEST_RESULT, EVENT_KINDS, concerns, encode
from p3kit.rundir.run_note import RunNote, check_note, edit_note, read_note

__all__ = [
    "BACKTEST_RESULT",
    "EVENT_KINDS",
    "Histogram",
    "RunDir",
    "RunNote",
    "ScheduleChoice",
    "Segments",
    "Series",
    "check_note",
    "check_removable",
    "choice_rank",
    "chosen_evaluation",
    "concerns",
    "dependants",
    "edit_note",
    "encode",
    "extend_info",
    "extended_origins",
    "extension_label",
    "file_name",
    "find_checkpoint",
    "find_run",
    "find_runs",
    "first_plan",
    "folder_of_runs",
    "intact_runs",
    "is_extended",
    "judge_evaluations",
    "list_runs",
    "mark_crashed",
    "missing_checkpoint_notes",
    "planned_over_made",
    "read_candidates",
    "read_note",
    "remove_run",
    "started_with",
    "take_number",
]
