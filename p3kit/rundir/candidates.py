"""The evaluations of an agent as candidates of the label: their returns, and the judgement of the chosen one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from p3kit.edge import Candidate, judge
from p3kit.errors import P3kitError
from p3kit.rundir.directory import RunDir


def read_candidates(run: RunDir, agent: str, evaluations: Sequence[Mapping[str, Any]]) -> list[Candidate]:
    """The returns of these evaluations on the validation split, in their order.

    Empty where those of any are missing, as in runs of an older p3kit: a label that leaves a candidate out is too kind.
    Raises P3kitError naming a damaged file.
    """
    steps = [int(event["global_step"]) for event in evaluations if event.get("split", "validation") == "validation"]
    files = {histogram.global_step: histogram for histogram in run.histograms("returns", agent)}
    if any(step not in files for step in steps):
        return []
    found = []
    for step in dict.fromkeys(steps):
        try:
            found.append(Candidate.from_json(files[step].data))
        except (KeyError, TypeError, ValueError) as error:
            what = f"does not hold the returns of an evaluation ({type(error).__name__}: {error})"
            raise P3kitError(str(files[step].path), what, "delete the file; the agent is then not judged") from error
    return found


def judge_evaluations(
    run: RunDir, plan: Mapping[str, Any], evaluations: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Judge the chosen evaluation as the best of all of an agent; None where the returns of any are missing.

    `plan` is the agent's entry in run.json.
    """
    candidates = read_candidates(run, plan["name"], evaluations)
    place = [i for i, one in enumerate(candidates) if one.global_step == chosen["global_step"]]
    if not place:
        return None
    return judge(candidates, place[-1], planned_over_made(plan, evaluations))


def planned_over_made(plan: Mapping[str, Any], evaluations: Sequence[Mapping[str, Any]]) -> float:
    """Ratio of the evaluations of a training to its last step over those made."""
    last = max((int(event["global_step"]) for event in evaluations), default=0)
    total = int(plan.get("total_timesteps") or last)
    return max(1.0, total / last) if last else 1.0
