//! Which settings are swept over which values, in which order, and which of those that were tried is the best.
//!
//! Owns the values and the order of the sweep. It never measures: whoever calls [`descend`] does.

use crate::config::{Config, Setting};
use std::time::Duration;

/// Counts of streams that differ by no more than this share are a tie.
pub(super) const NOISE: f64 = 0.05;
/// Times that the sweep goes round at most; the second time finds what only pays together.
const ROUNDS: usize = 2;

/// A setting and the values that it is swept over.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    pub(super) name: &'static str,
    /// In ascending order, as they stand on the command line.
    pub(super) values: Vec<String>,
    /// Which of them holds already.
    pub(super) base: usize,
}

/// Every combination of the swept values.
#[derive(Clone, Debug)]
pub(super) struct Space {
    pub(super) axes: Vec<Axis>,
    base: Config,
    /// The names of the two settings that make runs of chunks on this path.
    gathers: [&'static str; 2],
    chunk: Duration,
}

/// A combination: for each axis the number of the value.
pub(super) type Point = Vec<usize>;

/// What decides which values are worth a try.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope {
    /// Chunks go to `/audio`, which has settings of its own.
    pub(super) to_audio: bool,
    /// Cores of the host, at least 1.
    pub(super) cores: usize,
    /// The latency that must be kept.
    pub(super) p99_max: Duration,
    /// Audio in a chunk.
    pub(super) chunk: Duration,
    /// Few values only.
    pub(super) quick: bool,
}

impl Space {
    /// The sweep around a configuration.
    pub(super) fn new(base: &Config, scope: Scope) -> Space {
        let Scope { to_audio, cores, p99_max, chunk, quick } = scope;
        let gathers = match to_audio {
            true => ["batch_size", "flush_timeout"],
            false => ["stream_batch_size", "stream_flush_timeout"],
        };
        let ms = |ms: u128| format!("{}ms", ms.max(1));
        let target_ms = p99_max.as_millis();
        let numbers = |few: &[usize], many: &[usize]| {
            (if quick { few } else { many }).iter().map(usize::to_string).collect::<Vec<_>>()
        };
        let delays: &[u128] = if quick { &[5] } else { &[2, 5, 10] };
        let delays = delays.iter().filter(|&&delay| 2 * delay <= target_ms).map(|&delay| ms(delay));
        let one: &[usize] = if to_audio { &[1] } else { &[] };
        let axes = vec![
            axis(base, gathers[0], numbers(one, &[1, 2, 4])),
            axis(base, gathers[1], if quick { vec![] } else { vec![ms(target_ms / 4), ms(target_ms / 2)] }),
            workers(base, cores),
            axis(base, "batch_max", numbers(&[1], &[1, 8, 16, 32, 64])),
            axis(base, "queue_delay_max", delays.collect()),
        ];
        Space { axes, base: base.clone(), gathers, chunk }
    }

    /// Where the sweep begins.
    pub(super) fn base(&self) -> Point {
        self.axes.iter().map(|axis| axis.base).collect()
    }

    /// The whole configuration of a point.
    pub(super) fn config(&self, point: &Point) -> Config {
        let mut config = self.base.clone();
        for (axis, value) in self.changes(point) {
            // The values of an axis were read once already.
            let _ = axis.setting().map(|setting| (setting.set)(&mut config, value));
        }
        config
    }

