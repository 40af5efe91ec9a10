#!/usr/bin/env python3
"""Checks the golden vectors with a codec that shares no code with the Rust one.

Written from docs/PROTOCOL.md alone; needs Python 3 and nothing else:

    python3 protocol/vectors/check.py

Every vector is decoded and compared with its fields, encoded from its fields and compared with its
bytes; refused ones must be refused for the field they name. It prints a line and exits with 1 on
the first difference.
"""

import pathlib
import sys

MESSAGE_LEN_MAX = 65536
PAYLOAD_LEN_MAX = 66560
KEY_ID_LEN_MAX = 128

HELLO, PING = 0x01, 0x02
SIGN, VERIFY, MAC, ENCRYPT, DECRYPT, DERIVE, PUBLIC_KEY, GET = range(0x10, 0x18)
KEYSPACE_CREATE, KEYSPACE_SET, KEYSPACE_LIST, KEYSPACE_ROTATE, KEYSPACE_REWRAP = range(0x20, 0x25)
KEYSPACE_HISTORY = 0x25
KEYSPACE_HOT, KEYSPACE_DESTROY_DEKS = 0x26, 0x27
KEY_GENERATE, KEY_IMPORT, KEY_ROTATE, KEY_REVOKE, KEY_LIST, KEY_TRIM, KEY_DELETE = range(
    0x28, 0x2F
)
FORCE_REFRESH, LOCK, UNLOCK, UNLOCK_STATUS, STATUS, KMS_INIT, KMS_UNLOCK = range(0x30, 0x37)
KMS_LOCK, LOCK_ALL = 0x37, 0x38

OPCODES = {
    code: name
    for name, code in list(globals().items())
    if isinstance(code, int) and name.isupper() and not name.endswith("_MAX")
}
NAMES_NOTHING = {HELLO, PING, KEYSPACE_CREATE, KEYSPACE_LIST, STATUS, KMS_INIT, KMS_UNLOCK}
NAMES_NOTHING |= {KMS_LOCK, LOCK_ALL}
NAMES_KEYSPACE = {KEYSPACE_SET, KEYSPACE_ROTATE, KEYSPACE_REWRAP, KEYSPACE_HISTORY, KEYSPACE_HOT}
NAMES_KEYSPACE |= {KEYSPACE_DESTROY_DEKS, KEY_LIST, LOCK, UNLOCK, UNLOCK_STATUS}

OK, NEEDS_UNLOCK = 0, 2
STATUSES = set(range(17))
STATUSES_WITH_HINT = {1, 3, 4}
ALGORITHMS = {1, 2, 3, 4, 5, 6, 16, 17, 18, 32, 33, 48}
SCHEMES = set(range(15))
USAGE_BITS = 63
UNLOCK_KIND_NOTHING, UNLOCK_KIND_PIN, UNLOCK_KINDS = 0, 2, {0, 1, 2, 3}
KMS_SHARES_MAX = 16


class Refused(Exception):
    """Bytes that break a rule, and the field that does."""


def demand(condition, field):
    if not condition:
        raise Refused(field)


class Reader:
    """Takes fields off the front of bytes. `trace` keeps what each byte is, for comments."""

    def __init__(self, data):
        self.data, self.at, self.trace = data, 0, []

    def left(self):
        return len(self.data) - self.at

    def bytes(self, field, count):
        demand(count <= self.left(), field)
        taken = self.data[self.at : self.at + count]
        self.at += count
        self.trace.append((field, taken))
        return taken

    def number(self, field, size):
        return int.from_bytes(self.bytes(field, size), "little")

    def zero(self, field, size):
        demand(self.number(field, size) == 0, field)

    def rest(self, field):
        return self.bytes(field, self.left())

    def end(self, message):
        demand(self.left() == 0, message)


def le(value, size):
    return value.to_bytes(size, "little")


# --- names ---------------------------------------------------------------------------------------


def check_key_id(key_id):
    demand(1 <= len(key_id) <= KEY_ID_LEN_MAX, "key_id")
    demand(all(0x21 <= byte <= 0x7E for byte in key_id), "key_id")


