//! Whether streams get the same results in company as they get alone.
//!
//! Owns the transcript of a stream: everything the server told it, whatever runs the audio was cut into, so that two
//! transcripts of the same audio can be compared. Floats may differ by [`TOLERANCE`]; everything else may not.

use crate::client::{Options, Received, Sender, Stream};
use crate::model::TensorData;
use crate::wire::message::{Class, Detection, Encoding, Results, ServerMessage, StreamParams};
use crate::wire::message::{Framing, Overflow};
use crate::wire::pcm;
use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

/// How far apart two floats may be, as a share of the greater of 1 and the expected one.
const TOLERANCE: f64 = 1e-4;
/// The same for floats of 16 bits, which have three digits.
const TOLERANCE_OF_16_BITS: f64 = 1e-2;
/// Silence of the server after which a stream is given up.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What streams hear: the same chunks for the same number.
pub(super) struct Audio<'a> {
    pub(super) params: StreamParams,
    pub(super) source: &'a crate::load::Audio,
    pub(super) chunk_bytes: usize,
    /// Chunks of each stream.
    pub(super) chunks: u64,
}

/// Everything that a stream was told.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Transcript {
    outputs: BTreeMap<String, Output>,
    /// Where the last result ended.
    end_ms: f64,
    /// Where speech began and ended.
    boundaries: Vec<(&'static str, f64)>,
    detections: Vec<Detection>,
    /// By the end of a result, microseconds: what it tells of that moment.
    moments: BTreeMap<u64, Moment>,
    /// Processed audio.
    audio: Vec<f32>,
    /// Samples processed, by the balance.
    processed: u64,
}

/// An output, row after row.
#[derive(Clone, Debug, PartialEq)]
struct Output {
    /// Its shape without the rows.
    row: Vec<usize>,
    data: TensorData,
}

/// What a result tells of its end.
#[derive(Clone, Debug, PartialEq)]
struct Moment {
    speech_probability: Option<f32>,
    is_speech: Option<bool>,
    classes: Vec<Class>,
}

impl Audio<'_> {
    /// Streams with the first numbers, one after the other, from that number on.
    pub(super) fn one_by_one(
        &self,
        url: &str,
        numbers: std::ops::Range<usize>,
    ) -> Result<Vec<Transcript>, String> {
        numbers.map(|number| self.hear(self.connect(url)?, number)).collect()
    }

    /// So many streams at once, as fast as the server takes them.
    pub(super) fn together(&self, url: &str, count: usize) -> Result<Vec<Transcript>, String> {
        let streams = (0..count).map(|_| self.connect(url)).collect::<Result<Vec<_>, _>>()?;
        thread::scope(|scope| {
            let hearing = |(number, stream)| scope.spawn(move || self.hear(stream, number));
            let hearing: Vec<_> = streams.into_iter().enumerate().map(hearing).collect();
            let joined = hearing
                .into_iter()
                .map(|thread| thread.join().map_err(|_| "a thread panicked".to_owned())?);
            joined.collect()
        })
    }

    fn connect(&self, url: &str) -> Result<Stream, String> {
        // Nothing may be discarded, and nothing told that depends on when it was computed.
        let params = StreamParams {
            overflow: Overflow::Block,
            framing: Framing::Raw,
            interim_results: false,
            deadline_ms: None,
            timing: false,
            ..self.params.clone()
        };
        let options = Options { params, read_timeout: Some(SILENCE_MAX), ..Options::default() };
        Stream::connect(url, &options).map_err(|error| error.to_string())
    }

    fn hear(&self, stream: Stream, number: usize) -> Result<Transcript, String> {
        let (sender, mut receiver) = stream.split();
        let mut transcript = Transcript::default();
        thread::scope(|scope| {
            scope.spawn(|| self.send(&sender, number));
            while let Some(received) = receiver.recv().map_err(|error| error.to_string())? {
                if transcript.add(received, self.params.encoding)? {
                    return Ok(transcript);
                }
            }
            Err("the stream ended without its balance".into())
        })
    }

    /// Sends until the end or until the server has had enough, of which the other half learns the reason.
    fn send(&self, sender: &Sender, number: usize) {
        let sent = (0..self.chunks)
            .try_for_each(|chunk| sender.send_audio(self.source.chunk(number, chunk, self.chunk_bytes)));
        let _ = sent.and_then(|()| sender.close_stream());
    }
}

