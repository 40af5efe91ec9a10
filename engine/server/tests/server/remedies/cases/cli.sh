# Arguments and answers of the command line, at a server with the keyspace prod.
head -c 70000 /dev/zero > big; echo hello > msg
keyway keyspace list prod || keyway keyspace create prod
keyway key generate prod/ed --alg ed25519
keyway key generate prod/p256 --alg ecdsa-p256
keyway key generate prod/mac --alg hmac-sha256
keyway key generate prod/aead --alg aes-256-gcm
keyway key generate prod/master --alg hkdf-sha256
openssl genpkey -algorithm ed25519 -out key.pem

# says: name a file for one of them, with --in or --sig
keyway sign prod/ed --in ../msg --out sig
! keyway verify prod/ed --sig - < sig
keyway verify prod/ed --sig sig --in ../msg

# says: check that keywayd runs and listens there, or name its address with --addr or KEYWAY_ADDR
! command keyway --addr 127.0.0.1:1 status
keyway --addr "$KEYWAY_ADDR" status

# says: see `keyway keyspace list`; make it with `keyway keyspace create {}`
! keyway keyspace list other
keyway keyspace list
keyway keyspace create other
keyway keyspace list other

# says: see `keyway key list {}`
! keyway sign prod/absent --in ../msg --out sig
keyway key list prod
keyway sign prod/ed --in ../msg --out sig

# says: run `keyway unlock {} --wait`, then try again
# says: {}, then try again
keyway lock prod
! keyway sign prod/ed --in ../msg --out sig
keyway unlock prod --wait
keyway sign prod/ed --in ../msg --out sig

# says: {}; write NAME=VALUE, as in max_in_flight=0
! keyway keyspace set prod max_in_flight
! keyway keyspace set prod max_in_flight=
! keyway keyspace set prod =0
keyway keyspace set prod max_in_flight=0

# says: {} is no length of time; write 500ms, 2s, 5m or 1h
! command keyway --timeout 5d status
for time in 500ms 2s 5m 1h; do command keyway --timeout $time --version; done
command keyway --timeout 5m status

# says: {} is no moment after 1970; write 2027-01-31T12:00:00Z, or ms since 1970
! keyway key generate prod/moment --alg ed25519 --not-after tomorrow
keyway key generate prod/moment --alg ed25519 --not-after "$(date -u -d +1year +%Y-%m-%dT%H:%M:%SZ)"
keyway key generate prod/moment-ms --alg ed25519 --not-after "$(date -d +1year +%s)000"

# says: ms since 1970 is {}; if these are seconds, write {}, or {}
seconds=$(date -d '2099-01-31T12:00:00Z' +%s)
! keyway key generate prod/seconds --alg ed25519 --not-after $seconds
keyway key generate prod/seconds --alg ed25519 --not-after ${seconds}000
keyway key generate prod/seconds-text --alg ed25519 --not-after 2099-01-31T12:00:00Z

# says: leave it out, or add --pin or --pin-fd
! keyway kms unlock local --force
keyway kms unlock local

# says: give it on a file descriptor, as in {} 3 3<FILE
echo correct horse battery > FILE
! setsid command keyway kms init local --passphrase < /dev/null || setsid keyway kms init local --passphrase < /dev/null
! keyway kms init local --passphrase-fd 3 3<FILE | grep 'give it on a file descriptor'

# says: open it for keyway, as in {} 3 3<FILE
# says: if the KMS needs none, leave the options for it out
# says: is it the right file?
echo > EMPTY; head -c 9000 /dev/zero | tr '\0' x > LONG; echo correct horse battery > FILE
! keyway kms unlock local --passphrase-fd 3
! keyway kms unlock local --passphrase-fd 3 3<EMPTY
! keyway kms unlock local --passphrase-fd 3 3<LONG
keyway kms unlock local

# says: --encoding is for raw secrets, and the format is {}; leave one of the two out
! keyway key import prod/both --file ../key.pem --format pem --encoding hex
keyway key import prod/both --file ../key.pem --format pem

# says: bytes are not {}; name the encoding that it is in with --encoding
openssl rand -base64 32 > FILE
! keyway key import prod/named --alg aes-256-gcm --file FILE --encoding hex
keyway key import prod/named --alg aes-256-gcm --file FILE --encoding base64

# says: it looks like a JWK or PEM, not like a raw secret; leave --format out
printf '{"kty":"oct","k":"AAECAwQFBgcICQoLDA0ODw"}' > FILE
! keyway key import prod/jwk --alg hmac-sha256 --file FILE --format raw
keyway key import prod/jwk --alg hmac-sha256 --file FILE
keyway key import prod/text --alg hmac-sha256 --file FILE --format raw --encoding raw

