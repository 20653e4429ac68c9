"""Compares every model, on every way into the server, with ONNX Runtime run alone on the same inputs."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Callable

import numpy as np
import tritonclient.http as triton

import streams
from checks import Check, Mismatch, Report, expect_equal
from make_models import SAMPLE_RATE, Made
from oracle import Oracle, Outputs, sound

STREAMS = 50
CLIENTS = 8
TIMEOUT_SECONDS = 60.0


def client(address: str) -> triton.InferenceServerClient:
    """A client for one thread."""
    return triton.InferenceServerClient(address, connection_timeout=TIMEOUT_SECONDS, network_timeout=TIMEOUT_SECONDS)


def ask(server: triton.InferenceServerClient, model: str, inputs: Outputs, binary: bool = True, **options: object) -> Outputs:
    """One request for all outputs, in binary or in JSON both ways."""
    tensors, wanted = [], None
    for name, array in inputs.items():
        tensor = triton.InferInput(name, list(array.shape), triton.np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array, binary_data=binary)
        tensors.append(tensor)
    if not binary:
        names = [output["name"] for output in server.get_model_metadata(model)["outputs"]]
        wanted = [triton.InferRequestedOutput(name, binary_data=False) for name in names]
    result = server.infer(model, tensors, outputs=wanted, **options)
    return {output["name"]: result.as_numpy(output["name"]) for output in result.get_response()["outputs"]}


def compare(check: Check, found: Outputs, wanted: Outputs, what: str) -> None:
    """All outputs are there, no others, and they are close."""
    expect_equal(sorted(found), sorted(wanted), f"the outputs of {what}")
    for name, values in wanted.items():
        check.close_to(found[name], values, f"{name} of {what}")


def conv_inputs(random: np.random.Generator) -> Outputs:
    """One to four seconds, each an item of its own."""
    return {"audio": (random.standard_normal((int(random.integers(1, 5)), SAMPLE_RATE)) * 0.2).astype(np.float32)}


def transformer_inputs(random: np.random.Generator) -> Outputs:
    """One to four sequences of one length, which differs from request to request."""
    shape = (int(random.integers(1, 5)), int(random.choice([1, 7, 32, 50])), 64)
    return {"x": random.standard_normal(shape).astype(np.float32)}


def simple_inputs(random: np.random.Generator) -> Outputs:
    """Two inputs with as many rows."""
    rows = int(random.integers(1, 9))
    return {name: random.standard_normal((rows, 16)).astype(np.float32) for name in ["INPUT0", "INPUT1"]}


STATELESS: dict[str, Callable[[np.random.Generator], Outputs]] = {
    "conv": conv_inputs,
    "transformer": transformer_inputs,
    "simple": simple_inputs,
}


def check_stateless(check: Check, address: str, oracle: Oracle, binary: bool, requests: int) -> None:
    """Many requests of many clients at once, so that they share batches."""
    name = oracle.made.name

    def one_client(number: int) -> list[tuple[Outputs, Outputs]]:
        random = np.random.default_rng([len(name), binary, number])
        with client(address) as server:
            pairs = []
            for _ in range(requests // CLIENTS):
                inputs = STATELESS[name](random)
                pairs.append((inputs, ask(server, name, inputs, binary)))
            return pairs

    with ThreadPoolExecutor(CLIENTS) as pool:
        for pairs in pool.map(one_client, range(CLIENTS)):
            for inputs, found in pairs:
                compare(check, found, oracle.run(inputs), "a request")
    check.remark = f"{requests} requests of {CLIENTS} clients"


def check_memory_sequences(check: Check, address: str, oracle: Oracle, steps: int) -> None:
    """Sequences of a stateful model of tensors, taken in turn at random, each against its own run."""
    random = np.random.default_rng(6)
    inputs = {7_000 + n: [{"x": random.standard_normal((1, 16)).astype(np.float32)} for _ in range(steps)] for n in range(10)}
    found: dict[int, list[Outputs]] = {sequence: [] for sequence in inputs}
    with client(address) as server:
        while open_ones := [sequence for sequence in inputs if len(found[sequence]) < steps]:
            sequence = int(random.choice(open_ones))
            at = len(found[sequence])
            found[sequence].append(ask(server, "memory", inputs[sequence][at], bool(random.integers(2)),
                                       sequence_id=sequence, sequence_start=at == 0, sequence_end=at == steps - 1))
    for sequence, wanted in inputs.items():
        for at, outputs in enumerate(oracle.sequence(wanted)):
            compare(check, found[sequence][at], outputs, f"step {at} of sequence {sequence}")
    check.remark = f"{len(inputs)} sequences of {steps}"


def check_audio_sequence(check: Check, address: str, oracle: Oracle, samples: np.ndarray, seed: int) -> None:
    """A stream sent as a sequence of requests, each with some of its samples."""
    random = np.random.default_rng(seed)
    cuts = np.sort(random.choice(np.arange(1, len(samples)), size=len(samples) // 4_000, replace=False))
    parts = np.split(samples, cuts)
    rows: dict[str, list[np.ndarray]] = {}
    with client(address) as server:
        for number, part in enumerate(parts):
            outputs = ask(server, oracle.made.name, {"AUDIO": part}, sequence_id=f"audio-{oracle.made.name}-{seed}",
                          sequence_start=number == 0, sequence_end=number == len(parts) - 1)
            for name, values in outputs.items():
                rows.setdefault(name, []).append(values)
    compare(check, {name: np.concatenate(values) for name, values in rows.items()}, oracle.stream(samples), "the sequence")
    check.remark = f"{len(parts)} requests"


def check_audio_request(check: Check, address: str, oracle: Oracle, samples: np.ndarray) -> None:
    """Whole recordings in one request, alone and two at once, in binary and in JSON."""
    half = len(samples) // 2
    first, second = samples[:half], samples[half : 2 * half]
    wanted, other = oracle.stream(first), oracle.stream(second)
    both = {name: np.stack([wanted[name], other[name]]) for name in wanted}
    with client(address) as server:
        for binary in [True, False]:
            compare(check, ask(server, oracle.made.name, {"AUDIO": first}, binary), wanted, "one recording")
            found = ask(server, oracle.made.name, {"AUDIO": np.stack([first, second])}, binary)
            compare(check, found, both, "two recordings")


def check_streams(report: Report, address: str, oracles: dict[str, Oracle], spoken: np.ndarray, seconds: float) -> None:
    """Fifty streams at the same time over all models that hear, each against its own run."""
    random = np.random.default_rng(50)
    hearing = [name for name, oracle in oracles.items() if oracle.made.audio]
    jobs = []
    for number in range(STREAMS):
        # No two end together, and few at the end of a window.
        count = int(SAMPLE_RATE * seconds * random.uniform(0.9, 1.0))
        jobs.append((hearing[number % len(hearing)], sound(random, spoken, count)))
    heard: list[streams.Heard | BaseException] = []
    with report.check(f"{STREAMS} streams at once, {seconds:g} s of audio each") as check:
        heard = asyncio.run(streams.together(address, jobs, seed=1_000))
        errors = [f"{model}: {found!r}" for (model, _), found in zip(jobs, heard) if isinstance(found, BaseException)]
        if errors:
            raise Mismatch(f"{len(errors)} of {len(jobs)} streams failed, the first: {errors[0]}")
    for name in hearing:
        with report.check(f"streams of {name} equal ONNX Runtime") as check:
            count = 0
            for (model, samples), found in zip(jobs, heard):
                if model == name and isinstance(found, streams.Heard):
                    for output, values in oracles[name].stream(samples).items():
                        check.close_to(found.output(output), values, f"{output} of a stream")
                        count += len(values)
            expect_equal(count > 0, True, "whether there are rows")
            check.remark = f"{count} rows"


def run(report: Report, address: str, models: dict[str, Made], spoken: np.ndarray, seconds: float, requests: int) -> None:
    """All comparisons; `seconds` of audio in each stream, `requests` to each model."""
    random = np.random.default_rng(3)
    oracles = {name: Oracle(made) for name, made in models.items() if not name.startswith("identity_")}
    for name in STATELESS:
        for binary in [True, False]:
            with report.check(f"{name} by requests in {'binary' if binary else 'JSON'} equals ONNX Runtime") as check:
                # Python takes most of the time of JSON; a quarter of the requests shows as much.
                check_stateless(check, address, oracles[name], binary, requests if binary else requests // 4)
    with report.check("sequences of memory equal ONNX Runtime") as check:
        check_memory_sequences(check, address, oracles["memory"], steps=20)
    for name, oracle in oracles.items():
        if oracle.made.audio:
            samples = sound(random, spoken, int(SAMPLE_RATE * min(seconds, 10)) + 77)
            with report.check(f"{name} by requests with whole recordings equals ONNX Runtime") as check:
                check_audio_request(check, address, oracle, samples)
            with report.check(f"{name} by a sequence of requests equals ONNX Runtime") as check:
                check_audio_sequence(check, address, oracle, samples, seed=len(name))
    check_streams(report, address, oracles, spoken, seconds)
