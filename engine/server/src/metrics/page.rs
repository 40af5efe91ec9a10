//! The live page: files of its own that ask for nothing but `/live.json`, and who looks at them.

use std::sync::atomic::{AtomicU8, Ordering};

use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// Nothing from other hosts, nothing inline, in no frame.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const INDEX: &str = include_str!("page/index.html");
const ICON: &str = include_str!("page/icon.svg");
const STYLE: &str = include_str!("page/style.css");
const LIVE: &str = include_str!("page/live.js");
const CHARTS: &str = include_str!("page/charts.js");

/// Seconds that a look at the page counts for. The page looks every second.
const VIEW_TTL_S: u8 = 5;

/// Those who look at the page.
#[derive(Debug, Default)]
pub struct ActiveViewers {
    /// Seconds until the last look counts no more.
    seconds_left: AtomicU8,
}

impl ActiveViewers {
    /// Records a view.
    pub fn record_view(&self) {
        self.seconds_left.store(VIEW_TTL_S, Ordering::Relaxed);
    }

    /// Returns `true` if there was a view recently. To be called once a second.
    pub fn end_second(&self) -> bool {
        let one_less = |left: u8| left.checked_sub(1);
        let before = self
            .seconds_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        before.is_ok()
    }
}

/// The page's files.
pub fn files<S: Clone + Send + Sync + 'static>() -> axum::Router<S> {
    axum::Router::new()
        .route("/", get(|| file("text/html", INDEX)))
        .route("/page/icon.svg", get(|| file("image/svg+xml", ICON)))
        .route("/page/style.css", get(|| file("text/css", STYLE)))
        .route("/page/live.js", get(|| file("text/javascript", LIVE)))
        .route("/page/charts.js", get(|| file("text/javascript", CHARTS)))
}

async fn file(kind: &str, text: &'static str) -> impl IntoResponse + use<> {
    ([(CONTENT_TYPE, format!("{kind}; charset=utf-8"))], text)
}

/// Headers that every answer of the exporter has.
pub async fn guard(mut answer: Response) -> Response {
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ] {
        let value = HeaderValue::from_static(value);
        answer.headers_mut().insert(name, value);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_counts_for_some_seconds() {
        let viewers = ActiveViewers::default();
        assert!(!viewers.end_second());
        viewers.record_view();
        viewers.record_view();
        let seconds = (0..20).filter(|_| viewers.end_second()).count();
        assert_eq!(seconds, usize::from(VIEW_TTL_S));
    }
}
