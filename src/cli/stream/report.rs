//! What a person (or a program, with `--json`) sees of a stream.
//!
//! Results go to standard output; the progress bar, warnings and, with `--json`, the last line go to standard error. If
//! nobody reads standard output any more, the stream goes on in silence.

use crate::model::TensorData;
use crate::wire::message::{Results, ServerMessage, Tensor, Termination};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Write};

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Lines for people.
    Lines,
    /// Each message of the server on a line of its own.
    Json,
    /// Only errors.
    Quiet,
}

/// Widest bar of a probability, characters.
const BAR_CHARS: f64 = 20.0;

/// Prints what comes.
pub(super) struct Report<W> {
    style: Style,
    out: W,
    /// Standard output is closed.
    gone: bool,
    bar: Option<ProgressBar>,
    second: Option<Second>,
    /// Detections (where, what) that came before the results of the same audio.
    events: Vec<(f64, String)>,
}

/// What was found in one second of the stream.
struct Second {
    index: u64,
    /// Where its last result ends, at most its own end, milliseconds.
    end_ms: f64,
    /// In order of appearance.
    outputs: Vec<Sum>,
}

/// An output's values of one second.
struct Sum {
    name: String,
    /// Whole numbers are no quantities here: of checksums and the like the last is shown, not the mean.
    whole: bool,
    sum: f64,
    count: u32,
    last: f64,
}

impl<W: Write> Report<W> {
    pub(super) fn new(style: Style, out: W, bar: Option<ProgressBar>) -> Self {
        Self { style, out, gone: false, bar, second: None, events: Vec::new() }
    }

    /// A message of the server, with its JSON text.
    pub(super) fn on_message(&mut self, message: &ServerMessage, text: &str) {
        match self.style {
            Style::Json => self.print(text),
            Style::Lines => self.describe(message),
            Style::Quiet => {}
        }
        match message {
            ServerMessage::AudioAdded(added) => self.progress(added.processed_ms + added.discarded_ms),
            ServerMessage::Results(results) => self.progress(results.start_ms + results.duration_ms),
            _ => {}
        }
    }

    /// A message of a type that this version does not know.
    pub(super) fn on_unknown(&mut self, text: &str) {
        if self.style == Style::Json {
            self.print(text);
        }
    }

    fn describe(&mut self, message: &ServerMessage) {
        match message {
            ServerMessage::Results(results) => self.on_results(results),
            ServerMessage::SpeechStarted(at) => self.events.push((at.at_ms, "speech starts".to_owned())),
            ServerMessage::SpeechEnded(at) => self.events.push((at.at_ms, "speech ends".to_owned())),
            ServerMessage::Discarded(lost) => {
                let text = format!("{:.0} ms discarded ({})", lost.duration_ms, lost.reason);
                self.line(lost.start_ms, &text);
            }
            ServerMessage::Warning(warning) => {
                self.aside(&format!("warning: {} ({})", warning.message, warning.code));
            }
            ServerMessage::Reconnect(reconnect) => {
                self.aside(&format!(
                    "the server asks to reconnect within {} ms ({})",
                    reconnect.within_ms, reconnect.reason
                ));
            }
            ServerMessage::Termination(_) => {
                self.end_second();
                self.show_events(f64::INFINITY);
            }
            _ => {}
        }
    }

    /// Sums up each second of the stream, however its results are cut. Lines stand in the order of the stream.
    fn on_results(&mut self, results: &Results) {
        for found in &results.detections {
            self.events.push((found.at_ms, format!("heard {} ({:.2})", found.label, found.score)));
        }
        let rows = results.outputs.iter().map(row_count).max().unwrap_or(0);
        let at_ms = |row: usize| results.start_ms + results.duration_ms * row as f64 / rows as f64;
        for row in 0..rows {
            let index = (at_ms(row) / 1_000.0) as u64;
            if self.second.as_ref().is_some_and(|second| second.index != index) {
                self.end_second();
            }
            let second = self.second.get_or_insert_with(|| Second::new(index));
            second.end_ms = at_ms(row + 1).min((index + 1) as f64 * 1_000.0);
            for tensor in results.outputs.iter().filter(|tensor| row < row_count(tensor)) {
                second.add(tensor, row_value(tensor, row));
            }
        }
        self.show_events(f64::INFINITY);
    }

