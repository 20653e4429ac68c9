"""Writes the handwritten seeds of the corpus: `python3 tests/fuzz/corpus/make.py`."""

import json
import os
import random
import struct
import zlib

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


def tensor(name, datatype, shape, data=None, size=None):
    """An input, its data as text: how a number is spelt is what matters."""
    given = f'"data":{data}' if size is None else f'"parameters":{{"binary_data_size":{size}}}'
    return f'{{"name":"{name}","shape":{json.dumps(shape)},"datatype":"{datatype}",{given}}}'


def requests():
    """What stands first counts the bytes behind the JSON."""

    def infer(name, inputs, behind=b"", more=""):
        text = '{"inputs":[' + ",".join(inputs) + "]" + more + "}"
        seed("infer", name, struct.pack("<H", len(behind)) + text.encode() + behind)

    def spelt(name, datatype, numbers):
        infer(name, [tensor("X", datatype, [len(numbers)], "[" + ",".join(numbers) + "]")])

    digits = "314159265358979323846264338327950288"
    spellings = {
        "plain": ["0.1", "-0.0", "0", "-0", "1e-5", "1E+3", "0.5e1", "3.4028235e38", "-1.4e-45", "16777217", "123456.75"],
        "digits": ["0." + digits[:count] for count in (15, 16, 17, 18, 19, 24)] + ["-" + digits[0] + "." + digits[1:17]],
        "long": [digits[:17], digits[:20], "-" + digits[:19] + ".5", "0.000001234567890123456", digits + "e-35", "1e-400"],
        # In the middle between two FP32, a little below and a little above.
        "middle": ["1.000000059604644775390625", "1.0000000596046447", "1.0000000596046448", "1.000000178813934326171875",
                   "5.960464477539063e-8", "0.1000000014901161193847656"],
        "zeros": ["0.0000000000000000", "0.00000000000000000000001", "1.0000000000000000000000", "0e5", "-0e-5", "0.10"],
    }
    for name, numbers in spellings.items():
        for datatype in ("FP32", "FP64"):
            spelt(f"{datatype.lower()}-{name}", datatype, numbers)
    spelt("fp16", "FP16", ["0.1", "-65504", "65519", "6e-8", "2.9802322387695313e-8", "1e-9", "1.00048828125"])
    spelt("int64", "INT64", ["0", "-0", "9223372036854775807", "-9223372036854775808", "12345678", "-123456789"])
    spelt("uint64", "UINT64", ["18446744073709551615", "-0", "10000000000000000000"])
    spelt("int8", "INT8", ["-128", "127"])
    spelt("uint16-over", "UINT16", ["65535", "65536"])
    spelt("huge", "FP32", ["1", "1e39"])
    spelt("no-number", "FP64", ["01", "1.", "+1", "NaN"])
    infer("bool", [tensor("B", "BOOL", [2], "[true, false]")])
    infer("bytes", [tensor("S", "BYTES", [3], json.dumps(["a]\n\"", "", "grüße \U0001d11e"]))])
    infer("fits", [tensor("S", "BYTES", [1], '["grüße"]'), tensor("X", "FP32", [2, 2], "[[1, 2], [3, 4.5]]")])
    infer("nested", [tensor("I", "INT32", [2, 1, 2], " [ [[1,2 ]] ,\n[[3,-4]] ] "), tensor("E", "FP32", [2, 0], "[[],[]]")])
    infer("uneven", [tensor("I", "INT32", [2, 2], "[[1,2],[3]]")])
    infer("scalar", [tensor("X", "UINT8", [], "[7]")])
    infer("late", ['{"data":[0.25,[1.5,"]"]],"datatype":"FP32","name":"X","shape":[2]}', tensor("Y", "UINT8", [1], "[1]")])
    infer("later", ['{"data":[[0.25],[1.5]],"datatype":"FP32","other":{"data":[1]},"shape":[2,1],"name":"X"}'])
    infer("audio", [tensor("AUDIO", "FP32", [1, 4], "[0.5, -0.25, 1e-3, 0.12345678901234567]")], more=',"id":"a"')
    infer("many", [tensor(name, "UINT8", [1], "[1]") for name in "ABCDE"])
    infer("elements", [tensor("X", "FP32", [16, 16], "[" + ",".join(["0"] * 256) + "]"), tensor("Y", "UINT8", [1], "[1]")])
    infer("negative", [tensor("X", "FP32", [-1, 9223372036854775807], "[1]")])
    infer("shared", ['{"name":"X","shape":[1],"datatype":"FP32","parameters":{"shared_memory_region":"r"}}'])
    one = tensor("X", "FP32", [1, 2], "[0.5,2]")
    infer("twice", [one, one])
    infer("sequence", [one], more=',"parameters":{"sequence_id":5,"sequence_start":true,"sequence_end":false,"timeout":1500}')
    infer("sequence-name", [one], more=',"parameters":{"sequence_id":"\\u00e9","priority":2},"id":"a\\"b"')
    infer("sequence-none", [one], more=',"parameters":{"sequence_end":true}')
    infer("outputs", [], more=',"outputs":[{"name":"S","parameters":{"binary_data":true}},{"name":"I"},'
          '{"name":"P","parameters":{"classification":2}}]')
    infer("classes", [one], more=',"outputs":[{"name":"P","parameters":{"classification":9,"binary_data":true}},'
          '{"name":"S","parameters":{"classification":1}}]')
    infer("output-unknown", [one], more=',"outputs":[{"name":"\\u0007Q"}],"parameters":{"binary_data_output":true}')
    infer("deep", [one], more=',"other":' + "[" * 140 + "]" * 140 + ',"number":1e999,"half":"\\ud800"')
    floats, strings = struct.pack("<4f", 0.5, -0.0, 1e-40, 3e38), b"\3\0\0\0abc\0\0\0\0\1\0\0\0\xff"
    infer("binary", [tensor("X", "FP32", [2, 2], size=16), tensor("S", "BYTES", [3], size=len(strings))], floats + strings)
    infer("binary-mixed", [tensor("X", "FP64", [1], size=8), tensor("Y", "FP32", [2], "[1,2]"), tensor("B", "BOOL", [2], size=2)],
          struct.pack("<d??", 0.1, True, False), ',"parameters":{"binary_data_output":true}')
    infer("binary-halves", [tensor("X", "BF16", [2], size=4), tensor("H", "FP16", [2], size=4)], b"\x80\x3f\0\x80\1\0\0\x3c")
    infer("binary-integers", [tensor("I", "INT64", [1], size=8), tensor("U", "UINT16", [2], size=4)], bytes(range(12)))
    infer("binary-odd", [tensor("X", "FP32", [1], size=4), tensor("B", "BOOL", [1], size=1)], b"\0\0\xc0\x7f\2")
    infer("binary-nothing", [tensor("X", "FP32", [0, 2], size=0)])
    infer("binary-short", [tensor("X", "FP32", [2], size=8)], bytes(7))
    for name, body in {"floats": floats, "bool": b"\1\0", "half": b"\0\x3c", "integers": bytes(range(16))}.items():
        seed("infer", f"raw-{name}", b"\0\0" + body)
    for name, text in {
        "ready": '{"ready": true}', "all": '{"ready":false,"other":[1,{"a":null}]}', "empty": " \n",
        "twice": '{"ready":true,"re\\u0061dy":false}', "behind": '{"ready":true}}', "deep": '{"a":' + "[" * 140 + "1e999" + "]" * 140 + "}",
        "unload": '{"parameters":{"unload_dependents":true}}', "config": '{"parameters":{"config":"{}"}}',
        "file": '{"parameters":{"file:1/model.onnx":"AA=="}}', "unknown": '{"parameters":{"a\\nb":1}}',
    }.items():
        seed("repository_request", name, text)


