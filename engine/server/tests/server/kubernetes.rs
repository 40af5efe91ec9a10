//! Credentials in Kubernetes secrets, at a live server: each kind of file is a link to a file of root that the pod's group
//! may read, and the kubelet replaces all of them with one rename of the link `..data`. The server reads the new ones
//! without a restart. The passphrase, which is read at the start, is in [`crate::containers`].

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use keyway_client::{Status, blocking::Client};
use keyway_testkit::fault_proxy::FaultProxy;
use keyway_testkit::openbao::{Mode, OpenBao};
use serde_json::json;

use crate::common::{Server, Setup, WITHIN, wait_until};
use crate::containers::{as_user, is_root, open_dir};
use crate::logins::{POLICY, create, is_served, key};

/// The pod's user and group: an account that the machine does not have.
const USER: u32 = 12_345;
/// So short that its renewal is near.
const LEASE: [(&str, &str); 1] = [("dek_lease_ms", "4000")];

/// A secret as the kubelet mounts it, with `fsGroup` and `defaultMode: 0440`.
struct Secret {
    dir: PathBuf,
    versions: std::cell::Cell<u32>,
}

impl Secret {
    fn mount(dir: PathBuf, files: &[(&str, impl AsRef<str>)]) -> Secret {
        std::fs::create_dir(&dir).unwrap();
        chown(&dir, Some(0), Some(USER)).unwrap();
        std::fs::set_permissions(&dir, Permissions::from_mode(0o3777)).unwrap();
        let versions = std::cell::Cell::new(0);
        let secret = Secret { dir, versions };
        secret.publish(files);
        for (name, _) in files {
            symlink(format!("..data/{name}"), secret.path(name)).unwrap();
        }
        secret
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Replaces all files, as the kubelet does when the secret has changed.
    fn publish(&self, files: &[(&str, impl AsRef<str>)]) {
        self.versions.set(self.versions.get() + 1);
        let version = format!("..2026_11_30_{}", self.versions.get());
        let dir = self.dir.join(&version);
        std::fs::create_dir(&dir).unwrap();
        std::fs::set_permissions(&dir, Permissions::from_mode(0o2755)).unwrap();
        for (name, text) in files {
            let file = dir.join(name);
            std::fs::write(&file, text.as_ref()).unwrap();
            std::fs::set_permissions(&file, Permissions::from_mode(0o440)).unwrap();
            chown(&file, Some(0), Some(USER)).unwrap();
        }
        let former = std::fs::read_link(self.dir.join("..data"));
        symlink(&version, self.dir.join("..data_tmp")).unwrap();
        std::fs::rename(self.dir.join("..data_tmp"), self.dir.join("..data")).unwrap();
        // The kubelet leaves nothing behind.
        if let Ok(former) = former {
            std::fs::remove_dir_all(self.dir.join(former)).unwrap();
        }
    }
}

/// Starts a server as the pod's user, over a volume that was given to its group. `table`: that of its only KMS.
fn pod(dir: &Path, table: &str, env: &[(&str, PathBuf)]) -> Server {
    let volume = dir.join("volume");
    std::fs::create_dir(&volume).unwrap();
    chown(&volume, Some(0), Some(USER)).unwrap();
    std::fs::set_permissions(&volume, Permissions::from_mode(0o2775)).unwrap();
    let config_file = dir.join("keywayd.toml");
    std::fs::write(&config_file, format!("[kms.main]\n{table}\n")).unwrap();
    let setup = Setup::new(&volume.join("data")).shards(1);
    let setup = setup.flag("--config").flag(config_file.to_str().unwrap());
    let inner = setup.flag("--allow-unlocked-memory");
    let command = inner.command();
    let user = as_user(USER);
    let mut outer = Command::new(&user[0]);
    outer
        .args(&user[1..])
        .arg(command.get_program())
        .args(command.get_args())
        .envs(env.iter().cloned())
        .stdin(std::process::Stdio::null());
    inner.start_as(outer)
}

fn wait_for_service(client: &Client) {
    wait_until("service", WITHIN, || is_served(client, 0));
}

fn wait_for_the_end_of_service(client: &Client) {
    wait_until("the end of service", WITHIN, || {
        let refused = client.mac(&key(0), b"message").err();
        refused.is_some_and(|error| error.status() == Some(Status::NeedsUnlock))
    });
}

fn with_a_key(mode: Mode) -> Option<OpenBao> {
    let bao = OpenBao::start_or_skip(mode)?;
    bao.enable_transit("transit");
    bao.create_key("keyway", true);
    bao.write_key_policy(POLICY, "transit", "keyway");
    Some(bao)
}

#[test]
fn a_token_is_replaced_with_its_secret_before_the_first_one_ends() {
    if !is_root("being another user") {
        return;
    }
    let Some(bao) = with_a_key(Mode::InMemory) else {
        return;
    };
    let dir = open_dir();
    let token = || bao.token_for(&[POLICY], &json!({ "period": "1h" }));
    let first = token();
    let secret = Secret::mount(dir.path().join("secret"), &[("token", &first)]);
    // A refused call reads the file as well: the proxy sees that there was none.
    let proxy = FaultProxy::start(([127, 0, 0, 1], bao.port()).into());
    let table = format!(
        "provider = \"vault\"\naddress = \"http://{}\"\nkey = \"keyway\"\n\
         auth = {{ method = \"token\", token_file = {:?} }}",
        proxy.address(),
        secret.path("token"),
    );
    let server = pod(dir.path(), &table, &[]);
    let client = server.client();
    create(&client, 1, &LEASE);
    secret.publish(&[("token", &token())]);
    server.wait_for_log("another token is in its file and is used now");
    bao.write("auth/token/revoke", &json!({ "token": first }));
    let unwraps = |server: &Server| {
        let ok = "keyway_kms_calls_total{kms=\"main\",keyspace=\"shop-0\",operation=\"unwrap\",outcome=\"ok\"}";
        server.metric(ok).unwrap_or(0.0)
    };
    let before = unwraps(&server);
    wait_until("unwraps with the new token", WITHIN, || {
        assert!(is_served(&client, 0));
        unwraps(&server) >= before + 2.0
    });
    let calls = proxy.calls();
    let refused = calls.iter().filter(|call| call.status == Some(403));
    assert_eq!(refused.count(), 0, "{calls:?}");
}

#[test]
fn a_secret_id_is_replaced_with_its_secret() {
    if !is_root("being another user") {
        return;
    }
    let Some(bao) = with_a_key(Mode::InMemory) else {
        return;
    };
    let dir = open_dir();
    let (role_id, secret_id) = bao.approle("keyway", &[POLICY], &json!({}));
    let secret = Secret::mount(dir.path().join("secret"), &[("secret-id", &secret_id)]);
    let table = format!(
        "provider = \"vault\"\naddress = {:?}\nkey = \"keyway\"\n\
         auth = {{ method = \"approle\", role_id = {role_id:?}, secret_id_file = {:?} }}",
        bao.url(),
        secret.path("secret-id"),
    );
    let server = pod(dir.path(), &table, &[]);
    let client = server.client();
    create(&client, 1, &LEASE);
    secret.publish(&[("secret-id", "3c2d5f2a-wrong")]);
    let logins = "sys/leases/revoke-prefix/auth/approle/login";
    bao.write(logins, &json!({ "sync": true }));
    wait_for_the_end_of_service(&client);
    server.wait_for_log("cause=\"login_refused\"");
    // A refused login is repeated after a minute, and after a second refusal after 16: only the changed file brings the
    // third one forward.
    secret.publish(&[("secret-id", "3c2d5f2a-other")]);
    let refused = "keyway_kms_calls_total{kms=\"main\",keyspace=\"\",operation=\"login\",outcome=\"credential\"}";
    server.wait_for_metric(refused, |refused| refused >= 2.0);
    secret.publish(&[("secret-id", &bao.secret_id("keyway"))]);
    wait_for_service(&client);
}

#[test]
fn a_ca_and_a_client_certificate_with_its_key_are_replaced_with_their_secret() {
    if !is_root("being another user") {
        return;
    }
    let Some(mut bao) = with_a_key(Mode::Tls) else {
        return;
    };
    bao.enable_cert_auth(&[POLICY]);
    let dir = open_dir();
    let files = |bao: &OpenBao| {
        let files = [
            ("ca.crt", bao.ca_file()),
            ("tls.crt", bao.client_cert_file()),
            ("tls.key", bao.client_key_file()),
        ];
        files.map(|(name, path)| (name, std::fs::read_to_string(path).unwrap()))
    };
    let secret = Secret::mount(dir.path().join("secret"), &files(&bao));
    let table = format!(
        "provider = \"vault\"\naddress = {:?}\nkey = \"keyway\"\nca_file = {:?}\n\
         auth = {{ method = \"cert\", cert_file = {:?}, key_file = {:?} }}",
        bao.url(),
        secret.path("ca.crt"),
        secret.path("tls.crt"),
        secret.path("tls.key"),
    );
    let server = pod(dir.path(), &table, &[]);
    let client = server.client();
    create(&client, 1, &LEASE);
    bao.renew_certificates();
    let ca = std::fs::read_to_string(bao.ca_file()).unwrap();
    let role = json!({ "certificate": ca, "token_policies": [POLICY] });
    bao.write("auth/cert/certs/keyway", &role);
    let logins = "sys/leases/revoke-prefix/auth/cert/login";
    bao.write(logins, &json!({ "sync": true }));
    wait_for_the_end_of_service(&client);
    server.wait_for_log("cause=\"server_certificate_untrusted\"");
    secret.publish(&files(&bao));
    wait_for_service(&client);
}

#[test]
fn a_pin_is_replaced_with_its_secret() {
    if !is_root("being another user") {
        return;
    }
    let Some(hsm) = keyway_testkit::softhsm::start_or_skip() else {
        return;
    };
    hsm.create_aes_key("keyway");
    let dir = open_dir();
    // The module of SoftHSM2 and its tokens are the pod's.
    let given = |path: &Path| {
        let user = format!("{USER}:{USER}");
        let given = Command::new("chown").args(["-R", &user]).arg(path).status();
        assert!(given.unwrap().success());
    };
    given(hsm.directory());
    let secret = Secret::mount(dir.path().join("secret"), &[("pin", hsm.pin())]);
    let table = format!(
        "provider = \"pkcs11\"\nmodule = {:?}\ntoken = {:?}\nkey = \"keyway\"\npin_file = {:?}",
        hsm.module(),
        hsm.token_label(),
        secret.path("pin"),
    );
    let server = pod(dir.path(), &table, &hsm.env());
    let client = server.client();
    create(&client, 1, &LEASE);
    hsm.change_pin(hsm.pin(), "8765-other");
    given(hsm.directory());
    // The login is lost with it.
    let elsewhere = hsm.directory().join("elsewhere");
    std::fs::rename(hsm.tokens(), &elsewhere).unwrap();
    wait_for_the_end_of_service(&client);
    std::fs::rename(&elsewhere, hsm.tokens()).unwrap();
    server.wait_for_log("cause=\"wrong_secret\"");
    secret.publish(&[("pin", "8765-other")]);
    wait_for_service(&client);
}

/// A token service that exchanges any web identity token for credentials, and records each.
#[cfg(feature = "aws")]
struct TokenService {
    address: std::net::SocketAddr,
    seen: std::sync::Arc<std::sync::Mutex<Vec<String>>>,
}

#[cfg(feature = "aws")]
impl TokenService {
    const ANSWER: &str = "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
        <AccessKeyId>ASIAKEYWAY</AccessKeyId><SecretAccessKey>none</SecretAccessKey>\
        <SessionToken>none</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>\
        </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>";

