//! The rules of `model.toml` that hold whatever is in the ONNX file.

use super::{AxisOf, Features, Manifest, Numbers, OutputKind, Postprocess, Side};
use crate::model::{SAMPLE_RATE_HZ_MAX, SAMPLE_RATE_HZ_MIN};
use std::collections::BTreeSet;

/// The longest window, seconds: what batch classifiers of speech take at most is 30.
const WINDOW_SECONDS_MAX: usize = 60;
/// Bands at most; spectra of 128 are the largest in common use.
const MELS_MAX: usize = 512;
/// The longest transform; the largest in common use is 4,096.
const FFT_MAX: usize = 32_768;
/// Rows in a call at most; above 32 nothing was gained in any model measured.
const BATCH_MAX: usize = 1_024;
/// Windows to take the mean of at most: each costs every stream the memory of a row.
const SMOOTH_MAX: usize = 1_000;

/// Everything that breaks a rule; each names the key, what is wrong and what would be right.
pub(super) fn problems(manifest: &Manifest) -> Vec<String> {
    let mut found = Vec::new();
    audio(manifest, &mut found);
    if let Some(features) = &manifest.features {
        self::features(manifest, features, &mut found);
    }
    graph(manifest, &mut found);
    outputs(manifest, &mut found);
    bounds(manifest, &mut found);
    match &manifest.postprocess {
        Some(Postprocess::Speech(_) | Postprocess::Classify(_) | Postprocess::Keyword(_))
            if manifest.audio.is_none() =>
        {
            found.push("postprocess: it is for models that hear streams; add [audio] or leave it out".into());
        }
        Some(postprocess) => self::postprocess(postprocess, manifest, &mut found),
        None => {}
    }
    found
}

fn audio(manifest: &Manifest, found: &mut Vec<String>) {
    let Some(audio) = &manifest.audio else { return };
    let (rate, window, hop) = (audio.sample_rate, audio.window(), audio.hop);
    if !(SAMPLE_RATE_HZ_MIN..=SAMPLE_RATE_HZ_MAX).contains(&rate) {
        found.push(format!(
            "audio.sample_rate: {rate} Hz is not served; use {SAMPLE_RATE_HZ_MIN} to {SAMPLE_RATE_HZ_MAX}"
        ));
    }
    if audio.channels != 1 {
        found.push(format!("audio.channels: {} are not served; streams are mono, use 1", audio.channels));
    }
    if hop == 0 {
        found.push("audio.hop: 0 never gets on; use the samples that a call advances by".into());
    }
    if window < hop {
        found.push(format!("audio.window: {window} is less than audio.hop, {hop}; use at least {hop}"));
    }
    let most = WINDOW_SECONDS_MAX * rate as usize;
    if window > most {
        found.push(format!(
            "audio.window: {window} samples are over {WINDOW_SECONDS_MAX} s; use at most {most}"
        ));
    }
    if audio.latency > most {
        found.push(format!(
            "audio.latency: {} samples are over {WINDOW_SECONDS_MAX} s; use at most {most}",
            audio.latency
        ));
    }
    if !(audio.scale.is_finite() && audio.scale != 0.0) {
        found.push(format!(
            "audio.scale: {} makes nothing of every sample; use 1 or, for 16 bits, 32768",
            audio.scale
        ));
    }
    if audio.latency > 0 && !manifest.outputs.iter().any(|output| output.kind == OutputKind::Pcm) {
        found.push(
            "audio.latency: it is of audio given back; leave it out or give an [[output]] the kind \"pcm\""
                .into(),
        );
    }
    if let Some(layout) = &audio.layout {
        self::layout(layout, manifest.features.is_some(), found);
    }
}

fn layout(layout: &[Side], features: bool, found: &mut Vec<String>) {
    let (wanted, example): (&[&str], _) = match features {
        true => (&["batch", "features", "frames"], "[\"batch\", \"frames\", \"features\"]"),
        false => (&["batch", "samples"], "[\"batch\", \"samples\"] or [\"batch\", 1, \"samples\"]"),
    };
    let mut words: Vec<_> = layout
        .iter()
        .filter_map(|side| match side {
            Side::Word(word) => Some(word.as_str()),
            Side::Fixed(1) => None,
            Side::Fixed(_) => Some("a size other than 1"),
        })
        .collect();
    words.sort_unstable();
    if words != wanted {
        let with = if features { "with" } else { "without" };
        found.push(format!(
            "audio.layout: {with} [features] it has each of {} once, and 1 for the rest, as in {example}",
            wanted.join(", ")
        ));
    }
}

