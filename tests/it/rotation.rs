//! Rotating refresh tokens, which work once: many taps at once, and taps that are killed while they refresh.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use fake::account::Size;
use fake::{Account, Fake, Fault, Moment, What};
use serde_json::json;
use tempfile::TempDir;

use crate::tap::{Ran, command, only};

/// A fake account with rotating tokens, and a folder with a config for it.
struct Place {
    fake: Fake,
    folder: TempDir,
    /// Whether the tokens are in a token file, or else in the config.
    token_file: bool,
}

impl Place {
    fn new(token_file: bool) -> Place {
        let fake = Fake::start(Account::generate(3, Size { contacts: 5, lists: 2, campaigns: 1 }));
        let folder = tempfile::tempdir().unwrap();
        let place = Place { fake, folder, token_file };
        let mut config = place.fake.config();
        if token_file {
            config["token_file"] = json!(place.store());
        }
        fs::write(place.path("config.json"), format!("{config:#}")).unwrap();
        fs::set_permissions(place.path("config.json"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(place.path("catalog.json"), only(&["contact_lists"]).to_string()).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn store(&self) -> PathBuf {
        self.path(if self.token_file { "tokens.json" } else { "config.json" })
    }

    /// A file that the tap writes beside its store.
    fn beside(&self, suffix: &str) -> PathBuf {
        PathBuf::from(format!("{}{suffix}", self.store().display()))
    }

    fn tap(&self) -> std::process::Command {
        let mut command = command();
        command.arg("--config").arg(self.path("config.json")).arg("--catalog").arg(self.path("catalog.json"));
        command
    }

    fn run(&self) -> Ran {
        Ran::of(&self.tap().output().unwrap())
    }

    fn spawn(&self) -> Child {
        self.tap().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Sends a message when the answer to a token call has been sent completely.
    fn answered(&self) -> Receiver<()> {
        let (sender, moments) = channel();
        self.fake.at_token(Box::new(move |moment| {
            if moment == Moment::Answered {
                let _ = sender.send(());
            }
        }));
        moments
    }

    /// The same before the service serves a call, which waits until the sender is dropped.
    fn held(&self) -> (Receiver<()>, Sender<()>) {
        let ((sender, moments), (resume, resumed)) = (channel(), channel::<()>());
        self.fake.at_token(Box::new(move |moment| {
            if moment == Moment::Arrived {
                let _ = sender.send(());
                let _ = resumed.recv();
            }
        }));
        (moments, resume)
    }

    /// Whether the current refresh token is on disk.
    fn is_kept(&self) -> bool {
        let token = format!("\"{}\"", self.fake.tokens().refresh_token);
        [self.store(), self.beside(".next")].iter().any(|path| holds(path, &token))
    }

    /// Checks that a run works, and leaves only the store and its lock.
    fn assert_recovers(&self, context: &str) {
        self.fake.tokens().revoke_access_tokens();
        let ran = self.run();
        assert_eq!(ran.code, Some(0), "{context}: {}", ran.stderr);
        assert_eq!(self.fake.tokens().reuses, 0, "{context}");
        let known = ["config.json", "catalog.json", "tokens.json", "tokens.json.lock", "config.json.lock"];
        for file in fs::read_dir(self.folder.path()).unwrap().map(Result::unwrap) {
            assert!(
                known.iter().any(|name| file.file_name() == *name),
                "{context}: {} was left",
                file.path().display()
            );
        }
        assert_eq!(fs::metadata(self.store()).unwrap().permissions().mode() & 0o777, 0o600, "{context}");
    }
}

fn holds(path: &Path, text: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|content| content.contains(text))
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Polls without a pause, since the condition may hold for less than a millisecond.
fn until(seen: impl Fn() -> bool) {
    let begun = Instant::now();
    while !seen() {
        assert!(begun.elapsed() < Duration::from_secs(20), "what was waited for did not come");
        thread::yield_now();
    }
}

#[test]
fn eight_taps_at_once_can_share_a_login() {
    thread::scope(|scope| {
        for token_file in [true, false] {
            scope.spawn(move || {
                let place = Place::new(token_file);
                place.fake.switches().token_per_second = Some(1);
                if token_file {
                    // All of them start with the same access token, which is refused.
                    assert_eq!(place.run().code, Some(0));
                    place.fake.tokens().revoke_access_tokens();
                }
                // Long enough for all of them to need a new one at once.
                place.fake.switches().latency = Duration::from_millis(300);
                let taps: Vec<_> = (0..8)
                    .map(|_| place.tap().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
                    .collect();
                let ran: Vec<_> = taps.into_iter().map(|tap| Ran::of(&tap.wait_with_output().unwrap())).collect();
                for ran in &ran {
                    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
                    assert_eq!(ran.records("contact_lists").len(), place.fake.account().truth("contact_lists").len());
                }
                let waited = ran.iter().filter(|ran| ran.stderr.contains(".lock; waiting for it")).count();
                assert!(waited >= 4, "only {waited} had to wait");
                place.fake.switches().latency = Duration::ZERO;
                place.assert_recovers("the ninth");
                let tokens: Vec<_> = place.fake.calls().into_iter().filter(|call| call.is_token).collect();
                // A token file shares the access token; a config has none.
                assert_eq!(tokens.len(), if token_file { 3 } else { 9 });
                assert!(tokens.iter().all(|call| call.status == 200));
                let spacing = tokens.windows(2).map(|pair| pair[1].at - pair[0].at).min().unwrap();
                assert!(spacing >= Duration::from_secs(1), "{spacing:?} between two calls");
            });
        }
    });
}

/// A step of a refresh at which the tap is killed.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The service has received the call and not served it.
    Called,
    /// The new tokens are in the file beside the store.
    Noted,
    /// The file that will replace the store exists.
    Written,
    /// The store is replaced.
    Replaced,
    /// The service has received the first call with the new access token.
    Used,
}

#[test]
fn a_tap_killed_at_any_step_of_a_refresh_leaves_a_grant_that_works() {
    thread::scope(|scope| {
        for token_file in [true, false] {
            for step in [Step::Called, Step::Noted, Step::Written, Step::Replaced, Step::Used] {
                // The steps in the middle are found by polling; several attempts, in case one is missed.
                for _ in 0..if matches!(step, Step::Noted | Step::Written) { 3 } else { 1 } {
                    scope.spawn(move || killed_at(step, token_file));
                }
            }
        }
    });
}

fn killed_at(step: Step, token_file: bool) {
    let place = Place::new(token_file);
    match step {
        Step::Called => {
            place.fake.fault(Fault::once("/token", What::Refuse));
            let (arrived, resume) = place.held();
            let child = place.spawn();
            arrived.recv().unwrap();
            kill(child);
            drop(resume);
        }
        Step::Noted | Step::Written | Step::Replaced => {
            let answered = place.answered();
            let child = place.spawn();
            answered.recv().unwrap();
            let token = format!("\"{}\"", place.fake.tokens().refresh_token);
            let (next, new, store) = (place.beside(".next"), place.beside(".new"), place.store());
            match step {
                Step::Noted => until(|| holds(&next, &token) || holds(&store, &token)),
                Step::Written => until(|| new.exists() || holds(&store, &token)),
                _ => until(|| holds(&store, &token)),
            }
            kill(child);
            assert!(place.is_kept(), "{step:?}");
        }
        Step::Used => {
            let (sender, calls) = channel();
            let (resume, resumed) = channel::<()>();
            let mut held = Some((sender, resumed));
            place.fake.before_call(Box::new(move |_, _| {
                if let Some((sender, resumed)) = held.take() {
                    let _ = sender.send(());
                    let _ = resumed.recv();
                }
            }));
            let child = place.spawn();
            calls.recv().unwrap();
            let token = format!("\"{}\"", place.fake.tokens().refresh_token);
            assert!(holds(&place.store(), &token), "an access token was used before its refresh token was stored");
            kill(child);
            drop(resume);
        }
    }
    for suffix in [".next", ".new"] {
        if let Ok(left) = fs::metadata(place.beside(suffix)) {
            assert_eq!(left.permissions().mode() & 0o777, 0o600, "{step:?}: {suffix}");
        }
    }
    place.fake.at_token(Box::new(|_| {}));
    place.assert_recovers(&format!("{step:?}, token_file: {token_file}"));
}

/// Kills the tap at moments after the answer was sent, a fraction of a millisecond apart. Until the tap has read the answer,
/// only the network has the new token; from then on the disk must have it.
#[test]
fn a_tap_killed_at_any_moment_after_the_answer_works_on_if_it_had_written_a_byte() {
    let kept: usize = thread::scope(|scope| {
        let groups: Vec<_> = (0..32_u64)
            .map(|group| {
                scope.spawn(move || {
                    (0..2_u64)
                        .filter(|n| killed_after(Duration::from_micros((n * 32 + group) * 100), group % 2 == 0))
                        .count()
                })
            })
            .collect();
        groups.into_iter().map(|group| group.join().unwrap()).sum()
    });
    assert!(kept >= 16, "only {kept} of 64 kills came after the answer was read");
}

/// Whether the tap had read the answer when it was killed.
fn killed_after(delay: Duration, token_file: bool) -> bool {
    let place = Place::new(token_file);
    let answered = place.answered();
    let child = place.spawn();
    answered.recv().unwrap();
    let begun = Instant::now();
    while begun.elapsed() < delay {
        thread::yield_now();
    }
    kill(child);
    place.fake.at_token(Box::new(|_| {}));
    let kept = place.is_kept();
    assert!(kept || place.fake.api_calls().is_empty(), "an access token was used before its refresh token was stored");
    if kept {
        place.assert_recovers(&format!("{delay:?}, token_file: {token_file}"));
    }
    kept
}

/// The one step that the tap cannot make safe: the service has rotated the token, and its answer was lost.
#[test]
fn a_lost_answer_is_explained() {
    for grace in [false, true] {
        let place = Place::new(true);
        if grace {
            place.fake.switches().refresh_grace = Duration::from_secs(60);
        }
        let (arrived, resume) = place.held();
        let child = place.spawn();
        arrived.recv().unwrap();
        kill(child);
        // The service serves the call although the caller is gone.
        drop(resume);
        until(|| place.fake.tokens().refreshes == 1);
        place.fake.at_token(Box::new(|_| {}));
        let ran = place.run();
        assert_eq!(ran.code, Some(if grace { 0 } else { 3 }), "{}", ran.stderr);
        assert_eq!(ran.stderr.contains("Log in again"), !grace, "{}", ran.stderr);
    }
}

#[test]
fn tokens_that_cannot_replace_the_store_are_kept_for_the_next_run() {
    let place = Place::new(true);
    // A folder where the file that replaces the store would be.
    fs::create_dir_all(place.beside(".new").join("full")).unwrap();
    let ran = place.run();
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("ERROR") && ran.stderr.contains("tokens.json.next"), "{}", ran.stderr);
    assert!(!place.store().exists());
    // The next run cannot store them either, and uses no refresh token.
    place.fake.tokens().revoke_access_tokens();
    let ran = place.run();
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert_eq!(place.fake.tokens().refreshes, 1);
    fs::remove_dir_all(place.beside(".new")).unwrap();
    place.assert_recovers("there is room again");
}

#[test]
fn left_tokens_are_dropped_when_a_new_one_is_put_into_the_config() {
    let place = Place::new(true);
    fs::create_dir_all(place.beside(".new").join("full")).unwrap();
    assert_eq!(place.run().code, Some(0));
    assert!(place.beside(".next").exists());
    fs::remove_dir_all(place.beside(".new")).unwrap();
    place.fake.tokens().refresh_token = "by-hand".into();
    let mut config = place.fake.config();
    config["token_file"] = json!(place.store());
    fs::write(place.path("config.json"), config.to_string()).unwrap();
    place.assert_recovers("by hand");
    let calls = place.fake.calls();
    let last = calls.iter().rfind(|call| call.is_token).unwrap();
    assert!(last.body.contains("by-hand"), "{}", last.body);
}

#[test]
fn a_store_that_cannot_be_replaced_is_rewritten() {
    let place = Place::new(false);
    fs::create_dir_all(place.beside(".new").join("full")).unwrap();
    // Shorter and longer than before.
    for token in ["long-".repeat(40), "s".to_owned()] {
        place.fake.tokens().refresh_token = token;
        fs::write(place.path("config.json"), format!("{:#}\n", place.fake.config())).unwrap();
        let ran = place.run();
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(!ran.stderr.contains("could not be saved"), "{}", ran.stderr);
        let expected = format!("{:#}\n", place.fake.config());
        assert_eq!(fs::read_to_string(place.path("config.json")).unwrap(), expected);
    }
    fs::remove_dir_all(place.beside(".new")).unwrap();
    place.assert_recovers("rewritten");
}
