"""The scenarios: which load, and what must hold."""

from __future__ import annotations

import http.client
import shutil
import socket
import statistics
import time
from pathlib import Path

from checks import Check, Kind, all_answered, latency, memory, told
from server import Bench, Failed, Server, descriptors_max, stop

DENSE = Path(__file__).resolve().parents[2] / "tests/data/models/dense.onnx"
# Descriptors that a process needs beside its connections.
DESCRIPTORS_BESIDE = 200
START_POLL_S = 0.0002
START_TIMEOUT_S = 10


def with_dense(bench: Bench, name: str):
    """A server with a model of two small layers, which remembers nothing."""
    folder = bench.work / "models/dense/1"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(DENSE, folder / "model.onnx")
    return bench.server(name, "--models-dir", bench.work / "models")


def infer(server: Server, name: str, form: str, *options: object) -> dict:
    return server.load(name, "/v2/models/dense/infer", "--form", form, *options, scheme="http")


def cpu(scenario: str, report: dict) -> Check:
    used = report["server"]
    measured = f"{used['cpu_share'] * 100:.0f} % of a core, {used['cpu_us_per_message']:.1f} us each"
    return told(scenario, "server's CPU", measured)


def requests(bench: Bench) -> list[Check]:
    """5,000 requests for inference a second on one core: 100 clients, each 50 a second, on kept connections."""
    clients, duration = (20, "1s") if bench.quick else (100, "15s")
    checks = []
    with with_dense(bench, "requests") as server:
        for form in ["json", "binary"]:
            name = f"requests {form}"
            report = infer(server, f"requests-{form}", form, "-c", clients, "--interval", "20ms", "-d", duration)
            rate, due = report["throughput_per_second"], clients * 50
            checks += [
                all_answered(name, report, 0.001),
                Check(name, f"{due:,} answers/s", f"{rate:,.0f}/s", rate > due * 0.99, Kind.TIME),
                *latency(name, report, p50=30, p99=150),
                cpu(name, report),
            ]
    return checks


def users(bench: Bench) -> list[Check]:
    """100 users with ten requests each."""
    interval = "20ms" if bench.quick else "100ms"
    with with_dense(bench, "users") as server:
        report = infer(server, "users", "json", "-c", 100, "--chunks", 10, "--interval", interval)
    return [all_answered("users", report), *latency("users", report, p95=200)]


def hour(bench: Bench) -> list[Check]:
    """Ten clients with the requests of an hour at one a second each, a hundred times as fast."""
    first, rest, interval = (100, 100, "5ms") if bench.quick else (100, 3_500, "10ms")
    with with_dense(bench, "hour") as server:
        run = lambda name, count: infer(server, name, "json", "-c", 10, "--chunks", count, "--interval", interval)
        before = server.resident_bytes()
        begun = run("hour-first", first)
        early = server.resident_bytes()
        report = run("hour", rest)
        late = server.resident_bytes()
    grown, later = late - before, late - early
    return [
        all_answered("hour, first 1,000", begun),
        all_answered("hour", report),
        *latency("hour", report, p99=100, stdev=10),
        memory("hour", "memory grows < 10 MB", f"{grown / 1e6:+.2f} MB to {late / 1e6:.2f} MB", grown < 10e6),
        # Pages that are touched for the first time now and then are no leak: seven bytes a request would be seen.
        memory("hour", "< 256 KiB after the first 1,000", f"{later / 1024:+.0f} KiB", later < 256 * 1024),
    ]


def ramps(bench: Bench) -> list[Check]:
    """Clients that come at 5, 10, 15 and 20 a second until all are there at once, with ten heartbeats each."""
    crowds, rates, at_least_s = ([10], [20], 0.1) if bench.quick else ([50, 100, 200], [5, 10, 15, 20], 0.5)
    checks = []
    # At 5 a second clients stay for longer than a stream may go without audio by default, and a `Ping` is no audio.
    with bench.server("ramps", "--audio-idle-timeout", "2min") as server:
        for clients in crowds:
            name, reports, peaks = f"ramps {clients}", [], []
            for rate in rates:
                # The first must not have sent its tenth before the last has come.
                interval_s = max(at_least_s, clients / rate / 8)
                beside = server.descriptors()
                with server.watched() as found:
                    reports.append(
                        server.load(
                            f"ramps-{clients}-{rate}", "/v1/stream", "--heartbeat", "-c", clients, "--connect-rate", rate,
                            "--chunks", 10, "--interval", f"{interval_s * 1e3:.0f}ms", "-m", "echo",
                        )
                    )
                peaks.append(found["peak"] - beside)
            p99, most = (max(report["latency_ms"][key] for report in reports) for key in ["p99", "max"])
            checks += [
                *(all_answered(f"{name} at {rate}/s", report) for rate, report in zip(rates, reports)),
                Check(name, "all at once", f"{min(peaks)}", min(peaks) >= clients),
                Check(name, "p99 < 50 ms", f"{p99:.2f} ms, max {most:.2f} ms", p99 < 50, Kind.TIME),
            ]
    return checks


