//! What the generator is to do.

use super::{Ask, Audio, Error, Target};
use std::sync::Arc;
use std::time::Duration;

/// Bytes in front of every echoed message that tell whose it is and which.
pub(super) const ECHO_HEAD_BYTES: usize = 12;
/// More often than this, the refused alone would be a load.
const TRY_AGAIN_MIN: Duration = Duration::from_millis(10);

/// A load: where, by how many, how fast and how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is asked of whom.
    pub target: Target,
    /// Clients, at least 1. Each has a connection of its own unless [`Plan::pool`] is set.
    pub clients: usize,
    /// Connections that the clients take turns on.
    pub pool: Option<Pooling>,
    /// Connections opened in a second; `None` as fast as the server takes them.
    pub connect_rate: Option<f64>,
    /// A client that is refused (HTTP 429 or 503) tries again after about so long, and refusals are no failures; `None` it does not.
    pub try_again: Option<Duration>,
    /// When the next message goes out.
    pub pace: Pace,
    /// When it is enough.
    pub length: Length,
    /// Time after the last connection opened before anything counts; not with [`Length::Messages`].
    pub warm_up: Duration,
    /// Bytes of each message, without its frame. At least 12 for an echo, whole samples for a stream.
    pub message_bytes: usize,
    /// What streams hear, in their own encoding.
    pub audio: Arc<Audio>,
    /// For a connection to be made and upgraded.
    pub connect_timeout: Duration,
    /// A message without an answer for so long is lost, and its connection given up.
    pub answer_timeout: Duration,
    /// A process of this machine whose CPU time and memory are to be read.
    pub server_pid: Option<u32>,
}

/// When the next message of a client goes out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Open loop: one is due each interval, whether or not the last was answered.
    Every(Duration),
    /// Closed loop: so many are on the way; the next goes out when one is answered and the client has thought.
    InFlight {
        /// Messages on the way, at least 1.
        count: usize,
        /// Between an answer and the next message.
        think: Duration,
    },
    /// One message at the beginning and one at the end, and rest in between.
    Idle,
}

/// When a load is enough.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    /// So long after every client is connected and warm.
    For(Duration),
    /// When each client has sent so many messages, or after so long, whichever is first; everything counts from the
    /// first on.
    Messages {
        /// Messages of each client.
        count: u64,
        /// For all of them.
        time_max: Option<Duration>,
    },
}

impl Length {
    pub(super) fn counts_messages(self) -> bool {
        matches!(self, Length::Messages { .. })
    }
}

/// Connections that clients take turns on, in the order in which they came.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pooling {
    /// Connections at most, at least 1.
    pub connections: usize,
    /// A connection that nobody wants for so long is closed.
    pub idle_max: Duration,
}

impl Plan {
    /// Ten clients for ten seconds: 100 ms of audio every 100 ms to a stream, one message of 640 bytes on the way to an
    /// echo, one request at a time to HTTP.
    ///
    /// # Errors
    /// [`Error::Plan`] for a URL that cannot be used.
    pub fn new(url: &str) -> Result<Plan, Error> {
        let target = Target::parse(url)?;
        let closed = Pace::InFlight { count: 1, think: Duration::ZERO };
        let (pace, message_bytes) = match target.ask {
            Ask::Stream { .. } => (Pace::Every(Duration::from_millis(100)), 3_200),
            Ask::Echo | Ask::Bytes | Ask::Http(_) => (closed, 640),
        };
        Ok(Plan {
            target,
            clients: 10,
            pool: None,
            connect_rate: None,
            try_again: None,
            pace,
            length: Length::For(Duration::from_secs(10)),
            warm_up: Duration::from_millis(500),
            message_bytes,
            audio: Arc::new(Audio::synthetic()),
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(30),
            server_pid: None,
        })
    }

    /// Connections that will be open at once.
    pub fn connections(&self) -> usize {
        self.pool.map_or(self.clients, |pool| pool.connections.min(self.clients))
    }

    /// # Errors
    /// [`Error::Plan`] with the first thing that cannot be.
    pub(super) fn check(&self) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::Plan(why));
        if self.clients == 0 || self.pool.is_some_and(|pool| pool.connections == 0) {
            return refuse("there must be at least one client and one connection".into());
        }
        if self.connect_rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
            return refuse("the rate of connections must be above 0 a second".into());
        }
        if self.try_again.is_some_and(|pause| pause < TRY_AGAIN_MIN) {
            return refuse(format!(
                "who is refused must wait at least {TRY_AGAIN_MIN:?} before it tries again"
            ));
        }
        match self.pace {
            Pace::Every(interval) if interval < Duration::from_micros(10) => {
                return refuse("the interval must be at least 10 us".into());
            }
            Pace::InFlight { count: 0, .. } => {
                return refuse("at least one message must be on the way".into());
            }
            Pace::InFlight { count, .. } if count > 1 && matches!(self.target.ask, Ask::Http(_)) => {
                return refuse("a connection asks one HTTP request at a time; take more connections".into());
            }
            _ => {}
        }
        if self.pool.is_some() && !self.length.counts_messages() {
            return refuse(
                "clients give a pooled connection back when they have sent their messages, so say how many each sends \
                 (--chunks)"
                    .into(),
            );
        }
        match self.target.ask {
            Ask::Echo | Ask::Bytes if self.message_bytes < ECHO_HEAD_BYTES => {
                refuse(format!("a message must have {ECHO_HEAD_BYTES} bytes, to tell whose it is and which"))
            }
            Ask::Stream { heartbeat: false } => self.audio.check(self.message_bytes),
            _ => Ok(()),
        }
    }
}
