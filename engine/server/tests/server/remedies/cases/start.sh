# Arguments of the server, and what the machine allows.

# says: --{} {} is reachable from other machines and there is no TLS yet; use a loopback address
refuses --listen 0.0.0.0:0
refuses --metrics '[::]:0'
serves --listen 127.0.0.1:0
serves --listen 0.0.0.0:0 --listen-beyond-loopback-without-tls

# says: --listen port {} leaves no room for the ports of {} shards after it; choose a port of at most {}
refuses --listen 127.0.0.1:65535
port=$(sed -n 's/.*choose a port of at most //p' log)
serves --listen 127.0.0.1:$port

# says: --passphrase-fd and --passphrase-file name two sources; give one
printf 'correct horse battery staple' > FILE; chmod 600 FILE
refuses --passphrase-file "$PWD/FILE" --passphrase-fd 3 3< FILE
mode=
serves --passphrase-file "$PWD/FILE"

# says: --metrics-host {} is not a host name; give the name alone
refuses --metrics-host http://keyway-1.example:9420
serves --metrics-host keyway-1.example

# says: --{} {} is out of range; give {} to {}
refuses --keys-max 1
serves --keys-max $(sed -n 's/.*out of range; give \([0-9]*\) to.*/\1/p' log)
refuses --shards 0
serves --shards 2

# says: there is no port: {}; write [{}]:PORT
refuses --listen ::1
serves --listen '[::1]:0'

# says: there is no port: {}; write {}:PORT
refuses --listen 127.0.0.1
serves --listen 127.0.0.1:0

# says: the address is missing: {}; write 0.0.0.0:{} or [::]:{} for all addresses
refuses --listen :0
serves --listen 0.0.0.0:0 --listen-beyond-loopback-without-tls
serves --listen '[::]:0' --listen-beyond-loopback-without-tls

# says: an IPv6 address needs brackets; write [{}]:{}
refuses --listen ::ffff:127:0:0:1:0:1:0
serves --listen '[::1]:0'

# says: names are not looked up, except localhost: {}; write an address that getent hosts NAME shows
refuses --listen localhost.localdomain:0
serves --listen localhost:0
serves --listen "$(getent ahostsv4 localhost | sed -n '1s/ .*//p'):0"

# says: --log-level {}: {}; try `info`
refuses --log-level keyway=loud
serves --log-level info

# says: is another server running? stop it, or use {} with another port
keywayd --dev --data other --listen 127.0.0.1:0 --metrics 127.0.0.1:0 --shards 1 --arena-mib 1 > other.log 2>&1 & other=$!
until grep -q 'is listening' other.log; do sleep 0.02; done
address=$(sed -n 's/.*"metrics": *"\(.*\)".*/\1/p' other/endpoints.json)
refuses --metrics $address
serves --metrics 127.0.0.1:0
kill $other; wait $other
# The kernel may hold the port for a moment.
until serves --metrics $address; do sleep 0.2; done

# says: no interface of this machine has that address; use {} with one that it has
refuses --listen 192.0.2.1:0 --listen-beyond-loopback-without-tls
serves --listen 127.0.0.1:0
refuses --metrics 192.0.2.1:0 --listen-beyond-loopback-without-tls
serves --metrics 127.0.0.1:0

# says: takes a capability; grant it (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE; in a container: NET_BIND_SERVICE), or use {} with another port
# A container may allow every port.
root_only
test "$(cat /proc/sys/net/ipv4/ip_unprivileged_port_start)" -gt 81 || { echo "SKIP: every port is allowed"; exit 0; }
under='setpriv --bounding-set=-all --inh-caps=-all'
refuses --metrics 127.0.0.1:81
serves --metrics 127.0.0.1:0
under='setpriv --bounding-set=-all,+net_bind_service --inh-caps=-all,+net_bind_service'
serves --metrics 127.0.0.1:81

# says: there is no such directory; create it, or use another --unix
refuses --unix "$PWD/run/socket"
serves --unix "$PWD/socket"
mkdir run
serves --unix "$PWD/run/socket"

# says: the server's user may not create files there; give it access to the directory, or use another --unix
root_only
mkdir run; chown 12345 run; chmod 700 run
mkdir -m 755 closed; chown 12345 closed
under='setpriv --bounding-set=-all --inh-caps=-all'
refuses --unix "$PWD/closed/socket"
serves --unix "$PWD/socket"
chown 0 closed
serves --unix "$PWD/closed/socket"

# says: the file system is read-only; use a --unix where files can be written, as in /run/keyway/keyway.sock
root_only
mkdir fixed run
under='unshare --mount sh -c'
under="$PWD/under"
printf '#!/bin/sh\nmount --make-rprivate / && mount -t tmpfs -o ro none %s/fixed && exec "$@"\n' "$PWD" > inside; chmod 700 inside
under="unshare --mount $PWD/inside"
refuses --unix "$PWD/fixed/socket"
serves --unix "$PWD/run/socket"

# says: the socket's path {} has {} bytes, and the system allows {}; use a shorter --unix
refuses --unix "/tmp/$(head -c 110 /dev/zero | tr '\0' d)"
serves --unix "$PWD/s"

# says: {} is there and is not a socket: it is left as it is; move it away, or use another --unix
echo precious > FILE
refuses --unix "$PWD/FILE"
serves --unix "$PWD/another"
mv FILE NEW
serves --unix "$PWD/FILE"
grep precious NEW

# says: cannot look at {}: {}; give the server's user access to it, or use another --unix
echo x > FILE
refuses --unix "$PWD/FILE/socket"
serves --unix "$PWD/another"

