//! Tests of the pkcs11 provider with a real token, SoftHSM2. Each test has a token and a process of its own: the module
//! has one state per process.

#![allow(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

mod pins;

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Waker};
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11 as Module};
use cryptoki::object::Attribute;
use keyway_kms::{
    Cause, Class, Context, KmsError, Pin, Pkcs11, Pkcs11Settings, Provider, ProviderFuture,
    ProviderState, Purpose, SecretKey, UnlockSecret, Unlocked, Wrapped,
};
use keyway_testkit::softhsm::{SoftHsm, in_child};

const KEY: &str = "kek";
const WRONG_PIN: &str = "9999-wrong";
/// Longest wait of a test for an expected event.
const PATIENCE: Duration = Duration::from_secs(300);
const DOWN: Class = Class::Unavailable { retry_after: None };

/// Runs the body of the test `name` in a process of its own, on a runtime, with a token that has [`KEY`].
fn at_token(name: &str, body: impl AsyncFnOnce(&SoftHsm)) {
    in_child(name, |hsm| {
        hsm.create_aes_key(KEY);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(body(hsm));
    });
}

fn settings(hsm: &SoftHsm) -> Pkcs11Settings {
    Pkcs11Settings::new(hsm.module(), hsm.token_label(), KEY)
}

/// As [`settings`], with every call of the module logged.
fn spied_on(hsm: &SoftHsm) -> Pkcs11Settings {
    Pkcs11Settings::new(hsm.spy(), hsm.token_label(), KEY)
}

fn pin(text: &str) -> UnlockSecret {
    UnlockSecret::Pin(Pin::new(text.into()).unwrap())
}

fn forced(text: &str) -> UnlockSecret {
    UnlockSecret::ForcedPin(Pin::new(text.into()).unwrap())
}

fn write_pin_file(hsm: &SoftHsm, text: &str) -> PathBuf {
    let path = hsm.directory().join("pin");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

async fn opened(hsm: &SoftHsm, settings: Pkcs11Settings) -> Pkcs11 {
    let kms = Pkcs11::open(settings).unwrap();
    let unlocked = kms.unlock(pin(hsm.pin())).await.unwrap();
    assert_eq!(unlocked, Unlocked::Open);
    assert_eq!(kms.state(), ProviderState::Unlocked);
    kms
}

fn context(generation: u32) -> Context {
    Context {
        cluster: [9; 16],
        keyspace: 7,
        generation,
        purpose: Purpose::DataKey,
    }
}

fn dek(seed: u8) -> SecretKey {
    SecretKey::take(&mut std::array::from_fn(|i| i as u8 ^ seed))
}

async fn wrap(kms: &Pkcs11, seed: u8) -> Result<Wrapped, KmsError> {
    kms.wrap(&context(1), &dek(seed)).await
}

/// Starts the call.
fn is_pending<T>(call: &mut ProviderFuture<'_, T>) -> bool {
    let mut nobody = TaskContext::from_waker(Waker::noop());
    call.as_mut().poll(&mut nobody).is_pending()
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T, KmsError>, class: Class, part: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.class(), class, "{error}");
    assert!(error.to_string().contains(part), "no {part:?} in: {error}");
}

#[test]
fn what_is_wrapped_unwraps_under_its_context_alone() {
    let name = "what_is_wrapped_unwraps_under_its_context_alone";
    at_token(name, async |hsm| {
        let kms = opened(hsm, settings(hsm)).await;
        let Wrapped(wrapped) = wrap(&kms, 0).await.unwrap();
        assert_eq!(wrapped.len(), 61);
        assert_ne!(wrapped, wrap(&kms, 0).await.unwrap().0, "one IV twice");
        let back = kms.unwrap(&context(1), &wrapped).await.unwrap();
        assert!(back.is_same(&dek(0)));
        let other = kms.unwrap(&context(2), &wrapped).await;
        assert_refused(other, Class::Corrupt, "generation 2");
        for place in 0..wrapped.len() {
            let mut bytes = wrapped.clone();
            bytes[place] ^= 1;
            let tampered = kms.unwrap(&context(1), &bytes).await;
            assert_refused(tampered, Class::Corrupt, "restore the wrapped key");
        }
        for bytes in [&wrapped[..60], &[]] {
            let cut = kms.unwrap(&context(1), bytes).await;
            assert_refused(cut, Class::Corrupt, "not made by the pkcs11 provider");
        }
        assert!(kms.generate(&context(1)).is_none());
        assert_eq!(kms.name(), "pkcs11");
        assert!(!kms.is_unprotected());
    });
}

