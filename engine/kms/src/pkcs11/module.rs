//! Modules that are loaded into this process. A module is initialised once for a process, whoever uses it, and stays
//! loaded: to unload one under another user, or one whose call hangs, would end the process.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11 as Module};
use cryptoki::error::{Error, RvError};

static LOADED: Mutex<Vec<Loaded>> = Mutex::new(Vec::new());

struct Loaded {
    path: PathBuf,
    /// Every user holds a clone for as long as it has a session or opens one.
    module: Arc<Module>,
    is_initialised: bool,
}

/// The module at `path`, loaded and initialised. Blocks, perhaps for long: the module's own code runs. A module that
/// does not initialise is asked again at the next call.
pub(super) fn load(path: &Path) -> Result<Arc<Module>, Error> {
    // One file may have several names. What cannot be resolved fails below, with the loader's reason.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    // Held during the load, so that a module is not initialised twice at the same time.
    let mut loaded = loaded();
    let at = match loaded.iter().position(|known| known.path == path) {
        Some(at) => at,
        None => {
            let module = Arc::new(Module::new(&path)?);
            loaded.push(Loaded {
                path,
                module,
                is_initialised: false,
            });
            loaded.len() - 1
        }
    };
    loaded[at].initialise()?;
    Ok(Arc::clone(&loaded[at].module))
}

/// Finalises `module` and initialises it anew, if the caller is its only user: some modules look for tokens only then.
/// The caller has no session. Returns whether it was done.
pub(super) fn restart(module: &Arc<Module>) -> Result<bool, Error> {
    // Held until the end: nobody becomes a user meanwhile.
    let mut loaded = loaded();
    let is_it = |known: &&mut Loaded| Arc::ptr_eq(&known.module, module);
    let Some(known) = loaded.iter_mut().find(is_it) else {
        return Ok(false);
    };
    // The list's clone and the caller's.
    if Arc::strong_count(module) > 2 {
        return Ok(false);
    }
    Module::clone(module).finalize()?;
    known.is_initialised = false;
    known.initialise()?;
    Ok(true)
}

impl Loaded {
    fn initialise(&mut self) -> Result<(), Error> {
        if self.is_initialised {
            return Ok(());
        }
        // Several providers may use the module, each from a thread of its own.
        let locking = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
        match self.module.initialize(locking) {
            // By another part of the process.
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {
                self.is_initialised = true;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

fn loaded() -> MutexGuard<'static, Vec<Loaded>> {
    // Every change is whole before anything can panic.
    LOADED.lock().unwrap_or_else(PoisonError::into_inner)
}