def check_name(name, field):
    demand(1 <= len(name) <= 64, field)
    demand(all(byte in b"abcdefghijklmnopqrstuvwxyz0123456789._-" for byte in name), field)


def check_keyspace_name(name):
    check_name(name, "keyspace_name")


def check_secret_len(secret, field):
    demand(1 <= len(secret) <= 1024, field)


def check_settings(lines):
    demand(len(lines) <= 16384, "settings")
    demand(lines == b"" or lines.endswith(b"\n"), "settings")
    for line in lines.split(b"\n")[:-1]:
        name, equals, value = line.partition(b"=")
        demand(equals and name and all(0x21 <= byte <= 0x7E for byte in name), "settings")
        demand(all(0x20 <= byte <= 0x7E for byte in value), "settings")


def check_input(kind, data):
    if kind == 0:
        demand(len(data) <= MESSAGE_LEN_MAX, "message")
    else:
        demand(1 <= len(data) <= 64, "digest")


# --- payloads: bytes -> [(field, value)] -----------------------------------------------------------


def read_sign(r):
    scheme, kind = r.number("scheme", 1), r.number("input_kind", 1)
    demand(scheme in SCHEMES, "scheme")
    demand(kind in (0, 1), "input_kind")
    r.zero("reserved", 2)
    data = r.rest("input")
    check_input(kind, data)
    return [("scheme", scheme), ("input_kind", kind), ("input", data)]


def read_verify(r):
    scheme, kind = r.number("scheme", 1), r.number("input_kind", 1)
    demand(scheme in SCHEMES, "scheme")
    demand(kind in (0, 1), "input_kind")
    sig_len = r.number("sig_len", 2)
    version = r.number("version", 4)
    signature = r.bytes("signature", sig_len)
    demand(1 <= sig_len <= 512, "signature")
    data = r.rest("input")
    check_input(kind, data)
    return [
        ("scheme", scheme),
        ("input_kind", kind),
        ("version", version),
        ("signature", signature),
        ("input", data),
    ]


def read_aad(r):
    aad_len = r.number("aad_len", 4)
    demand(aad_len <= MESSAGE_LEN_MAX, "aad")
    return r.bytes("aad", aad_len)


def read_sealed(r, aad_len):
    version = r.number("sealed_version", 4)
    nonce = r.bytes("nonce", 12)
    ciphertext = r.rest("ciphertext")
    demand(len(ciphertext) >= 16, "ciphertext")
    demand(aad_len + len(ciphertext) - 16 <= MESSAGE_LEN_MAX, "aad_and_plaintext_together")
    return [("sealed_version", version), ("nonce", nonce), ("ciphertext", ciphertext)]


def read_encrypt(r):
    aad = read_aad(r)
    plaintext = r.rest("plaintext")
    demand(len(aad) + len(plaintext) <= MESSAGE_LEN_MAX, "aad_and_plaintext_together")
    return [("aad", aad), ("plaintext", plaintext)]


def read_decrypt(r):
    aad = read_aad(r)
    return [("aad", aad)] + read_sealed(r, len(aad))


def read_derive(r):
    out_len, salt_len = r.number("out_len", 2), r.number("salt_len", 2)
    salt, info = r.bytes("salt", salt_len), r.rest("info")
    demand(1 <= out_len <= 4096, "out_len")
    demand(salt_len <= 512, "salt")
    demand(len(info) <= MESSAGE_LEN_MAX, "info")
    return [("out_len", out_len), ("salt", salt), ("info", info)]


def read_version(r):
    return [("version", r.number("version", 4))]


def read_hello(r):
    low, high = r.number("version_min", 1), r.number("version_max", 1)
    r.zero("reserved", 2)
    name = r.bytes("client_name", r.number("name_len", 1))
    demand(low >= 1, "version_min")
    demand(high >= low, "version_max")
    demand(len(name) <= 64 and all(0x20 <= byte <= 0x7E for byte in name), "client_name")
    return [("version_min", low), ("version_max", high), ("client_name", name)]


