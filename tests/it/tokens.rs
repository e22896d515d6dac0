//! Where the tap reads tokens and where it stores them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fake::account::Size;
use fake::{Account, Fake, Fault, What};
use serde_json::{Value, json};

use crate::tap::{Ran, command, tap};

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
fn a_token_file_is_created_and_its_access_token_used_again() {
    let fake = fake();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/tokens.json");
    // The config still has the first token.
    let more = json!({"token_file": path, "refresh_token": fake.tokens().refresh_token});
    for _ in 0..3 {
        let ran = tap(&fake, &more, None);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    }
    assert_eq!(fake.tokens().refreshes, 1);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // An access token that the service refuses is renewed once.
    fake.tokens().revoke_access_tokens();
    let ran = tap(&fake, &more, None);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(fake.tokens().refreshes, 2);
}

#[test]
fn a_revoked_login_ends_the_run_without_showing_its_token() {
    let fake = fake();
    let ran = tap(&fake, &json!({"refresh_token": "used-long-ago"}), None);
    assert_eq!(ran.code, Some(3), "{}", ran.stderr);
    assert!(ran.stderr.contains("invalid_grant"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("used-long-ago") && !ran.stderr.contains("secret-0"), "{}", ran.stderr);
    assert_eq!(fake.calls().len(), 1);
}

#[test]
fn a_message_about_a_refused_token_names_its_file() {
    let fake = fake();
    let folder = tempfile::tempdir().unwrap();
    let (config, store) = (folder.path().join("config.json"), folder.path().join("tokens.json"));
    let mut settings = fake.config();
    settings["refresh_token"] = json!("used-long-ago");
    let critical = |settings: &Value| {
        fs::write(&config, settings.to_string()).unwrap();
        let ran = run(&config);
        assert_eq!(ran.code, Some(3), "{}", ran.stderr);
        ran.stderr
    };
    let came_from = |path: &Path| {
        let login = format!("tap-constant-contact login --config {}", config.display());
        format!("it came from {}. Log in again: {login}.", path.display())
    };
    assert!(critical(&settings).contains(&came_from(&config)));
    settings["token_file"] = json!(store);
    assert!(critical(&settings).contains(&came_from(&config)));
    settings["refresh_token"] = Value::Null;
    fs::write(&store, r#"{"refresh_token": "used-long-ago"}"#).unwrap();
    assert!(critical(&settings).contains(&came_from(&store)));
}

#[test]
fn a_missing_token_file_is_an_error_and_is_not_created() {
    let fake = fake();
    let folder = tempfile::tempdir().unwrap();
    for name in ["nosuch/tokens.json", "tokens.json"] {
        let path = folder.path().join(name);
        let ran = tap(&fake, &json!({"token_file": path, "refresh_token": null}), None);
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        let message = format!("CRITICAL {} does not exist, so you are not logged in. Run: tap-", path.display());
        assert!(ran.stderr.contains(&message), "{}", ran.stderr);
        // The same with an access token that has expired.
        let more = json!({"token_file": path, "refresh_token": null, "access_token": "ended"});
        let ran = tap(&fake, &more, None);
        assert_eq!(ran.code, Some(3), "{}", ran.stderr);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
    assert!(fake.calls().iter().all(|call| !call.is_token));
}

#[test]
fn a_token_file_that_is_something_else_is_left_alone() {
    let fake = fake();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.json");
    for text in [r#"{"client_id": "a", "client_secret": "b"}"#, r#"{"bookmarks": {}}"#, r#"{"name": "x"}"#, "[1]", "x"]
    {
        fs::write(&path, text).unwrap();
        let ran = tap(&fake, &json!({"token_file": path}), None);
        assert_eq!(ran.code, Some(2), "{text}: {}", ran.stderr);
        assert!(ran.stderr.contains("is not a token file. Set token_file to another path"), "{text}: {}", ran.stderr);
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    // The first never ends, and the second takes nothing.
    for device in ["/dev/zero", "/dev/full", "/dev/null"] {
        let ran = tap(&fake, &json!({"token_file": device}), None);
        assert_eq!(ran.code, Some(2), "{device}: {}", ran.stderr);
        assert!(ran.stderr.contains(&format!("token_file is {device}, a device")), "{device}: {}", ran.stderr);
        assert!(!ran.stderr.contains("chmod"), "{device}: {}", ran.stderr);
    }
    assert!(fake.calls().is_empty());
}

#[test]
fn a_file_that_may_not_be_read_is_told_with_what_to_run() {
    let fake = fake();
    let folder = tempfile::tempdir().unwrap();
    let binary = for_all(folder.path());
    let write = |name: &str, text: String, mode: u32| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        set_mode(&path, mode);
        path
    };
    let tokens = write("tokens.json", json!({"refresh_token": "r"}).to_string(), 0);
    let closed = write("closed.json", fake.config().to_string(), 0);
    let mut config = fake.config();
    let open = write("open.json", config.to_string(), 0o644);
    config["token_file"] = json!(tokens);
    let with_tokens = write("with_tokens.json", config.to_string(), 0o644);
    for (arguments, named) in [(vec![&with_tokens], &tokens), (vec![&closed], &closed), (vec![&open, &closed], &closed)]
    {
        let mut command = Command::new(&binary);
        for (flag, path) in ["--config", "--state"].iter().zip(arguments) {
            command.arg(flag).arg(path);
        }
        let ran = Ran::of(&as_nobody(&mut command).output().unwrap());
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        let told =
            format!("permission denied. To let this user read it, run: sudo chown \"$(id -un)\" {}", named.display());
        assert!(ran.stderr.contains(&told), "{}", ran.stderr);
    }
}

#[test]
fn the_bot_filter_and_an_empty_body_are_not_taken_for_a_refusal() {
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
            // The refresh token in the environment would be used again, whatever the file has.
            command.env("TAP_CONSTANT_CONTACT_REFRESH_TOKEN", fake.tokens().refresh_token.clone());
        }
        let ran = Ran::of(&command.output().unwrap());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert_eq!(fs::read_to_string(&path).unwrap() == before, from_env);
        assert_eq!(ran.stderr.contains("could not be saved"), from_env, "{}", ran.stderr);
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn run(config: &Path) -> Ran {
    Ran::of(&command().arg("--config").arg(config).output().unwrap())
}

#[test]
fn a_config_keeps_its_formatting_when_a_token_is_written_back() {
    let fake = fake();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let (api, auth) = (fake.api_url(), fake.auth_url());
    for layout in [
        "{\r\n\t\"note\" : [ 1,2 ,\r\n3 ],\r\n\t\"refresh_token\":   \"TOKEN\"  ,\r\n  MORE }\r\n\r\n",
        "{\"refresh_token\":\"TOKEN\",MORE}",
        "\n  {  MORE  , \"note\": {\"refresh_token\": \"TOKEN\", \"\\u00e4\": 1.50}\n, \"refresh_token\" :\"TOKEN\"}",
    ] {
        let more = format!(
            "\"client_id\": \"client-0\", \"client_secret\":\"secret-0\",\t\"api_url\": \"{api}\",\n \"auth_url\": \"{auth}\", \"requests_per_second\": 1e3"
        );
        let old = fake.tokens().refresh_token.clone();
        let before = layout.replace("MORE", &more).replace("TOKEN", &old);
        fs::write(&path, &before).unwrap();
        let ran = run(&path);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        // The last top-level one is the setting; a nested one is not.
        let at = before.rfind(&format!("\"{old}\"")).unwrap() + 1;
        let expected = [&before[..at], &fake.tokens().refresh_token, &before[at + old.len()..]].concat();
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
    }
}

#[test]
fn the_file_behind_a_link_is_replaced_and_the_link_stays() {
    for token_file in [true, false] {
        let fake = fake();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("real")).unwrap();
        let mut config = fake.config();
        // A link to a link; one of them is relative.
        symlink("link.json", at("first.json")).unwrap();
        symlink("real/store.json", at("link.json")).unwrap();
        if token_file {
            config["token_file"] = json!(at("first.json"));
            fs::write(at("config.json"), config.to_string()).unwrap();
        } else {
            fs::write(at("first.json"), config.to_string()).unwrap();
            set_mode(&at("first.json"), 0o644);
        }
        for _ in 0..2 {
            let ran = run(&at(if token_file { "config.json" } else { "first.json" }));
            assert_eq!(ran.code, Some(0), "{}", ran.stderr);
            for link in ["first.json", "link.json"] {
                assert!(fs::symlink_metadata(at(link)).unwrap().is_symlink(), "{link}");
            }
            assert!(fs::read_to_string(at("real/store.json")).unwrap().contains(&fake.tokens().refresh_token));
            assert_eq!(mode(&at("real/store.json")), 0o600);
            fake.tokens().revoke_access_tokens();
        }
        // The lock is beside the file itself, so that runs through other links use the same one.
        assert!(at("real/store.json.lock").exists());
        assert_eq!(fake.tokens().reuses, 0);
    }
}

/// Takes from a command root's right to write anywhere.
pub fn as_nobody(command: &mut Command) -> &mut Command {
    if rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    command
}

fn to_nobody(path: &Path) {
    if rustix::process::geteuid().is_root() {
        chown(path, Some(65534), Some(65534)).unwrap();
    }
}

/// A copy of the tap that every user may run.
pub fn for_all(folder: &Path) -> PathBuf {
    set_mode(folder, 0o755);
    let binary = folder.join("tap");
    // Copied by another process: a file that a fork of this one has open for writing cannot be executed.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_tap-constant-contact")).arg(&binary).status();
    assert!(copied.unwrap().success());
    binary
}

#[test]
#[expect(clippy::print_stderr)]
fn runs_by_root_and_by_the_owner_take_turns() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not tried: only root can run as two users");
        return;
    }
    let owner = |path: &Path| fs::metadata(path).unwrap().uid();
    for (token_file, old_lock) in [(true, false), (false, false), (true, true), (false, true)] {
        let fake = fake();
        let outer = tempfile::tempdir().unwrap();
        let binary = for_all(outer.path());
        let folder = outer.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let (config_file, tokens_file) = (folder.join("config.json"), folder.join("tokens.json"));
        let mut config = fake.config();
        if token_file {
            config["token_file"] = json!(tokens_file);
        }
        fs::write(&config_file, config.to_string()).unwrap();
        set_mode(&config_file, 0o600);
        for path in [&folder, &config_file] {
            to_nobody(path);
        }
        let store = if token_file { &tokens_file } else { &config_file };
        let beside = |suffix: &str| PathBuf::from(format!("{}{suffix}", store.display()));
        let tap = |root: bool| {
            let mut command = Command::new(&binary);
            command.arg("--config").arg(&config_file).stdout(Stdio::piped()).stderr(Stdio::piped());
            if !root {
                as_nobody(&mut command);
            }
            command.spawn().unwrap()
        };
        let end = |tap: Child| {
            let ran = Ran::of(&tap.wait_with_output().unwrap());
            assert_eq!(ran.code, Some(0), "{}", ran.stderr);
            assert!(!ran.stderr.contains("could not be saved"), "{}", ran.stderr);
        };
        end(tap(true));
        assert_eq!((owner(store), owner(&beside(".lock"))), (65534, 65534));
        if old_lock {
            chown(beside(".lock"), Some(0), Some(0)).unwrap();
        }
        fake.tokens().revoke_access_tokens();
        fake.switches().latency = Duration::from_millis(100);
        let taps: Vec<_> = (0..6).map(|n| tap(n % 3 == 0)).collect();
        taps.into_iter().for_each(end);
        assert_eq!(fake.tokens().reuses, 0);

        // The owner stores what root could not.
        if token_file && !old_lock {
            fs::remove_file(store).unwrap();
            let mut config = config.clone();
            config["refresh_token"] = json!(fake.tokens().refresh_token);
            fs::write(&config_file, config.to_string()).unwrap();
            fs::create_dir_all(beside(".new").join("full")).unwrap();
            end_unsaved(tap(true));
            fs::remove_dir_all(beside(".new")).unwrap();
            fake.tokens().revoke_access_tokens();
            end(tap(false));
            assert_eq!(fake.tokens().reuses, 0);
        }
    }
}

fn end_unsaved(tap: Child) {
    let ran = Ran::of(&tap.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("the next run will take it from"), "{}", ran.stderr);
}

#[test]
fn a_file_in_a_folder_that_cannot_be_written_is_rewritten_by_one_run_at_a_time() {
    for token_file in [true, false] {
        let fake = fake();
        let outer = tempfile::tempdir().unwrap();
        let binary = for_all(outer.path());
        let folder = outer.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let (config_file, tokens_file) = (folder.join("config.json"), folder.join("tokens.json"));
        let mut config = fake.config();
        if token_file {
            let tokens = json!({"access_token": "ended", "refresh_token": config["refresh_token"].take()});
            fs::write(&tokens_file, tokens.to_string()).unwrap();
            config["token_file"] = json!(tokens_file);
        }
        fs::write(&config_file, config.to_string()).unwrap();
        for file in fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()) {
            to_nobody(&file);
            set_mode(&file, 0o600);
        }
        set_mode(&folder, 0o555);
        fake.switches().latency = Duration::from_millis(50);
        let taps: Vec<_> = (0..3)
            .map(|_| {
                let mut command = Command::new(&binary);
                as_nobody(command.arg("--config").arg(&config_file).stdout(Stdio::piped()).stderr(Stdio::piped()));
                command.spawn().unwrap()
            })
            .collect();
        for tap in taps {
            let ran = Ran::of(&tap.wait_with_output().unwrap());
            assert_eq!(ran.code, Some(0), "{}", ran.stderr);
            assert!(!ran.stderr.contains("WARNING") && !ran.stderr.contains("ERROR"), "{}", ran.stderr);
        }
        let store = if token_file { &tokens_file } else { &config_file };
        assert!(fs::read_to_string(store).unwrap().contains(&fake.tokens().refresh_token));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), if token_file { 2 } else { 1 });
        assert_eq!(fake.tokens().reuses, 0);

        // If the file cannot be written either, the run says so before it uses the refresh token.
        set_mode(store, 0o400);
        fake.tokens().revoke_access_tokens();
        if token_file {
            // A refresh token that works only once is not used.
            let kept = fs::read_to_string(store).unwrap();
            let mut command = Command::new(&binary);
            let ran = Ran::of(&as_nobody(command.arg("--config").arg(&config_file)).output().unwrap());
            assert_eq!(ran.code, Some(1), "{}", ran.stderr);
            assert!(ran.stderr.contains("CRITICAL") && ran.stderr.contains("so it was not used"), "{}", ran.stderr);
            assert!(kept.contains(&fake.tokens().refresh_token), "{kept}");
            assert_eq!(fs::read_to_string(store).unwrap(), kept);
            set_mode(store, 0o600);
            fs::write(store, kept.replace("\"rotates\": true,", "")).unwrap();
            set_mode(store, 0o400);
        }
        fake.fault(Fault::always("/token", What::Refuse));
        let before = fake.tokens().refreshes;
        let mut command = Command::new(&binary);
        as_nobody(command.args(["--config", "ENV", "--config"]).arg(&config_file));
        let ran = Ran::of(&command.env("TAP_CONSTANT_CONTACT_MAX_RETRIES", "0").output().unwrap());
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        assert!(ran.stderr.contains("WARNING a new refresh token could not be saved"), "{}", ran.stderr);
        assert!(
            ran.stderr.contains(store.to_str().unwrap()) && ran.stderr.contains("Permission denied"),
            "{}",
            ran.stderr
        );
        assert_eq!(fake.tokens().refreshes, before);

        // If the tap does not know whether tokens rotate, the run continues. It never uses the old token in the store twice.
        fake.heal();
        fake.switches().expires_in = 1;
        fake.switches().latency = Duration::from_millis(400);
        let mut command = Command::new(&binary);
        as_nobody(command.arg("--config").arg(&config_file));
        let ran = Ran::of(&command.output().unwrap());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(ran.stderr.contains("ERROR the new refresh token could not be saved"), "{}", ran.stderr);
        assert!(fake.tokens().refreshes > before + 2);
        assert_eq!(fake.tokens().reuses, 0);
        set_mode(&folder, 0o755);
    }
}