# says: another process listens on {}; stop it, or use another --unix
keywayd --dev --data other --listen 127.0.0.1:0 --metrics 127.0.0.1:0 --shards 1 --arena-mib 1 --unix "$PWD/same" > other.log 2>&1 & other=$!
until grep -q 'is listening' other.log; do sleep 0.02; done
refuses --unix "$PWD/same"
serves --unix "$PWD/another"
kill $other; wait $other
serves --unix "$PWD/same"

# says: --arena-mib {} for {} shards is more than the memory of {} MiB; leave it out to have a size chosen
refuses --arena-mib 65536 --shards 200 --allow-unlocked-memory
serves --arena-mib 1

# says: add it: openssl ec -in FILE -conv_form uncompressed -out NEW
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out p256.pem
openssl ec -in p256.pem -no_public -out FILE
start --crypto-provider ring
! keyway key import prod/point --file FILE
openssl ec -in FILE -conv_form uncompressed -out NEW
keyway key import prod/point --file NEW
stop

# says: this server runs with ring only, which has no call for digests; leave out --digest and give the message
echo hello > msg; openssl dgst -sha256 -binary msg > DIGEST
start --crypto-provider ring
keyway key generate prod/p256 --alg ecdsa-p256
! keyway sign prod/p256 --digest --in DIGEST --out sig
keyway sign prod/p256 --in msg --out sig
keyway sign prod/p256 --in DIGEST --out sig
keyway verify prod/p256 --in DIGEST --sig sig
stop

# says: this server runs with ring only, which signs and verifies ECDSA with the hash of the key's curve; use scheme 0
echo hello > msg
start --crypto-provider ring
keyway key generate prod/p256 --alg ecdsa-p256
! keyway sign prod/p256 --scheme ecdsa-sha512 --in msg --out sig
keyway sign prod/p256 --in msg --out sig
stop

# says: the locked-memory limit is {} bytes, and the io_uring rings of {} shards take {}; raise it
root_only
under='prlimit --memlock=65536 setpriv --bounding-set=-all --inh-caps=-all'
refuses --allow-unlocked-memory
under='prlimit --memlock=8388608 setpriv --bounding-set=-all --inh-caps=-all'
serves --allow-unlocked-memory

# says: the limit of open files is reached; raise it (LimitNOFILE=, ulimit -n)
under='prlimit --nofile=5'
refuses || refuses
under='prlimit --nofile=1024'
serves

# says: only the server's user and root may do this, over the Unix socket
mode=
start
! keyway --addr "$(sed -n 's/.*"tcp": *"\(.*\)".*/\1/p' data/endpoints.json)" status
keyway --addr "unix:$PWD/data/keyway.sock" status
stop

# says: the locked-memory limit is {} bytes, and {} shards need {} at least; raise it
root_only
alone() {
    : > log
    prlimit --memlock=$1 setpriv --pdeathsig KILL --bounding-set=-all --inh-caps=-all keywayd --dev --data data --listen 127.0.0.1:0 --metrics 127.0.0.1:0 --shards $2 $3 > log 2>&1 & server=$!
    until grep -q 'is listening' log; do kill -0 $server || { cat log; return 1; }; sleep 0.02; done
    stop
}
! alone 4300000 2
needed=$(sed -n 's/.* shards need \([0-9]*\) at least.*/\1/p' log)
alone $needed 2
alone 4300000 1
alone 4300000 2 --allow-unlocked-memory

# says: give fewer --shards
root_only
under='prlimit --memlock=6000000 setpriv --bounding-set=-all --inh-caps=-all'
refuses --shards 4
serves --shards 1

# says: or give fewer --shards
under='prlimit --nofile=150'
refuses --shards 8 --connections-max 9
serves --shards 1 --connections-max 9

# says: the limit of processes and threads is reached; raise it (TasksMax=
root_only
chmod 755 . ..; mkdir data; chown 12345 data
as_user='setpriv --reuid 12345 --clear-groups --bounding-set=-all --inh-caps=-all'
under="prlimit --nproc=3 $as_user"
refuses --allow-unlocked-memory
under="prlimit --nproc=500 $as_user"
serves --allow-unlocked-memory

# says: cannot remove the socket {} of an earlier server: {}; remove it, or use another --unix
root_only
mkdir run
start --unix "$PWD/run/socket"
kill -KILL $server; wait $server || true
chmod 555 run
under='setpriv --bounding-set=-all --inh-caps=-all'
refuses --unix "$PWD/run/socket"
serves --unix "$PWD/another"
rm -f run/*
chmod 755 run
serves --unix "$PWD/run/socket"

# says: cannot tell whether another process listens on {} ({}); stop it, or use another --unix
root_only
keywayd --dev --data other --listen 127.0.0.1:0 --metrics 127.0.0.1:0 --shards 1 --arena-mib 1 --unix "$PWD/same" > other.log 2>&1 & other=$!
until grep -q 'is listening' other.log; do sleep 0.02; done
chmod 000 same*
under='setpriv --bounding-set=-all --inh-caps=-all'
refuses --unix "$PWD/same"
serves --unix "$PWD/another"
kill $other; wait $other
rm -f same*
serves --unix "$PWD/same"

# says: the server's user stands for every user that has no number in this user namespace
root_only
unshare --user --map-user=1000 true || { echo 'SKIP: needs user namespaces'; exit 0; }
under='unshare --user --map-user=65534'
serves --allow-unlocked-memory
grep 'stands for every user' log
under='unshare --user --map-user=1000'
serves --allow-unlocked-memory
! grep 'stands for every user' log

# says: an operator restarted it, or it ended and its supervisor started it again: see its log
start
: > found
until grep 'an operator restarted it' found; do
keyway doctor --duration 5s > found & doctor=$!
sleep 1
stop; cp log before
start
wait $doctor || true
done
grep stopped before
! keyway doctor --duration 2s | grep 'an operator restarted it'
