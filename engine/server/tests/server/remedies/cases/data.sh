# The data directory: its files, moved, missing, damaged or older than they were.

# says: the data directory {} is in use by process {}: stop that one, or name another directory
start; first=$server
refuses
serves --data another
kill $first; wait $first
serves

# says: others than its owner may enter it: chmod 700 {}; or, for a volume that is mounted there, name a directory in it
mkdir -m 755 data; touch data/FILE
refuses
chmod 700 data
serves
mkdir -m 755 volume; touch volume/FILE
serves --data volume/keyway

# says: is missing, but there are blob logs: restore it from a backup (it names their cluster), or move {}/{}* away to start empty
serves
mv data/store.toml backup; mv data/keyspaces.json backup-keyspaces
refuses
cp backup data/store.toml; cp backup-keyspaces data/keyspaces.json
serves
rm data/store.toml data/keyspaces.json
refuses
mkdir away; mv data/blobs-* away
serves

# says: cannot be used: {}. Restore it from a backup
serves
cp data/store.toml backup; echo nonsense > data/store.toml
refuses
cp backup data/store.toml
serves

# says: {} is missing: restore it from a backup, or, to start without that shard's keys: mkdir -m 700 {} && touch {}/{}
serves
cp -a data/blobs-*/ backup; rm -r data/blobs-*/shard-*
refuses
cp -a backup/shard-* data/blobs-*/
serves
rm -r data/blobs-*/shard-*
refuses
eval "$(sed -n "s/.*to start without that shard's keys: //p" log)"
serves

# says: {} holds no log, although it did: restore it from a backup, or, to start without that shard's keys: touch {}/{}
serves
rm data/blobs-*/shard-*/*
refuses
eval "$(sed -n "s/.*to start without that shard's keys: //p" log)"
serves

# says: ; name a directory with --data
echo x > FILE
refuses --data FILE
serves --data data

# says: it has format {}, this program reads formats {} to {}: use the program that wrote it
serves
cp data/store.toml backup; sed -i 's/^format.*/format = 99/' data/store.toml
refuses
cp backup data/store.toml
serves

# says: {} is missing, although this data directory was in use: restore it from a backup, with store.toml of the same time
serves
cp data/keyspaces.json data/store.toml .; rm data/keyspaces.json
refuses
cp keyspaces.json store.toml data
serves
rm data/keyspaces.json
refuses
serves --data another

# says: {}: an older file was put back, which can undo locks and withdrawn grants. Restore the newest one; or, to take this one as it is
start
cp data/keyspaces.json older
keyway keyspace set prod max_in_flight=63
stop
cp data/keyspaces.json newest; cp older data/keyspaces.json
refuses
revision=$(sed -n 's/.*--accept-catalogue \([0-9]*\).*/\1/p' log)
cp newest data/keyspaces.json
serves
cp older data/keyspaces.json
refuses
serves --accept-catalogue $revision
serves

# says: {} has format {}, this server reads {} to {}; use a matching server
serves
cp data/keyspaces.json backup; sed -i 's/"format": *[0-9]*/"format": 99/' data/keyspaces.json
refuses
cp backup data/keyspaces.json
serves

# says: {} is missing, although {} is there: restore it and the blobs- folders from a backup of the same time
serves
mkdir backup; mv data/store.toml data/blobs-* backup
refuses
mv backup/* data
serves

# says: ; give --data a directory that can be written, such as a volume of its own
root_only
mkdir fixed
printf '#!/bin/sh\nmount --make-rprivate / && mount -t tmpfs -o ro none %s/fixed && exec "$@"\n' "$PWD" > inside; chmod 700 inside
under="unshare --mount $PWD/inside"
refuses --data "$PWD/fixed/data"
serves --data "$PWD/another"

# says: ; give the directory to the user that runs keywayd, or name another with --data
root_only
mkdir -m 700 closed; chown 12345 closed
under='setpriv --bounding-set=-all --inh-caps=-all'
refuses --data "$PWD/closed/data"
serves --data "$PWD/another"
chown 0 closed
serves --data "$PWD/closed/data"

# says: it has format {}, this program reads format {}: use the program that wrote it
# says: its {} is {}, expected {} (hexadecimal, little-endian): put the file back where it came from
start --shards 2
keyway key generate prod/ed --alg ed25519
stop
file=$(ls data/blobs-*/shard-000/*.log | head -1)
cp $file backup
cp data/blobs-*/shard-001/"$(basename $file)" $file
refuses --shards 2
cp backup $file
serves --shards 2
"$(command -v perl)" -e '
open F, "+<", $ARGV[0]; read F, $h, 64; substr($h, 8, 4) = pack "V", 99;
$c = ~0 & 0xffffffff; for (unpack "C*", substr($h, 0, 60)) { $c ^= $_; for (1..8) { $c = $c & 1 ? ($c >> 1) ^ 0x82f63b78 : $c >> 1 } }
substr($h, 60, 4) = pack "V", $c ^ 0xffffffff; seek F, 0, 0; print F $h' $file
refuses --shards 2
cp backup $file
start --shards 2
keyway key rotate prod/ed
stop

# says: repair the disk of the data directory, then run the command again until it succeeds
start
keyway key generate prod/ed --alg ed25519
mkdir data/keyspaces.json.tmp
! keyway lock prod
rmdir data/keyspaces.json.tmp
until keyway lock prod; do sleep 0.1; done
keyway unlock prod --wait
keyway key rotate prod/ed

# says: ; free some space there
root_only
mkdir small
printf '#!/bin/sh\nmount --make-rprivate / && mount -t tmpfs -o size=16m,mode=700 none %s/small && head -c 17000000 /dev/zero > %s/small/FILE; $free; exec "$@"\n' "$PWD" "$PWD" > inside; chmod 700 inside
under="env free=true unshare --mount $PWD/inside"
refuses --data "$PWD/small/data" --unix "$PWD/socket"
printf 'rm -f %s/small/FILE\n' "$PWD" > free; chmod 700 free
under="env free=$PWD/free unshare --mount $PWD/inside"
serves --data "$PWD/small/data" --unix "$PWD/socket"
