//! Measures what ring and AWS-LC take for the operations that `providers.rs` chooses between.
//!
//! ```text
//! cargo run --release -p keyway-keys --example provider_figures
//! ```
//!
//! Each figure is the fastest of several batches, in microseconds of this thread's CPU time per
//! call: the least disturbed one. Keys are made for the occasion.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::KeyPair as _;
use ring::signature::KeyPair as _;
use std::hint::black_box;
use std::time::Duration;

#[path = "../../../testkit/machine.rs"]
mod machine;

const BATCHES: usize = 40;
const BATCH_MIN: Duration = Duration::from_millis(3);
const MESSAGE: [u8; 64] = [0x5a; 64];

fn main() {
    println!("{}", machine::description());
    println!(
        "ring 0.17.14, aws-lc-rs 1.19.0, message of {} bytes\n",
        MESSAGE.len()
    );
    println!("{:<44} {:>10} {:>10}", "us per call", "ring", "aws-lc");
    ed25519();
    ecdsa();
    rsa();
    symmetric();
    keyway();
}

/// CPU time that this thread has used.
fn cpu_time() -> Duration {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a valid place for the answer.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) };
    assert_eq!(done, 0, "every thread has such a clock");
    let seconds = u64::try_from(now.tv_sec).expect("CPU time is not negative");
    let nanoseconds = u64::try_from(now.tv_nsec).expect("CPU time is not negative");
    Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds)
}

/// Microseconds per call of `operation`.
fn time<R>(mut operation: impl FnMut() -> R) -> f64 {
    let mut batch = |calls: u32| {
        let start = cpu_time();
        (0..calls).for_each(|_| drop(black_box(operation())));
        cpu_time() - start
    };
    let mut calls = 1;
    while batch(calls) < BATCH_MIN && calls < 1 << 24 {
        calls *= 2;
    }
    (0..BATCHES)
        .map(|_| batch(calls).as_secs_f64() * 1e6 / f64::from(calls))
        .fold(f64::INFINITY, f64::min)
}

fn row(name: &str, ring: Option<f64>, aws: Option<f64>) {
    let cell = |figure: Option<f64>| figure.map_or("-".to_owned(), |us| format!("{us:.2}"));
    println!("{name:<44} {:>10} {:>10}", cell(ring), cell(aws));
}

fn ed25519() {
    let seed = [7; 32];
    let aws = aws_lc_rs::signature::Ed25519KeyPair::from_seed_unchecked(&seed).expect("a seed");
    let public = aws.public_key().as_ref().to_vec();
    let ring = ring::signature::Ed25519KeyPair::from_seed_and_public_key(&seed, &public)
        .expect("a matching pair");
    let mut both = [0; 64];
    both[..32].copy_from_slice(&seed);
    both[32..].copy_from_slice(&public);
    let bare_sign = || {
        let mut signature = [0_u8; 64];
        // SAFETY: 64 bytes of room, the message's own length, and seed followed by public key.
        let done = unsafe {
            aws_lc_sys::ED25519_sign(
                signature.as_mut_ptr(),
                MESSAGE.as_ptr(),
                MESSAGE.len(),
                both.as_ptr(),
            )
        };
        (done, signature)
    };
    let (_, signature) = bare_sign();
    row(
        "ed25519 build a key object from its seed",
        Some(time(|| {
            ring::signature::Ed25519KeyPair::from_seed_and_public_key(&seed, &public)
        })),
        Some(time(|| {
            aws_lc_rs::signature::Ed25519KeyPair::from_seed_unchecked(&seed)
        })),
    );
    row(
        "ed25519 sign through a key object",
        Some(time(|| ring.sign(&MESSAGE))),
        Some(time(|| aws.sign(&MESSAGE))),
    );
    row(
        "ed25519 sign over 64 bytes, no object",
        None,
        Some(time(bare_sign)),
    );
    let ring_key = ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, &public);
    row(
        "ed25519 verify",
        Some(time(|| ring_key.verify(&MESSAGE, &signature))),
        // SAFETY: the message's own length, 64 bytes of signature, 32 bytes of public key.
        Some(time(|| unsafe {
            aws_lc_sys::ED25519_verify(
                MESSAGE.as_ptr(),
                MESSAGE.len(),
                signature.as_ptr(),
                public.as_ptr(),
            )
        })),
    );
}

