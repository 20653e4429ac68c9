//! From a probability for each window to stretches of speech, by the rule of Suzu's `vad`: hysteresis, shortest
//! lengths, padding. Written anew, so that what both say can be compared.

/// Speech begins at this probability and goes on at the lower one.
const ON: f32 = 0.7;
const OFF: f32 = 0.65;
/// Windows that speech, and the silence that ends it, must last.
const WINDOWS_ON: u32 = 3;
const WINDOWS_OFF: u32 = 12;
/// Samples added before and after.
const PAD: u64 = 512;

/// Speech began, or ended, at this sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundary {
    Started(u64),
    Ended(u64),
}

/// Where a stream stands.
#[derive(Default)]
pub struct Speech {
    going_on: bool,
    /// Loud windows in a row while there is silence, quiet ones while there is speech.
    windows: u32,
    /// Where the loud windows began, or where speech was last heard.
    mark: u64,
    last_end: u64,
}

impl Speech {
    /// Takes the probability of the samples from `start` to `end`.
    pub fn step(&mut self, probability: f32, start: u64, end: u64) -> Option<Boundary> {
        if self.going_on {
            return self.step_in_speech(probability, end);
        }
        let threshold = if self.windows == 0 { ON } else { OFF };
        if probability < threshold {
            self.windows = 0;
            return None;
        }
        if self.windows == 0 {
            self.mark = start;
        }
        self.windows += 1;
        if self.windows < WINDOWS_ON {
            return None;
        }
        let began = self.mark.saturating_sub(PAD).max(self.last_end);
        (self.going_on, self.windows, self.mark) = (true, 0, end);
        Some(Boundary::Started(began))
    }

    fn step_in_speech(&mut self, probability: f32, end: u64) -> Option<Boundary> {
        if probability >= OFF {
            (self.windows, self.mark) = (0, end);
            return None;
        }
        self.windows += 1;
        (self.windows == WINDOWS_OFF).then(|| self.end(self.mark + PAD))
    }

    /// The stream ends at `end`.
    pub fn close(&mut self, end: u64) -> Option<Boundary> {
        self.going_on.then(|| self.end((self.mark + PAD).min(end)))
    }

    pub fn is_going_on(&self) -> bool {
        self.going_on
    }

    fn end(&mut self, at: u64) -> Boundary {
        *self = Speech { last_end: at, ..Speech::default() };
        Boundary::Ended(at)
    }
}
