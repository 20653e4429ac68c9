//! How other threads wake the loop, at the price of a system call only if it sleeps.
//!
//! The ringer first puts its result where the loop looks, then asks whether the loop sleeps. The loop first says
//! that it is about to sleep, then looks once more. Both steps of both sides are in one total order (`SeqCst`), so
//! whichever comes second sees the other: no result waits for a loop that sleeps on.

use mio::Waker;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst, fence};

/// Shared by the loop and everyone who wakes it.
#[derive(Debug)]
pub(super) struct Doorbell {
    waker: Waker,
    asleep: AtomicBool,
}

impl Doorbell {
    /// A bell for a loop that is awake.
    pub(super) fn new(waker: Waker) -> Self {
        Self { waker, asleep: AtomicBool::new(false) }
    }

    /// Makes the loop turn once more, asleep or not.
    pub(super) fn ring(&self) {
        if let Err(error) = self.waker.wake() {
            // The loop turns about once a second anyway, so nothing is lost but time.
            log::error!("cannot wake the event loop: {error}");
        }
    }

    /// Wakes the loop if it sleeps. Call it after the result is where the loop looks.
    ///
    /// Of many ringers only the first makes the system call.
    pub(super) fn ring_if_asleep(&self) {
        fence(SeqCst);
        if self.asleep.load(SeqCst) && self.asleep.swap(false, SeqCst) {
            self.ring();
        }
    }

    /// The loop is about to sleep. It must look for results once more after this, and not sleep if there are any.
    pub(super) fn fall_asleep(&self) {
        self.asleep.store(true, SeqCst);
        fence(SeqCst);
    }

    /// The loop is awake: it will look before it sleeps again.
    pub(super) fn get_up(&self) {
        self.asleep.store(false, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll, Token};
    use std::sync::Arc;
    use std::time::Duration;

    const BELL: Token = Token(7);

    fn bell() -> (Poll, Arc<Doorbell>) {
        let poll = Poll::new().unwrap();
        let waker = Waker::new(poll.registry(), BELL).unwrap();
        (poll, Arc::new(Doorbell::new(waker)))
    }

    fn rang(poll: &mut Poll, patience: Duration) -> bool {
        let mut events = Events::with_capacity(4);
        poll.poll(&mut events, Some(patience)).unwrap();
        events.iter().any(|event| event.token() == BELL)
    }

    #[test]
    fn a_loop_that_is_awake_is_not_rung() {
        let (mut poll, bell) = bell();
        bell.ring_if_asleep();
        assert!(!rang(&mut poll, Duration::ZERO));
    }

    #[test]
    fn a_sleeping_loop_is_rung_once() {
        let (mut poll, bell) = bell();
        bell.fall_asleep();
        bell.ring_if_asleep();
        assert!(rang(&mut poll, Duration::from_secs(10)));
        bell.ring_if_asleep();
        assert!(!rang(&mut poll, Duration::ZERO));
    }

    #[test]
    fn no_result_is_slept_through() {
        let (mut poll, bell) = bell();
        let (sender, receiver) = crossbeam_channel::bounded(1);
        const RESULTS: u32 = 20_000;
        let ringer = Arc::clone(&bell);
        let thread = std::thread::spawn(move || {
            for result in 0..RESULTS {
                sender.send(result).unwrap();
                ringer.ring_if_asleep();
            }
        });
        let mut events = Events::with_capacity(4);
        let mut expected = 0;
        while expected < RESULTS {
            bell.fall_asleep();
            if receiver.is_empty() {
                // No time-out would do here: a lost wake must show, so it shows as an empty poll.
                poll.poll(&mut events, Some(Duration::from_secs(20))).unwrap();
                assert!(!events.is_empty(), "slept through result {expected}");
            }
            bell.get_up();
            while let Ok(result) = receiver.try_recv() {
                assert_eq!(result, expected);
                expected += 1;
            }
        }
        thread.join().unwrap();
    }
}
