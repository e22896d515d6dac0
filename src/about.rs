//! Describes the tap: `--about`, the manual pages, shell completions.

use std::fmt::Write;

use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::{Map, Value, json};

use crate::cli::{Args, Format};
use crate::config::{allowed, schema, types};
use crate::error::{Error, Result};
use crate::shown::shown;
use crate::spelling::did_you_mean;

const NAME: &str = env!("CARGO_PKG_NAME");
const VERSION: &str = env!("CARGO_PKG_VERSION");
const DESCRIPTION: &str = env!("CARGO_PKG_DESCRIPTION");
const REPOSITORY: &str = env!("CARGO_PKG_REPOSITORY");
/// As Meltano names them.
const CAPABILITIES: [&str; 6] = ["catalog", "state", "discover", "about", "test", "structured-logging"];

const PREREQ: &str = "\
A Rust toolchain, 1.89 or newer, if the tap is built from source. An application at developer.constantcontact.com, created
by the user whose account you want to read.
";
const USAGE: &str = "\
Set `client_id`, `client_secret` and `token_file`, then log in once:

    meltano invoke tap-constant-contact login

`token_file` is the file for the tokens, such as `$MELTANO_PROJECT_ROOT/tokens.json`. Meltano deletes the config after each
run, so an application with rotating refresh tokens needs this file, on a disk that is kept between runs.
";

/// The answer to `--about`.
pub(crate) fn text(format: Format) -> String {
    let schema = schema();
    match format {
        Format::Text => plain(&schema),
        Format::Json => {
            let about = json!({
                "name": NAME,
                "description": DESCRIPTION,
                "version": VERSION,
                "capabilities": CAPABILITIES,
                "settings": schema,
            });
            format!("{about:#}\n")
        }
        Format::Markdown => markdown(&schema),
        Format::Meltano => {
            let mut definition = definition(&schema);
            // As Meltano Hub requires of its files.
            definition.sort_all_objects();
            format!("{definition:#}\n")
        }
    }
}

fn plain(schema: &Value) -> String {
    let mut out =
        format!("{NAME} {VERSION}\n{DESCRIPTION}\n\nCapabilities: {}\n\nSettings:\n", CAPABILITIES.join(", "));
    for (name, setting) in settings(schema) {
        let default = default(setting).map_or(String::new(), |value| format!("; default: {value}"));
        let _ = writeln!(out, "  {name}: {}{default}\n      {}", values(setting), meaning(setting));
    }
    out
}

fn markdown(schema: &Value) -> String {
    let mut out = format!("# {NAME}\n\n{DESCRIPTION}. Version {VERSION}.\n\n## Capabilities\n\n");
    for capability in CAPABILITIES {
        let _ = writeln!(out, "* `{capability}`");
    }
    out.push_str("\n## Settings\n\n| setting | value | default | meaning | in Domo |\n|---|---|---|---|---|\n");
    for (name, setting) in settings(schema) {
        let default = default(setting).map_or("–".to_owned(), |value| format!("`{value}`"));
        let domo = setting["x-domo"].as_str().unwrap_or_default();
        let _ = writeln!(out, "| `{name}` | {} | {default} | {} | {domo} |", values(setting), meaning(setting));
    }
    out
}

/// The plugin definition for Meltano Hub and `meltano add --from-ref`.
fn definition(schema: &Value) -> Value {
    let settings: Vec<Value> = settings(schema).iter().map(|(name, setting)| plugin(name, setting)).collect();
    json!({
        "name": NAME,
        "namespace": NAME.replace('-', "_"),
        "variant": NAME,
        "label": "Constant Contact",
        "description": DESCRIPTION,
        "repo": REPOSITORY,
        "docs": format!("{REPOSITORY}#readme"),
        "domain_url": "https://www.constantcontact.com",
        "keywords": ["api", "email", "marketing"],
        "maintenance_status": "active",
        "quality": "unknown",
        "pip_url": format!("git+{REPOSITORY}.git"),
        "executable": NAME,
        "capabilities": CAPABILITIES,
        "select": ["*.*"],
        "prereq": PREREQ,
        "usage": USAGE,
        "settings_group_validation": [["client_id", "token_file"], ["client_id", "refresh_token"], ["access_token"]],
        "settings": settings,
    })
}

/// A setting of a Meltano plugin definition.
fn plugin(name: &str, setting: &Value) -> Value {
    let types = types(setting);
    let options = setting["enum"].as_array();
    let kind = match types.iter().find(|t| **t != "null") {
        // If a setting can have several types, the tap parses the string.
        _ if types.contains(&"boolean") && types.contains(&"array") => "string",
        // Meltano 4.4.1 cannot write a `decimal` from the environment into the config.
        Some(&"number") => "string",
        Some(&"string") if options.is_some() => "options",
        Some(&"string") if !setting["format"].is_null() || !setting["anyOf"].is_null() => "date_iso8601",
        other => other.copied().unwrap_or("string"),
    };
    let mut plugin = json!({"name": name, "label": label(name), "kind": kind, "description": meaning(setting)});
    if setting["secret"] == true {
        plugin["sensitive"] = true.into();
    }
    // Meltano would write a `value` into the config, so that a new default in a later version would have no effect. It
    // expects lists as JSON.
    let default = if kind == "array" { setting.get("default").map(Value::to_string) } else { default(setting) };
    if let Some(default) = default {
        plugin["placeholder"] = default.into();
    }
    if let Some(options) = options {
        let named = |value: &Value| json!({"label": value.as_str().map(label), "value": value});
        plugin["options"] = options.iter().map(named).collect();
    }
    plugin
}

/// The label of a name in a form: `client_id` is "Client ID".
fn label(name: &str) -> String {
    let mut words: Vec<String> = name
        .split('_')
        .map(|word| match word {
            "id" | "uri" | "url" | "api" => word.to_ascii_uppercase(),
            "ids" => "IDs".to_owned(),
            _ => word.to_owned(),
        })
        .collect();
    words[0][..1].make_ascii_uppercase();
    words.join(" ")
}

fn settings(schema: &Value) -> &Map<String, Value> {
    schema["properties"].as_object().expect("the schema of a struct has properties")
}

fn values(setting: &Value) -> String {
    allowed(setting) + if setting["secret"] == true { ", secret" } else { "" }
}

/// The default as it would stand in an environment variable.
fn default(setting: &Value) -> Option<String> {
    match &setting["default"] {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => Some(items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")),
        other => Some(other.to_string()),
    }
}

fn meaning(setting: &Value) -> String {
    setting["description"].as_str().unwrap_or_default().replace('\n', " ")
}

/// Shell completions.
pub(crate) fn completions(shell: Shell) -> Vec<u8> {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), NAME, &mut out);
    out
}

/// The manual page of the tap or of one of its commands, as troff.
///
/// # Errors
/// `Usage` for an unknown command.
pub(crate) fn manual(command: Option<&str>) -> Result<Vec<u8>> {
    let mut page = Args::command();
    page.build();
    if let Some(name) = command {
        let Some(found) = page.find_subcommand(name).cloned() else {
            let known = page.get_subcommands().map(clap::Command::get_name);
            let (name, meant) = (shown(name), did_you_mean(name, known));
            return Err(Error::Usage(format!("there is no command {name:?}{meant}")));
        };
        page = found;
    }
    let mut out = Vec::new();
    clap_mangen::Man::new(page).render(&mut out)?;
    Ok(out)
}
