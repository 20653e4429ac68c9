//! All sockets of the loop, by the slot of their connection, and which of them are to be read or written next.
//!
//! Whoever is to be read stands in one queue, each once. A turn serves those who stood there when it began, each
//! for its share; who has more stands at the end again. So nobody starves and nobody is forgotten.
//!
//! Invariants: a key of an earlier holder of a slot misses. A closed socket keeps its descriptor until
//! [`Sockets::free_closed`] at the end of the turn, so that an event of the same poll cannot hit its successor.

use super::socket::Socket;
use crate::id::ConnId;
use mio::event::Event;
use std::collections::VecDeque;

#[derive(Default)]
pub(super) struct Sockets {
    places: Vec<Option<Place>>,
    open: usize,
    to_read: VecDeque<ConnId>,
    to_write: VecDeque<ConnId>,
    closed: Vec<Socket>,
}

struct Place {
    socket: Socket,
    in_to_read: bool,
    in_to_write: bool,
}

impl Sockets {
    /// How many descriptors are held.
    pub(super) fn len(&self) -> usize {
        self.open + self.closed.len()
    }

    /// Puts a socket at the slot of its connection.
    pub(super) fn insert(&mut self, socket: Socket) {
        let slot = socket.id().slot as usize;
        if slot >= self.places.len() {
            self.places.resize_with(slot + 1, || None);
        }
        debug_assert!(self.places[slot].is_none(), "the core gave a slot away twice");
        self.places[slot] = Some(Place { socket, in_to_read: false, in_to_write: false });
        self.open += 1;
    }

    /// The socket of that connection, unless it is closed.
    pub(super) fn get_mut(&mut self, id: ConnId) -> Option<&mut Socket> {
        self.place(id).map(|place| &mut place.socket)
    }

    /// Whether that connection is in the handshake of TLS.
    pub(super) fn is_greeting(&self, id: ConnId) -> bool {
        let place = self.places.get(id.slot as usize).and_then(Option::as_ref);
        place.is_some_and(|place| place.socket.id() == id && place.socket.is_greeting())
    }

    /// Notes what the poll told of the socket that stands at the event's token.
    pub(super) fn on_event(&mut self, event: &Event) {
        let Some(Some(place)) = self.places.get_mut(event.token().0) else { return };
        place.socket.on_event(event);
        let id = place.socket.id();
        self.queue(id);
    }

    /// The core wants this peer's bytes, or no longer wants them.
    pub(super) fn set_readable(&mut self, id: ConnId, readable: bool) {
        if let Some(socket) = self.get_mut(id) {
            socket.set_wanted(readable);
            // What came meanwhile raises no edge any more.
            self.queue(id);
        }
    }

    /// The core holds bytes for this peer.
    pub(super) fn set_output_waits(&mut self, id: ConnId) {
        if let Some(socket) = self.get_mut(id) {
            socket.set_output_waits();
            self.queue(id);
        }
    }

    /// Queues a socket for whatever can be done with it. Nothing happens if it stands there already.
    pub(super) fn queue(&mut self, id: ConnId) {
        let Some(place) = get_place(&mut self.places, id) else { return };
        if place.socket.can_read() && !place.in_to_read {
            place.in_to_read = true;
            self.to_read.push_back(id);
        }
        if place.socket.can_write() && !place.in_to_write {
            place.in_to_write = true;
            self.to_write.push_back(id);
        }
    }

    /// How many stand to be read, and to be written.
    pub(super) fn queued(&self) -> (usize, usize) {
        (self.to_read.len(), self.to_write.len())
    }

    /// Takes the next to be read. It may be closed by now.
    pub(super) fn pop_to_read(&mut self) -> Option<ConnId> {
        let id = self.to_read.pop_front()?;
        if let Some(place) = self.place(id) {
            place.in_to_read = false;
        }
        Some(id)
    }

    /// Takes the next to be written. It may be closed by now.
    pub(super) fn pop_to_write(&mut self) -> Option<ConnId> {
        let id = self.to_write.pop_front()?;
        if let Some(place) = self.place(id) {
            place.in_to_write = false;
        }
        Some(id)
    }

    /// The key is dead from here on; the descriptor goes at the end of the turn.
    pub(super) fn close(&mut self, id: ConnId) {
        if self.place(id).is_some()
            && let Some(place) = self.places[id.slot as usize].take()
        {
            self.open -= 1;
            self.closed.push(place.socket);
        }
    }

    /// Frees the descriptors of what was closed in this turn. Tells whether there were any.
    pub(super) fn free_closed(&mut self, area: &mut [u8]) -> bool {
        let any = !self.closed.is_empty();
        for socket in self.closed.drain(..) {
            socket.close(area);
        }
        any
    }

