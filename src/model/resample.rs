//! From one sample rate to another, in blocks of fixed length, with as little memory for a stream as will do.
//!
//! Rates whose greatest common divisor is at least [`GCD_MIN_HZ`] go through rubato's FFT resampler in blocks of 10
//! to 20 ms. Between blocks it remembers only an overlap that follows wholly from the block before. So a stream keeps
//! that block, and the resampler with its plans and filters, some tens of kilobytes, belongs to the worker's thread
//! ([`Workshop`]): it is fed the stream's last block again and is then as if it had never served another. That costs
//! one more block for each run and changes no bit of the result.
//!
//! All other rates (44,101 Hz) go through rubato's sinc resampler, one for each such stream, made at its first block.
//!
//! Invariant: the output depends only on the samples, never on how they were cut or on which thread did the work.

use rubato::audioadapter_buffers::direct::SequentialSlice;
use rubato::{
    Async, Fft, FixedAsync, FixedSync, Resampler as _, SincInterpolationParameters, SincInterpolationType,
    WindowFunction, calculate_cutoff,
};

/// An FFT block is a multiple of `1 / gcd` seconds: below this it would exceed 20 ms.
const GCD_MIN_HZ: u32 = 50;

/// Taps of the sinc filter for every sample at the lower of the two rates: with the window below, a pass band of 85 %.
const SINC_TAPS: usize = 64;
const SINC_WINDOW: WindowFunction = WindowFunction::Blackman2;

/// Points between two taps at the lower rate. Cubic interpolation between 32 leaves an error below -90 dB.
const SINC_POINTS: usize = 32;

/// How many pairs of rates a thread keeps resamplers for; beyond, the one unused for longest makes room.
const RATE_PAIRS_MAX: usize = 16;

/// Upper bound of what one [`Resampler`] holds on the heap, bytes, over all rates; measured in `footprint`.
pub(super) const RESAMPLER_BYTES_MAX: usize = 20 * 1024;

/// Upper bound of what one [`Workshop`] holds, bytes: [`RATE_PAIRS_MAX`] times the largest FFT resampler; measured
/// in `footprint`.
pub(super) const WORKSHOP_BYTES_MAX: usize = RATE_PAIRS_MAX * 160 * 1024;

/// How many samples at `from_hz` are resampled at a time: 10 to 20 ms.
pub(super) fn block(from_hz: u32, to_hz: u32) -> usize {
    if !is_shared(from_hz, to_hz) {
        return from_hz.div_ceil(100) as usize;
    }
    let gcd = gcd(from_hz, to_hz);
    // A filter is as long as its block. Low rates need 20 ms for a sharp one; the others are served in 10.
    let slow = from_hz.min(to_hz) < 16_000;
    let multiple = if slow { gcd / 50 } else { gcd.div_ceil(100) };
    (from_hz / gcd * multiple) as usize
}

/// Whether the thread's FFT resampler does it, or one of the stream's own.
pub(super) fn is_shared(from_hz: u32, to_hz: u32) -> bool {
    gcd(from_hz, to_hz) >= GCD_MIN_HZ
}

/// One direction of one stream.
pub(super) struct Resampler {
    from_hz: u32,
    to_hz: u32,
    /// Less than a block.
    pending: Vec<f32>,
    /// Output samples of the filter's delay that have yet to be dropped; `None` before the first block.
    trim: Option<usize>,
    engine: Engine,
}

enum Engine {
    /// The block before; empty at the beginning.
    Shared { previous: Vec<f32> },
    /// Made at the first block.
    Own(Option<Box<Async<f32>>>),
}

impl Resampler {
    /// From `from_hz` to `to_hz`, which differ and are not 0. Allocates nothing yet.
    pub(super) fn new(from_hz: u32, to_hz: u32) -> Self {
        debug_assert!(from_hz != to_hz, "nothing to resample at {from_hz} Hz");
        let engine = if is_shared(from_hz, to_hz) {
            Engine::Shared { previous: Vec::new() }
        } else {
            Engine::Own(None)
        };
        Self { from_hz, to_hz, pending: Vec::new(), trim: None, engine }
    }

