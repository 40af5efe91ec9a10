//! A user at a shell, with the `keyway` of this workspace on the path and a directory for files.

use std::cell::RefCell;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use crate::common::{Server, Setup, WITHIN, ended};

/// How long cargo may build: the machine may be busy with other builds.
const BUILT_WITHIN: Duration = Duration::from_secs(1_800);

/// The operator's files, and all output of the commands so far.
pub struct Operator {
    desk: TempDir,
    said: RefCell<String>,
}

/// A running command; killed when dropped.
pub struct Running<'a> {
    operator: &'a Operator,
    line: String,
    child: Child,
}

/// The result of a command.
pub struct Ended {
    /// The line that was typed.
    pub line: String,
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Operator {
    /// Creates an operator without files.
    pub fn new() -> Operator {
        Operator {
            desk: tempfile::tempdir().unwrap(),
            said: RefCell::default(),
        }
    }

    /// Returns a production server whose data is in this directory, with complete logging.
    pub fn setup(&self) -> Setup {
        Setup::new(&self.path("data"))
            .shards(2)
            .production()
            .flag("--log-level")
            .flag("debug")
    }

    /// Returns the path of the file.
    pub fn path(&self, name: &str) -> PathBuf {
        self.desk.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Reads a file.
    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Returns all output of the commands so far.
    pub fn said(&self) -> String {
        self.said.borrow().clone()
    }

    /// Starts a shell line that begins with `keyway`, as in the documents: files by name, secrets on a descriptor.
    pub fn start(&self, server: &Server, line: &str) -> Running<'_> {
        // `exec`: the process to kill is keyway itself, not a shell around it. Answers may take as long as the test
        // waits, since the default of 10 s is too short for a busy machine.
        let patient = format!("keyway --timeout {}s ", WITHIN.as_secs());
        self.start_script(
            Some(server),
            &format!("exec {}", line.replacen("keyway ", &patient, 1)),
        )
    }

    /// Runs shell lines, each of which must succeed, or fail if it begins with `!`.
    pub fn shell(&self, server: &Server, script: &str) -> Ended {
        self.start_script(Some(server), &checked(script)).end()
    }

    /// As above, with no server but those that the lines start.
    pub fn shell_alone(&self, script: &str) -> Ended {
        self.start_script(None, &checked(script)).end()
    }

    fn start_script(&self, server: Option<&Server>, script: &str) -> Running<'_> {
        let unix = server.and_then(|server| server.endpoints["unix"].as_str());
        let bin = program().parent().unwrap();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(bin.to_owned()).chain(std::env::split_paths(&path));
        let child = Command::new("sh")
            .args(["-c", script])
            .current_dir(self.desk.path())
            .env("PATH", std::env::join_paths(paths).unwrap())
            .env("KEYWAY_ADDR", format!("unix:{}", unix.unwrap_or("/none")))
            // As long as the tests' other clients wait.
            .env("KEYWAY_TIMEOUT", "5m")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Running {
            operator: self,
            line: script.to_owned(),
            child,
        }
    }

    /// As above, and waits for its end.
    pub fn run(&self, server: &Server, line: &str) -> Ended {
        self.start(server, line).end()
    }

    /// Runs a line that must succeed. Returns its standard output.
    pub fn done(&self, server: &Server, line: &str) -> String {
        self.run(server, line).done()
    }

    /// Asserts that no command printed, and the server did not log, any of these secrets. Of several words, no two
    /// adjacent ones may appear either: part of a share is also a secret.
    pub fn assert_kept(&self, server: &Server, secrets: &[String]) {
        let log = server.log();
        assert!(log.contains(" INFO "), "nothing was logged: {log}");
        let heard = self.said.borrow().clone() + &log;
        for secret in secrets {
            let words: Vec<&str> = secret.split_whitespace().collect();
            for part in words.windows(words.len().clamp(1, 2)) {
                // The message does not quote the secret either: a reader of the failure has the test.
                assert!(!heard.contains(&part.join(" ")), "a secret was printed");
            }
        }
    }
}

