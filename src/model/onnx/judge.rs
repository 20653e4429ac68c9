//! What is made of a model's rows besides the rows: speech that starts and ends, words, classes.
//!
//! Owns thresholds, means over windows, and what is remembered for them of each stream. It sees probabilities or
//! scores, one row for each window, and knows nothing of audio or engines.
//!
//! Invariants: what is told depends on the rows alone, not on how a stream was cut into runs; nothing is told beyond the
//! end of the stream.

use super::manifest::{Audio, Classify, Keyword, Manifest, OutputKind, Postprocess, Speech};
use crate::model::segment::{Rule, Segmenter};
use crate::model::{Class, Datatype, Detection, Findings, OutputSpec};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// What judges the rows of one output; shared by all workers.
pub(super) struct Judge {
    /// Which of the model's outputs.
    pub(super) output: usize,
    hop: u64,
    window: u64,
    verdict: Verdict,
}

enum Verdict {
    Speech { rule: Rule, lag: u64, element: usize },
    Classify { labels: Vec<Arc<str>>, top_k: usize, smooth: usize },
    Keyword { labels: Vec<Arc<str>>, ignored: Vec<bool>, threshold: f32, refractory: u64, smooth: usize },
}

/// What is remembered of one stream.
#[derive(Default)]
pub(super) struct JudgeMemory {
    segmenter: Segmenter,
    mean: Mean,
    /// The word that was told last, as long as it goes on.
    held: Option<usize>,
    /// Nothing is told before this sample.
    quiet_until: u64,
}

/// The mean of the newest rows.
#[derive(Default)]
struct Mean {
    /// That many rows at most, in no order.
    rows: Vec<f32>,
    /// The place of the next one.
    next: usize,
}

impl Judge {
    /// Resolves `[postprocess]` against the outputs that the model has.
    ///
    /// # Errors
    /// What in the manifest contradicts what in the file.
    pub(super) fn resolve(
        manifest: &Manifest,
        audio: &Audio,
        outputs: &[OutputSpec],
    ) -> Result<Option<Judge>, String> {
        use OutputKind::{Logits, Probability, Scores};
        let Some(postprocess) = &manifest.postprocess else { return Ok(None) };
        let (named, kinds): (_, &[OutputKind]) = match postprocess {
            Postprocess::Speech(speech) => (&speech.output, &[Probability, Logits]),
            Postprocess::Classify(classify) => (&classify.output, &[Probability, Logits, Scores]),
            Postprocess::Keyword(keyword) => (&keyword.output, &[Probability, Logits, Scores]),
        };
        let output = find_output(manifest, outputs, named.as_deref(), kinds)?;
        let spec = &outputs[output];
        if spec.datatype != Datatype::Fp32 {
            let datatype = spec.datatype.name();
            return Err(format!(
                "postprocess reads output `{}`, which is {datatype} in the file; it can read floats of up to 32 bits",
                spec.name
            ));
        }
        let verdict = match postprocess {
            Postprocess::Speech(speech) => judge_speech(speech, audio, spec)?,
            Postprocess::Classify(Classify { top_k, smooth, .. }) => {
                Verdict::Classify { labels: labels(spec)?, top_k: *top_k, smooth: *smooth }
            }
            Postprocess::Keyword(keyword) => judge_keyword(keyword, audio, spec)?,
        };
        let (hop, window) = (audio.hop as u64, audio.window() as u64);
        Ok(Some(Judge { output, hop, window, verdict }))
    }

    /// Bytes that one [`JudgeMemory`] has on the heap.
    pub(super) fn memory_bytes(&self) -> usize {
        match &self.verdict {
            Verdict::Speech { .. } => 0,
            Verdict::Classify { labels, smooth, .. } | Verdict::Keyword { labels, smooth, .. } => {
                labels.len() * smooth * size_of::<f32>()
            }
        }
    }