# says: it looks like {} characters of {}{}; give --encoding {} if they stand for {} bytes
openssl rand -hex 32 > FILE
! keyway key import prod/hex --alg hmac-sha256 --file FILE
keyway key import prod/hex --alg hmac-sha256 --file FILE --encoding hex
keyway key import prod/hex-raw --alg hmac-sha256 --file FILE --encoding raw

# says: it looks like a key in {}{}; give --encoding {}, or --encoding raw
openssl pkey -in ../key.pem -outform DER | base64 -w 0 > FILE
! keyway key import prod/der --alg hmac-sha256 --file FILE
keyway key import prod/der-raw --alg hmac-sha256 --file FILE --encoding raw

# says: bytes{}; give --encoding raw if the line end belongs to the secret, or leave it out: head -c {} FILE > NEW
openssl rand 32 | tr '\n\r' xx > FILE; echo >> FILE
! keyway key import prod/ends --alg aes-256-gcm --file FILE
head -c 32 FILE > NEW
keyway key import prod/ends --alg aes-256-gcm --file NEW --encoding raw
keyway key import prod/ends-raw --alg hmac-sha256 --file FILE --encoding raw

# says: name a file, or write - for the standard stream
! keyway sign prod/ed --in '' --out sig
keyway sign prod/ed --in - --out - < ../msg > sig
keyway sign prod/ed --in ../msg --out sig

# says: write it to a file with --out FILE, or give --force
! script -qec "keyway derive prod/master --len 32" OUT < /dev/null > SHOWN || true; grep -a '' SHOWN; false
keyway derive prod/master --len 32 --out FILE
test "$(wc -c < FILE)" = 32

# says: hex: wants pairs of digits, as in hex:00ff; give text that starts with hex: in a file, as @FILE
printf hex:0 > FILE
! keyway derive prod/master --len 32 --info hex:0 --out OUT
keyway derive prod/master --len 32 --info hex:00ff --out OUT
keyway derive prod/master --len 32 --info @FILE --out OUT

# says: at most {} are allowed
long=$(head -c 70000 /dev/zero | tr '\0' x)
! keyway derive prod/master --len 32 --info "$long" --out OUT
keyway derive prod/master --len 32 --info "${long#??????????}" --out OUT || keyway derive prod/master --len 32 --info short --out OUT

# says: a message has at most 65536 bytes. With an ECDSA or RSA key, make a digest and give --digest
cp ../big FILE
! keyway sign prod/p256 --in FILE --out sig
openssl dgst -sha256 -binary FILE > DIGEST
keyway sign prod/p256 --digest --in DIGEST --out sig
! keyway sign prod/ed --in FILE --out sig
keyway sign prod/ed --in DIGEST --out sig
keyway verify prod/ed --in DIGEST --sig sig

# says: a message has at most 65536 bytes. Make a digest, authenticate it as the message
cp ../big FILE
! keyway mac prod/mac --in FILE --out tag
openssl dgst -sha512 -binary FILE > DIGEST
keyway mac prod/mac --in DIGEST --out tag
keyway verify prod/mac --in DIGEST --sig tag

# says: a plaintext has at most 65536 bytes, associated data included: encrypt it in parts
! keyway encrypt prod/aead --in ../big --out sealed
split -b 40000 ../big part-
for part in part-*; do keyway encrypt prod/aead --in $part --out sealed-$part; keyway decrypt prod/aead --in sealed-$part --out opened-$part; done
cat opened-part-* | cmp - ../big

# says: name the scheme of the hash that made it with --scheme; the digest must be binary, as `openssl dgst -binary` writes it
openssl dgst -sha512 -binary ../msg > DIGEST; openssl dgst -sha256 ../msg > TEXT
! keyway sign prod/p256 --scheme ecdsa-sha256 --digest --in DIGEST --out sig
! keyway sign prod/p256 --scheme ecdsa-sha256 --digest --in TEXT --out sig
keyway sign prod/p256 --scheme ecdsa-sha512 --digest --in DIGEST --out sig
openssl dgst -sha256 -binary ../msg > DIGEST
keyway sign prod/p256 --scheme ecdsa-sha256 --digest --in DIGEST --out sig

# says: write one frame as text with --once, or as JSON with --once --json
! keyway top
keyway top --once
keyway top --once --json

# says: give a --threshold of at most --shares
! keyway kms init local --shares 3 --threshold 4 --out SHARES
! keyway kms init local --shares 4 --threshold 4 --out SHARES | grep -- 'give a --threshold'

# says: give the file of a private key or of a secret
: > FILE
! keyway key import prod/empty --file FILE
keyway key import prod/empty --file ../key.pem

