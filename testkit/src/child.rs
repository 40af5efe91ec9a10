//! A test's body in a process of its own, for what a process reads once: its environment, or a module that it loads.
//!
//! The child is the test program again, told to run that test alone. It comes back to the same place, and finds its
//! [`directory`].

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Where a child finds the directory that its parent made.
const DIRECTORY: &str = "KEYWAY_TEST_DIRECTORY";
/// Where the trusted roots of [`with_roots_of_its_own`] are.
pub const ROOTS: &str = "roots.pem";
/// Written by a child whose test has run to its end.
const DONE: &str = "done";

/// The directory of this child. `None`: this process is the parent, which should [`run`] one.
pub fn directory() -> Option<PathBuf> {
    std::env::var_os(DIRECTORY).map(PathBuf::from)
}

/// Says that the child's test has run to its end.
pub fn done(directory: &Path) {
    std::fs::write(directory.join(DONE), "").unwrap();
}

/// Runs the test `name`, as libtest prints it, in a child with this directory; `prepare` sets its environment.
///
/// # Panics
/// If the child's test fails, or there is none of that name.
pub fn run(name: &str, directory: &Path, prepare: impl FnOnce(&mut Command)) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]);
    command.env(DIRECTORY, directory);
    prepare(&mut command);
    let output = command.output().unwrap();
    // The file is what counts: while a process exits, the exit handlers of a module that it has loaded occasionally crash
    // beside the threads that still use it.
    assert!(
        directory.join(DONE).exists(),
        "the child's test failed, or there is none named {name} ({}): {}",
        output.status,
        text(&output)
    );
    output
}

/// Runs the test `name` in a child whose machine seems to trust the roots in the file [`ROOTS`] of its directory, and no
/// others.
///
/// # Panics
/// As [`run`], and if the child does not exit with success.
pub fn with_roots_of_its_own(name: &str) {
    let directory = tempfile::tempdir().unwrap();
    let output = run(name, directory.path(), |command| {
        command.env("SSL_CERT_FILE", directory.path().join(ROOTS));
        command.env_remove("SSL_CERT_DIR");
    });
    assert!(output.status.success(), "{}", text(&output));
}

/// What a process has printed.
pub(crate) fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}
