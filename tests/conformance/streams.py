"""A client of the native streams, made for tests: it sends audio cut at random and collects every row that comes back."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field

import numpy as np
import websockets

from checks import expect, expect_equal
from make_models import SAMPLE_RATE

# Longest time that a stream may take in all, and that a socket may stay silent.
STREAM_SECONDS_MAX = 300.0


@dataclass
class Heard:
    """What a stream gave."""

    rows: dict[str, list[np.ndarray]] = field(default_factory=dict)
    texts: list[dict] = field(default_factory=list)

    def take(self, message: dict) -> None:
        """Sorts a message of the server."""
        if message["type"] == "Results":
            for output in message["outputs"]:
                rows = np.array(output["data"], np.float32).reshape(output["shape"])
                self.rows.setdefault(output["name"], []).append(rows)
        else:
            self.texts.append(message)

    def output(self, name: str) -> np.ndarray | None:
        """All rows of one output."""
        return np.concatenate(self.rows[name]) if name in self.rows else None

    def of_type(self, kind: str) -> list[dict]:
        """The messages of one type."""
        return [text for text in self.texts if text["type"] == kind]


def cut(random: np.random.Generator, audio: bytes) -> list[bytes]:
    """Cuts audio into chunks of every size, most of them of 10 to 100 ms; samples are cut in two as well."""
    chunks, at = [], 0
    second = SAMPLE_RATE * 4
    while at < len(audio):
        kind = random.random()
        if kind < 0.05:
            size = int(random.integers(1, 40))
        elif kind < 0.95:
            size = int(random.integers(second // 100, second // 10))
        else:
            size = int(random.integers(second // 10, 2 * second))
        chunks.append(audio[at : at + size])
        at += size
    return chunks


async def stream(address: str, model: str, samples: np.ndarray, seed: int) -> Heard:
    """Streams `samples` through `model` and waits for the end of it."""
    random = np.random.default_rng(seed)
    url = f"ws://{address}/v1/stream?model={model}&encoding=f32le&sample_rate={SAMPLE_RATE}"
    heard = Heard()
    options = {"compression": None, "max_size": None, "max_queue": None, "ping_interval": None, "open_timeout": 60}
    async with asyncio.timeout(STREAM_SECONDS_MAX), websockets.connect(url, **options) as socket:

        async def send() -> None:
            for chunk in cut(random, samples.tobytes()):
                await socket.send(chunk)
                kind = random.random()
                if kind < 0.02:
                    await socket.send(json.dumps({"type": "Finalize", "id": "somewhere"}))
                # Without a pause now and then the streams would go through the server one after the other.
                await asyncio.sleep(float(random.uniform(0, 0.01)) if kind > 0.5 else 0)
            await socket.send(json.dumps({"type": "CloseStream"}))

        sender = asyncio.create_task(send())
        try:
            async for message in socket:
                expect(isinstance(message, str), "the server sent a binary message")
                heard.take(json.loads(message))
        finally:
            sender.cancel()
        expect_equal(socket.close_code, 1000, "the close code")
    check_end(heard, len(samples))
    return heard


def check_end(heard: Heard, samples: int) -> None:
    """The stream ended as it should: nothing was discarded, and the balance tells every sample."""
    for kind in ["Error", "Discarded", "Reconnect"]:
        expect(not heard.of_type(kind), f"the server sent {heard.of_type(kind)}")
    expect(bool(heard.texts), "the server said nothing")
    last = heard.texts[-1]
    expect_equal(last["type"], "Termination", "the last message")
    wanted = {"received": samples, "processed": samples, "discarded": 0, "pending": 0}
    expect_equal(last["ledger"], wanted, "the balance")


async def together(address: str, jobs: list[tuple[str, np.ndarray]], seed: int) -> list[Heard | BaseException]:
    """Runs all streams at the same time; one that fails leaves the others alone."""
    tasks = [stream(address, model, samples, seed + number) for number, (model, samples) in enumerate(jobs)]
    return await asyncio.gather(*tasks, return_exceptions=True)
