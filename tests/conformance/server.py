"""A Suzu process to be tested: started on a free port, waited for, and ended whatever happens."""

from __future__ import annotations

import http.client
import re
import subprocess
import time
from pathlib import Path
from types import TracebackType

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 20.0


class Suzu:
    """`suzu serve`, used by `with`. Its log goes to a file."""

    def __init__(self, binary: Path, arguments: list[str], log: Path) -> None:
        self.log = log
        self.command = [str(binary), "serve", "--host", "127.0.0.1", "--port", "0", *arguments]
        self.address = ""

    def __enter__(self) -> Suzu:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.wait_until_ready()
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        return self

    def wait_until_ready(self) -> None:
        """Polls the log for the address, then the server for its health."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"suzu ended with {self.process.returncode} at its start:\n{self.log_text()}")
            found = re.search(r"listening on http://([\d.]+:\d+)", self.log_text())
            if found:
                self.address = found.group(1)
                if self.status_of("/health/ready") == 200:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"suzu is not ready after {START_SECONDS_MAX} s:\n{self.log_text()}")

    def status_of(self, path: str) -> int | None:
        """The status of a GET; `None` if nobody answers."""
        connection = http.client.HTTPConnection(self.address, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return None
        finally:
            connection.close()

    def log_text(self) -> str:
        """What the process has said so far."""
        return self.log.read_text(errors="replace")

    def stop(self) -> int:
        """Ends the process in the polite way and gives its exit code; kills it if it takes too long."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.stop()
