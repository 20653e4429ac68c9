//! Requests on a kept connection, one at a time.

use super::tally::Tally;
use super::target::{Request, Target};
use crate::time::Instant;
use crate::wire::http::{BodyDecoder, parse_response_head};
use std::collections::VecDeque;
use std::sync::Arc;

/// Greatest answer, bytes.
const BODY_BYTES_MAX: usize = 64 << 20;

/// One connection's requests.
pub(super) struct Http {
    request: Arc<[u8]>,
    /// When each request was due that has no answer yet. The first of them is on the way, the others wait for it.
    dues: VecDeque<Instant>,
    on_the_way: bool,
    answer: Answer,
    head: Vec<u8>,
    body: Vec<u8>,
}

/// What has come of the answer.
enum Answer {
    Head,
    Body {
        status: u16,
        closes: bool,
        /// `None`: it lasts until the connection ends.
        decoder: Option<BodyDecoder>,
    },
}

/// The bytes of a request.
pub(super) fn encode(target: &Target, request: &Request) -> Arc<[u8]> {
    let method = if request.method.is_empty() { "GET" } else { &request.method };
    let mut text =
        format!("{method} {} HTTP/1.1\r\nHost: {}\r\n", target.path_and_query(), target.url.authority());
    for (name, value) in request.headers.iter().chain(&target.headers) {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !request.body.is_empty() || method != "GET" {
        text.push_str(&format!("Content-Length: {}\r\n", request.body.len()));
    }
    text.push_str("\r\n");
    [text.as_bytes(), &request.body].concat().into()
}

impl Http {
    pub(super) fn new(request: Arc<[u8]>) -> Self {
        Self {
            request,
            dues: VecDeque::new(),
            on_the_way: false,
            answer: Answer::Head,
            head: Vec::new(),
            body: Vec::new(),
        }
    }

    pub(super) fn ask(&mut self, due: Instant, out: &mut Vec<u8>) {
        self.dues.push_back(due);
        self.send(out);
    }

    fn send(&mut self, out: &mut Vec<u8>) {
        if !self.on_the_way && !self.dues.is_empty() {
            self.on_the_way = true;
            out.extend_from_slice(&self.request);
        }
    }

    pub(super) fn dues(&self) -> &VecDeque<Instant> {
        &self.dues
    }

    /// Bytes came. The error is the kind of failure; the connection is then of no use.
    pub(super) fn hear(
        &mut self,
        mut bytes: &[u8],
        now: Instant,
        out: &mut Vec<u8>,
        tally: &mut Tally,
    ) -> Result<(), String> {
        while !bytes.is_empty() {
            if !self.on_the_way {
                return Err("bytes that answer no request".into());
            }
            match &mut self.answer {
                Answer::Head => bytes = self.read_head(bytes)?,
                Answer::Body { decoder: Some(decoder), .. } => {
                    self.body.clear();
                    if !decoder.decode(&mut bytes, &mut self.body).map_err(|fault| fault.message)? {
                        return Ok(());
                    }
                }
                Answer::Body { decoder: None, .. } => return Ok(()),
            }
            self.complete(now, tally)?;
            self.send(out);
        }
        Ok(())
    }

    /// Takes the head off the front of the bytes and gives the rest.
    fn read_head<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], String> {
        let held = self.head.len();
        self.head.extend_from_slice(bytes);
        let Some((head, length)) = parse_response_head(&self.head).map_err(|fault| fault.message)? else {
            return Ok(&[]);
        };
        self.head.clear();
        if head.status >= 200 {
            let framing = head.body().map_err(|fault| fault.message)?;
            let decoder = framing.map(|framing| BodyDecoder::new(&framing, BODY_BYTES_MAX)).transpose();
            let closes = head.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
            let decoder = decoder.map_err(|fault| fault.message)?;
            self.answer = Answer::Body { status: head.status, closes, decoder };
        }
        Ok(&bytes[length - held..])
    }

    /// Counts the answer if it is whole.
    fn complete(&mut self, now: Instant, tally: &mut Tally) -> Result<(), String> {
        let Answer::Body { status, closes, decoder } = &mut self.answer else { return Ok(()) };
        let (status, closes) = (*status, *closes);
        let whole = match decoder {
            // An empty body is whole with its head; of others it was found out above.
            Some(decoder) => decoder.decode(&mut &[][..], &mut self.body).map_err(|fault| fault.message)?,
            None => false,
        };
        if whole {
            self.answer = Answer::Head;
            self.on_the_way = false;
            let due = self.dues.pop_front();
            match due {
                Some(due) if (200..300).contains(&status) => tally.answer(due, now),
                _ => tally.failure(&format!("HTTP {status}")),
            }
            if closes && !self.dues.is_empty() {
                return Err("the server closed a connection that was to be kept".into());
            }
        }
        Ok(())
    }

    /// Nothing more will come.
    pub(super) fn settle(&mut self, tally: &mut Tally) {
        tally.messages.lost += self.dues.len() as u64;
        self.dues.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(pieces: &[&[u8]]) -> (Result<(), String>, Tally, Vec<u8>) {
        let (mut tally, mut out) = (Tally::new(Instant::default()), Vec::new());
        let mut http = Http::new(b"GET".to_vec().into());
        http.ask(Instant::default(), &mut out);
        http.ask(Instant::default(), &mut out);
        let result = pieces.iter().try_for_each(|piece| {
            piece
                .chunks(1.max(piece.len() / 3))
                .try_for_each(|bytes| http.hear(bytes, Instant::default(), &mut out, &mut tally))
        });
        http.settle(&mut tally);
        (result, tally, out)
    }

    #[test]
    fn answers_are_counted_and_the_next_request_waits_for_the_last() {
        let (result, tally, out) = answers(&[
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            b"HTTP/1.1 204 No Content\r\n\r\n",
        ]);
        assert_eq!((result, tally.messages.answered, tally.errors()), (Ok(()), 2, 0));
        assert_eq!(out, b"GETGET");
    }

    #[test]
    fn a_refusal_is_a_failure_and_what_never_came_is_lost() {
        let (_, tally, _) =
            answers(&[b"HTTP/1.1 503 Overloaded\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n"]);
        assert_eq!((tally.messages.answered, tally.messages.lost), (0, 1));
        assert_eq!(tally.failures.get("HTTP 503"), Some(&1));
    }

    #[test]
    fn what_is_not_http_is_told() {
        assert!(answers(&[b"SSH-2.0-OpenSSH\r\n"]).0.is_err());
        let (result, ..) = answers(&[
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"x",
        ]);
        assert!(result.is_err());
    }
}