    fn start() -> TokenService {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = std::sync::Arc::<std::sync::Mutex<Vec<String>>>::default();
        let tokens = std::sync::Arc::clone(&seen);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                if let Some(token) = TokenService::answer(&mut stream) {
                    tokens.lock().unwrap().push(token);
                }
            }
        });
        TokenService { address, seen }
    }

    /// Answers one request. Returns its token.
    fn answer(stream: &mut std::net::TcpStream) -> Option<String> {
        use std::io::{Read, Write};
        let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            // The form is short, and its last field need not be the token: it ends with the length of the head.
            let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
            let head = head.to_ascii_lowercase();
            let len = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            if len.is_some_and(|len| len.parse() == Ok(body.len())) {
                let answer = TokenService::ANSWER;
                let len = answer.len();
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: {len}\r\n\
                     Connection: close\r\n\r\n{answer}"
                )
                .ok()?;
                let fields = body.split('&');
                let mut fields = fields.filter_map(|field| field.strip_prefix("WebIdentityToken="));
                return fields.next().map(str::to_owned);
            }
            let read = stream.read(&mut chunk).ok().filter(|read| *read > 0)?;
            bytes.extend_from_slice(&chunk[..read]);
        }
    }

    fn has_seen(&self, token: &str) -> bool {
        self.seen.lock().unwrap().iter().any(|seen| seen == token)
    }
}

