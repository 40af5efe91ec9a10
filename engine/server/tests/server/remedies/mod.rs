//! Every remedy in a message has been executed.
//!
//! The fault: some remedies in messages did not work, were circular (a digest for Ed25519), or rewrote the user's own
//! file (`ssh-keygen -p`). The list below is compared with the commands and flags in the sources, so a new message needs
//! a line here, and a line whose message is gone must be removed.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod cases;
mod clauses;
mod literals;
mod sources;

use std::path::{Path, PathBuf};

use keyway_testkit::openbao::{Mode, OpenBao};

use crate::command_line::operator::Operator;
use crate::common::Setup;
use Proof::{Bao, Run, Start, Test};

/// How a remedy is verified.
enum Proof {
    /// This script executes it, at a server with the keyspace `prod`: see [`a_shell_walks_the_list`].
    Run(&'static str),
    /// A server starts with these arguments, and with `--dev`, `--listen`, `--metrics`, `--data`, `--shards` and
    /// `--arena-mib`, which the setup of all tests adds.
    Start(&'static [&'static str]),
    /// This script executes it with the server of OpenBao that it is about: see [`an_operator_of_openbao_walks_the_list`].
    Bao(&'static str),
    /// A test elsewhere executes it: the file, and the test's name.
    Test(&'static str, &'static str),
}

const TOOLS: &str = "tools/tests/commands.rs";
const TOOLS_KMS: &str = "tools/tests/kms.rs";
const UNLOCK_COMMANDS: &str = "engine/server/tests/server/unlock_commands.rs";
const COMMAND_LINE: &str = "engine/server/tests/server/command_line/mod.rs";

/// One `sed` command for all the places that PEM is copied into.
const REPAIRED: &str = r#"
    escaped=$(awk '{printf "%s\\n", $0}' p256.pem)
    repairs() {
        ! keyway key import "prod/$1" --file FILE
        sed -E -e 's/.*-----BEGIN/-----BEGIN/' -e 's/(-----END [A-Z ]*-----).*/\1/' -e 's/\\r//g' -e 's/\\n/\n/g' \
            -e 's/(-----BEGIN [A-Z ]*-----) *([^\n])/\1\n\2/' -e 's/([^\n]) *(-----END )/\1\n\2/' FILE > NEW
        keyway key import "prod/$1" --file NEW
        openssl pkey -in NEW -noout
    }
    tr '\n' ' ' < p256.pem > FILE; repairs pem-line
    echo "\"$(cat p256.pem)\"" > FILE; repairs pem-quoted
    printf '"%s"' "$escaped" > FILE; repairs pem-text
    printf 'KEY="%s"\n' "$escaped" > FILE; repairs pem-variable
    printf '{"type":"account","key_id":"a-----b","private_key":"%s","mail":"a-b"}' "$escaped" > FILE; repairs pem-json"#;

/// If there is no journal, or it has no lines of the service, the command ends with 1.
const JOURNAL: &str = "
    command -v journalctl > /dev/null || exit 0
    journalctl -u keywayd --since -15min -g 'unwrap failed' || test $? = 1";

/// The remedies. `FILE`, `NEW` and the like appear in the scripts as they do in the messages.
#[rustfmt::skip]
const REMEDIES: &[(&str, Proof)] = &[
    ("--accept-catalogue", Test("engine/server/tests/server/lost_files.rs", "an_older_catalogue_alone_is_refused_unless_the_operator_takes_it")),
    ("--addr", Run("keyway --addr $KEYWAY_ADDR status")),
    ("--all", Test(TOOLS_KMS, "a_kms_or_everything_is_locked")),
    ("--allow-unlocked-memory", Start(&["--allow-unlocked-memory"])),
    ("--arena-mib", Start(&[])),
    ("--below", Run("keyway key generate prod/below --alg hmac-sha256
        keyway key rotate prod/below
        keyway key trim prod/below --below 2")),
    ("--by", Run("keyway hot prod --by waiters")),
    ("--config", Test("engine/server/tests/server/outages.rs", "keys_in_use_are_served_to_the_end_of_the_lease_and_not_past_it")),
    ("--connections-max", Start(&["--connections-max", "300"])),
    ("--data", Start(&[])),
    ("--dev", Start(&[])),
    ("--digest", Run("openssl dgst -sha256 -binary big > DIGEST
        ! keyway sign prod/p256 --in big --out sig
        keyway sign prod/p256 --digest --in DIGEST --out sig
        openssl dgst -sha256 -verify p256.pub -signature sig big")),
    ("--dir", Run("mkdir keys && openssl genpkey -algorithm ed25519 -out keys/d1.pem
        keyway import prod --dir keys")),
    ("--encoding", Run("printf 000102030405060708090a0b0c0d0e0f > FILE
        ! keyway key import prod/hex --alg hmac-sha256 --file FILE
        keyway key import prod/hex --alg hmac-sha256 --file FILE --encoding hex
        keyway key import prod/text --alg hmac-sha256 --file FILE --encoding raw")),
    ("--for", Run("keyway keyspace set prod max_in_flight=65 --for 15m")),
    ("--file", Run("openssl genpkey -algorithm ed25519 -out FILE; keyway key import prod/file --file FILE")),
    ("--force", Run("keyway derive prod/master --len 32 --force > derived")),
    ("--format", Run("printf '{\"kty\":\"oct\",\"k\":\"AAECAwQFBgcICQoLDA0ODw\"}' > FILE
        ! keyway key import prod/jwk --alg hmac-sha256 --file FILE --format raw
        keyway key import prod/jwk --alg hmac-sha256 --file FILE")),
    ("--in", Run("keyway sign prod/alice --in msg --out sig
        ! keyway verify prod/alice --sig - < sig
        keyway verify prod/alice --sig - --in msg < sig")),
    ("--json", Run("keyway top --once --json")),
    ("--kms", Run("keyway keyspace rewrap prod --kms local")),
    ("--listen", Start(&[])),
    ("--listen-beyond-loopback-without-tls", Test("engine/server/tests/server/keyspaces.rs", "a_listener_beyond_loopback_needs_its_flag")),
    ("--log-level", Start(&["--log-level", "debug"])),
    ("--metrics-host", Test("engine/server/tests/server/metrics_port.rs", "only_its_own_names_are_answered")),
    ("--ndjson", Run("printf '{\"id\":\"n1\",\"key\":\"AAECAwQFBgcICQoLDA0O/w==\",\"alg\":\"hmac-sha256\"}' > FILE
        keyway import prod --ndjson FILE")),
    ("--once", Run("keyway top --once")),
    ("--out", Run("keyway get prod/exportable --out secret && test -s secret")),
    ("--passphrase", Test(COMMAND_LINE, "a_passphrase_unlocks_after_a_restart")),
    ("--passphrase-fd", Test(COMMAND_LINE, "a_passphrase_unlocks_after_a_restart")),
    ("--passphrase-file", Test("engine/server/tests/server/keyspaces.rs", "a_passphrase_opens_the_kek_and_only_the_right_one")),
    ("--pin", Test(COMMAND_LINE, "a_pin_unlocks_after_a_restart")),
    ("--pin-fd", Test(COMMAND_LINE, "a_pin_unlocks_after_a_restart")),
    ("--private", Test("engine/kms/tests/pkcs11/main.rs", "what_is_wrapped_unwraps_under_its_context_alone")),
    ("--scheme", Run("openssl dgst -sha512 -binary big > DIGEST
        ! keyway sign prod/p256 --scheme ecdsa-sha256 --digest --in DIGEST --out sig
        keyway sign prod/p256 --scheme ecdsa-sha512 --digest --in DIGEST --out sig
        openssl dgst -sha512 -verify p256.pub -signature sig big")),
    // The runtime installs the profile as a seccomp filter, as that test does.
    ("--security-opt", Test("engine/server/tests/server/seccomp.rs", "a_seccomp_profile_with_the_calls_that_the_remedy_names_is_enough")),
    ("--sensitive", Test("engine/kms/tests/pkcs11/main.rs", "what_is_wrapped_unwraps_under_its_context_alone")),
    ("--shards", Start(&[])),
    ("--share", Test(COMMAND_LINE, "three_of_five_shares_unlock_after_a_restart")),
    ("--shares", Test(COMMAND_LINE, "three_of_five_shares_unlock_after_a_restart")),
    ("--sig", Run("keyway sign prod/alice --in msg --out sig
        ! keyway verify prod/alice --sig - < msg
        keyway verify prod/alice --sig sig < msg")),
    ("--since", Run(JOURNAL)),
    ("--threshold", Test(COMMAND_LINE, "three_of_five_shares_unlock_after_a_restart")),
    ("--ticket", Test(TOOLS, "an_unlock_is_followed_until_it_is_done_has_failed_or_takes_too_long")),
    ("--timeout", Test(TOOLS, "a_server_that_says_nothing_is_told_as_that")),
    // The runtime sets the limits with setrlimit, as a shell does.
    ("--ulimit", Test("engine/server/tests/server/machines.rs", "the_numbers_that_messages_name_are_enough")),
    ("--unix", Test("engine/server/tests/server/unix_paths.rs", "a_path_that_answers_or_is_no_socket_is_refused")),
    ("--version", Run("keyway --version")),
    ("--wait", Run("keyway lock prod; keyway unlock prod --wait")),
    ("--retry", Test(TOOLS_KMS, "retry_is_requested_and_reported")),
    ("--yes", Test(TOOLS_KMS, "retired_deks_are_destroyed_when_somebody_means_it")),
    ("bao operator unseal", Bao("bao operator seal
        ! bao read sys/mounts
        bao operator unseal $UNSEAL_KEY
        until bao read sys/mounts; do sleep 0.1; done")),
    ("bao secrets enable -path={} transit", Bao("bao secrets enable -path=other transit
        bao write -f other/keys/NAME derived=true")),
    ("bao status", Bao("bao status")),
    ("bao write -f {}/keys/NAME derived=true", Bao("bao write -f transit/keys/NAME derived=true
        bao read -field=derived transit/keys/NAME | grep true")),
    ("bao write -f {}/keys/{} derived=true", Bao("bao write -f transit/keys/keyway derived=true
        bao read -field=derived transit/keys/keyway | grep true")),
    ("bao write -f {}/keys/{}/soft-delete-restore", Bao("bao write -f transit/keys/gone derived=true
        bao delete transit/keys/gone/soft-delete || bao write -f transit/keys/gone/soft-delete
        bao write -f transit/keys/gone/soft-delete-restore")),
    ("bao write {}/keys/{}/config min_decryption_version=N", Bao("bao write -f transit/keys/old derived=true
        bao write -f transit/keys/old/rotate
        bao write transit/keys/old/config min_decryption_version=2")),
    ("chmod 700 {}", Run("mkdir -m 777 open
        chmod 700 open; test $(stat -c %a open) = 700")),
    ("chmod {} {}", Run("echo x > wide; chmod 666 wide
        chmod 600 wide; test $(stat -c %a wide) = 600")),
    ("chown {} {}", Run("echo x > FILE; chown $(id -u) FILE")),
    ("chown {} {} && chmod {} {}", Run("echo x > roots; chmod 440 roots
        chown $(id -u) roots && chmod 0400 roots; test $(stat -c %a roots) = 400")),
    ("head -c LENGTH FILE > NEW", Run("openssl pkcs8 -topk8 -nocrypt -in p256.pem -outform DER > DER; cat DER DER > FILE
        ! keyway key import prod/der --file FILE
        head -c $(wc -c < DER) FILE > NEW
        keyway key import prod/der --file NEW")),
    ("head -c {} FILE > NEW", Run("openssl rand 32 > FILE; echo >> FILE
        ! keyway key import prod/head --alg aes-256-gcm --file FILE
        head -c 32 FILE > NEW
        keyway key import prod/head --alg aes-256-gcm --file NEW --encoding raw")),
    ("iconv -f UTF-16BE -t UTF-8 FILE > NEW", Run("iconv -f UTF-8 -t UTF-16BE key.pem > FILE
        ! keyway key import prod/utf16be --file FILE
        iconv -f UTF-16BE -t UTF-8 FILE > NEW
        keyway key import prod/utf16be --file NEW")),
    ("iconv -f UTF-16LE -t UTF-8 FILE > NEW", Run("iconv -f UTF-8 -t UTF-16LE key.pem > FILE
        ! keyway key import prod/utf16le --file FILE
        iconv -f UTF-16LE -t UTF-8 FILE > NEW
        keyway key import prod/utf16le --file NEW")),
    ("iconv -f UTF-32 -t UTF-8 FILE > NEW", Run("iconv -f UTF-8 -t UTF-32 key.pem > FILE
        ! keyway key import prod/utf32 --file FILE
        iconv -f UTF-32 -t UTF-8 FILE > NEW
        keyway key import prod/utf32 --file NEW")),
    ("iconv -f UTF-16 -t UTF-8 FILE > NEW", Run("iconv -f UTF-8 -t UTF-16 key.pem > FILE
        ! keyway key import prod/utf16 --file FILE
        iconv -f UTF-16 -t UTF-8 FILE > NEW
        keyway key import prod/utf16 --file NEW")),
    ("journalctl -u keywayd --since -15min -g '{}'", Run(JOURNAL)),
    ("keyway --version", Run("keyway --version")),
    ("keyway doctor", Run("keyway doctor --duration 2s || test $? = 1")),
    ("keyway doctor KEYSPACE", Run("keyway doctor prod --duration 2s || test $? = 1")),
    ("keyway encrypt", Run("keyway encrypt prod/aead --in msg --out sealed && keyway decrypt prod/aead --in sealed --out opened && cmp msg opened")),
    ("keyway hot {}", Run("keyway hot prod")),
    ("keyway hot {} --by rehydrate-time", Run("keyway hot prod --by rehydrate-time")),
    ("keyway hot {} --by waiters", Run("keyway hot prod --by waiters")),
    ("keyway key import", Run("openssl genpkey -algorithm ed25519 -out FILE
        keyway key import prod/imported --file FILE")),
    ("keyway key delete KEYSPACE/KEY", Test("engine/server/tests/server/key_listing.rs", "a_damaged_key_is_listed_as_that_with_remedies_that_work")),
    ("keyway key import KEYSPACE/KEY --file FILE", Test("engine/server/tests/server/key_listing.rs", "a_damaged_key_is_listed_as_that_with_remedies_that_work")),
    ("keyway key list {}", Run("keyway key list prod")),
    ("keyway key revoke KEYSPACE/KEY", Run("keyway key generate prod/revoked --alg ed25519
        keyway key revoke prod/revoked")),
    ("keyway key rotate", Run("keyway key rotate prod/aead")),
    ("keyway key rotate KEYSPACE/KEY", Run("keyway key rotate prod/aead")),
    ("keyway key trim KEYSPACE/KEY --below VERSION", Run("keyway key generate prod/trimmed --alg hmac-sha256
        keyway key rotate prod/trimmed
        keyway key trim prod/trimmed --below 2")),
    ("keyway keyspace create {}", Run("! keyway key list other
        keyway keyspace create other; keyway key list other")),
    ("keyway keyspace destroy-deks prod", Test(TOOLS_KMS, "retired_deks_are_destroyed_when_somebody_means_it")),
    ("keyway keyspace destroy-deks {}", Test(TOOLS_KMS, "retired_deks_are_destroyed_when_somebody_means_it")),
    ("keyway keyspace history {}", Run("keyway keyspace history prod")),
    ("keyway keyspace list", Run("keyway keyspace list")),
    ("keyway keyspace list {}", Run("keyway keyspace list prod")),
    ("keyway keyspace rewrap KEYSPACE --kms SAME", Run("keyway keyspace rewrap prod --kms local")),
    ("keyway keyspace rewrap KEYSPACE --kms {}", Run("keyway keyspace rewrap prod --kms local")),
    ("keyway keyspace rewrap KEYSPACE --kms {} before it stops decrypting with those", Run("keyway keyspace rewrap prod --kms local")),
    ("keyway keyspace rotate {}", Run("keyway keyspace rotate prod --wait")),
    // Followed by the right that is missing: that test gives each.
    ("keyway keyspace set KEYSPACE allow:PRINCIPAL=", Test("engine/server/tests/server/forbidden.rs", "the_right_that_a_refusal_names_is_the_one_that_is_needed")),
    ("keyway keyspace set {} {}", Run("keyway keyspace set prod sign_wait_budget_us=4000")),
    ("keyway keyspace set {} …", Run("keyway keyspace set prod soft_ttl_ms=600000")),
    ("keyway kms init", Test(COMMAND_LINE, "a_passphrase_unlocks_after_a_restart")),
    ("keyway kms init {} --passphrase", Test(UNLOCK_COMMANDS, "of_a_kek_under_a_passphrase")),
    ("keyway kms list", Run("keyway kms list")),
    ("keyway kms init NAME --passphrase", Test(UNLOCK_COMMANDS, "of_a_kek_under_a_passphrase")),
    ("keyway kms unlock NAME", Test(UNLOCK_COMMANDS, "of_openbao_which_needs_no_secret")),
    ("keyway kms unlock NAME --passphrase", Test(UNLOCK_COMMANDS, "of_a_kek_under_a_passphrase")),
    ("keyway kms unlock NAME --share", Test(UNLOCK_COMMANDS, "of_a_kek_in_shares")),
    ("keyway kms unlock {}", Test(UNLOCK_COMMANDS, "of_openbao_which_needs_no_secret")),
    ("keyway kms unlock {} --share", Test(UNLOCK_COMMANDS, "of_a_kek_in_shares")),
    ("keyway unlock {} --share", Test(UNLOCK_COMMANDS, "of_a_kek_in_shares")),
    ("keyway unlock {} --wait --passphrase", Test(UNLOCK_COMMANDS, "of_a_kek_under_a_passphrase")),
    ("keyway unlock {} --wait --pin", Test(UNLOCK_COMMANDS, "of_a_token")),
    ("keyway kms lock NAME wipes them", Test(TOOLS_KMS, "a_kms_or_everything_is_locked")),
    ("keyway kms unlock NAME --pin", Test(UNLOCK_COMMANDS, "of_a_token")),
    ("keyway kms unlock NAME --pin --force", Test(UNLOCK_COMMANDS, "of_a_token_that_has_refused_the_pin_of_the_file")),
    ("keyway kms unlock {} --passphrase", Test(UNLOCK_COMMANDS, "of_a_kek_under_a_passphrase")),
    ("keyway kms unlock {} --pin", Test(UNLOCK_COMMANDS, "of_a_token")),
    ("keyway status", Run("keyway status")),
    ("keyway top", Run("keyway top --once")),
    ("keyway lock KEYSPACE", Run("keyway lock prod; keyway unlock prod --wait")),
    ("keyway unlock {} --ticket {} --wait", Test(TOOLS_KMS, "a_share_that_is_not_judged_in_time_can_be_followed")),
    ("keyway unlock {} --wait", Run("keyway lock prod
        ! keyway sign prod/alice --in msg --out sig
        keyway unlock prod --wait; keyway sign prod/alice --in msg --out sig")),
    ("keyway unlock {} --retry", Test(TOOLS_KMS, "retry_is_requested_and_reported")),
    ("keywayd --version", Run("keywayd --version")),
    ("openssl dgst -binary", Run("openssl dgst -sha256 -binary big > DIGEST; keyway sign prod/p256 --scheme ecdsa-sha256 --digest --in DIGEST --out sig")),
    ("openssl dgst -sha256 -binary FILE > DIGEST", Run("cp big FILE; openssl dgst -sha256 -binary FILE > DIGEST
        ! keyway sign prod/alice --in FILE --out sig
        keyway sign prod/alice --in DIGEST --out sig
        keyway verify prod/alice --in DIGEST --sig sig")),
    ("openssl dgst -sha512 -binary FILE > DIGEST", Run("cp big FILE; openssl dgst -sha512 -binary FILE > DIGEST
        ! keyway mac prod/mac --in FILE --out tag
        keyway mac prod/mac --in DIGEST --out tag
        keyway verify prod/mac --in DIGEST --sig tag")),
    ("openssl ec -in FILE -conv_form uncompressed -out NEW", Run("openssl ec -in p256.pem -no_public -out FILE
        openssl ec -in FILE -conv_form uncompressed -out NEW
        keyway key import prod/point --file NEW")),
    ("openssl pkcs12 -in FILE -nocerts -nodes -out NEW", Run("openssl req -x509 -new -key p256.pem -subj /CN=x -days 9 -out cert
        openssl pkcs12 -export -inkey p256.pem -in cert -passout pass: -out FILE
        ! keyway key import prod/p12 --file FILE
        openssl pkcs12 -in FILE -nocerts -nodes -out NEW -passin pass:
        keyway key import prod/p12 --file NEW")),
    ("openssl pkcs8 -topk8 -nocrypt -in FILE -out NEW", Run("openssl pkey -in key.pem -aes256 -passout pass:x -out FILE
        ! keyway key import prod/enc --file FILE
        openssl pkcs8 -topk8 -nocrypt -in FILE -out NEW -passin pass:x
        keyway key import prod/enc --file NEW")),
    ("puttygen FILE -O private-openssh -o NEW", Run("ssh-keygen -q -t ed25519 -N '' -f putty
        puttygen putty -O private --new-passphrase /dev/null -o FILE
        ! keyway key import prod/putty --file FILE
        puttygen FILE -O private-openssh -o NEW
        keyway key import prod/putty --file NEW")),
    ("sed 's/\\\\r//g; s/\\\\n/\\n/g' FILE > NEW", Run("for end in '\\\\n' '\\\\r\\\\n'
        do awk -v end=\"$end\" '{printf \"%s%s\", $0, end}' key.pem > FILE
        ! keyway key import prod/sed --file FILE
        sed 's/\\\\r//g; s/\\\\n/\\n/g' FILE > NEW
        keyway key import \"prod/sed-${#end}\" --file NEW
        done")),
    ("sed -E -e 's/.*-----BEGIN/-----BEGIN/' -e 's/(-----END [A-Z ]*-----).*/\\1/' -e 's/\\\\r//g' -e 's/\\\\n/\\n/g' -e 's/(-----BEGIN [A-Z ]*-----) *([^\\n])/\\1\\n\\2/' -e 's/([^\\n]) *(-----END )/\\1\\n\\2/' FILE > NEW", Run(REPAIRED)),
    ("ssh-keygen -p -f COPY", Run("ssh-keygen -q -t ed25519 -N secret -f FILE; cp FILE before
        ! keyway key import prod/ssh --file FILE
        cp FILE COPY; ssh-keygen -q -p -P secret -N '' -f COPY
        cmp FILE before; keyway key import prod/ssh --file COPY")),
    ("ulimit -l", Test("engine/server/tests/server/machines.rs", "the_numbers_that_messages_name_are_enough")),
    ("ulimit -n", Test("engine/server/tests/server/machines.rs", "the_numbers_that_messages_name_are_enough")),
    ("ulimit -n {}", Test("engine/server/tests/server/machines.rs", "the_numbers_that_messages_name_are_enough")),
    ("ulimit -u", Test("engine/server/tests/server/machines.rs", "what_a_container_does_not_allow_is_named_with_a_remedy")),
    ("ulimit -v", Test("engine/server/tests/server/machines.rs", "too_little_address_space_is_not_taken_for_too_little_locked_memory")),
    ("sysctl kernel.io_uring_disabled=0", Run("if test \"$(id -u)\" = 0 && test \"$(cat /proc/sys/kernel/io_uring_disabled)\" = 0
        then sysctl kernel.io_uring_disabled=0
        fi")),
];

#[test]
fn every_remedy_in_the_sources_is_in_the_list_and_none_else() {
    let root = root();
    let found = sources::remedies(&root);
    let listed = REMEDIES.iter().map(|(remedy, _)| (*remedy).to_owned());
    let listed: std::collections::BTreeSet<String> = listed.collect();
    assert_eq!(listed.len(), REMEDIES.len(), "a remedy is listed twice");
    let new: Vec<_> = found.difference(&listed).collect();
    assert!(
        new.is_empty(),
        "named by a message, and never executed: {new:#?}"
    );
    let gone: Vec<_> = listed.difference(&found).collect();
    assert!(
        gone.is_empty(),
        "listed, and named by no message: {gone:#?}"
    );
}

#[test]
fn tests_of_remedies_elsewhere_exist() {
    for (remedy, proof) in REMEDIES {
        match proof {
            Test(path, name) => {
                let text = std::fs::read_to_string(root().join(path)).unwrap();
                assert!(is_test(&text, name), "{remedy}: {path} has no test {name}");
            }
            Run(_) | Start(_) | Bao(_) => {}
        }
    }
}

/// Whether a function of that name stands behind `#[test]` and other attributes.
fn is_test(text: &str, name: &str) -> bool {
    let declared = ["fn", "async fn"].map(|word| format!("\n{word} {name}("));
    let Some((before, _)) = declared.iter().find_map(|line| text.split_once(line)) else {
        return false;
    };
    let mut lines = before.lines().rev();
    let mut attributes = lines.by_ref().take_while(|line| line.starts_with("#["));
    attributes.any(|line| line == "#[test]" || line.starts_with("#[tokio::test"))
}

#[test]
fn a_function_that_is_no_test_proves_nothing() {
    let text = "\n#[test]\n#[cfg(x)]\nfn proves() {}\n\nfn helps() {}\n// fn told()\n";
    assert!(is_test(text, "proves"));
    for name in ["helps", "told", "absent", "prove"] {
        assert!(!is_test(text, name), "{name}");
    }
}

#[test]
fn an_operator_of_openbao_walks_the_list() {
    let Some(bao) = OpenBao::start_or_skip(Mode::Durable) else {
        return;
    };
    bao.enable_transit("transit");
    let operator = Operator::new();
    let server = Setup::new(&operator.path("data")).shards(1).start();
    let environment = format!(
        "export BAO_ADDR={} BAO_TOKEN={} UNSEAL_KEY={} PATH=\"{}:$PATH\"\n",
        bao.url(),
        bao.root_token(),
        bao.unseal_key(),
        bao.program().parent().unwrap().display(),
    );
    let mut faults = Vec::new();
    for (remedy, proof) in REMEDIES {
        if let Bao(script) = proof {
            let ended = operator.shell(&server, &format!("{environment}{script}"));
            if ended.code != 0 {
                faults.push(format!("{remedy}: {}{}", ended.out, ended.err));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Doctor names log lines to search for.
#[test]
fn lines_that_doctor_searches_for_are_logged() {
    let words = sources::log_lines(&root().join("tools/src/doctor"));
    assert!(words.len() > 4, "{words:?}");
    let logged = all_text(&root().join("engine/server/src")).to_lowercase();
    for word in words {
        let is_logged = logged.contains(&word.to_lowercase());
        assert!(is_logged, "no line of the server's has {word:?}");
    }
}

#[test]
fn a_shell_walks_the_list() {
    let operator = Operator::new();
    let setup = Setup::new(&operator.path("data")).shards(2);
    let server = setup.start();
    let shell = |script: &str| operator.shell(&server, script);
    shell(
        "head -c 70000 /dev/zero > big; echo hello > msg
         keyway keyspace list prod || keyway keyspace create prod
         keyway key generate prod/alice --alg ed25519
         keyway key generate prod/mac --alg hmac-sha256
         keyway key generate prod/aead --alg aes-256-gcm
         keyway key generate prod/master --alg hkdf-sha256
         keyway key generate prod/exportable --alg ed25519 --exportable
         openssl genpkey -algorithm ed25519 -out key.pem
         openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out p256.pem
         keyway key import prod/p256 --file p256.pem
         keyway public prod/p256 --out p256.pub",
    )
    .done();
    let mut faults = Vec::new();
    for (remedy, proof) in REMEDIES {
        if let Run(script) = proof {
            let ended = shell(&format!("rm -rf FILE NEW COPY DIGEST\n{script}"));
            if ended.code != 0 {
                faults.push(format!("{remedy}: {}{}", ended.out, ended.err));
            }
        }
    }
    server.stop();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn a_server_starts_with_the_arguments_of_its_remedies() {
    for (remedy, proof) in REMEDIES {
        if let Start(words) = proof {
            let folder = tempfile::tempdir().unwrap();
            let mut setup = Setup::new(folder.path()).shards(1);
            for word in *words {
                setup = setup.flag(word);
            }
            assert!(!setup.start().log().is_empty(), "{remedy}");
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Returns a file's text, or that of all files in a folder.
fn all_text(path: &Path) -> String {
    if !path.is_dir() {
        return std::fs::read_to_string(path).unwrap();
    }
    let entries = std::fs::read_dir(path).unwrap();
    entries
        .map(|entry| all_text(&entry.unwrap().path()))
        .collect()
}
