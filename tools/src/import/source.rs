//! Where the keys of a bulk import come from.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use keyway_protocol::limits::MATERIAL_LEN_MAX;
use zeroize::{Zeroize, Zeroizing};

use super::entry::{Defaults, Entry};
use crate::failure::Failure;
use crate::streams::PathOrStdio;

/// The longest line of JSON: a key in base64 or PEM with escapes, and what goes with it, in bytes.
const LINE_LEN_MAX: usize = 3 * MATERIAL_LEN_MAX;

/// Entries, one by one. An `Err` inside is about one entry, whose message names it; the next may
/// be good.
pub struct Source {
    defaults: Defaults,
    kind: Kind,
}

enum Kind {
    Files(std::vec::IntoIter<PathBuf>),
    Lines {
        name: PathBuf,
        reader: Box<dyn BufRead>,
        line: Zeroizing<Vec<u8>>,
        number: u64,
    },
}

impl Source {
    /// A directory or a file of lines; exactly one of them is given.
    pub fn open(
        dir: Option<&Path>,
        ndjson: Option<&PathOrStdio>,
        defaults: Defaults,
    ) -> Result<Self, Failure> {
        let kind = match (dir, ndjson) {
            (Some(dir), _) => {
                let paths = files(dir).map_err(|error| Failure::file("read", dir, &error))?;
                Kind::Files(paths.into_iter())
            }
            (None, Some(PathOrStdio::File(path))) => {
                let file = File::open(path).map_err(|error| Failure::file("read", path, &error))?;
                Kind::lines(path.clone(), Box::new(BufReader::new(file)))
            }
            (None, Some(PathOrStdio::Standard)) => {
                Kind::lines("standard input".into(), Box::new(io::stdin().lock()))
            }
            (None, None) => {
                return Err(Failure::usage("no source", "give --dir or --ndjson"));
            }
        };
        Ok(Self { defaults, kind })
    }

    /// How many entries there are, if that is known beforehand.
    pub fn count(&self) -> Option<u64> {
        match &self.kind {
            Kind::Files(paths) => Some(paths.len() as u64),
            Kind::Lines { .. } => None,
        }
    }

    /// The next entry, or `None` at the end.
    pub fn next(&mut self) -> Result<Option<Result<Entry, String>>, Failure> {
        match &mut self.kind {
            Kind::Files(paths) => Ok(paths
                .next()
                .map(|path| Entry::of_file(&path, &self.defaults))),
            Kind::Lines {
                name,
                reader,
                line,
                number,
            } => loop {
                *number += 1;
                line.as_mut_slice().zeroize();
                line.clear();
                let mut limited = reader.take(LINE_LEN_MAX as u64 + 1);
                let len = limited
                    .read_until(b'\n', line)
                    .map_err(|error| Failure::file("read", name, &error))?;
                let place = format!("{} line {number}", name.display());
                if len > LINE_LEN_MAX {
                    return Err(Failure::usage(
                        format!("{place} has more than {LINE_LEN_MAX} bytes"),
                        "is it a file of JSON lines?",
                    ));
                }
                if len == 0 {
                    return Ok(None);
                }
                let Ok(text) = std::str::from_utf8(line) else {
                    return Ok(Some(Err(format!("{place}: not UTF-8"))));
                };
                if !text.trim().is_empty() {
                    let entry = Entry::of_line(text.trim(), *number, &self.defaults);
                    return Ok(Some(entry.map_err(|error| format!("{place}: {error}"))));
                }
            },
        }
    }
}

impl Kind {
    fn lines(name: PathBuf, reader: Box<dyn BufRead>) -> Self {
        Self::Lines {
            name,
            reader,
            // Room for the longest line: growing would leave copies of keys behind.
            line: Zeroizing::new(Vec::with_capacity(LINE_LEN_MAX + 1)),
            number: 0,
        }
    }
}

/// The directory's files in the order of their names, hidden ones and subdirectories left out.
fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        // Follows links, since directories of mounted secrets are made of them. A link to nowhere is an entry that fails.
        let is_file = fs::metadata(entry.path()).map_or(true, |metadata| metadata.is_file());
        if !hidden && is_file {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use keyway_client::{KeyFormat, KeyOptions};

    use super::*;

    fn ids(mut source: Source) -> Vec<String> {
        let mut ids = Vec::new();
        while let Some(entry) = source.next().unwrap() {
            ids.push(match entry {
                Ok(entry) => entry.key_id.to_string(),
                Err(error) => error.rsplit('/').next().unwrap_or("").to_owned(),
            });
        }
        ids
    }

    const DEFAULTS: Defaults = Defaults {
        algorithm: None,
        format: KeyFormat::Detect,
        encoding: None,
        options: KeyOptions {
            exportable: false,
            usage: keyway_client::Usage::NONE,
            not_after_unix_ms: 0,
        },
    };

    #[test]
    fn a_directory_gives_its_files_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.pem", "a.der", ".hidden"] {
            fs::write(folder.path().join(name), b"key").unwrap();
        }
        fs::create_dir(folder.path().join("c")).unwrap();
        let source = Source::open(Some(folder.path()), None, DEFAULTS).unwrap();
        assert_eq!(source.count(), Some(2));
        assert_eq!(ids(source), ["a", "b"]);
    }

    #[test]
    fn lines_are_numbered_blank_ones_passed_over_and_bad_ones_do_not_end_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let good = |id: &str| format!("{{\"id\":\"{id}\",\"key\":\"AAEC\"}}");
        let text = format!("{}\n\n  \nnonsense\n{}", good("a"), good("b"));
        fs::write(&path, text).unwrap();
        let source = Source::open(None, Some(&PathOrStdio::File(path.clone())), DEFAULTS).unwrap();
        assert_eq!(source.count(), None);
        let bad = "keys line 4: not the JSON that is expected, at column 2";
        let found = ids(source);
        assert_eq!((&*found[0], &*found[2]), ("a", "b"));
        assert_eq!(found[1], bad);
    }

    #[test]
    fn a_line_beyond_the_limit_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        fs::write(&path, vec![b'x'; LINE_LEN_MAX + 1]).unwrap();
        let mut source = Source::open(None, Some(&PathOrStdio::File(path)), DEFAULTS).unwrap();
        assert!(source.next().is_err());
    }
}
