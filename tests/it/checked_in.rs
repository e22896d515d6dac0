//! The generated files are up to date. `UPDATE=1 cargo test --test it checked_in::` rewrites them.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value, json};

/// Compares a generated file with its content.
fn assert_current(path: &str, expected: &str) {
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
    assert_current("catalog.example.json", &pretty(&catalog));
    for stream in catalog["streams"].as_array().unwrap() {
        let name = stream["tap_stream_id"].as_str().unwrap();
        assert_current(&format!("schemas/{name}.json"), &pretty(&stream["schema"]));
    }
}

/// Everything that depends on the stream is derived from its `Source`, so that a new stream is one file and one line.
#[test]
fn outside_its_folder_no_stream_is_named() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let catalog = answer(&["--discover"]);
    let names = catalog["streams"].as_array().unwrap().iter().map(|stream| stream["tap_stream_id"].as_str().unwrap());
    let names: Vec<&str> = names.collect();
    let mut found = Vec::new();
    let mut folders = vec![src.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let place = path.strip_prefix(&src).unwrap().display().to_string();
            if path.is_dir() {
                folders.extend((place != "streams").then_some(path));
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let code = text.rsplit_once("\n#[cfg(test)]\n").map_or(&*text, |(code, _)| code);
            for (number, line) in code.lines().enumerate() {
                // One of the routes has the name of a stream.
                let is_of_route = place == "config/words.rs" && line.ends_with("Contacts = \"contacts\",");
                if names.iter().any(|name| names_stream(line, name)) && !is_of_route {
                    found.push(format!("{place}:{}: {}", number + 1, line.trim()));
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Whether a line has the name of the stream in a string, or as code in a comment. The English word "contacts" does not
/// count.
fn names_stream(line: &str, name: &str) -> bool {
    let is_of_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(name).any(|(at, _)| {
        let (before, after) = (line[..at].chars().next_back(), line[at + name.len()..].chars().next());
        let is_word = !before.is_some_and(is_of_word) && !after.is_some_and(is_of_word);
        let is_quoted = before.is_some_and(|c| "\"'`!".contains(c));
        is_word && before != Some('/') && (is_quoted || name.contains('_'))
    })
}

const GENERATED: &str = "# Generated from src/config/mod.rs by `UPDATE=1 cargo test --test it checked_in::`.\n";

#[test]
fn the_definition_for_meltano_hub_has_the_settings_that_the_tap_has() {
    let definition = answer(&["--about", "--format", "meltano"]);
    assert_current("meltano/hub.yml", &format!("{GENERATED}{}", yaml(&definition)));
}

/// The keys in the order in which `meltano config set` rewrites the file, so that a user's diff has only the settings.
const PLUGIN: [&str; 9] = [
    "name",
    "namespace",
    "label",
    "executable",
    "capabilities",
    "settings_group_validation",
    "settings",
    "config",
    "select",
];
const SETTING: [&str; 7] = ["name", "kind", "label", "description", "options", "placeholder", "sensitive"];

fn in_order(object: &Value, keys: &[&str]) -> Value {
    keys.iter().filter_map(|key| Some(((*key).to_owned(), object.get(*key)?.clone()))).collect::<Map<_, _>>().into()
}

#[test]
fn the_meltano_project_has_the_settings_that_the_tap_has() {
    let mut plugin = answer(&["--about", "--format", "meltano"]);
    let settings = plugin["settings"].as_array().unwrap();
    plugin["settings"] = settings.iter().map(|setting| in_order(setting, &SETTING)).collect();
    plugin["config"] = json!({"token_file": "$MELTANO_PROJECT_ROOT/tokens.json"});
    let mut plugin = in_order(&plugin, &PLUGIN);
    plugin.as_object_mut().unwrap().shift_insert(3, "pip_url".into(), ".".into());
    let project = json!({
        "default_environment": "dev",
        "environments": [{"name": "dev"}],
        "send_anonymous_usage_stats": false,
        "plugins": {
            "extractors": [plugin],
            "loaders": [{
                "name": "target-jsonl",
                "namespace": "target_jsonl",
                "label": "JSON Lines",
                // Its dependencies need pkg_resources, which later setuptools do not have.
                "pip_url": "target-jsonl==0.1.4 setuptools==75.8.0",
                "executable": "target-jsonl",
                "settings": [
                    {"name": "destination_path", "kind": "string", "label": "Destination path",
                     "description": "The folder for the files, which must exist."},
                    {"name": "do_timestamp_file", "kind": "boolean", "label": "Timestamp file",
                     "description": "Whether each run writes files of its own."},
                ],
                "config": {"destination_path": "output"},
            }],
        },
        // Otherwise Meltano adds one.
        "project_id": "tap-constant-contact",
    });
    assert_current("meltano.yml", &format!("{GENERATED}{}", yaml(&project)));
}

#[test]
fn the_keys_of_the_hub_definition_are_sorted() {
    fn check(value: &Value) {
        match value {
            Value::Object(map) => {
                assert!(map.keys().is_sorted(), "{:?}", map.keys().collect::<Vec<_>>());
                map.values().for_each(check);
            }
            Value::Array(items) => items.iter().for_each(check),
            _ => {}
        }
    }
    let hub = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("meltano/hub.yml")).unwrap();
    check(&serde_yaml_ng::from_str(&hub).unwrap());
}

fn yaml(value: &Value) -> String {
    serde_yaml_ng::to_string(value).unwrap()
}
