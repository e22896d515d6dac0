//! The documentation agrees with the code.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fake::account::Size;
use fake::{Account, Fake, Switches};
use serde_json::{Value, json};

use crate::tap::{command, streams, tap};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The paths of all Markdown pages.
fn pages() -> Vec<PathBuf> {
    let folders = ["", "docs", "benches"].map(|folder| root().join(folder));
    let files = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|e| e == "md")).collect()
}

/// The anchors that GitHub and others make of the headings of a page.
fn anchors(page: &str) -> BTreeSet<String> {
    let anchor = |heading: &str| {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    let headings = outside_of_code(page).into_iter().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#').trim())).collect()
}

fn outside_of_code(page: &str) -> Vec<&str> {
    let mut within = false;
    page.lines()
        .filter(|line| {
            let fence = line.trim_start().starts_with("```");
            within ^= fence;
            !within && !fence
        })
        .collect()
}

/// The blocks of code in a language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    page.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// The rows of the table with this heading, as cells.
fn table(page: &str, heading: &str) -> Vec<Vec<String>> {
    let lines = page.lines().skip_while(|line| *line != heading).skip(2).take_while(|line| line.starts_with('|'));
    lines.map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut links = 0;
    for path in pages() {
        let page = fs::read_to_string(&path).unwrap();
        for link in outside_of_code(&page).join("\n").split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            if link.starts_with("http") {
                continue;
            }
            let (to, anchor) = link.split_once('#').unwrap_or((link, ""));
            let to = if to.is_empty() { path.clone() } else { path.parent().unwrap().join(to) };
            assert!(to.exists(), "{}: {link}", path.display());
            let found = anchor.is_empty() || anchors(&fs::read_to_string(&to).unwrap()).contains(anchor);
            assert!(found, "{}: {link}", path.display());
            links += 1;
        }
    }
    assert!(links > 30, "{links}");
}

fn small() -> Fake {
    let account = Account::generate(2, Size { contacts: 4, lists: 3, campaigns: 2 });
    Fake::start_with(account, Switches::long_lived())
}

#[test]
fn every_config_works() {
    let mut configs = 0;
    for page in ["README.md", "docs/cookbook.md"] {
        for block in blocks(&read(page), "json") {
            let shown: Value = serde_json::from_str(&block).unwrap_or_else(|e| panic!("{page}: {e}\n{block}"));
            if shown.get("client_id").is_none() {
                continue;
            }
            configs += 1;
            let fake = small();
            let mut more = shown.clone();
            let settings = more.as_object_mut().unwrap();
            // The placeholders.
            for key in ["client_id", "client_secret", "token_file"] {
                settings.remove(key);
            }
            if let Some(ids) = settings.get_mut("contact_ids") {
                let account = fake.account();
                let active = account.contacts.iter().find(|contact| contact.status() == "active").unwrap();
                *ids = json!([*active.id]);
            }
            let ran = tap(&fake, &more, None);
            assert_eq!(ran.code, Some(0), "{page}: {block}{}", ran.stderr);
            assert!(!ran.stderr.contains("WARNING"), "{page}: {block}{}", ran.stderr);
        }
    }
    assert!(configs > 5, "{configs}");
}

#[test]
fn the_state_shown_is_one_that_the_tap_reads() {
    let page = read("docs/guarantees.md");
    let shown = blocks(&page, "json").into_iter().find(|block| block.contains("currently_syncing")).unwrap();
    let mut state: Value = serde_json::from_str(&shown).unwrap();
    // The state is of another account.
    assert_eq!(tap(&small(), &json!({}), Some(&state)).code, Some(2));
    state["account"] = json!("");
    let more = json!({"include_subresources": "custom_fields,notes", "tracking_activity_types": "em_opens,em_clicks"});
    let ran = tap(&small(), &more, Some(&state));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    // With the settings that it was made with, the interrupted read continues.
    assert!(!ran.stderr.contains("WARNING"), "{}", ran.stderr);
    // The interrupted stream is first.
    assert_eq!(ran.messages[0]["stream"], state["currently_syncing"]);
    assert!(ran.stderr.contains("continuing the read that ends at 2026-11-23T10:00:00Z"), "{}", ran.stderr);
}

