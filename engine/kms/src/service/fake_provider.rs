//! A scripted provider behind the real trait.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::provider::{
    Generated, Provider, ProviderFuture, ProviderState, UnlockNeed, UnlockSecret, Unlocked, Wrapped,
};
use crate::{Class, Context, KmsError, SecretKey};

/// The result of one call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Answers after this time.
    Ok(Duration),
    /// Fails immediately.
    Fail(Class),
    /// Never answers.
    Hang,
    /// Panics.
    Panic,
    /// Answers with another key.
    OtherKey,
}

/// Follows a script, call by call, and then `afterwards`. "Wrapping" is the identity.
pub(super) struct FakeProvider {
    script: Mutex<VecDeque<Step>>,
    afterwards: Mutex<Step>,
    calls: Mutex<Vec<Instant>>,
    under_way: AtomicUsize,
    under_way_max: AtomicUsize,
    is_locked: AtomicBool,
    generates: AtomicBool,
}

impl FakeProvider {
    pub(super) fn new(script: impl IntoIterator<Item = Step>, afterwards: Step) -> Self {
        Self {
            script: Mutex::new(script.into_iter().collect()),
            afterwards: Mutex::new(afterwards),
            calls: Mutex::default(),
            under_way: AtomicUsize::new(0),
            under_way_max: AtomicUsize::new(0),
            is_locked: AtomicBool::new(false),
            generates: AtomicBool::new(false),
        }
    }

    /// Returns when each call arrived.
    pub(super) fn calls(&self) -> Vec<Instant> {
        self.calls.lock().unwrap().clone()
    }

    pub(super) fn call_count(&self) -> usize {
        self.calls.lock().unwrap().len()
    }

    /// Returns the highest number of concurrent calls.
    pub(super) fn under_way_max(&self) -> usize {
        self.under_way_max.load(Ordering::SeqCst)
    }

    pub(super) fn set_afterwards(&self, step: Step) {
        *self.afterwards.lock().unwrap() = step;
    }

    /// Lets it also generate DEKs.
    pub(super) fn generate_too(&self) {
        self.generates.store(true, Ordering::SeqCst);
    }

    async fn answer(&self, bytes: &[u8]) -> Result<Vec<u8>, KmsError> {
        struct UnderWay<'a>(&'a AtomicUsize);
        impl Drop for UnderWay<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.calls.lock().unwrap().push(Instant::now());
        let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        let _under_way = UnderWay(&self.under_way);
        self.under_way_max.fetch_max(under_way, Ordering::SeqCst);
        let scripted = self.script.lock().unwrap().pop_front();
        let step = scripted.unwrap_or(*self.afterwards.lock().unwrap());
        match step {
            Step::Ok(delay) => {
                tokio::time::sleep(delay).await;
                Ok(bytes.to_vec())
            }
            Step::Fail(class) => Err(KmsError::new(class, "told to fail", "change the script")),
            Step::Hang => std::future::pending().await,
            Step::Panic => panic!("told to panic"),
            Step::OtherKey => Ok(bytes.iter().map(|byte| byte ^ 1).collect()),
        }
    }
}

impl Provider for FakeProvider {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn state(&self) -> ProviderState {
        if self.is_locked.load(Ordering::SeqCst) {
            ProviderState::Locked
        } else {
            ProviderState::Unlocked
        }
    }

    fn is_unprotected(&self) -> bool {
        false
    }

    fn unlock_need(&self) -> UnlockNeed {
        UnlockNeed::Nothing
    }

    fn wrap<'a>(&'a self, _: &'a Context, dek: &'a SecretKey) -> ProviderFuture<'a, Wrapped> {
        Box::pin(async { self.answer(dek.expose()).await.map(Wrapped) })
    }

    fn unwrap<'a>(&'a self, _: &'a Context, wrapped: &'a [u8]) -> ProviderFuture<'a, SecretKey> {
        Box::pin(async {
            let mut bytes: [u8; 32] = self.answer(wrapped).await?.try_into().unwrap();
            Ok(SecretKey::take(&mut bytes))
        })
    }

    fn generate<'a>(&'a self, _: &'a Context) -> Option<ProviderFuture<'a, Generated>> {
        self.generates.load(Ordering::SeqCst).then(|| {
            Box::pin(async {
                let bytes = self.answer(&[0x6e; 32]).await?;
                let wrapped = Wrapped(bytes.clone());
                let dek = SecretKey::take(&mut bytes.try_into().unwrap());
                Ok(Generated { dek, wrapped })
            }) as ProviderFuture<'a, Generated>
        })
    }

    fn unlock(&self, _: UnlockSecret) -> ProviderFuture<'_, Unlocked> {
        Box::pin(async {
            self.answer(&[]).await?;
            self.is_locked.store(false, Ordering::SeqCst);
            Ok(Unlocked::Open)
        })
    }

    fn lock(&self) {
        self.is_locked.store(true, Ordering::SeqCst);
    }
}
