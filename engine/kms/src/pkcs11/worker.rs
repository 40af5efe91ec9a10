//! The thread that owns the module and the session, and makes every call.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use cryptoki::context::Pkcs11 as Module;
use cryptoki::error::Error;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use cryptoki::slot::TokenInfo;
use ring::rand::SystemRandom;
use tokio::sync::oneshot;

use super::attempts::{Attempts, Fingerprint};
use super::classify::{
    DecryptFault, blame, describe, describe_login, is_not_logged_in, is_session_lost, name,
};
use super::format::{IV_BYTES, Sealed};
use super::gate::{LockEpoch, LockGate};
use super::sessions::{is_logged_in, log_in, open_session};
use super::{Pkcs11Settings, locked, module, token};
use crate::pin::PIN_BYTES_MAX;
use crate::private_file::{self, Rule};
use crate::secret::fill_random;
use crate::{Cause, Class, Context, KmsError, Pin, SecretKey, Unlocked, Wrapped};

/// A PIN and its line end.
const PIN_FILE_BYTES_MAX: usize = PIN_BYTES_MAX + 2;

const BROKEN: Class = Class::Unavailable { retry_after: None };

pub(super) type ReplySender<T> = oneshot::Sender<Result<T, KmsError>>;

/// Where the PIN of an unlock comes from.
#[derive(Debug)]
pub(super) enum UnlockPin {
    Given { pin: Pin, is_forced: bool },
    InFile(PathBuf),
}

/// A job for the worker. Secrets in a job that is not done, or whose answer is not received, wipe themselves.
pub(super) enum Job {
    Wrap {
        epoch: LockEpoch,
        context: Context,
        dek: SecretKey,
        answer: ReplySender<Wrapped>,
    },
    Unwrap {
        epoch: LockEpoch,
        context: Context,
        sealed: Sealed,
        answer: ReplySender<SecretKey>,
    },
    Unlock {
        epoch: LockEpoch,
        pin: UnlockPin,
        answer: ReplySender<Unlocked>,
    },
    /// Check the gate.
    Wake,
}

pub(super) struct Worker {
    settings: Pkcs11Settings,
    gate: Arc<LockGate>,
    random: SystemRandom,
    attempts: Attempts,
    login: Option<Login>,
    /// The module has worked in this process.
    has_worked: bool,
}

/// The login: no event that ended it is known.
struct Login {
    module: Arc<Module>,
    /// When it was made.
    epoch: LockEpoch,
    /// Fingerprint of the PIN that opened it.
    pin: Fingerprint,
    session: Session,
    /// `None` until it is found.
    key: Option<ObjectHandle>,
    /// The session may be invalid: the next call opens a new one.
    is_lost: bool,
}

impl Login {
    fn find_key(&mut self, settings: &Pkcs11Settings) -> Result<ObjectHandle, KmsError> {
        let key = match self.key {
            Some(key) => key,
            None => {
                // Until a key is found, the session may be the reason.
                self.is_lost = true;
                let key = token::find_key(&self.session, settings)?;
                self.is_lost = false;
                key
            }
        };
        self.key = Some(key);
        Ok(key)
    }
}

/// Why a call on the token failed.
enum Failed {
    /// Reported by the token.
    Token(Error),
    /// Before the call, or not worth a retry.
    Kms(KmsError),
}

impl Worker {
    pub(super) fn new(settings: Pkcs11Settings, gate: Arc<LockGate>) -> Result<Self, KmsError> {
        let random = SystemRandom::new();
        Ok(Self {
            settings,
            gate,
            attempts: Attempts::new(&random)?,
            random,
            login: None,
            has_worked: false,
        })
    }

