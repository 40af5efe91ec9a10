//! AWS KMS and IAM as moto plays them: real signatures and policies if asked for, and no disabled keys.
//!
//! What moto does not do, although AWS does: it goes on encrypting and decrypting under a key that is disabled or
//! pending deletion. [`Microburst`](crate::microburst::Microburst) in front of it provokes such answers.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http;
use crate::process::{Process, free_port};
use crate::tools;

/// Where moto's keys are.
pub const REGION: &str = "eu-central-1";
/// The account of everything in moto.
pub const ACCOUNT: &str = "123456789012";

/// A moto server, killed when dropped.
#[derive(Debug)]
pub struct Moto {
    process: Process,
    port: u16,
    files: TempDir,
}

/// A key at moto's KMS.
#[derive(Clone, Debug)]
pub struct MotoKey {
    /// Its id.
    pub id: String,
    /// Its ARN.
    pub arn: String,
}

impl Moto {
    /// Starts a server that believes every signature. `None`: moto is not installed, and the test should return.
    pub fn start() -> Option<Self> {
        let program = tools::path_or_skip("moto", &["moto/bin/moto_server"])?;
        let port = free_port();
        let mut command = Command::new(program);
        command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        // It logs every request.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Process::start("moto_server", &mut command);
        process.wait_until(|| http::request("GET", port, "/moto-api/", &[], "").is_ok());
        let files = tempfile::tempdir().unwrap();
        Some(Self {
            process,
            port,
            files,
        })
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL.
    pub fn endpoint_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its process, to pause or kill it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// From now on every request needs a known access key, its signature, and a policy that allows it; those of this
    /// type fail too.
    pub fn check_requests(&self) {
        self.post("/moto-api/reset-auth", &[], "0");
    }

    /// Makes a symmetric encryption key.
    pub fn create_key(&self) -> MotoKey {
        let answer = self.kms("CreateKey", &json!({ "KeyUsage": "ENCRYPT_DECRYPT" }));
        let text = |name: &str| answer["KeyMetadata"][name].as_str().unwrap().to_owned();
        MotoKey {
            id: text("KeyId"),
            arn: text("Arn"),
        }
    }

    /// Makes an alias, `alias/NAME`, of a key, or points it at another one.
    pub fn point_alias(&self, alias: &str, key: &MotoKey) {
        let known = self.kms("ListAliases", &json!({}));
        let aliases = known["Aliases"].as_array().unwrap();
        let exists = aliases.iter().any(|known| known["AliasName"] == alias);
        let operation = if exists { "UpdateAlias" } else { "CreateAlias" };
        self.kms(
            operation,
            &json!({ "AliasName": alias, "TargetKeyId": key.id }),
        );
    }

    /// Disables a key, which DescribeKey then shows; nothing else in moto minds.
    pub fn disable_key(&self, key: &MotoKey) {
        self.kms("DisableKey", &json!({ "KeyId": key.id }));
    }

    /// One call of KMS's API.
    ///
    /// # Panics
    /// If it is refused.
    pub fn kms(&self, operation: &str, body: &Value) -> Value {
        let target = format!("TrentService.{operation}");
        let headers = [
            ("Authorization", signed_for("kms", REGION)),
            ("Content-Type", "application/x-amz-json-1.1".to_owned()),
            ("X-Amz-Target", target),
        ];
        let answer = self.post("/", &headers, &body.to_string());
        if answer.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&answer).unwrap()
    }

    /// Makes an IAM user who may do `actions` (such as `kms:Decrypt`) with everything, and returns a credentials file
    /// with the user's key in its profile `default`.
    pub fn create_user(&self, user: &str, actions: &[&str]) -> PathBuf {
        self.iam(&format!("Action=CreateUser&UserName={user}"));
        if !actions.is_empty() {
            let statement = json!({ "Effect": "Allow", "Action": actions, "Resource": "*" });
            let policy = json!({ "Version": "2012-10-17", "Statement": [statement] }).to_string();
            let policy = percent_encoded(&policy);
            self.iam(&format!(
                "Action=PutUserPolicy&UserName={user}&PolicyName=all&PolicyDocument={policy}"
            ));
        }
        let answer = self.iam(&format!("Action=CreateAccessKey&UserName={user}"));
        let id = element(&answer, "AccessKeyId");
        let secret = element(&answer, "SecretAccessKey");
        self.write_credentials(user, id, secret)
    }

    /// Writes a credentials file with this key, whether or not it exists.
    pub fn write_credentials(&self, name: &str, id: &str, secret: &str) -> PathBuf {
        let path = self.files.path().join(name);
        let text =
            format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
        std::fs::write(&path, text).unwrap();
        path
    }

    fn iam(&self, query: &str) -> String {
        let form = "application/x-www-form-urlencoded".to_owned();
        let headers = [
            ("Authorization", signed_for("iam", "us-east-1")),
            ("Content-Type", form),
        ];
        self.post("/", &headers, &format!("Version=2010-05-08&{query}"))
    }

    fn post(&self, path: &str, headers: &[(&str, String)], body: &str) -> String {
        let headers: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let answer = http::request("POST", self.port, path, &headers, body).unwrap();
        assert_eq!(answer.status, 200, "moto refuses: {}", answer.body);
        answer.body
    }
}

/// A header from which moto takes service and region. The signature is none.
fn signed_for(service: &str, region: &str) -> String {
    let scope = format!("admin/20260101/{region}/{service}/aws4_request");
    format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=none")
}

fn element<'a>(xml: &'a str, name: &str) -> &'a str {
    let (_, rest) = xml.split_once(&format!("<{name}>")).unwrap();
    rest.split_once("</").unwrap().0
}

fn percent_encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
