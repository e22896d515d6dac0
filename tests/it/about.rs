//! What the tap says about itself: `--about`, completions, the manual, and the format of the log.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use fake::account::Size;
use fake::{Account, Fake, Fault, What};
use serde_json::Value;

use crate::tap::{self, Ran, command};

/// The output of the tap, in an environment without settings.
fn answer(arguments: &[&str]) -> String {
    let output = command().args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn about() -> Value {
    serde_json::from_str(&answer(&["--about", "--format", "json"])).unwrap()
}

/// `UPDATE=1 cargo test --test it about::` rewrites it.
#[test]
fn docs_settings_lists_the_settings_of_the_tap() {
    let markdown = answer(&["--about", "--format", "markdown"]);
    let table = &markdown[markdown.find("| setting |").unwrap()..];
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once("<!-- settings -->\n").unwrap();
    let (_, after) = rest.split_once("<!-- /settings -->").unwrap();
    let expected = format!("{before}<!-- settings -->\n{table}<!-- /settings -->{after}");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), expected, "the settings in docs/settings.md are stale");
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
    // The doc comment of the type is for developers.
    assert!(schema.get("description").is_none());
    let settings = schema["properties"].as_object().unwrap();
    let secret: Vec<_> = settings.iter().filter(|(_, s)| s["secret"] == true).map(|(name, _)| name).collect();
    assert_eq!(secret, ["client_secret", "refresh_token", "access_token"]);
    let validator = jsonschema::validator_for(schema).unwrap();
    for group in ["token_file", "refresh_token"] {
        assert_eq!(schema["dependentRequired"][group], serde_json::json!(["client_id"]));
        assert!(!validator.is_valid(&serde_json::json!({ group: "x" })), "{group}");
    }
    assert!(validator.is_valid(&serde_json::json!({"client_id": "x", "token_file": "x", "start_date": null})));
    for (name, setting) in settings {
        assert_eq!(setting["secret"], setting["writeOnly"], "{name}");
        assert!(!setting["description"].as_str().unwrap().is_empty(), "{name}");
        if let Some(default) = setting.get("default") {
            assert!(validator.is_valid(&serde_json::json!({ name: default })), "{name}");
        }
    }
}

#[test]
fn the_plugin_definition_has_the_kinds_that_meltano_knows() {
    let plugin: Value = serde_json::from_str(&answer(&["--about", "--format", "meltano"])).unwrap();
    let about = about();
    assert_eq!(plugin["capabilities"], about["capabilities"]);
    let settings = plugin["settings"].as_array().unwrap();
    let names: Vec<_> = settings.iter().map(|s| s["name"].as_str().unwrap()).collect();
    let declared: Vec<_> = about["settings"]["properties"].as_object().unwrap().keys().collect();
    assert_eq!(names, declared);
    let kind = |name: &str| &settings.iter().find(|s| s["name"] == name).unwrap()["kind"];
    for (name, expected) in [
        ("client_id", "string"),
        ("start_date", "date_iso8601"),
        ("report_date", "date_iso8601"),
        ("page_size", "integer"),
        ("requests_per_second", "string"),
        ("contact_ids", "array"),
        ("include_subresources", "string"),
        ("on_quota", "options"),
    ] {
        assert_eq!(kind(name), expected, "{name}");
    }
    let sensitive: Vec<_> = settings.iter().filter(|s| s["sensitive"] == true).map(|s| &s["name"]).collect();
    assert_eq!(sensitive, ["client_secret", "refresh_token", "access_token"]);
}

#[test]
fn discovery_wins_over_a_sync_and_needs_no_file() {
    let plain = answer(&["--discover"]);
    let sync = ["--config", "none.json", "--catalog", "none.json", "--state", "none.json", "--discover"];
    assert_eq!(answer(&sync), plain);
    assert!(
        answer(&["--config", "none.json", "--state", "none.json", "--version"]).starts_with("tap-constant-contact ")
    );
}

#[test]
fn about_wins_over_a_sync_and_needs_no_file() {
    let plain = answer(&["--about"]);
    assert!(plain.contains("start_date"));
    let sync = ["--config", "none.json", "--catalog", "none.json", "--state", "none.json", "--discover", "--about"];
    assert_eq!(answer(&sync), plain);
}

#[test]
fn completions_and_the_manual_can_be_read() {
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
    let manual = answer(&["man", "login"]);
    assert!(manual.contains(".TH tap-constant-contact-login") && manual.contains("\\-\\-device"), "{manual}");
    assert_eq!(command().args(["man", "nothing"]).output().unwrap().status.code(), Some(2));
}

