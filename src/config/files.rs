//! Reads the sources of the settings: files, pipes and the environment.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::shown::shown;

/// The content of one `--config`. It is read only once, since a pipe cannot be read again.
pub(crate) struct Source {
    origin: Origin,
    text: String,
}

enum Origin {
    File(PathBuf),
    /// Such as `/dev/fd/63`, which a shell passes for `<(…)`.
    Pipe(PathBuf),
    Environment,
}

/// The largest file that is read, in bytes. Some, such as `/dev/zero`, never end.
const LARGEST_FILE: u64 = 32 << 20;

const PREFIX: &str = "TAP_CONSTANT_CONTACT_";

impl Source {
    /// The members of its JSON object.
    ///
    /// # Errors
    /// `Usage` if it is not a JSON object.
    pub(super) fn parse(&self) -> Result<Map<String, Value>> {
        let value = serde_json::from_str(&self.text)
            .map_err(|e| Error::Usage(format!("{self}: {}", json_error(&self.text, &e))))?;
        let Value::Object(members) = value else {
            return Err(Error::Usage(format!(
                "{self}: a config must be one JSON object, such as {{\"client_id\": …}}"
            )));
        };
        Ok(members)
    }

    /// Whether the source has a text for this setting.
    pub(crate) fn sets(&self, key: &str) -> bool {
        let members = self.parse().unwrap_or_default();
        members.get(key).and_then(Value::as_str).is_some_and(|text| !text.trim().is_empty())
    }

    /// The name of a setting in this source.
    pub(super) fn name_of(&self, key: &str) -> String {
        match self.origin {
            Origin::Environment => format!("{PREFIX}{}", key.to_ascii_uppercase()),
            Origin::File(_) | Origin::Pipe(_) => key.to_owned(),
        }
    }

    /// The argument of `--config`.
    pub(super) fn argument(&self) -> String {
        match &self.origin {
            Origin::File(path) | Origin::Pipe(path) => path.display().to_string(),
            Origin::Environment => "ENV".into(),
        }
    }

    /// The path and the text, if the source is a file.
    pub(crate) fn file(&self) -> Option<(&Path, &str)> {
        match &self.origin {
            Origin::File(path) => Some((path, &self.text)),
            Origin::Pipe(_) | Origin::Environment => None,
        }
    }

    #[cfg(test)]
    pub(crate) fn of_file(path: &str, text: &str) -> Source {
        Source { origin: Origin::File(path.into()), text: text.into() }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.origin {
            Origin::File(path) | Origin::Pipe(path) => path.display().fmt(f),
            Origin::Environment => f.write_str("environment"),
        }
    }
}

/// Reads each `--config`.
///
/// # Errors
/// `Usage` if there is none, or one cannot be read.
pub(crate) fn sources(paths: &[PathBuf]) -> Result<Vec<Source>> {
    if paths.is_empty() {
        return Err(Error::Usage(format!(
            "no config: pass --config FILE, or --config ENV to take the settings from {PREFIX}… variables; see --help"
        )));
    }
    paths.iter().map(|path| source(path)).collect()
}

fn source(path: &Path) -> Result<Source> {
    if path.as_os_str() == "ENV" {
        return Ok(Source { origin: Origin::Environment, text: from_env(std::env::vars_os())? });
    }
    let text = read_as(FileKind::Config, path)?;
    let origin = if path.is_file() { Origin::File(path.to_owned()) } else { Origin::Pipe(path.to_owned()) };
    Ok(Source { origin, text })
}

/// The variable that holds Meltano's name for the tap.
const MELTANO_NAME: &str = "MELTANO_EXTRACTOR_NAME";

/// Whether Meltano started the tap.
pub(crate) fn is_under_meltano() -> bool {
    std::env::var_os(MELTANO_NAME).is_some()
}

/// How to write a config, and what to run then.
pub(crate) fn how_to_write(config: &str) -> String {
    let members = r#"{"client_id": "your API key", "client_secret": "your secret", "token_file": "tokens.json"}"#;
    let login = command(&[config.to_owned()], "login");
    format!("Write {config} with {members}, without client_secret for a PKCE or device application; then run: {login}")
}

/// The tap with these configs and other arguments, as a command to be pasted into a shell. Meltano passes a config of its
/// own, so there it is Meltano's command.
pub(crate) fn command(configs: &[String], arguments: &str) -> String {
    if let Ok(plugin) = std::env::var(MELTANO_NAME) {
        return format!("meltano invoke {plugin} {arguments}");
    }
    let mut command = format!("tap-constant-contact {arguments}");
    for config in configs {
        command += " --config ";
        command += &quoted(config);
    }
    command
}