#[test]
fn a_lock_logs_out_and_an_unlock_opens_again() {
    at_token("a_lock_logs_out_and_an_unlock_opens_again", async |hsm| {
        let kms = opened(hsm, spied_on(hsm)).await;
        let Wrapped(wrapped) = wrap(&kms, 5).await.unwrap();
        let (early, context) = (kms.unlock(pin(hsm.pin())), context(1));
        // Not answered at the first check: if the worker was quicker, it gets another one.
        let answered = loop {
            let mut call = kms.unwrap(&context, &wrapped);
            if is_pending(&mut call) {
                break call;
            }
        };
        // Calls are made sequentially, so the first has its answer now.
        wrap(&kms, 5).await.unwrap();
        kms.lock();
        let kept_back = answered.await;
        assert_refused(kept_back, Class::Locked, "keyway kms unlock NAME");
        assert_eq!(kms.state(), ProviderState::Locked);
        assert_refused(early.await, Class::Locked, "while it was being unlocked");
        let refused = kms.unwrap(&context, &wrapped).await;
        assert_refused(refused, Class::Locked, "keyway kms unlock NAME");
        // The worker has answered `early`, and applies a lock before it answers anything else.
        assert_eq!(hsm.calls("C_Logout"), 1);
        assert_eq!(hsm.calls("C_CloseSession"), 1);
        kms.unlock(pin(hsm.pin())).await.unwrap();
        let back = kms.unwrap(&context, &wrapped).await.unwrap();
        assert!(back.is_same(&dek(5)));
        assert_eq!(hsm.calls("C_Login"), 2);
    });
}

#[test]
fn a_key_that_is_gone_is_said_to_be_and_one_in_its_place_is_found() {
    let name = "a_key_that_is_gone_is_said_to_be_and_one_in_its_place_is_found";
    at_token(name, async |hsm| {
        let kms = opened(hsm, spied_on(hsm)).await;
        let Wrapped(wrapped) = wrap(&kms, 0).await.unwrap();
        hsm.delete_key(KEY);
        let gone = kms.unwrap(&context(1), &wrapped).await;
        assert_refused(gone, Class::Misconfigured, "no AES key with the label kek");
        assert_refused(wrap(&kms, 0).await, Class::Misconfigured, "no AES key");
        hsm.create_aes_key(KEY);
        let Wrapped(newer) = wrap(&kms, 1).await.unwrap();
        let back = kms.unwrap(&context(1), &newer).await.unwrap();
        assert!(back.is_same(&dek(1)));
        let older = kms.unwrap(&context(1), &wrapped).await;
        assert_refused(older, Class::Corrupt, "another key than kek");
        assert_eq!(hsm.calls("C_Login"), 1, "the login outlasts the key");
        // A second key of that name makes it ambiguous.
        hsm.create_aes_key(KEY);
        let refused = kms.unlock(pin(hsm.pin())).await;
        assert_refused(refused, Class::Misconfigured, "several AES keys");
        assert_eq!(kms.state(), ProviderState::Unlocked);
    });
}

