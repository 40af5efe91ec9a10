# For every script of these cases. $server is the process of a server that `start` started.

# For a case that only root can provoke.
root_only() {
    test "$(id -u)" = 0 || {
        echo 'SKIP: needs root'
        exit 0
    }
}

# Generates a key that ends in so many seconds; fails if a busy machine takes longer than that.
ends() { keyway key generate "$1" --alg ed25519 --not-after $(($(date +%s%3N) + $2 * 1000)); }

server= canned_id= silent_id=
trap 'for child in $server $canned_id $silent_id; do kill -KILL $child 2> /dev/null; done' EXIT

# Adds an argument that is not given yet.
default() {
    flag=$1 value=$2
    shift 2
    case " $* " in
    *" $flag "*) defaults="$defaults" ;;
    *) defaults="$defaults $flag $value" ;;
    esac
}

# Starts keywayd over ./data with these arguments, and waits until it listens. Its log is ./log.
start() {
    defaults=
    default --listen 127.0.0.1:0 "$@"
    default --metrics 127.0.0.1:0 "$@"
    default --data data "$@"
    default --shards 1 "$@"
    default --arena-mib 1 "$@"
    : > log
    $under setpriv --pdeathsig KILL keywayd ${mode---dev} $defaults "$@" >> log 2>&1 &
    server=$!
    until grep -q 'is listening' log; do
        kill -0 $server 2> /dev/null || {
            server=
            cat log
            return 1
        }
        sleep 0.02
    done
    export KEYWAY_ADDR="unix:$PWD/data/keyway.sock"
}

stop() {
    kill $server
    wait $server
    server=
}

serves() { start "$@" && stop; }

refuses() {
    if start "$@"; then
        stop
        echo 'it was not refused'
        return 1
    fi
}

# Configurations, to be changed with sed.
local_kms() { printf '[kms.a]\nprovider = "local"\n%s\n' "$1"; }
vault() {
    printf '[kms.a]\nprovider = "vault"\naddress = "https://127.0.0.1:1"\nmount = "transit"\nkey = "keyway"\n'
    printf 'connect_ms_max = 1000\nrequest_ms_max = 2000\n'
    printf '[kms.a.auth]\nmethod = "approle"\nmount = "approle"\nrole_id = "role"\nsecret_id_file = "%s/secret-id"\n' "$PWD"
    echo id > secret-id
    chmod 600 secret-id
}
aws() {
    printf '[kms.a]\nprovider = "aws"\nkey_id = "alias/keyway"\nregion = "eu-central-1"\nprofile = "default"\n'
    printf 'endpoint_url = "http://127.0.0.1:1"\ncall_ms_max = 2000\nconnect_ms_max = 1000\n'
}
pkcs11() {
    printf '[kms.a]\nprovider = "pkcs11"\nmodule = "/usr/lib/none.so"\ntoken = "keyway"\nkey = "keyway"\n'
    printf 'call_ms_max = 2000\nunlock_ms_max = 3000\n'
}

# The local KMS of a production server: `data/kek.json` under a passphrase, or in shares.
secret() { printf 'correct horse battery\n' > SECRET; }
passphrase() {
    mode=
    secret
    start "$@"
    keyway kms init local --passphrase-fd 3 3< SECRET
    keyway keyspace create prod
    keyway key generate prod/ed --alg ed25519
}
shares() {
    mode=
    start
    keyway kms init local --shares 3 --threshold 2 --out SHARES
    for at in 1 2 3; do sed -n "s/^share $at of 3: *//p" SHARES > SHARE-$at; done
}
# A credential in a file: a token, or a PIN.
pin_file() { pkcs11 | sed "s|^token|pin_file = \"$PWD/$1\"\ntoken|" > FILE; }
token_file() {
    vault | sed '/auth/,$d' > FILE
    printf '[kms.a.auth]\nmethod = "token"\ntoken_file = "%s"\n' "$PWD/$1" >> FILE
}

# A KMS at OpenBao, with the key and the token in ./token.
openbao() {
    printf '[kms.a]\nprovider = "vault"\naddress = "%s"\nmount = "transit"\nkey = "%s"\nca_file = "%s"\n' \
        "$BAO_ADDR" "$1" "$BAO_CACERT"
    printf '[kms.a.auth]\nmethod = "token"\ntoken_file = "%s/token"\n' "$PWD"
}
# Creates the key and a policy of the same name that lets its holder wrap and unwrap with it.
key_with_policy() {
    bao write -f "transit/keys/$1" derived=true
    for call in encrypt decrypt datakey/plaintext
    do printf 'path "transit/%s/%s" { capabilities = ["update"] }\n' $call "$1"
    done | bao policy write "$1" -
}
# Writes a new token with this policy.
token() {
    bao token create -policy="$1" -period=1h -orphan -field=token > token.next
    chmod 600 token.next
    mv token.next token
}
# A server in production with a keyspace at OpenBao, whose key is unlocked.
shop() {
    mode=
    key_with_policy "$1"
    token "$1"
    openbao "$1" > FILE
    start --config FILE
    keyway keyspace create shop
    keyway key generate shop/ed --alg ed25519
}
again() { keyway lock shop && impatient unlock shop --wait; }