    /// Takes samples and appends what is ready to `out`, the filter's delay left out: the first sample that ever
    /// comes out belongs to the same point in time as the first that went in.
    pub(super) fn push(&mut self, workshop: &mut Workshop, samples: &[f32], out: &mut Vec<f32>) {
        let block = block(self.from_hz, self.to_hz);
        let mut samples = samples;
        if !self.pending.is_empty() {
            let taken = samples.len().min(block - self.pending.len());
            self.pending.extend_from_slice(&samples[..taken]);
            samples = &samples[taken..];
            if self.pending.len() < block {
                return;
            }
            let mut whole = std::mem::take(&mut self.pending);
            self.process(workshop, &whole, block, out);
            whole.clear();
            self.pending = whole;
        }
        let whole = samples.len() / block * block;
        self.process(workshop, &samples[..whole], block, out);
        let rest = &samples[whole..];
        if self.pending.capacity() < rest.len() {
            self.pending.reserve_exact(block);
        }
        self.pending.extend_from_slice(rest);
    }

    /// Follows the stream with silence until `out` holds at least `wanted` samples.
    pub(super) fn flush(&mut self, workshop: &mut Workshop, wanted: usize, out: &mut Vec<f32>) {
        let block = block(self.from_hz, self.to_hz);
        let silence = vec![0.0; block];
        while out.len() < wanted {
            let missing = block - self.pending.len();
            self.push(workshop, &silence[..missing], out);
        }
    }

    /// Resamples whole blocks.
    fn process(&mut self, workshop: &mut Workshop, samples: &[f32], block: usize, out: &mut Vec<f32>) {
        if samples.is_empty() {
            return;
        }
        let start = out.len();
        let delay = match &mut self.engine {
            Engine::Shared { previous } => {
                let fft = workshop.fft(self.from_hz, self.to_hz);
                resume(fft, previous, out);
                samples.chunks_exact(block).for_each(|chunk| one_block(fft, chunk, out));
                previous.clear();
                previous.reserve_exact(block);
                previous.extend_from_slice(&samples[samples.len() - block..]);
                fft.output_delay()
            }
            Engine::Own(own) => {
                let sinc = own.get_or_insert_with(|| new_sinc(self.from_hz, self.to_hz, block));
                samples.chunks_exact(block).for_each(|chunk| one_block(sinc.as_mut(), chunk, out));
                sinc_delay(self.from_hz, self.to_hz)
            }
        };
        let trim = self.trim.get_or_insert(delay);
        let dropped = (*trim).min(out.len() - start);
        out.drain(start..start + dropped);
        *trim -= dropped;
    }
}

/// Brings the thread's resampler to where the stream left off.
fn resume(fft: &mut Fft<f32>, previous: &[f32], out: &mut Vec<f32>) {
    if previous.is_empty() {
        fft.reset();
    } else {
        let start = out.len();
        one_block(fft, previous, out);
        out.truncate(start);
    }
}

fn one_block(resampler: &mut dyn rubato::Resampler<f32>, block: &[f32], out: &mut Vec<f32>) {
    const FITS: &str = "one channel, and as many frames as the resampler asked for";
    let start = out.len();
    let frames = resampler.output_frames_next();
    out.resize(start + frames, 0.0);
    let input = SequentialSlice::new(block, 1, block.len()).expect(FITS);
    let mut output = SequentialSlice::new_mut(&mut out[start..], 1, frames).expect(FITS);
    let (_, written) = resampler.process_into_buffer(&input, &mut output, None).expect(FITS);
    out.truncate(start + written);
}

/// The FFT resamplers of one thread, shared by all streams that it serves.
#[derive(Default)]
pub(super) struct Workshop {
    entries: Vec<Entry>,
    uses: u64,
}

struct Entry {
    rates_hz: (u32, u32),
    last_use: u64,
    fft: Fft<f32>,
}

