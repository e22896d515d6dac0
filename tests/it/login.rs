//! `login`, with a client that plays the browser, and syncs with the tokens that it stores.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread::{self, JoinHandle};

use fake::account::Size;
use fake::{Account, Fake, Fault, What};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::tap::{Ran, command, free_port, without_times};
use crate::terminal::terminal;
use crate::tokens::{as_nobody, for_all};

/// A fake account, and a folder with a config without a login.
struct Place {
    fake: Fake,
    folder: TempDir,
    redirect: String,
}

impl Place {
    /// `has_secret`: whether the application is of the authorization code type.
    fn new(has_secret: bool) -> Place {
        let fake = Fake::start(Account::generate(3, Size { contacts: 5, lists: 2, campaigns: 2 }));
        let port = free_port();
        let place =
            Place { fake, folder: tempfile::tempdir().unwrap(), redirect: format!("http://localhost:{port}/callback") };
        place.fake.tokens().redirect_uris = vec![place.redirect.clone()];
        if !has_secret {
            place.fake.tokens().client_secret = None;
        }
        place.configure(&json!({}));
        place
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("config.json")
    }

    fn configure(&self, more: &Value) {
        let mut config = self.fake.config();
        config.as_object_mut().unwrap().remove("refresh_token");
        config["redirect_uri"] = json!(self.redirect);
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        fs::write(self.config(), config.to_string()).unwrap();
        fs::set_permissions(self.config(), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn login(&self, arguments: &[&str]) -> Login {
        let mut command = command();
        command.args(["login", "--config"]).arg(self.config()).args(arguments);
        Login::start(command.stdin(Stdio::piped()))
    }

    fn sync(&self) -> Ran {
        Ran::of(&command().arg("--config").arg(self.config()).output().unwrap())
    }
}

/// A running login.
struct Login {
    child: Child,
    url: String,
    log: JoinHandle<String>,
}

impl Login {
    /// Starts it and waits for the first address that it prints.
    fn start(command: &mut Command) -> Login {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let (mut log, mut url) = (String::new(), String::new());
        while url.is_empty() && stderr.read_line(&mut log).unwrap() > 0 {
            let line = log.lines().next_back().unwrap_or_default().trim();
            url = if line.starts_with("http") { line.to_owned() } else { String::new() };
        }
        let log = thread::spawn(move || {
            let rest: Vec<String> = stderr.lines().map_while(Result::ok).collect();
            log + &rest.join("\n")
        });
        Login { child, url, log }
    }

    fn paste(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn end(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        (code, without_times(&self.log.join().unwrap()))
    }
}

fn agent(redirects: u32) -> ureq::Agent {
    let config = ureq::Agent::config_builder().http_status_as_error(false).max_redirects(redirects);
    config.max_redirects_will_error(false).proxy(None).build().into()
}

/// Opens an address as a browser does, and returns the page at which the redirects end.
fn browse(url: &str) -> String {
    agent(5).get(url).call().unwrap().body_mut().read_to_string().unwrap()
}

/// The address to which the consent page redirects.
fn consent(url: &str) -> String {
    let answer = agent(0).get(url).call().unwrap();
    answer.headers()["location"].to_str().unwrap().to_owned()
}

fn critical(log: &str) -> String {
    log.lines().find_map(|line| line.strip_prefix("CRITICAL ")).unwrap_or_else(|| panic!("{log}")).to_owned()
}

#[test]
fn a_login_in_a_browser_is_good_for_two_syncs() {
    for secret in [true, false] {
        let place = Place::new(secret);
        let token_file = place.folder.path().join("new/tokens.json");
        if !secret {
            place.configure(&json!({"token_file": token_file}));
        }
        let login = place.login(&[]);
        let page = browse(&login.url);
        assert!(page.contains("You are logged in") && page.contains("close this window"), "{page}");
        assert!(!page.contains("<script") && !page.contains("http"), "{page}");
        let (code, log) = login.end();
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("--test") && !log.contains("WARNING"), "{log}");
        let config: Value = serde_json::from_str(&fs::read_to_string(place.config()).unwrap()).unwrap();
        assert_eq!(config.get("refresh_token").is_some(), secret);
        assert_eq!(token_file.exists(), !secret);
        for _ in 0..2 {
            // The access token of the login is revoked, so that each sync must refresh.
            place.fake.tokens().revoke_access_tokens();
            let ran = place.sync();
            assert_eq!(ran.code, Some(0), "{}", ran.stderr);
            assert_eq!(ran.records("contacts").len(), place.fake.account().truth("contacts").len());
        }
        let tokens = place.fake.tokens();
        assert_eq!((tokens.refreshes, tokens.reuses), (2, 0));
    }
}

#[test]
fn the_answer_can_be_pasted() {
    for taken in [true, false] {
        let place = Place::new(false);
        let port = place.redirect.split([':', '/']).nth(4).unwrap().parse::<u16>().unwrap();
        let _other = taken.then(|| TcpListener::bind(("127.0.0.1", port)).unwrap());
        let mut login = place.login(&[]);
        login.paste("");
        login.paste("what");
        login.paste("http://localhost/callback?code=forged&state=guessed");
        let address = consent(&login.url);
        login.paste(&format!("  {address}#_  "));
        let (code, log) = login.end();
        assert_eq!(code, Some(0), "{log}");
        assert_eq!(log.contains("in use by another program"), taken, "{log}");
        assert_eq!(log.matches("not the whole address").count(), 1, "{log}");
        assert_eq!(log.matches("belongs to another login").count(), 1, "{log}");
        assert_eq!(place.sync().code, Some(0));
    }
}

#[test]
fn an_answer_that_belongs_to_another_login_is_ignored() {
    let place = Place::new(true);
    let login = place.login(&[]);
    let page = browse(&format!("{}?code=forged&state=guessed", place.redirect));
    assert!(page.contains("another login"), "{page}");
    assert!(browse(&format!("{}/favicon.ico", place.redirect)).contains("Nothing here"));
    assert!(place.fake.calls().is_empty());
    assert!(browse(&login.url).contains("You are logged in"));
    assert_eq!(login.end().0, Some(0));
}

#[test]
fn a_device_login_waits_and_slows_down() {
    let place = Place::new(false);
    {
        let mut tokens = place.fake.tokens();
        (tokens.device_pending, tokens.device_slow_down) = (2, 1);
    }
    place.fake.switches().token_per_second = Some(1);
    let login = place.login(&["--device"]);
    assert!(login.url.ends_with("/activate"), "{}", login.url);
    let (code, log) = login.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("ABCDEFGH"), "{log}");
    let polls: Vec<_> =
        place.fake.calls().iter().filter(|c| c.path.ends_with("/token")).map(|c| (c.status, c.at)).collect();
    assert_eq!(polls.iter().map(|p| p.0).collect::<Vec<_>>(), [400, 400, 400, 200]);
    assert!((polls[3].1 - polls[2].1).as_secs() >= 5, "slow_down means five seconds more");
    place.fake.switches().token_per_second = None;
    for _ in 0..2 {
        let ran = place.sync();
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    }
    let tokens = place.fake.tokens();
    assert_eq!((tokens.refreshes, tokens.reuses), (2, 0));
}

#[test]
fn a_device_login_that_times_out_says_what_it_waited_for() {
    let unavailable = What::Status(503, json!({"error": "server_error"}).to_string(), "application/json");
    for (what, expected, words) in
        [(None, 3, "the code was not confirmed in time"), (Some(unavailable), 1, "503 server_error")]
    {
        let place = Place::new(false);
        place.configure(&json!({"max_retries": 0}));
        place.fake.tokens().device_pending = u32::MAX;
        if let Some(what) = what {
            place.fake.fault(Fault::always("/token", what));
        }
        let (code, log) = place.login(&["--device", "--timeout", "2"]).end();
        assert_eq!(code, Some(expected), "{log}");
        assert!(critical(&log).contains(words), "{log}");
        assert!(place.fake.calls().len() > 2, "it polled only once");
    }
}

#[test]
fn an_error_code_that_contains_a_secret_is_still_recognized() {
    let place = Place::new(false);
    place.fake.fault(device_answer("ABCDEFGH"));
    place.fake.fault(refusal("/token", 400, "authorization_pending", "pending"));
    place.fake.fault(refusal("/token", 400, "no_pending_code", "pending"));
    let (code, log) = place.login(&["--device"]).end();
    assert_eq!(code, Some(3), "{log}");
    assert!(critical(&log).ends_with("no_***_code ***"), "{log}");
}

#[test]
fn a_device_code_cannot_move_the_cursor() {
    let place = Place::new(false);
    place.fake.fault(device_answer("AB\u{1b}[2JCD\r\nCRITICAL forged\u{7}"));
    place.fake.fault(refusal("/token", 400, "expired_token", ""));
    let (code, log) = place.login(&["--device"]).end();
    assert_eq!(code, Some(3), "{log}");
    assert!(log.contains("AB\u{fffd}[2JCD  CRITICAL forged"), "{log}");
    assert!(!log.contains(|c: char| c.is_control() && c != '\n'), "{log:?}");
}

/// An answer to the start of a device login, with this user code.
fn device_answer(user_code: &str) -> Fault {
    let answer = json!({
        "device_code": "pending", "user_code": user_code, "verification_uri": "https://example.com/activate",
        "expires_in": 600, "interval": 0,
    });
    Fault::once("/device", What::Status(200, answer.to_string(), "application/json"))
}

/// A flag, what is wrong, and words of the message.
type Case<'a> = (&'a str, &'a dyn Fn(&Fake), &'a [&'a str]);

fn refusal(path: &str, status: u16, error: &str, text: &str) -> Fault {
    let body = json!({"error": error, "error_description": text}).to_string();
    Fault::once(path, What::Status(status, body, "application/json"))
}

#[test]
fn each_failure_has_its_own_message() {
    let consent_error = |error: &'static str, text: &'static str| {
        move |fake: &Fake| fake.tokens().refuse_consent = Some((error.into(), text.into()))
    };
    let token_error =
        |error: &'static str, text: &'static str| move |fake: &Fake| fake.fault(refusal("/token", 400, error, text));
    let cases: [Case; 10] = [
        ("", &|fake| fake.tokens().deny_consent = true, &["consent was denied"]),
        (
            "",
            &consent_error("access_denied", "User is not assigned to the client application."),
            &["July 2026", "private"],
        ),
        (
            "",
            &token_error("invalid_grant", "The authorization code is invalid or has expired."),
            &["expired", "five minutes"],
        ),
        (
            "",
            &token_error("invalid_grant", "The 'redirect_uri' does not match."),
            &["redirect URI", "/callback", "register"],
        ),
        ("", &token_error("unauthorized_client", "Not authorized to use the grant type."), &["wrong type", "--device"]),
        ("", &consent_error("invalid_scope", "no"), &["contact_data", "invalid_scope"]),
        ("", &|fake| fake.tokens().client_secret = Some("another".into()), &["client_secret", "invalid_client"]),
        ("", &|fake| fake.tokens().withheld = vec!["offline_access".into()], &["offline_access", "not stored"]),
        (
            "--device",
            &|fake| fake.fault(refusal("/device", 400, "unauthorized_client", "")),
            &["device type", "without --device"],
        ),
        ("--device", &|fake| fake.fault(refusal("/token", 400, "expired_token", "")), &["not confirmed in time"]),
    ];
    let mut sentences = BTreeSet::new();
    for (flag, arrange, words) in cases {
        let place = Place::new(false);
        let before = fs::read_to_string(place.config()).unwrap();
        arrange(&place.fake);
        let flags = Some(flag).filter(|f| !f.is_empty());
        let login = place.login(flags.as_slice());
        if flag.is_empty() {
            let page = browse(&login.url);
            assert!(
                page.contains("The login did not work") && page.to_lowercase().contains(&words[0].to_lowercase()),
                "{words:?}: {page}"
            );
        }
        let (code, log) = login.end();
        assert_eq!(code, Some(3), "{words:?}: {log}");
        let sentence = critical(&log);
        assert!(words.iter().all(|word| sentence.contains(word)), "{words:?}: {sentence}");
        assert!(sentences.insert(sentence), "another failure has the message of {words:?} too");
        assert_eq!(fs::read_to_string(place.config()).unwrap(), before);
    }
    assert_eq!(sentences.len(), 10);
}

#[test]
fn an_application_with_a_secret_cannot_log_in_on_a_device() {
    let place = Place::new(true);
    let (code, log) = place.login(&["--device"]).end();
    assert_eq!(code, Some(2), "{log}");
    assert!(critical(&log).contains("client_secret"), "{log}");
    assert!(place.fake.calls().is_empty());
}

#[test]
fn a_login_that_times_out_explains_the_errors_that_only_the_browser_shows() {
    let place = Place::new(true);
    place.fake.tokens().redirect_uris.clear();
    let login = place.login(&["--timeout", "1"]);
    assert!(browse(&login.url).contains("not registered"));
    let (code, log) = login.end();
    assert_eq!(code, Some(1), "{log}");
    let message = critical(&log);
    assert!(
        message.contains("within 1 s") && message.contains(&place.redirect) && message.contains("private"),
        "{message}"
    );
}

#[test]
fn a_closed_stdin_ends_only_a_login_that_needs_a_pasted_address() {
    let place = Place::new(true);
    let mut login = place.login(&[]);
    drop(login.child.stdin.take());
    assert!(browse(&login.url).contains("You are logged in"));
    assert_eq!(login.end().0, Some(0));

    let place = Place::new(true);
    place.configure(&json!({"redirect_uri": "https://example.com/callback"}));
    place.fake.tokens().redirect_uris = vec!["https://example.com/callback".into()];
    let mut login = place.login(&[]);
    drop(login.child.stdin.take());
    let (code, log) = login.end();
    assert_eq!(code, Some(1), "{log}");
    assert!(critical(&log).contains("stdin has ended"), "{log}");
}

#[test]
fn a_scope_that_was_not_granted_draws_a_warning() {
    let place = Place::new(true);
    place.fake.tokens().withheld = vec!["campaign_data".into()];
    let login = place.login(&[]);
    browse(&login.url);
    let (code, log) = login.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("WARNING the scope campaign_data was not granted"), "{log}");
}

#[test]
fn a_login_that_works_is_replaced_only_with_yes() {
    let place = Place::new(true);
    let old = place.fake.tokens().refresh_token.clone();
    place.configure(&json!({"refresh_token": old}));
    let (code, log) = place.login(&[]).end();
    assert_eq!(code, Some(2), "{log}");
    assert!(critical(&log).contains("--yes"), "{log}");
    // Trying it has rotated its token; the stored one works.
    let ran = place.sync();
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);

