//! The audio of one stream between its socket and its runs, and the ledger of every sample.
//!
//! Owns: samples that wait, where chunks ended and when they came, gaps in the stream's clock. Cuts runs of whole
//! *units* (the step that the stream's model and rate imply), so that results do not depend on how the audio was
//! cut into chunks. Never talks to anybody: the session tells clients what was discarded.
//!
//! Invariant: `received = processed + discarded + waiting + in flight`, in samples, after every call.

use crate::time::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// Where every sample of a stream went. Samples per channel, at the stream's rate, since its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Accepted from the client.
    pub received: u64,
    /// Inferred.
    pub processed: u64,
    /// Given up, and reported as such.
    pub discarded: u64,
}

impl Ledger {
    /// Neither processed nor discarded yet.
    pub fn pending(&self) -> u64 {
        self.received - self.processed - self.discarded
    }
}

/// A chunk's end in the stream and when it came.
#[derive(Clone, Copy, Debug)]
struct Mark {
    end: u64,
    at: Instant,
}

/// A jump of the stream's clock: `skipped` samples are missing before position `at`.
#[derive(Clone, Copy, Debug)]
struct Gap {
    at: u64,
    skipped: u64,
}

/// Audio cut off the front, to be inferred.
#[derive(Debug)]
pub struct Cut {
    /// Mono samples: whole units, or the rest of the stream.
    pub samples: Vec<f32>,
    /// When the newest of them came.
    pub newest: Instant,
    /// Samples missing from the stream's clock before them, all gaps added up.
    pub skipped: u64,
    /// Whether the stream ends with them.
    pub last: bool,
}

/// A stretch of audio that was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Where it began: samples on the stream's clock (gaps included).
    pub start: u64,
    /// How long it was, samples.
    pub len: u64,
}

/// Marks and gaps kept at most; beyond that neighbours are merged, which makes times coarser but loses nothing.
const MARKS_MAX: usize = 256;

/// The waiting audio of one stream.
pub struct StreamBuffer {
    unit: usize,
    samples: Vec<f32>,
    head: usize,
    marks: VecDeque<Mark>,
    gaps: VecDeque<Gap>,
    /// Chunks that came since the last run was cut.
    chunks: usize,
    last_chunk: Instant,
    /// Samples out with the run in flight, and where on the stream's clock they began.
    in_flight: u64,
    in_flight_start: u64,
    /// Samples that the client left out so far, before the position of the next run.
    left_out: u64,
    /// Samples that the model never hears: those left out and those discarded.
    skipped: u64,
    ledger: Ledger,
}

impl StreamBuffer {
    /// An empty buffer that cuts runs of multiples of `unit` samples.
    pub fn new(unit: usize, now: Instant) -> Self {
        assert!(unit > 0, "a unit has at least one sample");
        Self {
            unit,
            samples: Vec::new(),
            head: 0,
            marks: VecDeque::new(),
            gaps: VecDeque::new(),
            chunks: 0,
            last_chunk: now,
            in_flight: 0,
            in_flight_start: 0,
            left_out: 0,
            skipped: 0,
            ledger: Ledger::default(),
        }
    }

    /// Appends what `decode` writes as one chunk; returns how many samples that were.
    pub fn push(&mut self, now: Instant, decode: impl FnOnce(&mut Vec<f32>)) -> usize {
        let before = self.samples.len();
        decode(&mut self.samples);
        let count = self.samples.len() - before;
        self.ledger.received += count as u64;
        self.chunks += 1;
        self.last_chunk = now;
        let end = self.ledger.received;
        let full = self.marks.len() >= MARKS_MAX;
        match self.marks.back_mut() {
            Some(mark) if mark.at == now || full => *mark = Mark { end, at: now },
            _ => self.marks.push_back(Mark { end, at: now }),
        }
        count
    }

    /// The client left out `skipped` samples here: the clock advances, the ledger does not.
    pub fn skip(&mut self, skipped: u64) {
        let at = self.ledger.received;
        let full = self.gaps.len() >= MARKS_MAX;
        match self.gaps.back_mut() {
            Some(gap) if gap.at == at || full => gap.skipped += skipped,
            _ => self.gaps.push_back(Gap { at, skipped }),
        }
    }

    /// Samples that wait here.
    pub fn waiting(&self) -> usize {
        self.samples.len() - self.head
    }

    /// Samples that are held anywhere: here and in the run in flight.
    pub fn held(&self) -> u64 {
        self.waiting() as u64 + self.in_flight
    }

    /// Samples out with the run in flight.
    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Heap bytes that the waiting samples occupy.
    pub fn bytes(&self) -> usize {
        self.samples.capacity() * size_of::<f32>()
    }

    /// The ledger as it stands.
    pub fn ledger(&self) -> Ledger {
        self.ledger
    }

    /// Whether at least one whole unit waits.
    pub fn has_unit(&self) -> bool {
        self.waiting() >= self.unit
    }

    /// Chunks since the last cut.
    pub fn chunks(&self) -> usize {
        self.chunks
    }

    /// When the last chunk came.
    pub fn last_chunk(&self) -> Instant {
        self.last_chunk
    }

