"""`python -m tests.validate_specs`: every shipped spec is valid. For pre-commit; reads no data file."""

from __future__ import annotations

import sys

from p3kit.errors import SpecError
from p3kit.spec import load_spec, shipped_specs


def main() -> int:
    """The number of wrong specs; their faults on stderr."""
    wrong = 0
    for path in shipped_specs():
        try:
            load_spec(path)
        except SpecError as error:
            print(error, file=sys.stderr)
            wrong += 1
    return wrong


if __name__ == "__main__":
    sys.exit(main())