    let login = place.login(&["--yes"]);
    browse(&login.url);
    assert_eq!(login.end().0, Some(0));
    assert_eq!(place.sync().code, Some(0));

    // A revoked login and an empty token file are replaced without a question.
    place.fake.tokens().revoke_grant();
    let login = place.login(&[]);
    browse(&login.url);
    assert_eq!(login.end().0, Some(0));
    let empty = place.folder.path().join("tokens.json");
    fs::write(&empty, "").unwrap();
    place.configure(&json!({"token_file": empty}));
    assert_eq!(place.sync().code, Some(2));
    let login = place.login(&[]);
    browse(&login.url);
    assert_eq!(login.end().0, Some(0));
    assert_eq!(place.sync().code, Some(0));
}

#[test]
fn a_login_that_cannot_be_renewed_is_replaced_without_a_question() {
    let place = Place::new(true);
    let stored = place.folder.path().join("tokens.json");
    let old = place.fake.tokens().refresh_token.clone();
    place.configure(&json!({"refresh_token": old, "token_file": stored}));
    assert_eq!(place.sync().code, Some(0));
    place.configure(&json!({"token_file": stored}));
    // Its access token still works.
    place.fake.tokens().refresh_token = "of-another-login".into();
    let login = place.login(&[]);
    assert!(browse(&login.url).contains("You are logged in"));
    let (code, log) = login.end();
    assert_eq!(code, Some(0), "{log}");
    // The same for an access token alone.
    let tokens: Value = serde_json::from_str(&fs::read_to_string(&stored).unwrap()).unwrap();
    place.configure(&json!({"access_token": tokens["access_token"]}));
    let login = place.login(&[]);
    assert!(browse(&login.url).contains("You are logged in"));
    assert_eq!(login.end().0, Some(0));
    assert_eq!(place.sync().code, Some(0));
}

