//! PINs: which are sent, and what opens a token without an operator.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use keyway_kms::{
    Cause, Class, Pkcs11, Pkcs11Settings, Provider, ProviderState, UnlockNeed, UnlockSecret,
    Wrapped,
};

use super::{
    DOWN, KEY, WRONG_PIN, assert_refused, at_token, context, dek, forced, opened, pin, settings,
    spied_on, wrap, write_pin_file,
};

#[test]
fn a_wrong_pin_is_denied_and_sent_once() {
    at_token("pins::a_wrong_pin_is_denied_and_sent_once", async |hsm| {
        let kms = Pkcs11::open(spied_on(hsm)).unwrap();
        assert_eq!(kms.unlock_need(), UnlockNeed::Pin);
        assert!(!hsm.is_pin_count_low());
        assert_refused(wrap(&kms, 0).await, Class::Locked, "keyway kms unlock NAME");
        let refused = kms.unlock(pin(WRONG_PIN)).await;
        assert_refused(refused, Class::Denied, "counts wrong PINs");
        assert!(hsm.is_pin_count_low());
        assert_eq!(hsm.calls("C_Login"), 1);
        assert_eq!(kms.state(), ProviderState::Locked);
        assert_refused(wrap(&kms, 0).await, Class::Locked, "keyway kms unlock NAME");
        assert_eq!(hsm.calls("C_Login"), 1, "a call logs in automatically");
        kms.unlock(pin(hsm.pin())).await.unwrap();
        assert!(!hsm.is_pin_count_low());
        wrap(&kms, 0).await.unwrap();
        assert_eq!(hsm.calls("C_Login"), 2);
    });
}

#[test]
fn unlocking_again_checks_the_pin_and_a_wrong_one_costs_nothing() {
    let name = "pins::unlocking_again_checks_the_pin_and_a_wrong_one_costs_nothing";
    at_token(name, async |hsm| {
        let kms = opened(hsm, spied_on(hsm)).await;
        kms.unlock(pin(hsm.pin())).await.unwrap();
        // A wrong PIN at an open token is not an attempt there, and closes nothing.
        let refused = kms.unlock(pin(WRONG_PIN)).await;
        assert_refused(refused, Class::Denied, "stays open");
        assert_eq!(kms.state(), ProviderState::Unlocked);
        wrap(&kms, 0).await.unwrap();
        assert_eq!(hsm.calls("C_Login"), 1);
        assert!(!hsm.is_pin_count_low());
        // A forced PIN is checked by the token.
        let refused = kms.unlock(forced(WRONG_PIN)).await;
        assert_refused(refused, Class::Denied, "refuses");
        assert_eq!(kms.state(), ProviderState::Locked);
        // Another provider on the token does not bypass the check either.
        let other = Pkcs11::open(spied_on(hsm)).unwrap();
        kms.unlock(pin(hsm.pin())).await.unwrap();
        assert_refused(other.unlock(pin(WRONG_PIN)).await, Class::Denied, "refuses");
        assert_refused(wrap(&kms, 0).await, Class::Locked, "locked");
        other.unlock(pin(hsm.pin())).await.unwrap();
        wrap(&other, 0).await.unwrap();
        assert_eq!(hsm.calls("C_Login"), 5, "a PIN a login");
    });
}

