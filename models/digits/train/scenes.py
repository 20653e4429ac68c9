"""Scenes: words at random places in a room with noise, and what the model is to say at every step of them.

Owns noise, rooms, levels and targets. It never makes speech (that is `speech.py`). Called by `train.py` for training and by
`evaluate.py` for the streams on which the model is measured. Samples are float32, 16 kHz, full scale 1, rounded to 16 bits.
"""

from dataclasses import dataclass

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft

from speech import LABELS, RATE, SILENCE, UNKNOWN

STEP = 320  # samples of one step of the model: 20 ms

# The model is to name a word from EARLY steps before its end until LATE steps after it, and may go on until FADE.
EARLY, LATE, FADE = 2, 9, 16


@dataclass
class Word:
    """A word in a scene: the index of its label, and where it lies, in samples."""

    label: int
    start: int
    end: int
    text: str


def coloured(length, exponent, rng):
    """Noise whose power falls with frequency to the power of `exponent` (0 white, 1 pink, 2 brown), at an RMS of 1."""
    spectrum = rfft(rng.standard_normal(length).astype(np.float32))
    hertz = np.fft.rfftfreq(length, 1 / RATE)
    noise = irfft(spectrum * np.maximum(hertz, 20.0) ** (-exponent / 2), length).astype(np.float32)
    return noise / noise.std()


def hum(length, rng):
    """Mains hum of 50 or 60 Hz with harmonics that fall off at random, at an RMS of 1."""
    mains = rng.choice([50.0, 60.0]) * rng.uniform(0.995, 1.005)
    time = np.arange(length, dtype=np.float32) / RATE
    tones = [rng.uniform(0.2, 1) / n * np.sin(2 * np.pi * (mains * n * time + rng.uniform())) for n in range(1, 13)]
    total = np.sum(tones, axis=0) + 0.05 * rng.standard_normal(length)
    return (total / total.std()).astype(np.float32)