    /// Runs until the last sender is dropped.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            self.apply_pending_lock();
            self.work(job);
            // A lock during the job found the worker awake.
            self.apply_pending_lock();
        }
        self.log_out();
    }

    fn work(&mut self, job: Job) {
        match job {
            Job::Wrap {
                epoch,
                context,
                dek,
                answer,
            } => self.answer(answer, |worker| worker.wrap(epoch, &context, &dek)),
            Job::Unwrap {
                epoch,
                context,
                sealed,
                answer,
            } => self.answer(answer, |worker| worker.unwrap(epoch, &context, &sealed)),
            Job::Unlock { epoch, pin, answer } => {
                let result = self.unlock(epoch, pin, &answer);
                let _ = answer.send(result);
            }
            Job::Wake => {}
        }
    }

    /// Computes an answer, if the caller is still waiting for it.
    fn answer<T>(
        &mut self,
        answer: ReplySender<T>,
        work: impl FnOnce(&mut Self) -> Result<T, KmsError>,
    ) {
        if !answer.is_closed() {
            // If the caller has left in the meantime, the answer is dropped here.
            let _ = answer.send(work(self));
        }
    }

    fn apply_pending_lock(&mut self) {
        if let Some(login) = &self.login
            && self.gate.was_locked_since(login.epoch)
        {
            self.log_out();
        }
    }

    fn log_out(&mut self) {
        self.gate.shut();
        if let Some(login) = self.login.take() {
            // The session is closed in any case, and closing the last one also ends the login.
            if let Err(error) = login.session.logout() {
                tracing::warn!(token = self.settings.token, "{}", name(&error));
            }
        }
    }

    fn wrap(
        &mut self,
        epoch: LockEpoch,
        context: &Context,
        dek: &SecretKey,
    ) -> Result<Wrapped, KmsError> {
        let iv = self.draw_iv()?;
        let aad = context.to_bytes();
        let sealed = self.with_key(epoch, |session, key| {
            token::seal(session, key, iv, &aad, dek.expose())
        });
        match sealed {
            Ok(sealed) => Ok(sealed.to_wrapped()),
            Err(failed) => Err(self.describe(failed)),
        }
    }

    fn unwrap(
        &mut self,
        epoch: LockEpoch,
        context: &Context,
        sealed: &Sealed,
    ) -> Result<SecretKey, KmsError> {
        let aad = context.to_bytes();
        let opened = self.with_key(epoch, |session, key| {
            token::unseal(session, key, sealed, &aad)
        });
        let error = match opened {
            Ok(dek) => return Ok(dek),
            Err(Failed::Token(error)) => error,
            Err(failed) => return Err(self.describe(failed)),
        };
        match blame(&error) {
            DecryptFault::Bytes => Err(self.corrupt(context, &error)),
            DecryptFault::BytesOrDevice => {
                self.test_token(epoch)?;
                Err(self.corrupt(context, &error))
            }
            DecryptFault::Other => Err(describe(&error, &self.settings)),
        }
    }

    /// Tests whether the token still opens bytes that it has just sealed under the key; if so, the fault was not the
    /// token's.
    fn test_token(&mut self, epoch: LockEpoch) -> Result<(), KmsError> {
        let probe = SecretKey::generate(&self.random)?;
        let iv = self.draw_iv()?;
        // No context's encoding is empty, so a probe can never be mistaken for a wrapped key.
        let opened = self.with_key(epoch, |session, key| {
            let sealed = token::seal(session, key, iv, &[], probe.expose())?;
            token::unseal(session, key, &sealed, &[])
        });
        let what = match opened {
            Ok(opened) if opened.is_same(&probe) => return Ok(()),
            Ok(_) => "it opens its own bytes wrongly".to_owned(),
            Err(failed) => {
                let error = self.describe(failed);
                if error.class() != BROKEN {
                    return Err(error);
                }
                error.what().to_owned()
            }
        };
        Err(KmsError::new(
            BROKEN,
            format!(
                "token {} fails on bytes that it has just sealed: {what}",
                self.settings.token
            ),
            "check the token: see the vendor's diagnosis, or replace it",
        )
        .from_cause(Cause::TokenFails))
    }

    fn draw_iv(&self) -> Result<[u8; IV_BYTES], KmsError> {
        let mut iv = [0; IV_BYTES];
        fill_random(&self.random, &mut iv)?;
        Ok(iv)
    }

    /// Makes a call with the key, and repeats it once in a new session if this one turns out to be lost.
    fn with_key<T>(
        &mut self,
        epoch: LockEpoch,
        call: impl Fn(&Session, ObjectHandle) -> Result<T, Error>,
    ) -> Result<T, Failed> {
        let mut is_second = false;
        loop {
            let (login, key) = self.ready(epoch).map_err(Failed::Kms)?;
            match call(&login.session, key) {
                Ok(value) => return Ok(value),
                Err(error) => {
                    if is_session_lost(&error) {
                        login.key = None;
                        login.is_lost = true;
                        // With a PIN file, a new login costs nothing. Without one, only an operator can make it: so the
                        // new session is asked whether the token still has the login, and one wrong answer of the module
                        // ends nothing.
                        if is_not_logged_in(&error) && self.gate.may_open_itself(epoch) {
                            self.forget_login();
                        }
                        if !is_second {
                            is_second = true;
                            continue;
                        }
                    }
                    return Err(Failed::Token(error));
                }
            }
        }
    }

    /// Returns the login with a session and a key that are valid as far as known. A caller from before a lock is refused.
    fn ready(&mut self, epoch: LockEpoch) -> Result<(&mut Login, ObjectHandle), KmsError> {
        self.renew_session(epoch)?;
        if self.login.is_none() && self.gate.may_open_itself(epoch) {
            self.log_in_from_file(epoch)?;
        }
        let settings = &self.settings;
        let is_callers = |login: &&mut Login| login.epoch == epoch;
        let login = self.login.as_mut().filter(is_callers);
        let login = login.ok_or_else(|| locked(settings))?;
        let key = login.find_key(settings)?;
        Ok((login, key))
    }

    fn find_key(&mut self) -> Result<(), KmsError> {
        let settings = &self.settings;
        let login = self.login.as_mut().ok_or_else(|| locked(settings))?;
        login.find_key(settings).map(drop)
    }

    /// Opens a new session, if the old one may be invalid. Without a login, the provider is locked, or logs in again from
    /// its PIN file.
    fn renew_session(&mut self, epoch: LockEpoch) -> Result<(), KmsError> {
        let Some(login) = self.login.as_mut().filter(|login| login.is_lost) else {
            return Ok(());
        };
        // It opens before the old one is closed, since a login lasts while there is a session.
        match open_session(&login.module, &self.settings) {
            Ok((session, _)) => {
                login.is_lost = !is_logged_in(&session);
                login.session = session;
                if login.is_lost {
                    self.forget_login();
                }
                Ok(())
            }
            // The token was removed, and its login with it. A new login restarts the module, and finds a token that was
            // put back.
            Err(error) if error.class() == BROKEN && self.gate.may_open_itself(epoch) => {
                self.forget_login();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Discards a login that was lost without a lock.
    fn forget_login(&mut self) {
        self.gate.shut();
        self.login = None;
    }

    /// Logs in with the PIN in the file, without an operator. A refusal by the token is a credential failure, not a
    /// denial.
    fn log_in_from_file(&mut self, epoch: LockEpoch) -> Result<(), KmsError> {
        let Some(path) = self.settings.pin_file.clone() else {
            return Ok(());
        };
        let logged_in = self.find_module_and_log_in(epoch, UnlockPin::InFile(path), |_| Ok(()));
        logged_in.map_err(|error| match error.class() {
            Class::Denied => error.with_class(Class::Credential),
            _ => error,
        })
    }

    fn unlock(
        &mut self,
        epoch: LockEpoch,
        pin: UnlockPin,
        asker: &ReplySender<Unlocked>,
    ) -> Result<Unlocked, KmsError> {
        self.check_not_abandoned(epoch, asker)?;
        if self.is_open(epoch) {
            match &pin {
                UnlockPin::Given {
                    is_forced: true, ..
                } => {}
                UnlockPin::Given { pin, .. } => {
                    self.compare(pin)?;
                    return self.check_key();
                }
                // No secret was given that could be wrong.
                UnlockPin::InFile(_) => return self.check_key(),
            }
        }
        self.find_module_and_log_in(epoch, pin, |worker| {
            worker.check_not_abandoned(epoch, asker)
        })?;
        Ok(Unlocked::Open)
    }

    /// Returns `true` if the token still has the login.
    fn is_open(&mut self, epoch: LockEpoch) -> bool {
        self.renew_session(epoch).is_ok()
            && self
                .login
                .as_ref()
                .is_some_and(|login| login.epoch == epoch && is_logged_in(&login.session))
    }

    /// Checks that an open token still has the key named in the settings.
    fn check_key(&self) -> Result<Unlocked, KmsError> {
        let login = self.login.as_ref().ok_or_else(|| locked(&self.settings))?;
        token::find_key(&login.session, &self.settings)?;
        Ok(Unlocked::Open)
    }

    /// Compares a PIN with the one that opened the token, whose state does not change.
    fn compare(&self, pin: &Pin) -> Result<(), KmsError> {
        let given = self.attempts.fingerprint(pin);
        let opened_by = self.login.as_ref().map(|login| &login.pin);
        if opened_by.is_some_and(|opened_by| opened_by.is_same(&given)) {
            return Ok(());
        }
        Err(KmsError::new(
            Class::Denied,
            format!(
                "the PIN is not the one that opened token {}, which stays open; it was not sent",
                self.settings.token
            ),
            "try again; if the PIN was changed at the token, give the new one with --force, which logs out and lets \
             the token check it",
        )
        .from_cause(Cause::WrongSecret))
    }

    /// Logs in, once. `check_not_abandoned` is called immediately before the PIN is sent.
    fn find_module_and_log_in(
        &mut self,
        epoch: LockEpoch,
        pin: UnlockPin,
        check_not_abandoned: impl Fn(&Self) -> Result<(), KmsError>,
    ) -> Result<(), KmsError> {
        let module = module::load(&self.settings.module).map_err(|error| {
            let error = describe(&error, &self.settings);
            // A module that worked before does not start without its token.
            match self.has_worked && error.class() == BROKEN {
                true => error.from_cause(Cause::TokenAbsent),
                false => error,
            }
        })?;
        let (session, info) = self.find_token(&module)?;
        let (pin, is_from_file) = match pin {
            UnlockPin::Given { pin, is_forced } => {
                if !is_forced {
                    self.attempts.check_given(&info, &self.settings)?;
                }
                (pin, false)
            }
            UnlockPin::InFile(path) => (self.read_pin(&path, &info)?, true),
        };
        // Loading the module may have taken long. From here the PIN is sent.
        check_not_abandoned(self)?;
        // A token checks a PIN only at a login, so the present login is ended first.
        self.log_out();
        if let Err(error) = log_in(&session, &pin) {
            let after = token::find(&module, &self.settings).ok();
            let error =
                describe_login(&error, after.as_ref().map(|(_, info)| info), &self.settings);
            if error.class() == Class::Denied {
                self.attempts
                    .note_refused(&pin, is_from_file, error.cause());
                if is_from_file {
                    self.gate.note_file_pin(true);
                }
            }
            return Err(error);
        }
        self.has_worked = true;
        self.gate.note_file_pin(false);
        self.attempts.note_accepted();
        self.login = Some(Login {
            module,
            epoch,
            pin: self.attempts.fingerprint(&pin),
            session,
            key: None,
            is_lost: false,
        });
        drop(pin);
        if let Err(error) = self.find_key() {
            self.log_out();
            return Err(error);
        }
        if !self.gate.open(epoch) {
            self.log_out();
            return Err(locked_meanwhile(&self.settings));
        }
        tracing::info!(
            token = info.label(),
            serial = info.serial_number(),
            model = info.model(),
            "logged in to the token"
        );
        Ok(())
    }

    /// Opens a session at the token. If the token is missing, the module is restarted and searched again.
    fn find_token(&mut self, module: &Arc<Module>) -> Result<(Session, TokenInfo), KmsError> {
        let error = match open_session(module, &self.settings) {
            Err(error) if error.class() == BROKEN => error,
            result => return result,
        };
        // A login without its token is lost.
        self.log_out();
        match module::restart(module) {
            Ok(true) => open_session(module, &self.settings),
            Ok(false) => Err(error),
            // Without the token the module may not even start.
            Err(error) => Err(describe(&error, &self.settings).from_cause(Cause::TokenAbsent)),
        }
    }

    /// Checks that the caller is still waiting: a caller that has given up may retry with another PIN, and sending both
    /// would cost an attempt.
    fn check_not_abandoned(
        &self,
        epoch: LockEpoch,
        asker: &ReplySender<Unlocked>,
    ) -> Result<(), KmsError> {
        if self.gate.was_locked_since(epoch) || asker.is_closed() {
            return Err(locked_meanwhile(&self.settings));
        }
        Ok(())
    }

    /// Reads the PIN, unless it may be a wrong one.
    fn read_pin(&self, path: &Path, info: &TokenInfo) -> Result<Pin, KmsError> {
        let mut bytes = private_file::read(path, Rule::Credential, PIN_FILE_BYTES_MAX)
            .map_err(|error| error.from_cause(Cause::File))?;
        let pin = Pin::new(std::mem::take(&mut *bytes))?;
        let checked = self.attempts.check_file(&pin, path, info, &self.settings);
        if checked.is_err() {
            self.gate.note_file_pin(true);
        }
        checked.map(|()| pin)
    }

    fn describe(&self, failed: Failed) -> KmsError {
        match failed {
            Failed::Token(error) => describe(&error, &self.settings),
            Failed::Kms(error) => error,
        }
    }

    fn corrupt(&self, context: &Context, error: &Error) -> KmsError {
        KmsError::new(
            Class::Corrupt,
            format!(
                "the wrapped key of {context} is corrupt, or belongs to another context or another key than {} of \
                 token {} ({})",
                self.settings.key,
                self.settings.token,
                name(error)
            ),
            "check the key's label: if the key was recreated, restore the old one from the token's backup; otherwise \
             restore the wrapped key from a backup",
        )
        .from_cause(Cause::KeyRemade)
    }
}

fn locked_meanwhile(settings: &Pkcs11Settings) -> KmsError {
    KmsError::new(
        Class::Locked,
        format!(
            "token {} was locked while it was being unlocked",
            settings.token
        ),
        "unlock it again",
    )
}
