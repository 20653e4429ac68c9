//! What can go wrong, by name, and how often it did.

use std::collections::BTreeMap;

/// Every fault that the world injects. The sweep fails if one of them never fires.
pub const INJECTED: &[&str] = &[
    "abrupt reset",
    "batch came home late",
    "clock jump",
    "close frame without CloseStream",
    "connection refused",
    "damaged frames",
    "delay",
    "drain",
    "empty chunk",
    "fragments",
    "garbage",
    "half close",
    "half sample",
    "late event for a dead connection",
    "link stall",
    "malformed request",
    "model panic",
    "never reads",
    "oversized message",
    "pipelining",
    "seq gap",
    "seq repeated",
    "silent client",
    "slow inference",
    "slow reader",
    "small socket buffer",
    "truncated request",
    "unknown message",
    "worker lost",
    "worker replaced",
    "wrong parameters",
    "client discarded",
    "not a number",
    "invalid utf-8",
    "chunked body",
    "upload cut",
    "upload never reads",
    "upload poisoned",
    "upload reset",
    "slow request",
    "request for inference",
    "poisoned request",
    "sequence",
    "model loaded",
    "model that does not load",
    "load of a model inside",
    "receiver fails",
    "receiver asks for time",
    "receiver refuses",
    "receiver redirects",
    "receiver never answers",
    "receiver answers late",
    "receiver cannot be reached",
    "memory short",
    "loop late",
];

/// What the server must have been driven to at least once in a sweep: labels of reasons, or names of its answers.
pub const REACHED: &[&str] = &[
    "backpressure",
    "batch of several",
    "closed slow_consumer",
    "discard deadline",
    "discard inference_failed",
    "discard overflow",
    "echo returned",
    "credit cut",
    "ended buffer_overflow",
    "ended draining",
    "ended finished",
    "ended hung_up",
    "ended idle_timeout",
    "ended inference_failed",
    "ended overloaded",
    "ended protocol_error",
    "finalize answered",
    "refused invalid_value",
    "refused unknown_sequence",
    "refused overloaded",
    "refused too_many_sessions",
    "rung closing",
    "rung cutting",
    "rung final_only",
    "rung refusing",
    "told of no interim results",
    "upload came back whole",
    "upload finished",
    "webhook crowded out",
    "webhook delivered",
    "webhook given up",
];

/// The same for sweeps of a thousand seeds and more.
pub const REACHED_SELDOM: &[&str] = &[
    "discard drain",
    "refused load_failed",
    "refused model_unavailable",
    "ended blocked_too_long",
    "ended invalid_state",
    "ended invalid_utf8",
    "ended message_too_big",
    "ended pong_timeout",
    "ended session_expired",
    "ended slow_consumer",
    "refused draining",
    "refused request_timeout",
];

#[derive(Default)]
pub struct Tally(pub BTreeMap<String, u64>);

impl Tally {
    pub fn fire(&mut self, name: &str) {
        self.add(name, 1);
    }

    pub fn add(&mut self, name: &str, count: u64) {
        if count > 0 {
            *self.0.entry(name.to_owned()).or_default() += count;
        }
    }

    pub fn merge(&mut self, other: &Tally) {
        for (name, count) in &other.0 {
            self.add(name, *count);
        }
    }
}
