//! Which shard owns a key. Published, seeded and stable: every client in every language and every
//! shard computes the same.

use alloc::vec::Vec;
use core::hash::Hasher;

use siphasher::sip::SipHasher24;

use crate::ProtocolError;
use crate::limits::SHARD_COUNT_MAX;
use crate::reader::in_range;

/// The hash and how many shards there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Router {
    seed: [u8; 16],
    shard_count: u16,
}

impl Router {
    /// The id of the hash in HELLO: SipHash-2-4 with a 128-bit key and a 64-bit result.
    pub const HASH_ID: u8 = 1;

    /// A router for `1 <= shard_count <= SHARD_COUNT_MAX` shards.
    pub fn new(seed: [u8; 16], shard_count: u16) -> Result<Self, ProtocolError> {
        in_range(
            "shard_count",
            u64::from(shard_count),
            1,
            u64::from(SHARD_COUNT_MAX),
        )?;
        Ok(Self { seed, shard_count })
    }

    /// The seed.
    #[must_use]
    pub const fn seed(&self) -> [u8; 16] {
        self.seed
    }

    /// How many shards there are.
    #[must_use]
    pub const fn shard_count(&self) -> u16 {
        self.shard_count
    }

    /// The hash of a key's name: SipHash-2-4 over the keyspace id (4 bytes, little-endian) and the
    /// key id.
    #[must_use]
    #[inline]
    pub fn hash(&self, keyspace_id: u32, key_id: &[u8]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.seed);
        hasher.write(&keyspace_id.to_le_bytes());
        hasher.write(key_id);
        hasher.finish()
    }

    /// The shard that owns a key: the hash, as a fraction of 2^64, of the shard count.
    #[must_use]
    #[inline]
    pub fn shard_of(&self, keyspace_id: u32, key_id: &[u8]) -> u16 {
        if self.shard_count == 1 {
            return 0;
        }
        let scaled = u128::from(self.hash(keyspace_id, key_id)) * u128::from(self.shard_count);
        // The product is below 2^64 * shard_count, so its high half is below shard_count.
        (scaled >> 64) as u16
    }
}

/// The router and where each shard listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardMap {
    /// Which shard owns a key.
    pub router: Router,
    /// The TCP port of each shard, by index; 0 if it has none of its own.
    pub ports: Vec<u16>,
}

impl ShardMap {
    /// A map with one port for each of `ports.len()` shards.
    pub fn new(seed: [u8; 16], ports: Vec<u16>) -> Result<Self, ProtocolError> {
        let shard_count = u16::try_from(ports.len()).unwrap_or(u16::MAX);
        let router = Router::new(seed, shard_count)?;
        Ok(Self { router, ports })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Appendix A of "SipHash: a fast short-input PRF" (Aumasson and Bernstein, 2012): key 00 to
    /// 0f, message 00 to 0e. Its first four bytes are read here as the keyspace id.
    #[test]
    fn the_published_siphash_vector_comes_out() {
        let seed = core::array::from_fn(|i| i as u8);
        let router = Router::new(seed, 1).unwrap();
        let key_id: [u8; 11] = core::array::from_fn(|i| i as u8 + 4);
        assert_eq!(
            router.hash(u32::from_le_bytes([0, 1, 2, 3]), &key_id),
            0xa129_ca61_49be_45e5
        );
    }

    #[test]
    fn every_shard_gets_its_share() {
        let router = Router::new([7; 16], 8).unwrap();
        let mut counts = [0_u32; 8];
        for index in 0..8_000_u32 {
            counts[usize::from(router.shard_of(1, &index.to_le_bytes()))] += 1;
        }
        // Binomial with a mean of 1000 and a deviation of 30: five deviations.
        assert!(
            counts.iter().all(|count| (850..1_150).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn maps_without_shards_or_with_too_many_are_refused() {
        assert!(ShardMap::new([0; 16], Vec::new()).is_err());
        assert!(ShardMap::new([0; 16], alloc::vec![0; 1_025]).is_err());
        assert!(ShardMap::new([0; 16], alloc::vec![0; 100_000]).is_err());
    }
}
