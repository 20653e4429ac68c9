"""Makes the ONNX models that the conformance tests and the benches serve, each in a folder as the server wants it.

    python tests/conformance/make_models.py target/conformance/models

Weights are drawn from fixed seeds and nothing is trained: what counts is that the arithmetic is that of real models.
The one exception is Silero's voice detector, which is taken from the `silero-vad` wheel and left out where that is not
installed. The same packages give the same bytes. Import `make` to get the models from elsewhere.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Sequence

import numpy as np
import onnx
from onnx import TensorProto, checker, helper, numpy_helper

node = helper.make_node
Shape = Sequence[int | str]

SAMPLE_RATE = 16_000
LABELS = ["rain", "wind", "birds", "traffic", "speech", "music", "steps", "doors", "water", "silence"]

# Every element type that ONNX and the Open Inference Protocol share, by the protocol's name.
ELEMENT_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
# Those that the engine inside the binary computes with; ONNX Runtime takes all of them.
BUILTIN_TYPES = ["BOOL", "UINT8", "INT8", "INT32", "INT64", "FP16", "FP32", "FP64"]


@dataclass
class State:
    """An output that is an input of the next call; zeros at the start. `shape` is for a batch of one."""

    input: str
    output: str
    shape: tuple[int, ...]


@dataclass
class Audio:
    """How a model hears a stream: windows of `window` samples, `hop` apart."""

    input: str
    window: int
    hop: int


@dataclass
class Made:
    """A model as it was written, with what is needed to run it without the server."""

    name: str
    path: Path
    states: list[State] = field(default_factory=list)
    audio: Audio | None = None
    constants: dict[str, np.ndarray] = field(default_factory=dict)


class Graph:
    """Collects the nodes and weights of one ONNX file."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def add(self, kind: str, inputs: list[str], outputs: str | list[str], **attributes: object) -> str:
        """Appends a node and gives the name of its first output."""
        names = [outputs] if isinstance(outputs, str) else outputs
        self.nodes.append(node(kind, inputs, names, **attributes))
        return names[0]

    def weights(self, name: str, *shape: int, fan_in: int | None = None) -> str:
        """Appends weights drawn so that values neither vanish nor saturate."""
        fan_in = fan_in or int(np.prod(shape[1:]))
        values = self.random.uniform(-1.0, 1.0, shape) * np.sqrt(3.0 / fan_in)
        return self.value(name, values.astype(np.float32))

    def value(self, name: str, values: object, kind: type = np.float32) -> str:
        """Appends a constant."""
        array = values if isinstance(values, np.ndarray) else np.array(values, dtype=kind)
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def dense(self, name: str, source: str, inputs: int, outputs: int) -> str:
        """Appends a fully connected layer."""
        matrix = self.weights(f"{name}_w", outputs, inputs)
        bias = self.weights(f"{name}_b", outputs, fan_in=inputs)
        return self.add("Gemm", [source, matrix, bias], name, transB=1)

    def conv(self, name: str, source: str, inputs: int, outputs: int, kernel: int, **attributes: object) -> str:
        """Appends a one-dimensional convolution."""
        matrix = self.weights(f"{name}_w", outputs, inputs, kernel)
        bias = self.weights(f"{name}_b", outputs, fan_in=inputs * kernel)
        return self.add("Conv", [source, matrix, bias], name, kernel_shape=[kernel], **attributes)

    def save(self, path: Path, inputs: list[tuple[str, Shape]], outputs: list[tuple[str, Shape]],
             kind: int = TensorProto.FLOAT) -> None:
        """Checks the graph and writes it."""
        def ports(named: list[tuple[str, Shape]]) -> list[onnx.ValueInfoProto]:
            return [helper.make_tensor_value_info(name, kind, list(shape)) for name, shape in named]

        graph = helper.make_graph(self.nodes, path.parent.parent.name, ports(inputs), ports(outputs), self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        checker.check_model(model, full_check=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, path)


def place(folder: Path, name: str, version: int, manifest: str) -> Path:
    """Writes a model's `model.toml` and tells where its ONNX file belongs."""
    version_folder = folder / name / str(version)
    version_folder.mkdir(parents=True, exist_ok=True)
    (version_folder / "model.toml").write_text(manifest.strip() + "\n")
    return version_folder / "model.onnx"


def audio_manifest(description: str, audio: Audio, states: list[State], outputs: str, batch_axis: int) -> str:
    """The `model.toml` of a model that hears streams."""
    text = f"""
description = "{description}"

[audio]
input = "{audio.input}"
sample_rate = {SAMPLE_RATE}
window = {audio.window}
hop = {audio.hop}
"""
    for state in states:
        shape = ", ".join('"batch"' if axis == batch_axis else str(side) for axis, side in enumerate(state.shape))
        text += f'\n[[state]]\ninput = "{state.input}"\noutput = "{state.output}"\nshape = [{shape}]\n'
    return text + "\n" + outputs


def make_gru(folder: Path) -> Made:
    """A recurrent model of about 300,000 parameters: 32 ms of audio, one probability and a small embedding."""
    hidden, features, window = 224, 128, 512
    audio = Audio("audio", window, window)
    states = [State("h0", "hn", (1, 1, hidden))]
    outputs = '[[output]]\nname = "speech"\nkind = "probability"\n\n[[output]]\nname = "embedding"\nkind = "embedding"\n'
    manifest = audio_manifest("A GRU of 300,000 parameters with random weights", audio, states, outputs, 1)
    path = place(folder, "gru", 1, manifest)
    graph = Graph(1)
    graph.add("Relu", [graph.dense("front", "audio", window, features)], "features")
    graph.add("Unsqueeze", ["features", graph.value("zero", [0], np.int64)], "x")
    graph.weights("W", 1, 3 * hidden, features, fan_in=features)
    graph.weights("R", 1, 3 * hidden, hidden, fan_in=hidden)
    graph.weights("B", 1, 6 * hidden, fan_in=hidden)
    graph.add("GRU", ["x", "W", "R", "B", "", "h0"], ["", "hn"], hidden_size=hidden, linear_before_reset=1)
    graph.add("Squeeze", ["hn", "zero"], "y")
    graph.add("Sigmoid", [graph.dense("logit", "y", hidden, 1)], "speech")
    graph.add("Tanh", [graph.dense("projection", "y", hidden, 4)], "embedding")
    graph.save(path, [("audio", ["batch", window]), ("h0", [1, "batch", hidden])],
               [("speech", ["batch", 1]), ("embedding", ["batch", 4]), ("hn", [1, "batch", hidden])])
    return Made("gru", path, states, audio)


def make_lstm(folder: Path) -> Made:
    """A recurrent model with two states, that works on 20 ms in five steps."""
    hidden, steps, samples = 96, 5, 64
    audio = Audio("pcm", steps * samples, steps * samples)
    states = [State("h_in", "h_out", (1, 1, hidden)), State("c_in", "c_out", (1, 1, hidden))]
    outputs = '[[output]]\nname = "sound"\nkind = "raw"\n'
    path = place(folder, "lstm", 1, audio_manifest("An LSTM with random weights", audio, states, outputs, 1))
    graph = Graph(2)
    graph.add("Reshape", ["pcm", graph.value("by_step", [-1, steps, samples], np.int64)], "steps")
    graph.add("Transpose", ["steps"], "x", perm=[1, 0, 2])
    graph.weights("W", 1, 4 * hidden, samples, fan_in=samples)
    graph.weights("R", 1, 4 * hidden, hidden, fan_in=hidden)
    graph.weights("B", 1, 8 * hidden, fan_in=hidden)
    graph.add("LSTM", ["x", "W", "R", "B", "", "h_in", "c_in"], ["", "h_out", "c_out"], hidden_size=hidden)
    graph.add("Squeeze", ["h_out", graph.value("zero", [0], np.int64)], "y")
    graph.dense("sound", "y", hidden, 3)
    graph.save(path, [("pcm", ["batch", audio.window]), ("h_in", [1, "batch", hidden]), ("c_in", [1, "batch", hidden])],
               [("sound", ["batch", 3]), ("h_out", [1, "batch", hidden]), ("c_out", [1, "batch", hidden])])
    return Made("lstm", path, states, audio)


def make_tcn(folder: Path) -> Made:
    """A streaming convolution: three dilated layers, each of which remembers what it still needs of the past."""
    channels, window, frame = 24, 160, 16
    audio = Audio("audio", window, window)
    dilations = [1, 2, 4]
    states = [State(f"cached_{d}", f"new_cached_{d}", (1, channels, 2 * d)) for d in dilations]
    outputs = '[[output]]\nname = "frame"\nkind = "raw"\n'
    path = place(folder, "tcn", 1, audio_manifest("A streaming TCN with random weights", audio, states, outputs, 0))
    graph = Graph(3)
    graph.add("Unsqueeze", ["audio", graph.value("one", [1], np.int64)], "wave")
    last = graph.add("Relu", [graph.conv("front", "wave", 1, channels, frame, strides=[frame])], "frames")
    graph.value("end", [np.iinfo(np.int32).max], np.int64)
    graph.value("time", [2], np.int64)
    for dilation in dilations:
        padded = graph.add("Concat", [f"cached_{dilation}", last], f"padded_{dilation}", axis=2)
        start = graph.value(f"from_{dilation}", [-2 * dilation], np.int64)
        graph.add("Slice", [padded, start, "end", "time"], f"new_cached_{dilation}")
        heard = graph.conv(f"heard_{dilation}", padded, channels, channels, 3, dilations=[dilation])
        active = graph.add("Relu", [heard], f"active_{dilation}")
        last = graph.add("Add", [active, last], f"layer_{dilation}")
    graph.add("ReduceMean", [last], "mean", axes=[2], keepdims=0)
    graph.dense("frame", "mean", channels, 4)
    graph.save(path, [("audio", ["batch", window])] + [(s.input, ["batch", *s.shape[1:]]) for s in states],
               [("frame", ["batch", 4])] + [(s.output, ["batch", *s.shape[1:]]) for s in states])
    return Made("tcn", path, states, audio)


def make_conv(folder: Path) -> Made:
    """A classifier of one second of audio, as a model of tensors: 16,000 floats in, ten scores out."""
    labels = ", ".join(f'"{label}"' for label in LABELS)
    path = place(folder, "conv", 1, f"""
description = "A classifier of one second, with random weights"

[[output]]
name = "scores"
kind = "scores"
labels = [{labels}]
""")
    graph = Graph(4)
    graph.add("Unsqueeze", ["audio", graph.value("one", [1], np.int64)], "wave")
    graph.add("Relu", [graph.conv("first", "wave", 1, 16, 64, strides=[32])], "a")
    graph.add("Relu", [graph.conv("second", "a", 16, 32, 8, strides=[4])], "b")
    graph.add("Relu", [graph.conv("third", "b", 32, 64, 4, strides=[4])], "c")
    graph.add("GlobalAveragePool", ["c"], "pooled")
    graph.add("Flatten", ["pooled"], "flat", axis=1)
    # Means are small; the factor sets the scores apart, so that the order of classes does not hang on rounding.
    graph.add("Mul", ["flat", graph.value("loudness", [40.0])], "loud")
    graph.add("Softmax", [graph.dense("logits", "loud", 64, len(LABELS))], "scores", axis=1)
    graph.save(path, [("audio", ["batch", SAMPLE_RATE])], [("scores", ["batch", len(LABELS)])])
    return Made("conv", path)


def make_transformer(folder: Path) -> Made:
    """A block of self-attention with a feed-forward layer, over sequences of any length."""
    width, heads = 64, 4
    path = place(folder, "transformer", 1, 'description = "A transformer block with random weights"\n')
    graph = Graph(5)
    split = graph.value("split", [0, 0, heads, width // heads], np.int64)
    merge = graph.value("merge", [0, 0, width], np.int64)

    def linear(name: str, source: str, inputs: int, outputs: int) -> str:
        product = graph.add("MatMul", [source, graph.weights(f"{name}_w", inputs, outputs, fan_in=inputs)], f"{name}_p")
        return graph.add("Add", [product, graph.weights(f"{name}_b", outputs, fan_in=inputs)], name)

    def normal(name: str, source: str) -> str:
        scale = graph.value(f"{name}_scale", np.ones(width, np.float32))
        shift = graph.value(f"{name}_shift", np.zeros(width, np.float32))
        return graph.add("LayerNormalization", [source, scale, shift], name, axis=-1)

    def by_head(name: str, perm: list[int]) -> str:
        parted = graph.add("Reshape", [linear(name, "normal_1", width, width), split], f"{name}_split")
        return graph.add("Transpose", [parted], f"{name}_heads", perm=perm)

    normal("normal_1", "x")
    query, key, value = by_head("q", [0, 2, 1, 3]), by_head("k", [0, 2, 3, 1]), by_head("v", [0, 2, 1, 3])
    scores = graph.add("MatMul", [query, key], "scores")
    scaled = graph.add("Mul", [scores, graph.value("scale", [(width // heads) ** -0.5])], "scaled")
    mixed = graph.add("MatMul", [graph.add("Softmax", [scaled], "attention", axis=-1), value], "mixed")
    together = graph.add("Reshape", [graph.add("Transpose", [mixed], "turned", perm=[0, 2, 1, 3]), merge], "together")
    attended = graph.add("Add", [linear("o", together, width, width), "x"], "attended")
    wide = graph.add("Relu", [linear("up", normal("normal_2", attended), width, 4 * width)], "wide")
    graph.add("Add", [linear("down", wide, 4 * width, width), attended], "y")
    graph.save(path, [("x", ["batch", "time", width])], [("y", ["batch", "time", width])])
    return Made("transformer", path)


def make_memory(folder: Path) -> Made:
    """A small recurrent model of tensors, asked by sequences of requests."""
    hidden, features = 24, 16
    path = place(folder, "memory", 1, """
description = "A GRU cell with random weights, for sequences of requests"

[[state]]
input = "past_state"
output = "present_state"
shape = [1, "batch", 24]
""")
    graph = Graph(6)
    graph.add("Unsqueeze", ["x", graph.value("zero", [0], np.int64)], "step")
    graph.weights("W", 1, 3 * hidden, features, fan_in=features)
    graph.weights("R", 1, 3 * hidden, hidden, fan_in=hidden)
    graph.weights("B", 1, 6 * hidden, fan_in=hidden)
    graph.add("GRU", ["step", "W", "R", "B", "", "past_state"], ["", "present_state"], hidden_size=hidden,
              linear_before_reset=1)
    graph.add("Squeeze", ["present_state", "zero"], "y")
    graph.save(path, [("x", ["batch", features]), ("past_state", [1, "batch", hidden])],
               [("y", ["batch", hidden]), ("present_state", [1, "batch", hidden])])
    return Made("memory", path, [State("past_state", "present_state", (1, 1, hidden))])


def make_simple(folder: Path, name: str = "simple", version: int = 1, offset: float = 0.0) -> Made:
    """Sum and difference of two inputs, as in the examples of most servers; `offset` tells versions apart."""
    path = place(folder, name, version, f'description = "Sum and difference, and {offset}"\n')
    graph = Graph(7)
    shifted = graph.add("Add", ["INPUT0", graph.value("offset", [offset])], "shifted")
    graph.add("Add", [shifted, "INPUT1"], "OUTPUT0")
    graph.add("Sub", [shifted, "INPUT1"], "OUTPUT1")
    graph.save(path, [("INPUT0", ["batch", 16]), ("INPUT1", ["batch", 16])],
               [("OUTPUT0", ["batch", 16]), ("OUTPUT1", ["batch", 16])])
    return Made(name, path)


def make_identity(folder: Path, datatype: str) -> Made:
    """Gives back what it takes, for one element type."""
    name = f"identity_{datatype.lower()}"
    path = place(folder, name, 1, f'description = "Gives back {datatype}"\n')
    graph = Graph(8)
    graph.add("Identity", ["INPUT"], "OUTPUT")
    graph.save(path, [("INPUT", ["batch", "length"])], [("OUTPUT", ["batch", "length"])], ELEMENT_TYPES[datatype])
    return Made(name, path)


def silero_file() -> Path | None:
    """Silero's ONNX file within the installed `silero-vad` package, which need not be importable."""
    found = importlib.util.find_spec("silero_vad")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / "data" / "silero_vad.onnx"
    return path if path.exists() else None


def make_silero(folder: Path) -> Made | None:
    """Silero's voice detector as it is published. A window is 64 samples of context and 512 new ones."""
    source = silero_file()
    if source is None:
        return None
    audio = Audio("input", 576, 512)
    states = [State("state", "stateN", (2, 1, 128))]
    path = place(folder, "silero", 1, audio_manifest("Silero's voice detector", audio, states, """
[[const]]
name = "sr"
dtype = "INT64"
value = 16000

[[output]]
name = "output"
kind = "probability"
""", 1))
    path.write_bytes(source.read_bytes())
    return Made("silero", path, states, audio, {"sr": np.array(SAMPLE_RATE, np.int64)})


def make(folder: Path, types: Sequence[str] = BUILTIN_TYPES) -> dict[str, Made]:
    """Makes every model under `folder` and tells of each what it is; Silero's only where its package is installed."""
    makers = [make_gru, make_lstm, make_tcn, make_conv, make_transformer, make_memory, make_simple]
    made = [maker(folder) for maker in makers]
    made += [make_identity(folder, datatype) for datatype in types]
    silero = make_silero(folder)
    if silero is not None:
        made.append(silero)
    return {model.name: model for model in made}


if __name__ == "__main__":
    for model in make(Path(sys.argv[1])).values():
        weights = onnx.load(model.path).graph.initializer
        parameters = sum(int(np.prod(weight.dims)) for weight in weights)
        print(f"{model.path}: {parameters} parameters, {model.path.stat().st_size} bytes")
