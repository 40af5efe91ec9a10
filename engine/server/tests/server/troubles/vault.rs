//! OpenBao: its answers, programs in front of it, and the credentials for it.

use std::cell::RefCell;
use std::path::Path;

use keyway_testkit::fault_proxy::{Fault, FaultProxy};
use keyway_testkit::openbao::{Mode, OpenBao};
use serde_json::json;

use super::{Shop, matrix};
use crate::containers::is_root;

const POLICY: &str = "keyway";
const KEY: &str = "keyway";

fn secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    let next = path.with_extension("next");
    std::fs::write(&next, text).unwrap();
    std::fs::set_permissions(&next, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(next, path).unwrap();
}

fn prepared(mode: Mode) -> Option<OpenBao> {
    let bao = OpenBao::start_or_skip(mode)?;
    bao.enable_transit("transit");
    let key = json!({
        "type": "aes256-gcm96", "derived": true, "exportable": true, "allow_plaintext_backup": true,
    });
    bao.write(&format!("transit/keys/{KEY}"), &key);
    bao.write_key_policy(POLICY, "transit", KEY);
    Some(bao)
}

fn token(bao: &OpenBao) -> String {
    bao.token_for(&[POLICY], &json!({ "period": "1h" }))
}

/// An OpenBao with a server of its own and a proxy in between.
struct Lane {
    bao: OpenBao,
    proxy: FaultProxy,
    dir: tempfile::TempDir,
    shop: Shop,
}

impl Lane {
    fn open() -> Option<Lane> {
        let bao = prepared(Mode::Durable)?;
        let dir = tempfile::tempdir().unwrap();
        let token_file = dir.path().join("token");
        secret(&token_file, &token(&bao));
        let proxy = FaultProxy::start(format!("127.0.0.1:{}", bao.port()).parse().unwrap());
        let table = format!(
            "address = \"http://{}\"\nkey = {KEY:?}\nrequest_ms_max = 1000\nconnect_ms_max = 500\n\
             auth = {{ method = \"token\", token_file = {token_file:?} }}",
            proxy.address()
        );
        let shop = Shop::open("vault", dir.path(), &table, &[]);
        Some(Lane {
            bao,
            proxy,
            dir,
            shop,
        })
    }