#[test]
fn a_token_that_is_put_into_the_config_wins_once() {
    let fake = fake();
    let folder = tempfile::tempdir().unwrap();
    let token_file = folder.path().join("tokens.json");
    let by = |refresh: &str| {
        fake.forget_calls();
        fake.tokens().revoke_access_tokens();
        let ran = tap(&fake, &json!({"token_file": token_file, "refresh_token": refresh}), None);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        fake.calls().iter().find(|call| call.is_token).unwrap().body.clone()
    };
    // The first run uses the config's token, later ones the stored token, although the config still has its own.
    assert!(by("refresh-0").contains("refresh_token=refresh-0"));
    assert!(by("refresh-0").contains("refresh_token=refresh-1"));
    // The token of a new login in the config is used first, and then the stored one again.
    fake.tokens().refresh_token = "by-hand".into();
    assert!(by("by-hand").contains("refresh_token=by-hand"));
    let stored = fake.tokens().refresh_token.clone();
    assert!(by("by-hand").contains(&format!("refresh_token={stored}")));
    assert_eq!(fake.tokens().reuses, 0);
}

#[test]
fn tokens_that_others_can_read_draw_a_warning() {
    let fake = fake();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.json");
    let more = json!({"token_file": path, "refresh_token": fake.tokens().refresh_token});
    let warned = |ran: &Ran| ran.stderr.contains("WARNING") && ran.stderr.contains("chmod 600");
    assert!(!warned(&tap(&fake, &more, None)));
    for wide in [0o640, 0o604, 0o644] {
        set_mode(&path, wide);
        let ran = tap(&fake, &more, None);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(warned(&ran) && ran.stderr.contains(&format!("mode {wide:o}")), "{}", ran.stderr);
    }
    // The next time tokens are stored, the mode is corrected.
    fake.tokens().revoke_access_tokens();
    assert!(warned(&tap(&fake, &more, None)));
    assert_eq!(mode(&path), 0o600);
    assert!(!warned(&tap(&fake, &more, None)));
}