#[test]
fn a_key_that_will_not_do_is_refused_at_the_unlock() {
    let name = "a_key_that_will_not_do_is_refused_at_the_unlock";
    at_token(name, async |hsm| {
        let guarded = ["--private", "--sensitive"];
        hsm.create_key("small", "AES:16", &guarded);
        hsm.create_key("public", "AES:32", &["--sensitive"]);
        hsm.create_key("plain", "AES:32", &["--private", "--extractable"]);
        let table = [
            ("small", "has 16 bytes"),
            ("public", "CKA_PRIVATE is false"),
            ("plain", "CKA_SENSITIVE is false"),
            ("kex", "no AES key"),
        ];
        for (key, part) in table {
            let mut settings = settings(hsm);
            settings.key = key.into();
            let kms = Pkcs11::open(settings).unwrap();
            let refused = kms.unlock(pin(hsm.pin())).await;
            assert_refused(refused, Class::Misconfigured, part);
            assert_eq!(kms.state(), ProviderState::Locked);
        }
    });
}

#[test]
fn a_key_that_is_switched_off_is_disabled_until_it_is_on() {
    let name = "a_key_that_is_switched_off_is_disabled_until_it_is_on";
    at_token(name, async |hsm| {
        let kms = opened(hsm, settings(hsm)).await;
        let Wrapped(wrapped) = wrap(&kms, 3).await.unwrap();
        // The test's own session shares the provider's login.
        let module = Module::new(hsm.module()).unwrap();
        let slot = module.get_slots_with_token().unwrap()[0];
        let session = module.open_rw_session(slot).unwrap();
        let label = Attribute::Label(KEY.into());
        let key = session.find_objects(&[label]).unwrap()[0];
        let set = |attribute| session.update_attributes(key, &[attribute]).unwrap();

        // A wrong tag makes the provider test the token, which may not encrypt.
        let mut tampered = wrapped.clone();
        tampered[60] ^= 1;
        set(Attribute::Encrypt(false));
        let refused = kms.unwrap(&context(1), &tampered).await;
        assert_refused(refused, Class::Disabled, "C_EncryptInit");
        set(Attribute::Encrypt(true));
        let refused = kms.unwrap(&context(1), &tampered).await;
        assert_refused(refused, Class::Corrupt, "is corrupt");

        set(Attribute::Decrypt(false));
        let refused = kms.unwrap(&context(1), &wrapped).await;
        assert_refused(refused, Class::Disabled, "CKR_KEY_FUNCTION_NOT_PERMITTED");
        let other = Pkcs11::open(settings(hsm)).unwrap();
        let refused = other.unlock(pin(hsm.pin())).await;
        assert_refused(refused, Class::Disabled, "may not both encrypt and decrypt");
        // That unlock has ended the login, and with it the handle of a private key.
        assert_refused(wrap(&kms, 3).await, Class::Locked, "keyway kms unlock NAME");
    });
}

#[test]
fn a_login_that_the_module_has_lost_wants_a_new_one() {
    at_token(
        "a_login_that_the_module_has_lost_wants_a_new_one",
        async |hsm| {
            let kms = opened(hsm, settings(hsm)).await;
            let Wrapped(wrapped) = wrap(&kms, 4).await.unwrap();
            // The state after a token was removed and put back: invalid session handles, and no login.
            let module = Module::new(hsm.module()).unwrap();
            module.clone().finalize().unwrap();
            let locking = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
            module.initialize(locking).unwrap();
            let refused = kms.unwrap(&context(1), &wrapped).await;
            assert_refused(refused, Class::Locked, "keyway kms unlock NAME");
            assert_eq!(kms.state(), ProviderState::Locked);
            kms.unlock(pin(hsm.pin())).await.unwrap();
            let back = kms.unwrap(&context(1), &wrapped).await.unwrap();
            assert!(back.is_same(&dek(4)));
        },
    );
}

#[test]
fn a_token_that_vanishes_is_unavailable_and_opens_again_when_it_is_back() {
    let name = "a_token_that_vanishes_is_unavailable_and_opens_again_when_it_is_back";
    at_token(name, async |hsm| {
        let kms = opened(hsm, settings(hsm)).await;
        let Wrapped(wrapped) = wrap(&kms, 4).await.unwrap();
        let elsewhere = hsm.directory().join("elsewhere");
        fs::rename(hsm.tokens(), &elsewhere).unwrap();
        let gone = kms.unwrap(&context(1), &wrapped).await;
        assert_refused(gone, DOWN, "shows no token");
        // The module is restarted, and does not start without a directory of tokens.
        for _ in 0..2 {
            let gone = kms.unlock(pin(hsm.pin())).await;
            assert_refused(gone, DOWN, "C_Initialize gave");
            assert_eq!(kms.state(), ProviderState::Locked);
        }

        fs::rename(&elsewhere, hsm.tokens()).unwrap();
        kms.unlock(pin(hsm.pin())).await.unwrap();
        let back = kms.unwrap(&context(1), &wrapped).await.unwrap();
        assert!(back.is_same(&dek(4)));
    });
}