/// A PIN was sent whatever the token reported about the attempts left: an operator who mistyped it once more than the
/// token allows had locked it permanently.
#[test]
fn the_last_attempt_is_made_only_by_force() {
    at_token(
        "pins::the_last_attempt_is_made_only_by_force",
        async |hsm| {
            let faulty = Pkcs11Settings::new(hsm.faulty(), hsm.token_label(), KEY);
            // CKF_USER_PIN_FINAL_TRY. A correct PIN is not sent either: it cannot be known to be correct.
            hsm.set_faults("flags 0x20000\n");
            let kms = Pkcs11::open(faulty.clone()).unwrap();
            for given in [pin(WRONG_PIN), pin(hsm.pin())] {
                let refused = kms.unlock(given).await;
                assert_refused(refused, Class::Denied, "--force");
            }
            assert!(!hsm.is_pin_count_low(), "a PIN was sent");
            kms.unlock(forced(hsm.pin())).await.unwrap();
            wrap(&kms, 0).await.unwrap();
            kms.lock();

            // CKF_USER_PIN_LOCKED: forcing does not help.
            hsm.set_faults("flags 0x40000\n");
            let refused = kms.unlock(pin(hsm.pin())).await;
            assert_refused(refused, Class::Denied, "security officer");
            hsm.set_faults("");

            // The token counts, and does not report how many are left: two consecutive ones are accepted, and a third is
            // not.
            for _ in 0..2 {
                let refused = kms.unlock(pin(WRONG_PIN)).await;
                assert_refused(refused, Class::Denied, "refuses the PIN");
            }
            let refused = kms.unlock(pin(hsm.pin())).await;
            assert_refused(refused, Class::Denied, "refused a PIN 2 times in a row");
            // Nor by a process that does not know how many there were.
            let restarted = Pkcs11::open(faulty).unwrap();
            let refused = restarted.unlock(pin(hsm.pin())).await;
            assert_refused(refused, Class::Denied, "before this server asked it");
            restarted.unlock(forced(hsm.pin())).await.unwrap();
            assert!(!hsm.is_pin_count_low());
        },
    );
}

/// After a restart, and when a token was put back, an operator had to run an unlock although the PIN was in a file.
#[test]
fn a_pin_file_opens_the_token_without_an_operator() {
    at_token(
        "pins::a_pin_file_opens_the_token_without_an_operator",
        async |hsm| {
            let mut settings = spied_on(hsm);
            settings.pin_file = Some(write_pin_file(hsm, hsm.pin()));
            let kms = Pkcs11::open(settings).unwrap();
            assert_eq!(kms.state(), ProviderState::Unlocked);
            let Wrapped(wrapped) = wrap(&kms, 4).await.unwrap();
            assert_eq!(hsm.calls("C_Login"), 1);

            // The token is removed, and put back.
            let elsewhere = hsm.directory().join("elsewhere");
            fs::rename(hsm.tokens(), &elsewhere).unwrap();
            for _ in 0..2 {
                let gone = kms.unwrap(&context(1), &wrapped).await.unwrap_err();
                assert_eq!(gone.class(), DOWN, "{gone}");
            }
            fs::rename(&elsewhere, hsm.tokens()).unwrap();
            let back = kms.unwrap(&context(1), &wrapped).await.unwrap();
            assert!(back.is_same(&dek(4)));

            // An operator locked it, and only an operator ends that.
            kms.lock();
            assert_eq!(kms.state(), ProviderState::Locked);
            assert_refused(wrap(&kms, 0).await, Class::Locked, "keyway kms unlock NAME");
            kms.unlock(UnlockSecret::Nothing).await.unwrap();
            wrap(&kms, 0).await.unwrap();
        },
    );
}

/// CKR_USER_NOT_LOGGED_IN counted as a lock: keys were wiped at the end of their lease, and an operator had to act.
#[test]
fn a_login_that_the_module_denies_is_made_again_from_the_pin_file() {
    let name = "pins::a_login_that_the_module_denies_is_made_again_from_the_pin_file";
    at_token(name, async |hsm| {
        let mut settings = Pkcs11Settings::new(hsm.faulty(), hsm.token_label(), KEY);
        hsm.set_faults("");
        settings.pin_file = Some(write_pin_file(hsm, hsm.pin()));
        let kms = Pkcs11::open(settings).unwrap();
        let Wrapped(wrapped) = wrap(&kms, 4).await.unwrap();
        hsm.set_faults("C_DecryptInit 0x101\n");
        let refused = kms.unwrap(&context(1), &wrapped).await;
        assert_refused(refused, Class::Credential, "CKR_USER_NOT_LOGGED_IN");
        assert_eq!(kms.state(), ProviderState::Unlocked);
        hsm.set_faults("");
        kms.unwrap(&context(1), &wrapped).await.unwrap();
        // A PIN that is wrong now is sent once, and the correct one as soon as it is in the file.
        write_pin_file(hsm, WRONG_PIN);
        hsm.set_faults("C_DecryptInit 0x101\n");
        let _ = kms.unwrap(&context(1), &wrapped).await;
        hsm.set_faults("");
        for _ in 0..2 {
            let refused = kms.unwrap(&context(1), &wrapped).await;
            assert_refused(refused, Class::Credential, "is not sent");
        }
        write_pin_file(hsm, hsm.pin());
        kms.unwrap(&context(1), &wrapped).await.unwrap();
    });
}

