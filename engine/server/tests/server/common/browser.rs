//! Debian's headless chromium, controlled over a pipe with its DevTools protocol.

#![allow(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::WITHIN;

/// chromium reads from descriptor 3 and writes to 4: here its standard input and output.
const START: &str = "exec chromium --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
                     --disable-background-networking --user-data-dir=\"$0\" --remote-debugging-pipe about:blank \
                     3<&0 4>&1 >/dev/null 2>&1";

/// A running browser with one tab; killed when dropped.
pub struct Browser {
    child: Child,
    to: ChildStdin,
    said: Receiver<Value>,
    session: Value,
    last_id: u64,
    /// Events of the tab: name and parameters.
    pub events: Vec<(String, Value)>,
}

impl Browser {
    /// Starts a browser that stores its files below `dir`.
    pub fn start(dir: &Path) -> Browser {
        let mut child = Command::new("sh")
            .args(["-c", START])
            .arg(dir.join("chromium"))
            .env("HOME", dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let to = child.stdin.take().unwrap();
        let mut from = BufReader::new(child.stdout.take().unwrap());
        let (tell, said) = channel();
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while from.read_until(0, &mut message).is_ok_and(|len| len > 0) {
                message.pop();
                let message = std::mem::take(&mut message);
                if tell
                    .send(serde_json::from_slice(&message).unwrap())
                    .is_err()
                {
                    return;
                }
            }
        });
        let mut browser = Browser {
            child,
            to,
            said,
            session: Value::Null,
            last_id: 0,
            events: Vec::new(),
        };
        let tab = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": tab["targetId"], "flatten": true });
        browser.session = browser.call("Target.attachToTarget", attach)["sessionId"].clone();
        for domain in ["Page", "Network", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Returns calls a method of the protocol and waits for its result.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let mut message = json!({ "id": self.last_id, "method": method, "params": params });
        if !self.session.is_null() {
            message["sessionId"] = self.session.clone();
        }
        self.to.write_all(message.to_string().as_bytes()).unwrap();
        self.to.write_all(&[0]).unwrap();
        self.to.flush().unwrap();
        loop {
            let mut said = self.said.recv_timeout(WITHIN).expect("chromium answers");
            if said["id"] == self.last_id {
                assert!(said["error"].is_null(), "{method}: {said}");
                return said["result"].take();
            }
            if let Some(event) = said["method"].as_str() {
                let event = event.to_owned();
                self.events.push((event, said["params"].take()));
            }
        }
    }

    /// Sets the window's size and colour scheme, light or dark.
    pub fn look(&mut self, width: u32, height: u32, scheme: &str) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", size);
        self.call("Emulation.setScrollbarsHidden", json!({ "hidden": true }));
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call(
            "Emulation.setEmulatedMedia",
            json!({ "features": features }),
        );
    }

    /// Opens a page.
    pub fn open(&mut self, url: &str) {
        let went = self.call("Page.navigate", json!({ "url": url }));
        assert!(went["errorText"].is_null(), "{url}: {went}");
    }

    /// Evaluates a JavaScript expression in the page. Promises are awaited.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let how = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut result = self.call("Runtime.evaluate", how);
        assert!(
            result["exceptionDetails"].is_null(),
            "{expression}: {result}"
        );
        result["result"]["value"].take()
    }

    /// Waits until an expression is true.
    pub fn wait_for(&mut self, expression: &str) {
        let began = Instant::now();
        while self.evaluate(expression) != true {
            if began.elapsed() > WITHIN {
                let text = self.evaluate("document.body.innerText");
                panic!("{expression} does not come true: {text}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Presses a key.
    pub fn press(&mut self, key: &str, code: u32) {
        for kind in ["keyDown", "keyUp"] {
            let event =
                json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// Returns a screenshot of the page, as PNG in base64: at most that many pixels from its top.
    pub fn picture(&mut self, height_max: u64) -> String {
        let size = self.evaluate(
            "[document.documentElement.clientWidth, document.documentElement.scrollHeight]",
        );
        let height = size[1].as_u64().unwrap().min(height_max);
        let clip = json!({ "x": 0, "y": 0, "width": size[0], "height": height, "scale": 1 });
        let how = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
        let picture = self.call("Page.captureScreenshot", how);
        picture["data"].as_str().unwrap().to_owned()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