impl Transcript {
    /// Adds what came. True: it was the last.
    fn add(&mut self, received: Received, encoding: Encoding) -> Result<bool, String> {
        match received {
            Received::Audio { samples, .. } => {
                pcm::Decoder::new(encoding, 1).decode(&samples, &mut self.audio);
            }
            Received::Message(ServerMessage::Results(results)) => self.add_results(results)?,
            Received::Message(ServerMessage::SpeechStarted(at)) => self.boundaries.push(("starts", at.at_ms)),
            Received::Message(ServerMessage::SpeechEnded(at)) => self.boundaries.push(("ends", at.at_ms)),
            Received::Message(ServerMessage::Error(error)) => return Err(error.message),
            Received::Message(ServerMessage::Discarded(lost)) => {
                return Err(format!("audio was discarded at {:.3} s", lost.start_ms / 1e3));
            }
            Received::Message(ServerMessage::Termination(end)) => {
                self.processed = end.ledger.processed;
                return Ok(true);
            }
            Received::Closed { code, reason } => {
                return Err(format!("the server closed with {} {reason}", code.unwrap_or_default()));
            }
            Received::Message(_) | Received::Unknown => {}
        }
        Ok(false)
    }

    fn add_results(&mut self, results: Results) -> Result<(), String> {
        // Times have three decimals.
        if (results.start_ms - self.end_ms).abs() > 0.002 {
            return Err(format!(
                "a result begins at {} ms, the last one ended at {} ms",
                results.start_ms, self.end_ms
            ));
        }
        self.end_ms = results.start_ms + results.duration_ms;
        for tensor in results.outputs {
            let row = tensor.shape.get(1..).unwrap_or_default().to_vec();
            let empty = || Output { row: row.clone(), data: TensorData::new(tensor.data.datatype()) };
            let output = self.outputs.entry(tensor.name.to_string()).or_insert_with(empty);
            if output.row != row || output.data.datatype() != tensor.data.datatype() {
                return Err(format!("output `{}` changed its shape or type", tensor.name));
            }
            output.data.extend_from(&tensor.data, 0..tensor.data.len());
        }
        self.detections.extend(results.detections);
        let (speech_probability, is_speech) = (results.speech_probability, results.is_speech);
        let moment = Moment { speech_probability, is_speech, classes: results.classes };
        self.moments.insert((self.end_ms * 1e3).round() as u64, moment);
        Ok(())
    }

    /// The first thing in which the other one differs. `self` is what is right.
    pub(super) fn difference(&self, other: &Transcript) -> Option<String> {
        if (self.end_ms - other.end_ms).abs() > 0.002 || self.processed != other.processed {
            return Some(format!(
                "results end at {:.3} s instead of {:.3} s, with {} samples processed instead of {}",
                other.end_ms / 1e3,
                self.end_ms / 1e3,
                other.processed,
                self.processed
            ));
        }
        if !self.outputs.keys().eq(other.outputs.keys()) {
            let names =
                |outputs: &BTreeMap<String, Output>| outputs.keys().cloned().collect::<Vec<_>>().join(", ");
            return Some(format!(
                "the outputs are {} instead of {}",
                names(&other.outputs),
                names(&self.outputs)
            ));
        }
        let mut outputs = self.outputs.iter().zip(other.outputs.values());
        outputs
            .find_map(|((name, right), output)| self.output_difference(name, right, output))
            .or_else(|| self.told_difference(other))
            .or_else(|| {
                let far = far(reals(&self.audio), reals(&other.audio), TOLERANCE)?;
                Some(format!("processed audio, {far}"))
            })
    }

    fn output_difference(&self, name: &str, right: &Output, output: &Output) -> Option<String> {
        if right.row != output.row || right.data.datatype() != output.data.datatype() {
            return Some(format!("output `{name}` has another shape or type"));
        }
        let row = right.row.iter().product::<usize>().max(1);
        let rows = (right.data.len() / row).max(1);
        let at = element_difference(&right.data, &output.data)?;
        let place = at.0 / row;
        let second = self.end_ms / 1e3 * place as f64 / rows as f64;
        Some(format!("output `{name}`, window {} at {second:.3} s: {}", place + 1, at.1))
    }

