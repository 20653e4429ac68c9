"""An unmodified `tritonclient.http` against the server: every call of its API that inference needs, right and wrong."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from checks import Check, Report, Skipped, expect, expect_equal
from make_models import ELEMENT_TYPES, LABELS, SAMPLE_RATE, Made, make_simple
from oracle import Oracle, Outputs
from reference import CLIENTS, ask, client

Server = triton.InferenceServerClient


def simple_inputs(seed: int = 0, rows: int = 1) -> Outputs:
    """Inputs of the model `simple`."""
    random = np.random.default_rng(seed)
    return {name: random.standard_normal((rows, 16)).astype(np.float32) for name in ["INPUT0", "INPUT1"]}


def tensors(inputs: Outputs, binary: bool | list[bool] = True) -> list[triton.InferInput]:
    """Inputs as the client wants them, each in binary or JSON."""
    flags = [binary] * len(inputs) if isinstance(binary, bool) else binary
    made = []
    for (name, array), flag in zip(inputs.items(), flags):
        made.append(triton.InferInput(name, list(array.shape), triton.np_to_triton_dtype(array.dtype)))
        made[-1].set_data_from_numpy(array, binary_data=flag)
    return made


def sums(inputs: Outputs) -> Outputs:
    """What `simple` makes of its inputs."""
    first, second = inputs["INPUT0"], inputs["INPUT1"]
    return {"OUTPUT0": first + second, "OUTPUT1": first - second}


def refused(call: Callable[[], object], statuses: list[int], *words: str) -> str:
    """The call fails with one of the statuses, and the message names all of the words."""
    try:
        found = call()
    except InferenceServerException as error:
        text = error.message() or ""
        expect(error.status() in [str(status) for status in statuses], f"status {error.status()}: {text}")
        for word in words:
            expect(word.lower() in text.lower(), f"the message does not name {word!r}: {text}")
        return text
    expect(False, f"it was accepted: {found!r}")
    return ""


def check_lifecycle(report: Report, server: Server, models: dict[str, Made]) -> None:
    """Health and descriptions."""
    with report.check("triton: is_server_live, is_server_ready, is_model_ready"):
        expect(server.is_server_live(), "the server is not live")
        expect(server.is_server_ready(), "the server is not ready")
        for name in [*models, "vad"]:
            expect(server.is_model_ready(name), f"{name} is not ready")
        expect(server.is_model_ready("simple", "1"), "version 1 of simple is not ready")
        expect(not server.is_model_ready("simple", "99"), "version 99 of simple is ready")
        expect(not server.is_model_ready("nobody"), "a model that is not there is ready")
    with report.check("triton: get_server_metadata"):
        found = server.get_server_metadata()
        expect_equal(found["name"], "suzu", "the server's name")
        expect(bool(found["version"]), "there is no version")
        expect("binary_tensor_data" in found["extensions"], f"extensions: {found['extensions']}")
    with report.check("triton: get_model_metadata"):
        found = server.get_model_metadata("simple")
        expect_equal(found["name"], "simple", "the name")
        expect_equal(found["versions"], ["1"], "the versions")
        for kind, names in [("inputs", ["INPUT0", "INPUT1"]), ("outputs", ["OUTPUT0", "OUTPUT1"])]:
            wanted = [{"name": name, "datatype": "FP32", "shape": [-1, 16]} for name in names]
            expect_equal(found[kind], wanted, f"the {kind} of simple")
        expect_equal([port["name"] for port in server.get_model_metadata("memory")["inputs"]], ["x"], "the inputs of memory")
        expect_equal([port["name"] for port in server.get_model_metadata("gru", "1")["inputs"]], ["AUDIO"], "the inputs of gru")
        refused(lambda: server.get_model_metadata("nobody"), [400, 404], "nobody")
    with report.check("triton: get_model_config"):
        found = server.get_model_config("conv")
        expect_equal(found["name"], "conv", "the name")
        expect(bool(found["platform"] or found["backend"]), "neither platform nor backend is told")
        expect_equal([port["name"] for port in found["input"]], ["audio"], "the inputs of conv")
        expect_equal([port["data_type"] for port in found["output"]], ["TYPE_FP32"], "the types of the outputs of conv")
        refused(lambda: server.get_model_config("nobody"), [400, 404], "nobody")
    with report.check("triton: get_model_repository_index"):
        found = {entry["name"]: entry for entry in server.get_model_repository_index()}
        for name in models:
            expect(name in found, f"{name} is not in the index")
            expect_equal(found[name]["state"], "READY", f"the state of {name}")


def check_infer(report: Report, server: Server) -> None:
    """One model in every dress that a request can wear."""
    inputs = simple_inputs(1, rows=3)
    wanted = sums(inputs)
    for ways in [[True, True], [False, False], [True, False], [False, True]]:
        names = "/".join("binary" if way else "JSON" for way in ways)
        with report.check(f"triton: infer, inputs {names}, outputs {names}") as check:
            outputs = [triton.InferRequestedOutput(name, binary_data=way) for name, way in zip(wanted, ways)]
            result = server.infer("simple", tensors(inputs, ways), outputs=outputs, request_id="a-request")
            for name, values in wanted.items():
                check.close_to(result.as_numpy(name), values, name)
            response = result.get_response()
            expect_equal(response["id"], "a-request", "the id")
            expect_equal((response["model_name"], response["model_version"]), ("simple", "1"), "the model")
    with report.check("triton: infer, no outputs named, and one of two") as check:
        for outputs, names in [(None, list(wanted)), ([triton.InferRequestedOutput("OUTPUT1")], ["OUTPUT1"])]:
            result = server.infer("simple", tensors(inputs), outputs=outputs, model_version="1")
            expect_equal([output["name"] for output in result.get_response()["outputs"]], names, "the outputs")
            for name in names:
                check.close_to(result.as_numpy(name), wanted[name], name)
    for request in [None, "gzip", "deflate"]:
        for response in [None, "gzip", "deflate"]:
            if request is None and response is None:
                continue
            with report.check(f"triton: infer, request {request or 'plain'}, response {response or 'plain'}") as check:
                check_compression(check, server, request, response)


def check_compression(check: Check, server: Server, request: str | None, response: str | None) -> None:
    """A request that is worth compressing, in both bodies."""
    inputs = simple_inputs(2, rows=64)
    for binary in [True, False]:
        outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ["OUTPUT0", "OUTPUT1"]]
        result = server.infer("simple", tensors(inputs, binary), outputs=outputs,
                              request_compression_algorithm=request, response_compression_algorithm=response)
        for name, values in sums(inputs).items():
            check.close_to(result.as_numpy(name), values, name)


def check_classification(check: Check, server: Server, oracle: Oracle) -> None:
    """The best classes of each row with their labels, in both dresses."""
    random = np.random.default_rng(9)
    inputs = {"audio": (random.standard_normal((2, SAMPLE_RATE)) * 0.2).astype(np.float32)}
    scores = oracle.run(inputs)["scores"]
    for binary in [True, False]:
        outputs = [triton.InferRequestedOutput("scores", binary_data=binary, class_count=3)]
        found = server.infer("conv", tensors(inputs), outputs=outputs).as_numpy("scores")
        expect_equal(found.shape, (2, 3), "the shape of the classes")
        for row, texts in zip(scores, found):
            for text, index in zip(texts, np.argsort(-row)):
                told = (text.decode() if isinstance(text, bytes) else text).split(":")
                expect_equal(told[1:], [str(index), LABELS[index]], "a class")
                check.close_to(np.float64(told[0]), row[index], f"the score of {LABELS[index]}")
    outputs = [triton.InferRequestedOutput("scores", class_count=1_000)]
    expect_equal(server.infer("conv", tensors(inputs), outputs=outputs).as_numpy("scores").shape, (2, len(LABELS)),
                 "the shape if more classes are asked for than there are")


def check_sequences(report: Report, server: Server, oracle: Oracle) -> None:
    """Sequences by number and by text, used again, left open, and not begun."""
    random = np.random.default_rng(10)
    steps = [{"x": random.standard_normal((1, 16)).astype(np.float32)} for _ in range(5)]
    wanted = [outputs["y"] for outputs in oracle.sequence(steps)]

    def walk(check: Check, sequence: int | str) -> None:
        for at, inputs in enumerate(steps):
            found = ask(server, "memory", inputs, sequence_id=sequence, sequence_start=at == 0,
                        sequence_end=at == len(steps) - 1)
            check.close_to(found["y"], wanted[at], f"step {at}")

    for sequence in [42, 2**63 + 7, "a sequence", "42"]:
        with report.check(f"triton: sequence {sequence!r} equals ONNX Runtime, twice") as check:
            walk(check, sequence)
            walk(check, sequence)
    with report.check("triton: the same number as integer and as text are two sequences") as check:
        for at, inputs in enumerate(steps):
            end = at == len(steps) - 1
            for sequence in [77, "77"]:
                found = ask(server, "memory", inputs, sequence_id=sequence, sequence_start=at == 0, sequence_end=end)
                check.close_to(found["y"], wanted[at], f"step {at} of {sequence!r}")
    with report.check("triton: sequence_start begins anew in the middle") as check:
        for at in [0, 1]:
            found = ask(server, "memory", steps[at], sequence_id=90, sequence_start=at == 0)
            check.close_to(found["y"], wanted[at], f"step {at}")
        walk(check, 90)
    with report.check("triton: start and end in one request, then the sequence is gone") as check:
        found = ask(server, "memory", steps[0], sequence_id=91, sequence_start=True, sequence_end=True)
        check.close_to(found["y"], wanted[0], "the only step")
        refused(lambda: ask(server, "memory", steps[1], sequence_id=91), [400, 404], "91")
    with report.check("triton: an unknown sequence is refused by name"):
        refused(lambda: ask(server, "memory", steps[0], sequence_id=555_000), [400, 404], "555000")
        refused(lambda: ask(server, "memory", steps[0], sequence_id="never-begun"), [400, 404], "never-begun")


def check_async(check: Check, address: str) -> None:
    """Several requests of one client under way at once."""
    with triton.InferenceServerClient(address, concurrency=16) as server:
        waiting = []
        for number in range(32):
            inputs = simple_inputs(number, rows=1 + number % 4)
            waiting.append((inputs, server.async_infer("simple", tensors(inputs), request_id=str(number))))
        for number, (inputs, request) in enumerate(waiting):
            result = request.get_result(timeout=60)
            expect_equal(result.get_response()["id"], str(number), "the id")
            for name, values in sums(inputs).items():
                check.close_to(result.as_numpy(name), values, name)


def check_concurrency(check: Check, address: str) -> None:
    """Many clients at once, each of which must get its own answers."""
    def one_client(number: int) -> list[tuple[Outputs, Outputs]]:
        with client(address) as server:
            batch = [simple_inputs(1_000 * number + turn, rows=1 + turn % 3) for turn in range(40)]
            return [(inputs, ask(server, "simple", inputs)) for inputs in batch]

    with ThreadPoolExecutor(2 * CLIENTS) as pool:
        for pairs in pool.map(one_client, range(2 * CLIENTS)):
            for inputs, found in pairs:
                for name, values in sums(inputs).items():
                    check.close_to(found[name], values, name)
    check.remark = f"{2 * CLIENTS} clients, 640 requests"


def statistics(server: Server, model: str) -> dict:
    """What the server counts of one model."""
    found = server.get_inference_statistics(model)["model_stats"]
    expect_equal(len(found), 1, "the number of entries")
    expect_equal((found[0]["name"], found[0]["version"]), (model, "1"), "the model")
    return found[0]


def check_statistics(check: Check, server: Server) -> None:
    """Counts rise by exactly what was sent, and times are those of something that ran."""
    before = statistics(server, "simple")
    rows = [1, 3, 5]
    for number, count in enumerate(rows):
        ask(server, "simple", simple_inputs(number, count))
    wrong = {"INPUT0": np.zeros((1, 16), np.float32)}
    refused(lambda: ask(server, "simple", wrong), [400])
    after = statistics(server, "simple")

    def rise(*path: str) -> int:
        first, last = before, after
        for key in path:
            first, last = first[key], last[key]
        return int(last) - int(first)

    expect_equal(rise("inference_count"), sum(rows), "the rise of inference_count (rows)")
    expect_equal(rise("execution_count"), len(rows), "the rise of execution_count (calls, one client)")
    expect_equal(rise("inference_stats", "success", "count"), len(rows), "the rise of success.count")
    expect_equal(rise("inference_stats", "fail", "count"), 1, "the rise of fail.count")
    expect(rise("inference_stats", "success", "ns") > 0, "success.ns did not rise")
    expect(rise("inference_stats", "compute_infer", "ns") > 0, "compute_infer.ns did not rise")
    expect(int(after["last_inference"]) >= int(before["last_inference"]) > 0, "last_inference is not kept")
    names = [entry["name"] for entry in server.get_inference_statistics()["model_stats"]]
    expect("simple" in names and "gru" in names, f"the statistics of all models name {names}")
    refused(lambda: server.get_inference_statistics("nobody"), [400, 404], "nobody")


def sample_values(datatype: str, random: np.random.Generator) -> np.ndarray:
    """Values of a type, its extremes among them."""
    if datatype == "BOOL":
        return random.integers(0, 2, (2, 9)).astype(bool)
    if datatype == "BYTES":
        texts = ["", "plain", "ü日本", "quote \" \\ \n", "a" * 300, "\x01\x02"]  # ONNX Runtime, the only engine for these, ends them at a NUL.
        return np.array(texts, dtype=object).reshape(2, 3)
    kind = triton.triton_to_np_dtype(datatype)
    if datatype.startswith("FP"):
        return np.array([[0, -0.0, 1.5, -2.25, 1e-3], [3.25, 100, -65504, 0.5, 2]], kind)
    # The engine in the binary computes 64-bit integers in 32 bits, and refuses those that do not fit.
    limits = np.iinfo(np.int32 if datatype == "INT64" else kind)
    return np.array([[limits.min, 0, 1], [limits.max, 7, limits.max - 1]], kind)


def check_types(report: Report, server: Server, models: dict[str, Made]) -> None:
    """Every element type goes through unchanged, in binary and in JSON."""
    random = np.random.default_rng(11)
    for datatype in ELEMENT_TYPES:
        name = f"identity_{datatype.lower()}"
        with report.check(f"triton: {datatype} in and out") as check:
            if name not in models:
                raise Skipped("the engine in the binary does not compute with it")
            values = sample_values(datatype, random)
            for way_in in [True, False]:
                for way_out in [True, False]:
                    outputs = [triton.InferRequestedOutput("OUTPUT", binary_data=way_out)]
                    # The protocol knows no 16-bit floats in JSON.
                    if datatype == "FP16" and not (way_in and way_out):
                        continue
                    tensor = triton.InferInput("INPUT", list(values.shape), datatype)
                    tensor.set_data_from_numpy(values, binary_data=way_in)
                    found = server.infer(name, [tensor], outputs=outputs).as_numpy("OUTPUT")
                    check_same(check, found, values, datatype)


def check_same(check: Check, found: np.ndarray, wanted: np.ndarray, datatype: str) -> None:
    """Equal in every bit that the type has, and that the engine keeps."""
    expect_equal(found.shape, wanted.shape, "the shape")
    if datatype == "BYTES":
        texts = [item.decode() if isinstance(item, bytes) else item for item in found.flatten()]
        expect_equal(texts, list(wanted.flatten()), "the texts")
    else:
        expect_equal(found.dtype, wanted.dtype, "the element type")
        # The engine in the binary computes FP64 in 32 bits.
        check.close_to(found, wanted, "the values", tolerance=1e-6 if datatype == "FP64" else 0.0)


def check_errors(report: Report, server: Server) -> None:
    """Mistakes are refused with a message that names what is wrong, and the server goes on."""
    good = simple_inputs(20)
    wrong_shape = {"INPUT0": good["INPUT0"], "INPUT1": np.zeros((1, 15), np.float32)}
    wrong_rank = {"INPUT0": np.zeros(16, np.float32), "INPUT1": good["INPUT1"]}
    wrong_type = {"INPUT0": good["INPUT0"].astype(np.int32), "INPUT1": good["INPUT1"]}
    wrong_name = {"INPUT0": good["INPUT0"], "INPUT7": good["INPUT1"]}
    more = {**good, "INPUT2": good["INPUT0"]}
    rows_differ = {"INPUT0": np.zeros((2, 16), np.float32), "INPUT1": np.zeros((3, 16), np.float32)}
    mistakes: list[tuple[str, Callable[[], object], list[int], list[str]]] = [
        ("an unknown model", lambda: ask(server, "nobody", good), [400, 404], ["nobody"]),
        ("an unknown version", lambda: ask(server, "simple", good, model_version="9"), [400, 404], ["9"]),
        ("an unknown input", lambda: ask(server, "simple", wrong_name), [400], ["INPUT7"]),
        ("an input too many", lambda: ask(server, "simple", more), [400], ["INPUT2"]),
        ("an input too few", lambda: ask(server, "simple", {"INPUT0": good["INPUT0"]}), [400], ["INPUT1"]),
        ("a wrong shape", lambda: ask(server, "simple", wrong_shape), [400], ["INPUT1", "15", "16"]),
        ("a wrong number of dimensions", lambda: ask(server, "simple", wrong_rank), [400], ["INPUT0"]),
        ("a wrong type", lambda: ask(server, "simple", wrong_type), [400], ["INPUT0", "INT32", "FP32"]),
        ("numbers of rows that differ", lambda: ask(server, "simple", rows_differ), [400], []),
        ("an unknown output", lambda: server.infer("simple", tensors(good), outputs=[triton.InferRequestedOutput("OUTPUT9")]),
         [400], ["OUTPUT9"]),
        ("a shape that the data does not fill", lambda: server.infer("simple", lying(good, [1, 16], [1, 8])), [400], ["INPUT0"]),
        ("a shape larger than the data", lambda: server.infer("simple", lying(good, [9_999_999, 16], None)), [400, 413], ["INPUT0"]),
        ("a negative dimension", lambda: server.infer("simple", lying(good, [-1, 16], None)), [400], []),
        ("a state as an input", lambda: ask(server, "memory", {"x": np.zeros((1, 16), np.float32),
         "past_state": np.zeros((1, 1, 24), np.float32)}, sequence_id=60, sequence_start=True), [400], ["past_state"]),
        ("shared memory", lambda: server.infer("simple", shared(good)), [400, 501], []),
    ]
    for what, call, statuses, words in mistakes:
        with report.check(f"triton: refused: {what}") as check:
            check.remark = refused(call, statuses, *words)
    with report.check("triton: after the mistakes the model still answers") as check:
        for name, values in ask(server, "simple", good).items():
            check.close_to(values, sums(good)[name], name)


def lying(inputs: Outputs, shape: list[int], data_shape: list[int] | None) -> list[triton.InferInput]:
    """Inputs the first of which says another shape than its data has."""
    made = tensors(inputs)
    data = inputs["INPUT0"] if data_shape is None else np.zeros(data_shape, np.float32)
    made[0].set_shape(list(data.shape)).set_data_from_numpy(data)
    made[0].set_shape(shape)
    return made


def shared(inputs: Outputs) -> list[triton.InferInput]:
    """Inputs the first of which is said to be in shared memory, which the server does not have."""
    made = tensors(inputs)
    made[0].set_shared_memory("a-region", 64)
    return made


def check_loading(report: Report, server: Server, address: str, folder: Path) -> None:
    """Models come, go and are replaced while the server runs."""
    inputs = simple_inputs(30)

    def offset() -> float:
        return float(np.mean(ask(server, "late", inputs)["OUTPUT0"] - sums(inputs)["OUTPUT0"]))

    def state() -> str:
        return next((entry.get("state", "") for entry in server.get_model_repository_index() if entry["name"] == "late"), "")

    shutil.rmtree(folder / "late", ignore_errors=True)
    with report.check("triton: load_model takes in a new folder") as check:
        expect(not server.is_model_ready("late"), "it is there before it was made")
        make_simple(folder, "late", 1, 10.0)
        server.load_model("late")
        expect(server.is_model_ready("late"), "it is not ready")
        check.close_to(np.array(offset()), np.array(10.0), "the first version")
    with report.check("triton: load_model takes in a new version, while requests go on") as check:
        check_replacing(check, server, address, folder, inputs)
        check.close_to(np.array(offset()), np.array(20.0), "the second version")
    with report.check("triton: unload_model"):
        server.unload_model("late")
        expect(not server.is_model_ready("late"), "it is still ready")
        expect(state() != "READY", "the index says READY")
        refused(lambda: ask(server, "late", inputs), [400, 404, 503], "late")
    with report.check("triton: load_model again") as check:
        server.load_model("late")
        check.close_to(np.array(offset()), np.array(20.0), "what was loaded")
    with report.check("triton: a broken file is refused, and the loaded one stays") as check:
        broken = folder / "late" / "3"
        broken.mkdir()
        (broken / "model.onnx").write_bytes(b"no model at all")
        check.remark = refused(lambda: server.load_model("late"), [400, 500], "late")
        check.close_to(np.array(offset()), np.array(20.0), "what is loaded")
    with report.check("triton: load and unload of what is not there"):
        refused(lambda: server.load_model("nobody"), [400, 404], "nobody")
        refused(lambda: server.unload_model("nobody"), [400, 404], "nobody")
        refused(lambda: server.load_model("../conv"), [400, 404])


def check_replacing(check: Check, server: Server, address: str, folder: Path, inputs: Outputs) -> None:
    """No request fails or gets anything between the two versions."""
    stop, faults, answers = threading.Event(), [], []

    def ask_on() -> None:
        with client(address) as own:
            while not stop.is_set():
                try:
                    answers.append(ask(own, "late", inputs)["OUTPUT0"] - sums(inputs)["OUTPUT0"])
                except Exception as error:
                    faults.append(repr(error))
                    return

    threads = [threading.Thread(target=ask_on) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        make_simple(folder, "late", 2, 20.0)
        server.load_model("late")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    expect(not faults, f"requests failed meanwhile: {faults[:1]}")
    for answer in answers:
        nearest = 10.0 if np.mean(answer) < 15 else 20.0
        check.close_to(answer, np.full_like(answer, nearest), "an answer meanwhile")
    check.remark = f"{len(answers)} requests meanwhile"


def run(report: Report, address: str, models: dict[str, Made], folder: Path) -> None:
    """All checks of the client."""
    with client(address) as server:
        check_lifecycle(report, server, models)
        check_infer(report, server)
        with report.check("triton: classification") as check:
            check_classification(check, server, Oracle(models["conv"]))
        check_sequences(report, server, Oracle(models["memory"]))
        with report.check("triton: async_infer, 32 at once") as check:
            check_async(check, address)
        with report.check("triton: concurrent clients") as check:
            check_concurrency(check, address)
        with report.check("triton: get_inference_statistics counts what was sent") as check:
            check_statistics(check, server)
        check_types(report, server, models)
        check_errors(report, server)
        check_loading(report, server, address, folder)