def read_server_hello(r):
    version = r.number("version", 1)
    flags = r.number("hello_flags", 1)
    demand(flags & ~3 == 0, "hello_flags")
    shard_count, this_shard = r.number("shard_count", 2), r.number("this_shard", 2)
    demand(r.number("hash_id", 1) == 1, "hash_id")
    r.zero("reserved", 1)
    seed = r.bytes("seed", 16)
    payload_len_max = r.number("payload_len_max", 4)
    fields = [
        ("version", version),
        ("hello_flags", flags),
        ("this_shard", this_shard),
        ("seed", seed),
        ("payload_len_max", payload_len_max),
    ]
    fields += [("port", r.number("ports", 2)) for _ in range(shard_count)]
    demand(1 <= shard_count <= 1024, "shard_count")
    keyspace_count, previous = r.number("keyspace_count", 2), 0
    demand(keyspace_count <= 900, "keyspaces")
    rises = True
    for _ in range(keyspace_count):
        keyspace_id = r.number("keyspace_id", 4)
        name = r.bytes("keyspace_name", r.number("name_len", 1))
        check_keyspace_name(name)
        rises = rises and keyspace_id > previous
        previous = keyspace_id
        fields += [("keyspace_id", keyspace_id), ("keyspace_name", name)]
    r.end("the_answer_to_HELLO")
    demand(version >= 1, "version")
    demand(this_shard < shard_count, "this_shard")
    demand(rises, "keyspaces")
    return fields


def read_new_key(r, algorithm_needed):
    algorithm, flags = r.number("algorithm", 1), r.number("key_flags", 1)
    demand(algorithm in ALGORITHMS or algorithm == 0, "algorithm")
    demand(flags & ~1 == 0, "key_flags")
    usage = r.number("usage", 2)
    demand(usage & ~USAGE_BITS == 0, "usage")
    not_after = r.number("not_after_unix_ms", 8)
    demand(algorithm != 0 or not algorithm_needed, "algorithm")
    return [
        ("algorithm", algorithm),
        ("key_flags", flags),
        ("usage", usage),
        ("not_after_unix_ms", not_after),
    ]


def read_material(r):
    kind = r.number("format", 1)
    demand(kind in (0, 1, 2, 3, 4), "key_format")
    r.zero("reserved", 3)
    material = r.rest("material")
    demand(1 <= len(material) <= 16384, "key_material")
    return [("format", kind), ("material", material)]


def read_key_list(r):
    shard, limit, cursor = r.number("shard", 2), r.number("limit", 2), r.rest("cursor")
    demand(limit <= 256, "limit")
    demand(len(cursor) <= 256, "cursor")
    return [("shard", shard), ("limit", limit), ("cursor", cursor)]


def read_key_page(r):
    cursor_len = r.number("cursor_len", 2)
    demand(cursor_len <= 256, "cursor")
    fields, rows = [("cursor", r.bytes("cursor", cursor_len))], 0
    while r.left():
        rows += 1
        demand(rows <= 256, "rows")
        key_id = r.bytes("key_id", r.number("id_len", 1))
        check_key_id(key_id)
        version = r.number("row_version", 4)
        algorithm = r.number("row_algorithm", 1)
        demand(algorithm in ALGORITHMS or algorithm == 0, "algorithm")
        state = r.number("row_state", 1)
        demand(state in (0, 1, 2), "key_state")
        oldest = r.number("row_oldest", 4)
        revoked = r.bytes("row_revoked", 16)
        demand(oldest <= version, "row_oldest")
        # Bit i is the version i below the newest.
        allowed = (1 << (version - oldest + 1)) - 1 if oldest else 0
        demand(int.from_bytes(revoked, "little") & ~allowed == 0, "row_revoked")
        fields += [
            ("key_id", key_id),
            ("row_version", version),
            ("row_algorithm", algorithm),
            ("row_state", state),
            ("row_oldest", oldest),
            ("row_revoked", revoked),
        ]
    return fields