/// EKS replaces the token of a service account long before it ends.
#[cfg(feature = "aws")]
#[test]
fn a_web_identity_token_is_replaced_with_its_volume() {
    if !is_root("being another user") {
        return;
    }
    let Some(moto) = keyway_testkit::moto::Moto::start() else {
        return;
    };
    let dir = open_dir();
    let secret = Secret::mount(dir.path().join("secret"), &[("token", "first")]);
    let service = TokenService::start();
    let table = format!(
        "provider = \"aws\"\nkey_id = {:?}\nregion = {:?}\nendpoint_url = {:?}",
        moto.create_key().arn,
        keyway_testkit::moto::REGION,
        moto.endpoint_url(),
    );
    let role = "arn:aws:iam::123456789012:role/keyway";
    let env = [
        ("HOME", dir.path().to_owned()),
        ("AWS_ROLE_ARN", role.into()),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", secret.path("token")),
        (
            "AWS_ENDPOINT_URL_STS",
            format!("http://{}", service.address).into(),
        ),
    ];
    let server = pod(dir.path(), &table, &env);
    let client = server.client();
    create(&client, 1, &LEASE);
    assert!(service.has_seen("first"));
    secret.publish(&[("token", "second")]);
    wait_until("the use of the new token", WITHIN, || {
        assert!(is_served(&client, 0));
        service.has_seen("second")
    });
}
