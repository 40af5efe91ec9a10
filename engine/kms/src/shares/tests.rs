//! Tests with the standard's vectors, and of refused input.
//!
//! `tests/data/slip39_vectors.json` is `vectors.json` of the standard's reference implementation,
//! <https://github.com/trezor/python-shamir-mnemonic>, without the wallet keys: for each vector its title, the shares,
//! and the secret in hexadecimal, or nothing if the shares are invalid. The passphrase is `TREZOR`.

use super::*;
use crate::hex;

fn share(text: &str) -> Share {
    Share::new(text.into()).unwrap()
}

/// As [`combine_shares`], for any length and passphrase.
fn combine_vector(shares: &[Share], secret_bytes: usize) -> Result<Zeroizing<Vec<u8>>, KmsError> {
    let mut members: Vec<Member> = Vec::new();
    for share in shares {
        let member = mnemonic::decode(share, secret_bytes)?;
        if let Some(first) = members.first() {
            member.check_belongs(first.terms)?;
        }
        member.check_new(&members)?;
        members.push(member);
    }
    recover(&members, b"TREZOR")
}

#[test]
fn the_standards_vectors_give_their_secret_or_their_error() {
    let vectors: Vec<(String, Vec<String>, String)> =
        serde_json::from_str(include_str!("../../tests/data/slip39_vectors.json")).unwrap();
    assert_eq!(vectors.len(), 45);
    let mut recovered = 0;
    for (title, texts, secret) in &vectors {
        let shares: Vec<Share> = texts.iter().map(|text| share(text)).collect();
        let words = texts[0].split(' ').count();
        let secret_bytes = if words == mnemonic::WORDS { 32 } else { 16 };
        let result = combine_vector(&shares, secret_bytes);
        let reason = reason(title);
        match reason {
            None => {
                let found = result.unwrap_or_else(|error| panic!("{title}: {error}"));
                assert_eq!(&hex::encode(&found), secret, "{title}");
                recovered += 1;
            }
            Some(reason) => {
                let error = result.expect_err(title);
                assert_eq!(error.class(), Class::Denied, "{title}");
                assert!(error.what().contains(reason), "{title}: {error}");
            }
        }
    }
    assert_eq!(recovered, 9);
}

/// Returns why a vector is refused, or `None` if it is valid. Groups are not supported, so all vectors that have them are
/// refused.
fn reason(title: &str) -> Option<&'static str> {
    let table = [
        ("invalid checksum", "checksum is wrong"),
        ("invalid padding", "padding is not zero"),
        ("different identifiers", "identifier is"),
        ("different iteration exponents", "iteration exponent is"),
        ("mismatching member thresholds", "threshold is"),
        ("duplicate member indices", "another share"),
        ("invalid digest", "digest is wrong"),
        ("insufficient length", "19 words"),
        ("invalid master secret length", "21 words"),
        ("group", "shares of Keyway have one group"),
        ("5. Basic sharing", "1 shares were given"),
        ("24. Basic sharing", "1 shares were given"),
    ];
    let is_titled = |part: &str| {
        // "5." is also how "45." ends.
        title.starts_with(part) || (!part.starts_with(char::is_numeric) && title.contains(part))
    };
    table
        .iter()
        .find(|(part, _)| is_titled(part))
        .map(|(_, reason)| *reason)
}

/// Vector 45 has Keyway's form. Under the empty passphrase the reference implementation recovers this secret.
#[test]
fn a_set_of_another_tool_recovers_to_its_secret() {
    let vectors: Vec<(String, Vec<String>, String)> =
        serde_json::from_str(include_str!("../../tests/data/slip39_vectors.json")).unwrap();
    let shares: Vec<Share> = vectors[44].1.iter().map(|text| share(text)).collect();
    let secret = combine_shares(&shares).unwrap();
    assert_eq!(
        hex::encode(secret.expose()),
        "e4234461a61678f551d7bdc9b9e96bd1e21afd6e9fc474da66daccb963cc7382"
    );
}

