//! Blobs put where others belong, and ciphertexts made to fit two keys: none opens.

use crate::common::{ALICE, Fixture, NEW, output};
use keyway_keys::{Algorithm, Context, Dek, OpenError};
use ring::{aead, hkdf};

/// Who a blob was sealed for, or is opened as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    keyspace: u32,
    key_id: &'static str,
    dek_generation: u32,
    version: u32,
}

impl Place {
    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for keyspace in [1, 2] {
            for key_id in ["alice", "carol"] {
                for dek_generation in [1, 2] {
                    for version in [1, 2] {
                        all.push(Self {
                            keyspace,
                            key_id,
                            dek_generation,
                            version,
                        });
                    }
                }
            }
        }
        all
    }

    fn context(&self) -> Context<'static> {
        Context {
            keyspace: self.keyspace,
            key_id: self.key_id.as_bytes(),
        }
    }

    fn seal(&self, fixture: &Fixture, dek: &Dek, algorithm: Algorithm) -> Vec<u8> {
        let vault = &fixture.vault;
        let context = self.context();
        let mut blob = vault.seal_generated(dek, context, algorithm, &NEW).unwrap();
        for _ in 1..self.version {
            let rotated = vault.seal_rotated(dek, context, &blob, dek, None, NEW.now_unix_ms);
            blob = rotated.unwrap().0;
        }
        blob
    }

    /// Whether a blob of this place may be opened as `wanted`: newer is welcome.
    fn serves(&self, wanted: &Self) -> bool {
        let version = self.version.max(wanted.version);
        *self == Self { version, ..*wanted }
    }

    /// Writes this place into a blob's header.
    fn write_into(&self, blob: &mut [u8]) {
        blob[8..12].copy_from_slice(&self.keyspace.to_le_bytes());
        blob[12..16].copy_from_slice(&self.version.to_le_bytes());
        blob[16..20].copy_from_slice(&self.dek_generation.to_le_bytes());
        blob[136..141].copy_from_slice(self.key_id.as_bytes());
    }
}

/// Every blob at every place. With one DEK for all, nothing but the header stands between them;
/// with a DEK each, the commitment does too.
#[test]
fn a_blob_opens_at_its_own_place_only() {
    for algorithm in [Algorithm::Ed25519, Algorithm::Aes256Gcm] {
        for one_dek_for_all in [true, false] {
            let fixture = Fixture::new();
            let dek = |place: &Place| {
                let bytes = match one_dek_for_all {
                    true => [0x11; 32],
                    false => [(place.keyspace * 16 + place.dek_generation) as u8; 32],
                };
                let mut bytes = bytes;
                fixture.vault.dek(place.dek_generation, &mut bytes).unwrap()
            };
            for from in Place::all() {
                let blob = from.seal(&fixture, &dek(&from), algorithm);
                for to in Place::all() {
                    let open = |blob: &[u8]| {
                        let opened = fixture
                            .vault
                            .open(&dek(&to), to.context(), to.version, blob);
                        opened.map(drop)
                    };
                    assert_eq!(open(&blob).is_ok(), from.serves(&to), "{from:?} as {to:?}");
                    // And with the header made to fit.
                    let mut renamed = blob.clone();
                    to.write_into(&mut renamed);
                    let opened = open(&renamed);
                    assert_eq!(opened.is_ok(), from == to, "{from:?} made {to:?}");
                    if from != to {
                        let refused =
                            matches!(opened, Err(OpenError::Corrupt | OpenError::Commitment));
                        assert!(refused, "{opened:?}");
                    }
                }
            }
        }
    }
}