    /// Position of the next sample to be cut, counted in received samples.
    pub fn position(&self) -> u64 {
        self.ledger.received - self.waiting() as u64
    }

    /// The same on the stream's clock, to which what the client left out belongs.
    pub fn clock(&self) -> u64 {
        let position = self.position();
        let passed = self.gaps.iter().take_while(|gap| gap.at <= position);
        position + self.left_out + passed.map(|gap| gap.skipped).sum::<u64>()
    }

    /// Whether everything that came before `position` and fills a unit has left the buffer.
    pub fn is_past(&self, position: u64) -> bool {
        self.position() + self.unit as u64 > position
    }

    /// Cuts at most `samples_max` samples (at least one unit) off the front: whole units, or with `finish` the rest
    /// too. None if there is nothing to cut. The cut is in flight until [`Self::complete`] or [`Self::lose`].
    pub fn cut(&mut self, samples_max: usize, finish: bool) -> Option<Cut> {
        assert!(self.in_flight == 0, "at most one run of a stream is in flight");
        self.apply_gaps();
        let max = (samples_max / self.unit).max(1) * self.unit;
        let last = finish && self.waiting() <= max && self.waiting() <= self.units_until_gap();
        let count = if last { self.waiting() } else { self.whole_units(max) };
        if count == 0 && !last {
            return None;
        }
        self.chunks = 0;
        self.in_flight_start = self.clock();
        let newest = self.newest_of(self.position() + count as u64);
        let samples = self.take(count);
        self.in_flight = count as u64;
        self.ledger_holds();
        Some(Cut { samples, newest, skipped: self.skipped, last })
    }

    /// Whole units up to `max` samples, not beyond the unit that holds the next gap.
    fn whole_units(&self, max: usize) -> usize {
        (self.waiting().min(max) / self.unit * self.unit).min(self.units_until_gap())
    }

    /// Samples up to the end of the unit in which the next gap lies.
    fn units_until_gap(&self) -> usize {
        let until = |gap: &Gap| (gap.at - self.position()) as usize;
        self.gaps.front().map_or(usize::MAX, |gap| until(gap).div_ceil(self.unit) * self.unit)
    }

    /// The run is home: its samples are processed.
    pub fn complete(&mut self) {
        self.ledger.processed += self.in_flight;
        self.in_flight = 0;
        self.ledger_holds();
    }

    /// The run failed or is lost: its samples are discarded.
    pub fn lose(&mut self) -> Stretch {
        let len = std::mem::take(&mut self.in_flight);
        self.ledger.discarded += len;
        self.ledger_holds();
        Stretch { start: self.in_flight_start, len }
    }

    /// Discards whole units off the front until at most `held_max` samples are held, or as much as waits.
    pub fn discard_oldest(&mut self, held_max: u64) -> Option<Stretch> {
        let excess = self.held().saturating_sub(held_max) as usize;
        let count = (excess.div_ceil(self.unit) * self.unit).min(self.waiting() / self.unit * self.unit);
        self.discard(count)
    }

    /// Discards whole units of chunks that came before `limit`.
    pub fn discard_before(&mut self, limit: Instant) -> Option<Stretch> {
        let position = self.position();
        let stale = self.marks.iter().take_while(|mark| mark.at < limit).last()?.end.saturating_sub(position);
        self.discard(stale as usize / self.unit * self.unit)
    }

    /// Discards all that waits.
    pub fn discard_all(&mut self) -> Option<Stretch> {
        let stretch = self.discard(self.waiting());
        self.samples = Vec::new();
        self.head = 0;
        stretch
    }

    fn discard(&mut self, count: usize) -> Option<Stretch> {
        if count == 0 {
            return None;
        }
        let start = self.clock();
        drop(self.take(count));
        self.ledger.discarded += count as u64;
        // The model never hears these samples, so its own clock must be told that they passed.
        self.skipped += count as u64;
        self.apply_gaps();
        self.ledger_holds();
        Some(Stretch { start, len: count as u64 })
    }

    fn apply_gaps(&mut self) {
        let position = self.position();
        while let Some(gap) = self.gaps.front().filter(|gap| gap.at <= position) {
            self.left_out += gap.skipped;
            self.skipped += gap.skipped;
            self.gaps.pop_front();
        }
    }

    fn newest_of(&mut self, end: u64) -> Instant {
        let newest = self.marks.iter().find(|mark| mark.end >= end).map_or(self.last_chunk, |mark| mark.at);
        while self.marks.front().is_some_and(|mark| mark.end <= end) {
            self.marks.pop_front();
        }
        newest
    }

    /// Takes `count` samples off the front; without a copy if that is all there is.
    fn take(&mut self, count: usize) -> Vec<f32> {
        if self.head == 0 && count == self.samples.len() {
            return std::mem::take(&mut self.samples);
        }
        let taken = self.samples[self.head..self.head + count].to_vec();
        self.head += count;
        if self.head == self.samples.len() {
            self.samples = Vec::new();
            self.head = 0;
        } else if self.head * 2 > self.samples.len() {
            self.samples.drain(..self.head);
            self.samples.shrink_to(self.samples.len() * 2);
            self.head = 0;
        }
        taken
    }

