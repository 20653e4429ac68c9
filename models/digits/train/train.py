"""Trains the keyword model of this folder on synthetic speech and measures it on voices it never heard.

    python train.py --cache /tmp/digits [--steps 1600] [--seed 7]

Writes `../1/model.onnx`, `../sample.wav`, `../sample.json` and `../report.json`. Needs espeak-ng on the path and the packages of
`requirements.txt`. Clips are kept under `--cache`, so that a second run does not synthesise again. One core is used.

The number of training steps is fixed, not the time: the same seed gives the same model on the same machine and packages.
"""

import argparse
import json
import os
import pickle
import time
import wave
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax
import numpy as np
import onnx
import optax

import evaluate
import network
import speech
from scenes import STEP, Noise, Stage, Word, mixed
from speech import LABELS, RATE

HERE = Path(__file__).resolve().parent.parent
BATCH = 48
SAMPLE_VOICE = ("en-gb-x-rp", "m4")


def said(cache, seed):
    """Clips of both sides of the split, made or taken from the cache: {"training" | "voices" | "accents": (digits, others, runs)}.
    `voices` are held-out speakers with accents of training, `accents` are held-out speakers with held-out accents; both say
    other words that were never trained."""
    path = cache / f"clips-{seed}.pickle"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        held = (speech.HELD_OUT_VARIANTS, speech.HELD_OUT_WORDS)
        sides = {
            "training": speech.clips(speech.ACCENTS, speech.VARIANTS, speech.WORDS, 450, 4500, 600, rng),
            "voices": speech.clips(speech.ACCENTS, *held, 80, 800, 200, rng),
            "accents": speech.clips(speech.HELD_OUT_ACCENTS, *held, 80, 800, 200, rng),
        }
        path.write_bytes(pickle.dumps(sides))
    return pickle.loads(path.read_bytes())


def trained(stage, steps, seed):
    """Parameters after `steps` steps of Adam on batches of fresh scenes: the running mean of the last ones."""
    rng = np.random.default_rng(seed)
    logs_of = jax.jit(network.features)
    first = np.asarray(logs_of(stage.batch(BATCH, rng)[0])).reshape(-1, network.BANDS)
    params = network.initial(rng, first.mean(axis=0), first.std(axis=0))
    schedule = optax.warmup_cosine_decay_schedule(1e-4, 4e-3, steps // 20, steps, 4e-5)
    frozen = {name: "frozen" if name in ("scale", "shift") else "adam" for name in params}
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-4))
    optimiser = optax.multi_transform({"adam": adam, "frozen": optax.set_to_zero()}, frozen)

    @jax.jit
    def update(params, mean, state, logs, allowed, weight):
        value, slope = jax.value_and_grad(network.loss)(params, logs, allowed, weight)
        change, state = optimiser.update(slope, state, params)
        params = optax.apply_updates(params, change)
        return params, jax.tree.map(lambda m, p: 0.99 * m + 0.01 * p, mean, params), state, value

    mean, state = params, optimiser.init(params)
    begun, losses = time.time(), []
    for step in range(steps):
        samples, allowed, weight = stage.batch(BATCH, rng)
        params, mean, state, value = update(params, mean, state, logs_of(samples), allowed, weight)
        losses.append(float(value))
        if step % 50 == 49:
            print(f"step {step + 1}/{steps} loss {np.mean(losses[-50:]):.4f} after {time.time() - begun:.0f} s", flush=True)
    return jax.tree.map(np.asarray, mean)


def sample(noise, rng):
    """A recording of under six seconds in which a held-out speaker says 3 1 4 1 5 9, with pauses, over pink noise 20 dB under it:
    samples [length] and the words in it. The voice is fixed here, whatever the model makes of it."""
    spoken, words, at = np.zeros(int(5.9 * RATE), np.float32), [], int(0.4 * RATE)
    for text in ("three", "one", "four", "one", "five", "nine"):
        clip = speech.synthesise(text, *SAMPLE_VOICE, rng, plain=True)
        end = at + len(clip.samples)
        spoken[at:end] = clip.samples
        words.append(Word(clip.label, at, end, text))
        at = end + int(0.45 * RATE)
    return mixed(spoken, words, noise.excerpt("pink", len(spoken), rng), 20, 0.08, rng), words


