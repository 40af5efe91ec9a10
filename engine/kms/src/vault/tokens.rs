//! The requests about tokens: renewals, look-ups, and the answers to logins.

use std::time::Instant;

use hyper::StatusCode;
use hyper::header::HeaderValue;
use zeroize::Zeroizing;

use crate::{Cause, Class, KmsError};

use super::client::{Client, VaultResponse};
use super::errors;
use super::json;
use super::secrets::header;
use super::session::Session;

const RENEW: &str = "auth/token/renew-self";
pub(super) const LOOK_UP: &str = "auth/token/lookup-self";

/// Renews a token. Returns `None` if this token cannot be renewed, so that a login is needed.
pub(super) async fn renew(client: &Client, session: &Session) -> Result<Option<Session>, KmsError> {
    let since = Instant::now();
    let answer = client
        .post(RENEW, Some(&session.token), json::object(&[]))
        .await?;
    if answer.status.is_server_error() || answer.status == StatusCode::TOO_MANY_REQUESTS {
        return Err(errors::login_refusal(client.address(), RENEW, &answer));
    }
    let renewed = logged_in(&answer, since).filter(|_| answer.status == StatusCode::OK);
    Ok(renewed.map(|renewed| Session {
        // A renewal for less time than before has reached the token's maximum.
        can_renew: renewed.can_renew && renewed.ttl >= session.ttl,
        login: session.login,
        stamp: session.stamp.clone(),
        ..renewed
    }))
}

/// Returns the token's remaining time from the server. A token without the right to look itself up is treated as one that
/// does not expire.
pub(super) async fn look_up(client: &Client, token: HeaderValue) -> Result<Session, KmsError> {
    let since = Instant::now();
    let answer = client.get(LOOK_UP, Some(&token)).await?;
    match answer.status {
        StatusCode::OK => {
            let looked_up: json::LookedUp = json::data(&answer.body)
                .ok_or_else(|| errors::not_vault(client.address(), "no token looked up"))?;
            Ok(Session::new(
                token,
                since,
                looked_up.ttl,
                looked_up.renewable,
            ))
        }
        StatusCode::FORBIDDEN if errors::is_policys_refusal(&answer) => {
            Ok(Session::new(token, since, 0, false))
        }
        StatusCode::FORBIDDEN if errors::is_vaults(&answer) => Err(token_ended(client.address())),
        _ => Err(errors::login_refusal(client.address(), LOOK_UP, &answer)),
    }
}

pub(super) fn logged_in(answer: &VaultResponse, since: Instant) -> Option<Session> {
    let auth = json::auth(&answer.body)?;
    let token = header(Zeroizing::new(auth.client_token.as_bytes().to_vec()))?;
    Some(Session::new(
        token,
        since,
        auth.lease_duration,
        auth.renewable,
    ))
}

/// Returns the error for a token that the server no longer has, or never had.
pub(super) fn token_ended(address: &str) -> KmsError {
    KmsError::new(
        Class::Credential,
        format!("{address} rejects our token: it has expired or was revoked"),
        "write a new token to the file of the setting auth; it is used as soon as it is there",
    )
    .from_cause(Cause::TokenEnded)
}
