"""The rule engine: when each `[[intervention]]` of a spec acts while a run trains, and what it changes."""

from p3kit.interventions.decision import STRICT, Check, Decision, SymptomChange
from p3kit.interventions.engine import Engine
from p3kit.interventions.member import Member, good_name
from p3kit.interventions.modifiers import Clock, Modifier, effective
from p3kit.interventions.probation import snapshot_name
from p3kit.interventions.record import Record

__all__ = [
    "STRICT",
    "Check",
    "Clock",
    "Decision",
    "Engine",
    "Member",
    "Modifier",
    "Record",
    "SymptomChange",
    "effective",
    "good_name",
    "snapshot_name",
]