def read_keyspace_create(r):
    demand(b"\n" in r.data[r.at :], "keyspace_name")
    name = r.bytes("name", r.data.index(b"\n", r.at) - r.at)
    check_keyspace_name(name)
    r.bytes("line feed", 1)
    settings = r.rest("settings")
    check_settings(settings)
    return [("name", name), ("settings", settings)]


def read_settings(r):
    settings = r.rest("settings")
    check_settings(settings)
    return [("settings", settings)]


def read_after(name, count):
    def read(r):
        if not r.left():
            return []
        after = r.number(name, count)
        demand(after >= 1, name)
        return [(name, after)]

    return read


def read_kms_name(r, count):
    name = r.bytes("kms_name", count)
    check_name(name, "kms_name")
    return name


def read_rewrap(r):
    return [("kms_name", read_kms_name(r, r.left()))]


def read_hot(r):
    by = r.number("hot_by", 1)
    demand(by in (0, 1, 2), "order_of_hot_keys")
    r.zero("reserved", 1)
    limit = r.number("limit", 2)
    demand(r.left() == 0, "KEYSPACE_HOT")
    demand(limit <= 128, "limit")
    return [("hot_by", by), ("limit", limit)]


def read_unlock_kind(r):
    kind = r.number("unlock_kind", 1)
    demand(kind in UNLOCK_KINDS, "unlock_kind")
    return kind


def read_secret(r, kind):
    secret = r.rest("secret")
    if kind == UNLOCK_KIND_NOTHING:
        demand(secret == b"", "secret")
    else:
        check_secret_len(secret, "secret")
    return secret


def check_force(kind, flags):
    demand(flags & 2 == 0 or kind == UNLOCK_KIND_PIN, "unlock_flags")


def read_unlock(r):
    kind, flags = read_unlock_kind(r), r.number("unlock_flags", 1)
    demand(flags & ~3 == 0, "unlock_flags")
    check_force(kind, flags)
    return [("unlock_kind", kind), ("unlock_flags", flags), ("secret", read_secret(r, kind))]


def read_kms_unlock(r):
    kind, flags = read_unlock_kind(r), r.number("unlock_flags", 1)
    demand(flags & ~2 == 0, "unlock_flags")
    check_force(kind, flags)
    name = read_kms_name(r, r.number("name_len", 1))
    return [("unlock_kind", kind), ("unlock_flags", flags), ("kms_name", name), ("secret", read_secret(r, kind))]


def read_kms_init(r):
    shares, threshold = r.number("shares", 1), r.number("threshold", 1)
    name = read_kms_name(r, r.number("name_len", 1))
    fields = [("shares", shares), ("threshold", threshold), ("kms_name", name)]
    if shares == 0:
        demand(threshold == 0, "threshold")
        passphrase = r.rest("passphrase")
        check_secret_len(passphrase, "passphrase")
        return fields + [("passphrase", passphrase)]
    demand(r.left() == 0, "KMS_INIT")
    demand(shares <= KMS_SHARES_MAX, "shares")
    demand(1 <= threshold <= shares, "threshold")
    return fields


def read_kms_shares(r):
    count, fields = r.number("shares", 1), []
    demand(count <= KMS_SHARES_MAX, "shares")
    for _ in range(count):
        share = r.bytes("share", r.number("share_len", 2))
        check_secret_len(share, "share")
        demand(all(0x20 <= byte <= 0x7E for byte in share), "share")
        fields += [("share", share)]
    r.end("the_answer_to_KMS_INIT")
    return fields


def read_number(field, size, low=0):
    def read(r):
        value = r.number(field, size)
        demand(value >= low, field)
        return [(field, value)]

    return read


def read_bytes(field, limit=PAYLOAD_LEN_MAX):
    def read(r):
        data = r.rest(field)
        demand(len(data) <= limit, field)
        return [(field, data)]

    return read


def read_nothing(r):
    return []