/// An argument, quoted for a shell if needed.
pub(crate) fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+=:@%,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// The settings in `TAP_CONSTANT_CONTACT_<SETTING>` variables, as one JSON object. Meltano's own variables begin in the
/// same way, followed by a second underscore.
fn from_env(vars: impl Iterator<Item = (OsString, OsString)>) -> Result<String> {
    let mut found = Map::new();
    for (name, value) in vars {
        let Some(key) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        if key.is_empty() || key.starts_with('_') || key == "LOGLEVEL" {
            continue;
        }
        let Some(value) = value.to_str() else {
            return Err(Error::Usage(format!("the environment variable {PREFIX}{} is not UTF-8 text", shown(key))));
        };
        found.insert(key.to_ascii_lowercase(), value.into());
    }
    Ok(Value::Object(found).to_string())
}

/// The file for new tokens: the last config file. `None` if a later pipe or the environment has a refresh token: the
/// next run would prefer that one, although it may have been used.
pub(crate) fn written_back(sources: &[Source]) -> Option<PathBuf> {
    for source in sources.iter().rev() {
        match &source.origin {
            Origin::File(path) => return Some(path.clone()),
            Origin::Pipe(_) | Origin::Environment => {
                if source.sets("refresh_token") {
                    return None;
                }
            }
        }
    }
    None
}

/// How to fix a file that this user may not read.
pub(crate) fn not_permitted(path: &Path) -> String {
    let shown = path.display().to_string();
    let argument = quoted(&shown);
    format!("{shown}: permission denied. To let this user read it, run: sudo chown \"$(id -un)\" {argument}")
}

/// The text of a file, without the byte order mark that editors on Windows put before it.
pub(crate) fn read(path: &Path) -> Result<String> {
    let bad = |why: &dyn fmt::Display| Error::Usage(format!("{}: {why}", path.display()));
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST_FILE + 1).read_to_end(&mut bytes));
    read.map_err(|e| match e.kind() {
        ErrorKind::NotFound => Error::Usage(format!("{} does not exist", path.display())),
        ErrorKind::IsADirectory => Error::Usage(format!("{} is a directory, not a file", path.display())),
        ErrorKind::PermissionDenied => Error::Usage(not_permitted(path)),
        _ => bad(&e),
    })?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(bad(&format!("this is larger than {} MB, so it is no file of the tap", LARGEST_FILE >> 20)));
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(bad(&"this is UTF-16, as PowerShell writes it; save the file as UTF-8"));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let readable = String::from_utf8_lossy(&e.as_bytes()[..e.utf8_error().valid_up_to()]);
        let line = readable.split('\n').count();
        bad(&format!("line {line} is not UTF-8 text; save the file as UTF-8"))
    })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// Why a text is not JSON: the place and the reason, but no part of the text, which may hold a secret.
pub(crate) fn json_error(text: &str, e: &serde_json::Error) -> String {
    if text.trim().is_empty() {
        return "the file is empty".into();
    }
    let (line, column) = (e.line(), e.column());
    let full = e.to_string();
    let why = full.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&full);
    let why = match why {
        "key must be a string" => "a key must be a string in double quotes, and comments are not allowed",
        "trailing comma" => "there is a comma before the closing bracket",
        "trailing characters" => "there is more text after the JSON value",
        "expected `,` or `}`" => "a comma or } is missing",
        "expected `,` or `]`" => "a comma or ] is missing",
        "control character (\\u0000-\\u001F) found while parsing a string" => {
            "a string holds a line break or another control character; is a closing quote missing?"
        }
        "expected value" | "expected ident" => "this is no JSON value",
        "EOF while parsing a string" => "the file ends within a string",
        "EOF while parsing a value" => "the file ends where a value should be",
        "EOF while parsing an object" => "the file ends before the closing }",
        "EOF while parsing a list" => "the file ends before the closing ]",
        other => other,
    };
    format!("not valid JSON: line {line}, column {column}: {why}")
}

/// The kinds of JSON files that a user may pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum FileKind {
    Config,
    Catalog,
    State,
    /// What `login` wrote.
    Tokens,
    /// The output of a tap.
    Messages,
}

impl FileKind {
    fn of(text: &str) -> Option<FileKind> {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        let first = values.next()?.ok()?;
        let has = |key: &str| first.get(key).is_some();
        if first["type"].is_string() && (has("stream") || has("value")) {
            let is_alone = values.next().is_none();
            return Some(if is_alone && first["type"] == "STATE" { FileKind::State } else { FileKind::Messages });
        }
        if first["streams"].is_array() {
            Some(FileKind::Catalog)
        } else if first["bookmarks"].is_object() {
            Some(FileKind::State)
        } else if has("superseded") && has("refresh_token") {
            Some(FileKind::Tokens)
        } else if ["client_id", "client_secret", "refresh_token", "access_token", "token_file"].into_iter().any(has) {
            Some(FileKind::Config)
        } else {
            None
        }
    }
}

