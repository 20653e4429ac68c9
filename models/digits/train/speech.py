"""Synthetic speech: which words are said, by which voices, and the clips that espeak-ng makes of them.

Owns the split into voices of training and voices held out, and the list of words. It never mixes or adds noise (that is
`scenes.py`). Called by `train.py`.

A voice is an accent (a language file of espeak-ng) with a variant (the speaker: formants, pitch, breath). Variants held out are
never used for training, nor are the accents held out. All randomness comes from the generator that is handed in.
"""

import subprocess
from dataclasses import dataclass

import numpy as np
from scipy.signal import resample_poly

RATE = 16_000
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
LABELS = DIGITS + ["unknown", "silence"]
UNKNOWN = LABELS.index("unknown")
SILENCE = LABELS.index("silence")

ACCENTS = ["en-us", "en-gb", "en-029", "en-gb-scotland", "en-gb-x-gbcwmd", "en-us-nyc"]
HELD_OUT_ACCENTS = ["en-gb-x-rp", "en-gb-x-gbclan"]

# "" is the accent's own speaker. Variants that whisper, croak or play a robot are left out.
VARIANTS = [""] + """
    m1 m2 m3 m5 m6 m8 f1 f2 f4 klatt klatt2 klatt3 klatt4 klatt6 Alex Andy Annie Gene Gene2 Lee Marco Mario Michael Mike
    adam belinda benjamin boris caleb david ed edward edward2 grandma grandpa gustave iven iven2 iven3 john linda
    max norbert pablo paul pedro quincy rob robert steph steph2 steph3 travis victor
""".split()
HELD_OUT_VARIANTS = "m4 m7 f3 f5 Alicia Denis Hugo Jacky antonio kaukovalta sandro shelby zac".split()

# Words that must not be taken for a digit. Words that sound exactly like a digit (won, to, too, for, fore, ate) cannot be told
# from it and are in neither list; nor are those that begin with a whole digit (sixty, fourteen).
WORDS = """
    tree nice hero wind wise line fine mine none nun run gun want wonder once floor more fork form force dive drive life wife fight
    fire file sick sit sticks mix sing silk heaven even oven given hate gate great aid age eat light knife ice blue do through true
    tea tool tooth tune new zebra zoo euro arrow thirty threat throw throat thread ten twelve twenty hundred thousand million
    yes no stop go left right up down on off open close start end play pause next back forward home menu help cancel hello
    goodbye please thanks morning evening today tomorrow yesterday monday tuesday friday sunday january april august winter summer
    house garden window kitchen table chair bottle water coffee sugar butter bread apple orange lemon cherry potato dinner
    mother father sister brother doctor teacher student people children woman man baby friend river mountain forest island beach
    weather rain snow cloud storm sky moon star planet earth engine motor wheel road bridge station airport ticket train
    bicycle car ship plane music guitar piano drum song dance picture camera paper pencil letter book story number answer question
    school office market money dollar pound price business company machine computer keyboard screen mobile battery power cable
    animal horse tiger rabbit monkey elephant bird chicken fish spider yellow green purple black white brown silver golden
    big small long short heavy early happy angry quiet strange simple
    is it the and with of from about under over between because maybe always never often again already
    make take give come bring think speak listen remember forget follow carry build break choose
""".split()
HELD_OUT_WORDS = """
    free wine night door hive sun fix shoe eleven late narrow sierra thirsty forget-me-not nightly waiter sever
    volume channel recipe tunnel village hospital museum library theatre sandwich pepper carrot tomato ladder hammer
    flower butterfly dolphin penguin kangaroo jacket trousers umbrella pocket mirror carpet blanket history science language
    december october thursday saturday afternoon midnight dangerous beautiful wonderful comfortable possible expensive
    understand whisper celebrate discover imagine lantern pink scarlet shall would should
""".split()


@dataclass
class Clip:
    """One utterance at 16 kHz, without the silence around it, at a peak of 1. `label` is an index of LABELS."""

    samples: np.ndarray
    label: int
    text: str
    voice: str


def synthesise(text, accent, variant, rng, plain=False):
    """What espeak-ng says, as a Clip. Speed, pitch and the size of the speaker (by resampling) are drawn from `rng`;
    with `plain` they stay near the middle. Fails if espeak-ng does or if it says nothing."""
    voice = f"{accent}+{variant}" if variant else accent
    speed, pitch, spread = (150, 50, 0.0) if plain else (rng.integers(105, 235), rng.integers(15, 85), 0.09)
    command = ["espeak-ng", "--stdout", "-v", voice, "-s", str(speed), "-p", str(pitch), "-a", "100", "-z", text]
    said = subprocess.run(command, capture_output=True, check=True).stdout
    assert said[24:28] == (22_050).to_bytes(4, "little"), "espeak-ng is expected to speak at 22,050 Hz"
    raw = np.frombuffer(said[44:], "<i2").astype(np.float32)
    # 160 / 220.5 brings 22,050 Hz to 16 kHz; a little more or less makes a smaller or larger speaker.
    down = round(220.5 * (1 + rng.uniform(-spread, spread)))
    samples = trimmed(resample_poly(raw, 160, down).astype(np.float32))
    label = DIGITS.index(text) if text in DIGITS else UNKNOWN
    return Clip(samples / np.abs(samples).max(), label, text, voice)


def trimmed(samples):
    """Without what lies more than 40 dB under the loudest 10 ms at both ends."""
    frames = len(samples) // 160
    power = np.square(samples[: frames * 160]).reshape(frames, 160).mean(axis=1)
    loud = np.flatnonzero(power > power.max() * 1e-4)
    return samples[loud[0] * 160 : (loud[-1] + 1) * 160]


def clips(accents, variants, words, digits_each, others, strings, rng):
    """Clips for one side of the split: `digits_each` of every digit, `others` single other words, `strings` utterances of six
    other words in one breath. Returns (digits, others, strings)."""

    def voice():
        return accents[rng.integers(len(accents))], variants[rng.integers(len(variants))]

    digits = [synthesise(digit, *voice(), rng) for digit in DIGITS for _ in range(digits_each)]
    singles = [synthesise(words[i % len(words)], *voice(), rng) for i in range(others)]
    runs = [synthesise(" ".join(rng.choice(words, 6)), *voice(), rng) for _ in range(strings)]
    return digits, singles, runs