    /// What differs from where the sweep began.
    fn changes<'s>(&'s self, point: &'s Point) -> impl Iterator<Item = (&'s Axis, &'s str)> {
        let pairs = self.axes.iter().zip(point).filter(|(axis, value)| axis.base != **value);
        pairs.map(|(axis, &value)| (axis, axis.values[value].as_str()))
    }

    /// The same as flags of `suzu serve`.
    pub(super) fn flags(&self, point: &Point) -> Vec<String> {
        let flag = |(axis, value): (&Axis, &str)| {
            let flag = axis.setting().map_or_else(String::new, Setting::flag);
            [format!("--{flag}"), value.to_owned()]
        };
        self.changes(point).flat_map(flag).collect()
    }

    /// The same for people.
    pub(super) fn label(&self, point: &Point) -> String {
        let changes: Vec<_> =
            self.changes(point).map(|(axis, value)| format!("{} {value}", axis.name)).collect();
        if changes.is_empty() { "as it is".to_owned() } else { changes.join(", ") }
    }

    /// How far from where the sweep began: settings changed, and steps along their values.
    fn distance(&self, point: &Point) -> (usize, usize) {
        let steps = self.axes.iter().zip(point).map(|(axis, &value)| axis.base.abs_diff(value));
        (self.changes(point).count(), steps.sum())
    }

    /// Whether another value of the axis could change anything at this point: a run that is full with its first
    /// chunk waits for no time-out.
    fn matters(&self, axis: &Axis, point: &Point) -> bool {
        axis.name != self.gathers[1] || self.gathered(&self.config(point)).0 > 1
    }

    /// Chunks of a run, and how long it waits for them at most.
    fn gathered(&self, config: &Config) -> (usize, Duration) {
        match self.gathers[0] {
            "batch_size" => (config.batch_size, config.flush_timeout),
            _ => (config.stream_batch_size, config.stream_flush_timeout),
        }
    }

    /// How long the first chunk of a run waits for the others at real time, whatever the host.
    pub(super) fn wait(&self, point: &Point) -> Duration {
        let (chunks, timeout) = self.gathered(&self.config(point));
        self.chunk.saturating_mul(chunks.saturating_sub(1) as u32).min(timeout)
    }

    /// The axes that were left alone at this point, since they change nothing there.
    pub(super) fn idle_axes(&self, point: &Point) -> Vec<&'static str> {
        let idle = |axis: &&Axis| axis.values.len() > 1 && !self.matters(axis, point);
        self.axes.iter().filter(idle).map(|axis| axis.name).collect()
    }
}

impl Axis {
    fn setting(&self) -> Option<&'static Setting> {
        Setting::named(self.name)
    }
}

/// The values beside the one that holds, in order and each once, as the table of settings writes them.
fn axis(base: &Config, name: &'static str, values: Vec<String>) -> Axis {
    let Some(setting) = Setting::named(name) else { return Axis { name, values: Vec::new(), base: 0 } };
    let held = (setting.get)(base);
    let written = |text: &String| {
        let mut config = base.clone();
        (setting.set)(&mut config, text).ok().map(|()| (setting.get)(&config))
    };
    let mut values: Vec<_> = values.iter().filter_map(written).chain([held.clone()]).collect();
    let size = |text: &String| match text.parse::<u64>() {
        Ok(number) => u128::from(number),
        Err(_) => humantime::parse_duration(text).map_or(0, |time| time.as_nanos()),
    };
    values.sort_by_key(size);
    values.dedup();
    let base = values.iter().position(|value| *value == held).unwrap_or(0);
    Axis { name, values, base }
}

/// Threads for models: 0 stands for one less than the cores, so it is in that number's place.
fn workers(base: &Config, cores: usize) -> Axis {
    let meant = if base.workers == 0 { cores.saturating_sub(1).max(1) } else { base.workers };
    let mut counts = vec![1, cores / 2, cores.saturating_sub(1), cores, meant];
    counts.retain(|&count| count > 0);
    counts.sort_unstable();
    counts.dedup();
    let place = counts.iter().position(|&count| count == meant).unwrap_or(0);
    let mut values: Vec<_> = counts.iter().map(usize::to_string).collect();
    values[place] = base.workers.to_string();
    Axis { name: "workers", values, base: place }
}

/// A point that was tried.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tried {
    pub(super) point: Point,
    /// Streams that it holds; 0: it does not meet the target.
    pub(super) streams: usize,
}

/// Sweeps one axis after the other with the others at their best, and again if that changed anything. `measure` is
/// given a point and a first guess; `None` from it ends the sweep.
pub(super) fn descend<E>(
    space: &Space,
    mut measure: impl FnMut(&Point, Option<usize>) -> Result<Option<usize>, E>,
) -> Result<Vec<Tried>, E> {
    let mut tried: Vec<Tried> = Vec::new();
    let mut best = space.base();
    let Some(streams) = measure(&best, None)? else { return Ok(tried) };
    tried.push(Tried { point: best.clone(), streams });
    for _ in 0..ROUNDS {
        let before = best.clone();
        for (number, axis) in space.axes.iter().enumerate() {
            if !space.matters(axis, &best) {
                continue;
            }
            let here = best.clone();
            for value in 0..axis.values.len() {
                let mut point = here.clone();
                point[number] = value;
                if tried.iter().any(|tried| tried.point == point) {
                    continue;
                }
                let guess = tried.iter().map(|tried| tried.streams).max().filter(|&streams| streams > 0);
                let Some(streams) = measure(&point, guess)? else { return Ok(tried) };
                tried.push(Tried { point, streams });
            }
            best = choose(space, &tried, &[]).map_or(here, |chosen| tried[chosen].point.clone());
        }
        if best == before {
            break;
        }
    }
    Ok(tried)
}

