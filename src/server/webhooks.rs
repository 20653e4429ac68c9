//! What waits to be told to the receiver of webhooks, and what becomes of it. Pure: it is told the time and posts nothing.
//!
//! Owns the events from their making to their delivery or their end as dead letters. Never knows sessions but as names,
//! writes no log and makes no message; `on_webhook.rs` does.
//!
//! Events of one stream go one after the other, in their order: while one waits for its next attempt, those behind it wait too.
//! Those of different streams go side by side, `posts_max` at a time. A receiver that fails again and again is left
//! alone for a while, by all.
//!
//! Invariants: `made = delivered + dead + pending`, in events. What waits never holds more than `bytes_max`; an event for
//! which there is no room is a dead letter at once. Every attempt of an event has the same name, no two events have.

use crate::config::Config;
use crate::id::SessionId;
use crate::server::contract::{DeadLetter, Post, PostAnswer, PostId};
use crate::server::random::Random;
use crate::time::{Instant, Now};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// What an event holds besides its body: its name, its places in the tables, the counts of references.
pub const EVENT_BYTES: usize = 384;
/// The longest wait between two attempts, if `webhook_retry_delay` is not longer itself.
const RETRY_MAX: Duration = Duration::from_secs(300);
/// The longest that a receiver's `Retry-After` is heeded.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// Attempts that failed in a row, of whatever events, after which the receiver is left alone for a while.
const RESTS_AFTER: u32 = 5;
/// The longest that it is left alone, but for its own `Retry-After`.
const REST_MAX: Duration = Duration::from_secs(30);
/// How long the answer of an attempt is waited for beyond its own time: who posts gives up by itself.
const GRACE: Duration = Duration::from_secs(1);

/// The limits of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Attempts that an event has.
    pub attempts_max: u32,
    /// The longest wait before the second attempt.
    pub retry_delay: Duration,
    /// Time that an attempt has.
    pub timeout: Duration,
    /// Attempts at a time.
    pub posts_max: usize,
    /// Bytes of all events.
    pub bytes_max: usize,
}

/// How the events stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WebhookFigures {
    /// Events that were made.
    pub made: u64,
    /// Those that the receiver has taken.
    pub delivered: u64,
    /// Those that became dead letters.
    pub dead: u64,
    /// Those of them for which there was no room.
    pub crowded_out: u64,
    /// Those that wait or are on their way.
    pub pending: usize,
    /// What these hold, bytes.
    pub bytes: usize,
    /// Attempts that were made.
    pub attempts: u64,
    /// Attempts that failed, whether another followed or not.
    pub failed: u64,
}

/// An event of which the receiver has not been told, as far as is known.
struct Event {
    name: Arc<str>,
    stream: SessionId,
    body: Arc<[u8]>,
    attempts: u32,
}

impl Event {
    fn bytes(&self) -> usize {
        EVENT_BYTES + self.body.len()
    }
}

/// An attempt that has not been answered.
struct Flight {
    event: u64,
    deadline: Instant,
}

/// What an answer means.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The receiver has it.
    Delivered,
    /// It may be taken another time, not before that time has passed.
    Again(String, Duration),
    /// It will never be taken.
    Never(String),
}

/// What is worth a line in the log: not every failure, but the first after a success, and the first success after that.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// The receiver does not take events any more, and why.
    Trouble(String),
    /// It takes them again.
    Recovered,
}

/// All events.
pub struct Webhooks {
    policy: Policy,
    random: Random,
    events: BTreeMap<u64, Event>,
    /// The events of each stream, in their order. The first is in `waiting` or in `flights`.
    lanes: BTreeMap<SessionId, VecDeque<u64>>,
    /// When the first event of each lane is due, if no attempt is under way.
    waiting: BTreeSet<(Instant, u64)>,
    flights: BTreeMap<PostId, Flight>,
    next_event: u64,
    next_post: u64,
    /// Failures since the last success.
    failures: u32,
    rests_until: Instant,
    /// When the shutdown gives up what is not delivered.
    ends_at: Option<Instant>,
    /// Nothing is posted any more.
    closed: bool,
    trouble: bool,
    figures: WebhookFigures,
}

