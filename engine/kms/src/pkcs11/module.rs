//! Modules that are loaded into this process. A module is initialised once for a process, whoever uses it, and stays:
//! unloading one under another user, or one whose call hangs, would end the process.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11 as Module};
use cryptoki::error::{Error, RvError};

static LOADED: Mutex<Vec<(PathBuf, Module)>> = Mutex::new(Vec::new());

/// The module at `path`, loaded and initialised. Blocks, perhaps for long: the module's own code runs. A module that
/// failed to start is loaded again at the next call.
pub(super) fn load(path: &Path) -> Result<Module, Error> {
    // Held during the load, so that a module is not initialised twice at the same time.
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, module)) = loaded.iter().find(|(known, _)| known == path) {
        return Ok(module.clone());
    }
    let module = Module::new(path)?;
    // Several providers may use the module, each from a thread of its own.
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        // The same file by another name, or another part of the process.
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(error) => return Err(error),
    }
    loaded.push((path.to_owned(), module.clone()));
    Ok(module)
}
