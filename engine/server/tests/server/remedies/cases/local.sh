# The local KMS: passphrases, shares, and the file with its key.

# says: create it: keyway kms init NAME --passphrase, or with --shares and --threshold
mode=; secret
start
! keyway keyspace create prod
keyway kms init local --passphrase-fd 3 3< SECRET
keyway keyspace create prod

# says: run `keyway kms init {} --passphrase`, or with --shares and --threshold
# says: make one: keyway kms init; or restore the KEK file that belongs to this data
mode=; secret
start
! keyway kms unlock local
! keyway kms unlock local --passphrase-fd 3 3< SECRET
keyway kms init local --passphrase-fd 3 3< SECRET

# says: run `keyway kms unlock {} --passphrase`
# says: unlock it with the passphrase
passphrase
keyway kms lock local
! keyway kms unlock local
printf '1234\n' > PIN
! keyway kms unlock local --pin-fd 3 3< PIN
keyway kms unlock local --passphrase-fd 3 3< SECRET
keyway keyspace list

# says: run `keyway unlock {} --wait --passphrase`
passphrase
keyway kms lock local
! keyway unlock prod --wait
keyway unlock prod --wait --passphrase-fd 3 3< SECRET
keyway key rotate prod/ed

# says: try again; check the keyboard layout, and that the file is the one the passphrase belongs to
passphrase
keyway kms lock local
printf 'wrong horse battery\n' > WRONG
! keyway kms unlock local --passphrase-fd 3 3< WRONG
keyway kms unlock local --passphrase-fd 3 3< SECRET

# says: choose a longer one; several random words are easy to type
mode=; secret; echo horse > SHORT
start
! keyway kms init local --passphrase-fd 3 3< SHORT
keyway kms init local --passphrase-fd 3 3< SECRET

# says: unlock it as it is; a key that is overwritten loses everything wrapped under it
passphrase
keyway kms lock local
! keyway kms init local --passphrase-fd 3 3< SECRET
keyway kms unlock local --passphrase-fd 3 3< SECRET
keyway unlock prod --wait --passphrase-fd 3 3< SECRET
keyway key rotate prod/ed

# says: restore it from a backup, or name the file that it is in (kms.NAME.file); without it their keys cannot be opened
passphrase
stop
mv data/kek.json kek.json
refuses
cp kek.json data/kek.json
start
keyway unlock prod --wait --passphrase-fd 3 3< SECRET
stop
rm data/kek.json
printf '[kms.local]\nprovider = "local"\nfile = "%s/kek.json"\n' "$PWD" > FILE
start --config FILE
keyway unlock prod --wait --passphrase-fd 3 3< SECRET

# says: restore the file, or restart
passphrase
keyway kms lock local
mv data/kek.json kek.json
keywayd --data other --listen 127.0.0.1:0 --metrics 127.0.0.1:0 --shards 1 --arena-mib 1 > other.log 2>&1 & other=$!
until grep -q 'is listening' other.log; do sleep 0.02; done
keyway --addr "unix:$PWD/other/keyway.sock" kms init local --passphrase-fd 3 3< SECRET
kill $other; wait $other
cp other/kek.json data/kek.json
! keyway kms unlock local --passphrase-fd 3 3< SECRET
cp kek.json data/kek.json
keyway kms unlock local --passphrase-fd 3 3< SECRET
keyway unlock prod --wait --passphrase-fd 3 3< SECRET
keyway key rotate prod/ed

# says: restore the file; to begin with a new one, restart first
mode=; secret
start
keyway kms init local --passphrase-fd 3 3< SECRET
mv data/kek.json kek.json
! keyway kms init local --passphrase-fd 3 3< SECRET
mv kek.json data/kek.json
keyway kms unlock local --passphrase-fd 3 3< SECRET
rm data/kek.json
stop
start
keyway kms init local --passphrase-fd 3 3< SECRET

