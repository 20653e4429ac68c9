"""Runs every conformance check against one server and prints the table; `tests/conformance/run` prepares all of it.

    tests/conformance/run [--quick] [--only reference,triton,kserve,malformed] [--only-models]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

import make_models
import malformed
import oracle
import reference
import triton_client
from checks import Report, expect, expect_equal
from server import Suzu

REPOSITORY = Path(__file__).resolve().parents[2]
PARTS = ["reference", "triton", "kserve", "malformed"]


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description="Holds Suzu against ONNX Runtime, tritonclient and kserve.")
    parser.add_argument("--binary", type=Path, required=True, help="the suzu binary")
    parser.add_argument("--work", type=Path, required=True, help="where models and the log go")
    parser.add_argument("--quick", action="store_true", help="6 seconds of audio in each stream instead of a minute")
    parser.add_argument("--only-models", action="store_true", help="make the models, for the benches, and test nothing")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--engine", choices=["rten", "onnxruntime"], default="rten",
                        help="what the server computes with by its configuration (SUZU_... variables reach it)")
    return parser.parse_args()


def check_all(report: Report, suzu: Suzu, models: dict[str, make_models.Made], asked: argparse.Namespace) -> None:
    """The parts that were asked for, in their order."""
    parts = asked.only.split(",")
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        sys.exit(f"--only does not know {unknown}; it knows {PARTS}")
    if "malformed" in parts:
        malformed.run(report, suzu.address)
    if "triton" in parts:
        triton_client.run(report, suzu.address, models, asked.work / "models")
    if "kserve" in parts:
        # The package reads the command line when it is imported, so it comes last and finds none.
        sys.argv = sys.argv[:1]
        import kserve_client

        kserve_client.run(report, suzu.address, models)
    if "reference" in parts:
        seconds, requests = (6.0, 80) if asked.quick else (60.0, 400)
        reference.run(report, suzu.address, models, oracle.speech(REPOSITORY), seconds, requests)


def main() -> int:
    """Gives the exit code: 0 if all is well."""
    asked = arguments()
    began = time.monotonic()
    folder = asked.work / "models"
    shutil.rmtree(folder, ignore_errors=True)
    types = make_models.BUILTIN_TYPES if asked.engine == "rten" else list(make_models.ELEMENT_TYPES)
    models = make_models.make(folder, types)
    if asked.only_models:
        print(f"{len(models)} models in {folder}")
        return 0
    report = Report()
    with report.check("Silero's file is there"):
        expect("silero" in models, "the package silero-vad is not installed")
    # Ten seconds of audio in JSON are larger than what a server takes unless told, and fifty streams at full speed are more than
    # some hosts have room for at real time.
    settings = ["--models-dir", str(folder), "--body-bytes-max", "16MiB", "--capacity-percent", "0"]
    suzu = Suzu(asked.binary, settings, asked.work / "suzu.log")
    with suzu:
        try:
            check_all(report, suzu, models, asked)
        finally:
            with report.check("the server lives to the end and stops when told"):
                expect_equal(suzu.process.poll(), None, "the exit code before the end")
                expect_equal(suzu.stop(), 0, "the exit code")
    print(report.table())
    print(f"{time.monotonic() - began:.0f} s; the server's log is {suzu.log}")
    return 1 if report.failures() else 0


if __name__ == "__main__":
    sys.exit(main())