/// Without a PIN file, one wrong answer of the module locked the provider: an operator had to give the PIN again although
/// the token had the login.
#[test]
fn a_login_that_the_token_has_outlives_a_module_that_denies_it() {
    let name = "pins::a_login_that_the_token_has_outlives_a_module_that_denies_it";
    at_token(name, async |hsm| {
        hsm.set_faults("");
        let settings = Pkcs11Settings::new(hsm.faulty(), hsm.token_label(), KEY);
        let kms = opened(hsm, settings).await;
        let Wrapped(wrapped) = wrap(&kms, 4).await.unwrap();
        hsm.set_faults("C_DecryptInit 0x101\n");
        for _ in 0..3 {
            let refused = kms.unwrap(&context(1), &wrapped).await;
            assert_refused(refused, Class::Credential, "CKR_USER_NOT_LOGGED_IN");
            assert_eq!(kms.state(), ProviderState::Unlocked);
        }
        hsm.set_faults("");
        let back = kms.unwrap(&context(1), &wrapped).await.unwrap();
        assert!(back.is_same(&dek(4)));
    });
}

/// Each failure of a token was `token_fails` or `record_damaged`.
#[test]
fn a_failure_names_its_cause() {
    at_token("pins::a_failure_names_its_cause", async |hsm| {
        hsm.set_faults("");
        let mut settings = Pkcs11Settings::new(hsm.faulty(), hsm.token_label(), KEY);
        settings.pin_file = Some(write_pin_file(hsm, hsm.pin()));
        let kms = Pkcs11::open(settings).unwrap();
        let Wrapped(wrapped) = wrap(&kms, 4).await.unwrap();
        let cause = async || {
            let error = kms.unwrap(&context(1), &wrapped).await.unwrap_err();
            eprintln!("{error}");
            error.cause()
        };
        let elsewhere = hsm.directory().join("elsewhere");
        fs::rename(hsm.tokens(), &elsewhere).unwrap();
        for _ in 0..3 {
            assert_eq!(cause().await, Cause::TokenAbsent);
        }
        fs::rename(&elsewhere, hsm.tokens()).unwrap();
        kms.unwrap(&context(1), &wrapped).await.unwrap();
        hsm.set_faults("C_DecryptInit 0x30\n");
        assert_eq!(cause().await, Cause::TokenFails);
        hsm.set_faults("");
        hsm.delete_key(KEY);
        assert_eq!(cause().await, Cause::KeyMissing);
        hsm.create_aes_key(KEY);
        assert_eq!(cause().await, Cause::KeyRemade);
    });
}

#[test]
fn a_pin_file_opens_until_its_pin_is_refused() {
    at_token(
        "pins::a_pin_file_opens_until_its_pin_is_refused",
        async |hsm| {
            let mut settings = spied_on(hsm);
            settings.pin_file = Some(write_pin_file(hsm, &format!("{}\n", hsm.pin())));
            let kms = Pkcs11::open(settings).unwrap();
            assert_eq!(kms.unlock_need(), UnlockNeed::Nothing);
            kms.unlock(UnlockSecret::Nothing).await.unwrap();
            wrap(&kms, 0).await.unwrap();
            kms.lock();

            write_pin_file(hsm, WRONG_PIN);
            let first = kms.unlock(UnlockSecret::Nothing).await;
            assert_refused(first, Class::Denied, "refuses the PIN");
            assert_eq!(hsm.calls("C_Login"), 2);
            assert_eq!(kms.unlock_need(), UnlockNeed::Pin);
            let second = kms.unlock(UnlockSecret::Nothing).await;
            assert_refused(second, Class::Denied, "is not sent");
            assert_eq!(hsm.calls("C_Login"), 2, "a refused file was tried again");

            // Another PIN in the file is tried, once.
            write_pin_file(hsm, hsm.pin());
            kms.unlock(UnlockSecret::Nothing).await.unwrap();
            assert_eq!(kms.unlock_need(), UnlockNeed::Nothing);
            kms.lock();
            kms.unlock(UnlockSecret::Nothing).await.unwrap();
            wrap(&kms, 0).await.unwrap();
        },
    );
}