# says: restore the KEK file that belongs to this data
passphrase
stop
mv data/kek.json kek.json
keywayd --data other --listen 127.0.0.1:0 --metrics 127.0.0.1:0 --shards 1 --arena-mib 1 > other.log 2>&1 & other=$!
until grep -q 'is listening' other.log; do sleep 0.02; done
keyway --addr "unix:$PWD/other/keyway.sock" kms init local --passphrase-fd 3 3< SECRET
kill $other; wait $other
cp other/kek.json data/kek.json
start
! keyway unlock prod --wait --passphrase-fd 3 3< SECRET
stop
cp kek.json data/kek.json
start
keyway unlock prod --wait --passphrase-fd 3 3< SECRET
keyway key rotate prod/ed

# says: restore it from a backup; without it nothing that it wrapped can be opened
# says: use the version of the program that wrote it, or a newer one
passphrase
stop
cp data/kek.json kek.json
sed -i 's/"checksum": "./"checksum": "/' data/kek.json
refuses
sed 's/"format": 1/"format": 99/' kek.json > data/kek.json
refuses
cp kek.json data/kek.json
start
keyway unlock prod --wait --passphrase-fd 3 3< SECRET

# says: start with --dev, give the KEK a passphrase, or use another data directory
serves
mode=
refuses
serves --data other
mode=--dev
serves

# says: give one of at least 8 bytes
# says: check that the source is the passphrase and not another file
# says: put it on a single line, and encode a binary secret as text first (base64 or hexadecimal)
mode=; secret; chmod 600 SECRET
: > EMPTY; head -c 1025 /dev/zero | tr '\0' x > LONG; printf 'two\nlines\n' > LINES; chmod 600 EMPTY LONG LINES
refuses --passphrase-file "$PWD/EMPTY"
refuses --passphrase-file "$PWD/LONG"
refuses --passphrase-file "$PWD/LINES"
base64 -w 0 LINES > ENCODED; chmod 600 ENCODED
serves --passphrase-file "$PWD/ENCODED"
serves --data other --passphrase-file "$PWD/SECRET"

# says: open a pipe or a file of your own on it, as in: {}< FILE
mode=; secret; chmod 600 SECRET
refuses --passphrase-fd 7
serves --passphrase-fd 7 7< SECRET

# says: run: chmod {} {}
mode=; secret; chmod 644 SECRET
refuses --passphrase-file "$PWD/SECRET"
eval "$(sed -n 's/.*; run: //p' log)"
serves --passphrase-file "$PWD/SECRET"

# says: run as its owner, or as root: chown {} {}
root_only
mode=; secret; chmod 600 SECRET; chown 12345 SECRET
refuses --passphrase-file "$PWD/SECRET"
eval "$(sed -n 's/.*; run as its owner, or as root: //p' log)"
serves --passphrase-file "$PWD/SECRET"

# says: check the path
# says: check that the path names the right file
# says: give the path of the file itself, not of a link, pipe or device
mode=; secret; chmod 600 SECRET
refuses --passphrase-file "$PWD/absent"
refuses --passphrase-file /dev/null
head -c 90000 /dev/zero | tr '\0' x > LONG; chmod 600 LONG
refuses --passphrase-file "$PWD/LONG"
serves --passphrase-file "$PWD/SECRET"

# says: give one share: its words in their order, separated by spaces
# says: give all words of one share, and only those
# says: compare that word with what is written down
# says: compare the words with what is written down
# says: give another share
shares
keyway kms lock local
printf '\303\274\n' > LETTERS; head -c 20 SHARE-1 > PART; sed 's/^[a-z]* [a-z]* [a-z]* [a-z]* [a-z]* [a-z]* [a-z]*/& x/; s/ x [a-z]*/ x/' SHARE-1 > WORD
awk '{t = $6; $6 = $7; $7 = t; print}' SHARE-1 > ORDER
! keyway kms unlock local --share-fd 3 3< LETTERS
! keyway kms unlock local --share-fd 3 3< PART
! keyway kms unlock local --share-fd 3 3< WORD
! keyway kms unlock local --share-fd 3 3< ORDER
keyway kms unlock local --share-fd 3 3< SHARE-1
! keyway kms unlock local --share-fd 3 3< SHARE-1
keyway kms unlock local --share-fd 3 3< SHARE-2
keyway keyspace create prod

