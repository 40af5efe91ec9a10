//! Writing a report.

use std::path::Path;

use serde::Serialize;

use crate::error::{Context, Result};

/// Writes `report` as indented JSON.
pub fn write(path: &Path, report: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(report).context(|| "encode the report".into())?;
    text.push('\n');
    std::fs::write(path, text).context(|| format!("write {}", path.display()))?;
    println!("Report: {}", path.display());
    Ok(())
}
