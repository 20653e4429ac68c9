"""Writes the handwritten seeds of the corpus: `python3 tests/fuzz/corpus/make.py`."""

import json
import os
import random
import struct

HERE = os.path.dirname(os.path.abspath(__file__))


def seed(target, name, data):
    os.makedirs(os.path.join(HERE, target), exist_ok=True)
    with open(os.path.join(HERE, target, name), "wb") as file:
        file.write(data if isinstance(data, bytes) else data.encode())


def heads():
    lines = {
        "get": "GET / HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: x\r\n\r\n",
        "absolute": "GET http://example.org/a/../b?x=1&y=%20 HTTP/1.1\r\nHost: example.org\r\n\r\n",
        "options": "OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
        "post": "POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
        "chunked": "POST /v1/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "old": "\r\nGET /caf%C3%A9/./x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "upgrade": "GET /v1/stream?model=vad&sample_rate=16000 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        "Connection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: suzu.v1, token.x\r\n\r\n",
        "smuggle": "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "folded": "GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
        "latin": b"GET / HTTP/1.1\r\nHost: x\r\nA: \xe9\xff\r\n\r\n",
    }
    for name, text in lines.items():
        text = text if isinstance(text, bytes) else text.encode()
        for limits in (b"\0\0\0", b"\2\3\2"):
            seed("http_request", f"{name}-{limits[0]}", limits + text)
    for name, text in {
        "ok": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n\r\nok",
        "continue": "HTTP/1.1 100 Continue\r\n\r\n",
        "switching": "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        "chunked": "HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "old": "HTTP/1.0 503 Service Unavailable\nRetry-After: 2\n\n",
        "control": b"\x04\0\x06a\rb\nc\0body",
    }.items():
        seed("http_response", name, text)
    cuts = b"\1\2\3\xff"
    body = struct.Struct("<BHH")
    seed("http_body", "counted", body.pack(0, 100, 9) + cuts + b"123456789GET /")
    seed("http_body", "too-long", body.pack(0, 3, 9) + cuts + b"123456789")
    seed("http_body", "chunks", body.pack(1, 100, 0) + cuts + b"5\r\nhello\r\nA;x=\"y\"\r\n0123456789\r\n0\r\nA: b\r\n\r\nGET")
    seed("http_body", "over", body.pack(1, 8, 0) + cuts + b"5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n")
    seed("http_body", "huge", body.pack(2, 65535, 0) + cuts + b"ffffffffffffffff\r\n")
    seed("http_body", "made", body.pack(3, 0, 0) + cuts + b"\5hello\0\5world\x20" + bytes(32))


def frame(first, payload, mask=b"\1\2\3\4", masked=True):
    length = len(payload)
    bit = 0x80 if masked else 0
    head = bytes([first, bit | length]) if length < 126 else bytes([first, bit | 126]) + struct.pack(">H", length)
    if not masked:
        return head + payload
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def websockets():
    for role, masked in ((0, True), (1, False)):
        begin = bytes([role, 0, 1, 2, 3, 200])
        frames = {
            "text": frame(0x81, "grüße".encode(), masked=masked),
            "binary": frame(0x82, bytes(range(200)), masked=masked),
            "fragments": frame(1, b"\xe2\x82", masked=masked)
            + frame(0x89, b"ping", masked=masked)
            + frame(0x80, b"\xac", masked=masked),
            "close": frame(0x88, b"\x03\xe8bye", masked=masked),
            "close-wrong": frame(0x88, b"\x03\xed", masked=masked),
            "utf8-wrong": frame(0x81, b"\xed\xa0\x80", masked=masked),
            "length-long": bytes([0x82, (0x80 if masked else 0) | 127]) + b"\0\0\0\0\0\1\0\0\1\2\3\4",
            "unmasked": frame(0x81, b"x", masked=not masked),
        }
        for name, data in frames.items():
            seed("websocket", f"{name}-{role}", begin + data)
        seed("websocket", f"small-{role}", bytes([role, 4, 1, 2, 3, 200]) + frames["binary"])
        made = b"".join(
            bytes([kind]) + (b"\1\2\3\4" if masked else b"") + bytes([len(text)]) + text
            for kind, text in enumerate(["grüße €".encode() * 3, b"ping", b"pong", b"binary", "€".encode() * 20, b"bye"])
        )
        seed("websocket", f"made-{role}", bytes([role | 2, 0, 1, 2, 3, 200]) + made)


