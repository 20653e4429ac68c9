//! From a window of samples to what a model's input takes: the samples themselves, scaled, or a spectrum.
//!
//! Owns the frames of a spectrum that two windows share, so that each is computed once. Knows nothing of engines.
//!
//! Invariant: what a window becomes does not depend on the windows before it.

use super::features::{FeatureBench, FilterBank};
use super::manifest::{Audio, Manifest, Side};

/// How windows become inputs; shared by all workers.
pub(super) struct Ear {
    hop: usize,
    window: usize,
    scale: f32,
    spectrum: Option<Spectrum>,
}

/// What makes frames of samples.
struct Spectrum {
    bank: FilterBank,
    /// Frames that leave with each window.
    dropped: usize,
    /// Whether a band's values lie next to each other, not a frame's.
    by_band: bool,
}

/// What is remembered of one stream: the frames of its newest window.
#[derive(Default)]
pub(super) struct EarMemory {
    frames: Vec<f32>,
}

/// What one call needs for all its lanes.
pub(super) struct EarBench {
    features: Option<FeatureBench>,
    /// What was made for each lane of a step, if it is neither its samples nor its frames as they lie.
    staged: Vec<f32>,
}

impl Ear {
    /// As a checked manifest says. `layout` is that of the input.
    pub(super) fn new(manifest: &Manifest, audio: &Audio, layout: &[Side]) -> Ear {
        let place =
            |word: &str| layout.iter().position(|side| matches!(side, Side::Word(own) if own == word));
        let spectrum = manifest.features.as_ref().map(|features| Spectrum {
            bank: FilterBank::new(features, audio.sample_rate),
            dropped: audio.hop / features.hop,
            by_band: place("features") < place("frames"),
        });
        Ear { hop: audio.hop, window: audio.window(), scale: audio.scale, spectrum }
    }

    /// Elements of one input.
    pub(super) fn len(&self) -> usize {
        self.spectrum.as_ref().map_or(self.window, |spectrum| spectrum.len(self.window))
    }

    /// The memory of a stream that has heard nothing yet.
    pub(super) fn start(&self) -> EarMemory {
        let frames = self.spectrum.as_ref().map_or(0, |spectrum| spectrum.len(self.window));
        EarMemory { frames: Vec::with_capacity(frames) }
    }

    /// Bytes that one [`EarMemory`] has on the heap.
    pub(super) fn memory_bytes(&self) -> usize {
        self.spectrum.as_ref().map_or(0, |spectrum| spectrum.len(self.window) * size_of::<f32>())
    }

    /// For one call.
    pub(super) fn bench(&self) -> EarBench {
        EarBench {
            features: self.spectrum.as_ref().map(|spectrum| spectrum.bank.bench()),
            staged: Vec::new(),
        }
    }

    /// Samples in a window.
    pub(super) fn window_len(&self) -> usize {
        self.window
    }

    /// The samples of a lane's window.
    pub(super) fn window<'a>(&self, samples: &'a [f32], step: usize) -> &'a [f32] {
        &samples[step * self.hop..][..self.window]
    }

    /// Makes what [`Ear::heard`] gives for the next lane of a step.
    pub(super) fn hear(&self, window: &[f32], memory: &mut EarMemory, bench: &mut EarBench) {
        match (&self.spectrum, &mut bench.features) {
            (Some(spectrum), Some(features)) => {
                let frames = &mut memory.frames;
                let bands = spectrum.bank.bands();
                frames.drain(..(spectrum.dropped * bands).min(frames.len()));
                let first = frames.len() / bands;
                spectrum.bank.extend(window, first, self.scale, features, frames);
                if spectrum.by_band {
                    let band = |band: usize| frames.iter().skip(band).step_by(bands);
                    bench.staged.extend((0..bands).flat_map(band));
                }
            }
            _ if self.scale != 1.0 => bench.staged.extend(window.iter().map(|sample| sample * self.scale)),
            _ => {}
        }
    }

    /// What the input of that lane of the step is; `lane` counts the calls to [`Ear::hear`] since
    /// [`EarBench::clear`].
    pub(super) fn heard<'a>(
        &self,
        lane: usize,
        window: &'a [f32],
        memory: &'a EarMemory,
        bench: &'a EarBench,
    ) -> &'a [f32] {
        match &self.spectrum {
            Some(spectrum) if !spectrum.by_band => &memory.frames,
            None if self.scale == 1.0 => window,
            _ => &bench.staged[lane * self.len()..][..self.len()],
        }
    }
}

impl EarBench {
    /// For the next step.
    pub(super) fn clear(&mut self) {
        self.staged.clear();
    }
}

impl Spectrum {
    fn len(&self, window: usize) -> usize {
        self.bank.frames_in(window) * self.bank.bands()
    }
}
