//! How near the server is to its limits, and what it does about it: a ladder of rungs.
//!
//! Pressure is the greatest of what each resource has of its target: 1.0 is the target met. A rung is entered at once when the
//! pressure reaches it. It is left one at a time, each after [`CALM`] without pressure of that rung, [`HYSTERESIS`] below where it
//! was entered: so the server does not swing between two rungs, and is back to normal within a second after the load has gone.
//! Pure: it is told figures and the time, and says where the server stands. What follows from that is the server's
//! (`on_pressure.rs`).

use crate::time::Instant;
use std::time::Duration;

/// How far below its threshold the pressure must be for a rung to be left.
const HYSTERESIS: f64 = 0.05;
/// How long it must be so. Four rungs are left in 800 ms.
const CALM: Duration = Duration::from_millis(200);

/// What can run short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// How long the first in the queues has waited.
    QueueWait,
    /// Audio, unfinished messages and resident memory, whichever is nearest to its limit.
    Memory,
    /// How long the loop's turns take.
    LoopLag,
    /// What waits to be written.
    WriteBuffers,
}

impl Resource {
    /// Every resource, in the order of [`Load`].
    pub const ALL: [Resource; 4] =
        [Resource::QueueWait, Resource::Memory, Resource::LoopLag, Resource::WriteBuffers];

    /// Its word in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Resource::QueueWait => "queue_wait",
            Resource::Memory => "memory",
            Resource::LoopLag => "loop_lag",
            Resource::WriteBuffers => "write_buffers",
        }
    }
}

/// What each resource has of its target, in the order of [`Resource::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load(pub [f64; Resource::ALL.len()]);

impl Load {
    /// The pressure.
    pub fn greatest(&self) -> f64 {
        self.0.iter().copied().fold(0.0, f64::max)
    }

    /// What this one has of its target.
    pub fn of(&self, resource: Resource) -> f64 {
        self.0[resource as usize]
    }
}

/// What the server does about the pressure. Each rung does what those below it do, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// Nothing.
    #[default]
    Normal,
    /// No interim results.
    FinalOnly,
    /// Newcomers are refused.
    Refusing,
    /// Streams above their fair share get less credit.
    Cutting,
    /// Those furthest above their fair share are closed, one after the other, and no connections are taken in.
    Closing,
}

impl Rung {
    /// Every rung, from the ground.
    pub const ALL: [Rung; 5] = [Rung::Normal, Rung::FinalOnly, Rung::Refusing, Rung::Cutting, Rung::Closing];

    /// Its word in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Rung::Normal => "normal",
            Rung::FinalOnly => "final_only",
            Rung::Refusing => "refusing",
            Rung::Cutting => "cutting",
            Rung::Closing => "closing",
        }
    }

    /// The pressure at which it is entered.
    pub fn threshold(self) -> f64 {
        match self {
            Rung::Normal => 0.0,
            Rung::FinalOnly => 0.70,
            Rung::Refusing => 0.80,
            Rung::Cutting => 0.90,
            Rung::Closing => 0.95,
        }
    }

    /// The highest rung whose threshold, less `slack`, is reached.
    fn at(pressure: f64, slack: f64) -> Rung {
        let reached = |rung: &Rung| *rung == Rung::Normal || pressure >= rung.threshold() - slack;
        Rung::ALL.into_iter().rfind(reached).unwrap_or_default()
    }

    fn below(self) -> Rung {
        Rung::ALL[(self as usize).saturating_sub(1)]
    }
}

/// Where the server stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pressure {
    load: Load,
    rung: Rung,
    /// Since when the pressure has been too low for the rung.
    calm_since: Option<Instant>,
}

impl Pressure {
    /// The load at this moment.
    pub fn load(&self) -> Load {
        self.load
    }

    /// The rung.
    pub fn rung(&self) -> Rung {
        self.rung
    }