def messages():
    client = [
        {"type": "Configure", "interim_results": True, "deadline_ms": 400},
        {"type": "KeepAlive"},
        {"type": "Finalize", "id": "a\u00e9\n"},
        {"type": "CloseStream"},
        {"type": "Discarded", "start_ms": 12.5, "duration_ms": 1e3},
        {"type": "Ack", "message_seq": 18446744073709551615},
        {"type": "Ping", "t": -1.25e-7},
        {"type": "Pong", "nested": {"a": [1, {"b": None}]}},
    ]
    for message in client:
        seed("client_message", message["type"], json.dumps(message))
    seed("client_message", "text", '"' + "x" * 1500 + '"')
    seed("client_message", "twice", '{"type":"Ack","message_seq":1,"message_seq":2}')
    ledger = {"received": 5, "processed": 3, "discarded": 2, "pending": 0}
    tensors = [
        {"name": "checksum", "datatype": "UINT32", "shape": [2], "data": [1, 4294967295]},
        {"name": "rms", "datatype": "FP32", "shape": [1, 2], "data": [0.1, 1e-30]},
    ]
    configuration = {
        "model": "vad", "encoding": "mulaw", "sample_rate": 8000, "channels": 1, "interim_results": False,
        "framing": "seq", "overflow": "block", "ack_interval_ms": 1000, "deadline_ms": 5, "tag": "x",
    }
    server = [
        {"type": "Begin", "session_id": "s", "request_id": "r", "resumed": False, "resume_ttl_s": 0, "audio_seq": 0,
         "audio_ms": 0, "message_seq": 0, "credit_ms": 4000, "keepalive": {"ping_s": 25, "audio_idle_s": 30},
         "limits": {"max_frame_bytes": 1, "max_session_s": 86400}, "configuration": configuration},
        {"type": "AudioAdded", "seq": 1, "audio_ms": 1.5, "processed_ms": 0.001, "discarded_ms": 0, "credit_ms": 9, "lag_ms": 1},
        {"type": "Results", "message_seq": 1, "start_ms": 0, "duration_ms": 20, "is_final": True, "from_finalize": True,
         "finalize_id": "f", "outputs": tensors, "speech_probability": 0.3, "is_speech": True,
         "timing": {"queue_ms": 1, "batch_size": 2, "infer_ms": 0.25}},
        {"type": "SpeechStarted", "message_seq": 2, "at_ms": 12.5},
        {"type": "SpeechEnded", "message_seq": 3, "at_ms": 1e300},
        {"type": "Discarded", "start_ms": 1, "duration_ms": 2, "reason": "overflow"},
        {"type": "Warning", "code": "c", "message": "m"},
        {"type": "Error", "code": "internal_error", "message": "m", "param": "p", "retryable": True,
         "retry_after_ms": 2000, "request_id": "r", "fatal": True},
        {"type": "Configured", "configuration": configuration},
        {"type": "Reconnect", "after_ms": 1, "within_ms": 2, "reason": "draining", "resume_token": "t"},
        {"type": "Pong", "t": 1.5, "server_ms": 1},
        {"type": "Termination", "audio_received_ms": 5, "processed_ms": 3, "discarded_ms": 2, "results": 1,
         "reason": "finished", "ledger": ledger},
        {"type": "Unheard", "of": 1},
    ]
    for message in server:
        seed("server_message", message["type"], json.dumps(message, separators=(",", ":")))
    seed("stream_params", "all", "model=vad&encoding=linear16&sample_rate=16000&channels=2&interim_results=true&framing=seq"
         "&overflow=discard_oldest&ack_interval_ms=250&deadline_ms=400&timing=1&resume=x&last_message=7&tag=caf%C3%A9"
         "&browser_errors=0&token=t")
    for at, query in enumerate(["encoding=f32le&sample_rat=8000", "channels=9", "tag=+a%00", "model=&model=", "deadline_ms=%2B5", "encoding=alaw&overflow=close"]):
        seed("stream_params", f"short-{at}", query)


