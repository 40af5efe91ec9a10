//! Published test vectors, through the same calls that requests take. Ed25519 has its own, beside
//! the calls to AWS-LC.

use crate::common::{Fixture, output, unhex};
use keyway_keys::{Algorithm, Input, OpError, Scheme};

/// RFC 4231, test cases 4, 6 and 7. (1 to 3 and 5 have keys below 16 bytes or are truncated; case 1
/// has 20 bytes and is here too.)
#[test]
fn hmac_rfc_4231() {
    let long_key = vec![0xaa; 131];
    let counting: Vec<u8> = (1..=25).collect();
    let cases: [(&[u8], &[u8], &str, &str); 4] = [
        (
            &[0x0b; 20],
            b"Hi There",
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cde
             daa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854",
        ),
        (
            &counting,
            &[0xcd; 50],
            "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
            "b0ba465637458c6990e5a8c5f61d4af7e576d97ff94b872de76f8050361ee3db
             a91ca5c11aa25eb4d679275cc5788063a5f19741120c4f2de2adebeb10a298dd",
        ),
        (
            &long_key,
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f352
             6b56d037e05f2598bd0fd2215d6a1e5295e64f73f63f0aec8b915a985d786598",
        ),
        (
            &long_key,
            b"This is a test using a larger than block-size key and a larger than block-size \
              data. The key needs to be hashed before being used by the HMAC algorithm.",
            "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
            "e37b6a775dc87dbaa4dfa9f96e5e3ffddebd71f8867289865df5a32d20cdc944
             b6022cac3c4982b10d5eeb55c3e4de15134676fb6de0446065c97440fa8c6a58",
        ),
    ];
    let fixture = Fixture::new();
    for (secret, message, sha256, sha512) in cases {
        for (algorithm, expected) in [
            (Algorithm::HmacSha256, sha256),
            (Algorithm::HmacSha512, sha512),
        ] {
            let key = fixture.raw_key(algorithm, secret);
            let tag = output(|out| key.mac(message, out)).unwrap();
            assert_eq!(tag, unhex(expected), "{algorithm}");
            let input = Input::Message(message);
            assert_eq!(key.verify(0, Scheme::Default, input, &tag), Ok(1));
        }
    }
}

/// RFC 4231, test case 4, SHA-384.
#[test]
fn hmac_sha384_rfc_4231() {
    let fixture = Fixture::new();
    let secret: Vec<u8> = (1..=25).collect();
    let key = fixture.raw_key(Algorithm::HmacSha384, &secret);
    assert_eq!(
        output(|out| key.mac(&[0xcd; 50], out)).unwrap(),
        unhex(
            "3e8a69b7783c25851933ab6290af6ca77a9981480850009cc5577c6e1f573b4e
             6801dd23c4a7d679ccf8a386c674cffb"
        )
    );
}

/// RFC 5869, test cases 1 to 3.
#[test]
fn hkdf_sha256_rfc_5869() {
    let count = |from: u8, to: u8| (from..=to).collect::<Vec<u8>>();
    let cases = [
        (
            vec![0x0b; 22],
            count(0, 0x0c),
            count(0xf0, 0xf9),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            count(0, 0x4f),
            count(0x60, 0xaf),
            count(0xb0, 0xff),
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb
             41c65e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            vec![0x0b; 22],
            vec![],
            vec![],
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ];
    let fixture = Fixture::new();
    for (secret, salt, info, expected) in cases {
        let expected = unhex(expected);
        let key = fixture.raw_key(Algorithm::HkdfSha256, &secret);
        let derived = output(|out| key.derive(expected.len(), &salt, &info, out)).unwrap();
        assert_eq!(derived, expected);
    }
}

/// The specification of GCM (McGrew and Viega), test cases 14 and 16, as NIST took them over.
#[test]
fn aes_256_gcm_nist() {
    let key = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308";
    let cases = [
        (
            "00".repeat(32),
            "000000000000000000000000",
            "",
            "00000000000000000000000000000000",
            "cea7403d4d606b6e074ec5d3baf39d18",
            "d0d1c8a799996bf0265b98b5d48ab919",
        ),
        (
            key.to_owned(),
            "cafebabefacedbaddecaf888",
            "feedfacedeadbeeffeedfacedeadbeefabaddad2",
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72
             1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa
             8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
            "76fc6ece0f4e1768cddf8853bb2d551b",
        ),
    ];
    for (key, nonce, aad, plaintext, ciphertext, tag) in cases {
        decrypts(
            Algorithm::Aes256Gcm,
            &key,
            nonce,
            aad,
            plaintext,
            ciphertext,
            tag,
        );
    }
}

/// RFC 8439, section 2.8.2.
#[test]
fn chacha20_poly1305_rfc_8439() {
    decrypts(
        Algorithm::ChaCha20Poly1305,
        "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
        "070000004041424344454647",
        "50515253c0c1c2c3c4c5c6c7",
        "4c616469657320616e642047656e746c656d656e206f662074686520636c617373206f66202739393a204966
         204920636f756c64206f6666657220796f75206f6e6c79206f6e652074697020666f72207468652066757475
         72652c2073756e73637265656e20776f756c642062652069742e",
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69
         da92728b1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad67594
         5585808b4831d7bc3ff4def08e4b7a9de576d26586cec64b6116",
        "1ae10b594f09e26a7e902ecbd0600691",
    );
}

fn decrypts(
    algorithm: Algorithm,
    key: &str,
    nonce: &str,
    aad: &str,
    plaintext: &str,
    ciphertext: &str,
    tag: &str,
) {
    let fixture = Fixture::new();
    let key = fixture.raw_key(algorithm, &unhex(key));
    let version = 1_u32.to_le_bytes().to_vec();
    let mut sealed = [version, unhex(nonce), unhex(ciphertext), unhex(tag)].concat();
    let aad = unhex(aad);
    let opened = output(|out| key.decrypt(&aad, &sealed, out)).unwrap();
    assert_eq!(opened, unhex(plaintext));
    let last = sealed.len() - 1;
    sealed[last] ^= 1;
    let refused = output(|out| key.decrypt(&aad, &sealed, out));
    assert_eq!(refused, Err(OpError::Mismatch));
}
