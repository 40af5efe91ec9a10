//! The pages of STATUS, put together.

use serde_json::{Map, Value};

/// Some of a server's status: a JSON object, whose lists go on in the next page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StatusPage(Map<String, Value>);

impl StatusPage {
    pub(crate) fn read(payload: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(payload)
            .map(Self)
            .map_err(|error| error.to_string())
    }

    /// Where the next page begins; `None` if this is the last.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        let more = self.0.get("more")?.as_bool()?;
        self.0.get("after")?.as_u64().filter(|_| more)
    }

    /// Adds the page that follows: lists go on, and of a KMS the calls do; everything else is as the first page has it.
    pub fn add(&mut self, page: Self) {
        if self.0.is_empty() {
            *self = page;
            return;
        }
        self.0.remove("after");
        for (name, value) in page.0 {
            match (self.0.get_mut(&name), value) {
                (Some(Value::Array(rows)), Value::Array(more)) if name == "kms" => {
                    more.into_iter().for_each(|row| add_kms(rows, row));
                }
                (Some(Value::Array(rows)), Value::Array(more))
                    if name == "keyspaces" || name == "shards" =>
                {
                    rows.extend(more);
                }
                (Some(more), value) if name == "more" => *more = value,
                (Some(_), _) => {}
                (None, value) => {
                    self.0.insert(name, value);
                }
            }
        }
    }

    /// The document, without what tells of pages.
    #[must_use]
    pub fn into_text(mut self) -> String {
        self.0.remove("more");
        self.0.remove("after");
        Value::Object(self.0).to_string()
    }
}

fn add_kms(rows: &mut Vec<Value>, row: Value) {
    let Value::Object(row) = row else { return };
    let known = rows.iter_mut().filter_map(Value::as_object_mut);
    let Some(known) = known
        .into_iter()
        .find(|known| known.get("name") == row.get("name"))
    else {
        return rows.push(Value::Object(row));
    };
    for (name, value) in row {
        match (known.get_mut(&name), value) {
            (Some(Value::Array(calls)), Value::Array(more)) => calls.extend(more),
            (Some(_), _) => {}
            (None, value) => {
                known.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> StatusPage {
        StatusPage::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn pages_make_one_document() {
        let mut all = StatusPage::default();
        assert_eq!(all.next(), None);
        all.add(page(r#"{"version":"1","kms":[{"name":"a","calls":[1]}],"keyspaces":[{"id":1}],"shards":[],"more":true,"after":1}"#));
        assert_eq!(all.next(), Some(1));
        all.add(page(r#"{"version":"2","kms":[{"name":"a","calls":[2]},{"name":"b","calls":[]}],"keyspaces":[{"id":2}],"shards":[],"more":true,"after":7}"#));
        assert_eq!(all.next(), Some(7));
        all.add(page(r#"{"version":"2","kms":[{"name":"a","state":"locked","calls":[]}],"keyspaces":[],"shards":[{"shard":0}],"more":false}"#));
        assert_eq!(all.next(), None);
        let expected = r#"{"keyspaces":[{"id":1},{"id":2}],"kms":[{"calls":[1,2],"name":"a","state":"locked"},{"calls":[],"name":"b"}],"shards":[{"shard":0}],"version":"1"}"#;
        assert_eq!(all.into_text(), expected);
    }

    #[test]
    fn a_server_without_pages_has_one() {
        let mut all = StatusPage::default();
        all.add(page(r#"{"keyspaces":[],"later":[1]}"#));
        assert_eq!(
            (all.next(), all.into_text().as_str()),
            (None, r#"{"keyspaces":[],"later":[1]}"#)
        );
    }
}