def babble(length, talk, talkers, rng):
    """`talkers` voices talking at once, cut from the clips `talk`, at an RMS of 1."""
    total = np.zeros(length, np.float32)
    for _ in range(talkers):
        at = -int(rng.integers(RATE))
        while at < length:
            clip = talk[rng.integers(len(talk))].samples
            first, last = max(at, 0), min(at + len(clip), length)
            total[first:last] += clip[first - at : max(last - at, 0)] if last > first else 0
            at += len(clip) + int(rng.integers(RATE // 20, RATE // 4))
    return total / (total.std() + 1e-9)


class Noise:
    """Long stretches of every kind of noise, made once, from which scenes take excerpts."""

    KINDS = ["white", "pink", "brown", "hum", "babble", "taps"]

    def __init__(self, talk, rng, seconds=120):
        length = seconds * RATE
        taps = coloured(length, 1, rng) * np.repeat(rng.uniform(size=length // 1600) < 0.08, 1600)
        taps *= np.exp(-np.tile(np.arange(1600), length // 1600) / rng.uniform(60, 400))
        self.stretches = {
            "white": coloured(length, 0, rng),
            "pink": coloured(length, 1, rng),
            "brown": coloured(length, 2, rng),
            "hum": np.concatenate([hum(length // 12, rng) for _ in range(12)]),
            "babble": np.concatenate([babble(length // 4, talk, n, rng) for n in (3, 5, 7, 9)]),
            "taps": (taps / taps.std()).astype(np.float32) + 0.05 * coloured(length, 1, rng),
        }

    def excerpt(self, kind, length, rng):
        stretch = self.stretches[kind]
        at = rng.integers(len(stretch) - length)
        return stretch[at : at + length]


def room(samples, rng):
    """The samples in a small room and through a microphone: a decaying tail and a smooth random frequency response."""
    tail = int(RATE * rng.uniform(0.05, 0.35))
    response = rng.standard_normal(tail).astype(np.float32) * np.exp(-6.9 * np.arange(tail, dtype=np.float32) / tail)
    response *= rng.uniform(0.0, 0.5) / (np.sqrt(np.square(response).sum()) + 1e-9)
    response[0] = 1.0
    length = next_fast_len(len(samples) + tail, real=True)
    hertz = np.linspace(0, 8000, length // 2 + 1)
    knots = rng.uniform(-6, 6, 6)
    gain = 10 ** (np.interp(hertz, [0, 300, 1000, 2500, 5000, 8000], knots) / 20)
    return irfft(rfft(samples, length) * rfft(response, length) * gain, length)[: len(samples)].astype(np.float32)


def laid_out(pick, seconds, gaps, rng):
    """Words one after the other: `pick(rng)` gives the next clip, `gaps(rng)` the pause before it in seconds. Returns samples and
    words; the last word ends at least 0.4 s before the end."""
    samples = np.zeros(int(seconds * RATE), np.float32)
    words, at = [], int(rng.uniform(0.05, 0.8) * RATE)
    while True:
        clip = pick(rng)
        end = at + len(clip.samples)
        if end > len(samples) - 0.4 * RATE:
            return samples, words
        level = 10 ** (rng.uniform(-4, 0) / 20) / (np.sqrt(np.square(clip.samples).mean()) + 1e-9)
        samples[at:end] += level * clip.samples
        words.append(Word(clip.label, at, end, clip.text))
        at = end + int(gaps(rng) * RATE)


def mixed(speech, words, noise, snr, rms, rng):
    """Speech with noise `snr` dB under it (None: no noise), at the level `rms` of the speech, clipped and rounded to 16 bits."""
    spoken = np.concatenate([speech[w.start : w.end] for w in words]) if words else np.ones(1, np.float32)
    loudness = np.sqrt(np.square(spoken).mean())
    scene = speech if snr is None else speech + noise * loudness * 10 ** (-snr / 20)
    return np.round(np.clip(scene * (rms / loudness), -1, 32767 / 32768) * 32768).astype(np.float32) / 32768


def targets(words, steps, talking):
    """What is right at every step: `allowed` [steps, labels] (the model may spread its answer over the labels allowed) and
    `weight` [steps]. While a word is said its own label is allowed beside unknown and silence; about its end it alone is.
    `talking`: people talk in the noise, so that elsewhere unknown is as right as silence."""
    allowed = np.zeros((steps, len(LABELS)), np.float32)
    weight = np.ones(steps, np.float32)
    quiet = np.ones(steps, bool)
    named = np.full(steps, -1)
    for word in words:
        first, end = word.start // STEP, word.end // STEP
        allowed[first : end + FADE, [word.label, UNKNOWN, SILENCE]] = 1
        quiet[first : end + FADE] = False
        zone = slice(max(end - EARLY, 0), end + LATE)
        named[zone] = np.where(named[zone] < 0, word.label, named[zone])
    allowed[quiet, SILENCE] = 1
    if talking:
        allowed[:, UNKNOWN] = 1
    for label in range(SILENCE):
        steps_named = named == label
        allowed[steps_named] = 0
        allowed[steps_named, label] = 1
        weight[steps_named] = 3 if label < UNKNOWN else 1.5
    return allowed, weight


class Stage:
    """Makes training scenes of four seconds from clips (digits, other words, runs of other words) and noise."""

    SECONDS = 4

    def __init__(self, digits, others, runs, noise):
        self.digits, self.others, self.runs, self.noise = digits, others, runs, noise

    def pick(self, rng):
        kind = rng.uniform()
        pool = self.digits if kind < 0.6 else self.others if kind < 0.93 else self.runs
        return pool[rng.integers(len(pool))]

    def scene(self, rng):
        """Samples [64000], allowed [200, 12], weight [200]."""
        length = self.SECONDS * RATE
        tight = rng.uniform() < 0.35
        gaps = (lambda r: r.uniform(0.0, 0.15)) if tight else (lambda r: r.uniform(0.1, 0.8))
        speech, words = laid_out(self.pick, self.SECONDS, gaps, rng)
        if rng.uniform() < 0.1:
            speech, words = np.zeros(length, np.float32), []
        if rng.uniform() < 0.6:
            speech = room(speech, rng)
        kind = Noise.KINDS[rng.integers(len(Noise.KINDS))]
        snr = None if rng.uniform() < 0.2 else rng.uniform(3, 35)
        noise = self.noise.excerpt(kind, length, rng)
        samples = mixed(speech, words, noise, snr, 10 ** (rng.uniform(-42, -12) / 20), rng)
        allowed, weight = targets(words, length // STEP, snr is not None and kind == "babble")
        return samples, allowed, weight

    def batch(self, size, rng):
        return [np.stack(part) for part in zip(*(self.scene(rng) for _ in range(size)))]
