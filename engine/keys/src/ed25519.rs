//! Ed25519 straight over bytes, through AWS-LC.
//!
//! The public calls of `aws-lc-rs` go through a key object on the C heap; these functions work on
//! 64 bytes wherever they lie, in the arena for that matter.

use crate::error::OpError;

/// Length of a seed, in bytes.
pub(crate) const SEED_LEN: usize = 32;
/// Length of a public key, in bytes.
pub(crate) const PUBLIC_LEN: usize = 32;
/// Length of a seed followed by its public key, in bytes.
pub(crate) const PAIR_LEN: usize = SEED_LEN + PUBLIC_LEN;
/// Length of a signature, in bytes.
pub(crate) const SIGNATURE_LEN: usize = 64;

const _: () = {
    assert!(PAIR_LEN == aws_lc_sys::ED25519_PRIVATE_KEY_LEN as usize);
    assert!(PUBLIC_LEN == aws_lc_sys::ED25519_PUBLIC_KEY_LEN as usize);
    assert!(SIGNATURE_LEN == aws_lc_sys::ED25519_SIGNATURE_LEN as usize);
};

/// Fills in the public key behind the seed that `pair` begins with.
pub(crate) fn complete(pair: &mut [u8; PAIR_LEN]) {
    let mut public = [0; PUBLIC_LEN];
    let mut seed = [0; SEED_LEN];
    seed.copy_from_slice(&pair[..SEED_LEN]);
    // SAFETY: the function reads 32 bytes of seed and writes 32 bytes of public key and 64 bytes of
    // pair; the three do not overlap.
    unsafe {
        aws_lc_sys::ED25519_keypair_from_seed(
            public.as_mut_ptr(),
            pair.as_mut_ptr(),
            seed.as_ptr(),
        );
    }
    crate::wipe::wipe(&mut seed);
}

/// Appends the signature of `message`. `pair` is a seed and its public key, which the caller knows
/// to belong together: signing with another public key would give the seed away.
#[inline]
pub(crate) fn sign(
    pair: &[u8; PAIR_LEN],
    message: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), OpError> {
    let mut signature = [0; SIGNATURE_LEN];
    // SAFETY: the function writes 64 bytes of signature, reads 64 bytes of pair and the message's
    // own length.
    let done = unsafe {
        aws_lc_sys::ED25519_sign(
            signature.as_mut_ptr(),
            message.as_ptr(),
            message.len(),
            pair.as_ptr(),
        )
    };
    if done != 1 {
        return Err(OpError::Internal);
    }
    out.extend_from_slice(&signature);
    Ok(())
}

/// Whether `signature` is that of `message`.
#[inline]
pub(crate) fn verifies(public: &[u8; PUBLIC_LEN], message: &[u8], signature: &[u8]) -> bool {
    let Ok(signature) = <&[u8; SIGNATURE_LEN]>::try_from(signature) else {
        return false;
    };
    // SAFETY: the function reads 64 bytes of signature, 32 bytes of public key and the message's
    // own length.
    let answer = unsafe {
        aws_lc_sys::ED25519_verify(
            message.as_ptr(),
            message.len(),
            signature.as_ptr(),
            public.as_ptr(),
        )
    };
    answer == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const LEN: usize>(hex: &str) -> [u8; LEN] {
        std::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
    }

    /// RFC 8032, section 7.1: seed, public key, message, signature.
    const VECTORS: [(&str, &str, &str, &str); 3] = [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ];

    #[test]
    fn the_vectors_of_rfc_8032_hold() {
        for (seed, public, message, signature) in VECTORS {
            let mut pair = [0; PAIR_LEN];
            pair[..SEED_LEN].copy_from_slice(&bytes::<SEED_LEN>(seed));
            complete(&mut pair);
            let public = bytes::<PUBLIC_LEN>(public);
            assert_eq!(pair[SEED_LEN..], public);
            assert_eq!(pair[..SEED_LEN], bytes::<SEED_LEN>(seed));
            let message: Vec<u8> = (0..message.len() / 2)
                .map(|i| u8::from_str_radix(&message[2 * i..2 * i + 2], 16).unwrap())
                .collect();
            let mut out = Vec::new();
            sign(&pair, &message, &mut out).unwrap();
            assert_eq!(out, bytes::<SIGNATURE_LEN>(signature));
            assert!(verifies(&public, &message, &out));
            assert!(!verifies(&public, b"another", &out));
            assert!(!verifies(&public, &message, &out[1..]));
        }
    }
}
