"""Requests that no client library would send, by `http.client` and bare sockets: each is answered or ended, none kills.

Every case ends with a good request, so that a server that was harmed is found by the case that harmed it.
"""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import struct
import zlib
from dataclasses import dataclass, field

import numpy as np

from checks import Mismatch, Report, expect, expect_equal

TIMEOUT_SECONDS = 30.0
PATH = "/v2/models/simple/infer"
HEADER = "Inference-Header-Content-Length"
ROW = np.arange(16, dtype=np.float32)


@dataclass
class Case:
    """A request that is wrong in one way."""

    name: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    path: str = PATH
    statuses: tuple[int, ...] = (400,)


def tensor(name: str, **fields: object) -> dict:
    """An input of `simple` with what is to be different."""
    return {"name": name, "shape": [1, 16], "datatype": "FP32", "data": ROW.tolist(), **fields}


def body(*inputs: dict, **fields: object) -> bytes:
    """A request in JSON."""
    return json.dumps({"inputs": list(inputs), **fields}).encode()


def good() -> bytes:
    """A request with nothing wrong."""
    return body(tensor("INPUT0"), tensor("INPUT1"))


def binary(name: str, head: bytes, tail: bytes, length: object = None, **fields: object) -> Case:
    """A request with a binary part, and the length of its JSON as told."""
    told = len(head) if length is None else length
    return Case(name, head + tail, {HEADER: str(told)}, **fields)


def binary_head(*sizes: object) -> bytes:
    """The JSON of a request whose inputs are in binary and of these sizes."""
    inputs = [{"name": f"INPUT{number}", "shape": [1, 16], "datatype": "FP32", "parameters": {"binary_data_size": size}}
              for number, size in enumerate(sizes)]
    return json.dumps({"inputs": inputs}).encode()


def json_cases() -> list[Case]:
    """Wrong in the JSON."""
    first, second = tensor("INPUT0"), tensor("INPUT1")
    deep = b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    return [
        Case("nothing", b""),
        Case("no JSON", b"hello"),
        Case("half a JSON", good()[:-20]),
        Case("JSON behind the JSON", good() + b"{}"),
        Case("no UTF-8", b'{"inputs": "\xff\xfe"}'),
        Case("a list", b"[]"),
        Case("no inputs", b"{}"),
        Case("inputs that are a text", b'{"inputs": "many"}'),
        Case("a hundred thousand brackets", deep),
        Case("a name twice", body(first, first, second)),
        Case("an input without data", body({key: first[key] for key in ["name", "shape", "datatype"]}, second)),
        Case("an input without a shape", body({key: first[key] for key in ["name", "data", "datatype"]}, second)),
        Case("an unknown type", body(tensor("INPUT0", datatype="FP31"), second)),
        Case("text for numbers", body(tensor("INPUT0", data=["x"] * 16), second)),
        Case("null among numbers", body(tensor("INPUT0", data=[None] + [0] * 15), second)),
        Case("NaN", good().replace(b"0.0", b"NaN", 1)),
        Case("too few elements", body(tensor("INPUT0", data=[0.0] * 15), second)),
        Case("too many elements", body(tensor("INPUT0", data=[0.0] * 17), second)),
        Case("a fraction as a dimension", body(tensor("INPUT0", shape=[1.5, 16]), second)),
        Case("a negative dimension", body(tensor("INPUT0", shape=[-1, 16]), second)),
        Case("dimensions whose product overflows", body(tensor("INPUT0", shape=[2**40, 2**40]), second)),
        Case("a dimension beyond 64 bits", body(tensor("INPUT0", shape=[10**30, 16]), second)),
        Case("a huge number of rows", body(tensor("INPUT0", shape=[2**33, 16]), tensor("INPUT1", shape=[2**33, 16]))),
        Case("no rows, but data", body(tensor("INPUT0", shape=[0, 16]), second)),
        Case("a number of 400 digits", good().replace(b"15.0", b"1" * 400, 1)),
        Case("parameters that are a list", body(first, second, parameters=[])),
        Case("a sequence_id that is a list", body(first, second, parameters={"sequence_id": []})),
    ]


def binary_cases() -> list[Case]:
    """Wrong in the binary part, or in what is said of it."""
    row, head = ROW.tobytes(), binary_head(64, 64)
    text = struct.pack("<I", 2**31) + b"abc"
    bytes_head = json.dumps({"inputs": [{"name": "INPUT0", "shape": [1, 16], "datatype": "BYTES",
                                         "parameters": {"binary_data_size": len(text)}}]}).encode()
    return [
        binary("binary cut short", head, row + row[:60]),
        binary("no binary at all", head, b""),
        binary("binary left over", head, row + row + b"more"),
        binary("a size that is not that of the shape", binary_head(60, 64), row[:60] + row),
        binary("a size of 2^40", binary_head(2**40, 64), row + row),
        binary("a size of 2^63", binary_head(2**63, 64), row + row),
        binary("a size of 2^64", binary_head(2**64, 64), row + row),
        binary("sizes that overflow together", binary_head(2**63, 2**63), row + row),
        binary("a negative size", binary_head(-64, 64), row + row),
        binary("a size that is a text", binary_head("64", 64), row + row),
        binary("a JSON length beyond the body", head, row + row, length=10**6),
        binary("a JSON length of 2^64", head, row + row, length=2**64),
        binary("a negative JSON length", head, row + row, length=-1),
        binary("a JSON length that is a text", head, row + row, length="many"),
        binary("a JSON length of 0", head, row + row, length=0),
        binary("a JSON length within the JSON", head, row + row, length=len(head) - 5),
        binary("a text longer than the body", bytes_head, text),
        Case("binary that nobody announced", head + row + row),
        binary("data in JSON and in binary", body(tensor("INPUT0", parameters={"binary_data_size": 64}), tensor("INPUT1")), row),
    ]