#[test]
fn a_token_file_that_is_a_folder_is_an_error_before_the_consent() {
    let place = Place::new(true);
    place.configure(&json!({"token_file": place.folder.path()}));
    let (code, log) = place.login(&[]).end();
    assert_eq!(code, Some(2), "{log}");
    assert!(critical(&log).contains("a folder; name a file in it, such as"), "{log}");
}

#[test]
fn a_file_of_others_is_not_replaced_by_tokens() {
    let place = Place::new(true);
    place.configure(&json!({"token_file": place.config()}));
    let before = fs::read(place.config()).unwrap();
    let (code, said) = place.login(&[]).end();
    assert_eq!(code, Some(2), "{said}");
    assert!(critical(&said).contains("not a token file"), "{said}");
    assert_eq!(fs::read(place.config()).unwrap(), before);

    let others = place.folder.path().join("others.json");
    place.configure(&json!({"token_file": others}));
    for text in ["my notes", "{", "[1]", "\u{feff}{\"client_id\": \"a\"}", "\u{feff}notes", r#"{"refresh_token": 1}"#] {
        fs::write(&others, text).unwrap();
        let (code, said) = place.login(&["--timeout", "1"]).end();
        assert_eq!(code, Some(2), "{text}: {said}");
        assert!(critical(&said).contains("not a token file"), "{text}: {said}");
        assert_eq!(fs::read_to_string(&others).unwrap(), text);
    }
    // One that is written while the person gives consent.
    fs::remove_file(&others).unwrap();
    let login = place.login(&[]);
    fs::write(&others, "my notes").unwrap();
    browse(&login.url);
    let (code, said) = login.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(critical(&said).contains("not a token file"), "{said}");
    assert_eq!(fs::read_to_string(&others).unwrap(), "my notes");
}

