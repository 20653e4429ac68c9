"""What ONNX Runtime makes of the models, alone: one row at a time, with the states handed from call to call."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import onnxruntime

from make_models import SAMPLE_RATE, Made

Outputs = dict[str, np.ndarray]


class Oracle:
    """One model in ONNX Runtime."""

    def __init__(self, made: Made) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.made = made
        self.session = onnxruntime.InferenceSession(str(made.path), options, providers=["CPUExecutionProvider"])
        states = {state.output for state in made.states}
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.visible = [name for name in self.outputs if name not in states]

    def start(self) -> Outputs:
        """The states of a stream that has seen nothing yet, by the names of the inputs."""
        return {state.input: np.zeros(state.shape, np.float32) for state in self.made.states}

    def step(self, inputs: Outputs, states: Outputs) -> tuple[Outputs, Outputs]:
        """One call: what comes out, and the states of the next call."""
        values = self.session.run(self.outputs, {**inputs, **states, **self.made.constants})
        named = dict(zip(self.outputs, values))
        after = {state.input: named[state.output] for state in self.made.states}
        return {name: named[name] for name in self.visible}, after

    def run(self, inputs: Outputs) -> Outputs:
        """One call of a model that remembers nothing."""
        return self.step(inputs, self.start())[0]

    def sequence(self, steps: list[Outputs]) -> list[Outputs]:
        """Calls that follow each other."""
        states, found = self.start(), []
        for inputs in steps:
            outputs, states = self.step(inputs, states)
            found.append(outputs)
        return found

    def stream(self, samples: np.ndarray) -> Outputs:
        """A whole stream: one row for every window that begins within it, the last ones filled up with silence."""
        audio = self.made.audio
        assert audio is not None, f"{self.made.name} does not hear streams"
        count = -(-len(samples) // audio.hop)
        padded = np.zeros((count - 1) * audio.hop + max(audio.window, audio.hop), np.float32)
        padded[: len(samples)] = samples
        windows = [padded[at : at + audio.window] for at in range(0, count * audio.hop, audio.hop)]
        rows = self.sequence([{audio.input: window[np.newaxis]} for window in windows])
        return {name: np.concatenate([row[name] for row in rows]) for name in self.visible}


def speech(repository: Path) -> np.ndarray:
    """The spoken sample of the tests."""
    with wave.open(str(repository / "tests/data/speech-noisy.wav")) as file:
        assert file.getframerate() == SAMPLE_RATE and file.getnchannels() == 1
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


def sound(random: np.random.Generator, spoken: np.ndarray, count: int) -> np.ndarray:
    """`count` samples that no other call gives, within -1 to 1: the spoken sample, a tone and noise that come and go."""
    begin = int(random.integers(len(spoken)))
    voice = np.resize(np.roll(spoken, -begin), count)
    time = np.arange(count, dtype=np.float64) / SAMPLE_RATE
    tone = np.sin(2 * np.pi * random.uniform(80, 3_000) * time + random.uniform(0, 6))
    swell = np.clip(np.sin(2 * np.pi * random.uniform(0.1, 0.7) * time + random.uniform(0, 6)), 0, 1)
    noise = random.standard_normal(count)
    mixed = random.uniform(0.5, 1.5) * voice + swell * (random.uniform(0, 0.2) * tone + random.uniform(0, 0.05) * noise)
    return np.clip(mixed, -0.99, 0.99).astype(np.float32)