def packed():
    def bare(text, level=9, strategy=zlib.Z_DEFAULT_STRATEGY):
        packer = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
        return packer.compress(text) + packer.flush()

    def gzip(text, body, flags=0, fields=b""):
        head = b"\x1f\x8b\x08" + bytes([flags]) + b"\0\0\0\0\2\xff" + fields
        return head + body + struct.pack("<II", zlib.crc32(text), len(text))

    text = b'{"inputs":[{"name":"X","shape":[4],"datatype":"FP32","data":[0.25,0.25,0.25,0.5]}]}'
    zeros = bytes(5000)
    for name, body in {"small": bare(text), "stored": bare(text, 0), "fixed": bare(text, 9, zlib.Z_FIXED)}.items():
        seed("unpack", f"gzip-{name}", gzip(text, body))
        seed("unpack", f"bare-{name}", body)
    seed("unpack", "gzip-fields", gzip(b"a", bare(b"a"), 0x1C, b"\3\0abcname\0comment\0"))
    seed("unpack", "gzip-members", gzip(b"ab", bare(b"ab")) + gzip(b"", bare(b"")) + gzip(zeros[:4094], bare(zeros[:4094])))
    seed("unpack", "gzip-over", gzip(zeros, bare(zeros)))
    seed("unpack", "gzip-behind", gzip(b"ab", bare(b"ab")) + b"x")
    seed("unpack", "gzip-sum", gzip(b"ac", bare(b"ab")))
    seed("unpack", "zlib-small", zlib.compress(text, 9))
    seed("unpack", "zlib-over", zlib.compress(zeros, 9))
    seed("unpack", "zlib-most", zlib.compress(zeros[:4096], 9))
    seed("unpack", "zlib-dictionary", b"\x78\xbb" + struct.pack(">I", zlib.adler32(b"dictionary")) + bare(b"dictionary"))
    seed("unpack", "text", text)


