"""Feed it anything: specs and run directories, damaged in thousands of ways, through the commands that read them.

__main__.py      the runner: `python -m tests.measure.fuzz`, or `tox -e fuzz`
commands.py      a command in this process, and what may never come of it: a traceback, a hang, a wrong exit code
specs.py         specs, changed by their grammar or by their bytes
directories.py   run directories with a file torn, flipped, emptied, edited, exchanged or gone
test_fuzz.py     a slice of it all in every test run, and what was found, kept
"""
