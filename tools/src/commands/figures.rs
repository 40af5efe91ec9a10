//! The server's status document and its members as cells of a table. Members that the server does
//! not send, as one of another version may, are shown as `-`.

use serde_json::Value;

use crate::connect::Server;
use crate::failure::Failure;
use crate::printable;
use crate::text;
use crate::vitals::ServerStatus;

/// Asks for the document.
pub fn of(server: &Server, doing: &str) -> Result<Value, Failure> {
    let answer = server.call(doing, None, |client| client.status())?;
    serde_json::from_str(&answer.value).map_err(|error| Failure::bad_answer(doing, &error))
}

/// Asks for the document, with types.
pub fn vitals(server: &Server, doing: &str) -> Result<ServerStatus, Failure> {
    let answer = server.call(doing, None, |client| client.status())?;
    serde_json::from_str(&answer.value).map_err(|error| Failure::bad_answer(doing, &error))
}

pub fn rows(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub fn word(value: &Value) -> String {
    match value {
        Value::String(text) => printable::line(text),
        Value::Number(number) => number.to_string(),
        Value::Bool(yes) => yes.to_string(),
        _ => dash(),
    }
}

pub fn number(value: &Value) -> Option<f64> {
    value.as_f64().filter(|number| *number >= 0.0)
}

/// A count as it is, other numbers with one decimal.
pub fn decimal(value: &Value) -> String {
    match (value.as_u64(), number(value)) {
        (Some(count), _) => count.to_string(),
        // An older server's empty sum is -0.0; adding nothing to it makes it 0.0.
        (None, Some(number)) => format!("{:.1}", number + 0.0),
        (None, None) => dash(),
    }
}

pub fn size(value: &Value) -> String {
    value.as_u64().map_or_else(dash, text::bytes)
}

/// The p95 of quantiles over at least one sample.
pub fn p95(quantiles: &Value) -> String {
    match (quantiles["count"].as_u64(), number(&quantiles["p95"])) {
        (Some(1..), Some(p95)) => format!("{p95:.3}"),
        _ => dash(),
    }
}

pub fn dash() -> String {
    "-".into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_decimal_is_a_count_or_has_one_place_and_nothing_has_no_sign() {
        for (value, text) in [
            (json!(12), "12"),
            (json!(12.25), "12.2"),
            (json!(-0.0), "0.0"),
            (json!(null), "-"),
        ] {
            assert_eq!(decimal(&value), text);
        }
    }
}