def coding_cases() -> list[Case]:
    """Wrong in the compression."""
    packed, flat = gzip.compress(good()), zlib.compress(good())
    bomb = gzip.compress(b" " * 200_000_000, 9)
    return [
        Case("gzip that is none", b"hello", {"Content-Encoding": "gzip"}),
        Case("gzip cut short", packed[:-10], {"Content-Encoding": "gzip"}),
        Case("gzip with a wrong sum", packed[:-8] + b"\0" * 8, {"Content-Encoding": "gzip"}),
        Case("deflate that is none", b"hello", {"Content-Encoding": "deflate"}),
        Case("deflate cut short", flat[:-6], {"Content-Encoding": "deflate"}),
        Case("an unknown coding", good(), {"Content-Encoding": "br"}, statuses=(400, 415)),
        Case("200 MB of blanks in 200 kB of gzip", bomb, {"Content-Encoding": "gzip"}, statuses=(400, 413)),
    ]


def route_cases() -> list[Case]:
    """Wrong in the path."""
    return [
        Case("an unknown model", good(), path="/v2/models/nobody/infer", statuses=(400, 404)),
        Case("a version that is no number", good(), path="/v2/models/simple/versions/x/infer", statuses=(400, 404)),
        Case("a version of 2^70", good(), path=f"/v2/models/simple/versions/{2**70}/infer", statuses=(400, 404)),
        Case("a model with dots and slashes", good(), path="/v2/models/..%2f..%2fetc/infer", statuses=(400, 404)),
        Case("an unknown verb", good(), path="/v2/models/simple/explain", statuses=(400, 404)),
    ]


def post(address: str, case: Case) -> tuple[int, bytes]:
    """Sends the request as it is and gives status and body of the answer."""
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("POST", case.path, case.body, case.headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def still_serves(address: str) -> None:
    """A good request is answered well."""
    status, answer = post(address, Case("good", good()))
    expect_equal(status, 200, f"the status of a good request afterwards ({answer[:200]!r})")
    outputs = {output["name"]: output["data"] for output in json.loads(answer)["outputs"]}
    expect_equal(outputs["OUTPUT0"], (ROW + ROW).tolist(), "the answer to a good request afterwards")


def check_case(address: str, case: Case) -> str:
    """The request is refused by the right status and with a reason in the protocol's form."""
    status, answer = post(address, case)
    expect(status in case.statuses, f"status {status} instead of {list(case.statuses)}: {answer[:200]!r}")
    try:
        reason = json.loads(answer)["error"]
    except (ValueError, KeyError, TypeError) as error:
        raise Mismatch(f"the refusal is not {{\"error\": \"...\"}}: {answer[:200]!r}") from error
    expect(isinstance(reason, str) and bool(reason), f"the refusal gives no reason: {reason!r}")
    still_serves(address)
    return reason if len(reason) <= 120 else reason[:117] + "..."


def check_socket(address: str, head: str, payload: bytes, statuses: list[int]) -> None:
    """Bytes that claim more than they bring: an answer or the end of the connection, and no harm."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_SECONDS) as peer:
        peer.sendall(head.replace("\n", "\r\n").encode() + payload)
        peer.shutdown(socket.SHUT_WR)
        try:
            answer = peer.recv(65_536)
        except ConnectionResetError:
            answer = b""
    if answer:
        status = int(answer.split(b" ", 2)[1])
        expect(status in statuses, f"status {status} instead of {statuses}: {answer[:200]!r}")
    still_serves(address)


def run(report: Report, address: str) -> None:
    """All cases."""
    for case in [*json_cases(), *binary_cases(), *coding_cases(), *route_cases()]:
        with report.check(f"malformed: {case.name}") as check:
            check.remark = check_case(address, case)
    start = f"POST {PATH} HTTP/1.1\nHost: suzu\n"
    sockets = [
        ("a body of 2^62 announced", f"{start}Content-Length: {2**62}\n\n", b"{}", [400, 413]),
        ("a body of 2^80 announced", f"{start}Content-Length: {2**80}\n\n", b"{}", [400, 413]),
        ("a body cut short", f"{start}Content-Length: {len(good())}\n\n", good()[:50], [400, 408]),
        ("a chunk of 2^60 announced", f"{start}Transfer-Encoding: chunked\n\n", b"fffffffffffffff\r\n{}", [400, 413]),
        ("two lengths of the JSON", f"{start}Content-Length: 2\n{HEADER}: 2\n{HEADER}: 1\n\n", b"{}", [400]),
    ]
    for name, head, payload, statuses in sockets:
        with report.check(f"malformed: {name}"):
            check_socket(address, head, payload, statuses)
