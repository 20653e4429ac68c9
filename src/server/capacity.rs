//! How much of the host the streams take, as measured, and whether it has room for one more.
//!
//! Pure: it is told figures once a second and what each newcomer is expected to cost, and says whether to take it in. Admission
//! goes by this before anybody has to wait; the rungs of `pressure.rs` are for what it did not foresee.
//!
//! A part of 1.0 is all that the scarcest of three can give: the cores, the workers, the one thread of the loop. What streams took
//! is the mean of the last [`PERIODS`] periods. It has the newcomers of late for a part of the time only, and those who left still, so
//! both count for the rest by what they are expected to cost. So a crowd that comes at once is taken in as far as it fits and no
//! further, and when it leaves there is room at once.
//!
//! A recording that is sent as fast as the server reads takes all there is, and gives way to whoever comes: audio beyond real time
//! does not count ([`Period::real_time`]).

use std::collections::VecDeque;
use std::time::Duration;

/// Periods that the mean is taken over: one alone says as much of the moment as of the load.
const PERIODS: usize = 3;
/// A shorter one says nothing: the system counts CPU time in hundredths of a second, and before the first there is the start.
const PERIOD_MIN: Duration = Duration::from_millis(100);
/// Below that part of the host its costs say little of what more streams would cost: what is done once a turn, however many
/// streams there are, is most of them.
const TELLING: f64 = 0.2;
/// CPU time for each second that the workers use for streams, before it has been measured: receiving a chunk of 100 ms and sending its
/// result takes about as long as `vad` does. The range that is believed of measurements.
const OVERHEAD: f64 = 2.0;
const OVERHEAD_MIN: f64 = 1.0;
const OVERHEAD_MAX: f64 = 4.0;
/// What sums may be off by.
const ROUNDING: f64 = 1e-9;

/// What a second of audio of a model costs the workers, learnt from the batches that come home: CPU time, at the size of the batches
/// of late; larger batches may cost less a stream.
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamCost {
    cpu_s: f64,
    audio_s: f64,
}

/// Seconds of audio after which what was learnt before counts half.
const LEARNT_S: f64 = 60.0;

impl StreamCost {
    /// What a trial of the model said, seconds for each second of audio, or 0 without one. It counts for little once there are
    /// batches.
    pub fn expected(cost: f64) -> Self {
        Self { cpu_s: cost, audio_s: if cost > 0.0 { 1.0 } else { 0.0 } }
    }

    /// A batch with so much audio took so long.
    pub fn learn(&mut self, cpu_time: Duration, audio_s: f64) {
        self.cpu_s += cpu_time.as_secs_f64();
        self.audio_s += audio_s;
        if self.audio_s > LEARNT_S {
            self.cpu_s /= 2.0;
            self.audio_s /= 2.0;
        }
    }

    /// Seconds of a worker for a second of audio; 0 as long as nothing is known.
    pub fn cost(&self) -> f64 {
        if self.audio_s > 0.0 { self.cpu_s / self.audio_s } else { 0.0 }
    }
}

/// What was measured over some time, a second or so.
#[derive(Clone, Copy, Debug, Default)]
pub struct Period {
    /// How long it was.
    pub length: Duration,
    /// CPU time of the process.
    pub cpu_time: Duration,
    /// CPU time of the loop's thread, which is part of it.
    pub loop_cpu_time: Duration,
    /// CPU time that workers should have used for the audio of streams that was inferred, by its costs.
    pub streams_time: Duration,
    /// Which part of that streams at real time would have used: 0 to 1.
    pub real_time: f64,
}

/// Those who came in a period, less those who left.
#[derive(Clone, Copy, Debug, Default)]
struct Change {
    /// What they are expected to take.
    part: f64,
    /// The same times the seconds from the beginning of the period until then.
    moment: f64,
}