# says: see `keyway keyspace list`
! keyway keyspace rotate absent --wait
! keyway doctor absent --duration 2s
! keyway top absent --once
keyway keyspace list
keyway keyspace rotate prod --wait

# says: its keys are sealed again in the background; see: keyway keyspace list {}
keyway keyspace rotate prod
keyway keyspace list prod

# says: {}{} and {} make the same key id, and only {} is the key now; give the other one another name, and import it again
mkdir keys; openssl genpkey -algorithm ed25519 -out keys/twin.pem; openssl genpkey -algorithm ed25519 -outform DER -out keys/twin.der
! keyway import prod --dir keys
mkdir again; mv keys/twin.pem again/other.pem; mv keys/twin.der again/another.der
keyway import prod --dir again

# says: is it a file of JSON lines?
cp ../big FILE; tr '\0' x < FILE > NEW
! keyway import prod --ndjson NEW
printf '{"id":"line","key":"AAECAwQFBgcICQoLDA0O/w==","alg":"hmac-sha256"}\n' > NEW
keyway import prod --ndjson NEW

# says: a list of sign, verify, mac, encrypt, decrypt, derive
printf '{"id":"used","key":"AAECAwQFBgcICQoLDA0O/w==","alg":"hmac-sha256","usage":"signing"}\n' > FILE
! keyway import prod --ndjson FILE
printf '{"id":"used","key":"AAECAwQFBgcICQoLDA0O/w==","alg":"hmac-sha256","usage":"mac"}\n' > FILE
keyway import prod --ndjson FILE

# says: follow it with: keyway unlock {} --ticket {} --wait
keyway lock prod
keyway unlock prod > OUT; cat OUT
$(sed -n 's/^follow it with: //p' OUT)
keyway sign prod/ed --in ../msg --out sig

# says: an HTTP server answers there, such as the one for metrics; name the port that keywayd listens on for clients
! keyway --addr "$METRICS" status
keyway --addr "$LISTEN" --version
keyway --addr "$LISTEN" top --once || keyway --addr "$LISTEN" public prod/ed

# says: cannot read the address {}: write HOST:PORT or unix:/PATH
! keyway --addr nowhere status
keyway --addr "$LISTEN" public prod/ed
keyway --addr "$KEYWAY_ADDR" status

# says: the path of a Unix socket has at most {} bytes, and this one has {}: name it from a working directory nearer to it, or by a symbolic link
deep=$PWD/$(head -c 90 /dev/zero | tr '\0' d); mkdir -p $deep; ln -s "${KEYWAY_ADDR#unix:}" $deep/socket
! keyway --addr unix:$deep/socket status
ln -s "$deep" near
keyway --addr "unix:near/socket" status
(cd "$deep" && command keyway --addr unix:socket status)

# says: write KEYSPACE/KEY, as in prod/alice
! keyway sign prod --in ../msg --out sig
keyway sign prod/ed --in ../msg --out sig

# says: the key exists; use `keyway key rotate` for a new version
! keyway key generate prod/ed --alg ed25519
keyway key rotate prod/ed

# says: `{}` is not a principal; use anonymous or uid:NUMBER
! keyway keyspace set prod allow:alice=sign
keyway keyspace set prod allow:uid:4000000=sign
keyway keyspace set prod allow:anonymous=verify

# says: `{}` is not a list of rights; use all, none or some of {}
! keyway keyspace set prod allow:uid:4000000=signing
keyway keyspace set prod allow:uid:4000000=all
keyway keyspace set prod allow:uid:4000000=none

# says: `{}` is not a setting; use one of {} or allow:PRINCIPAL
! keyway keyspace set prod soft_ttl=600000
keyway keyspace set prod soft_ttl_ms=600000

# says: keyspace `{}` exists; use `keyway keyspace set {} …`
! keyway keyspace create prod
keyway keyspace set prod max_in_flight=64

# says: would be violated in {} s, when {}; set {} permanently first, or wait until then
keyway keyspace create overridden
keyway keyspace set overridden soft_ttl_ms=600000
keyway keyspace set overridden soft_ttl_ms=50000 refresh_window_ms=10000 --for 15m
! keyway keyspace set overridden hard_ttl_ms=100000
keyway keyspace set overridden soft_ttl_ms=50000
keyway keyspace set overridden hard_ttl_ms=100000

# says: is refused: {} <= for_ms <= {}, 1 s to 30 days; for longer, make the change permanent
! keyway keyspace set prod max_in_flight=65 --for 2000h
keyway keyspace set prod max_in_flight=65

# says: use one of {}, or add [kms.{}] to the configuration and restart
! keyway keyspace create elsewhere --kms nowhere
keyway keyspace create elsewhere --kms local