/// Two blobs of one name, and every way to take each part from either.
#[test]
fn no_mixture_of_two_blobs_opens() {
    // Metadata, salt, commitment, payload length with versions and key id, ciphertext, tag.
    const ENDS: [usize; 4] = [48, 80, 112, 141];
    let fixture = Fixture::new();
    for algorithm in [Algorithm::EcdsaP256, Algorithm::HkdfSha256] {
        let blobs = [fixture.seal(algorithm), fixture.seal(algorithm)];
        let len = blobs[0].len();
        assert_eq!(blobs[1].len(), len);
        let starts = [&[0][..], &ENDS, &[len - 16]].concat();
        let ends = [&ENDS[..], &[len - 16, len]].concat();
        let mut opened = 0;
        for choice in 0..1 << ends.len() {
            let part = |at: usize| &blobs[choice >> at & 1][starts[at]..ends[at]];
            let mixed = (0..ends.len()).map(part).collect::<Vec<_>>().concat();
            let ok = fixture.open(&mixed).is_ok();
            assert_eq!(ok, blobs.contains(&mixed), "mixture {choice:b}");
            opened += usize::from(ok);
        }
        // Metadata, and length with key id, are the same in both.
        assert_eq!(opened, 2 * 4);
    }
}

#[test]
fn no_older_version_passes_for_a_newer_one() {
    let fixture = Fixture::new();
    let mut blobs = vec![fixture.seal(Algorithm::HmacSha256)];
    for _ in 1..10 {
        blobs.push(fixture.rotate(blobs.last().unwrap(), None).0);
    }
    for (older, found) in blobs.iter().zip(1..) {
        for expected in found + 1..=11 {
            let refused = fixture.vault.open(&fixture.dek, ALICE, expected, older);
            let is_older = matches!(
                refused,
                Err(OpenError::OlderVersion { found: f, expected: e }) if (f, e) == (found, expected)
            );
            assert!(is_older, "{found} for {expected}");
            let mut renumbered = older.clone();
            renumbered[12..16].copy_from_slice(&u32::to_le_bytes(expected));
            let refused = fixture
                .vault
                .open(&fixture.dek, ALICE, expected, &renumbered);
            assert!(
                matches!(refused, Err(OpenError::Corrupt)),
                "{found} for {expected}"
            );
        }
    }
}

/// A number of GF(2^128) as GCM writes it: the first bit is the constant term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Field(u128);

impl Field {
    const ONE: Self = Self(1 << 127);

    fn plus(self, other: Self) -> Self {
        Self(self.0 ^ other.0)
    }

    fn times(self, other: Self) -> Self {
        let (mut product, mut power) = (0, self.0);
        for bit in (0..128).rev() {
            if other.0 >> bit & 1 == 1 {
                product ^= power;
            }
            // x^128 = x^7 + x^2 + x + 1
            let carry = power & 1;
            power = (power >> 1) ^ (carry * (0xe1 << 120));
        }
        Self(product)
    }

    /// The inverse: the power 2^128 - 2.
    fn inverse(self) -> Self {
        let mut result = Self::ONE;
        let mut power = self;
        for _ in 1..128 {
            power = power.times(power);
            result = result.times(power);
        }
        result
    }
}

/// A blob's own AEAD key without the envelope around it, and the commitment that goes with it.
struct Bare(aead::LessSafeKey, [u8; 32]);

impl Bare {
    /// As docs/ENVELOPE.md has it.
    fn of(dek: u8, salt: &[u8]) -> Self {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(&[dek; 32]);
        let mut commitment = [0; 32];
        prk.expand(&[b"keyway blob v1 key commitment"], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut commitment))
            .unwrap();
        let info = [&b"keyway blob v1 encryption key"[..]];
        let okm = prk.expand(&info, &aead::AES_256_GCM).unwrap();
        Self(
            aead::LessSafeKey::new(aead::UnboundKey::from(okm)),
            commitment,
        )
    }

    fn seal(&self, aad: &[u8], plaintext: &[u8]) -> (Vec<u8>, Field) {
        let nonce = aead::Nonce::assume_unique_for_key([0; 12]);
        let mut text = plaintext.to_vec();
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce, aead::Aad::from(aad), &mut text);
        let tag = tag.unwrap().as_ref().try_into().unwrap();
        (text, Field(u128::from_be_bytes(tag)))
    }

    fn opens(&self, aad: &[u8], sealed: &[u8]) -> bool {
        let nonce = aead::Nonce::assume_unique_for_key([0; 12]);
        let aad = aead::Aad::from(aad);
        self.0
            .open_in_place(nonce, aad, &mut sealed.to_vec())
            .is_ok()
    }

    /// The tag that goes with a ciphertext.
    fn tag_of(&self, aad: &[u8], ciphertext: &[u8]) -> Field {
        let (stream, _) = self.seal(aad, &vec![0; ciphertext.len()]);
        let plaintext: Vec<u8> = stream.iter().zip(ciphertext).map(|(a, b)| a ^ b).collect();
        self.seal(aad, &plaintext).1
    }
}

