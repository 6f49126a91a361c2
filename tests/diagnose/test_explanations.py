"""Explanations between rows: the way from any raised row ends at a root, whatever is raised and when."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from p3kit.diagnose.diagnosis import explanations
from p3kit.diagnose.evidence import TICK
from p3kit.diagnose.findings import Finding
from p3kit.diagnose.registry import REGISTERED
from p3kit.symptoms import Severity

RAISED = st.dictionaries(
    st.sampled_from(sorted(REGISTERED)),
    st.tuples(st.sampled_from(["critical", "warning", "information"]), st.integers(0, 6)),
    min_size=1,
    max_size=12,
)


def raised(symptom: str, severity: Severity, tick: int) -> Finding:
    return Finding(symptom, "AAPL", "raised", severity, "", since_step=tick * TICK)


@settings(max_examples=300)
@given(RAISED)
def test_the_way_from_any_row_ends_at_a_root_and_from_an_alarm_at_an_alarm(
    drawn: dict[str, tuple[Severity, int]],
) -> None:
    findings = {symptom: raised(symptom, *how) for symptom, how in drawn.items()}
    found = explanations(findings)
    assert set(found) == set(findings)
    for symptom, finding in findings.items():
        way = [symptom]
        while (above := found[way[-1]]) is not None:
            assert above not in way
            way.append(above)
            assert findings[above].alarming or not finding.alarming


def test_of_rows_that_explain_each_other_the_earliest_is_the_root() -> None:
    """A spoilt rollout buffer raised both; each followed from the other, and the run had no root row."""
    rows = {
        "env.mismatch": raised("env.mismatch", "critical", 1),
        "ppo.ratio_ne_1": raised("ppo.ratio_ne_1", "critical", 2),
    }
    assert explanations(rows) == {"env.mismatch": None, "ppo.ratio_ne_1": "env.mismatch"}


def test_information_explains_no_alarm() -> None:
    for severity, root in (("information", None), ("warning", "reward.scale")):
        rows = {"reward.scale": raised("reward.scale", severity, 0), "opt.grad": raised("opt.grad", "critical", 3)}  # type: ignore[arg-type]
        assert explanations(rows)["opt.grad"] == root