#[test]
fn the_picture_shows_the_output_of_cargo_demo() {
    let picture = read("docs/demo.svg");
    // The account of `cargo demo`.
    let mut account = Account::generate(1, Size { contacts: 60, lists: 6, campaigns: 8 });
    account.campaigns.iter_mut().for_each(|campaign| campaign.detail_404 = false);
    for stream in streams() {
        let rows = account.truth(stream).len();
        let line = format!("{stream:<26} {rows:>6}  ");
        assert!(picture.contains(&line), "docs/demo.svg does not show {line:?}: run .ci/picture.py");
    }
}

#[test]
fn every_part_of_the_checks_is_explained() {
    let (run, page) = (read(".ci/run"), read("CONTRIBUTING.md"));
    let commands = run.lines().filter_map(|line| line.strip_prefix("step ")?.split_whitespace().last());
    let parts: Vec<&str> = commands.filter(|command| command.starts_with(".ci/")).collect();
    let missing: Vec<&&str> = parts.iter().filter(|part| !page.contains(&format!("\n| `{part}` |"))).collect();
    assert!(parts.len() > 5 && missing.is_empty(), "{missing:?} of {parts:?}");
}

#[test]
fn the_first_page_is_short() {
    let page = read("README.md");
    assert!(page.lines().count() <= 200, "{} lines", page.lines().count());
    assert!(page.split_whitespace().count() <= 2200, "{} words", page.split_whitespace().count());
}

/// The source code with continued string lines joined.
fn words_of_the_code() -> String {
    fn walk(folder: &Path, out: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, out);
            } else {
                out.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut code = String::new();
    walk(&root().join("src"), &mut code);
    let joined: Vec<&str> = code.split("\\\n").map(str::trim_start).collect();
    joined.concat().replace("\\\"", "\"")
}

#[test]
fn every_message_explained_is_one_that_the_tap_has() {
    let code = words_of_the_code();
    let mut checked = 0;
    for page in ["docs/troubleshooting.md"] {
        let page = read(page);
        let lines = page.lines().filter(|line| line.starts_with("| `")).filter(|line| !line.starts_with("| `-"));
        let messages = lines.filter_map(|line| line.trim_start_matches("| ").split(" | ").next());
        for message in messages.flat_map(|cell| cell.split('`').skip(1).step_by(2)) {
            // The code fills in names in capitals, numbers and ….
            let fixed =
                message.split(|c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || "…:;()\"{}".contains(c));
            for words in fixed.map(|words| words.trim_matches([' ', ':', ';', ',', '.'])) {
                // One message is the operating system's.
                if words.split(' ').count() > 4 && !words.contains("such file") {
                    assert!(code.contains(words), "no message says {words:?}, of {message:?}");
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 60, "{checked}");
}

#[test]
fn the_exit_codes_are_those_of_the_help() {
    let output = command().arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    let rows = table(&read("docs/settings.md"), "| code | meaning |");
    assert_eq!(rows.len(), 7);
    for row in rows {
        assert!(help.contains(&format!("{} ", row[0])), "{row:?}");
    }
}

#[test]
fn the_rust_version_is_enough_for_all_that_is_built_in() {
    let numbers = |version: &str| -> Vec<u32> { version.split('.').map(|part| part.parse().unwrap()).collect() };
    let output = Command::new(env!("CARGO")).args(["metadata", "--format-version", "1", "--locked"]).output().unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let stated = env!("CARGO_PKG_RUST_VERSION");
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100);
    for package in packages {
        if let Some(needed) = package["rust_version"].as_str() {
            assert!(numbers(needed) <= numbers(&format!("{stated}.0")), "{} needs {needed}", package["name"]);
        }
    }
    assert!(read("README.md").contains(&format!("Rust toolchain, {stated} or newer")));
    assert!(read(".github/workflows/ci.yml").contains(stated));
}
