//! Locking a KMS, and everything.

use std::rc::Rc;

use super::kms::{Kms, refusal};
use super::{Answer, Control};
use crate::authorise::Principal;

impl<K: Kms + 'static> Control<K> {
    /// Has a KMS forget its key, PIN or token, and locks the keyspaces that it wraps. Answers when nothing of them is
    /// left.
    pub(super) async fn lock_kms(self: &Rc<Self>, name: &str, who: Principal) -> Answer {
        let kms = self.kms.get(name).map_err(|error| refusal(&error))?;
        // First, since it needs nothing: no disk, and no shard.
        kms.lock();
        tracing::warn!(kms = name, %who, "KMS locked");
        let of_it = self.keyspaces_where(|of| of == name);
        self.lock_each(of_it, who).await
    }

    /// Locks every KMS and every keyspace.
    pub(super) async fn lock_all(self: &Rc<Self>, who: Principal) -> Answer {
        for (name, kms) in self.kms.iter() {
            kms.lock();
            tracing::warn!(kms = name, %who, "KMS locked");
        }
        let all = self.keyspaces_where(|_| true);
        self.lock_each(all, who).await
    }

    fn keyspaces_where(&self, kms_is: impl Fn(&str) -> bool) -> Vec<u32> {
        let in_force = self.in_force.borrow();
        let keyspaces = in_force.wanted().iter().filter(|(_, it)| kms_is(&it.kms));
        keyspaces.map(|(id, _)| id).collect()
    }

    async fn lock_each(self: &Rc<Self>, keyspaces: Vec<u32>, who: Principal) -> Answer {
        if keyspaces.is_empty() {
            return Ok(Vec::new());
        }
        self.lock(keyspaces, who).await
    }
}
