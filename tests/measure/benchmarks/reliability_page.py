"""docs/reliability.md from the recorded results of the tests: `python -m tests.measure.benchmarks.reliability_page`.

This module runs no test. The figures are those of `tests.measure.kills`, `tests.measure.fuzz` and
`tests.measure.benchmarks.large`. Every promise names its tests, and a test compares the page with both.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "docs" / "benchmarks"
PAGE = ROOT / "docs" / "reliability.md"
PARTS = ("kills", "fuzz", "large")
Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Promise:
    """`tests`: `file.py::function` below tests/, or a command; `figure`: the part of the figures with more detail."""

    what: str
    tests: Sequence[str]
    figure: str = ""


@dataclass(frozen=True)
class Fault:
    """A fault from outside, and the message that a user reads; `…` stands for the variable part."""

    what: str
    message: str
    test: str


PROMISES = (
    Promise(
        "A run that is killed at any moment and resumed on a CPU ends with the same weights and metrics as an "
        "undisturbed one, bit for bit. Kills are SIGKILL at a chosen place in the code or at a random time, SIGTERM, "
        "Ctrl-C, and the death of `p3kit run` itself",
        ["python -m tests.measure.kills"],
        "kills",
    ),
    Promise(
        "No spec causes a traceback, a hang or a wrong exit code. `p3kit show` prints a spec that loads to the same "
        "values",
        ["python -m tests.measure.fuzz", "measure/fuzz/test_fuzz.py::test_changed_specs_are_read_or_refused"],
        "fuzz_specs",
    ),
    Promise(
        "No damage to a run directory causes a traceback or a hang in any command, or hides another run. No command "
        "that only reads overwrites a file of the run",
        ["python -m tests.measure.fuzz", "measure/fuzz/test_fuzz.py::test_damaged_directories_are_read_or_named"],
        "fuzz_directories",
    ),
    Promise(
        "A number that was changed or damaged after it was written is reported, and never used",
        [
            "rundir/test_rundir.py::test_a_number_that_was_changed_later_is_never_believed",
            "rundir/test_rundir.py::test_documents_carry_a_checksum_too",
            "runtime/test_checkpoints.py::test_a_flipped_byte_is_refused",
        ],
    ),
    Promise(
        "If a write fails, the old file remains",
        [
            "launch/test_system_faults.py::test_every_writer_of_a_run_keeps_what_was_there_when_a_write_fails",
            "launch/test_system_faults.py::test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room",
            "runtime/test_checkpoints.py::test_a_failed_write_keeps_the_old_file",
            "rundir/test_rundir.py::test_a_full_disk_keeps_the_rows_that_were_there",
        ],
    ),
    Promise(
        "A run that crashes or hangs never stops the others",
        [
            "launch/test_system_faults.py::test_one_degraded_run_among_ten",
            "launch/test_system_faults.py::test_a_trainer_that_hangs_is_ended_and_the_next_one_gets_its_slot",
            "launch/test_local.py::test_one_degraded_run_never_stops_the_others",
        ],
    ),
    Promise(
        "The next command detects a run whose process has ended, marks it as crashed, and offers resume",
        [
            "rundir/test_rundir.py::test_a_run_whose_process_was_killed_is_marked_crashed",
            "rundir/test_rundir.py::test_a_recycled_pid_is_not_taken_for_the_run",
            "launch/test_local.py::test_a_crashed_run_resumes_from_its_checkpoint",
        ],
    ),
    Promise(
        "A checkpoint never runs code. A checkpoint of another spec, version or run is refused. The message names the "
        "file and the reason",
        [
            "runtime/test_checkpoints.py::test_a_pickle_is_not_executed",
            "runtime/test_checkpoints.py::test_what_is_harmful_is_refused_under_a_right_checksum_too",
            "runtime/test_resume_state.py::test_a_checkpoint_of_another_spec_is_refused_and_stays",
            "runtime/test_resume_state.py::test_a_checkpoint_of_another_version_is_refused_by_name",
        ],
    ),
    Promise(
        "After a kill at any moment, the next call of `p3kit paper` completes the account: its files equal those of an "
        "undisturbed account. A repeated call on the same bars changes nothing",
        [
            "paper/test_paper_kills.py::test_a_killed_account_is_finished_to_the_same_bytes",
            "paper/test_trading.py::test_a_journal_torn_at_any_byte_is_finished_to_the_same_bytes",
            "paper/test_trading.py::test_a_repeated_call_changes_no_byte",
            "paper/test_trading.py::test_a_full_disk_loses_nothing",
        ],
    ),
    Promise(
        "Every command that only reads can read a run of an earlier format. A resume that cannot work is refused "
        "before a file changes. The message names the p3kit version that can resume it",
        [
            "launch/test_older_runs.py::test_reading_commands_read_it",
            "launch/test_older_runs.py::test_its_policy_decides_by_the_shipped_trainer",
            "launch/test_older_runs.py::test_a_resume_that_cannot_work_names_the_version_that_can",
        ],
    ),
    Promise(
        "`predict` takes the same action as the backtest at the same bar. The amount of earlier history does not "
        "matter",
        [
            "policy/test_predict.py::test_it_sees_and_does_what_the_continuous_account_does",
            "market/test_recipe.py::test_a_row_has_the_bits_of_training_whatever_bars_stand_beside_it",
        ],
    ),
    Promise(
        "Two runs and their copies in Aim can work in one folder at the same time",
        [
            "launch/test_system_faults.py::test_two_runs_and_a_mirror_at_once_in_one_folder",
            "rundir/test_rundir.py::test_processes_that_start_runs_at_once_get_different_numbers",
            "rundir/test_rundir.py::test_processes_that_write_events_at_once_never_share_a_number",
            "test_aim_mirror.py::test_two_mirrors_of_one_repository_take_turns",
        ],
    ),
    Promise(
        "A broken, deleted or locked Aim repository, or a missing Aim package, stops no training. The repository can "
        "be rebuilt",
        [
            "test_aim_mirror.py::test_a_broken_repository_says_what_to_do_and_rebuild_mends_it",
            "test_aim_mirror.py::test_a_repository_that_was_deleted_is_made_anew",
            "test_aim_mirror.py::test_a_repository_that_another_program_holds_is_named",
            "test_aim_mirror.py::test_a_missing_aim_names_the_extra",
            "api/test_background.py::test_a_failing_mirror_is_said_once_and_stops_nothing",
        ],
    ),
    Promise(
        "A folder of 1,000 runs, and a run of 1,000,000 rows, can be listed in seconds. The memory of `p3kit run` does "
        "not grow with the number of its runs",
        ["python -m tests.measure.benchmarks.large"],
        "large",
    ),
)

FAULTS = (
    Fault(
        "the disk is full",
        "runs/run-1/metrics.jsonl: cannot be written (No space left on device); free some space or fix the folder, "
        "then p3kit resume",
        "launch/test_system_faults.py::test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room",
    ),
    Fault(
        "the runs folder is read-only",
        "run-2: crashed, but its status cannot be saved: …; the list is complete",
        "launch/test_system_faults.py::test_a_folder_that_may_only_be_read_is_read",
    ),
    Fault(
        "a checkpoint is truncated, or one bit is wrong",
        "last.pt: is torn or altered: its checksum does not fit its content; delete it: p3kit resume then begins at "
        "init.pt, the first checkpoint",
        "runtime/test_checkpoints.py::test_a_torn_or_missing_file_is_refused",
    ),
    Fault(
        "a checkpoint holds a program",
        "last.pt: contains other objects than tensors and plain values (UnpicklingError); delete it: p3kit resume then "
        "begins at init.pt, the first checkpoint",
        "runtime/test_checkpoints.py::test_what_is_harmful_is_refused_under_a_right_checksum_too",
    ),
    Fault(
        "a checkpoint is another run's",
        "last.pt: was written by another run: its agents or their specs are not this one's; bring the right file back, "
        "or delete it to begin at init.pt",
        "runtime/test_resume_state.py::test_a_checkpoint_of_another_spec_is_refused_and_stays",
    ),
    Fault(
        "a row was edited, or one bit is wrong",
        "metrics.jsonl:2: was changed or damaged after it was written: its checksum does not fit; delete that line to "
        'read the rest, or take its "crc" out if the change was meant',
        "rundir/test_rundir.py::test_a_number_that_was_changed_later_is_never_believed",
    ),
    Fault(
        "the clock is set backward or forward",
        "no message, nothing happens: heartbeats and the watchdog use a monotonic clock",
        "launch/test_system_faults.py::test_a_clock_that_is_set_back_or_forth_makes_nobody_look_dead",
    ),
    Fault(
        "a power cut deletes rows that a checkpoint needs",
        "run-1: events.jsonl has 4,068 bytes, and had 8,146 when the checkpoint was written: rows were lost; "
        "restore the file; or delete checkpoints/last.pt: p3kit resume then begins at init.pt",
        "trainers/test_ppo_runs.py::test_rows_lost_in_a_power_cut_are_refused_by_name",
    ),
    Fault(
        "a run directory is deleted or renamed",
        "run-2 crashed: its directory runs/run-2 was deleted or renamed; the other runs go on",
        "launch/test_lost_directories.py::test_a_deleted_and_a_renamed_run_stop_none_of_the_others",
    ),
    Fault(
        "the terminal of `nohup p3kit run` is closed",
        "no message, training goes on: an ignored signal stays ignored",
        "launch/test_ignored_signals.py::test_nohup_survives_a_closed_terminal",
    ),
    Fault(
        "a trainer hangs",
        "run-1 crashed: it gave no sign of life for 60 min, so it was ended",
        "launch/test_system_faults.py::test_a_trainer_that_hangs_is_ended_and_the_next_one_gets_its_slot",
    ),
    Fault(
        "a trainer takes all memory",
        "run-1 crashed: its process ended with exit code 1, and the last lines of its log: MemoryError. If the system "
        "kills it: its process was killed by SIGKILL (often the system, out of memory)",
        "launch/test_system_faults.py::test_a_trainer_that_eats_all_memory_fails_by_name",
    ),
    Fault(
        "a trainer prints without end",
        "[… bytes of output were cut off here], in its log, when it reaches 64 MB: the last megabyte is kept",
        "launch/test_system_faults.py::test_a_trainer_that_talks_without_end_fills_no_disk",
    ),
    Fault(
        "two commands train one run",
        "run-1: is being trained by another process; p3kit stop run-1 ends it",
        "launch/test_local.py::test_a_run_that_another_process_trains_is_left_alone",
    ),
    Fault(
        "Aim's repository is damaged",
        ".aim: the Aim repository cannot be used (…); p3kit sync --rebuild …",
        "test_aim_mirror.py::test_a_broken_repository_says_what_to_do_and_rebuild_mends_it",
    ),
    Fault(
        "Aim is not installed",
        "the Aim mirror: needs the package 'aim', which is not installed; pip install 'p3kit[aim]'",
        "test_aim_mirror.py::test_a_missing_aim_names_the_extra",
    ),
)


KINDS = {
    "clock": "SIGKILL at a random time",
    "place": "SIGKILL at a chosen place",
    "launcher": "death of `p3kit run`",
    "half a row of the metrics written": "half a row of metrics.jsonl written",
    "after a row of the metrics": "after a row of metrics.jsonl",
    "half a row of the journal written": "half a row of events.jsonl written",
    "after a row of the journal": "after a row of events.jsonl",
    "rollout": "during a rollout",
    "update": "during an update",
    "evaluation": "during an evaluation",
}
"""Titles of kinds and places of kills; a temporary file is renamed to its final name when it is complete."""

LONG = {
    "runs": "`runs`",
    "the newest rows, as the mirror follows them": "read only the new rows (for Aim)",
    "its checksums": "verify all checksums",
    "the cut before a resume": "cut the metrics back to the checkpoint, before a resume",
}


# --- figures ----------------------------------------------------------------------------------------------------------


def results() -> dict[str, Figures]:
    """Recorded results of each part that was run."""
    files = {part: RESULTS / f"{part}.json" for part in PARTS}
    return {part: json.loads(file.read_text(encoding="utf-8")) for part, file in files.items() if file.exists()}


def figure_of(promise: Promise, found: Mapping[str, Figures]) -> str:
    part, _, inner = promise.figure.partition("_")
    if not part:
        count = len(promise.tests)
        return f"{count} test{'s' if count > 1 else ''}, at each change"
    if part not in found:
        return "not measured yet"
    figures = found[part]
    if part == "kills":
        return f"{figures['same']} of {figures['kills']} killed runs bit-identical"
    if part == "fuzz":
        return f"{figures[inner]['tried']:,} tried, {len(figures[inner]['findings'])} broke it"
    many, launched = figures["many_runs"], figures["many_processes"]
    memory, runs = launched["launcher_memory_mb"], launched["runs"]
    listed = f"`runs` in a folder of {many['count']:,}: {many['runs']['cpu_s']:.1f} s"
    return f"{listed}; memory {memory[0]:.0f} MB after 10 runs, {memory[-1]:.0f} MB after {runs}"


@cache
def functions_of(file: str) -> frozenset[str]:
    """Names of the test functions in a file below tests/."""
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


# --- the page ---------------------------------------------------------------------------------------------------------


def page(found: Mapping[str, Figures]) -> str:
    return "\n".join(lines(found)) + "\n"


def lines(found: Mapping[str, Figures]) -> Iterator[str]:
    yield "# Faults and recovery\n"
    yield (
        "After a crash, a kill or a power cut, type `p3kit runs`. It marks the runs that were interrupted. Then type "
        "`p3kit resume RUN`: training continues from the last checkpoint. The work since that checkpoint (at most "
        "`checkpoints.every` env steps) is done again. If a file is damaged, the message names the file and the "
        "remedy.\n"
    )
    yield (
        "This page lists what p3kit guarantees after a fault, and the tests of each guarantee. A *row* is a line of "
        "`metrics.jsonl` (one per iteration of an agent) or of the journal `events.jsonl` (interventions, evaluations, "
        "status). Everything was measured on a CPU with a local disk. `python -m "
        "tests.measure.benchmarks.reliability_page` writes the page from the figures in [benchmarks/](benchmarks/).\n"
    )
    yield "## Guarantees\n"
    yield "| guarantee | tests | figure |"
    yield "|---|---|---|"
    for promise in PROMISES:
        held = "<br>".join(link_to(test) for test in promise.tests)
        yield f"| {promise.what} | {held} | {figure_of(promise, found)} |"
    yield ""
    yield from kills(found.get("kills"))
    yield from fuzz(found.get("fuzz"))
    yield from faults()
    yield from large(found.get("large"))


def link_to(test: str) -> str:
    file, _, name = test.partition("::")
    return f"`{name}` in [{Path(file).name}](../tests/{file})" if name else f"`{file}`"


def made_by(figures: Figures) -> str:
    how = figures["how"]
    versions = ", ".join(f"{name} {how['versions'][name]}" for name in ("python", "torch") if name in how["versions"])
    cores = f", {figures.get('cores') or how.get('cores')} cores" if figures.get("cores") or how.get("cores") else ""
    return f"`{how['command']}`, commit {str(how['git_commit'])[:7]}{cores}, {versions}"


def kills(figures: Figures | None) -> Iterator[str]:
    yield "## Kills\n"
    if figures is None:
        yield "Not measured yet: `tox -e kill`.\n"
        return
    yield (
        f"{made_by(figures)}. Each killed and resumed run is compared with an undisturbed run of the same spec and "
        "trainer. Every recorded row (except times), evaluation, intervention, verdict and kept checkpoint must be "
        "equal, bit for bit. The place of each kill is drawn at random. The table counts the same kills three times: "
        "by trainer, by kind of kill, and by place for the kills at a chosen place in the code. `tox -e kill` repeats "
        "it.\n"
    )
    yield "| | kills | bit-identical |"
    yield "|---|---|---|"
    for title, key in (("trainer", "by_trainer"), ("kind", "by_way"), ("place", "by_place")):
        for name, count in figures[key].items():
            if key != "by_place" or name != "any":
                yield f"| {title}: {KINDS.get(name, name)} | {count['kills']} | {count['same']} |"
    yield ""


def fuzz(figures: Figures | None) -> Iterator[str]:
    yield "## Fuzz\n"
    if figures is None:
        yield "Not measured yet: `tox -e fuzz`.\n"
        return
    both = " and ".join(dict.fromkeys(made_by(figures[part]) for part in ("specs", "directories")))
    yield (
        f"{both}. Specs are shipped specs, specs with one mistake, and generated valid specs. They are "
        "changed as TOML or as raw bytes. A directory has one to three damaged files, and lies between two intact "
        "directories. A file is truncated, emptied, edited, swapped or deleted, or one bit is changed. A checkpoint "
        "can be damaged and get a new, valid checksum.\n"
    )
    yield (
        "*Refused* means exit code 2 and a message with the place. On a damaged directory all three exit codes are "
        "allowed: 0 if the command could do its work, 1 if the work failed or a part was left out, 2 if the input was "
        "refused. Codes 1 and 2 need a message. A traceback, a hang, another code or an overwritten file breaks the "
        "guarantee.\n"
    )
    yield "| | cases |"
    yield "|---|---|"
    for part in ("specs", "directories"):
        yield f"| **{part}: tried** | {figures[part]['tried']:,} |"
        yield f"| {part}: broke a guarantee | {len(figures[part]['findings'])} |"
        for answer, count in figures[part]["answers"].items():
            yield f"| {part}, {answer} | {count:,} |"
    yield ""


def faults() -> Iterator[str]:
    yield "## System faults\n"
    yield "| fault | message (`…`: a part that varies) | test |"
    yield "|---|---|---|"
    for fault in FAULTS:
        yield f"| {fault.what} | {fault.message} | {link_to(fault.test)} |"
    yield ""


def large(figures: Figures | None) -> Iterator[str]:
    yield "## Long and large\n"
    if figures is None:
        yield "Not measured yet: `python -m tests.measure.benchmarks.large`.\n"
        return
    many, long, processes = figures["many_runs"], figures["a_long_run"], figures["many_processes"]
    yield (
        f"{made_by(figures)}. Each command runs in its own process. Figures are CPU seconds, including the start of "
        "Python, and the largest resident memory. The runs are generated, and the launched trainer learns nothing.\n"
    )
    yield "| | CPU time | memory |"
    yield "|---|---|---|"
    for name, cost in many.items():
        if isinstance(cost, Mapping):
            where = f"in a folder of {many['count']:,} runs"
            yield f"| `{name}` {where} | {cost['cpu_s']:.1f} s | {cost['memory_mb']:,} MB |"
    for name, cost in long.items():
        if isinstance(cost, Mapping):
            yield (
                f"| {LONG.get(name, name)}, one run of {long['rows']:,} rows ({long['file_mb']:,} MB) | "
                f"{cost['cpu_s']:.1f} s | {cost['memory_mb']:,} MB |"
            )
    memory = processes["launcher_memory_mb"]
    yield ""
    yield (
        f"One `p3kit run` over {processes['runs']} short runs, two at a time, takes {processes['launcher_cpu_s']:.1f} "
        f"CPU seconds itself, without its trainers. Its resident memory is {memory[0]:.0f} MB after ten runs and "
        f"{memory[-1]:.0f} MB after the last."
    )


def main() -> None:
    PAGE.write_text(page(results()), encoding="utf-8")


if __name__ == "__main__":
    main()
