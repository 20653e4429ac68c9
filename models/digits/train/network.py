"""The network: its filter bank, its training form over whole scenes (JAX), and its streaming form step by step (ONNX).

Owns every number of the architecture. Called by `train.py`. Both forms compute the same: the check is `evaluate.agreement`.

Per step of 320 samples (20 ms at 16 kHz): two overlapping windows of 320 samples (one reaches 160 samples back, which is the
state `context`), a Hann window and Fourier sums at 106 frequencies, 40 mel bands, logarithm; a dense layer over this step and the
two before it (state `history`); a GRU (state `hidden`); a dense layer and softmax over 12 labels. Nothing looks ahead.
"""

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from speech import LABELS, RATE
from scenes import STEP

HOP = 160
BANDS = 40
FEATURES = 2 * BANDS  # of one step: two windows
REACH = 3  # steps seen by the first dense layer
DENSE = 64
HIDDEN = 112
FLOOR = 1e-5  # power added to each band: about -75 dB of full scale

# Every 50 Hz up to 3 kHz, every 100 Hz above, where the bands are wider than the lobe of the window (200 Hz).
BINS = np.array([*range(1, 61), *range(62, 153, 2)])


def mel(hertz):
    return 2595 * np.log10(1 + np.asarray(hertz) / 700)


def bank():
    """Weights [bins, bands] of triangles even in mel from 40 Hz to 7.6 kHz, each summing to 1."""
    hertz = BINS * (RATE / STEP)
    edges = np.interp(np.linspace(mel(40), mel(7600), BANDS + 2), mel(np.arange(8001)), np.arange(8001))
    low, mid, high = edges[:-2], edges[1:-1], edges[2:]
    # No triangle is narrower than two bins, or the lowest bands would be empty.
    low, high = np.minimum(low, mid - 75), np.maximum(high, mid + 75)
    rise, fall = (hertz[:, None] - low) / (mid - low), (high - hertz[:, None]) / (high - mid)
    weights = np.maximum(np.minimum(rise, fall), 0)
    return (weights / weights.sum(axis=0)).astype(np.float32)


def fourier():
    """Half of the windowed Fourier sums, [160, bins] of cosines and of sines: the window is symmetric about its middle, so the sums
    are taken over x[m + n] + x[m - n] and x[m + n] - x[m - n] for n = 0.5 to 159.5."""
    n = np.arange(HOP) + 0.5
    window = 0.5 + 0.5 * np.cos(np.pi * n / HOP)
    angle = 2 * np.pi * np.outer(n, BINS) / STEP
    return [(window[:, None] * part).astype(np.float32) for part in (np.cos(angle), np.sin(angle))]


def initial(rng, mean, deviation):
    """Parameters before training; `mean` and `deviation` [bands] bring the logarithms to a common scale."""

    def uniform(*shape):
        return (rng.uniform(-1, 1, shape) * np.sqrt(3 / shape[0])).astype(np.float32)

    return {
        "scale": np.tile(1 / deviation, 2).astype(np.float32),
        "shift": np.tile(-mean / deviation, 2).astype(np.float32),
        "dense": uniform(REACH * FEATURES, DENSE),
        "dense_bias": np.zeros(DENSE, np.float32),
        "input": uniform(DENSE, 3 * HIDDEN),
        "input_bias": np.zeros(3 * HIDDEN, np.float32),
        "recur": 0.7 * uniform(HIDDEN, 3 * HIDDEN),
        "recur_bias": np.zeros(3 * HIDDEN, np.float32),
        "output": uniform(HIDDEN, len(LABELS)),
        "output_bias": np.zeros(len(LABELS), np.float32),
    }


