"""A batch in pieces that fit into memory, whose gradients add up to that of the batch.

    optimizer.zero_grad()
    for rows, share, attempt in pieces(len(batch), undo=optimizer.zero_grad):
        with attempt:
            (loss(batch[rows]) * share).backward()

Where memory runs out inside `with attempt`, and an intervention allows a retry, `undo` is called and the batch begins
again from its first row, in smaller pieces. Later batches keep the smaller size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType


class Attempt:
    """Catches a RuntimeError that `shrink` takes: it is called with the error, and raises it again or returns."""

    def __init__(self, shrink: Callable[[RuntimeError], None]) -> None:
        self._shrink = shrink
        self.failed = False

    def __enter__(self) -> None:
        self.failed = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, RuntimeError):
            return False
        self._shrink(error)
        self.failed = True
        return True


class Pieces:
    """Splits batches into pieces of at most `size` rows. `smaller(size, error)` returns the size to try after a refused
    allocation, or raises the error again."""

    def __init__(self, size: int, smaller: Callable[[int, RuntimeError], int]) -> None:
        self.size = size
        self._smaller = smaller

    def __call__(self, rows: int, undo: Callable[[], object] = lambda: None) -> Iterator[tuple[slice, float, Attempt]]:
        """(slice of the batch, its share of the batch, context manager for the work on it) per piece."""
        attempt = Attempt(self._shrink)
        begin = 0
        while begin < rows:
            end = min(begin + self.size, rows)
            yield slice(begin, end), (end - begin) / rows, attempt
            begin = end
            if attempt.failed:
                begin, attempt.failed = 0, False
                undo()

    def _shrink(self, error: RuntimeError) -> None:
        self.size = self._smaller(self.size, error)
