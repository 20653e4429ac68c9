"""What was checked, how it came out, and the table of it.

A check is a `with` block: an exception or a deviation beyond the tolerance fails it, and the next one goes on.
"""

from __future__ import annotations

import sys
import time
import traceback
from dataclasses import dataclass
from types import TracebackType

import numpy as np

# Engines round differently; over a minute of recurrent steps the sums still agree this well.
TOLERANCE = 1e-4


class Mismatch(Exception):
    """What came is not what should have come."""


def expect(condition: bool, message: str) -> None:
    """Fails the check with `message` unless `condition` holds."""
    if not condition:
        raise Mismatch(message)


def expect_equal(found: object, wanted: object, what: str) -> None:
    """Fails the check unless both are equal."""
    if found != wanted:
        raise Mismatch(f"{what} is {found!r} instead of {wanted!r}")


@dataclass
class Result:
    """How one check came out."""

    name: str
    outcome: str
    deviation: float | None
    seconds: float
    message: str


class Skipped(Exception):
    """The check does not apply here; says why."""


class Check:
    """One check on its way."""

    def __init__(self, report: Report, name: str) -> None:
        self.report = report
        self.name = name
        self.greatest: float | None = None
        self.remark = ""

    def __enter__(self) -> Check:
        self.began = time.monotonic()
        return self

    def close_to(self, found: np.ndarray | None, wanted: np.ndarray, what: str, tolerance: float = TOLERANCE) -> None:
        """Compares numbers, and remembers how far apart they were at most."""
        if found is None:
            raise Mismatch(f"{what} is missing")
        found, wanted = np.asarray(found), np.asarray(wanted)
        if found.shape != wanted.shape:
            raise Mismatch(f"{what} has shape {list(found.shape)} instead of {list(wanted.shape)}")
        apart = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
        worst = float(apart.max()) if apart.size else 0.0
        self.greatest = max(self.greatest or 0.0, worst)
        # Written so that NaN fails.
        if not worst <= tolerance:
            place = [int(index) for index in np.unravel_index(int(np.argmax(apart)), apart.shape)]
            raise Mismatch(f"{what} is off by {worst:.3g} at {place}")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> bool:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            return False
        seconds = time.monotonic() - self.began
        outcome, message = "ok", self.remark
        if isinstance(error, Skipped):
            outcome, message = "skipped", str(error)
        elif error is not None:
            outcome, message = "FAILED", f"{type(error).__name__}: {error}"
            if not isinstance(error, Mismatch):
                traceback.print_exception(kind, error, trace)
        self.report.add(Result(self.name, outcome, self.greatest, seconds, message))
        return True


class Report:
    """All results, in order."""

    def __init__(self) -> None:
        self.results: list[Result] = []

    def check(self, name: str) -> Check:
        """A check to be entered by `with`."""
        return Check(self, name)

    def add(self, result: Result) -> None:
        """Takes a result and says at once if it is a failure."""
        self.results.append(result)
        if result.outcome == "FAILED":
            print(f"FAILED: {result.name}: {result.message}", file=sys.stderr, flush=True)

    def failures(self) -> int:
        """How many checks failed."""
        return sum(result.outcome == "FAILED" for result in self.results)

    def table(self) -> str:
        """Every check in a line of its own."""
        width = max((len(result.name) for result in self.results), default=5)
        lines = [f"{'check':<{width}}  outcome  greatest deviation  seconds"]
        for result in self.results:
            deviation = "" if result.deviation is None else f"{result.deviation:.2e}"
            line = f"{result.name:<{width}}  {result.outcome:<7}  {deviation:>18}  {result.seconds:>7.1f}"
            lines.append(f"{line}  {result.message}".rstrip())
        outcomes = [result.outcome for result in self.results]
        counts = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in ["ok", "FAILED", "skipped"])
        return "\n".join([*lines, "", counts])
