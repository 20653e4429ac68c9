//! Tests of one socket.

use super::*;
use mio::{Events, Poll};
use std::net::{TcpListener, TcpStream as Peer};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(10);
const ID: ConnId = ConnId { slot: 0, generation: 1 };

struct Link {
    poll: Poll,
    events: Events,
    socket: Socket,
    peer: Option<Peer>,
}

impl Link {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = Peer::connect(listener.local_addr().unwrap()).unwrap();
        peer.set_read_timeout(Some(DEADLINE)).unwrap();
        let (ours, _) = listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        let poll = Poll::new().unwrap();
        let socket = Socket::open(ID, TcpStream::from_std(ours), None, poll.registry()).unwrap();
        Self { poll, events: Events::with_capacity(8), socket, peer: Some(peer) }
    }

    fn poll_until(&mut self, what: &str, done: impl Fn(&Socket) -> bool) {
        while !done(&self.socket) {
            self.poll.poll(&mut self.events, Some(DEADLINE)).unwrap();
            assert!(!self.events.is_empty(), "the poll never told: {what}");
            for event in &self.events {
                self.socket.on_event(event);
            }
        }
    }

    /// Reads until the end or the break, as the loop does.
    fn read_all(&mut self) -> (usize, Arrival) {
        let mut area = [0; 4096];
        let mut total = 0;
        loop {
            self.poll_until("readable", Socket::can_read);
            match self.socket.read(&mut area) {
                Arrival::Bytes(count) => total += count,
                Arrival::Nothing => {}
                last => return (total, last),
            }
        }
    }

    fn peer(&mut self) -> &mut Peer {
        self.peer.as_mut().unwrap()
    }

    /// A close that lingers for no time at all resets the connection.
    fn reset_by_peer(&mut self) {
        let peer = self.peer.take().unwrap();
        socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

#[test]
fn a_short_read_says_that_nothing_is_left() {
    let mut link = Link::new();
    link.peer().write_all(b"hello").unwrap();
    link.poll_until("readable", Socket::can_read);
    let mut area = [0; 64];
    assert_eq!(link.socket.read(&mut area), Arrival::Bytes(5));
    assert_eq!(&area[..5], b"hello");
    assert!(!link.socket.can_read());
}

#[test]
fn a_full_read_does_not() {
    let mut link = Link::new();
    link.peer().write_all(b"hello").unwrap();
    link.poll_until("readable", Socket::can_read);
    assert_eq!(link.socket.read(&mut [0; 5]), Arrival::Bytes(5));
    assert!(link.socket.can_read());
    assert_eq!(link.socket.read(&mut [0; 5]), Arrival::Nothing);
    assert!(!link.socket.can_read());
}

#[test]
fn the_end_behind_a_short_read_is_found_without_another_edge() {
    let mut link = Link::new();
    link.peer().write_all(b"hello").unwrap();
    link.peer().shutdown(Shutdown::Write).unwrap();
    link.poll_until("end", |socket| socket.read_closed);
    let mut area = [0; 64];
    assert_eq!(link.socket.read(&mut area), Arrival::Bytes(5));
    assert!(link.socket.can_read());
    assert_eq!(link.socket.read(&mut area), Arrival::End);
    assert!(!link.socket.can_read(), "the end is told once");
}

#[test]
fn a_peer_that_finished_sending_is_still_written_to() {
    let mut link = Link::new();
    link.peer().shutdown(Shutdown::Write).unwrap();
    assert_eq!(link.read_all(), (0, Arrival::End));
    link.socket.set_output_waits();
    assert_eq!(link.socket.write(b"last words"), Departure::Sent(10));
    let mut heard = [0; 10];
    link.peer().read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"last words");
}

#[test]
fn a_full_kernel_is_written_to_again_only_after_an_edge() {
    let mut link = Link::new();
    let bytes = vec![7; 32 << 20];
    link.socket.set_output_waits();
    let Departure::Sent(first) = link.socket.write(&bytes) else { panic!("broken") };
    assert!(first < bytes.len(), "the kernel took everything: no backpressure");
    assert!(!link.socket.can_write());
    assert_eq!(link.socket.write(&bytes[first..]), Departure::Sent(0));

    let mut peer = link.peer().try_clone().unwrap();
    let total = bytes.len();
    let reader = std::thread::spawn(move || {
        let mut heard = vec![0; total];
        peer.read_exact(&mut heard).unwrap();
        heard
    });
    let mut sent = first;
    while sent < bytes.len() {
        link.poll_until("writable", Socket::can_write);
        match link.socket.write(&bytes[sent..]) {
            Departure::Sent(count) => sent += count,
            Departure::Broken => panic!("broken after {sent}"),
        }
    }
    assert!(!link.socket.can_write(), "nothing waits any more");
    assert!(reader.join().unwrap() == bytes);
}

#[test]
fn a_reset_is_told_once() {
    let mut link = Link::new();
    link.reset_by_peer();
    assert_eq!(link.read_all(), (0, Arrival::Broken));
    assert!(!link.socket.can_read());
    assert_eq!(link.socket.read(&mut [0; 8]), Arrival::Nothing);
}

#[test]
fn a_reset_is_found_while_the_peer_is_not_read() {
    let mut link = Link::new();
    link.socket.set_wanted(false);
    link.reset_by_peer();
    link.poll_until("reset", Socket::can_read);
    assert_eq!(link.socket.read(&mut [0; 8]), Arrival::Broken);
}

#[test]
fn a_reset_is_found_after_the_peer_finished_sending() {
    let mut link = Link::new();
    link.peer().shutdown(Shutdown::Write).unwrap();
    assert_eq!(link.read_all(), (0, Arrival::End));
    link.reset_by_peer();
    link.poll_until("reset", Socket::can_read);
    assert_eq!(link.socket.read(&mut [0; 8]), Arrival::Broken);
}

#[test]
fn writing_to_a_peer_that_is_gone_breaks_once_and_kills_nobody() {
    let mut link = Link::new();
    link.reset_by_peer();
    // The reset may still be on its way: then the first writes go to the kernel.
    link.poll.poll(&mut link.events, Some(DEADLINE)).unwrap();
    let mut broken = 0;
    for _ in 0..1000 {
        link.socket.set_output_waits();
        broken += usize::from(link.socket.write(b"anybody?") == Departure::Broken);
    }
    assert_eq!(broken, 1);
}

#[test]
fn closing_with_unread_bytes_does_not_destroy_the_last_ones_sent() {
    for _ in 0..50 {
        let mut link = Link::new();
        link.peer().write_all(&[1; 10_000]).unwrap();
        link.poll_until("readable", Socket::can_read);
        link.socket.set_output_waits();
        assert_eq!(link.socket.write(b"goodbye"), Departure::Sent(7));
        let Link { socket, peer, .. } = link;
        socket.close(&mut [0; 4096]);
        let mut heard = Vec::new();
        peer.unwrap().read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"goodbye");
    }
}