#[test]
fn a_file_that_may_not_be_read_is_not_replaced_by_tokens() {
    let place = Place::new(true);
    let binary = for_all(place.folder.path());
    let closed = place.folder.path().join("closed.json");
    place.configure(&json!({"token_file": closed}));
    let text = json!({"refresh_token": "r"}).to_string();
    fs::write(&closed, &text).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o0)).unwrap();
    // The folder may be written.
    fs::set_permissions(&place.folder, fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(place.config(), fs::Permissions::from_mode(0o644)).unwrap();
    let mut command = Command::new(binary);
    command.args(["login", "--timeout", "1", "--config"]).arg(place.config()).stdin(Stdio::piped());
    let (code, said) = Login::start(as_nobody(&mut command)).end();
    assert_eq!(code, Some(2), "{said}");
    assert!(critical(&said).contains("permission denied. To let this user read it, run: "), "{said}");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(fs::read_to_string(&closed).unwrap(), text);
}

#[test]
fn a_missing_config_is_an_error_that_says_what_to_write() {
    let place = Place::new(true);
    fs::remove_file(place.config()).unwrap();
    let (code, log) = place.login(&[]).end();
    assert_eq!(code, Some(2), "{log}");
    let message = critical(&log);
    assert!(message.contains(place.config().to_str().unwrap()) && message.contains("does not exist"), "{message}");
    assert!(message.contains("client_id") && message.contains("token_file"), "{message}");
    assert!(!place.config().exists());
    // Without a terminal, login does not ask.
    let mut command = command();
    let output = command.arg("login").current_dir(&place.folder).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let message = critical(&without_times(&String::from_utf8(output.stderr).unwrap()));
    let expected = "login needs a config, or a terminal to ask at. Write config.json with {\"client_id\": \"your API key\", \
                    \"client_secret\": \"your secret\", \"token_file\": \"tokens.json\"}, without client_secret for a PKCE or \
                    device application; then run: tap-constant-contact login --config config.json";
    assert_eq!(message, expected);
    assert_eq!(fs::read_dir(&place.folder).unwrap().count(), 0);
}

