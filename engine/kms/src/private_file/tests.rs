//! Tests of the permissions of private files.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    set_mode(directory.path(), 0o700);
    directory
}

#[test]
fn permissions_table() {
    // (rule, owner, mode, allowed); we are user 1000.
    let table = [
        (Rule::Ours, 1000, 0o600, true),
        (Rule::Ours, 1000, 0o400, true),
        (Rule::Ours, 1000, 0o000, true),
        (Rule::Ours, 1000, 0o700, false),
        (Rule::Ours, 1000, 0o640, false),
        (Rule::Ours, 1000, 0o620, false),
        (Rule::Ours, 1000, 0o610, false),
        (Rule::Ours, 1000, 0o604, false),
        (Rule::Ours, 1000, 0o602, false),
        (Rule::Ours, 1000, 0o601, false),
        (Rule::Ours, 1000, 0o644, false),
        (Rule::Ours, 1000, 0o666, false),
        (Rule::Ours, 0, 0o600, false),
        (Rule::Ours, 1001, 0o600, false),
        (Rule::Credential, 1000, 0o400, true),
        (Rule::Credential, 0, 0o440, false),
        (Rule::Credential, 1000, 0o640, false),
        (Rule::Credential, 0, 0o600, true),
        (Rule::Credential, 0, 0o444, false),
        (Rule::Credential, 0, 0o460, false),
        (Rule::Credential, 0, 0o550, false),
        (Rule::Credential, 1001, 0o400, false),
    ];
    let facts = |owner_uid, mode, is_group_ours| Facts {
        mode,
        owner_uid,
        our_uid: 1000,
        is_group_ours,
        is_group_private: is_group_ours,
    };
    for (rule, owner_uid, mode, allowed) in table {
        let facts = facts(owner_uid, mode, false);
        let result = check_file(Path::new("/etc/kek"), facts, rule, false);
        assert_eq!(result.is_ok(), allowed, "{rule:?} {facts:?}");
    }
    // (owner, mode, on a volume of the group's, allowed), where the group is ours alone.
    let table = [
        (0, 0o440, false, true),
        (0, 0o640, false, true),
        (0, 0o460, false, false),
        (0, 0o444, false, false),
        (1000, 0o640, false, false),
        (1000, 0o660, false, false),
        (1000, 0o660, true, true),
        (1000, 0o664, true, false),
        (1000, 0o670, true, false),
        (1001, 0o440, true, false),
    ];
    for (owner_uid, mode, on_group_volume, allowed) in table {
        let facts = facts(owner_uid, mode, true);
        let result = check_file(Path::new("/etc/kek"), facts, Rule::Ours, on_group_volume);
        assert_eq!(result.is_ok(), allowed, "{facts:?} {on_group_volume}");
    }
    // (owner, mode, allowed) of a credential whose group is private.
    let table = [
        (0, 0o440, true),
        (0, 0o640, true),
        (0, 0o444, false),
        (0, 0o460, false),
        (0, 0o550, false),
        (1000, 0o640, true),
        (1000, 0o660, false),
        (1001, 0o440, false),
    ];
    for (owner_uid, mode, allowed) in table {
        let facts = facts(owner_uid, mode, true);
        let result = check_file(Path::new("/etc/pin"), facts, Rule::Credential, false);
        assert_eq!(result.is_ok(), allowed, "{facts:?}");
    }
    // (owner, mode, the group is ours alone, allowed)
    let table = [
        (1000, 0o700, false, true),
        (1000, 0o755, false, true),
        (0, 0o755, false, true),
        (1000, 0o775, false, false),
        (1000, 0o757, false, false),
        (0, 0o1777, false, false),
        (1001, 0o700, false, false),
        (1000, 0o2770, false, false),
        (1000, 0o2770, true, true),
        (0, 0o2775, true, true),
        (1000, 0o2777, true, false),
        (1000, 0o770, true, false),
    ];
    for (owner_uid, mode, is_group_ours, allowed) in table {
        let facts = facts(owner_uid, mode, is_group_ours);
        assert_eq!(
            check_directory(Path::new("/etc"), facts).is_ok(),
            allowed,
            "{facts:?}"
        );
    }
}

