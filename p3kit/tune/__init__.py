"""Search: which values of a spec do best? A sweep asks Optuna for settings, trains each as ordinary runs, and tells it
what came out.

study.py     the sweep's folder, its journal, and what only Optuna knows: which values next, prune or not, what mattered
sweep.py     trials as runs: made, judged while they train, told; what a kill left behind
display.py     what a person sees meanwhile
results.py   what the trials add up to: table, winner, JSON
pictures.py  history, importance, parallel coordinates, slices

Optuna is imported inside functions only.
"""

from p3kit.tune.results import Result, conclude, result_lines
from p3kit.tune.study import SweepDir, TrialRecord
from p3kit.tune.sweep import Sweep, begin, go_on

__all__ = ["Result", "Sweep", "SweepDir", "TrialRecord", "begin", "conclude", "go_on", "result_lines"]
