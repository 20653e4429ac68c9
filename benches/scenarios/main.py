"""Runs the scenarios one after the other and prints one table: what must hold, what was measured, the verdict."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from pathlib import Path
from typing import Iterable

from checks import Check, Kind
from scenarios import SCENARIOS
from server import Bench, Failed, cores

HEAD = ("scenario", "what must hold", "measured", "verdict")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog="names: " + ", ".join(SCENARIOS))
    parser.add_argument("names", nargs="*", metavar="NAME", help="scenarios to run; without any, all")
    parser.add_argument("--quick", action="store_true", help="a few seconds in all; only what is right or wrong counts")
    parser.add_argument("--strict", action="store_true", help="fail on times above their bounds too")
    parser.add_argument("--binary", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, required=True, help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in SCENARIOS]
    if unknown:
        parser.error(f"there is no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    return options


def verdict(check: Check, counts: Iterable[Kind]) -> str:
    if check.ok is None:
        return ""
    if check.ok:
        return "ok"
    return "MISSED" if check.kind in counts else "over"


def main() -> int:
    options = arguments()
    counts = {Kind.RIGHT}
    if not options.quick:
        counts.add(Kind.MEMORY)
    if options.strict:
        counts.add(Kind.TIME)
    options.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(options.binary.resolve(), options.work.resolve(), options.quick)
    server, others = cores()
    print(f"{options.binary}, server on core {server}, load on {', '.join(map(str, others))} of {os.cpu_count()}")
    rows, missed = [], 0
    for name in options.names or SCENARIOS:
        print(f"  {name} ...", file=sys.stderr, flush=True)
        try:
            checks = SCENARIOS[name](bench)
        except Failed as failure:
            checks = [Check(name, "it can be run", str(failure), ok=False)]
        except Exception:
            traceback.print_exc()
            checks = [Check(name, "it can be run", "see above", ok=False)]
        for check in checks:
            said = verdict(check, counts)
            missed += said == "MISSED"
            rows.append((check.scenario, check.holds, check.measured, said))
    table(rows)
    over = sum(row[3] == "over" for row in rows)
    if over:
        why = "in the quick form" if options.quick else "without --strict"
        print(f"\n{over} over their bounds, which does not count {why}")
    if missed:
        print(f"\n{missed} MISSED; logs and figures are in {options.work}")
    return int(missed > 0)


def table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in [HEAD, *rows]) for column in range(len(HEAD))]
    line = lambda row: print("| " + " | ".join(text.ljust(width) for text, width in zip(row, widths)) + " |")
    line(HEAD)
    print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    for row in rows:
        line(row)


if __name__ == "__main__":
    sys.exit(main())