def streams(bench: Bench) -> list[Check]:
    """1,000 live streams through `vad` at real time."""
    clients, duration = (50, "2s") if bench.quick else (1_000, "30s")
    # How they fare is the question, on whatever host.
    with bench.server("streams", "--capacity-percent", 0) as server:
        report = server.load("streams", "/v1/stream", "-m", "vad", "-c", clients, "-d", duration)
    audio, used, found = report["audio"], report["server"], report["latency_ms"]
    discarded = f"{audio['discarded_s']:.1f} of {audio['sent_s']:,.1f} s"
    each = (used["resident_bytes_loaded"] - used["resident_bytes_before"]) / clients
    return [
        all_answered("streams", report),
        Check("streams", "nothing discarded", discarded, audio["discarded_s"] == 0),
        Check("streams", "every balance is right", f"{report['ledgers_off']} off", report["ledgers_off"] == 0),
        memory("streams", "memory of each <= 16 KiB", f"{each / 1024:.1f} KiB", each <= 16 * 1024),
        told("streams", "added latency", f"p50 {found['p50']:.2f}, p99 {found['p99']:.2f}, max {found['max']:.2f} ms"),
        cpu("streams", report),
    ]


def idle(bench: Bench) -> list[Check]:
    """15,000 WebSockets that have exchanged a message and rest, for longer than the interval of pings."""
    clients, duration = (500, "1s") if bench.quick else (15_000, "30s")
    allowed = descriptors_max()
    needed = clients + DESCRIPTORS_BESIDE
    if allowed < needed:
        raise Failed(f"{clients} connections need {needed} open files, {allowed} are allowed: raise ulimit -n")
    with bench.server("idle", "--connections-max", 16_000) as server:
        report = server.load("idle", "/v1/echo", "--idle", "-c", clients, "-d", duration)
    used, opened = report["server"], report["connections"]["opened"]
    resident = used["resident_bytes_loaded"]
    each = (resident - used["resident_bytes_before"]) / clients
    return [
        all_answered("idle", report),
        Check("idle", f"{clients:,} open", f"{opened:,}", opened == clients),
        memory("idle", "resident < 20 MB", f"{resident / 1e6:.1f} MB, {each:.0f} bytes each", resident < 20e6),
        told("idle", "CPU of a handshake and a message", f"{used['cpu_us_per_connection']:.1f} us"),
        told("idle", "CPU at rest", f"{used['cpu_share'] * 100:.2f} % of a core"),
    ]


def credentials(bench: Bench) -> list[Check]:
    """200 clients that come at once, each with a JSON Web Token, by a shared secret and by a public key."""
    clients = 50 if bench.quick else 200
    folder = bench.work / "credentials"
    folder.mkdir(exist_ok=True)
    keys = DENSE.parents[1] / "keys"
    (folder / "secret").write_text("0123456789abcdef0123456789abcdef")
    (folder / "credentials.toml").write_text(
        '[[jwt]]\nid = "shared"\nalgorithm = "HS256"\nsecret_file = "secret"\nscopes = ["stream"]\n'
        f'[[jwt]]\nid = "public"\nalgorithm = "ES256"\npublic_key_file = "{keys}/es256.pub.pem"\nscopes = ["stream"]\n'
    )
    keys_of = {"HS256": ["--secret-file", folder / "secret"], "ES256": ["--private-key-file", keys / "es256.pem"]}
    checks = []
    with bench.server("credentials", "--credentials-file", folder / "credentials.toml") as server:
        for algorithm, key in keys_of.items():
            token = bench.run("token", "jwt", "--algorithm", algorithm, "--subject", "alice", *key).strip()
            name = f"credentials {algorithm}"
            report = server.load(f"credentials-{algorithm}", "/v1/stream", "-c", clients, "-d", "1s", "--token", token)
            p99 = report["connections"]["latency_ms"]["p99"]
            checks += [
                all_answered(name, report),
                Check(name, f"{clients} at once, set-up p99 < 100 ms", f"{p99:.2f} ms", p99 < 100, Kind.TIME),
            ]
    return checks


