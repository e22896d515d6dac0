//! What is checked in beside the code is what the code says. `UPDATE=1 cargo test --test checked_in` rewrites it.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn same(path: &Path, expected: &Value) {
    let expected = serde_json::to_string_pretty(expected).unwrap() + "\n";
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path, &expected).unwrap();
    }
    assert_eq!(fs::read_to_string(path).unwrap_or_default(), expected, "{} is stale", path.display());
}

#[test]
fn schemas_and_example_catalog_are_those_of_the_types() {
    let output = Command::new(env!("CARGO_BIN_EXE_tap-constant-contact")).arg("--discover").output().unwrap();
    let catalog: Value = serde_json::from_slice(&output.stdout).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    same(&root.join("catalog.example.json"), &catalog);
    for stream in catalog["streams"].as_array().unwrap() {
        let name = stream["tap_stream_id"].as_str().unwrap();
        same(&root.join("schemas").join(format!("{name}.json")), &stream["schema"]);
    }
}