def manifests():
    audio = "[audio]\nsample_rate = 16000\nhop = 160\n"
    texts = {
        "empty": "",
        "spectrum": 'description = "Speech or not, by a small GRU"\n' + audio + 'window = 400\nlayout = ["batch", "frames", "features"]\n'
        '[features]\nn_mels = 8\nwin = 400\nhop = 160\n[[output]]\nname = "probability"\nkind = "probability"\n'
        '[postprocess]\nkind = "speech"\non = 0.6\noff = 0.4\nmin_on = "60ms"\npad = 20\n',
        "state": '[audio]\ninput = "input"\nsample_rate = 16000\nhop = 512\nwindow = 576\n[[const]]\nname = "sr"\nvalue = 16000\n'
        '[[state]]\ninput = "state"\noutput = "stateN"\nshape = [2, "batch", 128]\n[[output]]\nname = "output"\nkind = "probability"\n',
        "tensors": 'platform = "onnx_rten"\n[[output]]\nname = "scores"\nkind = "logits"\nactivation = "softmax"\n'
        'labels = ["rain", "wind", "é", "none"]\n[[sample]]\ninput = "input"\nshape = [1, 3, 64]\n[[axis]]\nname = "input"\naxis = 0\n'
        '[[axis]]\nname = "mask"\naxis = "none"\n',
        "keyword": audio + 'layout = ["batch", 1, "samples"]\nscale = 32768\n[[output]]\nname = "y"\nkind = "scores"\n'
        '[batch]\nmax = 32\nmax_wait = "5ms"\npreferred = [1, 8, 32]\n[postprocess]\nkind = "keyword"\noutput = "y"\nsmooth = 8\n'
        'threshold = 0.85\nrefractory = "1s 400ms"\nignore = ["unknown"]\n[limits]\ntime = "1s"\nconcurrency = 2\nelements_max = 1000\n',
        "classify": audio + 'latency = 80\n[[output]]\nname = "clean"\nkind = "pcm"\n[[output]]\nname = "e"\nkind = "unused"\n'
        '[postprocess]\nkind = "classify"\ntop_k = 3\nsmooth = 2\n',
        "mel": audio + "window = 512\n[features]\nn_mels = 4\nwin = 500\nhop = 80\nn_fft = 500\nf_min = 20.5\nf_max = 8e3\nmel = \"slaney\"\n"
        "norm = \"slaney\"\npower = 1\nlog = \"db\"\nfloor = 1e-5\noffset = 1e-3\nmean = [1, 2.5, -3, 0]\nstd = 2\n",
        "const": 'state = []\n[[const]]\nname = "c"\ndtype = "int64"\nshape = [2, 2]\nvalue = [[1, 2], [3, -4]]\n[[const]]\nname = "d"\n'
        'value = true\n[[const]]\nname = "e"\nvalue = [1.5, nan, -inf]\n',
        "init": '[[state]]\ninput = "h0"\noutput = "hn"\ndtype = "fp32"\nshape = ["batch", 3]\ninit = [0.5, [1, false]]\n'
        '[[state]]\ninput = "c0"\noutput = "cn"\ninit = 1\n',
        "inline": 'audio = { sample_rate = 8_000, hop = 0x50 }\noutput = [{ name = "y", kind = "embedding" }]\nbatch.max = 4\n',
        "wrong-kinds": 'description = 1\n[audio]\nsample_rate = "16k"\n',
        "wrong-key": 'hue = 1\n[audio]\nhop = 320\n',
        "wrong-rules": '[audio]\nsample_rate = 96000\nchannels = 2\nhop = 0\nwindow = 9223372036854775807\nlatency = 8\nscale = nan\n'
        'layout = ["samples", 2]\n[features]\nn_mels = 0\nwin = 9223372036854775807\nhop = 0\npower = 3\nstd = 0\n[batch]\nmax = 0\n'
        'preferred = [4, 2]\n[limits]\ntime = 0\nconcurrency = 0\n',
        "wrong-graph": '[[const]]\nname = "x"\nvalue = []\n[[const]]\nname = "x"\nshape = [4294967296, 4294967296]\nvalue = [1, 2]\n'
        '[[state]]\ninput = "x"\noutput = "y"\nshape = ["batch", "batch"]\n[[sample]]\ninput = "x"\nshape = [0]\n[[axis]]\nname = "x"\n'
        'axis = "some"\n[postprocess]\nkind = "speech"\n',
        "wrong-time": '[batch]\nmax_wait = "soon"\n',
        "wrong-text": "[[output]\nname = 'y\n",
        "deep": '[[const]]\nname = "x"\nvalue = ' + "[" * 60 + "1" + "]" * 60 + "\n",
    }
    for name, text in texts.items():
        seed("manifest", name, text)


