//! What an error about the configuration may quote of the file: names of settings, and nothing else. A secret may stand in it
//! by mistake, and the file may be another one: a passphrase's, or a private key's.

/// Longest word that can be the name of a setting, in bytes.
const NAME_BYTES_MAX: usize = 40;

/// The parser's message with the line that it is about, and without values.
pub(super) fn about(error: &toml::de::Error, text: &str) -> String {
    let message = without_values(error.message());
    match error.span().and_then(|span| text.get(..span.start)) {
        Some(before) => format!("line {}: {message}", before.matches('\n').count() + 1),
        None => message,
    }
}

/// The message without what it quotes, but for names of settings.
pub(super) fn without_values(message: &str) -> String {
    let mut out = String::new();
    let mut rest = message;
    while let Some(at) = rest.find(['`', '"']) {
        let (before, quoted) = rest.split_at(at);
        let (mark, quoted) = quoted.split_at(1);
        // A string may hold marks of its own: it ends where the parser goes on.
        let end = match mark {
            "`" => quoted.find('`'),
            _ => quoted.rfind('"'),
        };
        let (word, behind) = match end {
            Some(end) => (&quoted[..end], &quoted[end + 1..]),
            None => (quoted, ""),
        };
        let word = if is_name(word) { word } else { "…" };
        out.push_str(&format!("{before}{mark}{word}{mark}"));
        rest = behind;
    }
    out.push_str(rest);
    // Several lines would look like lines of the log.
    out.trim_end().replace('\n', "; ")
}

fn is_name(word: &str) -> bool {
    word.len() <= NAME_BYTES_MAX
        && word
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || b"_-.=[]".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Options;

    fn refused(text: &str) -> String {
        about(&toml::from_str::<Options>(text).unwrap_err(), text)
    }

    #[test]
    fn no_value_is_quoted_wherever_it_stands() {
        for text in [
            "passphrase = \"Hunter2 \\\" x\"",
            "passphrase_fd = \"Hunter2 \\\" ` x\"",
            "shards = 7\nlog_format = \"Hunter2\"",
            "shards = \"Hunter2\"",
            "Hunter2",
            "Hunter2=",
            "Hunter2 = 1",
            "listen = \"Hunter2\"",
            "data = \"Hunter2",
            "shards = 1\nshards = 2 # Hunter2",
            "-----BEGIN Hunter2-----\nHunter2/+==\n-----END Hunter2-----",
            "metrics_host = [\"a\", { Hunter2 = 2 }]",
            "pin_file = 20774",
            "unix = 20774",
            "keys_max = 20774.5",
        ] {
            let told = refused(text);
            assert!(told.starts_with("line "), "{text:?}: {told}");
            for secret in ["Hunter2", "20774"] {
                assert!(!told.contains(secret), "{text:?}: {told}");
            }
        }
    }

    #[test]
    fn settings_and_lines_are_named() {
        assert!(refused("shards = 4\nshrads = 4").contains("`shrads`"));
        assert!(refused("shards = 4\nshrads = 4").starts_with("line 2: "));
        assert!(refused("shrads = 4").contains("`connections_max`"));
    }
}