#[test]
fn a_pin_file_is_not_used_where_the_token_counts_wrong_pins() {
    let name = "pins::a_pin_file_is_not_used_where_the_token_counts_wrong_pins";
    at_token(name, async |hsm| {
        // As after a restart: this process has seen no refusal.
        assert!(!hsm.try_pin(WRONG_PIN));
        let mut settings = spied_on(hsm);
        settings.pin_file = Some(write_pin_file(hsm, hsm.pin()));
        let kms = Pkcs11::open(settings.clone()).unwrap();
        let refused = kms.unlock(UnlockSecret::Nothing).await;
        assert_refused(refused, Class::Denied, "is not sent; it counts wrong PINs");
        assert_eq!(hsm.calls("C_Login"), 0);
        assert!(hsm.try_pin(hsm.pin()));
        let kms = Pkcs11::open(settings).unwrap();
        kms.unlock(UnlockSecret::Nothing).await.unwrap();
    });
}

#[test]
fn a_pin_file_that_others_may_read_is_refused() {
    at_token(
        "pins::a_pin_file_that_others_may_read_is_refused",
        async |hsm| {
            let mut settings = settings(hsm);
            let path = write_pin_file(hsm, hsm.pin());
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            settings.pin_file = Some(path);
            let kms = Pkcs11::open(settings).unwrap();
            let refused = kms.unlock(UnlockSecret::Nothing).await;
            assert_refused(refused, Class::Misconfigured, "chmod");
        },
    );
}

/// `LoadCredential=` and Kubernetes place a PIN as they do a token, which was accepted.
#[test]
fn a_pin_file_is_as_private_as_other_credentials() {
    /// An id of no account and no group.
    const STRANGER: u32 = 54_321;
    let name = "pins::a_pin_file_is_as_private_as_other_credentials";
    at_token(name, async |hsm| {
        let path = write_pin_file(hsm, hsm.pin());
        if fs::metadata(&path).unwrap().uid() != 0 {
            return;
        }
        let mut settings = settings(hsm);
        settings.pin_file = Some(path.clone());
        let kms = Pkcs11::open(settings).unwrap();
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let mut accounts = passwd
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>());
        let other = accounts.find(|account| account[2] != "0" && account[3] != "0");
        let shared: u32 = other.unwrap()[3].parse().unwrap();
        for (mode, owner, group, accepted) in [
            (0o600, 0, 0, true),
            (0o440, 0, STRANGER, true),
            (0o640, 0, STRANGER, true),
            (0o640, 0, shared, false),
            (0o444, 0, 0, false),
            (0o400, STRANGER, 0, false),
        ] {
            chown(&path, Some(owner), Some(group)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let unlocked = kms.unlock(UnlockSecret::Nothing).await;
            assert_eq!(unlocked.is_ok(), accepted, "{mode:o} {owner} {group}");
            kms.lock();
        }
    });
}

#[test]
fn what_is_no_pin_is_denied_without_asking_the_token() {
    let name = "pins::what_is_no_pin_is_denied_without_asking_the_token";
    at_token(name, async |hsm| {
        let kms = Pkcs11::open(settings(hsm)).unwrap();
        let nothing = kms.unlock(UnlockSecret::Nothing).await;
        assert_refused(nothing, Class::Locked, "given nothing");
        assert!(!hsm.is_pin_count_low());
    });
}