/// A login at a terminal that asks for the application; the other settings come from the environment.
struct Asked {
    child: Child,
    stderr: BufReader<ChildStderr>,
    log: String,
    keyboard: File,
}

impl Asked {
    fn start(place: &Place, arguments: &[&str]) -> Asked {
        let (keyboard, terminal) = typed("");
        let mut command = command();
        command.arg("login").args(arguments).current_dir(&place.folder).stdin(terminal);
        command.env("TAP_CONSTANT_CONTACT_API_URL", place.fake.api_url());
        command.env("TAP_CONSTANT_CONTACT_AUTH_URL", place.fake.auth_url());
        command.env("TAP_CONSTANT_CONTACT_REDIRECT_URI", &place.redirect);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Asked { child, stderr, log: String::new(), keyboard }
    }

    /// Waits for a line with this beginning, and returns it.
    fn wait_for(&mut self, beginning: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.stderr.read_line(&mut line).unwrap() > 0, "no {beginning:?}: {}", self.log);
            self.log += &line;
            if line.trim_start().starts_with(beginning) {
                return line.trim().to_owned();
            }
        }
    }

    fn answer(&mut self, question: &str, text: &str) {
        self.wait_for(question);
        writeln!(self.keyboard, "{text}").unwrap();
    }

    /// The exit code, stderr, and what the terminal echoed of the input.
    fn end(mut self) -> (Option<i32>, String, String) {
        self.stderr.read_to_string(&mut self.log).unwrap();
        let code = self.child.wait().unwrap().code();
        // The terminal ends only now.
        let mut echoed = Vec::new();
        let _ = self.keyboard.read_to_end(&mut echoed);
        (code, without_times(&self.log), String::from_utf8(echoed).unwrap())
    }
}