fn ecdsa() {
    use aws_lc_rs::{digest, signature as aws};
    use ring::signature as ring_sig;
    let rng = ring::rand::SystemRandom::new();
    let aws_rng = aws_lc_rs::rand::SystemRandom::new();
    let curves = [
        (
            "p256",
            &ring_sig::ECDSA_P256_SHA256_ASN1_SIGNING,
            &ring_sig::ECDSA_P256_SHA256_ASN1,
            &aws::ECDSA_P256_SHA256_ASN1_SIGNING,
            &aws::ECDSA_P256_SHA256_ASN1,
            &digest::SHA256,
        ),
        (
            "p384",
            &ring_sig::ECDSA_P384_SHA384_ASN1_SIGNING,
            &ring_sig::ECDSA_P384_SHA384_ASN1,
            &aws::ECDSA_P384_SHA384_ASN1_SIGNING,
            &aws::ECDSA_P384_SHA384_ASN1,
            &digest::SHA384,
        ),
    ];
    for (name, ring_sign, ring_verify, aws_sign, aws_verify, hash) in curves {
        let pkcs8 = ring_sig::EcdsaKeyPair::generate_pkcs8(ring_sign, &rng).expect("a key");
        let pkcs8 = pkcs8.as_ref();
        let ring_load = || ring_sig::EcdsaKeyPair::from_pkcs8(ring_sign, pkcs8, &rng);
        let aws_load = || aws::EcdsaKeyPair::from_pkcs8(aws_sign, pkcs8);
        let (ring, aws) = (ring_load().expect("its key"), aws_load().expect("its key"));
        row(
            &format!("ecdsa-{name} build a key object"),
            Some(time(ring_load)),
            Some(time(aws_load)),
        );
        row(
            &format!("ecdsa-{name} sign a message"),
            Some(time(|| ring.sign(&rng, &MESSAGE))),
            Some(time(|| aws.sign(&aws_rng, &MESSAGE))),
        );
        let digest = digest::digest(hash, &MESSAGE);
        row(
            &format!("ecdsa-{name} sign a digest, object kept"),
            None,
            Some(time(|| aws.sign_digest(&digest))),
        );
        row(
            &format!("ecdsa-{name} sign a digest, object per call"),
            None,
            Some(time(|| aws_load().expect("its key").sign_digest(&digest))),
        );
        let signature = ring.sign(&rng, &MESSAGE).expect("a signature");
        let public = ring.public_key().as_ref();
        let ring_key = ring_sig::UnparsedPublicKey::new(ring_verify, public);
        let aws_key = aws_lc_rs::signature::UnparsedPublicKey::new(aws_verify, public);
        row(
            &format!("ecdsa-{name} verify"),
            Some(time(|| ring_key.verify(&MESSAGE, signature.as_ref()))),
            Some(time(|| aws_key.verify(&MESSAGE, signature.as_ref()))),
        );
        row(
            &format!("ecdsa-{name} verify a digest"),
            None,
            Some(time(|| aws_key.verify_digest(&digest, signature.as_ref()))),
        );
    }
}

fn rsa() {
    use aws_lc_rs::{digest, rsa::KeySize, signature as aws};
    use ring::signature as ring_sig;
    let rng = ring::rand::SystemRandom::new();
    let aws_rng = aws_lc_rs::rand::SystemRandom::new();
    for (bits, size) in [
        (2048, KeySize::Rsa2048),
        (3072, KeySize::Rsa3072),
        (4096, KeySize::Rsa4096),
    ] {
        let start = cpu_time();
        let generated = aws_lc_rs::rsa::KeyPair::generate(size).expect("a key");
        let generation_us = (cpu_time() - start).as_secs_f64() * 1e6;
        row(
            &format!("rsa-{bits} generate (one sample)"),
            None,
            Some(generation_us),
        );
        let pkcs8 = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&generated);
        let pkcs8 = pkcs8.expect("its encoding");
        let pkcs8 = pkcs8.as_ref();
        let ring_load = || ring_sig::RsaKeyPair::from_pkcs8(pkcs8);
        let aws_load = || aws::RsaKeyPair::from_pkcs8(pkcs8);
        let (ring, aws) = (ring_load().expect("its key"), aws_load().expect("its key"));
        row(
            &format!("rsa-{bits} build a key object"),
            Some(time(ring_load)),
            Some(time(aws_load)),
        );
        let mut signature = vec![0; ring.public().modulus_len()];
        row(
            &format!("rsa-{bits} sign (pss-sha256)"),
            Some(time(|| {
                ring.sign(&ring_sig::RSA_PSS_SHA256, &rng, &MESSAGE, &mut signature)
            })),
            Some(time(|| {
                let mut signature = vec![0; bits / 8];
                aws.sign(&aws::RSA_PSS_SHA256, &aws_rng, &MESSAGE, &mut signature)
            })),
        );
        let digest = digest::digest(&digest::SHA256, &MESSAGE);
        row(
            &format!("rsa-{bits} sign a digest, object kept"),
            None,
            Some(time(|| {
                let mut signature = vec![0; bits / 8];
                aws.sign_digest(&aws::RSA_PSS_SHA256, &digest, &mut signature)
            })),
        );
        row(
            &format!("rsa-{bits} sign a digest, object per call"),
            None,
            Some(time(|| {
                let mut signature = vec![0; bits / 8];
                let key = aws_load().expect("its key");
                key.sign_digest(&aws::RSA_PSS_SHA256, &digest, &mut signature)
            })),
        );
        let public = ring.public().as_ref();
        let verify = &ring_sig::RSA_PSS_2048_8192_SHA256;
        let ring_key = ring_sig::UnparsedPublicKey::new(verify, public);
        let verify = &aws::RSA_PSS_2048_8192_SHA256;
        let aws_key = aws::UnparsedPublicKey::new(verify, public);
        row(
            &format!("rsa-{bits} verify"),
            Some(time(|| ring_key.verify(&MESSAGE, &signature))),
            Some(time(|| aws_key.verify(&MESSAGE, &signature))),
        );
    }
}

