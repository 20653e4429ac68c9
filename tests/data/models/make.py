"""Makes the small ONNX models that the unit tests load.

    python3 -m venv /tmp/onnx-venv && /tmp/onnx-venv/bin/pip install onnx==1.23.2 numpy==2.4.6
    /tmp/onnx-venv/bin/python tests/data/models/make.py

The weights are drawn from one fixed seed; nothing is trained. The same packages give the same bytes.
`make.py gru FILE HIDDEN FEATURES` makes the GRU in another size, for measuring.
"""

import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto as T
from onnx import checker, helper, numpy_helper, save

HERE = Path(__file__).parent
rng = np.random.default_rng(20_261)
node = helper.make_node


def port(name, shape, kind=T.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def weights(name, *shape):
    fan_in = shape[-1] if len(shape) > 1 else 4
    values = rng.uniform(-1, 1, shape) / np.sqrt(fan_in)
    return numpy_helper.from_array(values.astype(np.float32), name)


def constant(name, values, kind=np.int64):
    return numpy_helper.from_array(np.array(values, dtype=kind), name)


def write(path, nodes, inputs, outputs, initializers):
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    save(model, path)
    print(f"{path}: {Path(path).stat().st_size} bytes")


def gru(path, hidden=12, features=8):
    """One step of a GRU; its state has the batch along dimension 1, as ONNX wants it."""
    write(
        path,
        [
            node("Unsqueeze", ["input", "zero"], ["x"]),
            node("GRU", ["x", "W", "R", "B", "", "h0"], ["", "hn"], hidden_size=hidden, linear_before_reset=1),
            node("Squeeze", ["hn", "zero"], ["y"]),
            node("Gemm", ["y", "D", "d"], ["logit"], transB=1),
            node("Sigmoid", ["logit"], ["probability"]),
        ],
        [port("input", ["batch", features]), port("h0", [1, "batch", hidden])],
        [port("probability", ["batch", 1]), port("hn", [1, "batch", hidden])],
        [
            constant("zero", [0]),
            weights("W", 1, 3 * hidden, features),
            weights("R", 1, 3 * hidden, hidden),
            weights("B", 1, 6 * hidden),
            weights("D", 1, hidden),
            weights("d", 1),
        ],
    )


def lstm(path, hidden=8, features=4):
    """Several steps of an LSTM with two states, `steps` of them open."""
    write(
        path,
        [
            node("Transpose", ["input"], ["x"], perm=[1, 0, 2]),
            node("LSTM", ["x", "W", "R", "B", "", "h_in", "c_in"], ["y", "h_out", "c_out"], hidden_size=hidden),
            node("Squeeze", ["y", "one"], ["z"]),
            node("Transpose", ["z"], ["output"], perm=[1, 0, 2]),
        ],
        [
            port("input", ["batch", "steps", features]),
            port("h_in", [1, "batch", hidden]),
            port("c_in", [1, "batch", hidden]),
        ],
        [
            port("output", ["batch", "steps", hidden]),
            port("h_out", [1, "batch", hidden]),
            port("c_out", [1, "batch", hidden]),
        ],
        [
            constant("one", [1]),
            weights("W", 1, 4 * hidden, features),
            weights("R", 1, 4 * hidden, hidden),
            weights("B", 1, 8 * hidden),
        ],
    )


def tcn(path, channels=6):
    """A streaming convolution that remembers what was left of its window, with a constant beside the input."""
    write(
        path,
        [
            node("Concat", ["cached_context", "input"], ["x"], axis=2),
            node("Conv", ["x", "W", "b"], ["y"], dilations=[2], kernel_shape=[3]),
            node("Relu", ["y"], ["z"]),
            node("Conv", ["z", "V"], ["raw"], kernel_shape=[1]),
            node("Cast", ["rate"], ["r"], to=T.FLOAT),
            node("Div", ["r", "khz"], ["gain"]),
            node("Mul", ["raw", "gain"], ["output"]),
            node("Slice", ["x", "from", "to", "along"], ["new_cached_context"]),
        ],
        [
            port("input", ["batch", 2, 16]),
            port("cached_context", ["batch", 2, 4]),
            port("rate", [], T.INT64),
        ],
        [port("output", ["batch", 2, 16]), port("new_cached_context", ["batch", 2, 4])],
        [
            weights("W", channels, 2, 3),
            weights("b", channels),
            weights("V", 2, channels, 1),
            constant("khz", 16_000, np.float32),
            constant("from", [-4]),
            constant("to", [1_000]),
            constant("along", [2]),
        ],
    )


def conv(path, classes=4):
    """A classifier of any length."""
    write(
        path,
        [
            node("Conv", ["input", "W", "b"], ["x"], kernel_shape=[5], pads=[2, 2], strides=[2]),
            node("Relu", ["x"], ["y"]),
            node("GlobalAveragePool", ["y"], ["p"]),
            node("Flatten", ["p"], ["f"]),
            node("Gemm", ["f", "D", "d"], ["g"], transB=1),
            node("Softmax", ["g"], ["scores"], axis=1),
        ],
        [port("input", ["batch", 3, "length"])],
        [port("scores", ["batch", classes])],
        [weights("W", 8, 3, 5), weights("b", 8), weights("D", classes, 8), weights("d", classes)],
    )


def transformer(path, width=8, words=16):
    """One block of attention over token ids and their mask, which must be equally long."""
    write(
        path,
        [
            node("Gather", ["E", "ids"], ["x"]),
            node("MatMul", ["x", "Q"], ["q"]),
            node("MatMul", ["x", "K"], ["k"]),
            node("MatMul", ["x", "V"], ["v"]),
            node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
            node("MatMul", ["q", "kt"], ["a"]),
            node("Mul", ["a", "scale"], ["b"]),
            node("Cast", ["mask"], ["m"], to=T.FLOAT),
            node("Sub", ["m", "unit"], ["n"]),
            node("Mul", ["n", "large"], ["o"]),
            node("Unsqueeze", ["o", "one"], ["p"]),
            node("Add", ["b", "p"], ["c"]),
            node("Softmax", ["c"], ["s"], axis=2),
            node("MatMul", ["s", "v"], ["t"]),
            node("Add", ["x", "t"], ["u"]),
            node("LayerNormalization", ["u", "g", "h"], ["output"], axis=-1),
        ],
        [port("ids", ["batch", "length"], T.INT64), port("mask", ["batch", "length"], T.INT64)],
        [port("output", ["batch", "length", width])],
        [
            weights("E", words, width),
            weights("Q", width, width),
            weights("K", width, width),
            weights("V", width, width),
            constant("scale", width**-0.5, np.float32),
            constant("unit", 1, np.float32),
            constant("large", 1e4, np.float32),
            constant("one", [1]),
            constant("g", np.ones(width), np.float32),
            constant("h", np.zeros(width), np.float32),
        ],
    )


def types(path):
    """An input of many types each, each a little changed."""
    kinds = [("i64", T.INT64, np.int64), ("i32", T.INT32, np.int32), ("f64", T.DOUBLE, np.float64), ("f16", T.FLOAT16, np.float16)]
    nodes, inputs, outputs, initializers = [], [], [], []
    for name, kind, element in kinds:
        nodes.append(node("Add", [f"{name}_x", f"{name}_one"], [f"{name}_y"]))
        inputs.append(port(f"{name}_x", ["batch", 3], kind))
        outputs.append(port(f"{name}_y", ["batch", 3], kind))
        initializers.append(constant(f"{name}_one", 1, element))
    nodes.append(node("Not", ["bool_x"], ["bool_y"]))
    inputs.append(port("bool_x", ["batch", 3], T.BOOL))
    outputs.append(port("bool_y", ["batch", 3], T.BOOL))
    for name, kind in [("u8", T.UINT8), ("i8", T.INT8)]:
        nodes.append(node("Identity", [f"{name}_x"], [f"{name}_y"]))
        inputs.append(port(f"{name}_x", ["batch", 3], kind))
        outputs.append(port(f"{name}_y", ["batch", 3], kind))
    write(path, nodes, inputs, outputs, initializers)


def counter(path):
    """Adds up what it hears, from where the plan lets it start; its state is INT64."""
    write(
        path,
        [node("Add", ["input", "sum"], ["total"]), node("Identity", ["total"], ["sumN"])],
        [port("input", ["batch", 2], T.INT64), port("sum", ["batch", 2], T.INT64)],
        [port("total", ["batch", 2], T.INT64), port("sumN", ["batch", 2], T.INT64)],
        [],
    )


def mixing(path):
    """Takes the mean over the batch away: rows of a call depend on each other."""
    write(
        path,
        [node("ReduceMean", ["input"], ["mean"], axes=[0], keepdims=1), node("Sub", ["input", "mean"], ["x"]),
         node("Add", ["x", "one"], ["output"])],
        [port("input", ["batch", 4])],
        [port("output", ["batch", 4])],
        [constant("one", 1, np.float32)],
    )


def furtive(path):
    """Takes the mean over the batch of what lies below zero away: rows of a call depend on each other, which numbers
    that are all above zero do not show."""
    write(
        path,
        [node("Neg", ["input"], ["negative"]), node("Relu", ["negative"], ["below"]),
         node("ReduceMean", ["below"], ["mean"], axes=[0], keepdims=1), node("Sub", ["input", "mean"], ["x"]),
         node("ReduceMean", ["x"], ["level"], axes=[1], keepdims=1)],
        [port("input", ["batch", 160])],
        [port("level", ["batch", 1])],
        [],
    )


def single(path):
    """A state and an input whose batch is 1 for ever."""
    write(
        path,
        [node("Add", ["input", "state"], ["sum"]), node("Mul", ["sum", "half"], ["stateN"]),
         node("Tanh", ["sum"], ["output"])],
        [port("input", [1, 4]), port("state", [1, 4])],
        [port("output", [1, 4]), port("stateN", [1, 4])],
        [constant("half", 0.5, np.float32)],
    )


def decay(path):
    """Adds what it hears to half of what it remembers: whatever is not finite stays so on every engine."""
    write(
        path,
        [node("Mul", ["state", "half"], ["kept"]), node("Add", ["input", "kept"], ["output"]),
         node("Identity", ["output"], ["stateN"])],
        [port("input", ["batch", 8]), port("state", ["batch", 8])],
        [port("output", ["batch", 8]), port("stateN", ["batch", 8])],
        [constant("half", 0.5, np.float32)],
    )


def brittle(path):
    """Looks its input up in a table, so that an engine fails on what is not in there."""
    write(
        path,
        [node("Gather", ["table", "input"], ["output"])],
        [port("input", ["batch", 2], T.INT64)],
        [port("output", ["batch", 2])],
        [weights("table", 8)],
    )


def hungry(path):
    """Asks for 4 TiB, whatever goes in: an engine that takes it at its word aborts the process."""
    write(
        path,
        [node("Expand", ["input", "vast"], ["large"]),
         node("ReduceMean", ["large"], ["output"], axes=[1], keepdims=1)],
        [port("input", ["batch", 1])],
        [port("output", ["batch", 1])],
        [constant("vast", [1, 1 << 40])],
    )


def scalar_bias(path):
    """A layer whose bias is one number for all columns: rten 0.27 panics where it joins the two operators."""
    write(
        path,
        [node("MatMul", ["input", "W"], ["product"]), node("Add", ["product", "bias"], ["output"])],
        [port("input", ["batch", 4])],
        [port("output", ["batch", 3])],
        [weights("W", 4, 3), constant("bias", [0.5], np.float32)],
    )


def dense(path, features=16, classes=4):
    """Two layers that remember nothing: so small that what a request costs beside the model shows."""
    write(
        path,
        [
            node("Gemm", ["input", "W", "b"], ["x"], transB=1),
            node("Relu", ["x"], ["y"]),
            node("Gemm", ["y", "D", "d"], ["g"], transB=1),
            node("Softmax", ["g"], ["scores"], axis=1),
        ],
        [port("input", ["batch", features])],
        [port("scores", ["batch", classes])],
        [weights("W", features, features), weights("b", features), weights("D", classes, features),
         weights("d", classes)],
    )


def main():
    if sys.argv[1:2] == ["gru"]:
        return gru(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    for make in [gru, lstm, tcn, conv, transformer, types, counter, mixing, single, decay, brittle, hungry, scalar_bias,
                 dense, furtive]:
        make(str(HERE / f"{make.__name__}.onnx"))


if __name__ == "__main__":
    main()