READ_REQUEST = {
    HELLO: read_hello,
    PING: read_bytes("payload"),
    SIGN: read_sign,
    VERIFY: read_verify,
    MAC: read_bytes("message", MESSAGE_LEN_MAX),
    ENCRYPT: read_encrypt,
    DECRYPT: read_decrypt,
    DERIVE: read_derive,
    PUBLIC_KEY: read_version,
    GET: read_version,
    KEYSPACE_CREATE: read_keyspace_create,
    KEYSPACE_SET: read_settings,
    KEYSPACE_LIST: read_after("after", 4),
    KEYSPACE_ROTATE: read_nothing,
    KEYSPACE_REWRAP: read_rewrap,
    KEYSPACE_HISTORY: read_nothing,
    KEYSPACE_HOT: read_hot,
    KEYSPACE_DESTROY_DEKS: read_nothing,
    KEY_GENERATE: lambda r: read_new_key(r, True),
    KEY_IMPORT: lambda r: read_new_key(r, False) + read_material(r),
    KEY_ROTATE: lambda r: read_material(r) if r.left() else [],
    KEY_REVOKE: lambda r: read_number("version", 4, 1)(r) if r.left() else [],
    KEY_TRIM: read_number("below", 4, 1),
    KEY_DELETE: read_nothing,
    KEY_LIST: read_key_list,
    FORCE_REFRESH: read_nothing,
    LOCK: read_nothing,
    UNLOCK: read_unlock,
    UNLOCK_STATUS: read_number("ticket", 8),
    STATUS: read_after("row_after", 8),
    KMS_INIT: read_kms_init,
    KMS_UNLOCK: read_kms_unlock,
    KMS_LOCK: read_rewrap,
    LOCK_ALL: read_nothing,
}

READ_ANSWER = {
    HELLO: read_server_hello,
    PING: read_bytes("payload"),
    SIGN: read_bytes("signature"),
    VERIFY: read_nothing,
    MAC: read_bytes("tag"),
    ENCRYPT: lambda r: read_sealed(r, 0),
    DECRYPT: read_bytes("plaintext"),
    DERIVE: read_bytes("derived"),
    PUBLIC_KEY: read_bytes("spki"),
    GET: read_bytes("secret"),
    KEYSPACE_CREATE: read_number("new_keyspace_id", 4, 1),
    KEYSPACE_SET: read_nothing,
    KEYSPACE_LIST: read_bytes("json"),
    KEYSPACE_ROTATE: read_number("generation", 4, 1),
    KEYSPACE_REWRAP: read_nothing,
    KEYSPACE_HISTORY: read_bytes("json"),
    KEYSPACE_HOT: read_bytes("json"),
    KEYSPACE_DESTROY_DEKS: read_number("deks_destroyed", 4),
    KEY_GENERATE: read_nothing,
    KEY_IMPORT: read_nothing,
    KEY_ROTATE: read_nothing,
    KEY_REVOKE: read_nothing,
    KEY_TRIM: read_nothing,
    KEY_DELETE: read_nothing,
    KEY_LIST: read_key_page,
    FORCE_REFRESH: read_nothing,
    LOCK: read_nothing,
    UNLOCK: read_number("ticket", 8),
    UNLOCK_STATUS: read_bytes("json"),
    STATUS: read_bytes("json"),
    KMS_INIT: read_kms_shares,
    KMS_UNLOCK: read_bytes("json"),
    KMS_LOCK: read_nothing,
    LOCK_ALL: read_nothing,
}


def read_explanation(r):
    if not r.left():
        return []
    demand(r.left() <= 1024, "explanation")
    return [("explanation", r.rest("explanation"))]


# --- frames: bytes -> [(field, value)] -------------------------------------------------------------


def read_frame_start(r, after_len_max):
    frame_len = r.number("frame_len", 4)
    demand(28 <= frame_len <= after_len_max, "frame_len")
    demand(r.number("version", 1) == 1, "version")
    return frame_len