    /// Takes the row of the window of that index. `ends_at` is the length of the stream, if it is known.
    pub(super) fn step(
        &self,
        memory: &mut JudgeMemory,
        row: &[f32],
        window: u64,
        ends_at: Option<u64>,
        findings: &mut Findings,
    ) {
        let start = window * self.hop;
        let end = ends_at.unwrap_or(u64::MAX);
        if start >= end {
            return;
        }
        let complete = start + self.window;
        match &self.verdict {
            Verdict::Speech { rule, lag, element } => {
                let heard = Range {
                    start: (complete - self.hop).saturating_sub(*lag),
                    end: complete.saturating_sub(*lag),
                };
                if heard.start >= end {
                    return;
                }
                let told = findings.events.len();
                memory.segmenter.step(rule, row[*element], heard, &mut findings.events);
                for event in &mut findings.events[told..] {
                    event.at_sample = event.at_sample.min(end);
                }
                findings.speech_probability = Some(row[*element]);
                findings.is_speech = Some(memory.segmenter.is_speech());
            }
            Verdict::Classify { smooth, .. } => memory.mean.push(row, *smooth),
            Verdict::Keyword { labels, ignored, threshold, refractory, smooth } => {
                memory.mean.push(row, *smooth);
                if memory.mean.rows.len() < row.len() * smooth {
                    return;
                }
                let (best, score) = memory.mean.best(row.len());
                let word = (score >= *threshold && !ignored[best]).then_some(best);
                if memory.held != word {
                    memory.held = None;
                }
                let at_sample = complete.min(end);
                if let (Some(word), None) = (word, memory.held)
                    && at_sample >= memory.quiet_until
                {
                    findings.detections.push(Detection { label: labels[word].clone(), score, at_sample });
                    memory.held = Some(word);
                    memory.quiet_until = at_sample.saturating_add(*refractory);
                }
            }
        }
    }

    /// Tells what stands at the end of a call of so many windows; `ends_at` as in [`Judge::step`].
    pub(super) fn conclude(
        &self,
        memory: &mut JudgeMemory,
        count: usize,
        ends_at: Option<u64>,
        findings: &mut Findings,
    ) {
        match (&self.verdict, ends_at) {
            (Verdict::Speech { rule, .. }, Some(end)) => {
                memory.segmenter.close(rule, end, &mut findings.events)
            }
            (Verdict::Classify { labels, top_k, .. }, _) if count > 0 && !memory.mean.rows.is_empty() => {
                let scores = (0..labels.len()).map(|label| memory.mean.of(label, labels.len()));
                let class = |(label, score): (&Arc<str>, f32)| Class { label: label.clone(), score };
                findings.classes.extend(labels.iter().zip(scores).map(class));
                findings.classes.sort_by(|one, other| other.score.total_cmp(&one.score));
                findings.classes.truncate(*top_k);
            }
            _ => {}
        }
    }
}

impl Mean {
    fn push(&mut self, row: &[f32], smooth: usize) {
        if self.rows.len() < row.len() * smooth {
            self.rows.reserve_exact(row.len() * smooth - self.rows.len());
            self.rows.extend_from_slice(row);
            return;
        }
        self.rows[self.next * row.len()..][..row.len()].copy_from_slice(row);
        self.next = (self.next + 1) % smooth;
    }

    /// The mean of one element of the rows.
    fn of(&self, element: usize, row_len: usize) -> f32 {
        let sum: f32 = self.rows.iter().skip(element).step_by(row_len).sum();
        sum / (self.rows.len() / row_len) as f32
    }

    /// The first element with the greatest mean.
    fn best(&self, row_len: usize) -> (usize, f32) {
        let means = (0..row_len).map(|element| (element, self.of(element, row_len)));
        means.fold((0, f32::NEG_INFINITY), |best, next| if next.1 > best.1 { next } else { best })
    }
}

