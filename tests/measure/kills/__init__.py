"""Kill it anywhere, resume it, and compare with an undisturbed run.

__main__.py   the runner: `python -m tests.measure.kills --kills 100`, or `tox -e kill`
die.py        a trainer that kills itself at a chosen place, the nth time it gets there
"""
