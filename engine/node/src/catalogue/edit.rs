//! One change of the catalogue. It is applied again whenever an earlier one is undone, so it is data, and applying it is a
//! pure function.

use super::{By, Catalogue, CatalogueError, NewKeyspace, SettingsChange, WrappedDek};

/// A change of some keyspaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// A new keyspace, under an id that was reserved for it.
    Create {
        /// Its id.
        id: u32,
        /// Its name.
        name: String,
        /// Its settings and grants.
        change: SettingsChange,
        /// The KMS that has wrapped its first DEK.
        kms: String,
        /// The record of that DEK.
        record: Vec<u8>,
        /// Who makes it.
        by: By,
    },
    /// Settings and grants.
    Set {
        /// Which keyspace.
        id: u32,
        /// The change.
        change: SettingsChange,
        /// Who makes it.
        by: By,
    },
    /// Locks, or ends locks. A keyspace whose making was undone has none.
    Lock {
        /// Which keyspaces.
        ids: Vec<u32>,
        /// Whether they are locked from now on.
        locked: bool,
        /// Who does it.
        by: By,
    },
    /// Another DEK, after the current one.
    AddDek {
        /// Which keyspace.
        id: u32,
        /// The KMS that has wrapped it.
        kms: String,
        /// The DEK.
        dek: WrappedDek,
        /// Who makes it.
        by: By,
    },
    /// All DEKs but the current one are retired.
    Retire {
        /// Which keyspace.
        id: u32,
        /// Who does it.
        by: By,
    },
    /// Retired DEKs are in use again.
    Revive {
        /// Which keyspace.
        id: u32,
        /// The DEKs' generations.
        generations: Vec<u32>,
        /// Who does it.
        by: By,
    },
    /// The retired DEKs are destroyed.
    DestroyRetired {
        /// Which keyspace.
        id: u32,
        /// Who does it.
        by: By,
    },
    /// The retired DEKs of these keyspaces that have been kept for their time are destroyed.
    DestroyDue {
        /// Which keyspaces.
        ids: Vec<u32>,
        /// When.
        by: By,
    },
    /// The DEKs, wrapped anew.
    Rewrap {
        /// Which keyspace.
        id: u32,
        /// The KMS that they were at.
        from: String,
        /// The KMS that they are at from now on.
        to: String,
        /// All of them, in use and retired.
        deks: Vec<WrappedDek>,
        /// Who moves them.
        by: By,
    },
    /// Nothing: what is there is written again, under new seals.
    Seal,
}

impl Edit {
    /// The keyspaces that it touches.
    pub fn keyspaces(&self) -> &[u32] {
        match self {
            Edit::Create { id, .. }
            | Edit::Set { id, .. }
            | Edit::AddDek { id, .. }
            | Edit::Retire { id, .. }
            | Edit::Revive { id, .. }
            | Edit::DestroyRetired { id, .. }
            | Edit::Rewrap { id, .. } => std::slice::from_ref(id),
            Edit::Lock { ids, .. } | Edit::DestroyDue { ids, .. } => ids,
            Edit::Seal => &[],
        }
    }
}

impl Catalogue {
    /// Makes a change.
    ///
    /// Errors: it does not fit; nothing has changed.
    pub fn apply(&mut self, edit: &Edit) -> Result<(), CatalogueError> {
        let before = self.clone_of(edit.keyspaces());
        let applied = self.apply_parts(edit);
        if applied.is_err() {
            self.put_back(before);
        }
        applied
    }

    fn apply_parts(&mut self, edit: &Edit) -> Result<(), CatalogueError> {
        match edit {
            Edit::Create {
                id,
                name,
                change,
                kms,
                record,
                by,
            } => {
                let new = NewKeyspace {
                    name,
                    change,
                    kms,
                    record,
                };
                self.create_as(*id, new, by)
            }
            Edit::Set { id, change, by } => self.set(*id, change, by),
            Edit::Lock { ids, locked, by } => {
                for id in ids {
                    match self.set_locked(*id, *locked, by) {
                        Ok(()) | Err(CatalogueError::Missing(_)) => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(())
            }
            Edit::AddDek { id, kms, dek, by } => {
                self.check_kms(*id, kms)?;
                self.add_dek(*id, dek, by)
            }
            Edit::Retire { id, by } => self.retire_deks(*id, by),
            Edit::Revive {
                id,
                generations,
                by,
            } => {
                for generation in generations {
                    self.revive_dek(*id, *generation, by)?;
                }
                Ok(())
            }
            Edit::DestroyRetired { id, by } => self.destroy_retired(*id, by).map(drop),
            Edit::DestroyDue { by, .. } => {
                self.destroy_due(by);
                Ok(())
            }
            Edit::Rewrap {
                id,
                from,
                to,
                deks,
                by,
            } => {
                self.check_kms(*id, from)?;
                self.rewrap(*id, to, deks, by)
            }
            Edit::Seal => Ok(()),
        }
    }

    fn check_kms(&self, id: u32, kms: &str) -> Result<(), CatalogueError> {
        if self.keyspace(id)?.kms == kms {
            return Ok(());
        }
        Err(CatalogueError::Conflict(
            "the keyspace was moved to another KMS meanwhile; try again".to_owned(),
        ))
    }
}