# says: the key can be deleted in {} s, by the keyspace's delete_wait_ms ({}); wait, or set delete_wait_ms lower
# says: only a revoked key can be deleted: revoke it first with `keyway key revoke KEYSPACE/KEY`
keyway key generate prod/deleted --alg ed25519
! keyway key delete prod/deleted
keyway key revoke prod/deleted
keyway keyspace set prod delete_wait_ms=600000
! keyway key delete prod/deleted
keyway keyspace set prod delete_wait_ms=0
keyway key delete prod/deleted

# says: the key was made without this use; make one whose usage allows it
keyway key generate prod/verifier --alg ed25519 --usage verify
! keyway sign prod/verifier --in ../msg --out sig
keyway key generate prod/signer --alg ed25519 --usage sign
keyway sign prod/signer --in ../msg --out sig

# says: the stored key cannot be used: it is past its not_after, or its blob does not open (the server's log says which); use another key
for s in 2 8 32 99; do if ends prod/ending $s; then break; fi; done
until keyway sign prod/ending --in ../msg --out sig 2> WHY; test -s WHY; do sleep 0.1; done; cat WHY
keyway key generate prod/newer --alg ed25519
keyway sign prod/newer --in ../msg --out sig

# says: the key's validity has ended, and a rotation does not extend it; make a new key
for s in 2 8 32 99; do if ends prod/ended $s; then break; fi; done
until keyway sign prod/ended --in ../msg --out sig 2> WHY; test -s WHY; do sleep 0.1; done
! keyway key rotate prod/ended
keyway key generate prod/unended --alg ed25519

# says: not_after is Unix time {} ms, which has passed: it is {} ms now; give a later time, or none
! keyway key generate prod/late --alg ed25519 --not-after 2001-01-31T12:00:00Z
keyway key generate prod/late --alg ed25519 --not-after 2099-01-31T12:00:00Z
keyway key generate prod/endless --alg ed25519

# says: version {} is the key's newest, which stays; rotate first with `keyway key rotate KEYSPACE/KEY`, or revoke the whole key
keyway key generate prod/newest --alg hmac-sha256
! keyway key trim prod/newest --below 2
keyway key rotate prod/newest
keyway key trim prod/newest --below 2
keyway key revoke prod/newest

# says: the key has {} versions, and no further one fits; first remove old ones
keyway key generate prod/full --alg hmac-sha256
until keyway key rotate prod/full > OUT 2> WHY; test -s WHY; do :; done; cat WHY
keyway key trim prod/full --below 3
keyway key rotate prod/full

# says: Ed25519 signs messages, not digests; leave out --digest and give the message
openssl dgst -sha256 -binary ../msg > DIGEST
! keyway sign prod/ed --digest --in DIGEST --out sig
keyway sign prod/ed --in ../msg --out sig
keyway sign prod/ed --in DIGEST --out sig
keyway verify prod/ed --in DIGEST --sig sig

# says: the key material is {}, but {} was expected; name the right algorithm, or use another key id
! keyway key import prod/other-alg --alg ecdsa-p256 --file ../key.pem
keyway key import prod/other-alg --alg ed25519 --file ../key.pem

# says: a MAC is over a message, not over a digest; leave out --digest: the tag of a digest is verified with the digest as the message
openssl dgst -sha512 -binary ../big > DIGEST
keyway mac prod/mac --in DIGEST --out tag
! keyway verify prod/mac --digest --in DIGEST --sig tag
keyway verify prod/mac --in DIGEST --sig tag

# says: a MAC key has scheme 0 only; leave out --scheme
! keyway verify prod/mac --scheme ecdsa-sha256 --in ../msg --sig ../msg
keyway mac prod/mac --in ../msg --out tag
keyway verify prod/mac --in ../msg --sig tag

# says: this server is only read: use GET
! curl -sf -X DELETE "http://$METRICS/metrics"
curl -s -X DELETE "http://$METRICS/metrics"
curl -sf "http://$METRICS/metrics" > OUT

# says: {}: unlock started (ticket {}){}
keyway lock prod
keyway unlock prod
keyway unlock prod --wait

# says: add --once
! script -qec 'keyway --json top' /dev/null
keyway --json top --once > OUT

# says: Type {} to go on:
keyway keyspace create typing
keyway keyspace rotate typing
until keyway keyspace list typing | grep 'generation 2'; do sleep 0.1; done
! echo no | script -qec 'keyway keyspace destroy-deks typing' /dev/null
echo typing | script -qec 'keyway keyspace destroy-deks typing' /dev/null

# says: keyspace `{}` would grant rights to {} principals, and {} is the maximum; withdraw unused grants with allow:PRINCIPAL=none
keyway keyspace create granted
! keyway keyspace set granted $(for at in $(seq 300); do echo allow:uid:$at=sign; done)
keyway keyspace set granted allow:uid:1=sign