    fn suffer_from_answers(&mut self, faults: &[(&'static str, Fault)]) {
        let (shop, proxy) = (&mut self.shop, &self.proxy);
        for (trouble, fault) in faults {
            shop.suffer(trouble, || proxy.set(*fault), || proxy.set(Fault::Pass));
        }
    }

    fn suffer_from_the_seal(&mut self) {
        let bao = RefCell::new(&mut self.bao);
        self.shop.suffer(
            "sealed",
            || bao.borrow().seal(),
            || bao.borrow_mut().unseal(),
        );
    }

    fn suffer_from_policies(&mut self) {
        let (bao, shop) = (&self.bao, &mut self.shop);
        let token_file = self.dir.path().join("token");
        shop.suffer(
            "the policy is removed",
            || bao.remove_policy(POLICY),
            || bao.write_key_policy(POLICY, "transit", KEY),
        );
        shop.suffer(
            "our token is revoked; later another is in its file",
            || {
                let token = std::fs::read_to_string(&token_file).unwrap();
                bao.write("auth/token/revoke", &json!({ "token": token }));
            },
            || secret(&token_file, &token(bao)),
        );
        // The server asks for its token's details at the login, and then renews it only.
        shop.suffer(
            "our token has no use left (`num_uses`); later another is in its file",
            || {
                let options = json!({ "ttl": "1h", "num_uses": 2 });
                secret(&token_file, &bao.token_for(&[POLICY], &options));
            },
            || secret(&token_file, &token(bao)),
        );
    }

    fn suffer_from_versions(&mut self) {
        let (bao, shop) = (&self.bao, &mut self.shop);
        let path = |end: &str| format!("transit/keys/{KEY}/{end}");
        shop.suffer(
            "the transit key is soft-deleted",
            || bao.delete(&path("soft-delete")),
            || drop(bao.write(&path("soft-delete-restore"), &json!({}))),
        );
        bao.write(&path("rotate"), &json!({}));
        let set = |version: u32| {
            let body = json!({ "min_decryption_version": version });
            bao.write(&path("config"), &body);
        };
        shop.suffer(
            "`min_decryption_version` is raised above the DEK's",
            || set(2),
            || set(1),
        );
    }

    fn suffer_from_keys(&mut self) {
        let (bao, shop) = (&self.bao, &mut self.shop);
        let backup = bao.read(&format!("transit/backup/{KEY}")).unwrap();
        let backup = backup["data"]["backup"].as_str().unwrap();
        let remove = || {
            let config = format!("transit/keys/{KEY}/config");
            bao.write(&config, &json!({ "deletion_allowed": true }));
            bao.delete(&format!("transit/keys/{KEY}"));
        };
        let restore = || {
            let path = format!("transit/restore/{KEY}");
            bao.write(&path, &json!({ "backup": backup }));
        };
        shop.suffer(
            "the transit key is deleted; later restored",
            remove,
            restore,
        );
        shop.suffer(
            "the transit key is recreated; later the old one restored",
            || {
                remove();
                bao.create_key(KEY, true);
            },
            || {
                remove();
                restore();
            },
        );
        let remount = |from: &str, to: &str| {
            bao.write("sys/remount", &json!({ "from": from, "to": to }));
        };
        shop.suffer(
            "the mount is moved",
            || remount("transit", "elsewhere"),
            || remount("elsewhere", "transit"),
        );
    }
}

/// The faults take the time of leases, not of processors: each lane has some of them, and all lanes run concurrently.
#[test]
fn at_openbao() {
    let lanes: [fn(&mut Lane); 6] = [
        Lane::suffer_from_the_seal,
        |lane| {
            lane.suffer_from_answers(&[
                ("no server at the address", Fault::Down),
                ("it hangs", Fault::Hang),
                ("it answers 503", Fault::Error),
            ]);
        },
        |lane| {
            lane.suffer_from_answers(&[
                ("throttled (429)", Fault::Throttle { retry_after_s: 1 }),
                ("a gateway answers 403 in HTML", Fault::Page(403)),
                ("a portal answers 200 in HTML", Fault::Page(200)),
            ]);
        },
        Lane::suffer_from_policies,
        Lane::suffer_from_versions,
        Lane::suffer_from_keys,
    ];
    let rows = std::thread::scope(|scope| {
        let lanes = lanes.map(|suffer| {
            scope.spawn(move || {
                let mut lane = Lane::open()?;
                suffer(&mut lane);
                Some(lane.shop.rows)
            })
        });
        let rows = lanes.map(|lane| lane.join().unwrap());
        rows.into_iter().collect::<Option<Vec<_>>>()
    });
    if let Some(rows) = rows {
        let rows: Vec<_> = rows.into_iter().flatten().collect();
        matrix::check("vault", &rows);
    }
}

#[test]
fn at_openbao_with_tls_and_a_login() {
    let Some(bao) = prepared(Mode::Tls) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (secret_id, ca) = (dir.path().join("secret-id"), dir.path().join("ca.pem"));
    let (role_id, first) = bao.approle("keyway", &[POLICY], &json!({ "token_ttl": "4s" }));
    secret(&secret_id, &first);
    std::fs::copy(bao.ca_file(), &ca).unwrap();
    let table = format!(
        "address = {:?}\nkey = {KEY:?}\nca_file = {ca:?}\nrequest_ms_max = 1000\nconnect_ms_max = 500\n\
         auth = {{ method = \"approle\", role_id = {role_id:?}, secret_id_file = {secret_id:?} }}",
        bao.url()
    );
    let mut shop = Shop::open("vault", dir.path(), &table, &[]);
    let bao = RefCell::new(bao);
    shop.suffer(
        "its certificate has another CA; later `ca_file` has it",
        || bao.borrow_mut().renew_certificates(),
        || {
            std::fs::copy(bao.borrow().ca_file(), &ca).unwrap();
        },
    );
    shop.suffer(
        "its certificate has ended; later it has another",
        || bao.borrow_mut().let_certificate_end(),
        || {
            bao.borrow_mut().renew_certificates();
            std::fs::copy(bao.borrow().ca_file(), &ca).unwrap();
        },
    );
    shop.suffer(
        "the secret id is wrong; later another is in its file",
        || {
            secret(&secret_id, "3c2d5f2a-wrong");
            // The tokens of its logins.
            let logins = "sys/leases/revoke-prefix/auth/approle/login";
            bao.borrow().write(logins, &json!({ "sync": true }));
        },
        || secret(&secret_id, &bao.borrow().secret_id("keyway")),
    );
    matrix::check("vault over TLS", &shop.rows);
}

#[test]
fn at_openbao_with_a_client_certificate() {
    let Some(bao) = prepared(Mode::Tls) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    bao.enable_auth("cert");
    let ca = std::fs::read_to_string(bao.ca_file()).unwrap();
    let role = json!({ "certificate": ca, "token_policies": [POLICY], "token_ttl": "1h" });
    bao.write("auth/cert/certs/keyway", &role);
    let table = format!(
        "address = {:?}\nkey = {KEY:?}\nca_file = {:?}\nrequest_ms_max = 1000\nconnect_ms_max = 500\n\
         auth = {{ method = \"cert\", cert_file = {:?}, key_file = {:?} }}",
        bao.url(),
        bao.ca_file(),
        bao.client_cert_file(),
        bao.client_key_file(),
    );
    let mut shop = Shop::open("vault", dir.path(), &table, &[]);
    shop.suffer(
        "our client certificate has ended; later another is in its file",
        || {
            bao.let_client_certificate_end();
            // The tokens of its logins.
            let logins = "sys/leases/revoke-prefix/auth/cert/login";
            bao.write(logins, &json!({ "sync": true }));
        },
        || bao.renew_client_certificate("keyway"),
    );
    matrix::check("vault with a certificate", &shop.rows);
}

/// Runs with a list of hosts and without name servers, which needs root.
#[test]
fn at_openbao_by_its_name() {
    if !is_root("a list of hosts") {
        return;
    }
    let Some(bao) = prepared(Mode::Durable) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let token_file = dir.path().join("token");
    secret(&token_file, &token(&bao));
    let upstream = format!("127.0.0.1:{}", bao.port());
    let proxy = FaultProxy::start(upstream.parse().unwrap());
    let table = format!(
        "address = \"http://localhost:{}\"\nkey = {KEY:?}\nrequest_ms_max = 1000\n\
         connect_ms_max = 500\nauth = {{ method = \"token\", token_file = {token_file:?} }}",
        proxy.address().port()
    );
    let (hosts, order) = (dir.path().join("hosts"), dir.path().join("nsswitch.conf"));
    let known = "127.0.0.1 localhost\n";
    std::fs::write(&hosts, known).unwrap();
    std::fs::write(&order, "hosts: files\n").unwrap();
    let script = format!(
        "mount --make-rprivate / && mount --bind {} /etc/hosts && \
         mount --bind {} /etc/nsswitch.conf && exec \"$@\"",
        hosts.display(),
        order.display()
    );
    let within = ["unshare", "--mount", "sh", "-c", &script, "sh"];
    let mut shop = Shop::open_within(&within, None, "vault", dir.path(), &table, &[]);
    shop.suffer(
        "its name has no address",
        || {
            std::fs::write(&hosts, "127.0.0.1 elsewhere\n").unwrap();
            // Established connections need no name.
            proxy.set(Fault::Down);
        },
        || {
            std::fs::write(&hosts, known).unwrap();
            proxy.set(Fault::Pass);
        },
    );
    matrix::check("vault by name", &shop.rows);
}