fn features(manifest: &Manifest, features: &Features, found: &mut Vec<String>) {
    let Some(audio) = &manifest.audio else {
        found.push("features: they are made of audio; add [audio] or leave them out".into());
        return;
    };
    let Features { n_mels, win, hop, .. } = *features;
    if !(1..=MELS_MAX).contains(&n_mels) {
        found.push(format!("features.n_mels: {n_mels} bands; use 1 to {MELS_MAX}"));
    }
    if win == 0 || win > audio.window() {
        found.push(format!(
            "features.win: {win} samples do not fit audio.window; use 1 to {}",
            audio.window()
        ));
    }
    if hop == 0 || !audio.hop.is_multiple_of(hop) {
        found.push(format!(
            "features.hop: audio.hop, {}, is not a whole number of it; use a divisor of {} instead of {hop}",
            audio.hop, audio.hop
        ));
    }
    let n_fft = features.n_fft();
    if n_fft < win || n_fft > FFT_MAX {
        found.push(format!("features.n_fft: {n_fft} is not served; use {win} (features.win) to {FFT_MAX}"));
    }
    let half = audio.sample_rate as f32 / 2.0;
    let f_max = features.f_max.unwrap_or(half);
    if !(features.f_min >= 0.0 && features.f_min < f_max && f_max <= half) {
        found.push(format!(
            "features.f_min: bands from {} to {f_max} Hz; use 0 <= f_min < f_max <= {half}, half the sample rate",
            features.f_min
        ));
    }
    if !(1..=2).contains(&features.power) {
        found.push(format!(
            "features.power: {} is not served; use 2 for power or 1 for magnitude",
            features.power
        ));
    }
    if !(features.floor.is_finite() && features.floor > 0.0) {
        found
            .push(format!("features.floor: {} has no logarithm; use a small number above 0", features.floor));
    }
    if !(features.offset.is_finite() && features.offset >= 0.0) {
        found.push(format!("features.offset: {}; use 0 or a small number above", features.offset));
    }
    for (key, numbers, divisor) in [("mean", &features.mean, false), ("std", &features.std, true)] {
        let many = match numbers {
            None => continue,
            Some(Numbers::One(number)) => std::slice::from_ref(number),
            Some(Numbers::Many(many)) if many.len() == n_mels => many,
            Some(Numbers::Many(many)) => {
                found.push(format!(
                    "features.{key}: {} numbers; use one, or {n_mels} as features.n_mels",
                    many.len()
                ));
                continue;
            }
        };
        if many.iter().any(|number| !number.is_finite() || (divisor && *number <= 0.0)) {
            let right = if divisor { "numbers above 0" } else { "finite numbers" };
            found.push(format!("features.{key}: one of them is not; use {right}"));
        }
    }
}

fn graph(manifest: &Manifest, found: &mut Vec<String>) {
    for constant in &manifest.constants {
        let elements = constant.value.to_vec();
        let name = &constant.name;
        let wanted = constant.shape.as_ref().map(|shape| crate::model::elements(shape));
        if elements.is_empty() {
            found.push(format!("const `{name}`.value: it is empty; give one number or a list"));
        } else if elements.len() > 1 && wanted.is_some_and(|wanted| wanted != Some(elements.len())) {
            found.push(format!(
                "const `{name}`.value: {} elements, but const.shape holds {}; use as many, or one for all",
                elements.len(),
                wanted.flatten().map_or("too many".to_owned(), |wanted| wanted.to_string())
            ));
        }
    }
    for pair in manifest.states.iter().flatten() {
        let batches = |side: &&Side| matches!(side, Side::Word(word) if word == "batch");
        let words = |side: &&Side| matches!(side, Side::Word(_));
        if let Some(shape) = &pair.shape
            && (shape.iter().filter(words).count() != 1 || shape.iter().filter(batches).count() != 1)
        {
            found.push(format!(
                "state `{}`.shape: it has \"batch\" once and sizes besides, as in [1, \"batch\", 128]",
                pair.input
            ));
        }
    }
    for axis in &manifest.axes {
        if let AxisOf::Word(word) = &axis.axis
            && word != "none"
        {
            found.push(format!(
                "axis `{}`.axis: `{word}`; use a dimension counted from 0, or \"none\"",
                axis.name
            ));
        }
    }
    for sample in &manifest.samples {
        // The tensor is made when the model is tried: a bound that no real trial needs to exceed.
        if crate::model::elements(&sample.shape).is_none_or(|elements| elements == 0 || elements > 1 << 26) {
            found.push(format!(
                "sample `{}`.shape: it holds nothing, or more than 2^26 elements",
                sample.input
            ));
        }
    }
    let inputs = manifest.constants.iter().map(|constant| ("const", constant.name.as_str()));
    let inputs = inputs.chain(manifest.states.iter().flatten().map(|pair| ("state", pair.input.as_str())));
    let heard =
        manifest.audio.iter().filter_map(|audio| audio.input.as_deref()).map(|input| ("audio.input", input));
    let mut seen = BTreeSet::new();
    for (key, name) in inputs.chain(heard) {
        if !seen.insert(name) {
            found.push(format!("{key}: the input `{name}` is named twice; say one thing of it"));
        }
    }
}

