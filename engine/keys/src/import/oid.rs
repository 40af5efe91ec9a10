//! What a PKCS#8 document may name as its key's algorithm: the contents of the OID.

pub(super) const ED25519: &[u8] = b"\x2b\x65\x70";
/// id-ecPublicKey.
pub(super) const EC: &[u8] = b"\x2a\x86\x48\xce\x3d\x02\x01";
/// rsaEncryption.
pub(super) const RSA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01";
/// id-RSASSA-PSS.
pub(super) const RSA_PSS: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a";

/// The name of an algorithm that is not supported, for messages.
pub(super) fn name(oid: &[u8]) -> &'static str {
    const OTHERS: [(&[u8], &str); 6] = [
        (b"\x2b\x65\x71", "Ed448"),
        (b"\x2b\x65\x6e", "X25519, which does not sign"),
        (b"\x2b\x65\x6f", "X448, which does not sign"),
        (b"\x2a\x86\x48\xce\x38\x04\x01", "DSA"),
        (b"\x2a\x86\x48\x86\xf7\x0d\x01\x03\x01", "Diffie-Hellman"),
        (
            b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x07",
            "RSA restricted to OAEP",
        ),
    ];
    let known = OTHERS.iter().find(|(known, _)| *known == oid);
    known.map_or("an unknown algorithm", |(_, name)| name)
}