def features(samples):
    """Logarithms of mel bands [batch, steps, 80] of whole scenes [batch, samples]."""
    cosines, sines = fourier()
    batch, length = samples.shape
    halves = jnp.pad(samples, ((0, 0), (HOP, 0))).reshape(batch, length // HOP + 1, HOP)
    before, after = halves[:, :-1, ::-1], halves[:, 1:]
    power = jnp.square((after + before) @ cosines) + jnp.square((after - before) @ sines)
    return jnp.log(power @ bank() + FLOOR).reshape(batch, length // STEP, FEATURES)


def logits(params, logs):
    """Logits [batch, steps, labels] from `features`, starting from states of zero."""
    batch, steps, _ = logs.shape
    scaled = logs * params["scale"] + params["shift"]
    padded = jnp.pad(scaled, ((0, 0), (REACH - 1, 0), (0, 0)))
    near = jnp.concatenate([padded[:, i : i + steps] for i in range(REACH)], axis=2)
    dense = jax.nn.relu(near @ params["dense"] + params["dense_bias"])
    gates = (dense @ params["input"] + params["input_bias"]).transpose(1, 0, 2)

    def step(hidden, given):
        own = hidden @ params["recur"] + params["recur_bias"]
        update, reset = jnp.split(jax.nn.sigmoid(given[:, : 2 * HIDDEN] + own[:, : 2 * HIDDEN]), 2, axis=1)
        fresh = jnp.tanh(given[:, 2 * HIDDEN :] + reset * own[:, 2 * HIDDEN :])
        hidden = (1 - update) * fresh + update * hidden
        return hidden, hidden

    _, hidden = jax.lax.scan(step, jnp.zeros((batch, HIDDEN)), gates)
    return hidden.transpose(1, 0, 2) @ params["output"] + params["output_bias"]


def loss(params, logs, allowed, weight):
    """The mean over steps of minus the logarithm of the probability that falls on labels allowed."""
    scores = jax.nn.log_softmax(logits(params, logs))
    right = jax.nn.logsumexp(scores, axis=2, b=allowed)
    return -(right * weight).sum() / weight.sum()


def exported(params):
    """The streaming form as an ONNX model: `pcm` [batch, 320] and three states in, `scores` [batch, 12] and the states out."""
    cosines, sines = fourier()
    # Where the halves of both windows lie among the 480 samples of context and step; the first half is read backwards.
    after = np.array([np.arange(160, 320), np.arange(320, 480)])
    before = np.array([np.arange(159, -1, -1), np.arange(319, 159, -1)])
    constants = {
        "after": after.astype(np.int64), "before": before.astype(np.int64), "cosines": cosines, "sines": sines, "bank": bank(),
        "floor": np.full(BANDS, FLOOR, np.float32), "flat": np.array([0, FEATURES], np.int64), "last": np.array([1], np.int64),
        "front": np.array([0], np.int64), "context_from": np.array([320], np.int64), "context_to": np.array([480], np.int64),
        "history_from": np.array([FEATURES], np.int64), "history_to": np.array([REACH * FEATURES], np.int64),
        "scale": params["scale"], "shift": params["shift"],
        "dense": params["dense"], "dense_bias": params["dense_bias"],
        "input": params["input"].T[None], "recur": params["recur"].T[None],
        "gru_bias": np.concatenate([params["input_bias"], params["recur_bias"]])[None],
        "output": params["output"], "output_bias": params["output_bias"],
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Concat", ["context", "pcm"], ["heard"], axis=1),
        node("Slice", ["heard", "context_from", "context_to", "last"], ["context_next"]),
        node("Gather", ["heard", "after"], ["later"], axis=1),
        node("Gather", ["heard", "before"], ["earlier"], axis=1),
        node("Add", ["later", "earlier"], ["even"]),
        node("Sub", ["later", "earlier"], ["odd"]),
        node("MatMul", ["even", "cosines"], ["real"]),
        node("MatMul", ["odd", "sines"], ["imaginary"]),
        node("Mul", ["real", "real"], ["real_squared"]),
        node("Mul", ["imaginary", "imaginary"], ["imaginary_squared"]),
        node("Add", ["real_squared", "imaginary_squared"], ["power"]),
        node("MatMul", ["power", "bank"], ["bands"]),
        node("Add", ["bands", "floor"], ["raised"]),
        node("Log", ["raised"], ["logs"]),
        node("Reshape", ["logs", "flat"], ["logs_flat"]),
        node("Mul", ["logs_flat", "scale"], ["scaled"]),
        node("Add", ["scaled", "shift"], ["features"]),
        node("Concat", ["history", "features"], ["near"], axis=1),
        node("Slice", ["near", "history_from", "history_to", "last"], ["history_next"]),
        node("Gemm", ["near", "dense", "dense_bias"], ["dense_out"]),
        node("Relu", ["dense_out"], ["dense_relu"]),
        node("Unsqueeze", ["dense_relu", "front"], ["sequence"]),
        node("Unsqueeze", ["hidden", "front"], ["hidden_first"]),
        node("GRU", ["sequence", "input", "recur", "gru_bias", "", "hidden_first"], ["", "hidden_last"],
             hidden_size=HIDDEN, linear_before_reset=1),
        node("Squeeze", ["hidden_last", "front"], ["hidden_next"]),
        node("Gemm", ["hidden_next", "output", "output_bias"], ["logits"]),
        node("Softmax", ["logits"], ["scores"], axis=1),
    ]  # fmt: skip

    def rows(name, width):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])

    states = {"context": HOP, "history": (REACH - 1) * FEATURES, "hidden": HIDDEN}
    graph = helper.make_graph(
        nodes,
        "digits",
        [rows("pcm", STEP)] + [rows(name, width) for name, width in states.items()],
        [rows("scores", len(LABELS))] + [rows(f"{name}_next", width) for name, width in states.items()],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="suzu-digits")
    onnx.checker.check_model(model, full_check=True)
    return model
