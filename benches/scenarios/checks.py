"""What a scenario says: a bound, what was measured, whether it holds."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Kind(enum.Enum):
    """What a bound is about, which decides whether missing it counts."""

    # Answers are there and right: always counts.
    RIGHT = "right"
    # Memory: counts in the full form, where there are enough clients for a share of each to mean something.
    MEMORY = "memory"
    # Times: count by `--strict` only, for they are those of the machine and whoever else is on it.
    TIME = "time"


@dataclass
class Check:
    """One row of the table. `ok` is None for a figure that has no bound."""

    scenario: str
    holds: str
    measured: str
    ok: bool | None = None
    kind: Kind = Kind.RIGHT


def all_answered(scenario: str, report: dict, share_max: float = 0.0) -> Check:
    """Nothing lost, twice, out of order, wrong, refused or broken, but for a share of everything."""
    messages, rate = report["messages"], report["error_rate"]
    holds = f"errors < {share_max * 100:g} %" if share_max else "no error"
    measured = f"{messages['answered']:,} of {messages['sent']:,} answered, {report['errors']} errors"
    faults = {**report["failures"], **report["warnings"]}
    if faults:
        measured += ": " + ", ".join(f"{kind} ({count})" for kind, count in faults.items())
    wanted = report["connections"]["wanted"] == report["clients"] and messages["sent"] > 0
    ok = wanted and (rate < share_max if share_max else report["errors"] == 0)
    return Check(scenario, holds, measured, ok)


def latency(scenario: str, report: dict, **bounds_ms: float) -> list[Check]:
    """Quantiles and the deviation against bounds in milliseconds: `p99=150`."""
    found = report["latency_ms"]
    return [
        Check(scenario, f"{name} < {bound:g} ms", f"{found[name]:.2f} ms", found[name] < bound, Kind.TIME)
        for name, bound in bounds_ms.items()
    ]


def memory(scenario: str, holds: str, measured: str, ok: bool) -> Check:
    return Check(scenario, holds, measured, ok, Kind.MEMORY)


def told(scenario: str, what: str, measured: str) -> Check:
    """A figure without a bound."""
    return Check(scenario, f"({what})", measured)
