//! Nothing of a KMS's keyspaces is handed out, and nothing that gives something is sealed, before its part of the
//! catalogue has been checked.

use std::rc::Rc;
use std::sync::Arc;

use keyway_kms::KmsError;

use super::Control;
use super::catalogue::{Catalogue, CatalogueError};
use super::catalogue_file::{CatalogueFile, Checked, FirstSeal};
use super::kms::{Kms, refusal};
use super::saver::Refused;

impl<K: Kms + 'static> Control<K> {
    /// Has sections checked against their seals in this file.
    #[must_use]
    pub fn with_file(self, file: Arc<CatalogueFile>) -> Self {
        let file = Some(file);
        Control { file, ..self }
    }

    /// Makes sure that the keyspaces of a KMS are what a server has written.
    ///
    /// Errors: they are not; the KMS does not answer.
    pub(super) async fn check_section(
        &self,
        name: &str,
        first_seal: FirstSeal,
    ) -> Result<(), KmsError> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let kms = self.kms.get(name)?;
        if file.check(name, kms, first_seal).await? == Checked::Anew {
            self.seal_due.set(true);
        }
        Ok(())
    }

    /// The same before settings of a keyspace are changed. A change that only withdraws grants is kept without a seal, so
    /// that it waits for no KMS.
    pub(super) async fn check_before_set(
        &self,
        id: u32,
        set: impl Fn(&mut Catalogue) -> Result<(), CatalogueError>,
    ) -> Result<(), Refused> {
        let (kms, only_withdraws) = {
            let in_force = self.in_force.borrow();
            let before = in_force.wanted();
            let mut after = before.clone();
            set(&mut after)?;
            let (before, after) = (before.keyspace(id)?, after.keyspace(id)?);
            (before.kms.clone(), after.only_withdraws(before))
        };
        if only_withdraws {
            return Ok(());
        }
        let checked = self.check_section(&kms, FirstSeal::Optional).await;
        checked.map_err(|error| refusal(&error))
    }

    /// Has what was changed without a seal sealed, once that can be done. To be called once a second.
    pub(super) fn seal_anew(self: &Rc<Self>) {
        if self.seal_due.take() {
            // Nobody waits for it: the next change seals everything, too.
            let _ = self.want(&[], |_| Ok(()));
        }
    }
}
