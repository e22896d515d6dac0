//! Renewals of the login that go wrong: odd, late and lost answers, configs that share a token file, full disks, stuck locks.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use fake::account::Size;
use fake::{Account, Call, Fake, Fault, Moment, What};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::tap::{Ran, command, only};

/// A fake account with rotating tokens, and a folder with configs for it.
struct Place {
    fake: Fake,
    folder: TempDir,
}

impl Place {
    fn new() -> Place {
        let fake = Fake::start(Account::generate(3, Size { contacts: 5, lists: 2, campaigns: 1 }));
        let folder = tempfile::tempdir().unwrap();
        let place = Place { fake, folder };
        fs::write(place.path("catalog.json"), only(&["contact_lists"]).to_string()).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a config with the current refresh token, unless `more` has another.
    fn config(&self, name: &str, more: &Value) -> PathBuf {
        let mut config = self.fake.config();
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        fs::write(self.path(name), format!("{config:#}\n")).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
        self.path(name)
    }

    fn tap(&self, config: &Path) -> Command {
        let mut command = command();
        command.arg("--config").arg(config).arg("--catalog").arg(self.path("catalog.json"));
        command
    }

    /// Runs the tap, which must renew the login.
    fn run(&self, config: &Path) -> Ran {
        self.fake.tokens().revoke_access_tokens();
        Ran::of(&self.tap(config).output().unwrap())
    }

    fn assert_works(&self, config: &Path, what: &str) -> Ran {
        let ran = self.run(config);
        assert_eq!(ran.code, Some(0), "{what}: {}", ran.stderr);
        assert_eq!(self.fake.tokens().reuses, 0, "{what}: a used token was sent");
        ran
    }

    fn token_calls(&self) -> Vec<Call> {
        self.fake.calls().into_iter().filter(|call| call.is_token).collect()
    }
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// An answer with both tokens, changed by `edit`.
fn odd(answer: &Value, edit: impl FnOnce(&mut Value)) -> (u16, &'static str, String) {
    let mut answer = answer.clone();
    edit(&mut answer);
    (200, "application/json", answer.to_string())
}

fn without(answer: &Value, key: &str) -> (u16, &'static str, String) {
    odd(answer, |answer| drop(answer.as_object_mut().unwrap().remove(key)))
}

/// A name, and a change of the answer.
type Oddity = (&'static str, fn(&Value) -> (u16, &'static str, String));

const ODDITIES: [Oddity; 12] = [
    ("lifetime as text", |a| odd(a, |a| a["expires_in"] = json!("86400"))),
    ("lifetime as a fraction", |a| odd(a, |a| a["expires_in"] = json!(86400.0))),
    ("negative lifetime", |a| odd(a, |a| a["expires_in"] = json!(-1))),
    ("no lifetime", |a| without(a, "expires_in")),
    ("no token type", |a| without(a, "token_type")),
    ("scopes as a list", |a| odd(a, |a| a["scope"] = json!(["contact_data", "offline_access"]))),
    ("plain text", |a| (200, "text/plain", a.to_string())),
    ("no content type that says anything", |a| (200, "", a.to_string())),
    ("created", |a| (201, "application/json", a.to_string())),
    ("a byte order mark", |a| (200, "application/json", format!("\u{feff}{a}"))),
    ("an error's status", |a| (500, "application/json", a.to_string())),
    ("a text behind it", |a| (200, "text/html", format!("{a}<!-- cache -->"))),
];

#[test]
fn an_odd_answer_that_holds_both_tokens_is_kept() {
    thread::scope(|scope| {
        for (what, change) in ODDITIES {
            for token_file in [true, false] {
                scope.spawn(move || {
                    let place = Place::new();
                    let more = if token_file { json!({"token_file": place.path("tokens.json")}) } else { json!({}) };
                    let config = place.config("config.json", &more);
                    place.fake.fault(Fault::once("/token", What::Change(change)));
                    for _ in 0..2 {
                        place.assert_works(&config, what);
                    }
                    assert_eq!(place.token_calls().len(), 2, "{what}");
                });
            }
        }
    });
}

#[test]
fn an_answer_that_was_cut_after_both_tokens_is_kept() {
    let place = Place::new();
    // Without compression, since the last byte of gzip holds no text.
    place.fake.switches().gzip = false;
    let config = place.config("config.json", &json!({}));
    place.fake.fault(Fault::once("/token", What::CutLastByte));
    for _ in 0..2 {
        place.assert_works(&config, "cut");
    }
    assert_eq!(place.token_calls().len(), 2);
}

#[test]
fn an_empty_refresh_token_in_an_answer_means_none() {
    let place = Place::new();
    place.fake.switches().rotating = false;
    let empty = What::Change(|answer| odd(answer, |answer| answer["refresh_token"] = json!("")));
    place.fake.fault(Fault::always("/token", empty));
    for more in [json!({"token_file": place.path("tokens.json")}), json!({})] {
        let config = place.config("config.json", &more);
        for _ in 0..2 {
            place.assert_works(&config, "empty");
        }
        assert_eq!(read(&config)["refresh_token"], "refresh-0");
    }
    assert_eq!(read(&place.path("tokens.json"))["refresh_token"], "refresh-0");
}

#[test]
fn an_empty_refresh_token_in_a_store_means_none() {
    let place = Place::new();
    place.assert_works(&place.config("first.json", &json!({"token_file": place.path("tokens.json")})), "first");
    let access_token = read(&place.path("tokens.json"))["access_token"].clone();
    let config = place.config("config.json", &json!({"refresh_token": "", "access_token": access_token}));
    assert_eq!(Ran::of(&place.tap(&config).output().unwrap()).code, Some(0));
    place.fake.forget_calls();
    let ran = place.run(&config);
    assert_eq!(ran.code, Some(3), "{}", ran.stderr);
    assert!(ran.stderr.contains("there is no refresh token"), "{}", ran.stderr);
    // With two files, the one without a token gets the new one.
    let first = place.config("first.json", &json!({}));
    let last = place.path("last.json");
    fs::write(&last, r#"{"refresh_token": ""}"#).unwrap();
    for _ in 0..2 {
        place.fake.tokens().revoke_access_tokens();
        let ran = Ran::of(&place.tap(&first).arg("--config").arg(&last).output().unwrap());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert_eq!(read(&last)["refresh_token"], place.fake.tokens().refresh_token.as_str());
    }
    assert_eq!(place.fake.tokens().reuses, 0);
}

#[test]
fn a_config_that_never_changed_does_not_win_over_a_newer_token_file() {
    thread::scope(|scope| {
        // What the second config has instead of the token of the first.
        for other in [json!(null), json!("refresh-0"), json!("of-another-login"), json!("used-long-ago")] {
            scope.spawn(move || shared_with(&other));
        }
    });
}

fn shared_with(other: &Value) {
    let place = Place::new();
    let store = place.path("tokens.json");
    place.fake.tokens().refresh_token = "used-long-ago".into();
    place.assert_works(&place.config("before.json", &json!({})), "before");
    place.fake.tokens().refresh_token = "refresh-0".into();
    let second = place.config("second.json", &json!({"token_file": store, "refresh_token": other}));
    let first = place.config("first.json", &json!({"token_file": store}));
    for config in [&first, &second, &first, &second] {
        place.assert_works(config, &format!("{other}, {}", config.display()));
    }
    // A token that is put into a config later is used by its next run, and from then on the token file wins.
    for (token, name) in [("by-hand-1", "second.json"), ("by-hand-2", "first.json")] {
        place.fake.tokens().refresh_token = token.into();
        let config = place.config(name, &json!({"token_file": store}));
        place.fake.forget_calls();
        place.assert_works(&config, token);
        assert!(place.token_calls()[0].body.contains(token));
        for config in [&first, &second] {
            place.assert_works(config, token);
        }
    }
}

/// Meltano writes a new config for each run, so its age says nothing.
#[test]
fn a_used_token_that_the_token_file_does_not_know_is_tried_once_at_most() {
    let place = Place::new();
    let store = place.path("tokens.json");
    place.assert_works(&place.config("login.json", &json!({"token_file": store})), "first");
    let old = || place.config("meltano.json", &json!({"token_file": store, "refresh_token": "of-long-ago"}));
    let ran = place.assert_works(&old(), "an old token");
    assert!(ran.stderr.contains("WARNING the refresh_token of the config is refused"), "{}", ran.stderr);
    for _ in 0..2 {
        place.fake.forget_calls();
        let ran = place.assert_works(&old(), "again");
        assert!(!ran.stderr.contains("is refused"), "{}", ran.stderr);
        assert!(!place.token_calls().iter().any(|call| call.body.contains("of-long-ago")));
    }
    // A new one still wins; if neither works, the message names the file.
    place.fake.tokens().refresh_token = "by-hand".into();
    let new = place.config("meltano.json", &json!({"token_file": store}));
    place.fake.forget_calls();
    place.assert_works(&new, "a new token");
    assert!(place.token_calls()[0].body.contains("by-hand"));
    place.fake.tokens().revoke_grant();
    let ran = place.run(&place.config("meltano.json", &json!({"token_file": store, "refresh_token": "of-last-year"})));
    assert_eq!(ran.code, Some(3), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("it came from {}", store.display())), "{}", ran.stderr);
}

#[test]
fn a_new_login_replaces_the_token_of_another_config() {
    let place = Place::new();
    // An application of the device type.
    place.fake.tokens().client_secret = None;
    let store = place.path("tokens.json");
    let first = place.config("first.json", &json!({"token_file": store}));
    let second = place.config("second.json", &json!({"token_file": store, "refresh_token": null}));
    place.assert_works(&first, "first");
    let login = command().args(["login", "--yes", "--device", "--config"]).arg(&second).output().unwrap();
    assert_eq!(login.status.code(), Some(0), "{}", String::from_utf8_lossy(&login.stderr));
    for config in [&first, &second, &first] {
        place.assert_works(config, "after the login");
    }
}

#[test]
fn a_token_that_may_have_been_used_is_not_sent_again_at_once() {
    let gateway = |_: &Value| (502, "text/html", "<html>Bad Gateway</html>".to_owned());
    let cases: [(&str, What); 4] = [
        ("a lost answer", What::LostAnswer),
        ("half an answer", What::CutBody),
        ("a gateway", What::Change(gateway)),
        ("a late answer", What::SlowDrip(Duration::from_millis(50))),
    ];
    thread::scope(|scope| {
        for (what, fault) in cases {
            for grace in [true, false] {
                let fault = fault.clone();
                scope.spawn(move || {
                    let place = Place::new();
                    place.fake.switches().gzip = false;
                    if grace {
                        place.fake.switches().refresh_grace = Duration::from_secs(60);
                    }
                    let config = place.config("config.json", &json!({"request_timeout": 2}));
                    place.fake.fault(Fault::once("/token", fault));
                    let ran = place.run(&config);
                    assert_eq!(ran.code, Some(if grace { 0 } else { 3 }), "{what}: {}", ran.stderr);
                    let calls = place.token_calls();
                    assert_eq!(calls.len(), 2, "{what}: {}", ran.stderr);
                    let waited = calls[1].at - calls[0].at;
                    assert!(waited >= Duration::from_secs(5), "{what}: sent again after {waited:?}");
                    assert!(
                        ran.stderr.contains("it may have used the token all the same; retry 1 of 5 in 5.0 s"),
                        "{what}: {}",
                        ran.stderr
                    );
                });
            }
        }
    });
}

#[test]
fn the_tap_waits_as_long_as_the_authorization_server_asks() {
    let place = Place::new();
    let config = place.config("config.json", &json!({}));
    place.fake.fault(Fault::once("/token", What::RetryAfter(429, "3".into())));
    let ran = place.assert_works(&config, "429");
    let calls = place.token_calls();
    assert!(calls[1].at - calls[0].at >= Duration::from_secs(3));
    let url = place.fake.auth_url();
    let warning = format!("WARNING authorization server ({url}): 429 without tokens; retry 1 of 5 in 3.0 s");
    assert!(ran.stderr.contains(&warning), "{}", ran.stderr);
}

#[test]
fn an_access_token_with_a_short_lifetime_is_not_renewed_for_every_call() {
    for (expires_in, most) in [(60, 1), (30, 1), (5, 2), (0, 1), (-5, 1)] {
        let place = Place::new();
        place.fake.switches().expires_in = expires_in.max(5);
        let config = place.config("config.json", &json!({"activity_route": "contacts"}));
        if expires_in <= 0 {
            let odd = if expires_in == 0 {
                What::Change(|answer| odd(answer, |answer| answer["expires_in"] = json!(0)))
            } else {
                What::Change(|answer| odd(answer, |answer| answer["expires_in"] = json!(-5)))
            };
            place.fake.fault(Fault::always("/token", odd));
        }
        let ran = Ran::of(&command().arg("--config").arg(&config).output().unwrap());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let calls = place.token_calls().len();
        assert!(calls <= most, "{calls} token calls with {expires_in}");
        assert!(place.fake.api_calls().len() > 10);
    }
}

#[test]
fn a_run_gives_up_on_a_lock_that_a_stopped_process_holds() {
    let place = Place::new();
    let config = place.config("config.json", &json!({"lock_timeout": 1}));
    let ((arrived, arrivals), (resume, resumed)) = (channel(), channel::<()>());
    place.fake.at_token(Box::new(move |moment| {
        if moment == Moment::Arrived {
            let _ = arrived.send(());
            let _ = resumed.recv();
        }
    }));
    let mut stopped = place.tap(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let process = Pid::from_child(&stopped);
    arrivals.recv().unwrap();
    kill_process(process, Signal::STOP).unwrap();
    let begun = Instant::now();
    let ran = Ran::of(&place.tap(&config).output().unwrap());
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let holder = format!("another run (process {})", stopped.id());
    let lock = format!("{}.lock", config.display());
    assert!(ran.stderr.contains(&format!("INFO {holder} holds {lock}; waiting for it, 1 s at most")), "{}", ran.stderr);
    let critical = ran.stderr.lines().find(|line| line.starts_with("CRITICAL")).unwrap();
    assert!(critical.contains(&holder) && critical.contains("lock_timeout") && critical.contains(&lock), "{critical}");
    // The stopped run is not affected, and continues.
    kill_process(process, Signal::CONT).unwrap();
    drop(resume);
    assert_eq!(stopped.wait().unwrap().code(), Some(0));
    place.fake.at_token(Box::new(|_| {}));
    place.assert_works(&config, "afterwards");
}

/// Whether a test may mount a file system on this machine.
fn can_mount() -> bool {
    let mount = "mount -t tmpfs -o size=64k tmpfs /tmp";
    Command::new("unshare").args(["-Urm", "sh", "-c", mount]).output().is_ok_and(|output| output.status.success())
}

#[test]
#[expect(clippy::print_stderr)]
fn a_full_disk_truncates_and_loses_nothing() {
    if !can_mount() {
        eprintln!("not tried: this user cannot mount a file system");
        return;
    }
    // Runs on a full disk; then the disk has room, and another run follows.
    let script = r#"
        cd "$1" && mount -t tmpfs -o "size=$2" tmpfs disk && cp config.json disk/ || exit 99
        "$3" --config disk/config.json --catalog catalog.json >/dev/null 2>first.log; echo $? >first.code
        cp disk/config.json after.json
        mount -o remount,size=1m disk || exit 99
        "$3" --config disk/config.json --catalog catalog.json >/dev/null 2>second.log; echo $? >second.code
        cp disk/config.json last.json
    "#;
    let mut refused = 0;
    let mut stored = 0;
    for token_file in [true, false] {
        for pages in 1..14 {
            let place = Place::new();
            // The new token makes the config longer than its disk block.
            place.fake.tokens().refresh_token = "r".into();
            let mut settings = place.fake.config();
            settings["x"] = json!("");
            if token_file {
                settings["token_file"] = json!("disk/tokens.json");
            }
            settings["x"] = json!("x".repeat(4092 - settings.to_string().len()));
            fs::write(place.path("config.json"), settings.to_string()).unwrap();
            fs::create_dir(place.path("disk")).unwrap();
            let status = Command::new("unshare")
                .args(["-Urm", "sh", "-c", script, "sh"])
                .arg(place.folder.path())
                .arg(format!("{}k", pages * 4))
                .arg(env!("CARGO_BIN_EXE_tap-constant-contact"))
                .status()
                .unwrap();
            let what = format!("{} KB, token_file: {token_file}", pages * 4);
            assert_eq!(status.code(), Some(0), "{what}");
            let note = |name: &str| fs::read_to_string(place.path(name)).unwrap();
            let (first, second) = (note("first.log"), note("second.log"));
            let after = read(&place.path("after.json"));
            assert_eq!(after["client_secret"], "secret-0", "{what}: {first}");
            match note("first.code").trim() {
                "0" => stored += 1,
                "1" => {
                    assert!(first.contains("CRITICAL") && first.contains("No space left"), "{what}: {first}");
                    refused += 1;
                }
                other => panic!("{what}: {other}: {first}"),
            }
            assert_eq!(note("second.code").trim(), "0", "{what}: {first}\n{second}");
            assert_eq!(place.fake.tokens().reuses, 0, "{what}: {first}\n{second}");
        }
    }
    assert!(stored > 3 && refused > 3, "{stored} {refused}");
}