    /// Events, and what is told of moments that both speak of.
    fn told_difference(&self, other: &Transcript) -> Option<String> {
        if self.boundaries != other.boundaries {
            return Some(format!("speech: {:?} instead of {:?}", other.boundaries, self.boundaries));
        }
        let same = |right: &Detection, it: &Detection| {
            right.label == it.label && right.at_ms == it.at_ms && near(right.score, it.score)
        };
        if !alike(&self.detections, &other.detections, same) {
            return Some(format!("detections: {:?} instead of {:?}", other.detections, self.detections));
        }
        let mut both =
            self.moments.iter().filter_map(|(at, right)| Some((at, right, other.moments.get(at)?)));
        let (at, right, it) = both.find(|(_, right, it)| !right.is_like(it))?;
        Some(format!("at {:.3} s: {it:?} instead of {right:?}", *at as f64 / 1e6))
    }
}

impl Moment {
    fn is_like(&self, other: &Moment) -> bool {
        let probabilities = match (self.speech_probability, other.speech_probability) {
            (Some(right), Some(it)) => near(right, it),
            (right, it) => right == it,
        };
        // Classes with the same score may stand in either order.
        let same = |right: &Class, it: &Class| near(right.score, it.score);
        probabilities && self.is_speech == other.is_speech && alike(&self.classes, &other.classes, same)
    }
}

fn alike<T>(right: &[T], others: &[T], same: impl Fn(&T, &T) -> bool) -> bool {
    right.len() == others.len() && right.iter().zip(others).all(|(right, it)| same(right, it))
}

fn near(right: f32, it: f32) -> bool {
    f64::from(right - it).abs() <= TOLERANCE * f64::from(right).abs().max(1.0)
}

