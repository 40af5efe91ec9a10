//! Writes beside the control thread, so that the disk keeps nothing waiting that does not depend on it.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::RecvError;

use super::HOT_KEYS_FILE;
use super::catalogue::Catalogue;

/// Starts to write the catalogue's file as a whole, durably; what is returned says how that ended. One write at a time.
pub type Save = Box<dyn Fn(Catalogue) -> oneshot::Receiver<std::io::Result<()>>>;

/// Writes the file of hot keys as a whole, durably. Blocks.
pub type SaveHotKeys = Arc<dyn Fn(&[u8]) -> std::io::Result<()> + Send + Sync>;

/// A thread of its own that writes the catalogue.
///
/// Errors: there is no thread to be had.
pub fn beside(
    write: impl Fn(&Catalogue) -> std::io::Result<()> + Send + 'static,
) -> std::io::Result<Save> {
    type Job = (Catalogue, oneshot::Sender<std::io::Result<()>>);
    let (jobs, inbox) = std::sync::mpsc::channel::<Job>();
    let thread = std::thread::Builder::new().name("keyway-saver".to_owned());
    thread.spawn(move || {
        for (catalogue, done) in inbox {
            // The control thread may have stopped.
            let _ = done.send(write(&catalogue));
        }
    })?;
    Ok(Box::new(move |catalogue| {
        let (done, saved) = oneshot::channel();
        // Without a thread `done` is dropped here, which says so.
        let _ = jobs.send((catalogue, done));
        saved
    }))
}

/// How a write has ended.
pub(super) fn ended(saved: Result<std::io::Result<()>, RecvError>) -> Result<(), String> {
    match saved {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the thread that writes has ended; restart the server".to_owned()),
    }
}

pub(super) fn write_hot_keys(save: &SaveHotKeys, text: &str) {
    if let Err(error) = save(text.as_bytes()) {
        tracing::warn!(
            %error,
            "{HOT_KEYS_FILE} could not be written: the next start will be a colder one"
        );
    }
}
