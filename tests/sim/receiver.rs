//! The receiver of webhooks: answers well, badly, late or never, and keeps account of what it was told.

use crate::faults::Tally;
use crate::pipe::Micros;
use crate::rng::Rng;
use crate::world::micros;
use serde_json::Value;
use std::collections::BTreeMap;
use suzu::config::{Config, WebhookEvents};
use suzu::server::{DeadLetter, Post, PostAnswer, PostId};

/// How long the server waits for an answer beyond the attempt's own time.
const GRACE: Micros = 1_000_000;

/// An event that the world has heard of.
struct Told {
    body: Value,
    attempts: u32,
    delivered: bool,
    dead: bool,
}

pub struct Receiver {
    rng: Rng,
    /// Percent of attempts that go wrong.
    pub trouble: u64,
    answers: Vec<(Micros, PostId, PostAnswer)>,
    /// Attempts whose answer the server waits for, and until when.
    flights: Vec<(Micros, PostId)>,
    /// Which event an attempt was of.
    posts: BTreeMap<PostId, String>,
    events: BTreeMap<String, Told>,
    /// The names of each session's events, in the order of their first attempts.
    order: BTreeMap<String, Vec<String>>,
}

impl Receiver {
    pub fn new(rng: Rng) -> Self {
        Self {
            rng,
            trouble: 0,
            answers: Vec::new(),
            flights: Vec::new(),
            posts: BTreeMap::new(),
            events: BTreeMap::new(),
            order: BTreeMap::new(),
        }
    }

    fn hear(&mut self, name: &str, body: &[u8]) -> Result<&mut Told, String> {
        let body: Value = serde_json::from_slice(body).map_err(|error| format!("no JSON: {error}"))?;
        let told = self.events.entry(name.to_owned()).or_insert_with(|| Told {
            body: body.clone(),
            attempts: 0,
            delivered: false,
            dead: false,
        });
        match told.body == body && !told.dead {
            true => Ok(told),
            false => Err(format!("event {name} is another now, or was dead")),
        }
    }

    /// The server posts an event. `forgets`: it is answered well, and nobody remembers it.
    pub fn on_post(
        &mut self,
        post: &Post,
        config: &Config,
        now: Micros,
        forgets: bool,
        tally: &mut Tally,
    ) -> Result<(), String> {
        self.flights.retain(|(until, _)| *until > now);
        if self.flights.len() >= config.webhook_posts_max {
            return Err("more attempts at a time than webhook_posts_max".into());
        }
        let patience = micros(config.webhook_timeout) + GRACE;
        self.flights.push((now + patience, post.id));
        if forgets {
            self.answers.push((now, post.id, PostAnswer::Status { status: 200, retry_after: None }));
            return Ok(());
        }
        let told = self.hear(&post.event, &post.body)?;
        told.attempts += 1;
        if told.attempts > config.webhook_attempts_max {
            return Err(format!("event {} has too many attempts", post.event));
        }
        if told.attempts == 1 {
            let session = text(&told.body["data"]["session_id"]);
            self.order.entry(session).or_default().push(post.event.to_string());
        }
        self.posts.insert(post.id, post.event.to_string());
        let (delay, answer) = self.answer(patience, tally);
        self.answers.extend(answer.map(|answer| (now + delay, post.id, answer)));
        Ok(())
    }

    fn answer(&mut self, patience: Micros, tally: &mut Tally) -> (Micros, Option<PostAnswer>) {
        let status = |status: u16, field: &str| {
            let retry_after = (!field.is_empty()).then(|| field.to_owned());
            Some(PostAnswer::Status { status, retry_after })
        };
        let soon = self.rng.range(0, 30_000);
        if !self.rng.chance(self.trouble) {
            return (soon, status(self.rng.pick(&[200, 202, 204]), ""));
        }
        let (name, delay, answer) = match self.rng.below(7) {
            0 => ("receiver fails", soon, status(self.rng.pick(&[500, 502, 408, 425]), "")),
            1 => ("receiver asks for time", soon, status(self.rng.pick(&[429, 503]), "1")),
            2 => ("receiver refuses", soon, status(self.rng.pick(&[400, 404, 410]), "")),
            3 => ("receiver redirects", soon, status(self.rng.pick(&[302, 307]), "")),
            4 => ("receiver never answers", 0, None),
            5 => ("receiver answers late", patience + self.rng.range(0, 3_000_000), status(200, "")),
            _ => ("receiver cannot be reached", soon, Some(PostAnswer::Failed("the line is cut".into()))),
        };
        tally.fire(name);
        (delay, answer)
    }

    /// An answer that is there by now.
    pub fn poll(&mut self, now: Micros) -> Option<(PostId, PostAnswer)> {
        let index = self.answers.iter().position(|(at, ..)| *at <= now)?;
        let (_, id, answer) = self.answers.swap_remove(index);
        self.flights.retain(|(_, flight)| *flight != id);
        Some((id, answer))
    }