impl Workshop {
    fn fft(&mut self, from_hz: u32, to_hz: u32) -> &mut Fft<f32> {
        self.uses += 1;
        let index = match self.entries.iter().position(|entry| entry.rates_hz == (from_hz, to_hz)) {
            Some(index) => index,
            None => self.make(from_hz, to_hz),
        };
        let entry = &mut self.entries[index];
        entry.last_use = self.uses;
        &mut entry.fft
    }

    fn make(&mut self, from_hz: u32, to_hz: u32) -> usize {
        if self.entries.len() >= RATE_PAIRS_MAX {
            let oldest = (0..self.entries.len()).min_by_key(|&index| self.entries[index].last_use);
            self.entries.swap_remove(oldest.expect("a full workshop is not empty"));
        }
        let entry = Entry { rates_hz: (from_hz, to_hz), last_use: 0, fft: new_fft(from_hz, to_hz) };
        self.entries.push(entry);
        self.entries.len() - 1
    }
}

pub(super) fn new_fft(from_hz: u32, to_hz: u32) -> Fft<f32> {
    let block = block(from_hz, to_hz);
    let fft = Fft::new_custom(
        from_hz as usize,
        to_hz as usize,
        block,
        1,
        1,
        WindowFunction::BlackmanHarris2,
        FixedSync::Input,
    )
    .expect("rates and block are not 0");
    debug_assert_eq!(fft.fft_size_in(), block, "each call must transform exactly one block");
    fft
}

fn new_sinc(from_hz: u32, to_hz: u32, block: usize) -> Box<Async<f32>> {
    let SincShape { taps, points } = sinc_shape(from_hz, to_hz);
    let parameters = SincInterpolationParameters::new(taps, SINC_WINDOW)
        .f_cutoff(calculate_cutoff(SINC_TAPS, SINC_WINDOW))
        .oversampling_factor(points)
        .interpolation(SincInterpolationType::Cubic);
    let ratio = f64::from(to_hz) / f64::from(from_hz);
    let sinc = Async::new_sinc(ratio, 1.0, &parameters, block, 1, FixedAsync::Input);
    Box::new(sinc.expect("the ratio is finite and positive, the block not 0"))
}

struct SincShape {
    taps: usize,
    points: usize,
}

fn sinc_shape(from_hz: u32, to_hz: u32) -> SincShape {
    // Downwards the filter widens with the ratio and needs fewer points between its taps.
    let narrowing = (f64::from(to_hz) / f64::from(from_hz)).min(1.0);
    // rubato would round up to a multiple of 8 by itself; the delay needs the number.
    let taps = ((SINC_TAPS as f64 / narrowing).ceil() as usize).next_multiple_of(8);
    SincShape { taps, points: (SINC_POINTS as f64 * narrowing).ceil() as usize }
}