impl Webhooks {
    /// What the configuration asks for; None without a receiver.
    pub fn of(config: &Config, seed: u64) -> Option<Self> {
        let policy = Policy {
            attempts_max: config.webhook_attempts_max,
            retry_delay: config.webhook_retry_delay,
            timeout: config.webhook_timeout,
            posts_max: config.webhook_posts_max,
            bytes_max: config.webhook_bytes_max,
        };
        (!config.webhook_url.is_empty()).then(|| Self::new(policy, seed))
    }

    /// No events. The seed makes their names and the waits between attempts.
    pub fn new(policy: Policy, seed: u64) -> Self {
        Self {
            policy,
            random: Random::new(seed),
            events: BTreeMap::new(),
            lanes: BTreeMap::new(),
            waiting: BTreeSet::new(),
            flights: BTreeMap::new(),
            next_event: 0,
            next_post: 0,
            failures: 0,
            rests_until: Instant::default(),
            ends_at: None,
            closed: false,
            trouble: false,
            figures: WebhookFigures::default(),
        }
    }

    /// Takes an event of a stream; gives it back as a dead letter if there is no room for it.
    pub fn push(&mut self, stream: SessionId, body: Vec<u8>, now: Now) -> Option<DeadLetter> {
        self.figures.made += 1;
        let name = format!("msg_{}", self.random.uuid(now.unix_ms)).into();
        let event = Event { name, stream, body: body.into(), attempts: 0 };
        if self.closed {
            return Some(self.bury(event, "the server shuts down".into(), now));
        }
        if self.figures.bytes + event.bytes() > self.policy.bytes_max {
            self.figures.crowded_out += 1;
            return Some(self.bury(event, "too many events wait for the receiver".into(), now));
        }
        self.figures.bytes += event.bytes();
        self.figures.pending += 1;
        let number = self.next_event;
        self.next_event += 1;
        self.events.insert(number, event);
        let lane = self.lanes.entry(stream).or_default();
        lane.push_back(number);
        if lane.len() == 1 {
            self.waiting.insert((now.instant, number));
        }
        None
    }

    /// The next attempt, if one is due and there is a place for it.
    pub fn next_post(&mut self, now: Now) -> Option<Post> {
        if self.flights.len() >= self.policy.posts_max || self.rests_until > now.instant {
            return None;
        }
        let &(due, number) = self.waiting.first().filter(|(due, _)| *due <= now.instant)?;
        self.waiting.remove(&(due, number));
        let event = self.events.get_mut(&number)?;
        event.attempts += 1;
        self.figures.attempts += 1;
        let id = PostId(self.next_post);
        self.next_post += 1;
        let (name, body) = (Arc::clone(&event.name), Arc::clone(&event.body));
        let deadline = now.instant + self.policy.timeout + GRACE;
        self.flights.insert(id, Flight { event: number, deadline });
        Some(Post { id, event: name, timestamp_s: now.unix_ms / 1000, body })
    }

    /// An attempt was answered: what is worth a line in the log, and the event if it is given up.
    pub fn on_answer(
        &mut self,
        id: PostId,
        answer: &PostAnswer,
        now: Now,
    ) -> (Option<News>, Option<DeadLetter>) {
        // Of an attempt that was given up nobody waits for an answer any more.
        let Some(flight) = self.flights.remove(&id) else { return (None, None) };
        let verdict = judge(answer, now.unix_ms);
        self.figures.failed += u64::from(verdict != Verdict::Delivered);
        match verdict {
            Verdict::Delivered => {
                self.figures.delivered += 1;
                self.failures = 0;
                self.take(flight.event, now);
                let news = std::mem::take(&mut self.trouble).then_some(News::Recovered);
                (news, None)
            }
            Verdict::Never(why) => {
                // Whoever refuses is there.
                self.failures = 0;
                (self.note_trouble(&why), self.give_up(flight.event, why, now))
            }
            Verdict::Again(why, wait) => {
                (self.note_trouble(&why), self.put_off(flight.event, why, wait, now))
            }
        }
    }