#[test]
fn a_person_without_a_config_is_asked_for_the_application() {
    for (config, tokens, secret) in
        [("config.json", "tokens.json", "secret-0"), ("other.json", "other-tokens.json", "")]
    {
        let place = Place::new(!secret.is_empty());
        fs::remove_file(place.config()).unwrap();
        let mut asked = Asked::start(&place, &["--config", "ENV", "--config", config]);
        asked.answer("API key:", "");
        asked.answer("API key:", "two words");
        asked.answer("API key:", " client-0 ");
        asked.answer("Secret", secret);
        let url = asked.wait_for("http");
        assert!(browse(&url).contains("You are logged in"));
        let (code, log, echoed) = asked.end();
        assert_eq!(code, Some(0), "{log}");
        assert!(echoed.contains("client-0") && !echoed.contains("secret-0"), "{echoed}");
        assert!(!log.contains("secret-0") && log.contains(&format!("Wrote {config}")), "{log}");
        let path = place.folder.path().join(config);
        let written: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let mut expected = json!({"client_id": "client-0"});
        if !secret.is_empty() {
            expected["client_secret"] = json!(secret);
        }
        let tokens = place.folder.path().join(tokens);
        expected["token_file"] = json!(tokens.canonicalize().unwrap());
        assert_eq!(written, expected);
        for file in [&path, &tokens] {
            assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        // A second login does not ask for the application again.
        let mut asked = Asked::start(&place, &["--config", "ENV", "--config", config]);
        asked.answer("The login stored", "n");
        assert_eq!(asked.end().0, Some(0));
    }
}

#[test]
fn a_config_that_names_no_application_gets_one_and_keeps_the_rest() {
    let place = Place::new(false);
    fs::write(place.config(), "{\n  \"page_size\": 7\n}\n").unwrap();
    let mut asked = Asked::start(&place, &["--device", "--config", "ENV", "--config", "config.json"]);
    asked.answer("API key:", "client-0");
    let (code, log, _) = asked.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("names no application yet") && !log.contains("Secret"), "{log}");
    let text = fs::read_to_string(place.config()).unwrap();
    let refresh_token = place.fake.tokens().refresh_token.clone();
    let expected = format!(
        "{{\n  \"page_size\": 7,\n  \"client_id\": \"client-0\",\n  \"refresh_token\": \"{refresh_token}\"\n}}\n"
    );
    assert_eq!(text, expected);
}

