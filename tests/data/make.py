#!/usr/bin/env python3
"""Makes the spoken test data: speech of known places, clean and under noise of known strength.

Needs Python's standard library and `espeak-ng` (Debian: apt-get install espeak-ng). The same version of
espeak-ng gives the same bytes every time: everything random comes from SEED.

    python3 tests/data/make.py            # writes next to this file
    python3 tests/data/make.py some/dir   # writes elsewhere, to compare
"""

import array
import io
import json
import math
import pathlib
import random
import subprocess
import sys
import wave

SEED = 20240611
RATE = 16_000
SNR_DB = 5.0
FRAME = RATE // 100  # 10 ms, the resolution of the truth
GAP_BRIDGED_MS = 200  # pauses inside a sentence that still count as speech
SPEECH_FLOOR_DB = -38.0  # below the sentence's loudest frame: not speech

# Seconds of true silence before each sentence, voice, words a minute, sentence.
SCRIPT = [
    (1.0, "en-us", 160, "Good morning. Please send the small parcel to the harbour office."),
    (1.3, "en-gb+f3", 150, "The kettle is boiling, would you like some tea?"),
    (0.9, "en-gb-scotland", 165, "Seven ships left the bay before the wind turned."),
    (1.6, "en-us+f2", 155, "Nobody answered the door, so we left a note."),
]
TAIL_S = 1.2


def speak(voice, speed, text):
    """One sentence as floats at RATE, quiet ends cut off."""
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "--stdout", text]
    heard = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    # Written to a pipe, the header's lengths are unknown, so the data is whatever follows the header.
    with wave.open(io.BytesIO(heard)) as reader:
        rate = reader.getframerate()
        assert reader.getnchannels() == 1 and reader.getsampwidth() == 2
    pcm = array.array("h")
    body = heard[44:]
    pcm.frombytes(body[: len(body) // 2 * 2])
    if sys.byteorder == "big":
        pcm.byteswap()
    samples = resample([value / 32768.0 for value in pcm], rate, RATE)
    loud = [i for i, value in enumerate(samples) if abs(value) > 1e-3]
    return samples[loud[0] : loud[-1] + 1]


def resample(samples, rate_in, rate_out, half=24):
    """Windowed-sinc conversion between whole rates, one filter for each phase."""
    divisor = math.gcd(rate_in, rate_out)
    up, down = rate_out // divisor, rate_in // divisor
    cutoff = 0.92 * min(1.0, rate_out / rate_in)
    filters = []
    for phase in range(up):
        taps = []
        for k in range(-half + 1, half + 1):
            x = k - phase / up
            window = 0.5 + 0.5 * math.cos(math.pi * x / (half + 1))
            sinc = 1.0 if x == 0 else math.sin(math.pi * cutoff * x) / (math.pi * cutoff * x)
            taps.append(cutoff * sinc * window)
        filters.append(taps)
    padded = [0.0] * half + samples + [0.0] * (half + 1)
    out = []
    for n in range(len(samples) * up // down):
        whole, phase = divmod(n * down, up)
        taps = filters[phase]
        out.append(sum(map(float.__mul__, padded[whole + 1 : whole + 1 + 2 * half], taps)))
    return out


def frame_levels(samples):
    """Mean square of every whole frame."""
    ends = range(FRAME, len(samples) + 1, FRAME)
    return [sum(v * v for v in samples[end - FRAME : end]) / FRAME for end in ends]


def true_segments(sentence, offset_ms):
    """Where one sentence is speech: loud frames, short pauses bridged, in milliseconds of the whole file."""
    levels = frame_levels(sentence + [0.0] * FRAME)
    floor = max(levels) * 10 ** (SPEECH_FLOOR_DB / 10)
    segments = []
    for index, level in enumerate(levels):
        if level < floor:
            continue
        start, end = offset_ms + index * 10, offset_ms + index * 10 + 10
        if segments and start - segments[-1][1] <= GAP_BRIDGED_MS:
            segments[-1][1] = end
        else:
            segments.append([start, end])
    return segments


def pink(count, rng):
    """Stationary noise falling 3 dB an octave: white noise through a sum of one-pole filters."""
    poles = [(0.99765, 0.0990460), (0.96300, 0.2965164), (0.57000, 1.0526913)]
    state = [0.0] * len(poles)
    out = []
    for _ in range(count):
        white = rng.gauss(0.0, 1.0)
        for i, (pole, gain) in enumerate(poles):
            state[i] = pole * state[i] + gain * white
        out.append(sum(state) + 0.1848 * white)
    return out


def passing(count, rng):
    """Non-stationary noise: low-passed rushes that swell and fade like passing cars, and a few knocks."""
    out = [0.0] * count
    for centre_s, width_s, gain in [(3.5, 1.1, 1.0), (9.0, 1.6, 0.8), (14.5, 0.9, 1.1)]:
        low = 0.0
        centre, width = centre_s * RATE, width_s * RATE
        for n in range(count):
            low += 0.12 * (rng.gauss(0.0, 1.0) - low)
            out[n] += gain * 3.0 * low * math.exp(-(((n - centre) / width) ** 2))
    for at_s in (0.5, 5.2, 7.9, 12.4, 15.1):
        at = int(at_s * RATE)
        for n in range(at, min(count, at + RATE // 10)):
            t = (n - at) / RATE
            out[n] += 4.0 * math.exp(-t * 90) * math.sin(2 * math.pi * 310 * t) * rng.uniform(0.8, 1.0)
    return out


def power(samples):
    return sum(v * v for v in samples) / len(samples)


def scaled_to(samples, target_power):
    gain = math.sqrt(target_power / power(samples))
    return [v * gain for v in samples]


def write_wav(path, samples):
    pcm = array.array("h", [max(-32768, min(32767, round(v * 32767))) for v in samples])
    if sys.byteorder == "big":
        pcm.byteswap()
    with wave.open(str(path), "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RATE)
        writer.writeframes(pcm.tobytes())


def main():
    here = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
    clean, segments = [], []
    for silence_s, voice, speed, text in SCRIPT:
        clean += [0.0] * int(silence_s * RATE)
        clean += [0.0] * (-len(clean) % FRAME)
        sentence = scaled_to(speak(voice, speed, text), 0.01)
        segments += true_segments(sentence, len(clean) * 1000 // RATE)
        clean += sentence
    clean += [0.0] * int(TAIL_S * RATE)
    clean += [0.0] * (-len(clean) % FRAME)

    spoken = [clean[start * RATE // 1000 : end * RATE // 1000] for start, end in segments]
    speech_power = power([v for part in spoken for v in part])
    rng = random.Random(SEED)
    steady = scaled_to(pink(len(clean), rng), 0.7)
    moving = scaled_to(passing(len(clean), rng), 0.3)
    noise = [a + b for a, b in zip(steady, moving)]
    noise = scaled_to(noise, speech_power / 10 ** (SNR_DB / 10))
    noisy = [a + b for a, b in zip(clean, noise)]
    gain = 0.8 / max(abs(v) for v in noisy + clean)

    write_wav(here / "speech-clean.wav", [v * gain for v in clean])
    write_wav(here / "speech-noisy.wav", [v * gain for v in noisy])
    truth = {
        "sample_rate_hz": RATE,
        "duration_ms": len(clean) * 1000 // RATE,
        "snr_db": SNR_DB,
        "seed": SEED,
        "speech_ms": segments,
    }
    text = json.dumps(truth, indent=2).replace("[\n      ", "[").replace(",\n      ", ", ").replace("\n    ]", "]")
    (here / "speech.truth.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