def proxies():
    """Headers of the PROXY protocol, with and without what follows."""
    signature = b"\r\n\r\n\0\r\nQUIT\n"

    def header(command, family, block, length=None):
        return signature + bytes([command, family]) + struct.pack(">H", len(block) if length is None else length) + block

    ipv4 = bytes([192, 0, 2, 1, 127, 0, 0, 1]) + struct.pack(">HH", 40000, 443)
    ipv6 = bytes(range(32)) + struct.pack(">HH", 40000, 443)
    crc = b"\3\0\4\1\2\3\4"
    seeds = {
        "ipv4": header(0x21, 0x11, ipv4) + b"GET / HTTP/1.1\r\n",
        "ipv4-extended": header(0x21, 0x11, ipv4 + crc + b"\xea\0\3abc") + b"\x16\3\1",
        "ipv6": header(0x21, 0x21, ipv6),
        "unix": header(0x21, 0x31, bytes(216)) + b"x",
        "unspecified": header(0x21, 0x00, crc),
        "local": header(0x20, 0x00, b""),
        "local-addresses": header(0x20, 0x11, ipv4),
        "short": header(0x21, 0x21, ipv4),
        "long": header(0x21, 0x11, ipv4, 4081),
        "longest": header(0x21, 0x11, ipv4 + bytes(4068)),
        "version": header(0x31, 0x11, ipv4),
        "command": header(0x22, 0x11, ipv4),
        "family": header(0x21, 0x44, ipv4),
        "text": b"PROXY TCP4 192.0.2.1 127.0.0.1 40000 443\r\nGET / HTTP/1.1\r\n",
    }
    for name, data in seeds.items():
        seed("proxy_header", name, data)


for write in (heads, websockets, messages, values, scripts, requests, packed, manifests, proxies):
    write()
