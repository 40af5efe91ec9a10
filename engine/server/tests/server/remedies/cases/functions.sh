# For every script of these cases. $server is the process of a server that `start` started.
server=
trap 'test -z "$server" || kill -KILL $server 2> /dev/null' EXIT

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