def written(samples, words):
    """Writes `../sample.wav` and what is said in it, in seconds, to `../sample.json`."""
    with wave.open(str(HERE / "sample.wav"), "wb") as file:
        file.setparams((1, 2, RATE, len(samples), "NONE", ""))
        file.writeframes(np.round(samples * 32768).astype("<i2").tobytes())
    truth = [{"label": w.text, "start": round(w.start / RATE, 3), "end": round(w.end / RATE, 3)} for w in words]
    (HERE / "sample.json").write_text("[\n" + ",\n".join("  " + json.dumps(word) for word in truth) + "\n]\n")


def measured(runtime, rule, clips, noise, seed):
    """The figures of the model card: digits and other words of each side in quiet, in rooms and in noise, running speech, and
    noise alone."""
    rng = np.random.default_rng(seed)
    conditions = {"clean": {}, "room": {"rooms": True}}
    conditions |= {f"{snr} dB": {"noise": noise, "snr": snr} for snr in (20, 10, 5)}
    report = {}
    for side, (digits, others, runs) in clips.items():
        report[side] = {}
        for name, condition in conditions.items():
            for kind, pool in (("digits", digits), ("other words", others)):
                samples, words = evaluate.streams(pool, 24, 60, rng, **condition)
                scores = evaluate.streamed(runtime, samples)
                report[side][f"{kind}, {name}"] = evaluate.judged(rule, scores, words)
        samples, _ = evaluate.streams(runs, 24, 60, rng)
        report[side]["running speech, alarms an hour"] = evaluate.alarms(rule, evaluate.streamed(runtime, samples))
    for kind in noise.KINDS:
        scores = evaluate.streamed(runtime, evaluate.noises(noise, kind, 60, 60, rng))
        report[f"{kind} alone, alarms an hour"] = evaluate.alarms(rule, scores)
    return report


def by_speaker(runtime, rule, clips, seed):
    """Counts of digits in quiet for every held-out speaker, over both kinds of accent."""
    rng = np.random.default_rng(seed)
    digits = clips["voices"][0] + clips["accents"][0]
    report = {}
    for variant in speech.HELD_OUT_VARIANTS:
        samples, words = evaluate.streams([c for c in digits if c.voice.endswith(f"+{variant}")], 6, 60, rng)
        report[variant] = evaluate.judged(rule, evaluate.streamed(runtime, samples), words)
    return report


def finish(path, params, clips, noise, seed):
    """Checks, tunes and measures what was exported to `path`; writes the sample and `../report.json`."""
    runtime = evaluate.session(str(path))
    digits, others, runs = clips["training"]
    rng = np.random.default_rng(seed + 3)
    scenes = Stage(digits, others, runs, noise).batch(8, rng)[0]
    difference = evaluate.agreement(runtime, lambda s: jax.nn.softmax(network.logits(params, network.features(s))), scenes)
    assert difference < 1e-4, f"streaming and training form differ by {difference}"
    rule = evaluate.tuned(runtime, digits, others, noise, rng)
    talk = clips["voices"][1] + clips["voices"][2]
    unheard = Noise(talk, np.random.default_rng(seed + 4))
    report = {"largest difference": difference, "rule": vars(rule)} | measured(runtime, rule, clips, unheard, seed + 5)
    report["speakers"] = by_speaker(runtime, rule, clips, seed + 7)
    samples, words = sample(unheard, np.random.default_rng(seed + 6))
    written(samples, words)
    found = rule.detections(evaluate.streamed(runtime, samples[None])[0])
    report["sample"] = [f"{LABELS[label]} at {(step + 1) * STEP / RATE:.2f} s" for step, label in found]
    (HERE / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for the clips")
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    begun = time.time()
    clips = said(args.cache, args.seed)
    print(f"clips after {time.time() - begun:.0f} s", flush=True)
    digits, others, runs = clips["training"]
    noise = Noise(others + runs, np.random.default_rng(args.seed + 1))
    print(f"noise after {time.time() - begun:.0f} s", flush=True)
    params = trained(Stage(digits, others, runs, noise), args.steps, args.seed + 2)
    path = HERE / "1" / "model.onnx"
    path.parent.mkdir(exist_ok=True)
    onnx.save(network.exported(params), path)
    print(f"trained after {time.time() - begun:.0f} s: {path.stat().st_size} bytes", flush=True)
    finish(path, params, clips, noise, args.seed)
    print(f"all done after {time.time() - begun:.0f} s")


if __name__ == "__main__":
    main()
