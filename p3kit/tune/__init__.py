"""Search for the best values of a spec.

A sweep gets settings from Optuna, trains each as ordinary runs, and reports the results back.

sweep_folder.py     the folder of a sweep: name, files, lock
search_space.py     spec values as Optuna's distributions, and back
study.py            the journal: next values, pruning, importance
sweep_start.py      begin a sweep or go on with one: checks first
sweep.py, trial.py  trials as runs: created, judged while they train, reported
display.py            progress on a terminal
conclusion.py       export the winner and draw the pictures
result_*.py         the result as data, as a terminal page, as pictures

Optuna is imported inside functions only.
"""

from p3kit.tune.conclusion import conclude
from p3kit.tune.result_data import Result
from p3kit.tune.result_page import result_lines
from p3kit.tune.study import TrialRecord
from p3kit.tune.sweep import Sweep
from p3kit.tune.sweep_folder import SweepDir
from p3kit.tune.sweep_start import begin, go_on

__all__ = ["Result", "Sweep", "SweepDir", "TrialRecord", "begin", "conclude", "go_on", "result_lines"]
