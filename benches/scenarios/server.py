"""The server as a process of its own, and `suzu load` against it.

The server has the first core that this process may use, everything else the others, so neither takes time from the other.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import threading
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 20
LOAD_TIMEOUT_S = 600
POLL_S = 0.02


class Failed(Exception):
    """A scenario that could not be run to its end."""


# Read once: the affinity of this process is that of the others from then on.
_ALLOWED = sorted(os.sched_getaffinity(0))


def cores() -> tuple[int, list[int]]:
    """The server's core, and those of the load. A machine with one core has both on it."""
    return _ALLOWED[0], _ALLOWED[1:] or _ALLOWED


@contextmanager
def on_cores(chosen: list[int]) -> Iterator[None]:
    """Children started in here run on these cores."""
    os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores()[1])


def descriptors_max() -> int:
    """Raises the limit of open files, which children inherit, as far as it goes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@dataclass
class Server:
    """A running server."""

    bench: Bench
    process: subprocess.Popen
    port: int

    @property
    def pid(self) -> int:
        return self.process.pid

    def resident_bytes(self) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise Failed("the server is gone")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def load(self, name: str, path: str, *options: object, scheme: str = "ws") -> dict:
        """Runs `suzu load` and gives what it says."""
        report = self.bench.work / f"{name}.json"
        report.unlink(missing_ok=True)
        command = [self.bench.binary, "load", "--url", f"{scheme}://127.0.0.1:{self.port}{path}", "--server-pid", self.pid]
        command += [*options, "--quiet", "--json", report]
        done = subprocess.run(
            [str(part) for part in command], env={}, capture_output=True, text=True, timeout=LOAD_TIMEOUT_S
        )
        if not report.exists():
            raise Failed(f"suzu load said: {done.stderr.strip()}")
        return json.loads(report.read_text())

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=START_TIMEOUT_S) as answer:
            return answer.read()

    def metric(self, name: str) -> float:
        for line in self.get("/metrics").decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise Failed(f"there is no metric {name}")

    def normal_after(self) -> float:
        """Seconds until nobody is left and it takes streams as before."""
        began = time.monotonic()
        while time.monotonic() - began < START_TIMEOUT_S:
            status = json.loads(self.get("/v1/status"))
            if status["ready"] and status["pressure"]["rung"] == "normal" and not status["streams"]["running"]:
                return time.monotonic() - began
            time.sleep(POLL_S)
        raise Failed("it does not come back to normal")

    @contextmanager
    def watched(self) -> Iterator[dict]:
        """Looks at the descriptors all the while, and leaves the most in `peak`."""
        found, over = {"peak": 0}, threading.Event()

        def look() -> None:
            while not over.wait(POLL_S):
                found["peak"] = max(found["peak"], self.descriptors())

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            yield found
        finally:
            over.set()
            watcher.join()


@dataclass
class Bench:
    """What all scenarios share."""

    binary: Path
    work: Path
    quick: bool

    def start(self, name: str, *options: object, port: int = 0) -> tuple[subprocess.Popen, Path]:
        """Starts the server on its core, with nothing but these options and an empty environment."""
        log = self.work / f"{name}.log"
        empty = self.work / "no-models"
        empty.mkdir(exist_ok=True)
        command = [self.binary, "serve", "--port", port]
        if "--models-dir" not in options:
            command += ["--models-dir", empty]
        command += options
        with log.open("wb") as out, on_cores([cores()[0]]):
            process = subprocess.Popen([str(part) for part in command], env={}, stdout=out, stderr=out, cwd=self.work)
        return process, log

    def run(self, *command: object) -> str:
        """What a command of the binary prints."""
        words = [str(part) for part in (self.binary, *command)]
        done = subprocess.run(words, env={}, capture_output=True, text=True, timeout=LOAD_TIMEOUT_S)
        if done.returncode != 0:
            raise Failed(f"{' '.join(words[:3])} said: {done.stderr.strip()}")
        return done.stdout

    @contextmanager
    def server(self, name: str, *options: object) -> Iterator[Server]:
        """A server that listens; it must end well when asked to."""
        process, log = self.start(name, *options)
        try:
            yield Server(self, process, self._port(process, log))
        except BaseException:
            process.kill()
            process.wait()
            raise
        stop(process)

    @staticmethod
    def _port(process: subprocess.Popen, log: Path) -> int:
        until = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < until and process.poll() is None:
            _, found, rest = log.read_text().partition("listening on http://127.0.0.1:")
            if found and "\n" in rest:
                return int(rest.split("\n")[0])
            time.sleep(POLL_S)
        raise Failed(f"the server did not start; see {log}")


def stop(process: subprocess.Popen) -> None:
    """SIGTERM, and an end with 0."""
    process.terminate()
    try:
        code = process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise Failed("the server did not end") from None
    if code != 0:
        raise Failed(f"the server ended with {code}")