/// The fields of a structured line; a metric also has `metric_info`.
const FIELDS: [&str; 8] = ["level", "pid", "logger_name", "ts", "thread_name", "app_name", "stream_name", "message"];

/// Runs a sync and parses its log, whose lines must have the right fields.
fn log_lines(fake: &Fake, arguments: &[&str], logging_config: Option<&Path>) -> (Option<i32>, Vec<Value>) {
    let config = tap::file(&fake.config());
    let mut command = command();
    command.arg("--config").arg(config.path()).args(arguments);
    if let Some(path) = logging_config {
        command.env("SINGER_SDK_LOG_CONFIG", path);
    }
    let ran = Ran::of(&command.output().unwrap());
    let lines: Vec<Value> = ran.stderr.lines().map(|l| serde_json::from_str(l).expect(l)).collect();
    for line in &lines {
        let mut fields: Vec<_> = line.as_object().unwrap().keys().collect();
        if line["message"] == "METRIC" {
            assert_eq!(fields.pop().unwrap(), "metric_info");
            assert!(line["metric_info"]["value"].is_number(), "{line}");
        }
        assert_eq!(fields, FIELDS, "{line}");
        assert!(line["pid"].is_u64() && line["ts"].as_f64() > Some(1.7e9), "{line}");
        assert_eq!(line["app_name"], "tap-constant-contact");
        assert!(["logger_name", "thread_name", "message"].iter().all(|field| line[field].is_string()), "{line}");
    }
    (ran.code, lines)
}

fn fake() -> Fake {
    Fake::start(Account::generate(11, Size { contacts: 12, lists: 2, campaigns: 2 }))
}

#[test]
fn structured_lines_have_the_fields_that_meltano_needs() {
    let (code, lines) = log_lines(&fake(), &["--log-format", "json"], None);
    assert_eq!(code, Some(0));
    let counted = lines.iter().find(|l| l["metric_info"]["tags"]["stream"] == "contacts").unwrap();
    assert_eq!(counted["stream_name"], "contacts");
    assert_eq!(counted["level"], "info");
    assert_eq!(counted["metric_info"]["type"], "counter");
    assert_eq!(counted["metric_info"]["metric"], "record_count");
    assert_eq!(counted["metric_info"]["value"], 12);
    assert!(lines.last().unwrap()["stream_name"].is_null());
}

#[test]
fn a_failure_is_a_structured_line_as_well() {
    let fake = fake();
    fake.fault(Fault::once("limit=500&include_count", What::QuotaExceeded));
    let (code, lines) = log_lines(&fake, &["--log-format", "json"], None);
    assert_eq!(code, Some(4));
    let last = lines.last().unwrap();
    assert_eq!((last["level"].as_str(), last["stream_name"].as_str()), (Some("critical"), Some("contacts")));
    let (code, lines) = log_lines(&fake, &["--log-format", "json", "--state", "none.json"], None);
    assert_eq!((code, lines.len()), (Some(2), 1));
}

#[test]
fn the_logging_config_of_meltano_applies_unless_log_format_is_set() {
    let structured = serde_json::json!({
        "version": 1,
        "formatters": {"structured": {"()": "singer_sdk.logging.StructuredFormatter"}},
    });
    let structured = tap::file(&structured);
    let (code, lines) = log_lines(&fake(), &[], Some(structured.path()));
    assert_eq!((code, lines.is_empty()), (Some(0), false));
    let plain = tap::file(&serde_json::json!({"version": 1, "formatters": {"default": {"format": "%(message)s"}}}));
    let cases = [(vec![], plain.path()), (vec!["--log-format", "text"], structured.path())];
    for (arguments, path) in cases {
        let mut command = command();
        command.arg("--test").args(arguments).env("SINGER_SDK_LOG_CONFIG", path);
        let ran = Ran::of(&command.output().unwrap());
        assert!(ran.stderr.starts_with("CRITICAL no config: pass --config"), "{}", ran.stderr);
    }
}

#[cfg(unix)]
#[test]
fn discovery_on_a_terminal_says_how_to_select() {
    let shown = |arguments: &[&str]| {
        let mut discover = command();
        discover.args(arguments).env("TERM", "xterm");
        crate::terminal::watch(discover, 200).trim_end().to_owned()
    };
    let patterns = "--select contacts,email_campaigns --select '!contacts.notes'";
    assert_eq!(shown(&["--discover"]), format!("To read a part of this: tap-constant-contact {patterns}"));
    assert_eq!(
        shown(&["--discover", "--config", "my config.json"]),
        format!("To read a part of this: tap-constant-contact {patterns} --config 'my config.json'")
    );
}
