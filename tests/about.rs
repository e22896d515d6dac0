//! What the tap says of itself, and how it says what it does.

mod fake;
mod tap;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tap::command;

/// What the tap answers, in a folder and an environment that have nothing of use.
fn answer(arguments: &[&str]) -> String {
    let output = command().args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn about() -> Value {
    serde_json::from_str(&answer(&["--about", "--format", "json"])).unwrap()
}

/// `UPDATE=1 cargo test --test about` rewrites it.
#[test]
fn the_readme_has_the_settings_that_the_tap_has() {
    let markdown = answer(&["--about", "--format", "markdown"]);
    let table = &markdown[markdown.find("| setting |").unwrap()..];
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once("<!-- settings -->\n").unwrap();
    let (_, after) = rest.split_once("<!-- /settings -->").unwrap();
    let expected = format!("{before}<!-- settings -->\n{table}<!-- /settings -->{after}");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), expected, "the settings in README.md are stale");
}

#[test]
fn about_has_the_keys_of_the_sdk_and_a_schema_of_the_settings() {
    let about = about();
    let keys: Vec<_> = about.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["name", "description", "version", "capabilities", "settings"]);
    assert_eq!(about["name"], "tap-constant-contact");
    assert_eq!(about["version"], env!("CARGO_PKG_VERSION"));
    let schema = &about["settings"];
    assert!(jsonschema::meta::is_valid(schema));
    let settings = schema["properties"].as_object().unwrap();
    let secret: Vec<_> = settings.iter().filter(|(_, s)| s["secret"] == true).map(|(name, _)| name).collect();
    assert_eq!(secret, ["client_secret", "refresh_token", "access_token"]);
    let validator = jsonschema::validator_for(schema).unwrap();
    for (name, setting) in settings {
        assert_eq!(setting["secret"], setting["writeOnly"], "{name}");
        assert!(!setting["description"].as_str().unwrap().is_empty(), "{name}");
        if let Some(default) = setting.get("default") {
            assert!(validator.is_valid(&serde_json::json!({ name: default })), "{name}");
        }
    }
}

#[test]
fn about_wins_over_a_sync_and_needs_no_file() {
    let plain = answer(&["--about"]);
    assert!(plain.contains("start_date"));
    let sync = ["--config", "none.json", "--catalog", "none.json", "--state", "none.json", "--discover", "--about"];
    assert_eq!(answer(&sync), plain);
}

#[test]
fn shells_and_man_read_what_is_made_for_them() {
    let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
    let completions = answer(&["completions", "bash"]);
    assert!(completions.contains("--log-format"));
    bash.stdin.take().unwrap().write_all(completions.as_bytes()).unwrap();
    assert!(bash.wait().unwrap().success());
    for shell in ["zsh", "fish", "powershell", "elvish"] {
        assert!(answer(&["completions", shell]).contains("tap-constant-contact"), "{shell}");
    }
    let manual = answer(&["man"]);
    assert!(manual.contains(".TH tap-constant-contact") && manual.contains("\\-\\-discover"), "{manual}");
}