#[test]
fn a_config_from_a_pipe_is_read_once() {
    let place = Place::new(true);
    let config = fs::read_to_string(place.config()).unwrap();
    let pipe = place.folder.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
    let mut asked = Asked::start(&place, &["--config", "config.json", "--config", "pipe"]);
    fs::write(&pipe, config).unwrap();
    assert!(browse(&asked.wait_for("http")).contains("You are logged in"));
    let (code, log, _) = asked.end();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn a_login_without_a_config_writes_one_and_then_names_it() {
    let place = Place::new(true);
    fs::remove_file(place.config()).unwrap();
    // Without consent, so that nothing is sent to the service.
    let mut asked = Asked::start(&place, &["--timeout", "1"]);
    asked.answer("API key:", "client-0");
    asked.answer("Secret", "secret-0");
    let (code, log, _) = asked.end();
    assert_eq!(code, Some(1), "{log}");
    assert!(place.config().exists() && !place.folder.path().join("tokens.json").exists());
    let (code, log, _) = Asked::start(&place, &[]).end();
    assert_eq!(code, Some(2), "{log}");
    assert!(critical(&log).ends_with("Run: tap-constant-contact login --config config.json"), "{log}");
    // Without an answer, no config is written.
    fs::remove_file(place.config()).unwrap();
    let mut asked = Asked::start(&place, &[]);
    asked.answer("API key:", "\u{4}");
    let (code, log, _) = asked.end();
    assert_eq!(code, Some(2), "{log}");
    assert!(critical(&log).contains("no answer") && !place.config().exists(), "{log}");
}

#[test]
fn login_listens_on_both_loopback_addresses() {
    let v6 = TcpListener::bind("[::1]:0").is_ok();
    for host in ["127.0.0.1", "[::1]"].into_iter().take(if v6 { 2 } else { 1 }) {
        let place = Place::new(true);
        let login = place.login(&[]);
        let address = consent(&login.url).replace("localhost", host);
        assert!(browse(&address).contains("You are logged in"), "{host}");
        assert_eq!(login.end().0, Some(0), "{host}");
    }
}

#[test]
fn silent_connections_and_repeated_answers_do_no_harm() {
    let place = Place::new(true);
    let login = place.login(&[]);
    let port = place.redirect.split([':', '/']).nth(4).unwrap().parse::<u16>().unwrap();
    // Browsers open connections before they need them.
    let silent = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let address = consent(&login.url);
    let twice: Vec<_> = (0..2)
        .map(|_| {
            thread::spawn({
                let address = address.clone();
                // The login may have ended before the second one.
                move || {
                    agent(0)
                        .get(&address)
                        .call()
                        .and_then(|mut answer| answer.body_mut().read_to_string())
                        .unwrap_or_default()
                }
            })
        })
        .collect();
    let pages: Vec<_> = twice.into_iter().map(|page| page.join().unwrap()).collect();
    assert_eq!(pages.iter().filter(|page| page.contains("You are logged in")).count(), 1, "{pages:?}");
    assert_eq!(login.end().0, Some(0));
    drop(silent);
    assert_eq!(place.sync().code, Some(0));
}

/// A terminal at which this was already typed.
fn typed(text: &str) -> (File, Stdio) {
    let (mut keyboard, terminal) = terminal(80);
    keyboard.write_all(text.as_bytes()).unwrap();
    (keyboard, terminal.into())
}

#[test]
fn a_person_is_asked_before_a_login_that_works_is_replaced() {
    for (answer, replaced) in [("n\n", false), ("\n", false), ("y\n", true), ("Yes\n", true)] {
        let place = Place::new(true);
        let stored = place.folder.path().join("tokens.json");
        let old = place.fake.tokens().refresh_token.clone();
        place.configure(&json!({"refresh_token": old, "token_file": stored}));
        assert_eq!(place.sync().code, Some(0));
        let (keyboard, terminal) = typed(answer);
        let mut command = command();
        let login = Login::start(command.args(["login", "--config"]).arg(place.config()).stdin(terminal));
        if replaced {
            assert!(browse(&login.url).contains("You are logged in"));
        }
        let (code, log) = login.end();
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("still works. Replace it? [y/N]"), "{log}");
        assert_eq!(log.contains("The stored login was kept."), !replaced, "{log}");
        let is_new = place.fake.calls().iter().any(|call| call.body.contains("authorization_code"));
        assert_eq!(is_new, replaced);
        assert_eq!(place.sync().code, Some(0));
        drop(keyboard);
    }
}
