//! Sessions at the token, and the login that they share.

use cryptoki::context::Pkcs11 as Module;
use cryptoki::error::Error;
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::TokenInfo;
use cryptoki::types::AuthPin;

use super::classify::describe;
use super::{Pkcs11Settings, token};
use crate::{KmsError, Pin};

pub(super) fn open_session(
    module: &Module,
    settings: &Pkcs11Settings,
) -> Result<(Session, TokenInfo), KmsError> {
    let (slot, info) = token::find(module, settings)?;
    let session = module
        .open_ro_session(slot)
        .map_err(|error| describe(&error, settings))?;
    Ok((session, info))
}

pub(super) fn is_logged_in(session: &Session) -> bool {
    session.get_session_info().is_ok_and(|info| {
        matches!(
            info.session_state(),
            SessionState::RoUser | SessionState::RwUser
        )
    })
}

/// Lets the token check the PIN, once. It checks none while this process is logged in, possibly through another KMS.
pub(super) fn log_in(session: &Session, pin: &Pin) -> Result<(), Error> {
    if is_logged_in(session) {
        session.logout()?;
    }
    session.login(UserType::User, Some(&AuthPin::from(pin.expose())))
}