/// A period that is over.
#[derive(Clone, Copy, Debug)]
struct Measured {
    length_s: f64,
    /// What streams took, of the host.
    part: f64,
    change: Change,
}

/// What has been measured, and who has come since.
#[derive(Debug)]
pub struct Capacity {
    /// The part of the host that streams may take; zero: no limit.
    target: f64,
    cores: f64,
    workers: f64,
    /// CPU time for each second that workers use for streams.
    overhead: f64,
    /// The latest last.
    periods: VecDeque<Measured>,
    /// Of this period.
    change: Change,
    /// Time that workers have inferred in this period, all together.
    infer_time: Duration,
}

impl Capacity {
    /// Nothing has been measured. `percent` of the host may be taken by streams; 0: all who come are admitted.
    pub fn new(percent: u32, workers: usize) -> Self {
        Self {
            target: f64::from(percent) / 100.0,
            cores: 1.0,
            workers: workers.max(1) as f64,
            overhead: OVERHEAD,
            periods: VecDeque::with_capacity(PERIODS),
            change: Change::default(),
            infer_time: Duration::ZERO,
        }
    }

    /// A batch took a worker so long.
    pub fn worked(&mut self, infer_time: Duration) {
        self.infer_time += infer_time;
    }

    /// A period has ended, on that many cores.
    pub fn measure(&mut self, period: Period, cores: usize) {
        self.cores = cores.max(1) as f64;
        let length_s = period.length.as_secs_f64();
        if period.length < PERIOD_MIN {
            return;
        }
        let infer = std::mem::take(&mut self.infer_time).as_secs_f64();
        let (cpu, streams) = (period.cpu_time.as_secs_f64(), period.streams_time.as_secs_f64());
        let parts = [cpu / self.cores, period.loop_cpu_time.as_secs_f64(), infer / self.workers];
        let part = parts.into_iter().fold(0.0, f64::max) / length_s;
        if part >= TELLING && streams > 0.0 && cpu > 0.0 {
            let measured = (cpu / streams).clamp(OVERHEAD_MIN, OVERHEAD_MAX);
            self.overhead += (measured - self.overhead) / 2.0;
        }
        if self.periods.len() == PERIODS {
            self.periods.pop_front();
        }
        let (part, change) = (part * period.real_time.clamp(0.0, 1.0), std::mem::take(&mut self.change));
        self.periods.push_back(Measured { length_s, part, change });
    }

    /// The part of the host that the streams take: the mean of the periods, and of each who came or left what is not in it yet.
    pub fn taken(&self) -> f64 {
        let all_s: f64 = self.periods.iter().map(|period| period.length_s).sum();
        let (mut later_s, mut taken) = (0.0, self.change.part);
        for Measured { length_s, part, change } in self.periods.iter().rev() {
            let there = change.part * (length_s + later_s) - change.moment;
            taken += part * length_s / all_s + change.part - there / all_s;
            later_s += length_s;
        }
        taken.max(0.0)
    }

    /// The part of the host that a stream at real time takes if a second of its audio costs a worker `cost` seconds.
    pub fn part(&self, cost: f64) -> f64 {
        (cost * self.overhead / self.cores).max(cost / self.workers)
    }

    /// Whether a stream of that cost fits in besides those that are there.
    pub fn fits(&self, cost: f64) -> bool {
        self.target == 0.0 || self.taken() + self.part(cost) <= self.target + ROUNDING
    }

    /// A stream of that cost has been taken in, so long after the last period.
    pub fn admit(&mut self, cost: f64, since: Duration) {
        self.change(self.part(cost), since);
    }

    /// A stream of that cost has left, so long after the last period.
    pub fn leave(&mut self, cost: f64, since: Duration) {
        self.change(-self.part(cost), since);
    }

    fn change(&mut self, part: f64, since: Duration) {
        self.change.part += part;
        self.change.moment += part * since.as_secs_f64();
    }