/// A Kubernetes mount: a world-writable, sticky directory of root, with links in it.
#[test]
fn a_link_in_a_sticky_directory_counts_if_nobody_else_can_replace_it() {
    let directory = directory();
    let inner = directory.path().join("..1");
    fs::create_dir(&inner).unwrap();
    set_mode(&inner, 0o755);
    fs::write(inner.join("pin"), "1234").unwrap();
    set_mode(&inner.join("pin"), 0o600);
    std::os::unix::fs::symlink("..1", directory.path().join("..data")).unwrap();
    let link = directory.path().join("pin");
    std::os::unix::fs::symlink("..data/pin", &link).unwrap();
    for (mode, allowed) in [
        (0o1777, true),
        (0o3777, true),
        (0o777, false),
        (0o775, false),
    ] {
        set_mode(directory.path(), mode);
        let pin = read(&link, Rule::Ours, 16);
        assert_eq!(pin.is_ok(), allowed, "{mode:o} {:?}", pin.err());
    }
    // The volume is replaced by another one.
    set_mode(directory.path(), 0o1777);
    let stamp = crate::stamp::Stamp::of([link.as_path()]);
    let next = directory.path().join("..2");
    fs::create_dir(&next).unwrap();
    set_mode(&next, 0o755);
    fs::write(next.join("pin"), "5678").unwrap();
    set_mode(&next.join("pin"), 0o600);
    std::os::unix::fs::symlink("..2", directory.path().join("..data_tmp")).unwrap();
    let (from, to) = ("..data_tmp", "..data");
    fs::rename(directory.path().join(from), directory.path().join(to)).unwrap();
    assert_ne!(stamp, crate::stamp::Stamp::of([link.as_path()]));
    assert_eq!(read(&link, Rule::Ours, 16).unwrap().as_slice(), b"5678");
}

#[test]
fn the_message_names_the_mode_and_the_command() {
    let facts = Facts {
        mode: 0o644,
        owner_uid: 1,
        our_uid: 1,
        is_group_ours: false,
        is_group_private: false,
    };
    let error = check_file(Path::new("/srv/it's/kek"), facts, Rule::Ours, false).unwrap_err();
    assert_eq!(error.class(), Class::Misconfigured);
    assert!(error.what().contains("0644"), "{error}");
    assert_eq!(error.remedy(), r"run: chmod 0600 '/srv/it'\''s/kek'");
    // Docker and Podman mount files that no user can change there.
    let error = check_file(Path::new("/run/secrets/kek"), facts, Rule::Ours, false).unwrap_err();
    assert!(error.remedy().starts_with("set mode 0400"), "{error}");
}

#[test]
fn loose_permissions_on_real_files_are_refused() {
    let directory = directory();
    let path = directory.path().join("kek");
    Place::open(&path).unwrap().create(b"secret").unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    assert_eq!(
        Place::open(&path).unwrap().read(100).unwrap().as_slice(),
        b"secret"
    );
    set_mode(&path, 0o640);
    assert!(
        Place::open(&path)
            .unwrap()
            .read(100)
            .unwrap_err()
            .what()
            .contains("0640")
    );
    set_mode(&path, 0o600);
    set_mode(directory.path(), 0o770);
    assert!(
        Place::open(&path)
            .unwrap_err()
            .remedy()
            .contains("chmod go-w")
    );
}

#[test]
fn directories_and_long_files_are_refused() {
    let directory = directory();
    let path = directory.path().join("kek");
    Place::open(&path).unwrap().create(b"secret").unwrap();
    for bad in [&directory.path().join("none"), &directory.path().to_owned()] {
        assert_eq!(
            read(bad, Rule::Ours, 100).unwrap_err().class(),
            Class::Misconfigured
        );
    }
    assert!(
        read(&path, Rule::Ours, 5)
            .unwrap_err()
            .what()
            .contains("longer than 5")
    );
    assert!(read(&path, Rule::Ours, 6).is_ok());
}

#[test]
fn links_are_followed_where_nobody_else_can_change_them() {
    let directory = directory();
    let dir = directory.path();
    fs::create_dir(dir.join("..1")).unwrap();
    fs::write(dir.join("..1/pin"), "secret").unwrap();
    set_mode(&dir.join("..1/pin"), 0o600);
    std::os::unix::fs::symlink("..1", dir.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/pin", dir.join("pin")).unwrap();
    let read_it = || read(&dir.join("pin"), Rule::Ours, 100);
    assert_eq!(read_it().unwrap().as_slice(), b"secret");
    set_mode(dir, 0o777);
    assert!(read_it().unwrap_err().what().contains("0777"));
    set_mode(dir, 0o700);
    set_mode(&dir.join("..1/pin"), 0o644);
    assert!(read_it().unwrap_err().what().contains("0644"));
    std::os::unix::fs::symlink("round", dir.join("round")).unwrap();
    assert!(read(&dir.join("round"), Rule::Ours, 100).is_err());
    // A file that the server writes is never a link.
    set_mode(&dir.join("..1/pin"), 0o600);
    assert!(Place::open(&dir.join("pin")).unwrap().read(100).is_err());
}

#[test]
fn creating_never_overwrites_and_leaves_nothing_behind() {
    let directory = directory();
    let path = directory.path().join("kek");
    let place = Place::open(&path).unwrap();
    place.create(b"first").unwrap();
    assert!(
        place
            .create(b"second")
            .unwrap_err()
            .what()
            .contains("exists already")
    );
    assert_eq!(fs::read(&path).unwrap(), b"first");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}
