//! Groups that only this process belongs to, as Kubernetes creates them with `fsGroup`: a volume, and everything in it,
//! is given to a group of the pod's own at every mount.

use std::path::Path;

/// Returns whether this process is in the group and no other account is, but root.
pub(crate) fn is_ours_alone(gid: u32) -> bool {
    // Root needs no group for access to a file.
    is_ours(gid) && !rustix::process::geteuid().is_root() && has_no_others(gid)
}

/// Returns whether no account but this user and root is in the group, so that only they can read a file of it. Accounts
/// are those of /etc/passwd and /etc/group.
pub(crate) fn is_private(gid: u32) -> bool {
    (is_ours(gid) || gid == 0 || rustix::process::geteuid().is_root()) && has_no_others(gid)
}

/// Returns whether this process is in the group.
fn is_ours(gid: u32) -> bool {
    let groups = rustix::process::getgroups().unwrap_or_default();
    rustix::process::getegid().as_raw() == gid || groups.iter().any(|group| group.as_raw() == gid)
}

fn has_no_others(gid: u32) -> bool {
    let our_uid = rustix::process::geteuid().as_raw();
    let (passwd, group) = (Path::new("/etc/passwd"), Path::new("/etc/group"));
    !has_others(gid, our_uid, &text(passwd), &text(group))
}

fn text(path: &Path) -> String {
    // An image without accounts has no such file.
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Returns `true` if an account other than `our_uid` and root has the group, as its primary group or as one of several.
fn has_others(gid: u32, our_uid: u32, passwd: &str, group: &str) -> bool {
    // name:password:uid:gid:…
    let accounts = passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid: u32 = fields.nth(1)?.parse().ok()?;
        let gid: u32 = fields.next()?.parse().ok()?;
        Some((name, uid, gid))
    });
    let mut ours = vec!["root"];
    for (name, uid, primary) in accounts {
        if uid == our_uid || uid == 0 {
            ours.push(name);
        } else if primary == gid {
            return true;
        }
    }
    // name:password:gid:member,member
    group.lines().any(|line| {
        let mut fields = line.split(':');
        let is_it = fields.nth(2).is_some_and(|text| text.parse() == Ok(gid));
        let members = fields.next().unwrap_or_default().split(',');
        is_it
            && members
                .filter(|name| !name.is_empty())
                .any(|name| !ours.contains(&name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_with_another_account_is_not_ours_alone() {
        let passwd = "root:x:0:0::/root:/bin/sh\nkeyway:x:1000:1000::/:/bin/false\nbob:x:1001:100::/:/bin/sh\n";
        let group = "root:x:0:\nkeyway:x:1000:keyway,root\nusers:x:100:\nadm:x:4:keyway,bob\n";
        for (gid, others) in [
            (1000, false),
            (100, true),
            (4, true),
            (2000, false),
            (0, false),
        ] {
            assert_eq!(has_others(gid, 1000, passwd, group), others, "{gid}");
        }
        assert!(has_others(1000, 1002, passwd, group));
        assert!(!has_others(1000, 1000, "", ""));
    }
}
