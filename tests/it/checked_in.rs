//! What is checked in beside the code is what the code says. `UPDATE=1 cargo test --test it checked_in::` rewrites it.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value, json};

/// The same as what is checked in at this path of the repository.
fn same(path: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, expected).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap_or_default(), expected, "{} is stale", path.display());
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap() + "\n"
}

fn answer(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_tap-constant-contact")).args(arguments).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn schemas_and_example_catalog_are_those_of_the_types() {
    let catalog = answer(&["--discover"]);
    same("catalog.example.json", &pretty(&catalog));
    for stream in catalog["streams"].as_array().unwrap() {
        let name = stream["tap_stream_id"].as_str().unwrap();
        same(&format!("schemas/{name}.json"), &pretty(&stream["schema"]));
    }
}

const GENERATED: &str = "# Generated from src/config.rs by `UPDATE=1 cargo test --test it checked_in::`.\n";

#[test]
fn the_definition_for_meltano_hub_has_the_settings_that_the_tap_has() {
    let definition = answer(&["--about", "--format", "meltano"]);
    same("meltano/hub.yml", &format!("{GENERATED}{}", yaml(&definition)));
}

#[test]
fn the_meltano_project_has_the_settings_that_the_tap_has() {
    let mut plugin = Map::new();
    for (key, value) in answer(&["--about", "--format", "meltano"]).as_object().unwrap() {
        match key.as_str() {
            "pip_url" => plugin.insert(key.clone(), ".".into()),
            "name" | "namespace" | "label" | "executable" | "capabilities" | "select" | "settings_group_validation" => {
                plugin.insert(key.clone(), value.clone())
            }
            "settings" => {
                // What the user sets comes to stand here too, so it goes before the long list.
                plugin.insert("config".into(), json!({"token_file": "$MELTANO_PROJECT_ROOT/tokens.json"}));
                plugin.insert(key.clone(), value.clone())
            }
            _ => None,
        };
    }
    let project = json!({
        "default_environment": "dev",
        "environments": [{"name": "dev"}],
        "send_anonymous_usage_stats": false,
        "plugins": {
            "loaders": [{
                "name": "target-jsonl",
                "namespace": "target_jsonl",
                "label": "JSON Lines",
                // Its dependencies need what later setuptools do not bring.
                "pip_url": "target-jsonl==0.1.4 setuptools==75.8.0",
                "executable": "target-jsonl",
                "config": {"destination_path": "output"},
                "settings": [
                    {"name": "destination_path", "label": "Destination path", "kind": "string",
                     "description": "The folder for the files, which must exist."},
                    {"name": "do_timestamp_file", "label": "Timestamp file", "kind": "boolean",
                     "description": "Whether each run writes files of its own."},
                ],
            }],
            "extractors": [plugin],
        },
    });
    same("meltano.yml", &format!("{GENERATED}{}", yaml(&project)));
}

fn yaml(value: &Value) -> String {
    serde_yaml_ng::to_string(value).unwrap()
}
