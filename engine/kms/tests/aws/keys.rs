//! Operations on keys: round trips, changed bytes, locking, aliases.

use keyway_kms::{Class, Context, Provider, ProviderState, UnlockNeed, UnlockSecret, Unlocked};

use crate::site::{SECRET, Site, assert_class, context, dek};

#[tokio::test]
async fn what_was_wrapped_or_generated_opens_under_its_context_and_no_other() {
    let Some(site) = Site::start() else { return };
    site.moto.check_requests();
    for key_id in [site.key.arn.as_str(), &site.key.id, "alias/keyway"] {
        let aws = site.open(key_id);
        assert_eq!(aws.name(), "aws");
        assert_eq!(aws.state(), ProviderState::Unlocked);
        assert_eq!(aws.unlock_need(), UnlockNeed::Nothing);
        assert!(!aws.is_unprotected());

        let wrapped = aws.wrap(&context(), &dek()).await.unwrap();
        assert!(
            !wrapped
                .0
                .windows(8)
                .any(|part| SECRET.windows(8).any(|secret| secret == part))
        );
        let opened = aws.unwrap(&context(), &wrapped.0).await.unwrap();
        assert!(opened.is_same(&dek()));

        let generated = aws.generate(&context()).unwrap().await.unwrap();
        assert!(!generated.dek.is_same(&dek()));
        let opened = aws.unwrap(&context(), &generated.wrapped.0).await.unwrap();
        assert!(opened.is_same(&generated.dek));

        let others = [
            Context {
                cluster: [0; 16],
                ..context()
            },
            Context {
                keyspace: 8,
                ..context()
            },
            Context {
                generation: 3,
                ..context()
            },
        ];
        for other in others {
            assert_class(aws.unwrap(&other, &wrapped.0).await, Class::Corrupt);
        }
    }
}

#[tokio::test]
async fn a_changed_ciphertext_never_opens() {
    let Some(site) = Site::start() else { return };
    let aws = site.open(&site.key.arn);
    let wrapped = aws.wrap(&context(), &dek()).await.unwrap().0;
    for bad in [Vec::new(), vec![0; 6145]] {
        assert_class(aws.unwrap(&context(), &bad).await, Class::Corrupt);
    }
    // The key's ARN precedes the ciphertext. moto's format is its own: 36 bytes name the key, and a change there names
    // another key, which AWS and moto refuse as one that this identity may not see.
    let ciphertext_at = 6 + site.key.arn.len();
    for place in ciphertext_at..wrapped.len() {
        let mut bad = wrapped.clone();
        bad[place] ^= 1;
        let class = if place < ciphertext_at + 36 {
            Class::Denied
        } else {
            Class::Corrupt
        };
        assert_class(aws.unwrap(&context(), &bad).await, class);
    }
    assert_class(
        aws.unwrap(&context(), &wrapped[..wrapped.len() - 1]).await,
        Class::Corrupt,
    );
    // Another key's ARN is refused without a call.
    let mut other = wrapped.clone();
    other[ciphertext_at - 1] ^= 1;
    assert_class(aws.unwrap(&context(), &other).await, Class::Misconfigured);
    // The ciphertext alone is the older stored form.
    let before = &wrapped[ciphertext_at..];
    assert!(
        aws.unwrap(&context(), before)
            .await
            .unwrap()
            .is_same(&dek())
    );
    assert!(
        aws.unwrap(&context(), &wrapped)
            .await
            .unwrap()
            .is_same(&dek())
    );
}