# says: give a share of the set; all of its shares begin with the same three words
shares
keyway kms lock local
keywayd --data other --listen 127.0.0.1:0 --metrics 127.0.0.1:0 --shards 1 --arena-mib 1 > other.log 2>&1 & other=$!
until grep -q 'is listening' other.log; do sleep 0.02; done
keyway --addr "unix:$PWD/other/keyway.sock" kms init local --shares 3 --threshold 2 --out OTHERS
kill $other; wait $other
sed -n 's/^share 1 of 3: *//p' OTHERS > OTHER
! keyway kms unlock local --share-fd 3 3< OTHER
test "$(cut -d' ' -f1-3 SHARE-1)" = "$(cut -d' ' -f1-3 SHARE-2)"
test "$(cut -d' ' -f1-3 SHARE-1)" != "$(cut -d' ' -f1-3 OTHER)"
keyway kms unlock local --share-fd 3 3< SHARE-1
keyway kms unlock local --share-fd 3 3< SHARE-2

# says: unlock it with the shares, one after the other
# says: keyway: the shares of {} are shown this once; give each to its holder: any {} of them unlock it, and without them it cannot be unlocked
shares
keyway kms lock local
secret
! keyway kms unlock local --passphrase-fd 3 3< SECRET
keyway kms unlock local --share-fd 3 3< SHARE-3
keyway kms unlock local --share-fd 3 3< SHARE-1

# says: use 1 of 1 and copy the share, or a threshold of 2 or more
mode=
start
! keyway kms init local --shares 3 --threshold 1 --out SHARES
keyway kms init local --shares 1 --threshold 1 --out SHARES

# says: run as root: chown {} {} && chmod {} {}
root_only
mode=; secret; chmod 644 SECRET; mkdir data; chmod 755 . ..; chown 12345 data .
under='setpriv --reuid 12345 --clear-groups --bounding-set=-all --inh-caps=-all'
refuses --passphrase-file "$PWD/SECRET" --allow-unlocked-memory
eval "$(sed -n 's/.*; run as root: //p' log)"
serves --passphrase-file "$PWD/SECRET" --allow-unlocked-memory

# says: unlock it: keyway kms unlock NAME --passphrase
passphrase
keyway kms lock local
! keyway keyspace create shop
keyway kms unlock local --passphrase-fd 3 3< SECRET
keyway keyspace create shop

# says: raise the service's memory limit
passphrase
keyway kms lock local
echo 'wrong horse battery' > WRONG
# It leaves a thread behind, which the next unlock uses: one that starts without memory ends the process.
! keyway kms unlock local --passphrase-fd 3 3< WRONG
size=$(sed -n 's/^VmSize: *\([0-9]*\) kB/\1/p' /proc/$server/status)
prlimit --pid $server --as=$(((size + 30000) * 1024)):unlimited
! impatient kms unlock local --passphrase-fd 3 3< SECRET
prlimit --pid $server --as=unlimited:unlimited
keyway kms unlock local --passphrase-fd 3 3< SECRET
keyway keyspace create shop

# says: check the disk and the file system
# says: {}; if this attempt left a file, move it away: its secret is lost
root_only
mode=; mkdir full
printf '#!/bin/sh\nmount --make-rprivate / && mount -t tmpfs -o size=4k,mode=700 none %s/full && head -c 4096 /dev/zero > %s/full/FILE && exec "$@"\n' "$PWD" "$PWD" > inside; chmod 700 inside
under="unshare --mount $PWD/inside"
printf '[kms.local]\nprovider = "local"\nfile = "%s/full/kek.json"\n' "$PWD" > FILE
start --config FILE
! impatient kms init local --shares 3 --threshold 2 --out SHARES
rm -f SHARES
nsenter -t $server -m rm "$PWD/full/FILE"
nsenter -t $server -m sh -c "! test -e '$PWD/full/kek.json' || rm '$PWD/full/kek.json'"
keyway kms init local --shares 3 --threshold 2 --out SHARES
keyway keyspace create prod

# says: give the service's user access to it
root_only
mode=; secret; chmod 600 SECRET
mkdir -m 700 closed; mv SECRET closed; chown 12345 closed
under='setpriv --bounding-set=-all --inh-caps=-all'
refuses --passphrase-file "$PWD/closed/SECRET"
chown 0 closed
serves --passphrase-file "$PWD/closed/SECRET"

