"""Computes the log-mel frames that the unit tests of the filter bank compare with.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install numpy==2.4.6
    /tmp/venv/bin/python tests/data/features.py > tests/data/features.json

Double precision and dense matrices, after the formulas of librosa and torchaudio with center=False; the window stands
at the beginning of the transform.
"""

import json
import tomllib

import numpy as np

RATE = 16_000


def hz_to_mel(hz, slaney):
    hz = np.asarray(hz, dtype=float)
    if not slaney:
        return 2595.0 * np.log10(1.0 + hz / 700.0)
    return np.where(hz < 1000, hz * 3 / 200, 15 + np.log(np.maximum(hz, 1) / 1000) * 27 / np.log(6.4))


def mel_to_hz(mel, slaney):
    mel = np.asarray(mel, dtype=float)
    if not slaney:
        return 700.0 * (10 ** (mel / 2595.0) - 1.0)
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


def filters(n_mels, n_fft, f_min, f_max, slaney, area):
    edges = mel_to_hz(np.linspace(hz_to_mel(f_min, slaney), hz_to_mel(f_max, slaney), n_mels + 2), slaney)
    bins = np.linspace(0, RATE / 2, n_fft // 2 + 1)
    rising = (bins[None, :] - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins[None, :]) / np.diff(edges)[1:, None]
    weights = np.maximum(0, np.minimum(rising, falling))
    return weights * (2 / (edges[2:] - edges[:-2]))[:, None] if area else weights


def frames(signal, text):
    f = tomllib.loads(text)
    win, hop = f["win"], f["hop"]
    n_fft = f.get("n_fft", 1 << (win - 1).bit_length())
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(win) / win)
    starts = range(0, len(signal) - win + 1, hop)
    spectrum = np.abs(np.fft.rfft([signal[s : s + win] * window for s in starts], n_fft)) ** f.get("power", 2)
    weights = filters(
        f["n_mels"], n_fft, f.get("f_min", 0), f.get("f_max", RATE / 2),
        f.get("mel", "htk") == "slaney", f.get("norm", "none") == "slaney",
    )
    energy = np.maximum(spectrum @ weights.T + f.get("offset", 0), f.get("floor", 1e-10))
    log = {"ln": np.log, "log10": np.log10, "db": lambda x: 10 * np.log10(x), "none": lambda x: x}[f.get("log", "ln")]
    return (log(energy) - np.array(f.get("mean", 0.0))) / np.array(f.get("std", 1.0))


CASES = [
    "n_mels = 8\nwin = 400\nhop = 480\nn_fft = 400",
    "n_mels = 6\nwin = 400\nhop = 640\nmel = 'slaney'\nnorm = 'slaney'\nlog = 'db'\nf_min = 60\nf_max = 7600",
    "n_mels = 5\nwin = 512\nhop = 400\nlog = 'log10'\npower = 1\noffset = 1e-6\nmean = [0.1, 0.2, 0.3, 0.4, 0.5]\nstd = 2.0",
    "n_mels = 4\nwin = 320\nhop = 640\nlog = 'none'\nfloor = 1e-3",
]

t = np.arange(1_600) / RATE
signal = 0.5 * np.sin(2 * np.pi * (100 * t + 8_000 * t * t)) + 0.1 * np.cos(2 * np.pi * 50 * t)
answer = [{"features": case, "frames": [round(float(x), 6) for x in frames(signal, case).ravel()]} for case in CASES]
print("[\n" + ",\n".join(json.dumps(item) for item in answer) + "\n]")