    fn place(&mut self, id: ConnId) -> Option<&mut Place> {
        get_place(&mut self.places, id)
    }
}

fn get_place(places: &mut [Option<Place>], id: ConnId) -> Option<&mut Place> {
    places.get_mut(id.slot as usize)?.as_mut().filter(|place| place.socket.id() == id)
}

#[cfg(test)]
mod tests {
    use super::super::socket::{Arrival, Departure};
    use super::*;
    use mio::{Events, Poll};
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    struct World {
        poll: Poll,
        listener: TcpListener,
        sockets: Sockets,
    }

    impl World {
        fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            Self { poll: Poll::new().unwrap(), listener, sockets: Sockets::default() }
        }

        fn connect(&mut self, slot: u32, generation: u32) -> (ConnId, TcpStream) {
            let peer = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
            let (ours, _) = self.listener.accept().unwrap();
            ours.set_nonblocking(true).unwrap();
            let id = ConnId { slot, generation };
            let ours = mio::net::TcpStream::from_std(ours);
            self.sockets.insert(Socket::open(id, ours, None, self.poll.registry()).unwrap());
            (id, peer)
        }

        /// Polls until somebody stands to be read.
        fn poll_until_readable(&mut self) {
            let mut events = Events::with_capacity(16);
            while self.sockets.queued().0 == 0 {
                self.poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
                assert!(!events.is_empty(), "nothing came within the deadline");
                events.iter().for_each(|event| self.sockets.on_event(event));
            }
        }
    }

    #[test]
    fn a_key_of_an_earlier_holder_misses() {
        let mut world = World::new();
        let (old, _peer) = world.connect(0, 1);
        world.sockets.close(old);
        assert!(world.sockets.get_mut(old).is_none());
        world.sockets.free_closed(&mut [0; 64]);
        let (new, _peer) = world.connect(0, 2);
        world.sockets.close(old);
        world.sockets.set_output_waits(old);
        assert_eq!(world.sockets.queued().1, 0);
        assert!(world.sockets.get_mut(new).is_some());
    }

    #[test]
    fn a_closed_socket_holds_its_descriptor_until_the_end_of_the_turn() {
        let mut world = World::new();
        let (id, _peer) = world.connect(3, 1);
        assert_eq!(world.sockets.len(), 1);
        world.sockets.close(id);
        world.sockets.close(id);
        assert_eq!(world.sockets.len(), 1);
        assert!(world.sockets.free_closed(&mut [0; 64]));
        assert_eq!(world.sockets.len(), 0);
        assert!(!world.sockets.free_closed(&mut [0; 64]));
    }

    #[test]
    fn whoever_is_to_be_read_stands_in_the_queue_once() {
        let mut world = World::new();
        let (id, mut peer) = world.connect(0, 1);
        peer.write_all(b"x").unwrap();
        world.poll_until_readable();
        world.sockets.queue(id);
        world.sockets.set_readable(id, true);
        assert_eq!(world.sockets.queued().0, 1);
        assert_eq!(world.sockets.pop_to_read(), Some(id));
        assert_eq!(world.sockets.pop_to_read(), None);
    }

    #[test]
    fn bytes_that_came_while_unwanted_are_read_when_wanted_again() {
        let mut world = World::new();
        let (id, mut peer) = world.connect(0, 1);
        world.sockets.set_readable(id, false);
        peer.write_all(b"hello").unwrap();
        let mut events = Events::with_capacity(16);
        while !events.iter().any(|event| event.is_readable()) {
            world.poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
            events.iter().for_each(|event| world.sockets.on_event(event));
        }
        assert_eq!(world.sockets.queued().0, 0);
        world.sockets.set_readable(id, true);
        assert_eq!(world.sockets.pop_to_read(), Some(id));
        let mut area = [0; 64];
        assert_eq!(world.sockets.get_mut(id).unwrap().read(&mut area), Arrival::Bytes(5));
    }

    #[test]
    fn bytes_to_write_queue_a_socket_once() {
        let mut world = World::new();
        let (id, _peer) = world.connect(0, 1);
        world.sockets.set_output_waits(id);
        world.sockets.set_output_waits(id);
        assert_eq!(world.sockets.pop_to_write(), Some(id));
        assert_eq!(world.sockets.pop_to_write(), None);
        assert_eq!(world.sockets.get_mut(id).unwrap().write(b"bytes"), Departure::Sent(5));
        world.sockets.queue(id);
        assert_eq!(world.sockets.pop_to_write(), None);
    }
}