/// The number of the best that was tried: the most streams, and within noise the one nearest to where the sweep began.
/// `None` if nothing meets the target. Those in `excluded` do not count.
pub(super) fn choose(space: &Space, tried: &[Tried], excluded: &[usize]) -> Option<usize> {
    let eligible = || {
        let all = tried.iter().enumerate();
        all.filter(|(number, tried)| tried.streams > 0 && !excluded.contains(number))
    };
    let most = eligible().map(|(_, tried)| tried.streams).max()?;
    let ties = eligible().filter(|(_, tried)| tried.streams as f64 * (1.0 + NOISE) >= most as f64);
    let best = ties.min_by_key(|(_, tried)| (space.distance(&tried.point), std::cmp::Reverse(tried.streams)));
    best.map(|(number, _)| number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn scope() -> Scope {
        let (p99_max, chunk) = (Duration::from_millis(100), Duration::from_millis(100));
        Scope { to_audio: false, cores: 4, p99_max, chunk, quick: false }
    }

    fn values(space: &Space, name: &str) -> Vec<String> {
        let axis = space.axes.iter().find(|axis| axis.name == name);
        axis.map(|axis| axis.values.clone()).unwrap_or_default()
    }

    fn swept(space: &Space, streams: impl Fn(&Config) -> usize) -> (Vec<Tried>, Config) {
        let tried = descend(space, |point, _| Ok::<_, Infallible>(Some(streams(&space.config(point)))));
        let Ok(tried) = tried;
        let best = choose(space, &tried, &[]).map(|best| space.config(&tried[best].point));
        (tried, best.unwrap_or_default())
    }

    #[test]
    fn every_axis_holds_its_base_and_values_that_the_table_of_settings_takes() {
        for (to_audio, quick, cores) in
            [(false, false, 1), (true, false, 2), (true, true, 64), (false, true, 3)]
        {
            let base = Config { batch_max: 20, ..Config::default() };
            let space = Space::new(&base, Scope { to_audio, quick, cores, ..scope() });
            assert_eq!(space.config(&space.base()), base);
            for (number, axis) in space.axes.iter().enumerate() {
                assert!(axis.base < axis.values.len(), "{axis:?}");
                let setting = Setting::named(axis.name).expect("a setting of the table");
                for (place, value) in axis.values.iter().enumerate() {
                    let mut point = space.base();
                    point[number] = place;
                    assert_eq!((setting.get)(&space.config(&point)), *value);
                }
            }
        }
    }

    #[test]
    fn the_usual_number_of_workers_stands_for_itself_once() {
        let space = Space::new(&Config::default(), scope());
        assert_eq!(values(&space, "workers"), ["1", "2", "0", "4"]);
        assert_eq!(values(&space, "batch_max"), ["1", "8", "16", "32", "64"]);
        assert_eq!(values(&space, "queue_delay_max"), ["0ms", "2ms", "5ms", "10ms"]);
    }

    #[test]
    fn audio_has_settings_of_its_own() {
        let space = Space::new(&Config::default(), Scope { to_audio: true, ..scope() });
        assert_eq!(values(&space, "batch_size"), ["1", "2", "4", "10"]);
        assert_eq!(values(&space, "stream_batch_size"), [""; 0]);
        // Ten chunks of 100 ms: the first waits for nine others.
        assert_eq!(space.wait(&space.base()), Duration::from_millis(900));
    }

    #[test]
    fn a_time_out_that_nothing_waits_for_is_not_swept() {
        let space = Space::new(&Config::default(), scope());
        let (tried, _) = swept(&space, |_| 10);
        let untouched =
            |tried: &Tried| space.config(&tried.point).stream_flush_timeout == Duration::from_millis(200);
        assert!(tried.iter().all(untouched));
        assert_eq!(space.idle_axes(&space.base()), ["stream_flush_timeout"]);
        let two = Config { stream_batch_size: 2, ..Config::default() };
        let space = Space::new(&two, scope());
        let (tried, _) = swept(&space, |config| 100 * config.stream_batch_size.min(2));
        let times: Vec<_> =
            tried.iter().map(|tried| space.config(&tried.point).stream_flush_timeout.as_millis()).collect();
        assert!(times.contains(&25) && times.contains(&50), "{times:?}");
    }

    #[test]
    fn ties_within_noise_go_to_what_holds_already() {
        let space = Space::new(&Config::default(), scope());
        let (_, best) = swept(&space, |config| if config.batch_max == 64 { 104 } else { 100 });
        assert_eq!(best, Config::default());
        let (_, best) = swept(&space, |config| if config.batch_max == 64 { 106 } else { 100 });
        assert_eq!(best, Config { batch_max: 64, ..Config::default() });
        // Of two that are better alike, the nearer one.
        let (_, best) = swept(&space, |config| if config.batch_max < 32 { 200 } else { 100 });
        assert_eq!(best.batch_max, 16);
    }

    #[test]
    fn what_only_pays_together_is_found_the_second_time_round() {
        let space = Space::new(&Config::default(), scope());
        // Four workers pay only with small batches, which come later in the order.
        let streams = |config: &Config| match (config.workers, config.batch_max) {
            (4, 8) => 300,
            (_, 8) => 200,
            _ => 100,
        };
        let (tried, best) = swept(&space, streams);
        assert_eq!((best.workers, best.batch_max), (4, 8));
        let mut points: Vec<_> = tried.iter().map(|tried| &tried.point).collect();
        points.sort();
        points.dedup();
        assert_eq!(points.len(), tried.len(), "nothing is tried twice");
    }

    #[test]
    fn the_excluded_and_those_that_hold_nothing_are_not_chosen() {
        let space = Space::new(&Config::default(), scope());
        let (tried, _) =
            swept(&space, |config| if config.batch_max == 8 { 50 } else { config.batch_max.min(20) });
        let mut excluded = Vec::new();
        let mut chosen = Vec::new();
        while let Some(best) = choose(&space, &tried, &excluded) {
            assert!(!excluded.contains(&best));
            excluded.push(best);
            chosen.push(tried[best].streams);
        }
        assert_eq!(chosen[0], 50);
        assert_eq!(chosen.len(), tried.len(), "one after the other, until none is left");
        assert!(chosen.contains(&20) && chosen.contains(&1));
        let (tried, _) = swept(&space, |_| 0);
        assert_eq!(choose(&space, &tried, &[]), None);
    }

    proptest! {
        #[test]
        fn a_sweep_without_noise_ends_at_the_best_of_independent_settings(
            gains in proptest::collection::vec(1_usize..10, 8),
        ) {
            let space = Space::new(&Config::default(), Scope { quick: true, ..scope() });
            let streams = |config: &Config| {
                let workers = gains[config.workers % 4];
                let delay = gains[4 + config.queue_delay_max.as_millis().min(1) as usize];
                let batch = gains[6 + usize::from(config.batch_max == 1)];
                1_000 * workers * delay * batch
            };
            let (tried, best) = swept(&space, streams);
            prop_assert!(tried.len() <= ROUNDS * space.axes.iter().map(|axis| axis.values.len()).sum::<usize>());
            let most = tried.iter().map(|tried| tried.streams).max().unwrap_or(0);
            let mut all = vec![space.base()];
            for (number, axis) in space.axes.iter().enumerate() {
                let with = |point: &Point, value| {
                    let mut point = point.clone();
                    point[number] = value;
                    point
                };
                all = all.iter().flat_map(|point| (0..axis.values.len()).map(move |value| with(point, value))).collect();
            }
            let truth = all.iter().map(|point| streams(&space.config(point))).max().unwrap_or(0);
            prop_assert_eq!(most, truth);
            prop_assert_eq!(streams(&best), truth);
        }
    }
}
