//! Refusals: whether one is a decision of the KMS about Keyway's right to the key, or about a login.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hyper::StatusCode;

use super::{Auth, Denied};
use crate::vault::client::{Client, VaultResponse};
use crate::vault::errors::{self, Target};
use crate::vault::secrets::read_token;
use crate::vault::session::Session;
use crate::vault::settings::VaultAuth;
use crate::vault::tls;
use crate::vault::tokens::LOOK_UP;
use crate::{Cause, Class, KmsError};

/// How long the denial of a new login's token counts for all calls. After that, another login is made before a denial is
/// believed.
const DENIAL_HOLDS: Duration = Duration::from_secs(60);

impl Auth {
    /// Returns `true` if the server still has the token: then the policy refused the call, and otherwise the token is
    /// invalid.
    pub(in crate::vault) async fn is_token_known(
        &self,
        client: &Client,
        session: &Session,
        refusal: &VaultResponse,
    ) -> Result<bool, KmsError> {
        let answer = client.get(LOOK_UP, Some(&session.token)).await?;
        match answer.status {
            StatusCode::OK => Ok(true),
            // A token without the right to look itself up is refused in other words than an unknown one.
            StatusCode::FORBIDDEN if errors::is_vaults(&answer) => {
                Ok(errors::is_policys_refusal(refusal))
            }
            _ => Err(errors::login_refusal(client.address(), LOOK_UP, &answer)),
        }
    }

    /// Returns a token to repeat a call that the policy denied for this one: another that is now in its file, or that of
    /// a new login, since the role may have another policy now. Returns `None` if the denial must be believed: the token
    /// is that of a new login itself, or the server refuses another one.
    ///
    /// # Errors
    /// The login could not be made.
    pub(in crate::vault) async fn after_denial(
        &self,
        client: &Client,
        target: &Target,
        denied: &Session,
    ) -> Result<Option<Session>, KmsError> {
        let _turn = self.turn.lock().await;
        let lock_count = self.shared().lock_count;
        if let Some(session) = self.usable()?
            && session.login > denied.login
        {
            return Ok(Some(session));
        }
        let is_confirmed = self.shared().denied.is_some_and(|latest| {
            latest.login == denied.login && latest.at.elapsed() < DENIAL_HOLDS
        });
        // The same token has the same policy.
        let is_same = || match &self.method {
            VaultAuth::Token { token_file } => {
                read_token(token_file).map_or(true, |token| token == denied.token)
            }
            VaultAuth::Approle { .. } | VaultAuth::Cert { .. } => false,
        };
        if is_confirmed || is_same() {
            return Ok(None);
        }
        match self.log_in(client, target).await {
            Ok(session) => self.store(session, lock_count).map(Some),
            Err(error) => match error.class() {
                Class::Unavailable { .. } | Class::Throttled { .. } => Err(error),
                _ => Ok(None),
            },
        }
    }

    /// Records that the token of a new login was denied a call.
    pub(in crate::vault) fn note_denied(&self, session: &Session) {
        let denied = Denied {
            login: session.login,
            at: Instant::now(),
        };
        self.shared().denied = Some(denied);
    }
}

/// The server refuses a certificate in general words. Returns the error with the reason, if its dates are that.
pub(super) fn name_dates(error: KmsError, cert_file: &Path) -> KmsError {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_unix_s = now.map_or(0, |now| now.as_secs());
    if error.class() != Class::Credential || !tls::is_out_of_date(cert_file, now_unix_s) {
        return error;
    }
    KmsError::new(
        Class::Credential,
        format!(
            "{}; the certificate in {} has expired, or is not valid yet",
            error.what(),
            cert_file.display()
        ),
        "renew our client certificate (auth.cert_file and key_file): the files are read again when they change; or set \
         the clock of this machine",
    )
    .from_cause(Cause::ClientCertificate)
}