/// Reads a config, catalog or state file, unless it is of another kind than expected.
///
/// # Errors
/// `Usage` that says what the file is and how to pass it.
pub(crate) fn read_as(expected: FileKind, path: &Path) -> Result<String> {
    if !path.exists() {
        let name = path.display().to_string();
        let advice = match expected {
            FileKind::Config => format!(". {}", how_to_write(&name)),
            FileKind::Catalog => format!(". To write one, run: tap-constant-contact --discover > {}", quoted(&name)),
            _ => "; leave --state out of the first run".into(),
        };
        return Err(Error::Usage(format!("{name} does not exist{advice}")));
    }
    let text = read(path)?;
    let Some(found) = FileKind::of(&text).filter(|found| *found != expected) else { return Ok(text) };
    let wanted = match expected {
        FileKind::Config => "config",
        FileKind::Catalog => "catalog",
        _ => "state",
    };
    let path = path.display().to_string();
    let argument = quoted(&path);
    let advice = match found {
        FileKind::Config => format!("is a config, not a {wanted}: pass it with --config {argument}"),
        FileKind::Catalog => format!("is a catalog, not a {wanted}: pass it with --catalog {argument}"),
        FileKind::State => format!("is a state, not a {wanted}: pass it with --state {argument}"),
        FileKind::Tokens => {
            format!(
                "holds the tokens that login stored, not a {wanted}: name it in the config, with \"token_file\": \"{path}\""
            )
        }
        FileKind::Messages => {
            let state = quoted(&format!("{path}.last"));
            format!(
                "holds the messages of a tap, not a {wanted}; the state of that run is in its last line: tail -n 1 \
                 {argument} > {state}, then pass --state {state}"
            )
        }
    };
    Err(Error::Usage(format!("{path} {advice}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_quoted_if_a_shell_would_take_it_apart() {
        for (text, expected) in
            [("a.json", "a.json"), ("my config.json", "'my config.json'"), ("", "''"), ("it's", r"'it'\''s'")]
        {
            assert_eq!(quoted(text), expected);
        }
    }

    #[test]
    fn the_environment_is_read_by_name() {
        let vars = [
            ("TAP_CONSTANT_CONTACT_PAGE_SIZE", "7"),
            ("TAP_CONSTANT_CONTACT__SELECT", "[]"),
            ("TAP_CONSTANT_CONTACT_LOGLEVEL", "DEBUG"),
            ("TAP_CONSTANT_CONTACT_", "x"),
            ("tap_constant_contact_max_retries", "x"),
            ("PATH", "x"),
        ];
        let vars = vars.into_iter().map(|(name, value)| (name.into(), value.into()));
        assert_eq!(from_env(vars).unwrap(), r#"{"page_size":"7"}"#);
    }

    #[cfg(unix)]
    #[test]
    fn only_a_setting_must_be_utf_8() {
        use std::os::unix::ffi::OsStringExt;
        let odd = || OsString::from_vec(b"hu\xffsh".to_vec());
        assert_eq!(from_env([("OTHER".into(), odd()), (odd(), odd())].into_iter()).unwrap(), "{}");
        let e = from_env([("TAP_CONSTANT_CONTACT_CLIENT_ID".into(), odd())].into_iter()).unwrap_err();
        assert_eq!(e.to_string(), "the environment variable TAP_CONSTANT_CONTACT_CLIENT_ID is not UTF-8 text");
    }

    #[test]
    fn tokens_go_to_the_last_file_unless_what_comes_later_brings_some() {
        let file = |name: &str| Source::of_file(name, "{}");
        let other = |text: &str| Source { origin: Origin::Environment, text: text.into() };
        assert_eq!(written_back(&[file("a"), file("b")]), Some("b".into()));
        assert_eq!(written_back(&[file("a"), other(r#"{"refresh_token": ""}"#)]), Some("a".into()));
        assert_eq!(written_back(&[file("a"), other(r#"{"refresh_token": "x"}"#)]), None);
        assert_eq!(written_back(&[other(r#"{"refresh_token": "x"}"#), file("a")]), Some("a".into()));
        assert_eq!(written_back(&[other("{}")]), None);
    }

    #[test]
    fn a_file_is_known_by_its_members() {
        for (text, kind) in [
            (r#"{"client_id": "a"}"#, Some(FileKind::Config)),
            (r#"{"streams": []}"#, Some(FileKind::Catalog)),
            (r#"{"bookmarks": {}}"#, Some(FileKind::State)),
            (r#"{"type": "STATE", "value": {}}"#, Some(FileKind::State)),
            ("{\"type\": \"STATE\", \"value\": {}}\n{\"type\": \"STATE\", \"value\": {}}", Some(FileKind::Messages)),
            (r#"{"type": "SCHEMA", "stream": "a"}"#, Some(FileKind::Messages)),
            (r#"{"access_token": "a", "refresh_token": "b", "superseded": []}"#, Some(FileKind::Tokens)),
            ("{}", None),
            ("[1]", None),
            ("{", None),
        ] {
            assert_eq!(FileKind::of(text), kind, "{text}");
        }
    }
}
