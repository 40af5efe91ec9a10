"""Makes kek_v1.json and wrapped_v1.hex, the known answers of format 1, without any of the engine's code.

Wants argon2-cffi and cryptography. Run it in this folder; it writes the same bytes each time.

passphrase: correct horse battery staple    KEKs: 32 x 0x11, 32 x 0x22    DEK: 00 01 .. 1f
context: cluster 00 01 .. 0f, keyspace 7, generation 3, purpose 1
"""

import hashlib
import json
import struct

from argon2.low_level import Type, hash_secret_raw
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

PASSPHRASE = b"correct horse battery staple"
SALT = bytes(range(0x10, 0x20))
FILE_ID = bytes(range(0xA0, 0xB0))
M_KIB, T, P = 65536, 3, 4
KEKS = {1: bytes([0x11] * 32), 2: bytes([0x22] * 32)}
CREATED_UNIX_MS = {1: 1_700_000_000_000, 2: 1_730_000_000_000}
DEK = bytes(range(32))
CONTEXT = b"KWCX" + bytes([1, 1, 0, 0]) + bytes(range(16)) + struct.pack("<II", 7, 3)


def key_and_commitment(secret, salt, info):
    out = HKDF(algorithm=hashes.SHA256(), length=64, salt=salt, info=info).derive(secret)
    return out[:32], out[32:]


def kek_file():
    master = hash_secret_raw(
        PASSPHRASE, SALT, time_cost=T, memory_cost=M_KIB, parallelism=P, hash_len=32, type=Type.ID, version=0x13
    )
    key, commitment = key_and_commitment(master, None, b"keyway local kek protection v1")
    checksum = hashlib.sha256(struct.pack("<I", 1) + FILE_ID + b"protected")
    versions = []
    for version, kek in KEKS.items():
        nonce = bytes([0xC0 + version] * 12)
        binding = b"KWKF" + struct.pack("<I", 1) + FILE_ID + struct.pack("<III", M_KIB, T, P)
        binding += SALT + commitment + struct.pack("<IQ", version, CREATED_UNIX_MS[version])
        ciphertext = AESGCM(key).encrypt(nonce, kek, binding)
        checksum.update(binding + nonce + ciphertext)
        versions.append({
            "version": version,
            "created_unix_ms": CREATED_UNIX_MS[version],
            "nonce": nonce.hex(),
            "ciphertext": ciphertext.hex(),
        })
    protected = {
        "argon2id": {"m_kib": M_KIB, "t": T, "p": P},
        "salt": SALT.hex(),
        "commitment": commitment.hex(),
        "versions": versions,
    }
    return {"format": 1, "id": FILE_ID.hex(), "keks": {"protected": protected}, "checksum": checksum.hexdigest()}


def wrapped(version):
    names = b"KWDW\x01\x01\0\0" + struct.pack("<I", version) + FILE_ID
    salt = bytes([0xE0 + version] * 32)
    key, commitment = key_and_commitment(KEKS[version], salt, b"keyway local dek wrap v1" + names + CONTEXT)
    header = names + salt + commitment
    return header + AESGCM(key).encrypt(bytes(12), DEK, header + CONTEXT)


with open("kek_v1.json", "w") as out:
    out.write(json.dumps(kek_file(), indent=2) + "\n")
with open("wrapped_v1.hex", "w") as out:
    out.writelines(wrapped(version).hex() + "\n" for version in KEKS)
