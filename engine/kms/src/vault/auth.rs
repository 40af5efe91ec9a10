//! Logins, and the renewal of tokens.
//!
//! One login or renewal runs at a time, and every call that needs it waits for it. A token is renewed when half of its
//! duration has passed, in use or not: [`Auth::tend`] ensures that, and so does a call that finds it due. In the
//! meantime, other calls use the old one.
//!
//! After a login was refused, other calls do not repeat it until a backoff has ended or the files with the credentials
//! change: a server counts refused logins and locks a role out, including for other services that use it. An operator's
//! request brings the next one forward, and is counted.
//!
//! Another token in its file is taken up when the file changes, although the old one is still valid: it may be there
//! because the old one's policy ends. For the same reason a denial is believed only of a new login.

mod denials;

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::StatusCode;

use crate::provider::ProviderState;
use crate::refusals::{Lockout, Refusals};
use crate::service::{KmsOperation, KmsOutcome};
use crate::stamp::Stamp;
use crate::{Class, Counters, KmsError};

use super::client::Client;
use super::errors::{self, Target};
use super::json;
use super::secrets::{read_secret, read_token};
use super::session::Session;
use super::settings::VaultAuth;
use super::tokens::{logged_in, look_up, renew, token_ended};

/// How to get a token, and the token.
pub(super) struct Auth {
    method: VaultAuth,
    state: Mutex<State>,
    /// Held while logging in or renewing.
    turn: tokio::sync::Mutex<()>,
}

struct State {
    session: Option<Session>,
    is_locked: bool,
    /// Calls of `lock()` so far: a login that began before the latest one must not store a token after it.
    lock_count: u64,
    serial: u64,
    refusals: Refusals,
    /// The latest login whose token was denied a call.
    denied: Option<Denied>,
    /// State of a token file whose token could not be taken up, so that this is logged once.
    unusable: Option<Stamp>,
    calls: Counters,
}

#[derive(Clone, Copy)]
struct Denied {
    login: u64,
    at: Instant,
}

/// Why a session was not renewed.
struct Unrenewed {
    error: KmsError,
    /// Another renewal may succeed.
    can_renew: bool,
}

impl Auth {
    /// Reads the secret files, to refuse invalid ones early. A token file may be missing: an agent writes it when it has
    /// reached the server.
    pub(super) fn open(method: VaultAuth) -> Result<Self, KmsError> {
        match &method {
            VaultAuth::Token { token_file } if !token_file.exists() => {}
            VaultAuth::Token { token_file: path }
            | VaultAuth::Approle {
                secret_id_file: path,
                ..
            } => {
                read_secret(path)?;
            }
            // The client has read its files.
            VaultAuth::Cert { .. } => {}
        }
        let lockout = match &method {
            VaultAuth::Approle { .. } => Lockout::Counts,
            VaultAuth::Token { .. } | VaultAuth::Cert { .. } => Lockout::Never,
        };
        Ok(Self {
            method,
            state: Mutex::new(State {
                session: None,
                is_locked: false,
                lock_count: 0,
                serial: 0,
                refusals: Refusals::new(lockout),
                denied: None,
                unusable: None,
                calls: Counters::default(),
            }),
            turn: tokio::sync::Mutex::new(()),
        })
    }

    pub(super) fn state(&self) -> ProviderState {
        if self.shared().is_locked {
            ProviderState::Locked
        } else {
            ProviderState::Unlocked
        }
    }

    pub(super) fn lock(&self) {
        let mut state = self.shared();
        state.lock_count += 1;
        state.is_locked = true;
        state.session = None;
    }

    /// Returns a token to call with: the present one, a renewed one, the one that is now in its file, or that of a new
    /// login.
    pub(super) async fn session(
        &self,
        client: &Client,
        target: &Target,
    ) -> Result<Session, KmsError> {
        let usable = self.usable()?;
        let turn = match &usable {
            Some(session) if !self.needs_work(session) => return Ok(session.clone()),
            Some(session) => match self.turn.try_lock() {
                Ok(turn) => turn,
                Err(_) => return Ok(session.clone()),
            },
            None => self.turn.lock().await,
        };
        // Another call may have stored a new one during the wait.
        let lock_count = self.shared().lock_count;
        let fresh = match self.usable()? {
            None => self.log_in(client, target).await?,
            Some(session) if !self.needs_work(&session) => return Ok(session),
            Some(session) => match self.take_up(client, target, &session).await {
                Some(other) => other,
                None if !session.is_due(Instant::now()) => return Ok(session),
                None => match self.refresh(client, target, &session).await {
                    Ok(fresh) => fresh,
                    Err(Unrenewed { error, can_renew }) => session.kept(&error, can_renew),
                },
            },
        };
        let stored = self.store(fresh, lock_count);
        drop(turn);
        stored
    }

    /// Returns `true` if the token is due, or its file has changed.
    fn needs_work(&self, session: &Session) -> bool {
        session.is_due(Instant::now()) || self.is_file_changed(session)
    }

