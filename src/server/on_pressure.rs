//! What the server does about its own load: the rungs of `pressure.rs`, the fair share of each stream, and what is told of it.
//!
//! Looked at once a turn, before anything else of the turn, and every [`TICK`] while somebody waits for a worker or there is
//! pressure: a queue grows old without any event. Health, metrics, status and control frames are served on every rung.

use crate::id::SessionId;
use crate::reason::{Fault, Reason};
use crate::server::Server;
use crate::server::limits::Budgets;
use crate::server::pressure::{Load, Resource, Rung};
use crate::server::session::{Session, Stage};
use crate::time::Instant;
use crate::wire::message::{ErrorMessage, ServerMessage, Warning};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How often the pressure is looked at while nothing else happens, and fair shares are drawn anew while credit is cut.
const TICK: Duration = Duration::from_millis(100);
/// Time between two streams that are closed for overload, and before the first: a moment of pressure closes nobody.
const CLOSE_INTERVAL: Duration = Duration::from_millis(250);
/// No stream's credit is cut below this part of `audio_held_max`: it must be able to go on.
const CREDIT_PART_MIN: u32 = 8;

/// The part of the room for audio that fair shares are drawn from while it is nearly full: those who send as fast as the server
/// reads are then held back below the rung at which streams are closed.
const SHARED_PART: f64 = 0.85;

/// The most that the room for audio counts: short of closing anybody. Whoever fills it is not read until there is room again, so
/// clients that send as fast as they can, which is no fault, fill it and are safe.
const AUDIO_SHARE_MAX: f64 = 0.94;

/// What one stream holds and might hold, in seconds of audio.
struct Holding {
    id: SessionId,
    held_s: f64,
    fair_s: f64,
    began: Instant,
}

impl Server {
    /// Brings the pressure up to date, once a turn, and does what the rung asks for.
    pub(super) fn on_pressure(&mut self) {
        let now = self.now.instant;
        if self.pressure_at == Some(now) {
            return;
        }
        self.pressure_at = Some(now);
        let before = self.pressure.rung();
        let rung = self.pressure.update(self.load(), now);
        self.spares.keep(self.pressure.load().of(Resource::Memory) < Rung::Refusing.threshold());
        if rung != before {
            self.on_rung(before, rung);
        }
        if rung >= Rung::Cutting && self.cut_due <= now {
            self.cut_due = now + TICK;
            self.cut_credit();
        }
        if rung == Rung::Closing && self.close_due <= now {
            self.close_due = now + CLOSE_INTERVAL;
            self.close_the_furthest_above();
        }
    }

    /// When the pressure wants to be looked at, if nothing happens before.
    pub(super) fn pressure_due(&self) -> Option<Instant> {
        // The load may go without any event, as it may come.
        let moves = self.pressure.rung() > Rung::Normal || self.batcher.queued() > 0;
        let tick = moves.then(|| self.pressure_at.unwrap_or_default() + TICK);
        [tick, self.pressure.due()].into_iter().flatten().min()
    }

    fn load(&self) -> Load {
        let time = |time: Duration, target: Duration| time.as_secs_f64() / target.as_secs_f64().max(1e-9);
        let bytes = |held: usize, max: usize| held as f64 / max.max(1) as f64;
        let (config, budgets) = (&self.config, &self.budgets);
        let memory = [
            bytes(budgets.audio, config.audio_bytes_total_max).min(AUDIO_SHARE_MAX),
            bytes(budgets.incoming, config.incoming_bytes_total_max),
            bytes(usize::try_from(self.process.resident_bytes).unwrap_or(usize::MAX), config.memory_max),
        ];
        Load([
            time(self.batcher.overdue_wait(self.now.instant), config.queue_wait_target),
            memory.into_iter().fold(0.0, f64::max),
            time(self.loop_lag, config.loop_lag_target),
            bytes(budgets.outgoing, config.outgoing_bytes_total_max),
        ])
    }

    fn on_rung(&mut self, before: Rung, rung: Rung) {
        let load = self.pressure.load();
        let shares = Resource::ALL.map(|resource| format!("{} {:.2}", resource.label(), load.of(resource)));
        match rung > before {
            true => log::warn!("overload: {} after {}: {}", rung.label(), before.label(), shares.join(", ")),
            false => log::info!("overload: {} after {}: {}", rung.label(), before.label(), shares.join(", ")),
        }
        if before < Rung::FinalOnly {
            for id in self.sessions.keys() {
                self.warn_final_only(id);
            }
        }
        if before < Rung::Closing && rung == Rung::Closing {
            self.close_due = self.now.instant + CLOSE_INTERVAL;
        }
        if before >= Rung::Cutting && rung < Rung::Cutting {
            self.restore_credit();
        }
    }