/// The delay of the sinc resampler in whole output samples. Its own `output_delay` is up to one and a half samples
/// too long: it leaves out that the first output lies one step after the filter's start, and the filter's centre one
/// point off the middle.
fn sinc_delay(from_hz: u32, to_hz: u32) -> usize {
    let SincShape { taps, points } = sinc_shape(from_hz, to_hz);
    let ratio = f64::from(to_hz) / f64::from(from_hz);
    ((taps as f64 / 2.0 - 1.0 / points as f64) * ratio - 1.0).round() as usize
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RATES_HZ: [u32; 9] = [8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 44_100, 44_101, 48_000];

    fn tone(rate_hz: u32, hz: f64, len: usize) -> Vec<f32> {
        let step = std::f64::consts::TAU * hz / f64::from(rate_hz);
        (0..len).map(|n| (0.5 * (step * n as f64).sin()) as f32).collect()
    }

    #[test]
    fn a_block_lasts_ten_to_twenty_milliseconds_at_every_rate() {
        for from_hz in 8_000..=48_000 {
            for to_hz in [16_000, 48_000] {
                for (from_hz, to_hz) in [(from_hz, to_hz), (to_hz, from_hz)] {
                    let ms = block(from_hz, to_hz) as f64 * 1000.0 / f64::from(from_hz);
                    assert!((9.99..=20.01).contains(&ms), "{from_hz} -> {to_hz}: {ms}");
                }
            }
        }
    }

    #[test]
    fn a_tone_comes_out_as_the_same_tone_at_the_same_time() {
        let mut workshop = Workshop::default();
        for from_hz in RATES_HZ {
            for to_hz in RATES_HZ.into_iter().filter(|&to_hz| to_hz != from_hz) {
                let mut resampler = Resampler::new(from_hz, to_hz);
                let mut out = Vec::new();
                resampler.push(&mut workshop, &tone(from_hz, 440.0, from_hz as usize / 2), &mut out);
                let expected = tone(to_hz, 440.0, out.len());
                assert!(out.len() > to_hz as usize * 4 / 10, "{from_hz} -> {to_hz}: {}", out.len());
                let middle = out.len() / 5..out.len() * 4 / 5;
                let error = middle.map(|n| (out[n] - expected[n]).abs()).fold(0.0, f32::max);
                // A sample of delay that is not trimmed would be 0.17 at 8 kHz and 0.03 at 48 kHz; half of one is
                // left where the filter's centre falls between two samples.
                let half_sample = 0.5 * std::f32::consts::TAU * 440.0 * 0.5 / from_hz.min(to_hz) as f32;
                assert!(error < half_sample * 1.1 + 1e-3, "{from_hz} -> {to_hz}: {error} of {half_sample}");
            }
        }
    }

    #[test]
    fn flushing_gives_as_much_as_is_wanted() {
        let mut workshop = Workshop::default();
        for from_hz in [8_000, 44_100, 44_101] {
            let mut resampler = Resampler::new(from_hz, 16_000);
            let mut out = Vec::new();
            resampler.push(&mut workshop, &[0.5; 3], &mut out);
            resampler.flush(&mut workshop, 5_000, &mut out);
            assert!(out.len() >= 5_000);
            assert!(out.iter().any(|value| value.abs() > 0.01), "{from_hz}: the three samples came through");
        }
    }

    #[test]
    fn more_pairs_of_rates_than_a_thread_keeps_still_give_the_same() {
        let (mut crowded, mut own) = (Workshop::default(), Workshop::default());
        let mut resampler = Resampler::new(24_000, 16_000);
        let mut reference = Resampler::new(24_000, 16_000);
        let (mut out, mut expected) = (Vec::new(), Vec::new());
        let samples = tone(24_000, 300.0, 24_000);
        for (index, part) in samples.chunks(1_200).enumerate() {
            let other = crowded.fft(8_000 + 100 * index as u32, 48_000);
            let block = vec![0.3; other.input_frames_next()];
            one_block(other, &block, &mut Vec::new());
            resampler.push(&mut crowded, part, &mut out);
            reference.push(&mut own, part, &mut expected);
        }
        assert!(crowded.entries.len() <= RATE_PAIRS_MAX);
        assert_eq!(out, expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_cutting_gives_the_same_samples(
            from in 0..RATES_HZ.len(),
            to in 0..RATES_HZ.len(),
            cuts in proptest::collection::vec(1usize..3_000, 1..12),
        ) {
            let (from_hz, to_hz) = (RATES_HZ[from], RATES_HZ[to]);
            prop_assume!(from_hz != to_hz);
            let samples = tone(from_hz, 321.0, cuts.iter().sum());
            let (mut whole, mut parts) = (Vec::new(), Vec::new());
            Resampler::new(from_hz, to_hz).push(&mut Workshop::default(), &samples, &mut whole);
            let mut resampler = Resampler::new(from_hz, to_hz);
            let mut workshop = Workshop::default();
            let mut rest = &samples[..];
            for cut in cuts {
                let (part, after) = rest.split_at(cut);
                resampler.push(&mut workshop, part, &mut parts);
                rest = after;
            }
            prop_assert_eq!(whole, parts);
        }
    }
}
