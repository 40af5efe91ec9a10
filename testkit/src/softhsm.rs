//! A SoftHSM2 token of a test's own, and the child process that a test needs to use it.
//!
//! SoftHSM2 finds its tokens by `SOFTHSM2_CONF`, which it reads once in a process. A program under test is started with
//! [`SoftHsm::env`]. A test that loads the module itself runs in a child of its own: [`in_child`].

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::child::{self, text};
use crate::tools::path_or_skip;

const TOKEN_LABEL: &str = "keyway-test";
const PIN: &str = "1234-user";
const SO_PIN: &str = "5678-officer";

const MODULES: [&str; 4] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
];
/// OpenSC's module that passes every call on to another and writes it down.
const SPIES: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/pkcs11-spy.so",
    "/usr/lib/aarch64-linux-gnu/pkcs11-spy.so",
    "/usr/lib64/pkcs11-spy.so",
];

/// A token with a user PIN and no keys; its files are removed when it is dropped.
#[derive(Debug)]
pub struct SoftHsm {
    /// `None` in a child: the parent removes the files.
    _owned: Option<TempDir>,
    directory: PathBuf,
    module: PathBuf,
    spy: PathBuf,
    util: PathBuf,
    tool: PathBuf,
}

/// Makes a token. `None`: SoftHSM2 or OpenSC's tools are not installed, and the skip has been announced.
///
/// # Panics
/// In CI if they are missing; anywhere if they fail.
pub fn start_or_skip() -> Option<SoftHsm> {
    let owned = tempfile::tempdir().unwrap();
    let directory = owned.path().to_owned();
    let hsm = find_tools(directory, Some(owned))?;
    std::fs::create_dir(hsm.tokens()).unwrap();
    let config = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        hsm.tokens().display()
    );
    std::fs::write(hsm.config(), config).unwrap();
    hsm.add_token(TOKEN_LABEL);
    Some(hsm)
}

/// Runs the body of the test `name` in a process of its own, with a new token. `name` is the test's name as libtest
/// prints it: the child is this program again, told to run that test alone, and comes back here.
///
/// # Panics
/// If the child's test fails, or there is none of that name.
pub fn in_child(name: &str, body: impl FnOnce(&SoftHsm)) {
    if let Some(directory) = child::directory() {
        let hsm = find_tools(directory, None).expect("the parent has found them");
        body(&hsm);
        return child::done(&hsm.directory);
    }
    let Some(hsm) = start_or_skip() else { return };
    child::run(name, &hsm.directory, |command| {
        command.envs(hsm.env());
    });
}

fn find_tools(directory: PathBuf, owned: Option<TempDir>) -> Option<SoftHsm> {
    Some(SoftHsm {
        _owned: owned,
        directory,
        module: path_or_skip("SoftHSM2", &MODULES)?,
        spy: path_or_skip("OpenSC's pkcs11-spy", &SPIES)?,
        util: path_or_skip("softhsm2-util", &["/usr/bin/softhsm2-util"])?,
        tool: path_or_skip("pkcs11-tool", &["/usr/bin/pkcs11-tool"])?,
    })
}

impl SoftHsm {
    /// The variables that a program needs to find the token, and the spy its log.
    pub fn env(&self) -> [(&'static str, PathBuf); 5] {
        [
            ("SOFTHSM2_CONF", self.config()),
            ("PKCS11SPY", self.module.clone()),
            ("PKCS11SPY_OUTPUT", self.spy_log()),
            ("KEYWAY_TEST_MODULE", self.module.clone()),
            ("KEYWAY_TEST_FAULTS", self.faults()),
        ]
    }

    /// The PKCS#11 module.
    pub fn module(&self) -> &Path {
        &self.module
    }

    /// A module that writes every call to [`SoftHsm::spy_log`] and lets the real one do it.
    pub fn spy(&self) -> &Path {
        &self.spy
    }

    /// A module that does as the real one, but for what [`SoftHsm::set_faults`] says. It is compiled at the first call.
    pub fn faulty(&self) -> PathBuf {
        let module = self.directory.join("faults.so");
        if !module.exists() {
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/softhsm/faults.c");
            let mut compiler = Command::new("cc");
            compiler.args(["-shared", "-fPIC", "-O1", "-o"]);
            self.run(compiler.arg(&module).arg(source).arg("-ldl"));
        }
        module
    }

    /// What [`SoftHsm::faulty`] does wrong from now on, a line each: `flags 0x20000` adds to the token's flags,
    /// `C_Decrypt 0x101` is what a function returns, `C_Decrypt hang` lets it wait until the line is gone, and
    /// `C_Decrypt logout` ends the login before it says that there is none.
    pub fn set_faults(&self, lines: &str) {
        let next = self.directory.join("faults.next");
        std::fs::write(&next, lines).unwrap();
        std::fs::rename(next, self.faults()).unwrap();
    }

    fn faults(&self) -> PathBuf {
        self.directory.join("faults")
    }

    /// Changes the user PIN of the first token, as its owner would.
    pub fn change_pin(&self, from: &str, to: &str) {
        let mut command = self.logged_in(from);
        self.run(command.args(["--change-pin", "--new-pin", to]));
    }

    /// Where the spy writes. The file is not there before the spy is loaded; a test may put a pipe in its place first.
    pub fn spy_log(&self) -> PathBuf {
        self.directory.join("spy.log")
    }

    /// How often the spied-on program has called `function`, as in `C_Login`.
    pub fn calls(&self, function: &str) -> usize {
        let log = std::fs::read(self.spy_log()).unwrap();
        let log = String::from_utf8_lossy(&log);
        let calls = log.lines().filter_map(|line| line.split_once(": "));
        calls
            .filter(|(number, name)| *name == function && number.parse::<u32>().is_ok())
            .count()
    }

    /// The label of the token that was made first.
    pub fn token_label(&self) -> &'static str {
        TOKEN_LABEL
    }

