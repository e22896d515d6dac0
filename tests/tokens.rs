//! Where tokens come from and where they go.

mod fake;
mod tap;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use fake::account::Size;
use fake::{Account, Fake, Fault, What};
use serde_json::{Value, json};
use tap::{Ran, tap};

fn fake() -> Fake {
    Fake::start(Account::generate(3, Size { contacts: 30, lists: 2, campaigns: 3 }))
}

#[test]
fn a_rotated_token_is_written_back_to_the_config_and_the_rest_stays() {
    let fake = fake();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let mut config = fake.config();
    config["an_unknown_key"] = json!({"kept": [1, 2]});
    fs::write(&path, config.to_string()).unwrap();
    for _ in 0..2 {
        let output =
            Command::new(env!("CARGO_BIN_EXE_tap-constant-contact")).arg("--config").arg(&path).output().unwrap();
        let ran = Ran::of(&output);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let written: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(written["refresh_token"], fake.tokens().refresh_token.as_str());
        assert_ne!(written["refresh_token"], config["refresh_token"]);
        let keys = |v: &Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&written), keys(&config));
        assert_eq!(written["an_unknown_key"], config["an_unknown_key"]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(fake.tokens().reuses, 0);
}

#[test]
fn a_token_file_is_made_and_its_access_token_used_again() {
    let fake = fake();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/tokens.json");
    // The config keeps the first token, as one does that nothing writes back to.
    let more = json!({"token_file": path, "refresh_token": fake.tokens().refresh_token});
    for _ in 0..3 {
        let ran = tap(&fake, &more, None);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    }
    assert_eq!(fake.tokens().refreshes, 1);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // One that ended is renewed once, on the service's word.
    fake.tokens().revoke_access_tokens();
    let ran = tap(&fake, &more, None);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(fake.tokens().refreshes, 2);
}

#[test]
fn a_dead_grant_ends_the_run_without_showing_it() {
    let fake = fake();
    let ran = tap(&fake, &json!({"refresh_token": "used-long-ago"}), None);
    assert_eq!(ran.code, Some(3), "{}", ran.stderr);
    assert!(ran.stderr.contains("invalid_grant"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("used-long-ago") && !ran.stderr.contains("secret-0"), "{}", ran.stderr);
    assert_eq!(fake.calls().len(), 1);
}

#[test]
fn the_bot_filter_and_an_empty_body_are_no_refusal() {
    for what in [
        What::Status(403, "<html>blocked</html>".into(), "text/html"),
        What::Status(503, String::new(), "text/plain"),
        What::Status(200, String::new(), "application/json"),
    ] {
        let fake = fake();
        fake.fault(Fault { path: "/token".into(), skip: 0, times: 1, what });
        let ran = tap(&fake, &json!({}), None);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    }
}

#[test]
fn tokens_go_to_the_last_file_though_the_environment_comes_after_it() {
    let fake = fake();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    fs::write(&path, fake.config().to_string()).unwrap();
    for from_env in [false, true] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tap-constant-contact"));
        command.arg("--config").arg(&path).args(["--config", "ENV"]).env("TAP_CONSTANT_CONTACT_PAGE_SIZE", "100");
        let before = fs::read_to_string(&path).unwrap();
        if from_env {
            // One that comes from the environment would be used again next time, whatever the file says.
            command.env("TAP_CONSTANT_CONTACT_REFRESH_TOKEN", fake.tokens().refresh_token.clone());
        }
        let ran = Ran::of(&command.output().unwrap());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert_eq!(fs::read_to_string(&path).unwrap() == before, from_env);
        assert_eq!(ran.stderr.contains("could not be saved"), from_env, "{}", ran.stderr);
    }
}
