//! The deadline of the command that a task carries out: no write begins at that time or later, however long the KMS took
//! to answer before it. The shard that handed the command over answers DEADLINE_EXCEEDED by itself.

use std::future::Future;

use keyway_core::Instant;
use keyway_protocol::Status;

use crate::clock;

tokio::task_local! {
    static DEADLINE: Option<Instant>;
}

/// Carries out a command under its deadline.
pub(super) async fn under<T>(deadline: Option<Instant>, command: impl Future<Output = T>) -> T {
    DEADLINE.scope(deadline, command).await
}

/// Checks, right before a write, that the deadline of the present command has not passed. What is no command's has none.
pub(super) fn check() -> Result<(), (Status, String)> {
    let deadline = DEADLINE.try_with(|deadline| *deadline).ok().flatten();
    if deadline.is_some_and(|deadline| clock::now() >= deadline) {
        let text = "the deadline passed before the change was made; nothing was changed";
        return Err((Status::DeadlineExceeded, text.to_owned()));
    }
    Ok(())
}