def decode_request(data):
    """The fields of one request, and what each byte is."""
    r = Reader(data)
    frame_len = read_frame_start(r, 28 + KEY_ID_LEN_MAX + PAYLOAD_LEN_MAX)
    opcode = r.number("opcode", 1)
    demand(r.number("flags", 2) == 0, "flags")
    request_id = r.number("request_id", 8)
    keyspace_id = r.number("keyspace_id", 4)
    deadline_us = r.number("deadline_us", 4)
    key_id_len = r.number("key_id_len", 2)
    r.zero("reserved", 2)
    demand(key_id_len <= KEY_ID_LEN_MAX, "key_id_len")
    payload_len = r.number("payload_len", 4)
    demand(payload_len <= PAYLOAD_LEN_MAX, "payload_len")
    demand(frame_len == 28 + key_id_len + payload_len, "frame_len")
    demand(r.left() == key_id_len + payload_len, "bytes")
    key_id = r.bytes("key_id", key_id_len)
    demand(opcode in OPCODES, "opcode")
    demand((keyspace_id == 0) == (opcode in NAMES_NOTHING), "keyspace_id")
    if opcode in NAMES_NOTHING | NAMES_KEYSPACE:
        demand(key_id_len == 0, "key_id")
    else:
        check_key_id(key_id)
    fields = [
        ("opcode", opcode),
        ("request_id", request_id),
        ("keyspace_id", keyspace_id),
        ("deadline_us", deadline_us),
        ("key_id", key_id),
    ]
    fields += READ_REQUEST[opcode](r)
    r.end(OPCODES[opcode] if opcode != UNLOCK_STATUS else "ticket")
    return fields, r.trace


def decode_response(data, opcode):
    """The fields of the answer to a request of this opcode, and what each byte is."""
    r = Reader(data)
    frame_len = read_frame_start(r, 28 + PAYLOAD_LEN_MAX)
    status = r.number("status", 1)
    demand(status in STATUSES, "status")
    flags = r.number("flags", 2)
    demand(flags & ~3 == 0, "flags")
    request_id = r.number("request_id", 8)
    key_version = r.number("key_version", 4)
    after_us = r.number("after_us", 4)
    demand(after_us == 0 or status in STATUSES_WITH_HINT, "after_us")
    key_age_ms = r.number("key_age_ms", 4)
    payload_len = r.number("payload_len", 4)
    demand(payload_len <= PAYLOAD_LEN_MAX, "payload_len")
    demand(frame_len == 28 + payload_len, "frame_len")
    demand(r.left() == payload_len, "bytes")
    fields = [
        ("opcode", opcode),
        ("status", status),
        ("flags", flags),
        ("request_id", request_id),
        ("key_version", key_version),
        ("after_us", after_us),
        ("key_age_ms", key_age_ms),
    ]
    if status == OK:
        fields += READ_ANSWER[opcode](r)
        r.end(OPCODES[opcode])
    elif status == NEEDS_UNLOCK:
        fields += [("ticket", r.number("ticket", 8))]
        r.end("ticket")
    else:
        fields += read_explanation(r)
    return fields, r.trace


# --- [(field, value)] -> bytes ---------------------------------------------------------------------

# How wide a number is, where its name says it. `version` differs by operation.
SIZES = {
    "scheme": 1,
    "input_kind": 1,
    "algorithm": 1,
    "key_flags": 1,
    "usage": 2,
    "not_after_unix_ms": 8,
    "out_len": 2,
    "version_min": 1,
    "version_max": 1,
    "hello_flags": 1,
    "this_shard": 2,
    "payload_len_max": 4,
    "port": 2,
    "keyspace_id": 4,
    "sealed_version": 4,
    "shard": 2,
    "limit": 2,
    "row_version": 4,
    "row_algorithm": 1,
    "row_state": 1,
    "row_oldest": 4,
    "new_keyspace_id": 4,
    "generation": 4,
    "deks_destroyed": 4,
    "unlock_kind": 1,
    "unlock_flags": 1,
    "shares": 1,
    "threshold": 1,
    "after": 4,
    "row_after": 8,
    "below": 4,
    "ticket": 8,
    "version": 4,
}