# says: give the path of the file itself, not of a link
mode=; secret; chmod 600 SECRET; ln -s LINK LINK
refuses --passphrase-file "$PWD/LINK"
serves --passphrase-file "$PWD/SECRET"

# says: give the path of a file
mode=; secret
printf '[kms.local]\nprovider = "local"\nfile = "/"\n' > FILE
refuses --config FILE
printf '[kms.local]\nprovider = "local"\nfile = "%s/kek.json"\n' "$PWD" > FILE
start --config FILE
keyway kms init local --passphrase-fd 3 3< SECRET

# says: set mode 0400 for the secret where the service is declared, and uid to the service's user
root_only
mode=; secret
printf '#!/bin/sh\nmount --make-rprivate / && mount -t tmpfs none /run && mkdir -m 755 /run/secrets && cp %s/SECRET /run/secrets && chmod "$mode" /run/secrets/SECRET && exec "$@"\n' "$PWD" > inside; chmod 700 inside
sed 's/"$mode"/0444/' inside > open; sed 's/"$mode"/0400/' inside > closed; chmod 700 open closed
under="unshare --mount $PWD/open"
refuses --passphrase-file /run/secrets/SECRET
under="unshare --mount $PWD/closed"
serves --passphrase-file /run/secrets/SECRET

# says: set defaultMode: 0440 for the volume, and fsGroup for the pod
mode=; secret
mkdir -m 755 volume volume/..first; mv SECRET volume/..first; ln -s ..first volume/..data; ln -s ..data/SECRET volume/SECRET
chmod 644 volume/SECRET
refuses --passphrase-file "$PWD/volume/SECRET"
chmod 440 volume/SECRET
serves --passphrase-file "$PWD/volume/SECRET"


# says: keyway: the KMS that wrapped it so far could still unwrap its DEK from a backup; rotate it next: keyway keyspace rotate {}
{ echo 'default_kms = "a"'; local_kms; local_kms 'file = "b.kek"' | sed s/kms.a/kms.b/; } > FILE
sed -i "s|b.kek|$PWD/b.kek|" FILE
start --config FILE
keyway keyspace create shop
keyway keyspace rewrap shop --kms b
eval "$(keyway keyspace rewrap shop --kms a 2>&1 | sed -n 's/.*rotate it next: //p')"
keyway keyspace list | grep shop

# says: run `keyway unlock {} --wait`
start
keyway keyspace create shop
keyway key generate shop/ed --alg ed25519
keyway lock shop
! keyway key rotate shop/ed
keyway unlock shop --wait
keyway key rotate shop/ed

# says: keyspace `{}` already keeps {} retired DEKs for {} days each, which is the maximum
start
keyway keyspace create shop
for at in $(seq 128); do until keyway keyspace rotate shop > out 2>&1; do sleep 0.02; done; done
until keyway keyspace rotate shop 2>&1 | grep 'already keeps'; do sleep 0.02; done
keyway keyspace destroy-deks shop --yes
keyway keyspace rotate shop

# says: the rotation to DEK {} is still resealing blobs ({} left); wait until `keyway keyspace list` shows none
start
keyway keyspace create shop
for at in $(seq 20); do keyway key generate shop/$at --alg ed25519 > out; done
until keyway keyspace rotate shop 2>&1 | grep 'still resealing'; do :; done
until keyway keyspace rotate shop; do sleep 0.1; done

# says: let the unit say LoadCredentialEncrypted={}, or choose another source
mode=; secret; chmod 600 SECRET
mkdir -m 700 credentials; cp SECRET credentials/keyway-passphrase
CREDENTIALS_DIRECTORY=credentials refuses
CREDENTIALS_DIRECTORY="$PWD/credentials" serves
serves --data other --passphrase-file "$PWD/SECRET"

# says: nothing was done; type it again
mode=
start
! printf 'correct horse battery\nanother horse battery\n' | script -qec 'keyway kms init local --passphrase' /dev/null
printf 'correct horse battery\ncorrect horse battery\n' | script -qec 'keyway kms init local --passphrase' /dev/null
keyway keyspace create shop
