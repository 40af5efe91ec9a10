//! The live page in a real browser: its values are those of /metrics, it contacts no other server, it is readable on a
//! phone, in dark mode and by keyboard, and it names no key unless configured to.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use keyway_client::{Algorithm, KeyOptions, KeyPath, KeyspaceName};
use serde_json::json;

use crate::common::browser::Browser;
use crate::common::{Ends, Server, Setup, WITHIN, has_program, prod};
use crate::figures::{SHORT_LIVED, generate, sign_all, work_until};

/// Where to put screenshots of the page, for the manual.
const PICTURES: &str = "KEYWAY_PAGE_PICTURES";

/// Pixels from the page's top that a picture shows, at most.
const PICTURE_HEIGHT_MAX: u64 = 2_400;

/// Cells of tables by the name of their series.
const CELLS: &str = "Object.fromEntries([...document.querySelectorAll('[data-series]')]
    .map((cell) => [cell.dataset.series, cell.textContent.replaceAll(',', '')]))";

/// The least contrast between any text on the page and its background, by WCAG's formula.
const CONTRAST: &str = "(() => {
    const rgba = (text) => text.match(/[\\d.]+/g).map(Number);
    const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, part, at) => {
        const s = c[at] / 255;
        return sum + part * (s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4);
    }, 0);
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const c = rgba(getComputedStyle(at).backgroundColor);
            if (c.length === 3 || c[3] === 1) return c;
        }
        return [255, 255, 255];
    };
    const all = [...document.querySelectorAll('h1,h2,p,li,a,th,td,caption,figcaption,span,output,select,button,svg text')];
    const contrasts = all.filter((element) => element.textContent.trim()).map((element) => {
        const style = getComputedStyle(element);
        const ink = light(rgba(element.closest('svg') ? style.fill : style.color));
        const ground = light(behind(element));
        return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
    });
    return Math.min(...contrasts);
})()";

const TAB: (&str, u32) = ("Tab", 9);
const ARROW_LEFT: (&str, u32) = ("ArrowLeft", 37);

fn origin(server: &Server) -> String {
    format!("http://{}/", server.endpoints["metrics"].as_str().unwrap())
}

fn staging() -> KeyspaceName {
    "staging".parse().unwrap()
}

/// Opens the page and waits for values that include settings.
fn open(browser: &mut Browser, server: &Server) {
    browser.open(&origin(server));
    browser.wait_for("document.querySelector('#settings td') !== null");
}

