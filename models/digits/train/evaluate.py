"""Measures the exported model as a server runs it: step by step through ONNX Runtime, with the rule of `[postprocess]`.

Owns the keyword rule in Python, the streams the model is measured on, and the counts. It never changes the model. Called by
`train.py`.
"""

from dataclasses import dataclass

import numpy as np
import onnxruntime

from scenes import STEP, laid_out, mixed, room
from speech import DIGITS, RATE, UNKNOWN

STEPS_A_SECOND = RATE // STEP


@dataclass
class Rule:
    """`kind = "keyword"`: the mean of the scores over `smooth` windows; a label not ignored whose mean reaches `threshold` is a
    detection, unless one was made less than `refractory_ms` before. Nothing is told before there are as many windows."""

    smooth: int
    threshold: float
    refractory_ms: int

    def detections(self, scores):
        """(step, label) of every detection in scores [steps, labels]; `step` is the window whose end brought it."""
        sums = np.cumsum(np.vstack([np.zeros((1, scores.shape[1])), scores]), axis=0)
        means = ((sums[self.smooth :] - sums[: -self.smooth]) / self.smooth)[:, : len(DIGITS)]
        found, last = [], -(10**9)
        for row in np.flatnonzero(means.max(axis=1) >= self.threshold):
            step = int(row) + self.smooth - 1
            if (step - last) * 1000 >= self.refractory_ms * STEPS_A_SECOND:
                found.append((step, int(means[row].argmax())))
                last = step
        return found


def session(model):
    """ONNX Runtime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def streamed(runtime, samples):
    """Scores [batch, steps, labels] of samples [batch, length], step by step from states of zero."""
    states = {given.name: np.zeros((len(samples), given.shape[1]), np.float32) for given in runtime.get_inputs()[1:]}
    scores = []
    for at in range(0, samples.shape[1] - STEP + 1, STEP):
        given = {"pcm": np.ascontiguousarray(samples[:, at : at + STEP]), **states}
        answer, *after = runtime.run(["scores", *(f"{name}_next" for name in states)], given)
        states = dict(zip(states, after))
        scores.append(answer)
    return np.stack(scores, axis=1)


def agreement(runtime, scores_of, samples):
    """The largest difference of any score between the streaming form and the training form `scores_of(samples)`."""
    return float(np.abs(streamed(runtime, samples) - np.asarray(scores_of(samples))).max())


def streams(clips, count, seconds, rng, noise=None, kind=None, snr=None, rooms=False):
    """`count` streams of words with pauses of 0.3 to 1.0 s: (samples [count, length], the words of each). The kind of noise
    goes round if None. `rooms`: each in a room of its own."""
    samples, words = [], []
    for i in range(count):
        speech, said = laid_out(lambda r: clips[r.integers(len(clips))], seconds, lambda r: r.uniform(0.3, 1.0), rng)
        speech = room(speech, rng) if rooms else speech
        chosen = kind or noise.KINDS[i % len(noise.KINDS)] if noise else None
        under = noise.excerpt(chosen, len(speech), rng) if noise else None
        samples.append(mixed(speech, said, under, snr, 10 ** (rng.uniform(-32, -16) / 20), rng))
        words.append(said)
    return np.stack(samples), words


def noises(noise, kind, count, seconds, rng):
    """`count` streams of nothing but one kind of noise, at levels of -55 to -15 dB of full scale."""
    levels = 10 ** (rng.uniform(-55, -15, (count, 1)) / 20)
    return (np.stack([noise.excerpt(kind, seconds * RATE, rng) for _ in range(count)]) * levels).clip(-1, 1).astype(np.float32)


def judged(rule, scores, words):
    """Counts over streams: digits said, found (their label and no other), wrong (another), missed; other words said and accepted (a
    detection in their time); stray detections in no word's time. A word's time runs to 0.35 s after its end, or to the beginning
    of what is next plus 0.1 s."""
    count = dict(digits=0, found=0, wrong=0, missed=0, others=0, accepted=0, stray=0)
    for stream, said in zip(scores, words):
        found = [((step + 1) * STEP, label) for step, label in rule.detections(stream)]
        for i, word in enumerate(said):
            until = word.end + int(0.35 * RATE)
            until = min(until, said[i + 1].start + RATE // 10) if i + 1 < len(said) else until
            mine = [label for time, label in found if word.start < time <= until]
            found = [(time, label) for time, label in found if not word.start < time <= until]
            if word.label == UNKNOWN:
                count["others"] += 1
                count["accepted"] += bool(mine)
            else:
                count["digits"] += 1
                right = bool(mine) and all(label == word.label for label in mine)
                count["found" if right else "wrong" if mine else "missed"] += 1
        count["stray"] += len(found)
    return count


def alarms(rule, scores):
    """Detections an hour in scores [streams, steps, labels] where nothing was to be detected."""
    hours = scores.shape[0] * scores.shape[1] / STEPS_A_SECOND / 3600
    return sum(len(rule.detections(stream)) for stream in scores) / hours


def tuned(runtime, digits, others, noise, rng):
    """The rule that serves best on voices of training: digits found less twice those wrong, less as large a share of other words
    accepted. The refractory time is fixed: what the model says of one word is over by then."""
    spoken, said = streams(digits, 24, 60, rng, noise, snr=15, rooms=True)
    other, heard = streams(others, 24, 60, rng, noise, snr=15, rooms=True)
    scores, other_scores = streamed(runtime, spoken), streamed(runtime, other)

    def value(rule):
        right, false = judged(rule, scores, said), judged(rule, other_scores, heard)
        return (right["found"] - 2 * right["wrong"]) / right["digits"] - false["accepted"] / false["others"]

    rules = [Rule(smooth, percent / 100, 400) for smooth in (3, 4, 5, 6, 8) for percent in range(50, 100, 5)]
    return max(rules, key=value)
