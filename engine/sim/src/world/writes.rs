//! Puts and revocations: durable first, then known to the core, then acknowledged.

use super::{Asked, Event, Place, Stage, World, key_id, keyspace_id};
use crate::coverage::Input;
use crate::dice::Dice;
use crate::oracle::{Checked, ExpectedGate};
use crate::plan::Name;
use crate::store::{Blob, Write};

const SYNC: u64 = 4;

impl World<'_> {
    pub(super) fn put(
        &mut self,
        shard: u16,
        id: u64,
        asked: &Asked,
        not_after_us: Option<u64>,
    ) -> Checked {
        let name = asked.name;
        let dek = self.sites[usize::from(shard)]
            .deks
            .get(&name.keyspace)
            .copied();
        let gate = self.oracle.terms(shard, name.keyspace).gate;
        let newest = self.store.newest(shard, name);
        let revoked = newest.is_some_and(|blob| blob.revoked);
        // Sealing takes a DEK, and one that the KMS's binding vouches for.
        let Some(dek) = dek.filter(|dek| dek.right && gate == ExpectedGate::Open && !revoked)
        else {
            return self.answer(shard, id);
        };
        let blob = Blob {
            // A key that was lost is created again under an unused version number.
            version: newest
                .map_or(0, |blob| blob.version)
                .max(self.oracle.promised(name).told_version)
                .max(self.oracle.promised(name).served_version)
                + 1,
            dek_generation: dek.generation,
            not_after: not_after_us.map(|us| self.now + us),
            corrupt: false,
            revoked: false,
        };
        self.write(shard, id, name, blob);
        Ok(())
    }

    pub(super) fn revoke(&mut self, shard: u16, id: u64, asked: &Asked) -> Checked {
        let name = asked.name;
        let Some(newest) = self.store.newest(shard, name) else {
            return self.answer(shard, id);
        };
        let blob = Blob {
            revoked: true,
            ..newest
        };
        self.write(shard, id, name, blob);
        // No operation begins after this; that the revocation is permanent is acknowledged once it is durable.
        self.tell_revoked(shard, name)
    }

    fn tell_revoked(&mut self, shard: u16, name: Name) -> Checked {
        self.begin(shard);
        self.cover(shard, Input::Revoked, name);
        self.void_flight(name);
        self.flight_ended(name);
        let now = self.instant();
        let (space, key) = (keyspace_id(name.keyspace), key_id(name));
        self.sites[usize::from(shard)]
            .core
            .handle_revoked(now, space, &key);
        self.trace
            .note(self.now, || format!("  {name:?}: revoked at {shard}"));
        self.turn(shard)
    }

    fn write(&mut self, shard: u16, request: u64, name: Name, blob: Blob) {
        self.stage(request, Stage::Writing);
        self.store.write(
            shard,
            Write {
                request,
                name,
                blob,
            },
        );
        let takes_us = Dice::of(self.plan.seed, SYNC, request, 0).range(50, 3_000);
        self.schedule(takes_us, Place::Shard(shard), Event::Synced(request));
    }

    /// A group of writes is durable.
    pub(super) fn synced(&mut self, shard: u16, request: u64) -> Checked {
        for write in self.store.sync(shard, request) {
            let Write {
                request,
                name,
                blob,
            } = write;
            if blob.revoked {
                self.tell_revoked(shard, name)?;
                self.oracle.promised(name).revoked = true;
            } else {
                self.begin(shard);
                self.cover(shard, Input::Stored, name);
                let step = self.step;
                let promised = self.oracle.promised(name);
                promised.put_version = promised.put_version.max(blob.version);
                promised.told_version = promised.told_version.max(blob.version);
                promised.put_step = step;
                let (now, key) = (self.instant(), key_id(name));
                let space = keyspace_id(name.keyspace);
                self.trace.note(self.now, || {
                    format!("  {name:?}: version {} is stored", blob.version)
                });
                self.sites[usize::from(shard)]
                    .core
                    .handle_stored(now, space, &key, blob.version);
                self.turn(shard)?;
            }
            self.answer(shard, request)?;
        }
        Ok(())
    }
}