fn symmetric() {
    use ring::rand::SecureRandom as _;
    let rng = ring::rand::SystemRandom::new();
    let aws_rng = aws_lc_rs::rand::SystemRandom::new();
    let key = [7; 32];
    let ring_mac = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
    let aws_mac = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &key);
    row(
        "hmac-sha256 of 64 bytes",
        Some(time(|| ring::hmac::sign(&ring_mac, &MESSAGE))),
        Some(time(|| aws_lc_rs::hmac::sign(&aws_mac, &MESSAGE))),
    );
    for (name, ring_alg, aws_alg) in [
        (
            "aes-256-gcm",
            &ring::aead::AES_256_GCM,
            &aws_lc_rs::aead::AES_256_GCM,
        ),
        (
            "chacha20-poly1305",
            &ring::aead::CHACHA20_POLY1305,
            &aws_lc_rs::aead::CHACHA20_POLY1305,
        ),
    ] {
        let ring_load = || {
            let unbound = ring::aead::UnboundKey::new(ring_alg, &key).expect("32 bytes");
            ring::aead::LessSafeKey::new(unbound)
        };
        let aws_load = || {
            let unbound = aws_lc_rs::aead::UnboundKey::new(aws_alg, &key).expect("32 bytes");
            aws_lc_rs::aead::LessSafeKey::new(unbound)
        };
        row(
            &format!("{name} build a key object"),
            Some(time(ring_load)),
            Some(time(aws_load)),
        );
        let (ring, aws) = (ring_load(), aws_load());
        row(
            &format!("{name} seal 64 bytes"),
            Some(time(|| {
                let nonce = ring::aead::Nonce::assume_unique_for_key([3; 12]);
                let mut text = MESSAGE;
                ring.seal_in_place_separate_tag(nonce, ring::aead::Aad::empty(), &mut text)
            })),
            Some(time(|| {
                let nonce = aws_lc_rs::aead::Nonce::assume_unique_for_key([3; 12]);
                let mut text = MESSAGE;
                aws.seal_in_place_separate_tag(nonce, aws_lc_rs::aead::Aad::empty(), &mut text)
            })),
        );
    }
    row(
        "hkdf-sha256 extract and expand to 32 bytes",
        Some(time(|| {
            let mut out = [0; 32];
            ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, &key)
                .extract(&key)
                .expand(&[b"info"], ring::hkdf::HKDF_SHA256)
                .and_then(|okm| okm.fill(&mut out))
        })),
        Some(time(|| {
            let mut out = [0; 32];
            aws_lc_rs::hkdf::Salt::new(aws_lc_rs::hkdf::HKDF_SHA256, &key)
                .extract(&key)
                .expand(&[b"info"], aws_lc_rs::hkdf::HKDF_SHA256)
                .and_then(|okm| okm.fill(&mut out))
        })),
    );
    row(
        "12 random bytes",
        Some(time(|| rng.fill(&mut [0; 12]))),
        Some(time(|| {
            aws_lc_rs::rand::SecureRandom::fill(&aws_rng, &mut [0; 12])
        })),
    );
    row(
        "scrub the stack",
        Some(time(keyway_keys::scrub_stack)),
        None,
    );
}

/// The same operations through this crate, with what it adds: checks, wiping, the arena.
fn keyway() {
    use keyway_keys::*;
    let arena = Arena::new(ArenaOptions {
        capacity_bytes: 1 << 20,
        lock: false,
    })
    .expect("a small arena");
    let vault = Vault::new(arena, ProviderChoice::Default);
    let dek = vault.dek(1, &mut [7; 32]).expect("room for a DEK");
    let context = Context {
        keyspace: 1,
        key_id: b"alice",
    };
    let new = NewKey {
        usage: None,
        exportable: false,
        not_before_unix_ms: 0,
        not_after_unix_ms: 0,
        now_unix_ms: 1,
        first_version: 1,
    };
    println!(
        "\n{:<44} {:>10} {:>10}",
        "through keyway-keys, us per call", "open", "operate"
    );
    for algorithm in Algorithm::ALL {
        let blob = vault
            .seal_generated(&dek, context, algorithm, &new)
            .expect("a key");
        let open = || vault.open(&dek, context, 1, &blob).expect("its blob");
        let key = open();
        let mut out = Vec::with_capacity(1024);
        let operate = || {
            out.clear();
            let input = Input::Message(&MESSAGE);
            if algorithm.is_asymmetric() {
                key.sign(Scheme::Default, input, &mut out)
            } else {
                key.mac(&MESSAGE, &mut out)
                    .or_else(|_| key.encrypt(b"", &MESSAGE, &mut out))
                    .or_else(|_| key.derive(32, b"", b"", &mut out))
            }
        };
        row(algorithm.name(), Some(time(open)), Some(time(operate)));
    }
}