#[test]
fn each_config_with_a_secret_that_others_can_read_draws_a_warning() {
    let fake = fake();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut settings = fake.config();
    let refresh_token = settings["refresh_token"].take();
    let client_secret = settings["client_secret"].take();
    settings["token_file"] = json!(at("tokens.json"));
    fs::write(at("settings.json"), settings.to_string()).unwrap();
    fs::write(at("secret.json"), json!({"client_secret": client_secret}).to_string()).unwrap();
    fs::write(at("token.json"), json!({"refresh_token": refresh_token}).to_string()).unwrap();
    for (mode, expected) in [(0o644, 2), (0o600, 0)] {
        let mut command = command();
        for name in ["settings.json", "secret.json", "token.json"] {
            set_mode(&at(name), if name == "settings.json" { 0o644 } else { mode });
            command.arg("--config").arg(at(name));
        }
        let ran = Ran::of(&command.output().unwrap());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let warned: Vec<&str> = ran.stderr.lines().filter(|line| line.contains("holds secrets")).collect();
        assert_eq!(warned.len(), expected, "{}", ran.stderr);
        assert!(warned.iter().all(|line| line.starts_with("WARNING") && !line.contains("settings.json")), "{warned:?}");
    }
}

#[test]
fn an_access_token_alone_is_used_until_it_expires() {
    let fake = fake();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.json");
    let first = json!({"token_file": path});
    assert_eq!(tap(&fake, &first, None).code, Some(0));
    let tokens: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let alone = json!({"refresh_token": null, "access_token": tokens["access_token"]});
    let ran = tap(&fake, &alone, None);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(fake.tokens().refreshes, 1);
    fake.tokens().revoke_access_tokens();
    let ran = tap(&fake, &alone, None);
    assert_eq!(ran.code, Some(3), "{}", ran.stderr);
    assert!(ran.stderr.contains("there is no refresh token"), "{}", ran.stderr);

    // With a refresh token, both are written back once the access token has expired.
    let config = folder.path().join("config.json");
    let mut both = fake.config();
    both["access_token"] = json!("ended");
    fs::write(&config, both.to_string()).unwrap();
    for _ in 0..2 {
        assert_eq!(run(&config).code, Some(0));
        assert_eq!(fake.tokens().refreshes, 2);
        let written: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
        assert_eq!(written["refresh_token"], fake.tokens().refresh_token.as_str());
        assert!(written["access_token"].as_str().unwrap().starts_with("access-"));
    }
}

#[test]
fn a_long_lived_token_leaves_its_config_untouched() {
    let fake = fake();
    fake.switches().rotating = false;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    fs::write(&path, fake.config().to_string()).unwrap();
    set_mode(&path, 0o400);
    let before = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap());
    for _ in 0..2 {
        let ran = run(&path);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(!ran.stderr.contains("WARNING") && !ran.stderr.contains("ERROR"), "{}", ran.stderr);
    }
    assert_eq!((fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap()), before);
    assert_eq!(mode(&path), 0o400);
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");

    // A token file takes the new access token, and the refresh token stays.
    let more = json!({"token_file": folder.path().join("tokens.json")});
    for _ in 0..2 {
        fake.tokens().revoke_access_tokens();
        assert_eq!(tap(&fake, &more, None).code, Some(0));
        let tokens: Value =
            serde_json::from_str(&fs::read_to_string(folder.path().join("tokens.json")).unwrap()).unwrap();
        assert_eq!(tokens["refresh_token"], "refresh-0");
        assert_eq!(tokens["rotates"], false);
    }
}
