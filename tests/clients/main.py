"""Clients that people use, against a server with TLS and credentials. Started by `run` beside this file."""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.server
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import wave
from pathlib import Path

HERE = Path(__file__).resolve().parent
SPEECH = HERE.parent / "data/speech-clean.wav"
TIMEOUT_S = 60
QUERY = "model=vad&sample_rate={rate}"


class Skipped(Exception):
    """The client is not installed here."""


class Failed(Exception):
    """The client did not get what it should."""


def expect(holds: bool, what: object) -> None:
    if not holds:
        raise Failed(str(what))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def run(*command: object, check: bool = True, timeout: float = TIMEOUT_S) -> str:
    words = [str(part) for part in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout)
    if check and done.returncode != 0:
        raise Failed(f"{words[0]} ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    return done.stdout


class World:
    """Two servers, one with TLS and one without, that take the same credentials."""

    def __init__(self, binary: Path, work: Path) -> None:
        self.binary, self.work = binary, work
        self.processes: list[subprocess.Popen] = []
        self.certificate, self.key = work / "chain.pem", work / "key.pem"
        run(
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", 2,
            "-keyout", self.key, "-out", self.certificate, "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE",
        )
        (work / "secret").write_text("0123456789abcdef0123456789abcdef")
        credentials = work / "credentials.toml"
        credentials.write_text('[[jwt]]\nid = "users"\nalgorithm = "HS256"\nsecret_file = "secret"\nscopes = ["stream", "infer"]\n')
        self.api_key = run(binary, "token", "key", "--id", "client", "--append", credentials).strip()
        self.token = run(
            binary, "token", "jwt", "--secret-file", work / "secret", "--subject", "alice", "--expires-in", "4min"
        ).strip()
        self.page_port = free_port()
        common = [
            "--credentials-file", credentials, "--models-dir", "", "--trusted-proxies", "127.0.0.1",
            "--allowed-origins", f"http://localhost:{self.page_port}",
        ]
        self.tls = self.serve("tls", *common, "--tls-certificate", self.certificate, "--tls-key", self.key)
        self.plain = self.serve("plain", *common)

    def serve(self, name: str, *options: object) -> int:
        port, log = free_port(), self.work / f"{name}.log"
        command = [self.binary, "serve", "--port", port, *options]
        with log.open("wb") as out:
            process = subprocess.Popen([str(part) for part in command], env={}, stdout=out, stderr=out)
        self.processes.append(process)
        wait_for(port, log)
        return port

    def end(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            expect(process.wait(TIMEOUT_S) == 0, f"{process.args[0]} ended with {process.returncode}")


def wait_for(port: int, log: Path) -> None:
    until = time.monotonic() + TIMEOUT_S
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise Failed(f"nobody listens on {port}; see {log}")


def check_termination(termination: dict, seconds: float) -> str:
    """All audio was processed and the balance is right."""
    received, processed = termination["audio_received_ms"], termination["processed_ms"]
    expect(abs(received - seconds * 1000) < 1 and processed == received, termination)
    expect(termination["results"] > 0, termination)
    return f"{termination['results']} results of {seconds:.1f} s"


def curl(world: World) -> str:
    """HTTP/1.1 over TLS, both kinds of credentials, and a recording."""
    if not shutil.which("curl"):
        raise Skipped("curl")
    ask = functools.partial(run, "curl", "--silent", "--show-error", "--cacert", world.certificate, "--max-time", 30)
    base = f"https://localhost:{world.tls}"
    status = lambda *options: ask("--output", "/dev/null", "--write-out", "%{http_code} %{http_version}", *options)
    expect(status(f"{base}/health/ready") == "200 1.1", "health")
    expect(status(f"{base}/v1/models") == "401 1.1", "no credentials")
    expect(status("-H", f"X-API-Key: {world.api_key}x", f"{base}/v1/models") == "401 1.1", "a wrong key")
    expect(status("-H", f"X-API-Key: {world.api_key}", f"{base}/v1/models") == "200 1.1", "a key")
    bearer = ["-H", f"Authorization: Bearer {world.token}", "-H", "Content-Type: audio/wav"]
    answer = json.loads(ask(*bearer, "--data-binary", f"@{SPEECH}", f"{base}/v1/models/vad"))
    expect(len(answer["results"]) > 0, answer)
    return f"health, 401, key, token, {len(answer['results'])} results of a recording"


async def stream_with_websockets(url: str, world: World, headers: dict, subprotocols: list[str] | None) -> str:
    import ssl

    import websockets

    trust = ssl.create_default_context(cafile=str(world.certificate))
    with wave.open(str(SPEECH)) as recording:
        rate, frames = recording.getframerate(), recording.getnframes()
        audio = recording.readframes(frames)
    url = f"{url}?{QUERY.format(rate=rate)}"
    options = {"ssl": trust, "additional_headers": headers, "subprotocols": subprotocols}
    async with websockets.connect(url, **options) as socket_:
        step = rate // 5 * 2
        for begin in range(0, len(audio), step):
            await socket_.send(audio[begin : begin + step])
        await socket_.send(json.dumps({"type": "CloseStream"}))
        async for message in socket_:
            told = json.loads(message)
            if told["type"] == "Termination":
                return check_termination(told, frames / rate)
    raise Failed("the stream ended without Termination")


def python(world: World) -> str:
    """Python's websockets over wss: token in a field and in a subprotocol, and a refusal."""
    try:
        import asyncio

        import websockets
    except ImportError:
        raise Skipped("websockets (pip)") from None
    url = f"wss://localhost:{world.tls}/v1/stream"
    told = asyncio.run(stream_with_websockets(url, world, {"Authorization": f"Bearer {world.token}"}, None))
    asyncio.run(stream_with_websockets(url, world, {}, ["suzu.v1", f"token.{world.token}"]))
    try:
        asyncio.run(stream_with_websockets(url, world, {}, None))
    except websockets.exceptions.InvalidStatus as refused:
        expect(refused.response.status_code == 401, refused)
    else:
        raise Failed("a stream opened without credentials")
    return f"{told}, field and subprotocol, 401"


def node(world: World) -> str:
    """Node's ws over wss."""
    if not shutil.which("node") or not (world.work / "node_modules/ws").exists():
        raise Skipped("node with ws (npm)")
    environment = {**os.environ, "NODE_PATH": str(world.work / "node_modules")}
    command = [
        "node", str(HERE / "client.js"), f"wss://localhost:{world.tls}/v1/stream", str(SPEECH), world.token,
        str(world.certificate),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment)
    expect(done.returncode == 0, done.stderr.strip()[-400:])
    told = json.loads(done.stdout)
    return check_termination(told["termination"], told["seconds"])


class Page(http.server.SimpleHTTPRequestHandler):
    """The page and the recording, and what the page tells at its end; nothing in the log."""

    told: queue.Queue[dict] = queue.Queue()

    def do_POST(self) -> None:
        self.told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def chromium(world: World) -> str:
    """A page of an allowed origin: fetch with CORS, a stream with the token in a subprotocol; one of another origin."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        raise Skipped("chromium")
    site = world.work / "site"
    site.mkdir(exist_ok=True)
    shutil.copyfile(HERE / "page.html", site / "page.html")
    shutil.copyfile(SPEECH, site / "speech.wav")
    handler = functools.partial(Page, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", world.page_port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        own = look_at(browser, world, f"http://localhost:{world.page_port}")
        expect("error" not in own, own)
        told = check_termination(own["termination"], own["seconds"])
        expect(own["protocol"] == "suzu.v1" and own["models"] > 0, own)
        stranger = look_at(browser, world, f"http://127.0.0.1:{world.page_port}")
        expect(stranger.get("fetch") == "refused" and stranger.get("socket") == "refused", stranger)
    finally:
        server.shutdown()
    return f"{told}; fetch and WebSocket of another origin refused"


def look_at(browser: str, world: World, origin: str) -> dict:
    url = f"{origin}/page.html?port={world.plain}&token={world.token}"
    profile = world.work / "chromium"
    command = [
        browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        f"--user-data-dir={profile}", url,
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return Page.told.get(timeout=TIMEOUT_S)
    except queue.Empty:
        raise Failed("the page did not come to its end") from None
    finally:
        process.terminate()
        process.wait(TIMEOUT_S)


def nginx(world: World) -> str:
    """nginx ends TLS and names the client; HTTP and WebSocket go on to the plain port."""
    program = shutil.which("nginx") or (Path("/usr/sbin/nginx").exists() and "/usr/sbin/nginx")
    if not program:
        raise Skipped("nginx")
    folder, port = world.work / "nginx", free_port()
    folder.mkdir(exist_ok=True)
    text = (HERE / "nginx.conf").read_text()
    places = {
        "FOLDER": folder, "PORT": port, "CERTIFICATE": world.certificate, "KEY": world.key, "SUZU": f"127.0.0.1:{world.plain}",
    }
    for name, value in places.items():
        text = text.replace(f"@{name}@", str(value))
    (folder / "nginx.conf").write_text(text)
    process = subprocess.Popen(
        [program, "-p", str(folder), "-c", str(folder / "nginx.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(port, folder / "error.log")
        ask = functools.partial(run, "curl", "--silent", "--cacert", world.certificate, "--max-time", 30)
        expect(json.loads(ask(f"https://localhost:{port}/health/ready"))["status"] == "ok", "health")
        import asyncio

        headers = {"Authorization": f"Bearer {world.token}"}
        url = f"wss://localhost:{port}/v1/stream"
        return asyncio.run(stream_with_websockets(url, world, headers, None))
    except ImportError:
        raise Skipped("websockets (pip)") from None
    finally:
        process.terminate()
        process.wait(TIMEOUT_S)


CLIENTS = {client.__name__: client for client in [curl, python, node, chromium, nginx]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("names", nargs="*", help=", ".join(CLIENTS))
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in CLIENTS]
    if unknown:
        parser.error(f"there is no client {', '.join(unknown)}; there are {', '.join(CLIENTS)}")
    failed = False
    world = World(options.binary, options.work)
    for name in options.names or CLIENTS:
        try:
            print(f"ok       {name:10} {CLIENTS[name](world)}")
        except Skipped as missing:
            print(f"skipped  {name:10} {missing} is not installed")
        except Exception as problem:  # Whatever it is, the others have their turn.
            failed = True
            print(f"FAILED   {name:10} {type(problem).__name__}: {problem}")
    world.end()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