    fn ledger_holds(&self) {
        assert_eq!(self.ledger.pending(), self.held(), "every sample is processed, discarded or pending");
    }

    /// Asserts the invariant of this module.
    pub fn check_invariants(&self) {
        self.ledger_holds();
        assert!(self.marks.len() <= MARKS_MAX && self.gaps.len() <= MARKS_MAX);
    }
}

/// The instant before which audio is too old, if audio may wait `deadline` and that much time has passed.
pub fn stale_before(now: Instant, deadline: Duration) -> Option<Instant> {
    let age = now.since(Instant::default());
    (age > deadline).then(|| Instant::from_origin(age - deadline))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(ms))
    }

    fn push(buffer: &mut StreamBuffer, now: u64, count: usize) {
        buffer.push(at(now), |out| out.extend(std::iter::repeat_n(0.0, count)));
    }

    #[test]
    fn a_run_has_whole_units_and_the_rest_stays_pending() {
        let mut buffer = StreamBuffer::new(10, at(0));
        push(&mut buffer, 0, 25);
        let cut = buffer.cut(100, false).unwrap();
        assert_eq!((cut.samples.len(), cut.last), (20, false));
        assert_eq!((buffer.waiting(), buffer.in_flight()), (5, 20));
        buffer.complete();
        assert!(buffer.cut(100, false).is_none());
        assert_eq!(buffer.cut(100, true).unwrap().samples.len(), 5);
    }

    #[test]
    fn an_empty_stream_still_has_a_last_run() {
        let mut buffer = StreamBuffer::new(10, at(0));
        let cut = buffer.cut(100, true).unwrap();
        assert!(cut.last && cut.samples.is_empty());
    }

    #[test]
    fn discarding_the_oldest_leaves_what_is_in_flight_alone() {
        let mut buffer = StreamBuffer::new(10, at(0));
        push(&mut buffer, 0, 20);
        buffer.cut(100, false).unwrap();
        push(&mut buffer, 1, 35);
        let gone = buffer.discard_oldest(30).unwrap();
        assert_eq!(gone, Stretch { start: 20, len: 30 });
        assert_eq!((buffer.held(), buffer.skipped), (25, 30));
        assert_eq!(buffer.lose(), Stretch { start: 0, len: 20 });
    }

    #[test]
    fn discarded_audio_keeps_its_place_on_the_clock() {
        let mut buffer = StreamBuffer::new(10, at(0));
        push(&mut buffer, 0, 30);
        assert_eq!(buffer.discard_oldest(20), Some(Stretch { start: 0, len: 10 }));
        assert_eq!(buffer.discard_oldest(10), Some(Stretch { start: 10, len: 10 }));
        buffer.skip(500);
        push(&mut buffer, 0, 10);
        buffer.cut(10, false).unwrap();
        assert_eq!(buffer.lose(), Stretch { start: 20, len: 10 });
        assert_eq!(buffer.clock(), 530);
        assert_eq!(buffer.discard_all(), Some(Stretch { start: 530, len: 10 }));
    }

    #[test]
    fn a_gap_moves_the_clock_but_not_the_ledger() {
        let mut buffer = StreamBuffer::new(10, at(0));
        push(&mut buffer, 0, 20);
        buffer.skip(1000);
        push(&mut buffer, 0, 20);
        let before = buffer.cut(100, false).unwrap();
        assert_eq!((before.samples.len(), before.skipped), (20, 0));
        buffer.complete();
        let after = buffer.cut(100, false).unwrap();
        assert_eq!((after.samples.len(), after.skipped), (20, 1000));
        assert_eq!(buffer.ledger().received, 40);
    }

    #[test]
    fn audio_past_its_deadline_goes_first() {
        let mut buffer = StreamBuffer::new(10, at(0));
        push(&mut buffer, 0, 30);
        push(&mut buffer, 50, 30);
        assert_eq!(buffer.discard_before(at(0)), None);
        assert_eq!(buffer.discard_before(at(20)), Some(Stretch { start: 0, len: 30 }));
        assert_eq!(buffer.waiting(), 30);
    }

    proptest! {
        #[test]
        fn every_sample_is_accounted_for(steps in proptest::collection::vec((0..6u8, 0..200usize), 1..80)) {
            let mut buffer = StreamBuffer::new(7, at(0));
            let mut flying = false;
            for (time, (kind, n)) in steps.into_iter().enumerate() {
                match kind {
                    0 | 1 => push(&mut buffer, time as u64, n),
                    2 if !flying => flying = buffer.cut(n, n % 5 == 0).is_some(),
                    3 if flying => { buffer.complete(); flying = false; }
                    4 if flying => { buffer.lose(); flying = false; }
                    5 => { buffer.skip(n as u64); buffer.discard_oldest(n as u64); }
                    _ => { buffer.discard_before(at(time as u64 / 2)); }
                }
                buffer.check_invariants();
            }
            buffer.discard_all();
            if flying { buffer.complete(); }
            prop_assert_eq!(buffer.ledger().pending(), 0);
        }
    }
}
