//! Messages that come back as they were, each with its sender and its number in front.

use super::plan::ECHO_HEAD_BYTES;
use super::tally::{Order, Sequence, Tally};
use crate::time::Instant;
use std::collections::VecDeque;

/// What an echo is filled with: whole periods of it would hide a shift, so its length is a prime.
const FILL_BYTES: usize = 251;

/// One connection's echoes.
pub(super) struct Echo {
    /// Whose messages they are.
    number: u32,
    message_bytes: usize,
    sent: u64,
    /// When each message that has not come back was due, from `answered` on.
    dues: VecDeque<Instant>,
    answered: u64,
    sequence: Sequence,
    expected: Vec<u8>,
}

impl Echo {
    pub(super) fn new(number: usize, message_bytes: usize) -> Self {
        let number = number as u32;
        let mut expected = vec![0; ECHO_HEAD_BYTES];
        expected[..4].copy_from_slice(&number.to_le_bytes());
        expected.extend((0..message_bytes - ECHO_HEAD_BYTES).map(|place| (place % FILL_BYTES) as u8));
        Self {
            number,
            message_bytes,
            sent: 0,
            dues: VecDeque::new(),
            answered: 0,
            sequence: Sequence::default(),
            expected,
        }
    }

    pub(super) fn message_bytes(&self) -> usize {
        self.message_bytes
    }

    /// The next message.
    pub(super) fn ask(&mut self, due: Instant) -> &[u8] {
        self.dues.push_back(due);
        let sent = self.sent;
        self.sent += 1;
        self.message(sent)
    }

    fn message(&mut self, number: u64) -> &[u8] {
        self.expected[4..ECHO_HEAD_BYTES].copy_from_slice(&number.to_le_bytes());
        &self.expected
    }

    /// A message came back.
    pub(super) fn hear(&mut self, message: &[u8], now: Instant, tally: &mut Tally) {
        let head = message.get(..ECHO_HEAD_BYTES).filter(|head| head[..4] == self.number.to_le_bytes());
        let number = head.map(|head| u64::from_le_bytes(head[4..].try_into().expect("eight bytes")));
        let Some(number) = number.filter(|&number| number < self.sent) else {
            // Another's message, or one that was never sent. The one that should have come is missing in the end.
            return tally.wrong();
        };
        if message != self.message(number) {
            tally.wrong();
        }
        let order = self.sequence.see(number);
        tally.order(order);
        if order == Order::Next {
            // What was skipped may still come late; it is no longer waited for.
            while self.answered < number {
                self.dues.pop_front();
                self.answered += 1;
            }
            if let Some(due) = self.dues.pop_front() {
                self.answered += 1;
                tally.answer(due, now);
            }
        }
    }

    pub(super) fn dues(&self) -> &VecDeque<Instant> {
        &self.dues
    }

    /// Nothing more will come.
    pub(super) fn settle(&mut self, tally: &mut Tally) {
        tally.messages.lost += self.dues.len() as u64 + self.sequence.missing();
        self.dues.clear();
        self.sequence = Sequence::from(self.sent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_zero() -> Instant {
        Instant::default()
    }

    fn echoes(count: usize) -> (Echo, Tally, Vec<Vec<u8>>) {
        let mut echo = Echo::new(7, 40);
        let messages = (0..count).map(|_| echo.ask(at_zero()).to_vec()).collect();
        (echo, Tally::new(at_zero()), messages)
    }

    #[test]
    fn messages_in_order_are_answers() {
        let (mut echo, mut tally, messages) = echoes(3);
        messages.iter().for_each(|message| echo.hear(message, at_zero(), &mut tally));
        echo.settle(&mut tally);
        assert_eq!((tally.messages.answered, tally.errors()), (3, 0));
    }

    #[test]
    fn what_comes_late_twice_changed_or_never_is_told_apart() {
        let (mut echo, mut tally, mut messages) = echoes(6);
        messages[4][20] ^= 1;
        for number in [0, 2, 1, 1, 4] {
            echo.hear(&messages[number], at_zero(), &mut tally);
        }
        echo.settle(&mut tally);
        let messages = tally.messages;
        assert_eq!((messages.reordered, messages.duplicated, messages.wrong), (1, 1, 1), "{messages:?}");
        // The fourth and the sixth.
        assert_eq!(messages.lost, 2);
    }

    #[test]
    fn anothers_message_is_wrong() {
        let (mut echo, mut tally, _) = echoes(1);
        let other = Echo::new(8, 40).ask(at_zero()).to_vec();
        echo.hear(&other, at_zero(), &mut tally);
        echo.hear(b"short", at_zero(), &mut tally);
        echo.settle(&mut tally);
        assert_eq!((tally.messages.wrong, tally.messages.lost, tally.messages.answered), (2, 1, 0));
    }
}
