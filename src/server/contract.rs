//! What goes into the server and what comes out: the whole contract between the core and its driver.

use crate::auth::Keyring;
use crate::batch::Batch;
use crate::id::{BatchId, ConnId};
use crate::model::Served;
use crate::server::webhooks::EVENT_BYTES;
use crate::wire::message::rfc3339;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// An event of the outside world.
pub enum Input<'a> {
    /// Bytes came from a peer. The server may change them in place (WebSocket masking).
    Received {
        /// From whom.
        conn: ConnId,
        /// At least one byte.
        bytes: &'a mut [u8],
    },
    /// The peer will send nothing more (end of stream). It may still read.
    HalfClosed {
        /// Who.
        conn: ConnId,
    },
    /// The connection is broken in both directions.
    HungUp {
        /// Who.
        conn: ConnId,
    },
    /// A batch came home, filled in.
    Inferred(Batch),
    /// The worker that hangs on an abandoned batch has been replaced, so its place is free again.
    Replaced(BatchId),
    /// Figures of the process, for the metrics. The driver sends them about once a second.
    Process(ProcessFigures),
    /// What the folder of models answered to [`Output::Repository`].
    Repository {
        /// The question.
        id: AskId,
        /// The answer.
        answer: RepositoryAnswer,
    },
    /// Load every model of the folder again, and withdraw those that are gone from it; read the other files again too.
    Reload,
    /// What the file of credentials says, at the start and after each [`Output::ReadFiles`]; or why it cannot be used.
    Credentials(Result<Box<Keyring>, String>),
    /// What the receiver of webhooks answered to [`Output::Post`].
    Posted {
        /// The attempt.
        id: PostId,
        /// The answer.
        answer: PostAnswer,
    },
    /// Begin to shut down: unready, no new sessions, tell clients, finish what is in flight.
    Drain,
}

/// What the server wants done. Drained to `None` once a turn.
pub enum Output {
    /// `outgoing(conn)` is not empty.
    Flush(ConnId),
    /// Read from this connection, or leave it alone (backpressure).
    SetReadable {
        /// Which connection.
        conn: ConnId,
        /// Whether to read. True at first.
        readable: bool,
    },
    /// Close the socket now; the id is dead.
    Close(ConnId),
    /// Hand the batch to a worker. Never more at a time than [`crate::server::Server::batches_in_flight_max`].
    Infer(Batch),
    /// The batch exceeded its time limit. If a worker hangs on it, replace the worker and answer `Replaced`. If it
    /// still waits for a worker, it must not begin any more (nobody would notice a worker that hangs on it then): it
    /// comes home as it is. Whatever comes home late is ignored.
    Abandon(BatchId),
    /// Ask the folder of models, which may take long, and answer by [`Input::Repository`]. An answer that does not come
    /// in time is not waited for.
    Repository {
        /// The question's name.
        id: AskId,
        /// The question.
        ask: RepositoryAsk,
    },
    /// Read the files again that may change while the server runs, once for each reload: the credentials, if there is such a
    /// file, are answered by [`Input::Credentials`]; what else there is, such as a certificate, is the driver's own matter.
    ReadFiles,
    /// Post an event to the receiver of webhooks, and answer by [`Input::Posted`]. An answer that does not come in time is not
    /// waited for. Never without a receiver, and never more at a time than `webhook_posts_max`, but for those given up.
    Post(Post),
    /// An event that will not be posted any more: keep it, if there is a file for such.
    DeadLetter(DeadLetter),
    /// Everything is finished after `Drain`.
    Drained,
}

/// One question to the folder of models. Counts up from 0; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AskId(pub u64);

/// What can be asked of the folder of models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RepositoryAsk {
    /// Read, check and warm up the model of that name, in its highest version.
    Load(String),
    /// Tell what there is.
    Index,
}

/// What the folder of models answers.
pub enum RepositoryAnswer {
    /// The model, or why it cannot be served.
    Loaded(Result<Served, String>),
    /// What there is, or why that cannot be told.
    Index(Result<Vec<Found>, String>),
}

/// A model in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// Its highest version.
    pub version: u32,
}

/// One attempt to deliver an event. Counts up from 0; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PostId(pub u64);

/// An event to be posted.
#[derive(Clone, Debug)]
pub struct Post {
    /// The attempt.
    pub id: PostId,
    /// The event's name: the same in every attempt.
    pub event: Arc<str>,
    /// When the attempt is made, seconds since 1970.
    pub timestamp_s: u64,
    /// JSON.
    pub body: Arc<[u8]>,
}

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PostAnswer {
    /// The receiver answered.
    Status {
        /// Three digits.
        status: u16,
        /// The header field `Retry-After`, as it stands there.
        retry_after: Option<String>,
    },
    /// There was no answer, and why. Fit for the log: it names neither the URL nor the secret.
    Failed(String),
}

/// An event that was given up.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Its name, as it stood in every attempt.
    pub event: Arc<str>,
    /// When it was given up, milliseconds since 1970.
    pub unix_ms: u64,
    /// Attempts that were made.
    pub attempts: u32,
    /// Why.
    pub why: String,
    /// What should have been posted: JSON.
    pub body: Arc<[u8]>,
}

impl DeadLetter {
    /// What it holds of memory: as much as the event did.
    pub fn bytes(&self) -> usize {
        EVENT_BYTES + self.body.len()
    }

    /// Appends it as a line of JSON. What should have been posted stands in it as it is.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (event, why) = (Value::from(&*self.event), Value::from(self.why.as_str()));
        let (time, attempts) = (rfc3339(self.unix_ms), self.attempts);
        let head =
            format!("{{\"id\":{event},\"time\":\"{time}\",\"attempts\":{attempts},\"why\":{why},\"event\":");
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(&self.body);
        out.extend_from_slice(b"}\n");
    }
}

/// Figures of the process, as the operating system tells them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessFigures {
    /// Resident memory, bytes.
    pub resident_bytes: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// CPU time used so far, user and system.
    pub cpu_time: Duration,
    /// The part of it that the loop's thread used.
    pub loop_cpu_time: Duration,
    /// Cores that the process may use; 0 where that is not known.
    pub cores: usize,
    /// Threads.
    pub threads: u64,
    /// Turns of the poll loop so far.
    pub loop_turns: u64,
    /// The longest turn since the last figures.
    pub loop_turn_max: Duration,
    /// Times that accepting failed for lack of descriptors.
    pub accept_failures: u64,
    /// Handshakes of TLS that were done.
    pub tls_handshakes: u64,
    /// Handshakes of TLS that failed, in whatever way.
    pub tls_handshakes_failed: u64,
    /// Dead letters that are in their file.
    pub dead_letters_written: u64,
    /// Dead letters that were lost: their file is full or cannot be written.
    pub dead_letters_lost: u64,
    /// Connections of proxies whose header was wrong or did not come in time.
    pub proxy_headers_refused: u64,
}