fn reals(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

/// The number of the first element that differs, and how.
fn element_difference(right: &TensorData, it: &TensorData) -> Option<(usize, String)> {
    let length =
        || Some((right.len().min(it.len()), format!("{} elements instead of {}", it.len(), right.len())));
    let floats = |right: Vec<f64>, it: Vec<f64>, tolerance| {
        let at = first_far(&right, &it, tolerance)?;
        Some((at, format!("{} instead of {}", it[at], right[at])))
    };
    if right.len() != it.len() {
        return length();
    }
    match (right, it) {
        (TensorData::Fp32(right), TensorData::Fp32(it)) => floats(reals(right), reals(it), TOLERANCE),
        (TensorData::Fp64(right), TensorData::Fp64(it)) => floats(right.clone(), it.clone(), TOLERANCE),
        (TensorData::Fp16(right), TensorData::Fp16(it)) => {
            let reals = |values: &[half::f16]| values.iter().map(|value| value.to_f64()).collect();
            floats(reals(right), reals(it), TOLERANCE_OF_16_BITS)
        }
        (TensorData::Bf16(right), TensorData::Bf16(it)) => {
            let reals = |values: &[half::bf16]| values.iter().map(|value| value.to_f64()).collect();
            floats(reals(right), reals(it), TOLERANCE_OF_16_BITS)
        }
        (right, it) if right == it => None,
        (right, it) => {
            let at = right.numbers().zip(it.numbers()).position(|(right, it)| right != it);
            Some((at.unwrap_or(0), "another value".to_owned()))
        }
    }
}

fn first_far(right: &[f64], it: &[f64], tolerance: f64) -> Option<usize> {
    let far =
        |(right, it): (&f64, &f64)| right != it && (right - it).abs() > tolerance * right.abs().max(1.0);
    right.iter().zip(it).position(far)
}

fn far(right: Vec<f64>, it: Vec<f64>, tolerance: f64) -> Option<String> {
    if right.len() != it.len() {
        return Some(format!("{} samples instead of {}", it.len(), right.len()));
    }
    let at = first_far(&right, &it, tolerance)?;
    Some(format!("sample {at}: {} instead of {}", it[at], right[at]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::{SpeechBoundary, Tensor};

    fn results(start_ms: f64, levels: &[f32]) -> Results {
        let rows = levels.len();
        let level =
            Tensor { name: "level".into(), shape: vec![rows, 1], data: TensorData::Fp32(levels.to_vec()) };
        let sums = TensorData::Uint32(levels.iter().map(|level| level.to_bits()).collect());
        let sum = Tensor { name: "sum".into(), shape: vec![rows, 1], data: sums };
        let loud = levels.iter().enumerate().filter(|(_, level)| **level > 0.9);
        let detections = loud.map(|(row, &score)| {
            let at_ms = start_ms + 10.0 * (row + 1) as f64;
            Detection { label: "loud".into(), score, at_ms }
        });
        Results {
            start_ms,
            duration_ms: 10.0 * rows as f64,
            is_final: true,
            outputs: vec![level, sum],
            speech_probability: levels.last().copied(),
            is_speech: Some(levels.last().is_some_and(|&level| level > 0.5)),
            detections: detections.collect(),
            ..Results::default()
        }
    }

    /// Ten windows in runs of these lengths, with a change of what would be heard.
    fn transcript(runs: &[usize], change: impl Fn(&mut Results)) -> Transcript {
        let levels: Vec<f32> = (0..10).map(|window| window as f32 / 9.5).collect();
        let (mut transcript, mut from) = (Transcript::default(), 0);
        for &run in runs {
            let mut results = results(from as f64 * 10.0, &levels[from..from + run]);
            change(&mut results);
            let received = Received::Message(ServerMessage::Results(results));
            assert!(!transcript.add(received, Encoding::F32le).expect("it follows"));
            let samples = levels[from..from + run].iter().flat_map(|level| level.to_le_bytes()).collect();
            transcript.add(Received::Audio { header: None, samples }, Encoding::F32le).expect("audio");
            from += run;
        }
        transcript
    }

    #[test]
    fn the_same_in_other_runs_is_the_same() {
        let alone = transcript(&[1; 10], |_| ());
        for runs in [&[10][..], &[3, 3, 4], &[1, 9]] {
            assert_eq!(alone.difference(&transcript(runs, |_| ())), None);
        }
    }

    #[test]
    fn rounding_of_floats_is_no_difference_and_more_is_told_with_its_place() {
        let alone = transcript(&[1; 10], |_| ());
        let nudged = |by: f32| {
            transcript(&[4, 6], |results| {
                if let TensorData::Fp32(levels) = &mut results.outputs[0].data {
                    levels[2] += by;
                }
            })
        };
        assert_eq!(alone.difference(&nudged(5e-5)), None);
        let told = alone.difference(&nudged(5e-3)).expect("a difference");
        assert!(told.contains("output `level`, window 3 at 0.020 s"), "{told}");
    }

    #[test]
    fn whatever_is_not_a_float_must_be_equal() {
        let alone = transcript(&[1; 10], |_| ());
        let differs = |change: &dyn Fn(&mut Results), word: &str| {
            let told = alone.difference(&transcript(&[5, 5], change)).expect("a difference");
            assert!(told.contains(word), "{told}");
        };
        differs(
            &|results| {
                if let TensorData::Uint32(sums) = &mut results.outputs[1].data {
                    sums[4] ^= 1;
                }
            },
            "output `sum`, window 5 at 0.040 s",
        );
        differs(&|results| results.is_speech = results.is_speech.map(|speech| !speech), "at 0.050 s");
        differs(&|results| results.detections.clear(), "detections");
        differs(&|results| results.outputs.truncate(1), "the outputs are level instead of level, sum");
    }

    #[test]
    fn missing_results_audio_and_boundaries_are_differences() {
        let alone = transcript(&[1; 10], |_| ());
        let told = alone.difference(&transcript(&[1; 9], |_| ())).expect("a difference");
        assert!(told.contains("results end at 0.090 s instead of 0.100 s"), "{told}");
        let mut quiet = alone.clone();
        quiet.audio[7] = 0.0;
        assert!(alone.difference(&quiet).is_some_and(|told| told.contains("processed audio, sample 7")));
        quiet.audio.pop();
        assert!(alone.difference(&quiet).is_some_and(|told| told.contains("9 samples instead of 10")));
        let mut spoken = alone.clone();
        let start = ServerMessage::SpeechStarted(SpeechBoundary { message_seq: 1, at_ms: 20.0 });
        spoken.add(Received::Message(start), Encoding::F32le).expect("a boundary");
        assert!(alone.difference(&spoken).is_some_and(|told| told.contains("speech:")));
    }

    #[test]
    fn a_hole_in_the_results_is_an_error() {
        let mut transcript = Transcript::default();
        transcript.add_results(results(0.0, &[0.1])).expect("the first");
        assert!(transcript.add_results(results(20.0, &[0.1])).is_err());
    }
}