def values():
    seed("config_file", "plain", 'port = 0\nworkers = 2\nmemory_max = "1GiB"\nqueue_delay_max = "5ms"\nlog_level = "debug"\n')
    seed("config_file", "wrong", 'prot = 1\nqueue_delay_max = 5\n[server]\nport = 0x10\nworkers = 1e3\n')
    seed("config_file", "quotes", 'host = "a\\"b\\\\c é"\nmodel_default = \'x\'\nrun_max = "1h 30m"\n')
    seed("config_file", "odd", '"port" = 1_000\nbody_bytes_max = 1.5\nlog_format = """json"""\nidle_timeout = 1979-05-27\n')
    for index in range(0, 50, 3):
        for at, text in enumerate(["1", "5ms", "1.5KiB", "1h 30m 2us", "json", "18446744073709551615h", "16777216TiB"]):
            if (index + at) % 4 == 0:
                seed("config_value", f"{index}-{at}", bytes([index]) + text.encode())
    speech = random.Random(1).randbytes(200)
    for encoding in range(4):
        seed("pcm", f"encoding-{encoding}", bytes([encoding, encoding * 2, 1, 2, 3, 250]) + speech)
    seed("pcm", "floats", bytes([1, 0, 1, 2, 3, 250]) + struct.pack("<8f", 0.5, -0.0, float("nan"), float("inf"), 2, -2, 1e-40, -1))
    for at, (tag, channels, bits, length) in enumerate([(1, 1, 16, 40), (1, 2, 24, 0xFFFFFFFF), (1, 8, 8, 0), (3, 1, 64, 33),
                                                        (3, 2, 32, 0x7FFFF000), (7, 1, 8, 200), (6, 2, 8, 7), (1, 3, 32, 5)]):
        frame = channels * bits // 8
        chunk = struct.pack("<HHIIHH", tag, channels, 16000, 16000 * frame, frame, bits)
        file = b"RIFF\xff\xff\xff\xffWAVELIST\3\0\0\0abc\0fmt \x10\0\0\0" + chunk + b"data" + struct.pack("<I", length) + speech
        seed("wav", f"layout-{at}", bytes([1, 2, 3, 250]) + file)
    seed("pcm", "header", bytes([0, 0, 1, 1, 1, 1]) + b"\1\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0" + speech[:20])


def scripts():
    """Random scripts: what they mean is in targets/server.rs. The limits come first: 25 bytes."""
    for number in range(40):
        chance = random.Random(number)
        limits = bytes(chance.choice([0, 0, 0, 1, 2]) for _ in range(25))
        steps = bytes(chance.choice([2, 3]) for _ in range(1)) + bytes([0, 1, 0])
        for _ in range(chance.randrange(10, 60)):
            kind = chance.choice([2, 5, 5, 5, 5, 5, 16, 18, 20, 20, 23, 24, 24, 14, 15, 27, 28, 29, 30, 31])
            step = {
                2: lambda: bytes([2, chance.randrange(4), chance.randrange(4)]) + bytes(chance.randrange(22) for _ in range(3)),
                5: lambda: bytes([5, chance.randrange(8)]) + chance.choice([
                    bytes([3, 1 | chance.choice([0, 4])]) + bytes([chance.randrange(4)]) + chance.randbytes(2),
                    bytes([3, 2]) + chance.randbytes(3),
                    bytes([3, 3]) + chance.randbytes(3),
                    bytes([8, chance.randrange(8)]) + chance.randbytes(2),
                    bytes([12, chance.randrange(4), 2, 65, 66]),
                    bytes([1, chance.randrange(5), chance.randrange(13), chance.randrange(32), 3, 65, 66, 67]),
                    bytes([0, 20]) + chance.randbytes(20),
                ]),
            }.get(kind, lambda: bytes([kind]) + chance.randbytes(1))
            steps += step()
        seed("server", f"script-{number:02}", limits + steps)
        seed("server_split", f"script-{number:02}", bytes([number % 4]) + chance.randbytes(4) + limits
             + bytes([0, 1, chance.randrange(22)])
             + b"".join(chance.choice([
                 bytes([3, 1, 7]), bytes([3, 2]) + chance.randbytes(3), bytes([8, chance.randrange(8)]) + chance.randbytes(2),
                 bytes([12, chance.randrange(4), 2, 65, 66]), bytes([14, 3, 65, 66, 67]),
                 bytes([1, chance.randrange(5), chance.randrange(13), chance.randrange(32), 3, 65, 66, 67])])
                 for _ in range(chance.randrange(12))))


for write in (heads, websockets, messages, values, scripts):
    write()