def encode_plain(fields):
    """Fields one after the other, where nothing stands between them."""
    return b"".join(value if isinstance(value, bytes) else le(value, SIZES[name]) for name, value in fields)


def encode_payload(opcode, is_request, fields):
    by_name = dict(fields)
    if is_request and opcode == HELLO:
        low, high, name = (value for _, value in fields)
        return le(low, 1) + le(high, 1) + le(0, 2) + le(len(name), 1) + name
    if is_request and opcode == SIGN:
        return encode_plain(fields[:2]) + le(0, 2) + by_name["input"]
    if is_request and opcode == VERIFY:
        return encode_plain(fields[:2]) + le(len(by_name["signature"]), 2) + encode_plain(fields[2:])
    if is_request and opcode in (ENCRYPT, DECRYPT):
        return le(len(by_name["aad"]), 4) + encode_plain(fields)
    if is_request and opcode == DERIVE:
        return encode_plain(fields[:1]) + le(len(by_name["salt"]), 2) + encode_plain(fields[1:])
    if is_request and opcode == KEYSPACE_CREATE:
        return by_name["name"] + b"\n" + by_name["settings"]
    if is_request and opcode == KEYSPACE_HOT:
        return le(by_name["hot_by"], 1) + le(0, 1) + le(by_name["limit"], 2)
    if is_request and opcode in (KEY_IMPORT, KEY_ROTATE) and fields:
        return encode_plain(fields[:-2]) + le(by_name["format"], 1) + le(0, 3) + by_name["material"]
    if is_request and opcode in (KMS_INIT, KMS_UNLOCK):
        at = [name for name, _ in fields].index("kms_name")
        return encode_plain(fields[:at]) + le(len(fields[at][1]), 1) + encode_plain(fields[at:])
    if not is_request and opcode == KMS_INIT:
        return le(len(fields), 1) + b"".join(le(len(share), 2) + share for _, share in fields)
    if not is_request and opcode == HELLO:
        ports = [value for name, value in fields if name == "port"]
        names = [value for name, value in fields if name == "keyspace_name"]
        ids = [value for name, value in fields if name == "keyspace_id"]
        head = le(by_name["version"], 1) + le(by_name["hello_flags"], 1) + le(len(ports), 2)
        head += le(by_name["this_shard"], 2) + le(1, 1) + le(0, 1) + by_name["seed"]
        head += le(by_name["payload_len_max"], 4) + b"".join(le(port, 2) for port in ports)
        rows = [le(i, 4) + le(len(name), 1) + name for i, name in zip(ids, names)]
        return head + le(len(rows), 2) + b"".join(rows)
    if not is_request and opcode == KEY_LIST:
        out = le(len(by_name["cursor"]), 2) + by_name["cursor"]
        for name, value in fields[1:]:
            out += le(len(value), 1) if name == "key_id" else b""
            out += encode_plain([(name, value)])
        return out
    return encode_plain(fields)


def encode_request(fields):
    (_, opcode), (_, request_id), (_, keyspace_id), (_, deadline_us), (_, key_id) = fields[:5]
    payload = encode_payload(opcode, True, fields[5:])
    header = le(1, 1) + le(opcode, 1) + le(0, 2) + le(request_id, 8) + le(keyspace_id, 4)
    header += le(deadline_us, 4) + le(len(key_id), 2) + le(0, 2) + le(len(payload), 4)
    frame = header + key_id + payload
    return le(len(frame), 4) + frame


def encode_response(fields):
    opcode, status, flags, request_id, key_version, after_us, key_age_ms = (v for _, v in fields[:7])
    if status == OK:
        payload = encode_payload(opcode, False, fields[7:])
    else:
        payload = encode_plain(fields[7:])
    header = le(1, 1) + le(status, 1) + le(flags, 2) + le(request_id, 8) + le(key_version, 4)
    header += le(after_us, 4) + le(key_age_ms, 4) + le(len(payload), 4)
    return le(len(header + payload), 4) + header + payload


# --- routing ---------------------------------------------------------------------------------------

