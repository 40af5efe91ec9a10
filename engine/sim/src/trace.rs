//! A history in words, for people and for comparing two runs.

/// Collects lines, or does not.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    lines: Option<Vec<String>>,
}

impl Trace {
    pub(crate) fn on() -> Self {
        Self {
            lines: Some(Vec::new()),
        }
    }

    #[inline]
    pub(crate) fn note(&mut self, now: u64, what: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>14.3} ms  {}", now as f64 / 1_000.0, what()));
        }
    }

    pub(crate) fn take(&mut self) -> Vec<String> {
        self.lines.take().unwrap_or_default()
    }
}