impl Running<'_> {
    /// Returns `true` if it has not ended yet.
    pub fn is_waiting(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub fn end(mut self) -> Ended {
        let status = ended(&mut self.child, WITHIN);
        let out = text(self.child.stdout.take().unwrap());
        let err = text(self.child.stderr.take().unwrap());
        self.operator
            .said
            .borrow_mut()
            .push_str(&(out.clone() + &err));
        let line = self.line.clone();
        let Some(code) = status.and_then(|status| status.code()) else {
            panic!("{line}: no end after {WITHIN:?}: {out}{err}");
        };
        Ended {
            line,
            code,
            out,
            err,
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// Asserts that it succeeded. Returns its standard output.
    pub fn done(self) -> String {
        assert_eq!(self.code, 0, "{}: {}", self.line, self.err);
        self.out
    }

    /// Asserts that it ended with this code, a message with all of these parts, and no standard output.
    pub fn refused(&self, code: i32, told: &[&str]) {
        let Ended { line, out, err, .. } = self;
        assert_eq!((self.code, &**out), (code, ""), "{line}: {err}");
        for words in told {
            assert!(err.contains(words), "{line}: {words:?} is not in {err}");
        }
    }
}

/// Reads the pipe of a program that has ended. The output of these commands fits into it.
fn text(mut pipe: impl Read) -> String {
    let mut text = String::new();
    pipe.read_to_string(&mut text).unwrap();
    text
}

/// Returns the path of `keyway`, built once for all tests.
///
/// Cargo passes a test the paths of the programs of its own package, and `keyway` belongs to another one. It cannot be a
/// dev-dependency, since its package has no library; and a binary next to keywayd may be older than its sources, as after
/// `cargo test -p keyway-server`. So cargo builds it in the same way as this test: same target directory, same profile,
/// the same `Cargo.lock`. The environment determines whether it may use the network. Cargo returns the program's path,
/// which depends on the target triple.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(build)
}

fn build() -> PathBuf {
    let directory = Path::new(env!("CARGO_BIN_EXE_keywayd")).parent().unwrap();
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let desk = tempfile::tempdir().unwrap();
    let (answer, messages) = (desk.path().join("answer"), desk.path().join("messages"));
    let file = |path| std::fs::File::create(path).unwrap();
    let mut cargo = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--package", "keyway-tools"])
        .args(["--bin", "keyway", "--profile", profile, "--target-dir"])
        .arg(target)
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        // Files, because the pipes are not read during the wait.
        .stdout(file(&answer))
        .stderr(file(&messages))
        .spawn()
        .unwrap();
    let status = ended(&mut cargo, BUILT_WITHIN);
    let messages = std::fs::read_to_string(messages).unwrap();
    assert!(
        status.is_some_and(|status| status.success()),
        "keyway was not built ({status:?}; none: not in {BUILT_WITHIN:?}): {messages}"
    );
    let answer = std::fs::read_to_string(answer).unwrap();
    let built = answer.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_keyway = message["target"]["name"] == "keyway";
        message["executable"]
            .as_str()
            .filter(|_| is_keyway)
            .map(PathBuf::from)
    });
    built.unwrap_or_else(|| panic!("cargo does not say where keyway is: {answer}"))
}

/// Returns the lines as a script of which each must succeed, or fail if it begins with `!`.
fn checked(script: &str) -> String {
    let patient = format!(
        "keyway() {{ command keyway --timeout {}s \"$@\"; }}",
        WITHIN.as_secs()
    );
    let mut lines = String::from("set -e\n");
    for line in script.lines().map(str::trim) {
        // `set -e` ignores negated commands.
        match line.strip_prefix("! ") {
            Some(line) => {
                lines.push_str(&format!("if {line}; then echo 'not refused'; exit 9; fi\n"))
            }
            None => lines.push_str(&format!("{line}\n")),
        }
    }
    format!("{patient}\n{lines}")
}
