//! One connection, the same bytes at once and in pieces: the server answers the same.

use super::input::{Cuts, Input};
use super::script;
use super::server::{START, new_server};
use suzu::config::Config;
use suzu::id::{ConnId, SessionId};
use suzu::server::{self, Output, Server};

/// Everything that the server did with one connection.
#[derive(PartialEq)]
struct Deeds {
    written: String,
    is_closed: bool,
    is_readable: bool,
    runs: Vec<(SessionId, usize, bool)>,
}

impl Deeds {
    /// Prints what can be read of it: messages that come back may be long.
    fn tell(&self) {
        let Deeds { written, is_closed, is_readable, runs } = self;
        let text: Vec<_> = written.split("\0\0\0\0").filter(|text| !text.is_empty()).collect();
        eprintln!(
            "{} characters, closed {is_closed}, read {is_readable}, runs {runs:?}: {text:?}",
            written.len()
        );
    }
}

/// A handshake or none, elements of all kinds, and perhaps the end of the stream.
pub fn server_split(data: &[u8]) {
    let mut input = Input::new(data);
    let (flags, mut cuts) = (input.byte(), Cuts::draw(&mut input));
    // Pieces go on coming here when the server has asked for none, and may meet the limit of what all peers may hold.
    let roomy = 16 << 20;
    let limits = script::config(&mut input);
    let limits = Config { incoming_bytes_total_max: roomy, outgoing_bytes_total_max: roomy, ..limits };
    let Some(at_once) = new_server(limits.clone()) else { return };
    let in_pieces = new_server(limits).expect("the same limits");
    let mut wire = Vec::new();
    if flags & 1 == 0 {
        script::handshake(&mut input, &mut wire);
    }
    while !input.is_empty() && wire.len() < 50_000 {
        script::element(&mut input, &mut wire);
    }
    // The metrics tell how much has been read, and that is what differs here.
    if wire.windows(7).any(|word| word == b"metrics") {
        return;
    }
    let ends = flags & 2 != 0;
    let at_once = deeds(at_once, &wire, ends, |left| left);
    let in_pieces = deeds(in_pieces, &wire, ends, |left| cuts.next(left));
    if at_once != in_pieces {
        at_once.tell();
        in_pieces.tell();
        panic!("the same bytes in pieces are answered otherwise");
    }
}

fn deeds(mut server: Server, wire: &[u8], ends: bool, mut cut: impl FnMut(usize) -> usize) -> Deeds {
    let conn = server.accept(([192, 0, 2, 1], 9).into(), START).expect("room for one");
    let mut wire = wire.to_vec();
    let mut rest = &mut wire[..];
    while !rest.is_empty() {
        let length = cut(rest.len());
        let bytes = rest.split_off_mut(..length).unwrap_or_default();
        server.handle_input(server::Input::Received { conn, bytes }, START);
    }
    if ends {
        server.handle_input(server::Input::HalfClosed { conn }, START);
    }
    let mut deeds = Deeds { written: String::new(), is_closed: false, is_readable: true, runs: Vec::new() };
    while observe(&mut server, conn, &mut deeds) {}
    server.check_invariants();
    deeds
}

/// Obeys every output and reads everything; gives whether there was anything to read.
fn observe(server: &mut Server, conn: ConnId, deeds: &mut Deeds) -> bool {
    while let Some(output) = server.poll_output() {
        match output {
            Output::Close(_) => deeds.is_closed = true,
            Output::SetReadable { readable, .. } => deeds.is_readable = readable,
            Output::Infer(batch) => {
                let runs = batch.sessions().iter().zip(batch.runs());
                deeds.runs.extend(runs.map(|(session, run)| (*session, run.samples.len(), run.last)));
            }
            Output::Flush(_)
            | Output::Abandon(_)
            | Output::Repository { .. }
            | Output::ReadFiles
            | Output::Post(_)
            | Output::DeadLetter(_)
            | Output::Drained => {}
        }
    }
    // What was written is gone with a connection that closed: that it closed is then all that can be compared.
    let count = server.outgoing(conn).len();
    deeds.written.push_str(&String::from_utf8_lossy(server.outgoing(conn)));
    server.sent(conn, count, START);
    count > 0
}