#[test]
fn a_module_is_not_restarted_under_another_user() {
    at_token(
        "a_module_is_not_restarted_under_another_user",
        async |hsm| {
            let mut elsewhere = spied_on(hsm);
            elsewhere.token = "elsewhere".into();
            let elsewhere = Pkcs11::open(elsewhere).unwrap();
            let kms = opened(hsm, spied_on(hsm)).await;
            let refused = elsewhere.unlock(pin(hsm.pin())).await;
            assert_refused(refused, DOWN, "shows no token elsewhere");
            assert_eq!(hsm.calls("C_Finalize"), 0);
            wrap(&kms, 0).await.unwrap();
            kms.lock();
            // The lock has been applied once something after it is answered.
            assert_refused(kms.unlock(pin(WRONG_PIN)).await, Class::Denied, "refuses");
            let refused = elsewhere.unlock(pin(hsm.pin())).await;
            assert_refused(refused, DOWN, "shows no token elsewhere");
            assert_eq!(hsm.calls("C_Finalize"), 1);
        },
    );
}

#[test]
fn a_token_that_is_absent_stands_in_the_way_of_the_unlock_alone() {
    let name = "a_token_that_is_absent_stands_in_the_way_of_the_unlock_alone";
    at_token(name, async |hsm| {
        let mut settings = settings(hsm);
        settings.token = "elsewhere".into();
        let kms = Pkcs11::open(settings).unwrap();
        assert_eq!(kms.state(), ProviderState::Locked);
        let refused = kms.unlock(pin(hsm.pin())).await;
        assert_refused(refused, DOWN, "shows no token elsewhere");
    });
}

#[test]
fn a_label_of_two_tokens_is_refused_and_a_serial_number_decides() {
    let name = "a_label_of_two_tokens_is_refused_and_a_serial_number_decides";
    at_token(name, async |hsm| {
        let first = hsm.serials();
        assert_eq!(first.len(), 1);
        hsm.add_token(hsm.token_label());
        let both = hsm.serials();
        assert_eq!(both.len(), 2);
        let kms = Pkcs11::open(settings(hsm)).unwrap();
        let error = kms.unlock(pin(hsm.pin())).await.unwrap_err();
        assert_eq!(error.class(), Class::Misconfigured);
        for (serial, label) in &both {
            assert_eq!(label, hsm.token_label());
            assert!(error.what().contains(serial), "no {serial} in: {error}");
        }
        let mut by_serial = settings(hsm);
        by_serial.token = first[0].0.clone();
        let kms = opened(hsm, by_serial).await;
        wrap(&kms, 0).await.unwrap();
    });
}

#[test]
fn a_file_that_is_no_module_is_refused_at_the_unlock() {
    let name = "a_file_that_is_no_module_is_refused_at_the_unlock";
    at_token(name, async |hsm| {
        let mut no_module = settings(hsm);
        no_module.module = write_pin_file(hsm, "not an ELF file");
        let kms = Pkcs11::open(no_module).unwrap();
        let refused = kms.unlock(pin(hsm.pin())).await;
        assert_refused(refused, Class::Misconfigured, "PKCS#11 module");
        let mut no_file = settings(hsm);
        no_file.module = "/nowhere/module.so".into();
        // It may be on a volume that is mounted later, so it does not prevent a start.
        let kms = Pkcs11::open(no_file).unwrap();
        let refused = kms.unlock(pin(hsm.pin())).await;
        assert_refused(refused, Class::Misconfigured, "/nowhere");
    });
}