    /// How many streams of that cost fit in besides those that are there; None if nothing is known, or there is no limit.
    pub fn remaining(&self, cost: f64) -> Option<usize> {
        let (part, room) = (self.part(cost), self.target + ROUNDING - self.taken());
        (self.target > 0.0 && part > 0.0).then(|| (room / part).max(0.0) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// A second in which the process took so much CPU time, half of it for the loop.
    fn busy(cpu_s: f64) -> Period {
        let (cpu_time, half) = (seconds(cpu_s), seconds(cpu_s / 2.0));
        Period { length: SECOND, cpu_time, loop_cpu_time: half, streams_time: half, real_time: 1.0 }
    }

    fn measure(capacity: &mut Capacity, period: Period, infer_s: f64, cores: usize) {
        capacity.worked(seconds(infer_s));
        capacity.measure(period, cores);
    }

    /// Takes in as many of `wanted` as fit.
    fn crowd(capacity: &mut Capacity, wanted: usize, cost: f64) -> usize {
        (0..wanted)
            .take_while(|_| capacity.fits(cost).then(|| capacity.admit(cost, SECOND / 2)).is_some())
            .count()
    }

    #[test]
    fn a_crowd_at_once_is_taken_in_as_far_as_it_fits() {
        let mut capacity = Capacity::new(80, 1);
        assert_eq!(capacity.remaining(0.001), Some(400), "half of it is not the workers'");
        assert_eq!(crowd(&mut capacity, 1000, 0.001), 400);
        assert_eq!(capacity.remaining(0.001), Some(0));
    }

    #[test]
    fn who_has_been_measured_counts_by_that() {
        let mut capacity = Capacity::new(80, 1);
        measure(&mut capacity, busy(0.0), 0.0, 1);
        crowd(&mut capacity, 1000, 0.001);
        // They take half of what was expected, and came in the middle of the first period.
        let mut rooms = Vec::new();
        for cpu_s in [0.2, 0.4, 0.4, 0.4] {
            measure(&mut capacity, busy(cpu_s), cpu_s / 2.0, 1);
            rooms.push(capacity.remaining(0.001).unwrap());
        }
        assert!(rooms.is_sorted() && (1..100).contains(&rooms[0]), "{rooms:?}");
        assert_eq!(rooms[3], 200);
        assert!((capacity.taken() - 0.4).abs() < 1e-9, "{}", capacity.taken());
    }

    #[test]
    fn when_a_crowd_leaves_there_is_room_at_once_and_no_more() {
        let mut capacity = Capacity::new(80, 1);
        crowd(&mut capacity, 400, 0.001);
        (0..=PERIODS).for_each(|_| measure(&mut capacity, busy(0.8), 0.4, 1));
        assert_eq!(capacity.remaining(0.001), Some(0));
        (0..400).for_each(|_| capacity.leave(0.001, SECOND / 2));
        assert_eq!(capacity.remaining(0.001), Some(400));
        // They were still there for half of it.
        for cpu_s in [0.4, 0.0, 0.0, 0.0] {
            measure(&mut capacity, busy(cpu_s), cpu_s / 2.0, 1);
            assert_eq!(capacity.remaining(0.001), Some(400));
        }
    }

    #[test]
    fn who_comes_and_goes_leaves_nothing_behind() {
        let mut capacity = Capacity::new(80, 1);
        for _ in 0..5 {
            crowd(&mut capacity, 100, 0.001);
            (0..100).for_each(|_| capacity.leave(0.001, SECOND / 2));
            assert!(capacity.taken() < 1e-9);
            measure(&mut capacity, busy(0.0), 0.0, 1);
        }
    }

    #[test]
    fn the_scarcest_of_cores_workers_and_loop_counts() {
        for (period, infer_s, cores, workers, part) in [
            (busy(1.2), 0.5, 2, 2, 0.6),
            (Period { loop_cpu_time: seconds(0.9), ..busy(1.2) }, 0.5, 8, 8, 0.9),
            (busy(0.8), 0.7, 2, 1, 0.7),
            (Period { length: 2 * SECOND, ..busy(1.2) }, 0.5, 2, 2, 0.3),
        ] {
            let mut capacity = Capacity::new(80, workers);
            measure(&mut capacity, period, infer_s, cores);
            assert!((capacity.taken() - part).abs() < 1e-9, "{} of {part}", capacity.taken());
        }
    }

    #[test]
    fn a_moment_says_nothing() {
        let mut capacity = Capacity::new(80, 1);
        measure(&mut capacity, Period { length: Duration::from_millis(3), ..busy(1.0) }, 0.5, 1);
        assert_eq!((capacity.taken(), capacity.remaining(0.001)), (0.0, Some(400)));
    }

    #[test]
    fn recordings_at_full_speed_leave_room_for_those_at_real_time() {
        let mut capacity = Capacity::new(80, 1);
        for _ in 0..PERIODS {
            measure(&mut capacity, Period { real_time: 0.01, ..busy(1.0) }, 0.5, 1);
        }
        assert!(capacity.taken() < 0.02 && capacity.fits(0.1));
    }

    #[test]
    fn zero_percent_is_no_limit_and_an_unknown_cost_is_none() {
        let mut capacity = Capacity::new(0, 1);
        measure(&mut capacity, busy(1.0), 0.5, 1);
        assert!(capacity.fits(1.0));
        assert_eq!(capacity.remaining(0.1), None);
        assert!(Capacity::new(80, 1).fits(0.0));
        assert_eq!(Capacity::new(80, 1).remaining(0.0), None);
    }

    #[test]
    fn what_a_trial_said_counts_for_little_once_there_are_batches() {
        let mut cost = StreamCost::default();
        assert_eq!(cost.cost(), 0.0);
        cost = StreamCost::expected(0.1);
        assert!((cost.cost() - 0.1).abs() < 1e-9);
        (0..59).for_each(|_| cost.learn(Duration::from_millis(10), 1.0));
        assert!((cost.cost() - (0.1 + 0.59) / 60.0).abs() < 1e-9);
        (0..1000).for_each(|_| cost.learn(Duration::from_millis(20), 1.0));
        assert!((cost.cost() - 0.02).abs() < 1e-6, "{}", cost.cost());
    }

    proptest! {
        /// Whatever the streams really cost, and however many come every second: the host is filled and not overfilled, and once
        /// all have gone others are taken in.
        #[test]
        fn the_target_is_neared_and_not_passed(
            infer_us in 20.0..5000.0f64,
            overhead in 1.0..2.0f64,
            wanted in 1usize..5000,
            cores in 1usize..8,
        ) {
            let cost = infer_us * 1e-6;
            let mut capacity = Capacity::new(80, cores);
            let mut streams = 0;
            let second = |capacity: &mut Capacity, streams: usize| {
                let infer = streams as f64 * cost;
                let cpu_time = seconds(infer * overhead);
                let loop_cpu_time = Duration::ZERO;
                let streams_time = seconds(infer);
                let period = Period { length: SECOND, cpu_time, loop_cpu_time, streams_time, real_time: 1.0 };
                measure(capacity, period, infer, cores);
            };
            let each = cost * overhead / cores as f64;
            for _ in 0..60 {
                streams += crowd(&mut capacity, wanted, cost);
                prop_assert!(streams as f64 * each <= 0.8 + 1e-6, "{streams} of {each}");
                second(&mut capacity, streams);
            }
            let filled = streams as f64 * each;
            prop_assert!(filled > 0.7 || streams == 60 * wanted, "{filled}");
            (0..streams).for_each(|_| capacity.leave(cost, Duration::ZERO));
            second(&mut capacity, 0);
            prop_assert!(capacity.remaining(cost).is_some_and(|room| room > 0) || capacity.part(cost) > 0.8);
        }
    }
}