/// Returns the series of /metrics by name.
fn metrics(server: &Server) -> BTreeMap<String, String> {
    let (_, text) = server.http("/metrics");
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Works with keys of both keyspaces while `watch` runs.
fn under_load<T>(server: &Server, watch: impl FnOnce() -> T) -> T {
    let client = server.client();
    client.keyspace_create(&staging(), &[]).unwrap();
    for keyspace in [prod(), staging()] {
        client.keyspace_set(&keyspace, &SHORT_LIVED).unwrap();
    }
    let mut keys = generate(&client, 20);
    let more = (0..10).map(|n| format!("staging/key-{n}").parse::<KeyPath>().unwrap());
    for key in more {
        client
            .key_generate(&key, Algorithm::Ed25519, KeyOptions::default())
            .unwrap();
        keys.push(key);
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // `watch` waits for several conditions, each with its limit: all of them together have none.
            while !done.load(Ordering::Relaxed) {
                sign_all(&client, &keys);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let _done = Ends(&done);
        watch()
    })
}

fn keep_picture(browser: &mut Browser, name: &str) {
    if let Some(dir) = std::env::var_os(PICTURES) {
        let picture = BASE64.decode(browser.picture(PICTURE_HEIGHT_MAX)).unwrap();
        let path = std::path::Path::new(&dir).join(format!("live-page-{name}.png"));
        std::fs::write(path, picture).unwrap();
    }
}

#[test]
fn the_pages_figures_are_those_of_metrics_and_come_from_nowhere_else() {
    if !has_program("chromium") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::new(&dir.path().join("data")).shards(2).start();
    let mut browser = Browser::start(dir.path());
    browser.look(1280, 900, "light");
    under_load(&server, || {
        open(&mut browser, &server);
        // A minute and more of history, if a screenshot is to be made.
        let answers = if std::env::var_os(PICTURES).is_some() {
            75
        } else {
            8
        };
        browser.wait_for(&format!(
            "document.documentElement.dataset.answers >= {answers}"
        ));
        browser.wait_for("document.querySelectorAll('#hot-requests td').length > 0");
        for panel in ["waiters", "timeouts", "p95", "coverage", "prefetch"] {
            browser.wait_for(&format!(
                "!document.querySelector('#panel-{panel} .now').textContent.includes('no data')"
            ));
        }
        browser.wait_for("document.querySelectorAll('#panel-busy .heat').length >= 2");
        keep_picture(&mut browser, "light");
        browser.look(360, 780, "dark");
        browser.wait_for("innerWidth === 360");
        // Panels get their new width with the next answer.
        let answers = browser.evaluate("document.documentElement.dataset.answers");
        browser.wait_for(&format!(
            "document.documentElement.dataset.answers !== {answers}"
        ));
        keep_picture(&mut browser, "dark-phone");
    });
    // The prefetcher counts its passes while it is enabled.
    let client = server.client();
    for keyspace in [prod(), staging()] {
        client
            .keyspace_set(&keyspace, &[("max_in_flight", "0")])
            .unwrap();
    }
    let began = Instant::now();
    loop {
        let before = metrics(&server);
        let cells = browser.evaluate(CELLS);
        let after = metrics(&server);
        let cells = cells.as_object().unwrap();
        let differ: Vec<_> = cells
            .iter()
            .filter(|(series, text)| {
                let of = |all: &BTreeMap<String, String>| all.get(*series).map(|v| json!(v));
                [of(&before), of(&after)] != [Some((*text).clone()), Some((*text).clone())]
            })
            .collect();
        if differ.is_empty() {
            for keyspace in ["prod", "staging"] {
                for series in [
                    "rehydrate_total",
                    "prefetch_trigger_total",
                    "keyway_hits_total",
                ] {
                    let cell = &cells[&format!("{series}{{keyspace=\"{keyspace}\"}}")];
                    assert_ne!(cell, "0", "{series} of {keyspace}");
                }
            }
            assert!(cells.contains_key("keyway_shard_connections{shard=\"1\"}"));
            break;
        }
        assert!(began.elapsed() < WITHIN, "{differ:?}");
        std::thread::sleep(Duration::from_millis(300));
    }

    let policy = "fetch('/').then((answer) => answer.headers.get('content-security-policy'))";
    let policy = browser.evaluate(policy);
    let policy = policy.as_str().unwrap();
    assert!(policy.starts_with("default-src 'self';"), "{policy}");
    let origin = origin(&server);
    let mut asked = 0;
    for (event, params) in &browser.events {
        match event.as_str() {
            "Network.requestWillBeSent" => {
                let url = params["request"]["url"].as_str().unwrap();
                assert!(url.starts_with(&origin), "{url}");
                asked += 1;
            }
            "Runtime.exceptionThrown" => panic!("{params}"),
            "Log.entryAdded" => assert_ne!(params["entry"]["level"], "error", "{params}"),
            _ => {}
        }
    }
    assert!(asked > 8, "the page polls: {asked}");
}

#[test]
fn it_fits_a_phone_is_legible_light_and_dark_and_works_by_keyboard() {
    if !has_program("chromium") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 3);
    let client = server.client();
    let long = "a-keyspace-whose-name-is-as-long-as-people-make-them-in-the-end";
    client.keyspace_create(&long.parse().unwrap(), &[]).unwrap();
    client.lock(&long.parse().unwrap()).unwrap();
    let mut browser = Browser::start(dir.path());
    open(&mut browser, &server);
    browser.wait_for("document.querySelector('#notes li.bad') !== null");
    let state = "document.getElementById('states').textContent.includes('locked by an operator')";
    assert_eq!(browser.evaluate(state), true);

    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        for width in [360, 768, 1280] {
            browser.look(width, 800, scheme);
            browser.wait_for(&format!("innerWidth === {width}"));
            let wide = browser.evaluate("document.documentElement.scrollWidth");
            assert_eq!(wide, width, "it scrolls sideways at {width}");
        }
        let contrast = browser.evaluate(CONTRAST).as_f64().unwrap();
        assert!(contrast >= 4.5, "{scheme}: {contrast}");
        grounds.push(browser.evaluate("getComputedStyle(document.body).backgroundColor"));
    }
    assert_ne!(grounds[0], grounds[1]);

    // Everything that can be used is reachable with the tab key, and panels can be read.
    let focused = "document.activeElement.id || document.activeElement.firstElementChild?.id || ''";
    let mut reached = Vec::new();
    for _ in 0..40 {
        browser.press(TAB.0, TAB.1);
        let here = browser.evaluate(focused);
        let here = here.as_str().unwrap().to_owned();
        if here == "panel-waiters" {
            browser.press(ARROW_LEFT.0, ARROW_LEFT.1);
            browser.wait_for(
                "/^\\d\\d:\\d\\d:\\d\\d: 0$/.test(document.querySelector('#panel-waiters output').textContent)",
            );
        }
        reached.push(here);
    }
    for id in [
        "keyspace",
        "pause",
        "panel-waiters",
        "panel-timeouts",
        "panel-coverage",
        "panel-p95",
        "panel-prefetch",
        "panel-bars",
        "panel-busy",
        "panel-queue",
        "figures",
        "states",
        "shards",
        "kms",
        "settings",
    ] {
        assert!(reached.iter().any(|here| here == id), "{id}: {reached:?}");
    }

    // Another keyspace, and a temporary override, with its expiry.
    client
        .keyspace_set_for(
            &prod(),
            &[("max_in_flight", "256")],
            Duration::from_secs(900),
        )
        .unwrap();
    browser.open(&format!("{}#{long}", origin(&server)));
    browser.wait_for(&format!(
        "document.querySelector('.chosen')?.textContent === '{long}'"
    ));
    browser.evaluate(
        "(() => { const select = document.getElementById('keyspace'); select.value = 'prod';
          select.dispatchEvent(new Event('change')); })()",
    );
    browser.wait_for(
        "/max_in_flight256to 64 at/.test(document.getElementById('settings').textContent)",
    );
    browser.wait_for(
        "document.getElementById('notes').textContent.includes('max_in_flight is 256 temporarily')",
    );
}