fn find_output(
    manifest: &Manifest,
    outputs: &[OutputSpec],
    named: Option<&str>,
    kinds: &[OutputKind],
) -> Result<usize, String> {
    let kind = |output: &OutputSpec| manifest.output(&output.name).map_or(OutputKind::Raw, |own| own.kind);
    let names = outputs.iter().map(|output| format!("`{}`", output.name)).collect::<Vec<_>>().join(", ");
    let wanted = kinds.iter().map(|kind| format!("\"{}\"", kind.name())).collect::<Vec<_>>().join(" or ");
    if let Some(name) = named {
        let Some(found) = outputs.iter().position(|output| *output.name == *name) else {
            return Err(format!("postprocess.output is `{name}`, but the model gives {names}"));
        };
        if !kinds.contains(&kind(&outputs[found])) {
            return Err(format!(
                "postprocess.output is `{name}`, whose kind is \"{}\"; give it an [[output]] of kind {wanted}",
                kind(&outputs[found]).name()
            ));
        }
        return Ok(found);
    }
    let found: Vec<usize> =
        (0..outputs.len()).filter(|&index| kinds.contains(&kind(&outputs[index]))).collect();
    match found[..] {
        [one] => Ok(one),
        _ => Err(format!(
            "postprocess needs one output of kind {wanted}, and {} of {names} are; \
             describe it in [[output]] or name it in postprocess.output",
            found.len()
        )),
    }
}

/// The labels of an output, one for each element of a row.
fn labels(spec: &OutputSpec) -> Result<Vec<Arc<str>>, String> {
    if spec.labels.len() != spec.row_len() {
        return Err(format!(
            "postprocess tells labels, of which output `{}` has {} for rows of {} elements; give it as many",
            spec.name,
            spec.labels.len(),
            spec.row_len()
        ));
    }
    Ok(spec.labels.clone())
}

fn judge_speech(speech: &Speech, audio: &Audio, spec: &OutputSpec) -> Result<Verdict, String> {
    let element = match &speech.label {
        Some(label) => labels(spec)?.iter().position(|own| **own == **label).ok_or_else(|| {
            format!("postprocess.label is `{label}`, which is none of the labels of output `{}`", spec.name)
        })?,
        None if spec.row_len() == 1 => 0,
        None => {
            return Err(format!(
                "output `{}` has rows of {} elements; say in postprocess.label which one is speech",
                spec.name,
                spec.row_len()
            ));
        }
    };
    let windows = |time: Duration| {
        let hop = samples(time, audio).div_ceil(audio.hop as u64);
        u32::try_from(hop).unwrap_or(u32::MAX).max(1)
    };
    let rule = Rule {
        on: speech.on,
        off: speech.off,
        windows_on: windows(speech.min_on),
        windows_off: windows(speech.min_off),
        pad: samples(speech.pad, audio),
    };
    Ok(Verdict::Speech { rule, lag: samples(speech.lag, audio), element })
}

fn judge_keyword(keyword: &Keyword, audio: &Audio, spec: &OutputSpec) -> Result<Verdict, String> {
    let labels = labels(spec)?;
    if let Some(label) = keyword.ignore.iter().find(|label| !labels.iter().any(|own| **own == ***label)) {
        return Err(format!(
            "postprocess.ignore has `{label}`, which is none of the labels of output `{}`",
            spec.name
        ));
    }
    Ok(Verdict::Keyword {
        ignored: labels.iter().map(|label| keyword.ignore.iter().any(|own| **own == **label)).collect(),
        labels,
        threshold: keyword.threshold,
        refractory: samples(keyword.refractory, audio),
        smooth: keyword.smooth,
    })
}

/// Samples at the model's rate, of which a part counts as whole.
fn samples(time: Duration, audio: &Audio) -> u64 {
    let samples = (time.as_nanos() * u128::from(audio.sample_rate)).div_ceil(1_000_000_000);
    // What is longer than any stream is as good as for ever, and leaves room to add to.
    samples.min(1 << 60) as u64
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