    fn is_file_changed(&self, session: &Session) -> bool {
        matches!(self.method, VaultAuth::Token { .. }) && session.stamp != self.stamp()
    }

    /// Returns the token that is now in its file, if it is another one that the server accepts. Until then, for example
    /// while the file is being written, the previous one stays in use.
    async fn take_up(
        &self,
        client: &Client,
        target: &Target,
        session: &Session,
    ) -> Option<Session> {
        let VaultAuth::Token { token_file } = &self.method else {
            return None;
        };
        if !self.is_file_changed(session) {
            return None;
        }
        let stamp = self.stamp();
        let error = match read_token(token_file) {
            Ok(token) if token == session.token => {
                let mut state = self.shared();
                if let Some(current) = &mut state.session
                    && current.serial == session.serial
                {
                    current.stamp = stamp;
                }
                return None;
            }
            Ok(_) => match self.log_in(client, target).await {
                Ok(other) => {
                    tracing::info!(
                        address = target.address,
                        "another token is in its file and is used now"
                    );
                    return Some(other);
                }
                Err(error) => error,
            },
            Err(error) => error,
        };
        let mut state = self.shared();
        if state.unusable.as_ref() != Some(&stamp) {
            state.unusable = Some(stamp);
            tracing::warn!(
                address = target.address,
                %error,
                "the token file has changed and its token cannot be used: the one from before stays in use"
            );
        }
        None
    }

    /// Renews the token if that is due, or reads the first one from a token file. Returns when to call it again.
    pub(super) async fn tend(
        &self,
        client: &Client,
        target: &Target,
    ) -> Result<Duration, KmsError> {
        let due_in = |session: &Session| match session.due {
            Some(due) => due.saturating_duration_since(Instant::now()),
            None => Duration::MAX,
        };
        let (is_locked, session) = {
            let state = self.shared();
            (state.is_locked, state.session.clone())
        };
        match session {
            _ if is_locked => Ok(Duration::MAX),
            Some(session) if !self.needs_work(&session) => Ok(due_in(&session)),
            // An expired login is repeated by the next call.
            None if !matches!(self.method, VaultAuth::Token { .. }) => Ok(Duration::MAX),
            _ => Ok(due_in(&self.session(client, target).await?)),
        }
    }

    /// Returns `true` if there is a login.
    pub(super) fn has_session(&self) -> bool {
        self.shared().session.is_some()
    }

    /// Brings the next login after a refusal forward.
    pub(super) fn hurry(&self) {
        self.shared().refusals.hurry(Instant::now());
    }

    /// Returns the logins and renewals so far.
    pub(super) fn calls(&self) -> Counters {
        self.shared().calls
    }

    /// Returns the logins or renewals per hour, one at each half of the token's duration.
    pub(super) fn calls_per_hour(&self) -> f64 {
        let ttl = self
            .shared()
            .session
            .as_ref()
            .and_then(|session| session.ttl);
        ttl.map_or(0.0, |ttl| 2.0 * 3600.0 / ttl.as_secs_f64())
    }

    fn count(&self, operation: KmsOperation, error: Option<&KmsError>) {
        let outcome = error.map_or(KmsOutcome::Ok, KmsOutcome::of);
        self.shared().calls.add(operation, outcome);
    }

    /// Returns a token to replace one that the server refused: that of a new login, unless another call stored one
    /// already.
    pub(super) async fn replace(
        &self,
        client: &Client,
        target: &Target,
        refused: &Session,
    ) -> Result<Session, KmsError> {
        let _turn = self.turn.lock().await;
        let lock_count = self.shared().lock_count;
        if let Some(session) = self.usable()?
            && session.serial > refused.serial
            && session.token != refused.token
        {
            return Ok(session);
        }
        if let VaultAuth::Token { token_file } = &self.method
            && read_token(token_file).is_ok_and(|token| token == refused.token)
        {
            let error = token_ended(&target.address);
            let mut state = self.shared();
            state.session = None;
            state.refusals.note(&error, self.stamp(), Instant::now());
            return Err(error);
        }
        self.shared().session = None;
        let session = self.log_in(client, target).await?;
        self.store(session, lock_count)
    }

