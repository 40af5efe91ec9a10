//! Answers to bytes, and the count of them for the whole shard.

use std::rc::Rc;

use zeroize::Zeroize;

use super::Account;

/// Bytes sent before the rest is moved to the front of a buffer that is never empty.
const COMPACT_LEN_MIN: usize = 64 << 10;

/// Capacity that an empty buffer keeps for its next answers.
const IDLE_CAPACITY_MAX: usize = 64 << 10;

/// Answers of one connection.
pub(crate) struct Outbound {
    /// Bytes to send; the first `sent` are gone, those from `released` on are still being written.
    pub(crate) bytes: Vec<u8>,
    sent: usize,
    released: usize,
    sent_total: u64,
    account: Rc<Account>,
    /// What `account` was last told of `bytes`.
    counted: usize,
}

impl Outbound {
    /// An empty one whose bytes count for `account`.
    pub(crate) fn new(account: Rc<Account>) -> Self {
        Outbound {
            bytes: Vec::new(),
            sent: 0,
            released: 0,
            sent_total: 0,
            account,
            counted: 0,
        }
    }

    /// Returns how many bytes wait to be sent.
    pub(crate) fn pending(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Returns how many bytes are held, sent ones included.
    pub(crate) fn held(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the bytes that may be sent: those up to the release mark.
    pub(crate) fn to_send(&self) -> &[u8] {
        &self.bytes[self.sent..self.released]
    }

    /// Lets all that was written leave: moves the release mark to the end.
    pub(crate) fn release(&mut self) {
        self.released = self.bytes.len();
        self.count();
    }

    /// Returns how many bytes the peer's kernel has taken so far.
    pub(crate) fn sent_total(&self) -> u64 {
        self.sent_total
    }

    fn count(&mut self) {
        self.account.change_unsent(self.counted, self.bytes.len());
        self.counted = self.bytes.len();
    }

    /// Drops what has not been sent.
    pub(crate) fn discard(&mut self) {
        self.bytes.zeroize();
        self.bytes = Vec::new();
        (self.sent, self.released) = (0, 0);
        self.count();
    }

    /// Frees the memory of a burst that has been sent.
    pub(crate) fn shrink_if_idle(&mut self) {
        if self.bytes.is_empty() && self.bytes.capacity() > IDLE_CAPACITY_MAX {
            self.bytes = Vec::new();
        }
    }

    /// Counts the first `len` bytes of [`Outbound::to_send`] as sent.
    pub(crate) fn advance(&mut self, len: usize) {
        self.sent = self.released.min(self.sent + len);
        self.sent_total += len as u64;
        // A peer that always leaves something unsent must not make this grow indefinitely. Moving no more than was sent
        // keeps the cost below one copy of each byte.
        if self.sent == self.bytes.len()
            || (self.sent >= COMPACT_LEN_MIN && self.sent >= self.pending())
        {
            let left = self.pending();
            self.bytes.copy_within(self.sent.., 0);
            // Answers can hold secrets (`get`, `decrypt`): nothing stays behind.
            self.bytes[left..].zeroize();
            self.bytes.truncate(left);
            self.released -= self.sent;
            self.sent = 0;
        }
        self.count();
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        self.bytes.zeroize();
        self.account.change_unsent(self.counted, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Accounts;
    use crate::policy::Principal;

    #[test]
    fn a_buffer_that_is_never_empty_stays_small_and_loses_nothing() {
        let accounts = Accounts::new(1);
        let mut outbound = Outbound::new(accounts.of(Principal::Anonymous));
        let (mut written, mut taken) = (0_u64, 0_u64);
        for _ in 0..1_000 {
            let bytes = (0..5_000).map(|i| ((written + i) % 251) as u8);
            outbound.bytes.extend(bytes);
            written += 5_000;
            outbound.release();
            while outbound.pending() > 3_000 {
                let next = outbound.to_send()[0];
                assert_eq!(u64::from(next), taken % 251);
                outbound.advance(700);
                taken += 700;
            }
            assert_eq!(accounts.unsent_bytes(), outbound.bytes.len());
            assert!(outbound.bytes.len() <= 2 * COMPACT_LEN_MIN + 8_000);
        }
        assert_eq!(outbound.sent_total(), taken);
        drop(outbound);
        assert_eq!(accounts.unsent_bytes(), 0);
    }

    #[test]
    fn nothing_leaves_before_it_is_released() {
        let accounts = Accounts::new(1);
        let mut outbound = Outbound::new(accounts.of(Principal::Anonymous));
        outbound.bytes.extend_from_slice(b"one");
        assert_eq!(outbound.to_send(), b"");
        outbound.release();
        outbound.bytes.extend_from_slice(b"two");
        assert_eq!(outbound.to_send(), b"one");
        outbound.advance(3);
        assert_eq!(outbound.to_send(), b"");
        outbound.release();
        assert_eq!(outbound.to_send(), b"two");
    }
}