def overload(bench: Bench) -> list[Check]:
    """Three times the streams that fill a core, at once; who is refused comes again all the while."""
    first, brief, duration = (20, "1s", "2s") if bench.quick else (200, "5s", "20s")
    stream = ["/v1/stream", "-m", "vad"]
    with bench.server("overload-before", "--capacity-percent", 0) as server:
        capacity, most = first, first
        # What fills a core is told by the CPU time of a chunk under load, hence twice.
        for _ in range(0 if bench.quick else 2):
            capacity = round(full(server.load("overload-begun", *stream, "-c", most, "-d", brief)))
            most = round(0.7 * capacity)
        before = server.load("overload-before", *stream, "-c", most, "-d", duration)
    # The quick form need not fill the host to have streams refused.
    with bench.server("overload", *(["--capacity-percent", 1] if bench.quick else [])) as server:
        bound = server.metric("suzu_memory_bound_bytes")
        options = ["-c", 3 * capacity, "-d", duration, "--try-again", "2s"]
        report = server.load("overload", *stream, *options)
        normal_s = server.normal_after()
    p99, p99_before = report["latency_ms"]["p99"], before["latency_ms"]["p99"]
    connections, used, audio = report["connections"], report["server"], report["audio"]
    ratio, refusal_ms = p99 / p99_before, connections["refusal_ms"]["p99"]
    resident = used["resident_bytes_max"]
    kept = report["messages"]["lost"] == 0 and report["messages"]["wrong"] == 0 and report["ledgers_off"] == 0
    measured = f"{report['messages']['sent']:,} chunks, {report['messages']['lost']} lost, {report['ledgers_off']} balances off"
    return [
        Check("overload", "nothing lost, every balance right", measured, kept and not report["failures"]),
        Check("overload", "nothing discarded", f"{audio['discarded_s']:.1f} s", audio["discarded_s"] == 0),
        Check("overload", "some in, some refused", f"{connections['opened']} of {3 * capacity} in, "
              f"{connections['refused']:,} refusals", connections["opened"] > 0 and connections["refused"] > 0),
        Check("overload", "p99 <= 1.5 x that at 70 %", f"{p99:.2f} ms, {p99_before:.2f} ms with {most} streams: {ratio:.2f}",
              ratio <= 1.5, Kind.TIME),
        Check("overload", "refused within 50 ms (p99)", f"{refusal_ms:.1f} ms", refusal_ms < 50, Kind.TIME),
        memory("overload", "resident below the bound", f"{resident / 1e6:.1f} of {bound / 1e6:.0f} MB", resident < bound),
        Check("overload", "normal within 1 s", f"{normal_s * 1e3:.0f} ms", normal_s < 1, Kind.TIME),
        cpu("overload", report),
    ]


def full(report: dict) -> float:
    """How many streams with a chunk every 100 ms fill a core."""
    return 100_000 / report["server"]["cpu_us_per_message"]


def start(bench: Bench) -> list[Check]:
    """From exec to the first answered request."""
    rounds = 3 if bench.quick else 20
    times_ms = [start_once(bench) for _ in range(rounds)]
    size = bench.binary.stat().st_size
    measured = f"median {statistics.median(times_ms):.1f}, max {max(times_ms):.1f} ms of {rounds}"
    return [
        Check("start", "each first answer < 50 ms", measured, max(times_ms) < 50, Kind.TIME),
        told("start", "size of the binary", f"{size / 1e6:.2f} MB"),
    ]


def start_once(bench: Bench) -> float:
    # Free a moment ago; nobody else is likely to take it before the server does.
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    began = time.perf_counter()
    process, log = bench.start("start", port=port)
    try:
        while not is_ready(port):
            if process.poll() is not None or time.perf_counter() - began > START_TIMEOUT_S:
                raise Failed(f"the server did not answer; see {log}")
            time.sleep(START_POLL_S)
        took_ms = (time.perf_counter() - began) * 1e3
    except BaseException:
        process.kill()
        process.wait()
        raise
    stop(process)
    return took_ms


def is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_TIMEOUT_S)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        if answer.status != 200:
            raise Failed(f"/health/ready says {answer.status}")
        return True
    except ConnectionRefusedError:
        return False
    finally:
        connection.close()


ALL = [requests, users, hour, ramps, streams, idle, credentials, overload, start]
SCENARIOS = {run.__name__: run for run in ALL}