#[tokio::test]
async fn a_locked_provider_reaches_nothing_until_it_is_unlocked() {
    let Some(site) = Site::start() else { return };
    site.moto.check_requests();
    let aws = site.open(&site.key.arn);
    let wrapped = aws.wrap(&context(), &dek()).await.unwrap();
    aws.lock();
    assert_eq!(aws.state(), ProviderState::Locked);
    assert_class(aws.wrap(&context(), &dek()).await, Class::Locked);
    assert_class(aws.unwrap(&context(), &wrapped.0).await, Class::Locked);
    assert_class(aws.generate(&context()).unwrap().await, Class::Locked);
    assert_eq!(aws.unlock(UnlockSecret::Nothing).await, Ok(Unlocked::Open));
    assert_eq!(aws.state(), ProviderState::Unlocked);
    assert!(
        aws.unwrap(&context(), &wrapped.0)
            .await
            .unwrap()
            .is_same(&dek())
    );
}

#[tokio::test]
async fn an_unlock_or_a_call_that_a_lock_overtakes_has_no_effect() {
    let Some(site) = Site::start() else { return };
    let aws = site.open(&site.key.arn);
    let wrapped = aws.wrap(&context(), &dek()).await.unwrap();
    // A future does nothing before it is polled, so each is polled until it waits for moto, and locked then.
    let context = context();
    let mut unwrap = aws.unwrap(&context, &wrapped.0);
    assert!(
        std::future::poll_fn(|cx| std::task::Poll::Ready(unwrap.as_mut().poll(cx).is_pending()))
            .await
    );
    aws.lock();
    assert_class(unwrap.await, Class::Locked);

    let mut unlock = aws.unlock(UnlockSecret::Nothing);
    assert!(
        std::future::poll_fn(|cx| std::task::Poll::Ready(unlock.as_mut().poll(cx).is_pending()))
            .await
    );
    aws.lock();
    assert_class(unlock.await, Class::Locked);
    assert_eq!(aws.state(), ProviderState::Locked);
    assert_class(aws.unwrap(&context, &wrapped.0).await, Class::Locked);
}

#[tokio::test]
async fn unlocking_shows_a_disabled_key_and_one_of_the_wrong_kind() {
    let Some(site) = Site::start() else { return };
    // DescribeKey is the only answer of moto that a disabled key changes.
    let disabled = site.moto.create_key();
    site.moto.disable_key(&disabled);
    let aws = site.open(&disabled.arn);
    aws.lock();
    assert_class(aws.unlock(UnlockSecret::Nothing).await, Class::Disabled);
    assert_eq!(aws.state(), ProviderState::Locked);

    let rsa = serde_json::json!({ "KeyUsage": "ENCRYPT_DECRYPT", "KeySpec": "RSA_2048" });
    let rsa = site.moto.kms("CreateKey", &rsa);
    let aws = site.open(rsa["KeyMetadata"]["Arn"].as_str().unwrap());
    let error = assert_class(
        aws.unlock(UnlockSecret::Nothing).await,
        Class::Misconfigured,
    );
    assert!(error.what().contains("RSA_2048"), "{error}");
}

#[tokio::test]
async fn an_alias_that_is_pointed_elsewhere_is_refused_until_an_unlock_takes_it() {
    let Some(site) = Site::start() else { return };
    let aws = site.open("alias/keyway");
    let wrapped = aws.wrap(&context(), &dek()).await.unwrap();
    let other = site.moto.create_key();
    site.moto.point_alias("alias/keyway", &other);
    let error = assert_class(aws.wrap(&context(), &dek()).await, Class::Misconfigured);
    assert!(
        error.what().contains(&other.arn) && error.what().contains(&site.key.arn),
        "{error}"
    );
    aws.lock();
    aws.unlock(UnlockSecret::Nothing).await.unwrap();
    let newer = aws.wrap(&context(), &dek()).await.unwrap();
    aws.unwrap(&context(), &newer.0).await.unwrap();
    // DEKs wrapped by the first key are still unwrapped by it, also after a restart.
    for aws in [aws, site.open("alias/keyway")] {
        for wrapped in [&wrapped, &newer] {
            let opened = aws.unwrap(&context(), &wrapped.0).await.unwrap();
            assert!(opened.is_same(&dek()));
        }
    }
}
