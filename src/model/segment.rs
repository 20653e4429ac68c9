//! From a probability for each window to stretches of speech: hysteresis, shortest lengths, padding.
//!
//! Owns no audio and knows no model; positions are samples at the model's rate since the stream began.
//!
//! Invariant: events alternate (started, ended, started, ...) and their times never go backwards.

use super::{Event, EventKind};
use std::ops::Range;

/// How probabilities become speech.
pub(super) struct Rule {
    /// Speech begins at this probability or above.
    pub(super) on: f32,
    /// Speech goes on at this probability or above; below `on`.
    pub(super) off: f32,
    /// Windows that speech must last before it counts; shorter noises are ignored.
    pub(super) windows_on: u32,
    /// Windows that silence must last before it ends speech; shorter pauses are bridged.
    pub(super) windows_off: u32,
    /// Samples added before and after, at most the length of `windows_off`.
    pub(super) pad: u64,
}

/// Where a stream stands.
#[derive(Default)]
pub(super) struct Segmenter {
    phase: Phase,
    last_end: u64,
}

#[derive(Clone, Copy, Default)]
enum Phase {
    #[default]
    Silence,
    /// Maybe speech, not yet long enough.
    Rising { since: u64, windows: u32 },
    /// Speech, heard at last until this sample; followed by so many quiet windows.
    Speech { until: u64, quiet: u32 },
}

impl Segmenter {
    /// Takes the next probability, which is that of the samples in `heard`.
    pub(super) fn step(&mut self, rule: &Rule, probability: f32, heard: Range<u64>, events: &mut Vec<Event>) {
        let Range { start, end } = heard;
        self.phase = match self.phase {
            Phase::Silence if probability >= rule.on => self.rise(rule, start, end, 1, events),
            Phase::Rising { since, windows } if probability >= rule.off => {
                self.rise(rule, since, end, windows + 1, events)
            }
            Phase::Silence | Phase::Rising { .. } => Phase::Silence,
            Phase::Speech { .. } if probability >= rule.off => Phase::Speech { until: end, quiet: 0 },
            Phase::Speech { until, quiet } if quiet + 1 < rule.windows_off => {
                Phase::Speech { until, quiet: quiet + 1 }
            }
            Phase::Speech { until, .. } => self.end_speech(until + rule.pad, events),
        };
    }

    /// The stream ends at `end`: open speech is ended.
    pub(super) fn close(&mut self, rule: &Rule, end: u64, events: &mut Vec<Event>) {
        self.phase = match self.phase {
            Phase::Speech { until, .. } => self.end_speech((until + rule.pad).min(end), events),
            Phase::Silence | Phase::Rising { .. } => Phase::Silence,
        };
    }

    /// Whether speech is going on.
    pub(super) fn is_speech(&self) -> bool {
        matches!(self.phase, Phase::Speech { .. })
    }

    fn rise(&mut self, rule: &Rule, since: u64, end: u64, windows: u32, events: &mut Vec<Event>) -> Phase {
        if windows < rule.windows_on {
            return Phase::Rising { since, windows };
        }
        let at_sample = since.saturating_sub(rule.pad).max(self.last_end);
        events.push(Event { kind: EventKind::SpeechStarted, at_sample });
        Phase::Speech { until: end, quiet: 0 }
    }

    fn end_speech(&mut self, at_sample: u64, events: &mut Vec<Event>) -> Phase {
        events.push(Event { kind: EventKind::SpeechEnded, at_sample });
        self.last_end = at_sample;
        Phase::Silence
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULE: Rule = Rule { on: 0.6, off: 0.4, windows_on: 2, windows_off: 3, pad: 15 };

    /// Windows of ten samples.
    fn events(probabilities: &[f32]) -> Vec<(EventKind, u64)> {
        let (mut segmenter, mut events) = (Segmenter::default(), Vec::new());
        for (index, &probability) in probabilities.iter().enumerate() {
            let start = 10 * index as u64;
            segmenter.step(&RULE, probability, start..start + 10, &mut events);
        }
        segmenter.close(&RULE, 10 * probabilities.len() as u64, &mut events);
        events.into_iter().map(|event| (event.kind, event.at_sample)).collect()
    }

    use EventKind::{SpeechEnded, SpeechStarted};

    #[test]
    fn speech_is_padded_at_both_ends() {
        let heard = events(&[0.0, 0.0, 0.0, 0.7, 0.7, 0.7, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(heard, [(SpeechStarted, 15), (SpeechEnded, 75)]);
    }

    #[test]
    fn padding_stays_within_the_stream() {
        assert_eq!(events(&[0.7, 0.7, 0.7]), [(SpeechStarted, 0), (SpeechEnded, 30)]);
    }

    #[test]
    fn a_short_noise_is_ignored_and_a_short_pause_bridged() {
        assert_eq!(events(&[0.0, 0.9, 0.0, 0.0]), []);
        let heard = events(&[0.9, 0.9, 0.0, 0.0, 0.9, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(heard, [(SpeechStarted, 0), (SpeechEnded, 65)]);
    }

    #[test]
    fn between_the_thresholds_what_was_goes_on() {
        assert_eq!(events(&[0.5; 8]), []);
        assert_eq!(events(&[0.7, 0.5, 0.5, 0.5, 0.5]), [(SpeechStarted, 0), (SpeechEnded, 50)]);
    }

    #[test]
    fn speech_too_short_at_the_end_of_the_stream_is_no_speech() {
        assert_eq!(events(&[0.0, 0.0, 0.9]), []);
    }

    proptest! {
        #[test]
        fn events_alternate_within_the_stream_and_never_go_backwards(
            probabilities in proptest::collection::vec(0.0f32..1.0, 0..200)
        ) {
            let heard = events(&probabilities);
            prop_assert!(heard.len().is_multiple_of(2));
            for (index, event) in heard.iter().enumerate() {
                prop_assert_eq!(event.0, if index % 2 == 0 { SpeechStarted } else { SpeechEnded });
                prop_assert!(event.1 <= 10 * probabilities.len() as u64);
            }
            prop_assert!(heard.windows(2).all(|pair| pair[0].1 <= pair[1].1));
        }
    }
}
