//! Access control lists of files, as systemd writes them for credentials of a unit with another user: the file belongs to
//! root, the list names the unit's user, and the mode shows the list's mask as the group's bits.

use std::os::fd::AsFd;

/// Longest list that is read, in bytes: a header of 4, and 8 for each of 31 entries.
const LIST_BYTES_MAX: usize = 4 + 8 * 31;
const VERSION: u32 = 2;
const READ: u16 = 4;

const OWNER: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OF_FILE: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;

/// Who may read a file besides its owner.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Acl {
    users: Vec<u32>,
    groups: Vec<u32>,
    /// Another right than to read is in it, or it cannot be understood.
    is_unusual: bool,
}

impl Acl {
    /// Returns the list of an open file of this group, or `None` if it has none and its mode says everything.
    pub(crate) fn of(file: impl AsFd, gid: u32) -> Option<Self> {
        let mut list = [0; LIST_BYTES_MAX];
        match rustix::fs::fgetxattr(file, "system.posix_acl_access", &mut list) {
            Ok(len) => Some(Self::parse(list.get(..len).unwrap_or_default(), gid)),
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => None,
            Err(_) => Some(Self::unusual()),
        }
    }

    /// Returns `true` if all readers are `uid`, root, and groups for which `is_private`.
    pub(crate) fn is_private(&self, uid: u32, is_private: impl Fn(u32) -> bool) -> bool {
        !self.is_unusual
            && self.users.iter().all(|user| *user == uid || *user == 0)
            && self.groups.iter().all(|gid| is_private(*gid))
    }

    fn unusual() -> Self {
        Self {
            users: Vec::new(),
            groups: Vec::new(),
            is_unusual: true,
        }
    }

    fn parse(list: &[u8], gid: u32) -> Self {
        let Some((version, entries)) = list.split_first_chunk() else {
            return Self::unusual();
        };
        let (entries, rest) = entries.as_chunks::<8>();
        if u32::from_le_bytes(*version) != VERSION || !rest.is_empty() {
            return Self::unusual();
        }
        let entries = entries.iter().map(|entry| {
            let [tag0, tag1, rights0, rights1, id @ ..] = *entry;
            let tag = u16::from_le_bytes([tag0, tag1]);
            let rights = u16::from_le_bytes([rights0, rights1]);
            (tag, rights, u32::from_le_bytes(id))
        });
        let entries: Vec<_> = entries.collect();
        let mask = entries.iter().find(|(tag, ..)| *tag == MASK);
        let mask = mask.map_or(u16::MAX, |(_, rights, _)| *rights);
        let mut acl = Self {
            users: Vec::new(),
            groups: Vec::new(),
            is_unusual: false,
        };
        for (tag, rights, id) in entries {
            let rights = rights & mask;
            let readers = match tag {
                OWNER | MASK => continue,
                USER => &mut acl.users,
                GROUP_OF_FILE | GROUP => &mut acl.groups,
                // Others, and kinds that are not known: they may have no right.
                _ if rights == 0 => continue,
                _ => return Self::unusual(),
            };
            match rights {
                0 => {}
                READ if tag == GROUP_OF_FILE => readers.push(gid),
                READ => readers.push(id),
                _ => return Self::unusual(),
            }
        }
        acl
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: u16 = 0x20;
    const NONE: u32 = u32::MAX;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut list = VERSION.to_le_bytes().to_vec();
        for (tag, rights, id) in entries {
            list.extend(tag.to_le_bytes());
            list.extend(rights.to_le_bytes());
            list.extend(id.to_le_bytes());
        }
        list
    }

    fn is_private(entries: &[(u16, u16, u32)]) -> bool {
        Acl::parse(&list(entries), 50).is_private(1000, |gid| gid == 2000)
    }

    #[test]
    fn a_list_is_private_if_it_names_this_user_and_private_groups() {
        let base = [
            (OWNER, 4, NONE),
            (GROUP_OF_FILE, 0, NONE),
            (MASK, 4, NONE),
            (OTHER, 0, NONE),
        ];
        let with = |more: &[(u16, u16, u32)]| [&base[..], more].concat();
        // As systemd writes it.
        assert!(is_private(&with(&[(USER, 4, 1000)])));
        assert!(is_private(&with(&[(USER, 4, 0), (GROUP, 4, 2000)])));
        assert!(!is_private(&with(&[(USER, 4, 1001)])));
        assert!(!is_private(&with(&[(USER, 4, 1000), (GROUP, 4, 50)])));
        assert!(!is_private(&with(&[(0x40, 4, 1000)])));
        // The mask takes it away.
        let masked = [(OWNER, 4, NONE), (MASK, 0, NONE), (USER, 6, 1001)];
        assert!(is_private(&masked));
        for bad in [(GROUP_OF_FILE, 4, NONE), (OTHER, 4, NONE), (USER, 6, 1000)] {
            assert!(!is_private(&[(OWNER, 4, NONE), bad]), "{bad:?}");
        }
        for bad in [&[][..], &[2, 0, 0], &[3, 0, 0, 0], &[2, 0, 0, 0, 1]] {
            assert!(!Acl::parse(bad, 50).is_private(1000, |_| true), "{bad:?}");
        }
    }

    #[test]
    fn the_list_of_a_file_is_read() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(Acl::of(&file, 50), None);
        let entries = [
            (OWNER, 4, NONE),
            (USER, 4, 1001),
            (GROUP_OF_FILE, 0, NONE),
            (MASK, 4, NONE),
            (OTHER, 0, NONE),
        ];
        let set = rustix::fs::fsetxattr(
            &file,
            "system.posix_acl_access",
            &list(&entries),
            rustix::fs::XattrFlags::empty(),
        );
        // Not every file system has lists.
        if set.is_ok() {
            let acl = Acl::of(&file, 50).unwrap();
            assert_eq!(acl.users, [1001]);
            assert!(acl.is_private(1001, |_| false) && !acl.is_private(1000, |_| true));
        }
    }
}