# Runs a command that is answered with the trouble of a KMS, which the client would wait for: no longer than until the
# trouble is named.
impatient() {
    for limit in 1 3 9 27 81; do
        if command keyway --timeout ${limit}s "$@" > answer 2>&1; then
            cat answer
            return 0
        fi
        if grep -v -e 'no answer in time; try again' -e 'no answer in time; the change' -e 'the deadline passed' answer | grep -q ': .*; '; then break; fi
    done
    cat answer
    return 1
}

# A KMS at SoftHSM2, with the key, and the PIN in ./PIN.
softhsm() {
    printf '[kms.a]\nprovider = "pkcs11"\nmodule = "%s"\ntoken = "%s"\nkey = "%s"\n' "$MODULE" "$TOKEN" "$1"
    printf 'pin_file = "%s/PIN"\n' "$PWD"
    test -f PIN || echo "$PIN" > PIN
    chmod 600 PIN
}
# Makes an AES key with this label, and with other flags of pkcs11-tool.
aes() {
    label=$1
    shift
    test $# != 0 || set -- --key-type AES:32 --private --sensitive
    pkcs11-tool --module "$MODULE" --token-label "$TOKEN" --login --pin "$PIN" --keygen --label "$label" "$@"
}

# A KMS at AWS's, which moto plays: a key by its name, at this address, with the credentials of the file.
amazon() {
    printf '[kms.a]\nprovider = "aws"\nkey_id = "%s"\nregion = "%s"\nendpoint_url = "%s"\n' "$1" "$REGION" "${2-$MOTO}"
    printf 'credentials_file = "%s"\n[kms.a.budget]\nattempts_max = 1\n' "$PWD/credentials"
    cp "$CREDENTIALS" credentials
}
# A call that an administrator of the account makes.
aws_call() {
    curl -sf "$MOTO" -H "X-Amz-Target: TrentService.$1" -H 'Content-Type: application/x-amz-json-1.1' -d "$2" \
        -H "Authorization: AWS4-HMAC-SHA256 Credential=admin/20260101/$REGION/kms/aws4_request, SignedHeaders=host, Signature=none"
}
# Creates a key, and prints its ARN.
aws_key() { aws_call CreateKey "${1:-"{ }"}" | sed 's/.*"Arn": *"\([^"]*\)".*/\1/'; }
# What the proxy in front of moto does to later calls of the KMS.
proxy() { curl -sf "$PROXY/_microburst/rules" -d "[$1]" > rules; }
proxy_answers() { proxy "{\"service\":\"kms\",\"error\":{\"code\":\"$1\",\"status\":$2,\"message\":\"as the test says\"}}"; }
# Answers each request with this JSON and status (200), at $canned. COUNT in it is the number of the request.
answers() {
    rm -f canned.port
    setpriv --pdeathsig KILL "$PYTHON" -c '
import http.server, itertools, sys
count = itertools.count(1000)
class Answer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()
    def do_GET(self):
        text = sys.argv[1].replace("COUNT", str(next(count)))
        self.send_response(int(sys.argv[2]))
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())
server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
with open("canned.next", "w") as file: file.write(str(server.server_port))
import os; os.rename("canned.next", "canned.port")
server.serve_forever()' "$1" "${2-200}" > /dev/null 2>&1 &
    canned_id=$!
    until test -f canned.port; do kill -0 $canned_id; sleep 0.05; done
    canned="http://127.0.0.1:$(cat canned.port)"
}
# A server that accepts connections and never answers, at $silent.
silence() {
    keywayd --dev --data silent --listen 127.0.0.1:0 --metrics 127.0.0.1:0 --shards 1 --arena-mib 1 > silent.log 2>&1 &
    silent_id=$!
    until grep -q 'is listening' silent.log; do kill -0 $silent_id; sleep 0.02; done
    silent="$(sed -n 's/.*"metrics": *"\(.*\)".*/\1/p' silent/endpoints.json)"
    kill -STOP $silent_id
}
# Prints a share with the number, the set and a checksum of this one, and with another value.
forged() {
    "$PYTHON" -c '
import dataclasses, sys
from shamir_mnemonic.share import Share
share = Share.from_mnemonic(open(sys.argv[1]).read())
print(dataclasses.replace(share, value=bytes([int(sys.argv[2])] * 32)).mnemonic())' "$1" "$2"
}