/// `ciphertext` with another last block, and a tag, that open under both keys. A tag is affine in
/// the last block, `tag = constant + block * H^2`, so two keys have the same tag where
/// `block = (constant + constant') / (H^2 + H'^2)`. Both terms are had from tags alone.
fn two_key_ciphertext(keys: [&Bare; 2], aad: &[u8], ciphertext: &[u8]) -> Vec<u8> {
    let with = |block: Field| {
        let kept = &ciphertext[..ciphertext.len() - 16];
        [kept, &block.0.to_be_bytes()].concat()
    };
    let constants = keys.map(|key| key.tag_of(aad, &with(Field(0))));
    let at_one = keys.map(|key| key.tag_of(aad, &with(Field::ONE)));
    let slope = |key: usize| constants[key].plus(at_one[key]);
    let block = constants[0]
        .plus(constants[1])
        .times(slope(0).plus(slope(1)).inverse());
    let ciphertext = with(block);
    let tag = keys[0].tag_of(aad, &ciphertext);
    [&ciphertext[..], &tag.0.to_be_bytes()].concat()
}

#[test]
fn the_field_is_that_of_gcm() {
    let number = Field(0x66e9_4bd4_ef8a_2c3b_884c_fa59_ca34_2b2e);
    assert_eq!(number.times(Field::ONE), number);
    assert_eq!(number.times(number.inverse()), Field::ONE);
    // The specification of GCM, test case 2: H, its one block of ciphertext, the product.
    let block = Field(0x0388_dace_60b6_a392_f328_c2b9_71b2_fe78);
    let product = Field(0x5e2e_c746_9170_6288_2c85_b068_5353_deb7);
    assert_eq!(block.times(number), product);
}

#[test]
fn a_ciphertext_for_two_keys_opens_under_the_committed_one_only() {
    let fixture = Fixture::new();
    // The payload is whole blocks then, the last of them within the secret: any bytes will do there.
    let secret = [7; 44];
    let blob = fixture.seal_raw(Algorithm::HmacSha256, &secret);
    let salt = &blob[48..80];
    let ours = Bare::of(0x11, salt);
    let theirs = Bare::of(0x22, salt);
    let their_dek = fixture.vault.dek(1, &mut [0x22; 32]).unwrap();
    let (header, sealed) = blob.split_at(141);
    assert_eq!(header[80..112], ours.1);
    let ciphertext = &sealed[..sealed.len() - 16];
    assert_eq!(ciphertext.len() % 16, 0);

    let forged = two_key_ciphertext([&ours, &theirs], header, ciphertext);
    // AES-GCM alone accepts it.
    assert!(ours.opens(header, &forged));
    assert!(theirs.opens(header, &forged));
    let forged = [header, &forged].concat();
    // It is an honest blob to the DEK that it commits to, here with another secret,
    let key = fixture.open(&forged).unwrap();
    let exported = output(|out| key.export(0, out)).unwrap();
    assert_eq!(exported[..28], secret[..28]);
    assert_ne!(exported, secret);
    // and nothing to the other.
    let refused = fixture.vault.open(&their_dek, ALICE, 0, &forged);
    assert!(matches!(refused, Err(OpenError::Commitment)));

    // The same with the other commitment: it is the first DEK that does not open it then.
    let mut header = header.to_vec();
    header[80..112].copy_from_slice(&theirs.1);
    let forged = two_key_ciphertext([&ours, &theirs], &header, ciphertext);
    assert!(ours.opens(&header, &forged) && theirs.opens(&header, &forged));
    let forged = [&header[..], &forged].concat();
    assert!(matches!(fixture.open(&forged), Err(OpenError::Commitment)));
    // What it decrypts to under the other key is noise, not a payload.
    let refused = fixture.vault.open(&their_dek, ALICE, 0, &forged);
    assert!(matches!(refused, Err(OpenError::Payload(_))));
}