    fn note_trouble(&mut self, why: &str) -> Option<News> {
        (!std::mem::replace(&mut self.trouble, true)).then(|| News::Trouble(why.to_owned()))
    }

    /// The event is tried again, if it has an attempt left.
    fn put_off(&mut self, number: u64, why: String, wait: Duration, now: Now) -> Option<DeadLetter> {
        self.failures = self.failures.saturating_add(1);
        let rest = match self.failures.checked_sub(RESTS_AFTER) {
            Some(more) => self.delay(more, REST_MAX),
            None => Duration::ZERO,
        };
        // What the receiver asks of one event it asks of all.
        self.rests_until = self.rests_until.max(now.instant + rest.max(wait));
        let attempts = self.events.get(&number)?.attempts;
        if attempts >= self.policy.attempts_max {
            return self.give_up(number, why, now);
        }
        let due = now.instant + self.delay(attempts - 1, RETRY_MAX).max(wait);
        if self.ends_at.is_some_and(|end| due >= end) {
            return self.give_up(number, format!("{why}, and the server shuts down"), now);
        }
        self.waiting.insert((due, number));
        None
    }

    /// A wait after so many others: its ceiling doubles each time, and it is between half of that and the whole, so
    /// that what failed together does not come again together.
    fn delay(&mut self, before: u32, max: Duration) -> Duration {
        let base = self.policy.retry_delay;
        let ceiling = base.saturating_mul(2u32.saturating_pow(before)).min(max.max(base));
        let part = (self.random.next() >> 11) as f64 / (1u64 << 53) as f64;
        ceiling / 2 + (ceiling / 2).mul_f64(part)
    }

    /// The first attempt whose answer has not come in time, if there is one: answer it as failed.
    pub fn overdue(&self, now: Instant) -> Option<PostId> {
        let late = self.flights.iter().find(|(_, flight)| flight.deadline <= now);
        late.map(|(id, _)| *id)
    }

    /// When it wants to be looked at: for an attempt that is due, or one whose answer is not waited for any longer.
    pub fn due(&self) -> Option<Instant> {
        let room = self.flights.len() < self.policy.posts_max;
        let next = self.waiting.first().filter(|_| room).map(|(due, _)| (*due).max(self.rests_until));
        let late = self.flights.values().map(|flight| flight.deadline).min();
        [next, late].into_iter().flatten().min()
    }

    /// The server shuts down, at the latest at `end`: everything has one more attempt at once.
    pub fn hurry(&mut self, now: Instant, end: Instant) {
        self.ends_at = Some(end);
        self.rests_until = now;
        self.failures = 0;
        self.waiting = self.waiting.iter().map(|(_, number)| (now, *number)).collect();
    }

    /// Whether nothing more can be delivered before the end: the receiver is left alone for longer than that.
    pub fn is_hopeless(&self) -> bool {
        !self.events.is_empty() && self.ends_at.is_some_and(|end| self.rests_until >= end)
    }

    /// Nothing is posted any more: the next of what is left, which is a dead letter now.
    pub fn close(&mut self, now: Now) -> Option<DeadLetter> {
        self.closed = true;
        self.waiting.clear();
        self.lanes.clear();
        let (number, event) = self.events.pop_first()?;
        let under_way = self.flights.extract_if(.., |_, flight| flight.event == number).count() > 0;
        self.forget(&event);
        let why = match under_way {
            true => "the server shuts down while an attempt is under way: the receiver may have it",
            false => "the server shuts down",
        };
        Some(self.bury(event, why.into(), now))
    }

