//! `model.toml`: what is wrong is named, and what parsed keeps the rules that others rely on.

use std::collections::BTreeSet;
use suzu::model::onnx::{FilterBank, MANIFEST_FILE, Manifest};
use suzu::model::{SAMPLE_RATE_HZ_MAX, SAMPLE_RATE_HZ_MIN};

/// The longest spectrum and the most bands that are computed here: larger ones take too long to try many.
const FFT_MAX: usize = 512;
const BANDS_MAX: usize = 32;

/// The text of a `model.toml`.
pub fn manifest(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Manifest::parse(MANIFEST_FILE, &text) {
        Ok(manifest) => {
            keeps_rules(&manifest);
            is_taken_over(&manifest);
            hears(&manifest);
        }
        Err(error) => {
            assert!(!error.problems.is_empty());
            for problem in &error.problems {
                let told = problem.strip_prefix(MANIFEST_FILE).and_then(|rest| rest.strip_prefix(':'));
                assert!(told.is_some_and(|told| !told.trim().is_empty()), "{problem:?}");
            }
        }
    }
}

fn keeps_rules(manifest: &Manifest) {
    if let Some(audio) = &manifest.audio {
        assert!((SAMPLE_RATE_HZ_MIN..=SAMPLE_RATE_HZ_MAX).contains(&audio.sample_rate));
        assert!(audio.channels == 1 && audio.hop > 0 && audio.window() >= audio.hop);
        assert!(audio.window() <= 60 * audio.sample_rate as usize);
        assert!(audio.scale.is_finite() && audio.scale != 0.0);
    }
    assert!(manifest.audio.is_some() || manifest.features.is_none() && manifest.postprocess.is_none());
    let batch = &manifest.batch;
    assert!(batch.max.is_none_or(|max| (1..=1024).contains(&max)));
    assert!(batch.preferred.is_sorted() && batch.preferred.iter().all(|rows| *rows > 0));
    assert!(manifest.limits.concurrency != Some(0) && manifest.limits.elements_max != Some(0));
}

/// What the graph and the batcher get says the same.
fn is_taken_over(manifest: &Manifest) {
    let (plan, limits) = (manifest.plan(), manifest.limits());
    assert_eq!(plan.constants.len(), manifest.constants.len());
    assert!(plan.constants.iter().all(|constant| !constant.values.is_empty()));
    assert_eq!((plan.batch_max, limits.batch_max), (manifest.batch.max, manifest.batch.max));
    assert!(limits.infer_timeout.is_none_or(|time| !time.is_zero()));
    let mut names = BTreeSet::new();
    for output in &manifest.outputs {
        assert!(names.insert(&output.name), "{} is there twice", output.name);
        assert_eq!(manifest.output(&output.name), Some(output));
    }
}

/// Features that were checked make a spectrum of one frame.
fn hears(manifest: &Manifest) {
    let (Some(audio), Some(features)) = (&manifest.audio, &manifest.features) else { return };
    let n_fft = features.n_fft.unwrap_or_else(|| features.win.next_power_of_two());
    if n_fft > FFT_MAX || features.n_mels > BANDS_MAX {
        return;
    }
    let bank = FilterBank::new(features, audio.sample_rate);
    let mut frame = Vec::new();
    bank.extend(&vec![0.0; features.win], 0, audio.scale, &mut bank.bench(), &mut frame);
    assert_eq!((bank.bands(), frame.len()), (features.n_mels, features.n_mels));
}