    /// Takes in the load; gives the new rung.
    pub fn update(&mut self, load: Load, now: Instant) -> Rung {
        self.load = load;
        let pressure = load.greatest();
        self.rung = self.rung.max(Rung::at(pressure, 0.0));
        if Rung::at(pressure, HYSTERESIS) >= self.rung {
            self.calm_since = None;
            return self.rung;
        }
        let since = *self.calm_since.get_or_insert(now);
        if now - since >= CALM {
            self.rung = self.rung.below();
            // The next rung down has its own time.
            self.calm_since = (Rung::at(pressure, HYSTERESIS) < self.rung).then_some(now);
        }
        self.rung
    }

    /// When a rung could be left, if the load stays as it is.
    pub fn due(&self) -> Option<Instant> {
        self.calm_since.map(|since| since + CALM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(ms))
    }

    fn load(pressure: f64) -> Load {
        Load([0.0, pressure, 0.1, pressure / 2.0])
    }

    #[test]
    fn each_rung_is_entered_at_once_where_it_says() {
        for (pressure, rung) in [
            (0.69, Rung::Normal),
            (0.70, Rung::FinalOnly),
            (0.80, Rung::Refusing),
            (0.90, Rung::Cutting),
            (0.95, Rung::Closing),
            (7.0, Rung::Closing),
        ] {
            assert_eq!(Pressure::default().update(load(pressure), at(0)), rung, "{pressure}");
        }
    }

    #[test]
    fn a_rung_is_left_only_well_below_and_after_a_while() {
        let mut pressure = Pressure::default();
        assert_eq!(pressure.update(load(0.80), at(0)), Rung::Refusing);
        for ms in 0..100 {
            assert_eq!(pressure.update(load(0.76), at(ms * 100)), Rung::Refusing, "not below by enough");
        }
        assert_eq!(pressure.due(), None);
        assert_eq!(pressure.update(load(0.74), at(20_000)), Rung::Refusing);
        assert_eq!(pressure.due(), Some(at(20_200)));
        assert_eq!(pressure.update(load(0.77), at(20_100)), Rung::Refusing, "it came back meanwhile");
        assert_eq!(pressure.update(load(0.74), at(20_200)), Rung::Refusing);
        assert_eq!(pressure.update(load(0.74), at(20_400)), Rung::FinalOnly);
        assert_eq!(pressure.due(), None, "0.74 is enough for this one");
    }

    #[test]
    fn one_second_after_the_load_has_gone_all_is_normal() {
        let mut pressure = Pressure::default();
        pressure.update(load(3.0), at(0));
        let mut now = at(10);
        pressure.update(load(0.0), now);
        while let Some(due) = pressure.due() {
            now = due;
            pressure.update(load(0.0), now);
        }
        assert_eq!(pressure.rung(), Rung::Normal);
        assert!(now - at(10) <= Duration::from_secs(1));
    }

    #[test]
    fn labels_and_places_agree() {
        for (place, resource) in Resource::ALL.into_iter().enumerate() {
            let mut load = Load::default();
            load.0[place] = 0.5;
            assert_eq!(load.of(resource), 0.5, "{}", resource.label());
        }
        assert!(
            Rung::ALL.windows(2).all(|pair| pair[0] < pair[1] && pair[0].threshold() < pair[1].threshold())
        );
    }

    proptest! {
        #[test]
        fn the_rung_is_never_lower_than_the_pressure_asks_nor_higher_than_it_was(
            steps in proptest::collection::vec((0.0f64..1.2, 0u64..500), 1..100)
        ) {
            let (mut pressure, mut now) = (Pressure::default(), 0);
            for (value, ms) in steps {
                now += ms;
                let before = pressure.rung();
                let rung = pressure.update(load(value), at(now));
                prop_assert!(rung >= Rung::at(value, 0.0));
                prop_assert!(rung <= before.max(Rung::at(value, 0.0)));
                prop_assert!(rung >= before.below(), "one rung at a time");
                prop_assert!(pressure.due().is_none() || rung > Rung::Normal);
            }
        }
    }
}