    /// How the events stand.
    pub fn figures(&self) -> WebhookFigures {
        self.figures
    }

    /// Whether no event waits or is on its way.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    fn give_up(&mut self, number: u64, why: String, now: Now) -> Option<DeadLetter> {
        let event = self.take(number, now)?;
        Some(self.bury(event, why, now))
    }

    /// Takes out the first event of a lane; the one behind it is due.
    fn take(&mut self, number: u64, now: Now) -> Option<Event> {
        let event = self.events.remove(&number)?;
        self.forget(&event);
        if let Some(lane) = self.lanes.get_mut(&event.stream) {
            lane.pop_front();
            match lane.front() {
                Some(next) => {
                    self.waiting.insert((now.instant, *next));
                }
                None => {
                    self.lanes.remove(&event.stream);
                }
            }
        }
        Some(event)
    }

    fn forget(&mut self, event: &Event) {
        self.figures.bytes -= event.bytes();
        self.figures.pending -= 1;
    }

    fn bury(&mut self, event: Event, why: String, now: Now) -> DeadLetter {
        self.figures.dead += 1;
        let Event { name, body, attempts, .. } = event;
        DeadLetter { event: name, unix_ms: now.unix_ms, attempts, why, body }
    }

    /// Asserts the invariants of this module.
    pub fn check_invariants(&self) {
        let figures = &self.figures;
        assert_eq!(figures.made, figures.delivered + figures.dead + figures.pending as u64);
        assert_eq!(figures.pending, self.events.len());
        assert_eq!(figures.bytes, self.events.values().map(Event::bytes).sum::<usize>());
        assert!(figures.bytes <= self.policy.bytes_max && self.flights.len() <= self.policy.posts_max);
        assert_eq!(self.lanes.values().map(VecDeque::len).sum::<usize>(), self.events.len());
        let flying = |number: &u64| self.flights.values().filter(|flight| flight.event == *number).count();
        let waits = |number: &u64| self.waiting.iter().filter(|(_, waiting)| waiting == number).count();
        for lane in self.lanes.values() {
            let first = lane.front().expect("a lane without events is gone");
            assert_eq!(flying(first) + waits(first), 1, "the first of a lane waits or is on its way");
            assert!(lane.iter().is_sorted());
        }
        assert_eq!(self.waiting.len() + self.flights.len(), self.lanes.len(), "nothing else does");
        assert!(self.events.values().all(|event| event.attempts <= self.policy.attempts_max));
    }
}

/// What an answer means, and for how long the receiver asks to be left alone.
fn judge(answer: &PostAnswer, unix_ms: u64) -> Verdict {
    match answer {
        PostAnswer::Status { status: 200..=299, .. } => Verdict::Delivered,
        PostAnswer::Status { status: status @ (408 | 425 | 429 | 500..=599), retry_after } => {
            let wait = retry_after.as_deref().and_then(|field| wait(field, unix_ms)).unwrap_or_default();
            Verdict::Again(format!("the receiver answered {status}"), wait.min(RETRY_AFTER_MAX))
        }
        PostAnswer::Status { status: status @ 300..=399, .. } => {
            Verdict::Never(format!("the receiver answered {status}, and redirects are not followed"))
        }
        PostAnswer::Status { status, .. } => Verdict::Never(format!("the receiver answered {status}")),
        PostAnswer::Failed(why) => Verdict::Again(why.clone(), Duration::ZERO),
    }
}

/// What `Retry-After` asks for: seconds, or a date (RFC 9110, section 10.2.3).
fn wait(field: &str, unix_ms: u64) -> Option<Duration> {
    if let Ok(seconds) = field.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(field.trim()).ok()?;
    let date = date.duration_since(UNIX_EPOCH).ok()?;
    Some(date.saturating_sub(Duration::from_millis(unix_ms)))
}

#[cfg(test)]
#[path = "webhooks_tests.rs"]
mod tests;