    /// The server counts the event of that attempt as delivered.
    pub fn on_delivered(&mut self, id: PostId) {
        let told = self.posts.get(&id).and_then(|name| self.events.get_mut(name));
        told.into_iter().for_each(|told| told.delivered = true);
    }

    /// The server gives an event up.
    pub fn on_dead(&mut self, letter: &DeadLetter) -> Result<(), String> {
        let mut line = Vec::new();
        letter.encode(&mut line);
        let line: Value =
            serde_json::from_slice(&line).map_err(|error| format!("no line of JSON: {error}"))?;
        let told = self.hear(&letter.event, &letter.body)?;
        told.dead = true;
        match line["event"] == told.body && letter.attempts == told.attempts {
            true => Ok(()),
            false => Err(format!("the letter is not of what was posted: {line}")),
        }
    }

    pub fn next_at(&self) -> Option<Micros> {
        self.answers.iter().map(|(at, ..)| *at).min()
    }

    /// Nothing will happen any more: every event was delivered or is dead, and of each stream all is told.
    pub fn check_quiet(&self, figures: &Value, config: &Config) -> Result<(), String> {
        let webhooks = &figures["webhooks"];
        if config.webhook_url.is_empty() {
            return match webhooks.is_null() && self.events.is_empty() {
                true => Ok(()),
                false => Err("there is no receiver, and it is told something".into()),
            };
        }
        let count = |pick: fn(&Told) -> bool| self.events.values().filter(|told| pick(told)).count() as u64;
        let ours = [self.events.len() as u64, count(|told| told.delivered), count(|told| told.dead), 0, 0];
        let theirs = ["made", "delivered", "dead", "pending", "bytes"].map(|name| webhooks[name].as_u64());
        if theirs != ours.map(Some) || self.events.values().any(|told| told.delivered == told.dead) {
            return Err(format!("the books of webhooks do not balance: {webhooks}, and not {ours:?}"));
        }
        let began = figures["sessions"]["began"].as_u64();
        let mut ends = 0;
        for told in self.events.values().filter(|told| told.body["type"] == "stream.ended") {
            ends += 1;
            self.check_end(told, config)?;
        }
        if began != Some(ends) {
            return Err(format!("{ends} ends were told of {began:?} streams"));
        }
        self.order.values().try_for_each(|names| self.check_order(names))
    }

    fn check_end(&self, end: &Told, config: &Config) -> Result<(), String> {
        let message = &end.body["data"]["message"];
        let ledger = |name: &str| message["ledger"][name].as_u64();
        let sum = ledger("processed").zip(ledger("discarded")).map(|(one, other)| one + other);
        if ledger("received") != sum || ledger("pending") != Some(0) {
            return Err(format!("a stream's end does not balance: {message}"));
        }
        let of_stream = |told: &&Told| {
            told.body["data"]["session_id"] == end.body["data"]["session_id"]
                && told.body["type"] == "stream.results"
        };
        let told = self.events.values().filter(of_stream).count() as u64;
        let expected = match config.webhook_events {
            WebhookEvents::All => message["results"].as_u64(),
            WebhookEvents::Ends => Some(0),
        };
        match Some(told) == expected {
            true => Ok(()),
            false => Err(format!("{told} results were told of {expected:?}: {message}")),
        }
    }

    /// Results in their order, and nothing after the end.
    fn check_order(&self, names: &[String]) -> Result<(), String> {
        let place = |name: &String| {
            let body = &self.events[name].body;
            body["data"]["message"]["message_seq"].as_u64().unwrap_or(u64::MAX)
        };
        let places: Vec<_> = names.iter().map(place).collect();
        match places.windows(2).all(|pair| pair[0] < pair[1]) {
            true => Ok(()),
            false => Err(format!("events of a stream came in another order: {places:?}")),
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Limits of webhooks that are met, for a part of the worlds.
pub fn configure(config: &mut Config, rng: &mut Rng) -> u64 {
    if !rng.chance(40) {
        return 0;
    }
    let ms = |rng: &mut Rng, of: &[u64]| std::time::Duration::from_millis(rng.pick(of));
    config.webhook_url = "http://receiver.example/hook".into();
    config.webhook_events = rng.pick(&[WebhookEvents::All, WebhookEvents::All, WebhookEvents::Ends]);
    config.webhook_attempts_max = rng.pick(&[1, 2, 4]) as u32;
    config.webhook_retry_delay = ms(rng, &[1, 50, 1_000]);
    config.webhook_timeout = ms(rng, &[100, 5_000]);
    config.webhook_posts_max = rng.pick(&[1, 2, 4]) as usize;
    config.webhook_bytes_max = rng.pick(&[16 << 10, 64 << 10, 4 << 20]) as usize;
    rng.pick(&[0, 20, 70])
}
