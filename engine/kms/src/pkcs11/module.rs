//! The modules loaded into this process. A module is initialised once per process for all users, and stays loaded:
//! unloading one that another user needs, or one whose call hangs, would end the process.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11 as Module};
use cryptoki::error::{Error, RvError};

static LOADED: Mutex<Vec<Loaded>> = Mutex::new(Vec::new());

struct Loaded {
    path: PathBuf,
    /// Every user holds a clone while it has a session or opens one.
    module: Arc<Module>,
    is_initialised: bool,
}

/// Returns the module at `path`, loaded and initialised. May block for long, since the module's own code runs. A module
/// that fails to initialise is tried again at the next call.
pub(super) fn load(path: &Path) -> Result<Arc<Module>, Error> {
    // One file may have several names. What cannot be resolved fails below, with the loader's reason.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    // Held during the load, so that a module is not initialised twice concurrently.
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

/// Finalises `module` and initialises it again, if the caller is its only user: some modules detect tokens only then. The
/// caller has no session. Returns whether it was done.
pub(super) fn restart(module: &Arc<Module>) -> Result<bool, Error> {
    // Held until the end, so that no other user is added in the meantime.
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
        // Several providers may use the module, each from its own thread.
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
    // Every change is complete before anything can panic.
    LOADED.lock().unwrap_or_else(PoisonError::into_inner)
}