    /// The user PIN of every token.
    pub fn pin(&self) -> &'static str {
        PIN
    }

    /// The security officer's PIN of every token.
    pub fn so_pin(&self) -> &'static str {
        SO_PIN
    }

    /// A directory for a test's own files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where SoftHSM2 keeps its tokens: a token is gone while this is somewhere else.
    pub fn tokens(&self) -> PathBuf {
        self.directory.join("tokens")
    }

    /// Makes another token, with the same PINs. Labels need not differ. A process that has loaded the module already
    /// does not see it.
    pub fn add_token(&self, label: &str) {
        self.run(Command::new(&self.util).args([
            "--init-token",
            "--free",
            "--label",
            label,
            "--so-pin",
            SO_PIN,
            "--pin",
            PIN,
        ]));
    }

    /// The serial numbers of all tokens, with their labels.
    pub fn serials(&self) -> Vec<(String, String)> {
        let listing = self.run(Command::new(&self.util).arg("--show-slots"));
        let value = |line: &str, name: &str| {
            let rest = line.trim().strip_prefix(name)?;
            Some(rest.trim_start_matches(':').trim().to_owned())
        };
        let mut serial = None;
        let mut serials = Vec::new();
        for line in listing.lines() {
            serial = value(line, "Serial number").or(serial);
            if let Some(label) = value(line, "Label").filter(|label| !label.is_empty()) {
                serials.push((serial.clone().expect("it stands before the label"), label));
            }
        }
        serials
    }

    /// Makes an AES-256 key on the first token, which never leaves it and wants a login.
    pub fn create_aes_key(&self, label: &str) {
        self.create_key(label, "AES:32", &["--sensitive", "--private"]);
    }

    /// Makes a secret key on the first token, of `pkcs11-tool`'s `kind`, as in `AES:16`, and with its flags for
    /// attributes. Without `--private` it can be used without a login.
    pub fn create_key(&self, label: &str, kind: &str, flags: &[&str]) {
        let mut command = self.logged_in(PIN);
        command.args(["--keygen", "--key-type", kind, "--label", label]);
        self.run(command.args(flags));
    }

    /// Removes a secret key from the first token.
    pub fn delete_key(&self, label: &str) {
        let arguments = ["--delete-object", "--type", "secrkey", "--label", label];
        self.run(self.logged_in(PIN).args(arguments));
    }

    /// Whether the first token says that a wrong PIN was given since the last right one (CKF_USER_PIN_COUNT_LOW).
    pub fn is_pin_count_low(&self) -> bool {
        self.run(
            Command::new(&self.tool)
                .arg("--module")
                .arg(&self.module)
                .arg("-L"),
        )
        .contains("user PIN count low")
    }

    /// Logs in to the first token as another program would, and out again. Returns whether the PIN is right.
    pub fn try_pin(&self, pin: &str) -> bool {
        let mut command = self.logged_in(pin);
        command
            .arg("--list-objects")
            .envs(self.env())
            .output()
            .unwrap()
            .status
            .success()
    }

    fn logged_in(&self, pin: &str) -> Command {
        let mut command = Command::new(&self.tool);
        command.arg("--module").arg(&self.module);
        command.args(["--token-label", TOKEN_LABEL, "--login", "--pin", pin]);
        command
    }

    fn run(&self, command: &mut Command) -> String {
        let output = command.envs(self.env()).output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn config(&self) -> PathBuf {
        self.directory.join("softhsm2.conf")
    }
}
