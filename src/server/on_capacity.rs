//! What the server measures of its capacity, and who is taken in by it: `capacity.rs` is the arithmetic.

use crate::id::ModelId;
use crate::reason::{Fault, Reason};
use crate::server::Server;
use crate::server::capacity::Period;
use crate::server::contract::ProcessFigures;
use std::time::Duration;

impl Server {
    /// Figures of the process. One long turn is an accident of the machine; one in each of two reports is load.
    pub(super) fn on_process(&mut self, figures: ProcessFigures) {
        self.loop_lag = figures.loop_turn_max.min(self.process.loop_turn_max);
        let length = self.now.instant - self.process_at;
        let (streams_time, real_time) = self.streams_time(length);
        let period = Period {
            length,
            cpu_time: figures.cpu_time.saturating_sub(self.process.cpu_time),
            loop_cpu_time: figures.loop_cpu_time.saturating_sub(self.process.loop_cpu_time),
            streams_time,
            real_time,
        };
        self.capacity.measure(period, figures.cores);
        self.process_at = self.now.instant;
        self.process = figures;
    }

    /// CPU time that workers should have used for streams in a period of that length, and which part of it at real time.
    fn streams_time(&mut self, length: Duration) -> (Duration, f64) {
        let (mut at_real_time, mut all) = (0.0, 0.0);
        for id in self.sessions.keys() {
            let Some(session) = self.sessions.get_mut(id) else { continue };
            let processed = session.buffer.ledger().processed;
            let audio_s = (processed - session.measured) as f64 / f64::from(session.params.sample_rate_hz);
            session.measured = processed;
            let cost = self.catalog.get(session.model_id).cost.cost();
            at_real_time += audio_s.min(length.as_secs_f64()) * cost;
            all += audio_s * cost;
        }
        (Duration::from_secs_f64(all), if all > 0.0 { at_real_time / all } else { 1.0 })
    }

    /// Whether there is room for a stream of this model, by what has been measured. There always is for the first.
    ///
    /// # Errors
    /// `Overloaded`, with how much is taken.
    pub(super) fn check_capacity(&self, model: ModelId) -> Result<(), Fault> {
        if self.fits(self.catalog.get(model).cost.cost()) {
            return Ok(());
        }
        let (taken, most) = (self.capacity.taken() * 100.0, self.config.capacity_percent);
        let message = format!(
            "the server is at capacity: its streams take {taken:.0} % of the host, and no more than {most} % are given away; \
             try again later"
        );
        Err(Fault::new(Reason::Overloaded, message))
    }

    /// Whether a stream that costs so much would be taken in.
    pub(super) fn fits(&self, cost: f64) -> bool {
        self.sessions.len() == 0 || self.capacity.fits(cost)
    }

    /// What the streams of now cost in the mean; without any, one of the default model.
    pub(super) fn usual_cost(&self) -> f64 {
        let of_default = || {
            let model = self.catalog.find_audio(&self.config.model_default).ok()?;
            Some(self.catalog.get(model).cost.cost())
        };
        self.catalog.usual_cost().or_else(of_default).unwrap_or(0.0)
    }

    /// Streams at real time, such as those of now, that the server could take besides: by places, and by what was measured.
    pub(super) fn streams_remaining(&self) -> usize {
        if !self.is_ready() {
            return 0;
        }
        let places = self.config.sessions_max - self.sessions.len();
        let measured = self.capacity.remaining(self.usual_cost()).unwrap_or(usize::MAX);
        places.min(measured.max(usize::from(self.sessions.len() == 0)))
    }
}