    /// Logs in, locked or not. The token is used once the unlock is finished.
    pub(super) async fn begin_unlock(
        &self,
        client: &Client,
        target: &Target,
    ) -> Result<Unlocking<'_>, KmsError> {
        let lock_count = self.shared().lock_count;
        let _turn = self.turn.lock().await;
        self.hurry();
        let session = self.log_in(client, target).await?;
        Ok(Unlocking {
            auth: self,
            session,
            lock_count,
        })
    }

    /// Returns the session, if there is one that has not expired. Returns an error if the provider is locked.
    fn usable(&self) -> Result<Option<Session>, KmsError> {
        let state = self.shared();
        if state.is_locked {
            return Err(locked());
        }
        let now = Instant::now();
        Ok(state
            .session
            .clone()
            .filter(|session| !session.is_over(now)))
    }

    fn store(&self, session: Session, lock_count: u64) -> Result<Session, KmsError> {
        let mut state = self.shared();
        if state.is_locked || state.lock_count != lock_count {
            return Err(locked());
        }
        Ok(state.take_over(session))
    }

    async fn refresh(
        &self,
        client: &Client,
        target: &Target,
        session: &Session,
    ) -> Result<Session, Unrenewed> {
        if session.can_renew {
            match renew(client, session).await {
                Ok(Some(renewed)) => {
                    self.count(KmsOperation::Renew, None);
                    return Ok(renewed);
                }
                Ok(None) => {}
                Err(error) => {
                    self.count(KmsOperation::Renew, Some(&error));
                    return Err(Unrenewed {
                        error,
                        can_renew: true,
                    });
                }
            }
        }
        // A token that the server refused to renew will be refused again.
        let logged_in = self.log_in(client, target).await;
        logged_in.map_err(|error| Unrenewed {
            error,
            can_renew: false,
        })
    }

    async fn log_in(&self, client: &Client, target: &Target) -> Result<Session, KmsError> {
        let stamp = self.stamp();
        if let Some(error) = self.shared().refusals.bar(&stamp, Instant::now()) {
            return Err(error);
        }
        let logged_in = self.log_in_now(client, target).await;
        self.count(KmsOperation::Login, logged_in.as_ref().err());
        let mut state = self.shared();
        match logged_in {
            Ok(session) => {
                state.refusals.clear();
                Ok(Session { stamp, ..session })
            }
            Err(error) => {
                state.refusals.note(&error, stamp, Instant::now());
                Err(error)
            }
        }
    }

    /// Returns the state of the files with the credentials.
    fn stamp(&self) -> Stamp {
        match &self.method {
            VaultAuth::Token { token_file: path }
            | VaultAuth::Approle {
                secret_id_file: path,
                ..
            } => Stamp::of([path.as_path()]),
            VaultAuth::Cert {
                cert_file,
                key_file,
                ..
            } => Stamp::of([cert_file.as_path(), key_file.as_path()]),
        }
    }

    async fn log_in_now(&self, client: &Client, target: &Target) -> Result<Session, KmsError> {
        let (mount, body) = match &self.method {
            VaultAuth::Token { token_file } => {
                return look_up(client, read_token(token_file)?).await;
            }
            VaultAuth::Approle {
                mount,
                role_id,
                secret_id_file,
            } => {
                let secret_id = read_secret(secret_id_file)?;
                let fields = [("role_id", role_id.as_bytes()), ("secret_id", &secret_id)];
                (mount, json::object(&fields))
            }
            VaultAuth::Cert {
                mount,
                name: Some(name),
                ..
            } => (mount, json::object(&[("name", name.as_bytes())])),
            VaultAuth::Cert { mount, .. } => (mount, json::object(&[])),
        };
        let path = format!("auth/{mount}/login");
        let since = Instant::now();
        let answer = client.post(&path, None, body).await?;
        if answer.status != StatusCode::OK {
            let error = errors::login_refusal(&target.address, &path, &answer);
            return Err(match &self.method {
                VaultAuth::Cert { cert_file, .. } => denials::name_dates(error, cert_file),
                _ => error,
            });
        }
        logged_in(&answer, since)
            .ok_or_else(|| errors::not_vault(&target.address, "no token for our login"))
    }

    fn shared(&self) -> MutexGuard<'_, State> {
        // No change of the state can panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_over(&mut self, session: Session) -> Session {
        self.serial += 1;
        let session = Session {
            serial: self.serial,
            login: match session.login {
                0 => self.serial,
                login => login,
            },
            ..session
        };
        self.session = Some(session.clone());
        session
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("method", &self.method)
            .field("session", &"(redacted)")
            .finish_non_exhaustive()
    }
}

/// An unlock that has logged in.
pub(super) struct Unlocking<'a> {
    auth: &'a Auth,
    session: Session,
    lock_count: u64,
}

impl Unlocking<'_> {
    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// Takes effect, unless the provider was locked since it began.
    pub(super) fn finish(self) -> Result<(), KmsError> {
        let mut state = self.auth.shared();
        if state.lock_count != self.lock_count {
            return Err(KmsError::new(
                Class::Locked,
                "the vault provider was locked while it was being unlocked",
                "unlock it again",
            ));
        }
        state.is_locked = false;
        state.take_over(self.session);
        Ok(())
    }
}

fn locked() -> KmsError {
    KmsError::new(
        Class::Locked,
        "the vault provider is locked",
        "unlock it: keyway kms unlock NAME",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_token_file_is_fine_at_the_start_and_a_missing_secret_id_is_not() {
        let token_file = "/nonexistent/token".into();
        assert!(Auth::open(VaultAuth::Token { token_file }).is_ok());
        let approle = VaultAuth::Approle {
            mount: "approle".into(),
            role_id: "r".into(),
            secret_id_file: "/nonexistent/secret-id".into(),
        };
        let error = Auth::open(approle).map(|_| ()).unwrap_err();
        assert_eq!(error.class(), Class::Misconfigured);
    }
}