#[test]
fn many_callers_at_once_are_all_served() {
    at_token("many_callers_at_once_are_all_served", async |hsm| {
        let kms = opened(hsm, settings(hsm)).await;
        let tasks: Vec<_> = (0..32)
            .map(|seed| {
                let kms = kms.clone();
                tokio::spawn(async move {
                    let context = context(u32::from(seed));
                    for _ in 0..8 {
                        let wrapped = kms.wrap(&context, &dek(seed)).await.unwrap();
                        let back = kms.unwrap(&context, &wrapped.0).await.unwrap();
                        assert!(back.is_same(&dek(seed)));
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

#[test]
fn a_module_that_hangs_holds_up_nobody() {
    at_token("a_module_that_hangs_holds_up_nobody", async |hsm| {
        // The spy opens its log when it is loaded, and opening a pipe without a reader blocks.
        let log = hsm.spy_log();
        let made = std::process::Command::new("mkfifo").arg(&log).status();
        assert!(made.unwrap().success());
        let mut settings = spied_on(hsm);
        settings.unlock_ms_max = 50;
        let kms = Pkcs11::open(settings).unwrap();
        let late = kms.unlock(pin(WRONG_PIN)).await;
        assert_eq!(late.as_ref().unwrap_err().cause(), Cause::TimedOut);
        assert_refused(late, DOWN, "no answer within 50 ms");
        // The places of callers that gave up stay occupied until the worker reaches them.
        let full = loop {
            match kms.unlock(pin(WRONG_PIN)).await {
                Err(error) if error.class() == DOWN => {}
                other => break other.unwrap_err(),
            }
        };
        assert!(matches!(full.class(), Class::Throttled { .. }), "{full}");
        kms.lock();
        assert_eq!(kms.state(), ProviderState::Locked);

        let written = Arc::new(Mutex::new(Vec::new()));
        let reader = Arc::clone(&written);
        std::thread::spawn(move || {
            let mut pipe = fs::File::open(log).unwrap();
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut bytes) {
                reader.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
        let began = Instant::now();
        while let Err(error) = kms.unlock(pin(hsm.pin())).await {
            assert!(began.elapsed() < PATIENCE, "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        wrap(&kms, 0).await.unwrap();
        let has_sent = |pin: &str| {
            let written = written.lock().unwrap();
            written
                .windows(pin.len())
                .any(|bytes| bytes == pin.as_bytes())
        };
        while !has_sent(hsm.pin()) {
            assert!(began.elapsed() < PATIENCE, "the spy wrote no PIN");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(!has_sent(WRONG_PIN), "sent for a caller who had given up");
    });
}

#[test]
fn cancelled_callers_do_not_affect_others() {
    at_token("cancelled_callers_do_not_affect_others", async |hsm| {
        let kms = opened(hsm, settings(hsm)).await;
        let Wrapped(wrapped) = wrap(&kms, 6).await.unwrap();
        for _ in 0..100 {
            let context = context(1);
            let mut leaving = kms.unwrap(&context, &wrapped);
            let polled = leaving
                .as_mut()
                .poll(&mut TaskContext::from_waker(Waker::noop()));
            // Now it is in the queue, or was refused because the queue is full.
            drop((polled, leaving));
        }
        let began = Instant::now();
        let back = loop {
            match kms.unwrap(&context(1), &wrapped).await {
                Ok(back) => break back,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
            assert!(began.elapsed() < PATIENCE);
        };
        assert!(back.is_same(&dek(6)));
    });
}

#[test]
fn nothing_that_is_printed_holds_a_secret() {
    at_token("nothing_that_is_printed_holds_a_secret", async |hsm| {
        let kms = opened(hsm, settings(hsm)).await;
        let printed = format!("{kms:?} {:?}", kms.unlock(pin(WRONG_PIN)).await);
        assert!(printed.contains(hsm.token_label()));
        for secret in [hsm.pin(), hsm.so_pin(), WRONG_PIN] {
            assert!(!printed.contains(secret), "{printed}");
        }
    });
}
