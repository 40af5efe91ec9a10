//! Lock and unlock.

use std::time::Duration;

use keyway_kms::{
    Class, Passphrase, Provider, ProviderState, TransitProvider, UnlockNeed, UnlockSecret, Unlocked,
};
use keyway_testkit::openbao::Mode;

use super::{CONTEXT, UNAVAILABLE, class, round_trip, server_or_skip, settings, unwrap, wrap};

#[tokio::test]
async fn a_locked_provider_refuses_until_it_is_unlocked() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    let vault = TransitProvider::open(settings(&server)).unwrap();
    assert_eq!(vault.state(), ProviderState::Unlocked);
    assert_eq!(vault.unlock_need(), UnlockNeed::Nothing);
    let wrapped = wrap(&vault).await.unwrap();
    vault.lock();
    assert_eq!(vault.state(), ProviderState::Locked);
    assert_eq!(class(wrap(&vault).await), Class::Locked);
    assert_eq!(class(unwrap(&vault, &wrapped).await), Class::Locked);
    assert_eq!(
        class(vault.generate(&CONTEXT).unwrap().await),
        Class::Locked
    );
    assert_eq!(
        vault.unlock(UnlockSecret::Nothing).await,
        Ok(Unlocked::Open)
    );
    assert_eq!(vault.state(), ProviderState::Unlocked);
    unwrap(&vault, &wrapped).await.unwrap();
    round_trip(&vault).await;
}

#[tokio::test]
async fn an_unlock_with_a_passphrase_is_refused() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    let vault = TransitProvider::open(settings(&server)).unwrap();
    let secret = Passphrase::new(b"correct horse".to_vec()).unwrap();
    let unlocked = vault.unlock(UnlockSecret::Passphrase(secret)).await;
    assert_eq!(class(unlocked), Class::Misconfigured);
}

#[tokio::test]
async fn an_unlock_fails_while_the_server_is_away_and_leaves_it_locked() {
    let Some(mut server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    let vault = TransitProvider::open(settings(&server)).unwrap();
    vault.lock();
    server.seal();
    assert_eq!(
        class(vault.unlock(UnlockSecret::Nothing).await),
        UNAVAILABLE
    );
    assert_eq!(vault.state(), ProviderState::Locked);
    server.unseal();
    vault.unlock(UnlockSecret::Nothing).await.unwrap();
    round_trip(&vault).await;
}

#[tokio::test]
async fn a_lock_wins_over_what_began_before_it() {
    let Some(server) = server_or_skip(Mode::InMemory) else {
        return;
    };
    let vault = TransitProvider::open(settings(&server)).unwrap();
    server.pause();
    let mut unlocking = vault.unlock(UnlockSecret::Nothing);
    let mut wrapping = Box::pin(wrap(&vault));
    // Both have begun, and wait for the server.
    let a_while = Duration::from_millis(200);
    assert!(tokio::time::timeout(a_while, &mut unlocking).await.is_err());
    assert!(tokio::time::timeout(a_while, &mut wrapping).await.is_err());
    vault.lock();
    server.resume();
    // The wrap waits for its turn to log in, after the unlock.
    let (unlocked, wrapped) = tokio::join!(unlocking, wrapping);
    assert_eq!(class(unlocked), Class::Locked);
    assert_eq!(class(wrapped), Class::Locked);
    assert_eq!(vault.state(), ProviderState::Locked);
}