    fn end_second(&mut self) {
        let second = self.second.take();
        self.show_events(second.as_ref().map_or(f64::INFINITY, |second| second.end_ms));
        if let Some(second) = second {
            self.line(second.end_ms, second.text().trim_end());
        }
    }

    /// Shows what was detected up to there.
    fn show_events(&mut self, until_ms: f64) {
        let later = self.events.iter().position(|&(at_ms, _)| at_ms > until_ms).unwrap_or(self.events.len());
        let due: Vec<_> = self.events.drain(..later).collect();
        for (at_ms, what) in due {
            self.line(at_ms, &what);
        }
    }

    fn line(&mut self, at_ms: f64, text: &str) {
        self.print(&format!("{:>8.2} s  {text}", at_ms / 1_000.0));
    }

    /// The last line.
    pub(super) fn summary(&mut self, text: &str) {
        match self.style {
            Style::Lines => self.print(text),
            Style::Json => self.aside(text),
            Style::Quiet => {}
        }
    }

    /// Clears the progress bar.
    pub(super) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn progress(&self, done_ms: f64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done_ms as u64);
            let of = bar.length().map(|length| format!(" / {:.1}", length as f64 / 1_000.0));
            bar.set_message(format!("{:.1}{} s", done_ms / 1_000.0, of.unwrap_or_default()));
        }
    }

    /// A line on standard output, around the bar.
    fn print(&mut self, text: &str) {
        if self.gone {
            return;
        }
        let out = &mut self.out;
        let mut write = || writeln!(out, "{text}").and_then(|()| out.flush());
        let written = match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        };
        self.gone = written.is_err();
    }

    /// A line on standard error, around the bar.
    fn aside(&self, text: &str) {
        let write = || {
            // There is nobody left to tell.
            let _ = writeln!(io::stderr(), "{text}");
        };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

impl Second {
    fn new(index: u64) -> Self {
        Self { index, end_ms: 0.0, outputs: Vec::new() }
    }

    fn add(&mut self, tensor: &Tensor, value: f64) {
        match self.outputs.iter_mut().find(|output| output.name == tensor.name) {
            Some(output) => {
                output.sum += value;
                output.count += 1;
                output.last = value;
            }
            None => self.outputs.push(Sum {
                name: tensor.name.to_string(),
                whole: !matches!(tensor.data, TensorData::Fp32(_) | TensorData::Fp64(_)),
                sum: value,
                count: 1,
                last: value,
            }),
        }
    }

    fn text(&self) -> String {
        let text = |output: &Sum| {
            let mean = output.sum / f64::from(output.count);
            match output.name.as_str() {
                "speech_probability" => {
                    let length = (mean.clamp(0.0, 1.0) * BAR_CHARS).round() as usize;
                    format!("speech {mean:.2} {}", "█".repeat(length))
                }
                name if output.whole => format!("{name} {:.0}", output.last),
                name => format!("{name} {mean:.4}"),
            }
        };
        self.outputs.iter().map(text).collect::<Vec<_>>().join("  ")
    }
}

/// Rows of a tensor: one for each window.
fn row_count(tensor: &Tensor) -> usize {
    tensor.shape.first().copied().unwrap_or(0)
}

/// The mean of a row. The shape fits the data: that is checked where it is parsed.
fn row_value(tensor: &Tensor, row: usize) -> f64 {
    let width: usize = tensor.shape[1..].iter().product();
    let sum: f64 = tensor.data.numbers().skip(row * width).take(width).sum();
    sum / width.max(1) as f64
}

/// A progress bar on standard error if that is a terminal; a spinner where the length is not known.
pub(super) fn progress_bar(length_ms: Option<u64>) -> Option<ProgressBar> {
    if !io::stderr().is_terminal() {
        return None;
    }
    let template = if length_ms.is_some() { "  {bar:30} {msg}" } else { "  {spinner} {msg}" };
    let style = ProgressStyle::with_template(template).ok()?;
    let bar = ProgressBar::with_draw_target(length_ms, ProgressDrawTarget::stderr());
    bar.set_style(style);
    Some(bar)
}

/// Where the audio went, in one line.
pub(super) fn balance(end: &Termination) -> String {
    let seconds = |ms: f64| ms / 1_000.0;
    format!(
        "{}: received {:.2} s = processed {:.2} s + discarded {:.2} s; {} results",
        end.reason,
        seconds(end.audio_received_ms),
        seconds(end.processed_ms),
        seconds(end.discarded_ms),
        end.results,
    )
}

/// The level of samples of this energy, decibels below full scale.
pub(super) fn level(energy: f64, count: u64) -> String {
    match energy / count.max(1) as f64 {
        power if power > 0.0 => format!("{:.1} dBFS", 10.0 * power.log10()),
        _ => "silence".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::{DiscardReason, Discarded, SpeechBoundary};

    fn results(start_ms: f64, duration_ms: f64, values: &[f32]) -> ServerMessage {
        let shape = vec![values.len(), 1];
        let tensor =
            Tensor { name: "speech_probability".into(), shape, data: TensorData::Fp32(values.to_vec()) };
        let outputs = vec![tensor];
        ServerMessage::Results(Results {
            start_ms,
            duration_ms,
            is_final: true,
            outputs,
            ..Results::default()
        })
    }

    fn shown(style: Style, messages: &[ServerMessage]) -> String {
        let mut out = Vec::new();
        let mut report = Report::new(style, &mut out, None);
        for message in messages {
            report.on_message(message, "{the text}");
        }
        report.end_second();
        report.show_events(f64::INFINITY);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn each_second_is_summed_up_however_its_results_are_cut() {
        let wanted = "    1.00 s  speech 0.25 █████\n    2.00 s  speech 1.00 ████████████████████\n";
        let whole = [results(0.0, 2_000.0, &[0.0, 0.5, 1.0, 1.0])];
        let cut = [
            results(0.0, 500.0, &[0.0]),
            results(500.0, 1_000.0, &[0.5, 1.0]),
            results(1_500.0, 0.0, &[]),
            results(1_500.0, 500.0, &[1.0]),
        ];
        assert_eq!(shown(Style::Lines, &whole), wanted);
        assert_eq!(shown(Style::Lines, &cut), wanted);
    }

    #[test]
    fn events_are_lines_and_other_outputs_are_named() {
        let checksum =
            Tensor { name: "checksum".into(), shape: vec![2], data: TensorData::Uint32(vec![5, 70_000]) };
        let rms = Tensor { name: "rms".into(), shape: vec![2, 2], data: TensorData::Fp32(vec![0.25; 4]) };
        let outputs = vec![checksum, rms];
        let echo = Results { start_ms: 3_000.0, duration_ms: 40.0, outputs, ..Results::default() };
        let lost = Discarded { start_ms: 100.0, duration_ms: 20.0, reason: DiscardReason::Overflow };
        let text = shown(
            Style::Lines,
            &[
                ServerMessage::SpeechStarted(SpeechBoundary { message_seq: 1, at_ms: 1_284.0 }),
                ServerMessage::Discarded(lost),
                ServerMessage::Results(echo),
            ],
        );
        assert_eq!(
            text,
            "    0.10 s  20 ms discarded (overflow)\n    1.28 s  speech starts\n    3.04 s  checksum 70000  rms 0.2500\n"
        );
    }

    #[test]
    fn detections_stand_where_they_belong_among_the_seconds() {
        let at = |at_ms| SpeechBoundary { message_seq: 1, at_ms };
        let text = shown(
            Style::Lines,
            &[
                ServerMessage::SpeechStarted(at(1_800.0)),
                ServerMessage::SpeechEnded(at(2_100.0)),
                results(0.0, 2_500.0, &[1.0, 1.0, 1.0, 1.0, 1.0]),
                ServerMessage::SpeechStarted(at(2_400.0)),
            ],
        );
        let positions: Vec<_> = text.lines().map(|line| line[..8].trim()).collect();
        assert_eq!(positions, ["1.00", "1.80", "2.00", "2.10", "2.40", "2.50"], "{text}");
    }

    #[test]
    fn json_gives_the_texts_and_quiet_gives_nothing() {
        let message = [results(0.0, 10.0, &[0.5])];
        assert_eq!(shown(Style::Json, &message), "{the text}\n");
        assert_eq!(shown(Style::Quiet, &message), "");
    }

    #[test]
    fn nobody_reading_is_no_failure() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut report = Report::new(Style::Json, Closed, None);
        report.on_unknown("{}");
        assert!(report.gone);
        report.on_unknown("{}");
    }

    #[test]
    fn levels_are_decibels_below_full_scale() {
        assert_eq!(level(100.0, 100), "0.0 dBFS");
        assert_eq!(level(1.0, 100), "-20.0 dBFS");
        assert_eq!(level(0.0, 0), "silence");
    }
}
