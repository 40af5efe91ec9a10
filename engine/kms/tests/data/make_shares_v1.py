"""Makes kek_shares_v1.json and shares_v1.txt, the known answers of a KEK file in shares, without any of the engine's code.

Wants cryptography and shamir-mnemonic. Run it in this folder; it writes the same bytes each time.

secret: 80 81 .. 9f, 2 of 3 shares    KEKs: 32 x 0x11, 32 x 0x22
"""

import hashlib
import json
import struct

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from shamir_mnemonic import shamir

SECRET = bytes(range(0x80, 0xA0))
FILE_ID = bytes(range(0xA0, 0xB0))
IDENTIFIER, COUNT, THRESHOLD, EXPONENT = 0x2B67, 3, 2, 0
FORMAT = 1

# Fixed bytes where the shares want random ones.
shamir.RANDOM_BYTES = lambda length: hashlib.shake_256(b"%d" % length).digest(length)
ems = shamir.EncryptedMasterSecret.from_master_secret(SECRET, b"", IDENTIFIER, True, EXPONENT)
[members] = shamir.split_ems(1, [(THRESHOLD, COUNT)], ems)

okm = HKDF(hashes.SHA256(), 64, None, b"keyway local kek shares v1").derive(SECRET)
key, commitment = okm[:32], okm[32:]

checksum = hashlib.sha256(struct.pack("<I", FORMAT) + FILE_ID + b"shares")
versions = []
for version, created, kek in [(1, 1700000000000, b"\x11" * 32), (2, 1710000000000, b"\x22" * 32)]:
    nonce = bytes([0xC0 + version] * 12)
    binding = b"KWKS" + struct.pack("<I", FORMAT) + FILE_ID
    binding += struct.pack("<HBBB", IDENTIFIER, COUNT, THRESHOLD, EXPONENT) + commitment
    binding += struct.pack("<IQ", version, created)
    ciphertext = AESGCM(key).encrypt(nonce, kek, binding)
    checksum.update(binding + nonce + ciphertext)
    versions.append(
        {
            "version": version,
            "created_unix_ms": created,
            "nonce": nonce.hex(),
            "ciphertext": ciphertext.hex(),
        }
    )

document = {
    "format": FORMAT,
    "id": FILE_ID.hex(),
    "keks": {
        "shares": {
            "identifier": IDENTIFIER,
            "count": COUNT,
            "threshold": THRESHOLD,
            "iteration_exponent": EXPONENT,
            "commitment": commitment.hex(),
            "versions": versions,
        }
    },
    "checksum": checksum.hexdigest(),
}
with open("kek_shares_v1.json", "w") as file:
    file.write(json.dumps(document, indent=2) + "\n")
with open("shares_v1.txt", "w") as file:
    file.writelines(member.mnemonic() + "\n" for member in members)
