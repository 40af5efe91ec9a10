//! One change of the catalogue. It is applied again whenever an earlier one is undone, so it is data, and applying it is
//! a pure function.

use super::{Catalogue, CatalogueError, ChangeAuthor, NewKeyspace, SettingsChange, WrappedDek};

/// A change of one or more keyspaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Creates a keyspace under an id reserved for it.
    Create {
        /// The keyspace id.
        id: u32,
        /// The keyspace name.
        name: String,
        /// Its settings and grants.
        change: SettingsChange,
        /// The KMS that wrapped the first DEK.
        kms: String,
        /// The wrapped first DEK.
        record: Vec<u8>,
        /// The author and time of the change.
        by: ChangeAuthor,
    },
    /// Changes settings and grants.
    Set {
        /// The keyspace id.
        id: u32,
        /// The change.
        change: SettingsChange,
        /// The author and time of the change.
        by: ChangeAuthor,
    },
    /// Locks or unlocks keyspaces. Has no effect on a keyspace whose creation was undone.
    Lock {
        /// The keyspace ids.
        ids: Vec<u32>,
        /// Whether the keyspaces are locked after this edit.
        locked: bool,
        /// The author and time of the change.
        by: ChangeAuthor,
    },
    /// Adds a DEK after the current one.
    AddDek {
        /// The keyspace id.
        id: u32,
        /// The KMS that wrapped it.
        kms: String,
        /// The DEK.
        dek: WrappedDek,
        /// The author and time of the change.
        by: ChangeAuthor,
    },
    /// Retires all DEKs except the current one.
    Retire {
        /// The keyspace id.
        id: u32,
        /// The author and time of the change.
        by: ChangeAuthor,
    },
    /// Puts retired DEKs into use again.
    Revive {
        /// The keyspace id.
        id: u32,
        /// The generations of the DEKs.
        generations: Vec<u32>,
        /// The author and time of the change.
        by: ChangeAuthor,
    },
    /// Destroys the retired DEKs.
    DestroyRetired {
        /// The keyspace id.
        id: u32,
        /// The author and time of the change.
        by: ChangeAuthor,
    },
    /// Destroys the retired DEKs whose retention has ended.
    DestroyDue {
        /// The keyspace ids.
        ids: Vec<u32>,
        /// The author and time of the change.
        by: ChangeAuthor,
    },
    /// Replaces the DEKs by the same DEKs, wrapped by another KMS.
    Rewrap {
        /// The keyspace id.
        id: u32,
        /// The KMS that wrapped them until now.
        from: String,
        /// The KMS that wraps them after this edit.
        to: String,
        /// All of them, in use and retired.
        deks: Vec<WrappedDek>,
        /// The author and time of the change.
        by: ChangeAuthor,
    },
    /// Changes nothing: the current contents are saved again, under new seals.
    Seal,
}

impl Edit {
    /// Returns the keyspaces that it changes.
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
    /// Applies an edit.
    ///
    /// Errors: the edit conflicts with the current state, which is unchanged.
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
            "the keyspace was moved to another KMS in the meantime; try again".to_owned(),
        ))
    }
}
