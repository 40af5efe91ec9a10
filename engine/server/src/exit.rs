//! The end of the process.

/// Ends the process at once. What has to be kept is written and closed before. Exit handlers do not run: those of a KMS's
/// PKCS#11 module release what its thread may be using, and the process would end with a crash.
pub fn now(status: u8) -> ! {
    // SAFETY: `_exit` takes no pointers, and nothing runs after it.
    unsafe { libc::_exit(i32::from(status)) }
}