/// Returns the first hot key as the page shows it, once there is one; the note; and the document of the page.
fn hottest(dir: &std::path::Path, server: &Server) -> (String, String, String) {
    let client = server.client();
    let keys = generate(&client, 3);
    let mut browser = Browser::start(dir);
    open(&mut browser, server);
    let shown = "document.querySelector('#hot-requests tbody th')?.textContent ?? ''";
    work_until(&client, &keys[1..2], || {
        std::thread::sleep(Duration::from_millis(100));
        browser.evaluate(shown) != ""
    });
    let mut text = |expression| browser.evaluate(expression).as_str().unwrap().to_owned();
    let note = text("document.getElementById('hot-note').textContent");
    (text(shown), note, server.http("/live.json").1)
}

#[test]
fn page_names_keys_only_if_configured() {
    if !has_program("chromium") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(2);
    let (first, note, document) = hottest(dir.path(), &setup.start());
    assert_eq!(first, "#1");
    assert!(note.contains("keyway hot prod"), "{note}");
    assert!(!document.contains("key-1"), "{document}");

    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(2);
    let naming = setup.flag("--page-key-ids").start();
    let (first, note, document) = hottest(dir.path(), &naming);
    assert_eq!(first, "key-1");
    assert!(!note.contains("keyway hot"), "{note}");
    assert!(document.contains("\"key\":\"key-1\""), "{document}");
}

#[test]
fn the_pages_files_name_no_other_host_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 1);
    for path in [
        "/",
        "/page/style.css",
        "/page/live.js",
        "/page/charts.js",
        "/page/icon.svg",
    ] {
        let (head, body) = server.http(path);
        assert!(head.contains("200"), "{path}: {head}");
        let body = body.replace("http://www.w3.org/2000/svg", "");
        for word in [
            "http:",
            "https:",
            "\"//",
            "url(",
            "innerHTML",
            "eval(",
            "method:",
        ] {
            let found = body.lines().find(|line| line.contains(word));
            assert_eq!(found, None, "{path} has {word}");
        }
    }
}