    /// Tells a stream that asked for interim results, once, that it gets none for the time being.
    pub(super) fn warn_final_only(&mut self, id: SessionId) {
        let suppressed = self.pressure.rung() >= Rung::FinalOnly;
        let Some(session) = self.sessions.get_mut(id) else { return };
        let concerned = suppressed && session.params.interim_results && session.stage == Stage::Open;
        if concerned && !std::mem::replace(&mut session.warned_final_only, true) {
            let message = "the server is busy: there are no interim results until it is less so".to_owned();
            let warning = Warning { code: "interim_results_suppressed".into(), message };
            self.tell(id, &ServerMessage::Warning(warning));
        }
    }

    /// Whether newcomers are taken, by what the server measures of itself.
    ///
    /// # Errors
    /// `Overloaded`, with what runs short.
    pub(super) fn check_pressure(&self) -> Result<(), Fault> {
        if self.pressure.rung() < Rung::Refusing {
            return Ok(());
        }
        let load = self.pressure.load();
        let worst = Resource::ALL.into_iter().max_by(|one, other| load.of(*one).total_cmp(&load.of(*other)));
        let what = worst.map_or("", Resource::label);
        let message = format!("the server is overloaded ({what}) and takes nobody now; try again later");
        Err(Fault::new(Reason::Overloaded, message))
    }

    /// What every open stream holds, and its fair share: what all hold, but no more than there is room for, divided by the users
    /// and then by each one's streams.
    fn holdings(&self) -> Vec<Holding> {
        let mut streams: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        let mut total = 0.0;
        let open = || self.sessions.iter().filter(|(_, session)| session.stage == Stage::Open);
        for (_, session) in open() {
            *streams.entry(&session.principal.user).or_default() += 1;
            total += held_s(session);
        }
        let room = SHARED_PART * self.config.audio_bytes_total_max as f64;
        total *= (room / self.budgets.audio.max(1) as f64).min(1.0);
        let users = streams.len().max(1) as f64;
        let holding = |(id, session): (SessionId, &Session)| Holding {
            id,
            held_s: held_s(session),
            fair_s: total / users / streams[&session.principal.user] as f64,
            began: session.began,
        };
        open().map(holding).collect()
    }

    /// Whoever holds more than its fair share may hold no more than that; it is told its credit, and what it has goes at once.
    fn cut_credit(&mut self) {
        let least_s = self.config.audio_held_max.as_secs_f64() / f64::from(CREDIT_PART_MIN);
        for Holding { id, held_s, fair_s, .. } in self.holdings() {
            let Some(session) = self.sessions.get_mut(id) else { continue };
            let cut = held_s > fair_s.max(least_s);
            let rate = f64::from(session.params.sample_rate_hz);
            let credit_max = cut.then(|| (fair_s.max(least_s) * rate) as u64);
            let before = std::mem::replace(&mut session.credit_max, credit_max);
            if cut && before.is_none() {
                session.flush |= session.buffer.has_unit();
                self.tell_audio_added(id);
                self.advance(id);
            } else if before.is_some() {
                self.wake(id);
            }
        }
    }

    fn restore_credit(&mut self) {
        for id in self.sessions.keys() {
            let Some(session) = self.sessions.get_mut(id) else { continue };
            if session.credit_max.take().is_some() {
                self.tell_audio_added(id);
                self.arm(id);
                self.wake(id);
            }
        }
    }

    /// Closes the stream that holds the most above its fair share; of equals the one that came last.
    fn close_the_furthest_above(&mut self) {
        let holdings = self.holdings();
        let above = |holding: &Holding| holding.held_s - holding.fair_s;
        let worst = holdings.iter().max_by(|one, other| {
            above(one).total_cmp(&above(other)).then(one.began.cmp(&other.began)).then(one.id.cmp(&other.id))
        });
        let Some(id) = worst.map(|holding| holding.id) else { return };
        let Some(session) = self.sessions.get(id) else { return };
        let message = "the server is overloaded and closes the streams that hold the most above their fair share; \
                       connect again later";
        let fault = Fault::new(Reason::Overloaded, message);
        let mut error = ErrorMessage::new(&fault, &session.request_id, true);
        error.retry_after_ms = Some(self.config.retry_after.as_millis() as u64);
        self.tell(id, &ServerMessage::Error(Box::new(error)));
        self.end(id, fault);
    }

    /// What each component holds of the memory, bytes.
    pub(super) fn memory_held(&self) -> [(&'static str, u64); 7] {
        let Budgets { incoming, outgoing, audio, calls } = self.budgets;
        [
            ("resident", self.process.resident_bytes),
            ("audio", audio as u64),
            ("incoming", incoming as u64),
            ("outgoing", outgoing as u64),
            ("calls", calls as u64),
            ("spare_buffers", self.spares.bytes() as u64),
            ("webhooks", self.webhooks.as_ref().map_or(0, |webhooks| webhooks.figures().bytes) as u64),
        ]
    }
}

fn held_s(session: &Session) -> f64 {
    session.buffer.held() as f64 / f64::from(session.params.sample_rate_hz)
}
