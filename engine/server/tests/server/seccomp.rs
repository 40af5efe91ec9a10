//! System calls that a container's seccomp profile refuses: io_uring's, and those that docker's default profile does.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::os::unix::process::CommandExt;
use std::process::Command;

use keyway_client::{Algorithm, KeyOptions};
use rustix::process::Pid;

use crate::common::refused;
use crate::containers::{client, keywayd, stop};

const IO_URING: [libc::c_long; 3] = [
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// What docker's default seccomp profile refuses on x86-64 beside io_uring, as its documentation lists it.
const REFUSED_BY_DOCKER: [libc::c_long; 36] = [
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_get_mempolicy,
    libc::SYS_init_module,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mbind,
    libc::SYS_mount,
    libc::SYS_move_pages,
    libc::SYS_open_by_handle_at,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_set_mempolicy,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_ustat,
];

#[test]
fn io_uring_that_is_refused_is_named_with_a_remedy() {
    let each = IO_URING.iter().map(std::slice::from_ref);
    for calls in each.chain([&IO_URING[..]]) {
        for errno in [libc::EPERM, libc::ENOSYS] {
            let dir = tempfile::tempdir().unwrap();
            let mut command = keywayd(&[], &dir.path().join("data"));
            refuse(command.arg("--dev"), calls, errno);
            let text = refused(command);
            assert!(!text.contains("panicked"), "{text}");
            assert!(
                text.contains("io_uring is refused") && text.contains("seccomp"),
                "{calls:?}: {text}"
            );
        }
    }
}

/// The profile that the remedy describes: the calls that it names are allowed, and what docker refuses is refused.
#[test]
fn a_seccomp_profile_with_the_calls_that_the_remedy_names_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    // docker's profile as it is.
    let mut command = keywayd(&[], &data);
    let all = [&REFUSED_BY_DOCKER[..], &IO_URING[..]].concat();
    refuse(command.arg("--dev"), &all, libc::EPERM);
    let text = refused(command);
    assert!(
        text.contains("io_uring_setup, io_uring_enter and io_uring_register"),
        "{text}"
    );
    let mut command = keywayd(&[], &data);
    refuse(command.arg("--dev"), &REFUSED_BY_DOCKER, libc::EPERM);
    let server = command.spawn().unwrap();
    let key = "prod/a".parse().unwrap();
    let options = KeyOptions::default();
    let made = client(&data).key_generate(&key, Algorithm::Ed25519, options);
    made.unwrap();
    let pid = Pid::from_child(&server);
    stop(server, pid);
}

/// Makes the kernel answer `errno` to these system calls, in the command's program and every one that follows.
fn refuse(command: &mut Command, calls: &[libc::c_long], errno: i32) {
    let code = |code: u32, k: u32, jt, jf| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    // The number of the system call first; a match jumps to the end.
    let mut filter = vec![code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for (at, call) in calls.iter().enumerate() {
        let to_the_end = (calls.len() - at) as u8;
        let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        filter.push(code(equal, u32::try_from(*call).unwrap(), to_the_end, 0));
    }
    let answer = |answer| code(libc::BPF_RET | libc::BPF_K, answer, 0, 0);
    filter.push(answer(libc::SECCOMP_RET_ALLOW));
    filter.push(answer(libc::SECCOMP_RET_ERRNO | errno as u32));
    let install = move || {
        let program = libc::sock_fprog {
            len: filter.len() as u16,
            filter: filter.as_mut_ptr(),
        };
        // SAFETY: the calls read `program`, which lives until they return.
        let is_set = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(
                    libc::PR_SET_SECCOMP,
                    libc::SECCOMP_MODE_FILTER,
                    &raw const program,
                ) == 0
        };
        match is_set {
            true => Ok(()),
            false => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: only system calls are made between fork and exec.
    unsafe { command.pre_exec(install) };
}