#[test]
fn what_is_encrypted_decrypts() {
    for is_extendable in [false, true] {
        let terms = Terms {
            identifier: 0x5aa5,
            is_extendable,
            iteration_exponent: 1,
            threshold: 2,
        };
        let mut block: Vec<u8> = (0..32).collect();
        cipher::encrypt(terms, b"pass", &mut block);
        assert!(block.iter().copied().ne(0..32));
        cipher::decrypt(terms, b"pass", &mut block);
        assert!(block.iter().copied().eq(0..32));
    }
}

#[test]
fn impossible_quorums_are_refused() {
    for (threshold, count) in [(0, 0), (0, 3), (4, 3), (1, 2), (2, 17), (17, 17)] {
        let error = Quorum::new(threshold, count).unwrap_err();
        assert_eq!(error.class(), Class::Misconfigured);
        assert!(
            error.what().contains(&format!("{threshold} of {count}")),
            "{error}"
        );
    }
    for (threshold, count) in [(1, 1), (2, 2), (2, 16), (16, 16)] {
        assert!(Quorum::new(threshold, count).is_ok());
    }
}

#[test]
fn errors_name_the_place_and_no_word() {
    let secret = SecretKey::take(&mut [0xa7; 32]);
    let shares = split_secret(&secret, Quorum::new(2, 3).unwrap()).unwrap();
    let words: Vec<&str> = shares[0].expose().split(' ').collect();
    let with = |place: usize, word: &str| {
        let mut changed = words.clone();
        changed[place] = word;
        share(&changed.join(" "))
    };
    // "acid" is in the list; one of the two differs from the share's word.
    let other = if words[16] == "acid" { "zero" } else { "acid" };
    let table = [
        (
            with(6, "hunter"),
            "word 7 of the share is not in the word list",
        ),
        (with(16, other), "checksum is wrong"),
        (
            share(&words[..32].join(" ")),
            "32 words, and a share of Keyway has 33",
        ),
        (with(0, "academic academic"), "34 words"),
    ];
    for (bad, reason) in table {
        let error = combine_shares(&[bad]).unwrap_err();
        assert_eq!(error.class(), Class::Denied);
        assert!(error.what().contains(reason), "{error}");
        assert!(!error.to_string().contains("hunter"), "{error}");
    }
    let member = Member::parse(&shares[2]).unwrap();
    assert_eq!(format!("{member:?}"), "Member(share 3, redacted)");
}

#[test]
fn a_share_of_another_set_is_named_until_the_right_one_is_given() {
    let secret = SecretKey::take(&mut [0xa7; 32]);
    let quorum = Quorum::new(2, 3).unwrap();
    let ours = split_secret(&secret, quorum).unwrap();
    let others = split_secret(&secret, quorum).unwrap();
    let mut stranger = Member::parse(&others[1]).unwrap();
    stranger.terms = Member::parse(&ours[0]).unwrap().terms;
    let with = |one: &Share| {
        let stranger = stranger.to_share().unwrap();
        combine_shares(&[share(one.expose()), stranger]).unwrap_err()
    };
    let (same_number, another) = (with(&ours[1]), with(&ours[0]));
    assert_eq!(same_number.remedy(), "check which of the two belongs here");
    assert_eq!(
        another.remedy(),
        "give all shares again; at least one of them is of another set, or was changed"
    );
    assert!(combine_shares(&ours[..2]).unwrap().is_same(&secret));
}

#[test]
fn too_few_shares_and_too_many_are_named_until_there_are_enough() {
    let secret = SecretKey::take(&mut [0xa7; 32]);
    let shares = split_secret(&secret, Quorum::new(2, 3).unwrap()).unwrap();
    let exactly = "give exactly as many shares as the threshold";
    for (count, remedy) in [(0, "give the shares"), (1, exactly), (3, exactly)] {
        let error = combine_shares(&shares[..count]).unwrap_err();
        assert_eq!(error.remedy(), remedy, "{count}");
    }
    assert!(combine_shares(&shares[1..]).unwrap().is_same(&secret));
}

#[test]
fn careless_spacing_and_capitals_are_read() {
    let secret = SecretKey::take(&mut [0xa7; 32]);
    let shares = split_secret(&secret, Quorum::new(1, 1).unwrap()).unwrap();
    let loud = shares[0].expose().to_uppercase().replace(' ', " \n");
    assert!(combine_shares(&[share(&loud)]).unwrap().is_same(&secret));
}