MASK = (1 << 64) - 1


def siphash_2_4(key, message):
    """SipHash-2-4 with a 64-bit result, after the paper of Aumasson and Bernstein."""
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    v = [
        k0 ^ 0x736F6D6570736575,
        k1 ^ 0x646F72616E646F6D,
        k0 ^ 0x6C7967656E657261,
        k1 ^ 0x7465646279746573,
    ]

    def rotate(x, bits):
        return ((x << bits) | (x >> (64 - bits))) & MASK

    def rounds(count):
        for _ in range(count):
            v[0] = (v[0] + v[1]) & MASK
            v[1] = rotate(v[1], 13) ^ v[0]
            v[0] = rotate(v[0], 32)
            v[2] = (v[2] + v[3]) & MASK
            v[3] = rotate(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & MASK
            v[3] = rotate(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & MASK
            v[1] = rotate(v[1], 17) ^ v[2]
            v[2] = rotate(v[2], 32)

    padded = message + b"\0" * (7 - len(message) % 8) + le(len(message) & 0xFF, 1)
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def shard_of(hash_value, shard_count):
    return (hash_value * shard_count) >> 64


# --- vector files ----------------------------------------------------------------------------------


class Vector:
    def __init__(self, name):
        self.name, self.kind, self.fields, self.refused, self.data = name, None, [], None, b""


def parse_value(text):
    if text.startswith("x'"):
        return bytes.fromhex(text[2:-1])
    if text.startswith('"'):
        return text[1:-1].replace("\\n", "\n").encode("ascii")
    return int(text)


def parse(text):
    vectors, vector, in_bytes = [], None, False
    for line in text.splitlines():
        words = line.strip()
        if in_bytes and words != "end":
            vector.data += bytes.fromhex(words.partition("#")[0])
            continue
        if not words or words.startswith("#"):
            continue
        word, _, value = words.partition(" ")
        if word == "vector":
            vector = Vector(value)
        elif word == "kind":
            vector.kind = value
        elif word == "refused":
            vector.refused = value
        elif word == "bytes":
            in_bytes = True
        elif word == "end":
            vectors.append(vector)
            in_bytes = False
        else:
            vector.fields.append((word, parse_value(value)))
    return vectors


def decode(vector):
    if vector.kind == "request":
        return decode_request(vector.data)
    return decode_response(vector.data, dict(vector.fields).get("opcode", PING))


def check(vector):
    """What is wrong with a vector, or None."""
    fields = dict(vector.fields)
    if vector.kind == "siphash":
        computed = siphash_2_4(fields["key"], fields["message"])
        return None if computed == fields["hash"] else f"the hash is {computed}"
    if vector.kind == "routing":
        message = le(fields["keyspace_id"], 4) + fields["key_id"]
        computed = siphash_2_4(fields["seed"], message)
        shard = shard_of(computed, fields["shard_count"])
        expected = (fields["hash"], fields["shard"])
        return None if (computed, shard) == expected else f"hash {computed}, shard {shard}"
    if vector.refused:
        try:
            decode(vector)
        except Refused as refused:
            field = str(refused)
            return None if field == vector.refused else f"refused for {field}"
        return "accepted"
    try:
        decoded, _ = decode(vector)
    except Refused as refused:
        return f"refused for {refused}"
    if decoded != vector.fields:
        return f"decoded as {decoded}"
    encoded = (encode_request if vector.kind == "request" else encode_response)(vector.fields)
    return None if encoded == vector.data else f"encoded as {encoded.hex()}"


def main():
    paths = sorted(pathlib.Path(__file__).resolve().parent.glob("*.txt"))
    count = 0
    for path in paths:
        for vector in parse(path.read_text(encoding="ascii")):
            wrong = check(vector)
            if wrong:
                print(f"{path.name}: {vector.name}: {wrong}", file=sys.stderr)
                return 1
            count += 1
    if count == 0:
        print("no vectors found beside this file", file=sys.stderr)
        return 1
    print(f"{count} vectors in {len(paths)} files check out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
