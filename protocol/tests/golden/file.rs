//! Reads vector files; docs/PROTOCOL.md describes their form.

use std::path::Path;

use keyway_protocol::Opcode;

use crate::fields::{Fields, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Request,
    Response,
    Routing,
    Siphash,
}

pub struct Vector {
    pub name: String,
    pub kind: Kind,
    pub fields: Fields,
    pub refused: Option<String>,
    pub bytes: Vec<u8>,
}

impl Vector {
    /// The operation that is asked for or answered.
    pub fn opcode(&self) -> Opcode {
        let code = self.fields.clone().take().int("opcode");
        Opcode::try_from(code as u8).expect("vectors are for operations that exist")
    }
}

pub fn read_all(folder: &Path) -> Vec<Vector> {
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .expect("the vectors lie beside the crate")
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "txt"))
        .collect();
    paths.sort();
    let texts = paths
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap());
    texts.flat_map(|text| read(&text)).collect()
}

fn read(text: &str) -> Vec<Vector> {
    let mut vectors = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("vector ") {
            vectors.push(read_one(name, &mut lines));
        } else {
            assert!(line.is_empty() || line.starts_with('#'), "{line}");
        }
    }
    vectors
}

fn read_one<'a>(name: &str, lines: &mut impl Iterator<Item = &'a str>) -> Vector {
    let mut vector = Vector {
        name: name.to_owned(),
        kind: match lines.next() {
            Some("kind request") => Kind::Request,
            Some("kind response") => Kind::Response,
            Some("kind routing") => Kind::Routing,
            Some("kind siphash") => Kind::Siphash,
            line => panic!("{name}: {line:?} where its kind was expected"),
        },
        fields: Fields::default(),
        refused: None,
        bytes: Vec::new(),
    };
    for line in lines
        .by_ref()
        .take_while(|line| !matches!(*line, "bytes" | "end"))
    {
        match line.split_once(' ') {
            Some(("refused", field)) => vector.refused = Some(field.to_owned()),
            Some((field, value)) => vector.fields.push(field, value_of(value)),
            None => panic!("{name}: {line:?} where a field was expected"),
        }
    }
    if matches!(vector.kind, Kind::Request | Kind::Response) {
        for line in lines.take_while(|line| *line != "end") {
            let hex = line.split('#').next().unwrap_or_default();
            vector.bytes.extend(bytes_of(&hex.replace(' ', "")));
        }
    }
    vector
}

fn value_of(text: &str) -> Value {
    if let Some(hex) = text.strip_prefix("x'") {
        return Value::Bytes(bytes_of(hex.trim_end_matches('\'')));
    }
    match text.strip_prefix('"') {
        Some(text) => {
            let text = text
                .strip_suffix('"')
                .expect("a text ends with a quotation mark");
            Value::Bytes(text.replace("\\n", "\n").into_bytes())
        }
        None => Value::Int(text.parse().expect("a value is a number, hex or a text")),
    }
}

fn bytes_of(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2), "{hex}");
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex"))
        .collect()
}
