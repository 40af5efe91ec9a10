//! The memory under an arena: an anonymous mapping between two guard pages, locked, kept out of
//! core dumps, and empty in a forked child.

use super::error::ArenaError;
use std::io;
use std::ptr::{self, NonNull};

/// A mapping of its own, unmapped on drop. The usable bytes start out as zeros.
#[derive(Debug)]
pub(super) struct Region {
    /// First usable byte, right behind the lower guard page.
    base: NonNull<u8>,
    len: usize,
    page_bytes: usize,
}

impl Region {
    /// Maps `len` usable bytes; `len` is a positive multiple of the page size.
    pub(super) fn map(len: usize, lock: bool) -> Result<Self, ArenaError> {
        let page_bytes = page_bytes();
        assert!(len > 0 && len.is_multiple_of(page_bytes));
        let mapped_len = len + 2 * page_bytes;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that
        // exists.
        let mapping = unsafe {
            libc::mmap(
                ptr::null_mut(),
                mapped_len,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if mapping == libc::MAP_FAILED {
            return Err(ArenaError::os("mmap", mapped_len));
        }
        // SAFETY: the mapping is longer than a page, so this stays inside it.
        let base = unsafe { mapping.cast::<u8>().add(page_bytes) };
        let region = Self {
            base: NonNull::new(base).expect("mmap does not return a mapping at address zero"),
            len,
            page_bytes,
        };
        region.prepare(lock)?;
        Ok(region)
    }

    fn prepare(&self, lock: bool) -> Result<(), ArenaError> {
        let base = self.base.as_ptr().cast();
        // SAFETY (all calls below): base..base+len are whole pages of this region's own mapping,
        // to which no reference exists yet.
        // SAFETY: see above.
        let opened = unsafe { libc::mprotect(base, self.len, libc::PROT_READ | libc::PROT_WRITE) };
        if opened != 0 {
            return Err(ArenaError::os("mprotect", self.len));
        }
        for (advice, name) in [
            (libc::MADV_DONTDUMP, "madvise(MADV_DONTDUMP)"),
            (libc::MADV_WIPEONFORK, "madvise(MADV_WIPEONFORK)"),
        ] {
            // SAFETY: see above; both advices leave this process's view of the pages as it is.
            if unsafe { libc::madvise(base, self.len, advice) } != 0 {
                return Err(ArenaError::os(name, self.len));
            }
        }
        if lock {
            // SAFETY: see above.
            if unsafe { libc::mlock(base, self.len) } != 0 {
                return Err(ArenaError::Lock {
                    len: self.len,
                    limit: memlock_limit(),
                    source: io::Error::last_os_error(),
                });
            }
        }
        Ok(())
    }

    /// First usable byte.
    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Number of usable bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the complete range is writable and, with the region, no longer used.
        unsafe { crate::wipe::wipe_raw(self.base.as_ptr(), self.len) };
        // SAFETY: start and length are those of the mapping that `map` made.
        unsafe {
            libc::munmap(
                self.base.as_ptr().sub(self.page_bytes).cast(),
                self.len + 2 * self.page_bytes,
            );
        }
    }
}

/// The size of a page, in bytes.
pub(super) fn page_bytes() -> usize {
    // SAFETY: sysconf only reads a value.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).expect("the page size is a positive number")
}

/// The soft limit of RLIMIT_MEMLOCK in bytes; `None` if there is none.
fn memlock_limit() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid place for the answer.
    let answered = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    (answered == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mappings;

    fn vm_flags_of(address: usize) -> Vec<String> {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let head = format!("{address:x}-");
        smaps
            .lines()
            .skip_while(|line| !line.starts_with(&head))
            .find_map(|line| line.strip_prefix("VmFlags:"))
            .unwrap()
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn guard_pages_surround_the_usable_pages() {
        let region = Region::map(4 * page_bytes(), true).unwrap();
        let start = region.base().as_ptr() as usize;
        let end = start + region.len();
        let maps = mappings();
        let permissions = |address: usize| {
            let hit = maps.iter().find(|m| m.start <= address && address < m.end);
            hit.map(|m| m.permissions.clone())
        };
        assert_eq!(permissions(start).as_deref(), Some("rw-p"));
        assert_eq!(permissions(end - 1).as_deref(), Some("rw-p"));
        assert_eq!(permissions(start - 1).as_deref(), Some("---p"));
        assert_eq!(permissions(end).as_deref(), Some("---p"));
    }

    #[test]
    fn pages_are_locked_left_out_of_dumps_and_wiped_in_a_child() {
        let region = Region::map(4 * page_bytes(), true).unwrap();
        let flags = vm_flags_of(region.base().as_ptr() as usize);
        for flag in ["lo", "dd", "wf"] {
            assert!(flags.iter().any(|f| f == flag), "{flag} not in {flags:?}");
        }
    }

    #[test]
    fn unlocked_pages_are_had_on_request() {
        let region = Region::map(page_bytes(), false).unwrap();
        let flags = vm_flags_of(region.base().as_ptr() as usize);
        assert!(!flags.iter().any(|f| f == "lo"), "{flags:?}");
    }

    #[test]
    fn a_forked_child_reads_zeros() {
        let region = Region::map(page_bytes(), false).unwrap();
        let byte = region.base().as_ptr();
        // SAFETY: the child only reads a mapped byte and leaves through `_exit`, both allowed
        // after a fork of a process with threads; the parent waits for that child alone.
        let status = unsafe {
            byte.write_volatile(0xa5);
            let child = libc::fork();
            assert!(child >= 0);
            if child == 0 {
                libc::_exit(i32::from(byte.read_volatile()));
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
            status
        };
        assert!(libc::WIFEXITED(status));
        assert_eq!(
            libc::WEXITSTATUS(status),
            0,
            "the child saw the parent's byte"
        );
    }
}
