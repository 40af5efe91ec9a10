//! Whether the kernel lets this process use io_uring, tried before anything depends on it: glommio panics where it is
//! refused, and names another cause.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Entries of the ring that is tried.
const ENTRIES: u32 = 8;

/// `IORING_UNREGISTER_BUFFERS` of the kernel's io_uring.h.
const UNREGISTER_BUFFERS: libc::c_long = 1;

/// Size of `struct io_uring_params`, in bytes.
const PARAMS_LEN: usize = 120;

/// Sets up a ring, makes each of the calls that glommio makes, and closes it.
///
/// Errors: the kernel's or the sandbox's refusal, with the remedy.
pub fn check() -> Result<(), String> {
    match set_up() {
        Ok(()) => Ok(()),
        Err(error) => Err(remedy(&error)),
    }
}

fn set_up() -> io::Result<()> {
    let mut params = [0_u64; PARAMS_LEN / 8];
    // SAFETY: the call reads and writes `params`, which has the size and alignment of `struct io_uring_params`, all
    // zeros of which stand for a plain ring.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_io_uring_setup,
            libc::c_long::from(ENTRIES),
            params.as_mut_ptr(),
        )
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made, and nothing else knows of it.
    let ring = unsafe { OwnedFd::from_raw_fd(answer as libc::c_int) };
    is_allowed(register_nothing(&ring))?;
    is_allowed(enter_without_work(&ring))
}

/// Takes back buffers of which there are none.
fn register_nothing(ring: &OwnedFd) -> libc::c_long {
    // SAFETY: this operation takes no pointer: the kernel looks at none.
    unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            libc::c_long::from(ring.as_raw_fd()),
            UNREGISTER_BUFFERS,
            std::ptr::null_mut::<u8>(),
            0 as libc::c_long,
        )
    }
}

/// Submits nothing, and waits for nothing.
fn enter_without_work(ring: &OwnedFd) -> libc::c_long {
    // SAFETY: without a signal mask the kernel looks at no pointer.
    unsafe {
        libc::syscall(
            libc::SYS_io_uring_enter,
            libc::c_long::from(ring.as_raw_fd()),
            0 as libc::c_long,
            0 as libc::c_long,
            0 as libc::c_long,
            std::ptr::null_mut::<u8>(),
            0 as libc::c_long,
        )
    }
}

/// Whether the kernel looked at a call, whatever it thinks of it.
fn is_allowed(answer: libc::c_long) -> io::Result<()> {
    let error = io::Error::last_os_error();
    let refusals = [libc::EPERM, libc::EACCES, libc::ENOSYS];
    match error.raw_os_error() {
        Some(errno) if answer < 0 && refusals.contains(&errno) => Err(error),
        _ => Ok(()),
    }
}

fn remedy(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => format!(
            "io_uring is refused ({error}), and Keyway needs it. In a container: use a seccomp profile that allows \
             io_uring_setup, io_uring_enter and io_uring_register (docker: --security-opt seccomp=PROFILE; \
             Kubernetes: securityContext.seccompProfile). On the machine: sysctl kernel.io_uring_disabled=0, and \
             Linux 5.8 or newer"
        ),
        Some(libc::ENOMEM) => format!(
            "io_uring gets no memory ({error}): raise the locked-memory limit (LimitMEMLOCK=, ulimit -l, docker: \
             --ulimit memlock=-1)"
        ),
        Some(libc::EMFILE | libc::ENFILE) => format!(
            "io_uring gets no descriptor ({error}): raise the open-file limit (LimitNOFILE=, ulimit -n)"
        ),
        _ => format!("io_uring cannot be used: {error}; Keyway needs Linux 5.8 or newer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_remedy() {
        for (errno, word) in [
            (libc::EPERM, "seccomp"),
            (libc::ENOSYS, "seccomp"),
            (libc::ENOMEM, "memlock"),
            (libc::EMFILE, "LimitNOFILE"),
            (libc::EINVAL, "Linux 5.8"),
        ] {
            let text = remedy(&io::Error::from_raw_os_error(errno));
            assert!(text.contains(word), "{text}");
        }
    }
}
