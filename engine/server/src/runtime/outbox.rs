//! The write side of a connection: answers that wait to be sent, and the count of them for the whole shard.

use std::rc::Rc;
use std::task::Waker;

use zeroize::Zeroize;

use crate::accounts::Account;

/// Bytes sent before the rest is moved to the front of an outbox that is never empty.
const COMPACT_LEN_MIN: usize = 64 << 10;

/// Capacity that an empty outbox keeps for its next answers.
const IDLE_CAPACITY_MAX: usize = 64 << 10;

/// Answers of one connection.
pub struct Outbox {
    /// Bytes to send; the first `sent` are gone.
    pub bytes: Vec<u8>,
    sent: usize,
    sent_total: u64,
    waker: Option<Waker>,
    woken: bool,
    account: Rc<Account>,
    /// What `account` was last told of `bytes`.
    counted: usize,
}

impl Outbox {
    /// An empty outbox whose bytes count for `account`.
    pub fn new(account: Rc<Account>) -> Outbox {
        Outbox {
            bytes: Vec::new(),
            sent: 0,
            sent_total: 0,
            waker: None,
            woken: false,
            account,
            counted: 0,
        }
    }

    /// Bytes that still wait to be sent.
    pub fn pending(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// The bytes that still wait to be sent.
    pub fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Makes the connection's task look again: there are bytes, or it is to close.
    pub fn wake(&mut self) {
        self.settle();
        self.woken = true;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Bytes that the peer's kernel has taken so far.
    pub fn sent_total(&self) -> u64 {
        self.sent_total
    }

    /// Tells the account how many bytes there are now. Whoever appends calls this or [`Outbox::wake`] afterwards.
    pub fn settle(&mut self) {
        self.account.change_unsent(self.counted, self.bytes.len());
        self.counted = self.bytes.len();
    }

    /// Drops what has not been sent.
    pub fn discard(&mut self) {
        self.bytes.zeroize();
        self.bytes = Vec::new();
        self.sent = 0;
        self.settle();
    }

    /// Gives back the memory of a burst that has been sent.
    pub fn shrink_if_idle(&mut self) {
        if self.bytes.is_empty() && self.bytes.capacity() > IDLE_CAPACITY_MAX {
            self.bytes = Vec::new();
        }
    }

    pub(super) fn wait(&mut self, waker: &Waker) {
        self.waker = Some(waker.clone());
    }

    pub(super) fn wait_no_more(&mut self) {
        self.waker = None;
    }

    pub(super) fn take_woken(&mut self) -> bool {
        std::mem::take(&mut self.woken)
    }

    pub(super) fn advance(&mut self, count: usize) {
        self.sent += count;
        self.sent_total += count as u64;
        // A peer that always leaves something unsent must not make this grow for ever. Moving no
        // more than has been sent keeps the cost below one copy of each byte.
        if self.sent == self.bytes.len()
            || (self.sent >= COMPACT_LEN_MIN && self.sent >= self.pending())
        {
            let left = self.pending();
            self.bytes.copy_within(self.sent.., 0);
            // Answers can hold secrets (`get`, `decrypt`): nothing stays behind.
            self.bytes[left..].zeroize();
            self.bytes.truncate(left);
            self.sent = 0;
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.account.change_unsent(self.counted, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::Accounts;
    use crate::authorise::Principal;

    #[test]
    fn an_outbox_that_is_never_empty_stays_small_and_loses_nothing() {
        let accounts = Accounts::new(1);
        let mut outbox = Outbox::new(accounts.of(Principal::Anonymous));
        let (mut written, mut taken) = (0_u64, 0_u64);
        for _ in 0..1_000 {
            let bytes = (0..5_000).map(|i| ((written + i) % 251) as u8);
            outbox.bytes.extend(bytes);
            written += 5_000;
            while outbox.pending() > 3_000 {
                let next = outbox.unsent()[0];
                assert_eq!(u64::from(next), taken % 251);
                outbox.advance(700);
                taken += 700;
            }
            outbox.settle();
            assert_eq!(accounts.unsent_bytes(), outbox.bytes.len());
            assert!(outbox.bytes.len() <= 2 * COMPACT_LEN_MIN + 8_000);
        }
        assert_eq!(outbox.sent_total(), taken);
        drop(outbox);
        assert_eq!(accounts.unsent_bytes(), 0);
    }
}
