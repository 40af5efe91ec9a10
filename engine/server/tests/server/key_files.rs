//! Key files given to `keyway import --dir` under every name, and alone to `keyway key import --file`.
//!
//! The fault: a name that ends in `.pem` switched the detection off. DER and JWKs under it were refused, PEM in quotation
//! marks got no remedy, and a key beside a long chain was too long.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use crate::command_line::operator::Operator;
use crate::common::Setup;

/// Makes files of one key. Those whose name begins with `no-` are refused, and the message has a remedy.
const FILES: &str = r#"mkdir files
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out files/pem
    openssl pkcs8 -topk8 -nocrypt -in files/pem -outform DER > files/der
    openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa
    openssl rsa -in rsa -outform MSBLOB > files/msblob
    openssl rsa -in rsa -outform PVK -pvk-none > files/pvk
    openssl req -x509 -new -key files/pem -subj /CN=x -days 9 -out certificate
    (for i in $(seq 40); do cat certificate; done; cat files/pem) > files/long-chain
    (head -c 20000 /dev/zero | tr '\0' x; echo; cat files/pem) > files/long-text
    printf '{"kty":"OKP","crv":"Ed25519","d":"%s"}' "$(head -c 32 /dev/urandom | basenc --base64url -w 0)" > files/jwk
    (echo '"'; cat files/pem; echo '"') > files/lines-in-quotes
    printf '"%s"' "$(cat files/pem)" > files/no-quotes
    printf '{"private_key":"%s"}' "$(awk '{printf "%s\\n", $0}' files/pem)" > files/no-json
    printf "KEY='%s'\n" "$(cat files/pem)" > files/no-variable"#;

#[test]
fn a_file_is_what_it_is_under_every_name() {
    let operator = Operator::new();
    let server = Setup::new(&operator.path("data")).shards(1).start();
    let shell = |script: &str| operator.shell(&server, script);
    shell(FILES).done();
    let mut faults = Vec::new();
    let files = std::fs::read_dir(operator.path("files")).unwrap();
    for (number, file) in files.enumerate() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let alone = format!("keyway key import prod/alone-{number} --file files/{name}");
        let mut tried = vec![(alone, name.clone())];
        for end in ["pem", "key", "der", "jwk"] {
            let script = format!(
                "rm -rf dir; mkdir dir; cp files/{name} dir/k{number}-{end}.{end}
                 keyway import prod --dir dir"
            );
            tried.push((script, format!("{name} as .{end}")));
        }
        for (script, what) in tried {
            let ended = shell(&script);
            let is_as_wanted = match name.starts_with("no-") {
                true => ended.code != 0 && ended.err.contains("sed -E -e"),
                false => ended.code == 0,
            };
            if !is_as_wanted {
                faults.push(format!("{what}: {}{}", ended.out, ended.err));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    // Nor is one of two keys in a long file taken.
    let two = shell("cat files/long-chain files/pem > two; keyway key import prod/two --file two");
    two.refused(1, &["more than one private key"]);
}