fn outputs(manifest: &Manifest, found: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for output in &manifest.outputs {
        let name = &output.name;
        if !seen.insert(name) {
            found.push(format!("output `{name}`: it is there twice; put all of it into one [[output]]"));
        }
        if output.activation.is_some() && output.kind != OutputKind::Logits {
            found.push(format!(
                "output `{name}`.activation: only kind \"logits\" has one; leave it out or say so"
            ));
        }
        let labels: BTreeSet<_> = output.labels.iter().collect();
        if labels.len() != output.labels.len() || output.labels.iter().any(String::is_empty) {
            found
                .push(format!("output `{name}`.labels: one is empty or there twice; give each its own name"));
        }
        if output.kind == OutputKind::Pcm && manifest.audio.is_none() {
            found.push(format!(
                "output `{name}`.kind: \"pcm\" is for models that hear streams; add [audio] or use \"raw\""
            ));
        }
    }
    if manifest.outputs.iter().filter(|output| output.kind == OutputKind::Pcm).count() > 1 {
        found.push(
            "output: two of kind \"pcm\"; a stream gives one audio back, make the others \"raw\"".into(),
        );
    }
}

fn bounds(manifest: &Manifest, found: &mut Vec<String>) {
    let batch = &manifest.batch;
    let max = batch.max.unwrap_or(BATCH_MAX);
    if !(1..=BATCH_MAX).contains(&max) {
        found.push(format!("batch.max: {max}; use 1 to {BATCH_MAX}"));
    }
    let ascending = batch.preferred.windows(2).all(|pair| pair[0] < pair[1]);
    if !ascending || batch.preferred.iter().any(|&rows| rows == 0 || rows > max) {
        found.push(format!("batch.preferred: use sizes from 1 to batch.max ({max}), ascending"));
    }
    if manifest.limits.concurrency == Some(0) {
        found.push(
            "limits.concurrency: with 0 nothing is ever inferred; use at least 1 or leave it out".into(),
        );
    }
    if manifest.limits.time.is_some_and(|time| time.is_zero()) {
        found.push("limits.time: no batch takes no time; use more, or leave it out".into());
    }
    if manifest.limits.elements_max == Some(0) {
        found.push("limits.elements_max: with 0 no request is taken; use at least 1 or leave it out".into());
    }
}

fn postprocess(postprocess: &Postprocess, manifest: &Manifest, found: &mut Vec<String>) {
    let hop = manifest.audio.as_ref().map_or(1, |audio| audio.hop);
    let rate = manifest.audio.as_ref().map_or(1, |audio| audio.sample_rate);
    let smooth = match postprocess {
        Postprocess::Speech(speech) => {
            if !(speech.off <= speech.on && speech.on.is_finite() && speech.off.is_finite()) {
                found.push(format!(
                    "postprocess.off: {} is above postprocess.on, {}; use at most that",
                    speech.off, speech.on
                ));
            }
            let hop_seconds = hop as f64 / f64::from(rate);
            let quiet = speech.min_off.as_secs_f64().max(hop_seconds);
            if speech.pad.as_secs_f64() > quiet {
                found.push(format!(
                    "postprocess.pad: {:?} is more than postprocess.min_off, {:?}: a pause would end before it begins; use at most that",
                    speech.pad, speech.min_off
                ));
            }
            1
        }
        Postprocess::Classify(classify) => {
            if classify.top_k == 0 {
                found.push("postprocess.top_k: with 0 nothing is told; use at least 1".into());
            }
            classify.smooth
        }
        Postprocess::Keyword(keyword) => {
            if !keyword.threshold.is_finite() {
                found.push("postprocess.threshold: it is no number; use one such as 0.8".into());
            }
            keyword.smooth
        }
    };
    if !(1..=SMOOTH_MAX).contains(&smooth) {
        found.push(format!("postprocess.smooth: {smooth} windows; use 1 to {SMOOTH_MAX}"));
    }
}
