//! No secret is shown: every kind of run, at DEBUG and in both log formats, against answers that repeat the request.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fake::account::Size;
use fake::{Account, Fake, Fault, What};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::tap::{command, free_port};

/// A fake account, and a folder for the files of the tap and its user.
struct Place {
    fake: Fake,
    folder: TempDir,
    config: Value,
    /// Notes what a login says after its address.
    noting: Option<JoinHandle<()>>,
}

impl Place {
    fn new() -> Place {
        let fake = Fake::start(Account::generate(3, Size { contacts: 5, lists: 2, campaigns: 2 }));
        let folder = tempfile::tempdir().unwrap();
        let mut config = fake.config();
        config["token_file"] = json!(folder.path().join("tokens.json"));
        config["max_retries"] = json!(1);
        Place { fake, folder, config, noting: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The tap at DEBUG.
    fn tap(&self, format: &str, arguments: &[&str]) -> Command {
        fs::write(self.path("config.json"), self.config.to_string()).unwrap();
        let mut command = command();
        command.args(arguments).arg("--config").arg(self.path("config.json")).args(["--log-format", format]);
        command.env("LOGLEVEL", "DEBUG").env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// A login without stored tokens, and a browser that only writes down its address.
    fn login(&mut self, format: &str, arguments: &[&str]) -> (Child, String, String) {
        let port = free_port();
        let redirect = format!("http://localhost:{port}/callback");
        self.fake.tokens().redirect_uris = vec![redirect.clone()];
        self.config["redirect_uri"] = json!(redirect);
        self.config["refresh_token"] = Value::Null;
        if arguments.contains(&"--device") {
            self.config["client_secret"] = Value::Null;
            self.fake.tokens().client_secret = None;
        }
        fs::write(self.path("browser"), format!("echo \"$@\" >> {}\n", self.path("opened").display())).unwrap();
        let browser = format!("sh {}", self.path("browser").display());
        let mut child = self.tap(format, &[&["login"], arguments].concat()).env("BROWSER", browser).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let (mut said, mut url) = (String::new(), String::new());
        while url.is_empty() && stderr.read_line(&mut said).unwrap() > 0 {
            let line = said.lines().next_back().unwrap_or_default().trim();
            url = if line.starts_with("http") { line.to_owned() } else { String::new() };
        }
        if !arguments.contains(&"--device") {
            // The login waits for an answer.
            fs::copy(format!("/proc/{}/cmdline", child.id()), self.path("process")).unwrap();
            let begun = Instant::now();
            while !fs::read_to_string(self.path("opened")).is_ok_and(|opened| opened.ends_with('\n')) {
                assert!(begun.elapsed() < Duration::from_secs(20), "no browser was opened");
                thread::sleep(Duration::from_millis(5));
            }
        }
        let mut rest = OpenOptions::new().create(true).append(true).open(self.path("said")).unwrap();
        rest.write_all(said.as_bytes()).unwrap();
        self.noting = Some(thread::spawn(move || assert!(std::io::copy(&mut stderr, &mut rest).is_ok())));
        (child, url, redirect)
    }

    /// Waits for a run, and looks for secrets in its files and its output.
    fn check(&mut self, what: &str, child: Child) -> Option<i32> {
        let line = fs::read_to_string(format!("/proc/{}/cmdline", child.id())).unwrap_or_default();
        let output = child.wait_with_output().unwrap();
        self.noting.take().map(JoinHandle::join).transpose().unwrap();
        let mut shown = vec![
            ("the process list".to_owned(), line),
            ("stdout".to_owned(), String::from_utf8_lossy(&output.stdout).into_owned()),
            ("stderr".to_owned(), String::from_utf8_lossy(&output.stderr).into_owned()),
        ];
        for file in fs::read_dir(self.folder.path()).unwrap().map(|file| file.unwrap().path()) {
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            if !["config.json", "tokens.json"].contains(&name.as_str()) {
                shown.push((name, fs::read_to_string(&file).unwrap()));
            }
        }
        // The address of the browser contains the code, as the protocol says. The tap itself puts no secret into an address.
        let calls = self.fake.calls();
        let asked: Vec<_> = calls.iter().map(|call| format!("{}?{}", call.path, call.query)).collect();
        shown.push(("an address".to_owned(), asked.join("\n")));
        let secrets = self.secrets();
        assert!(secrets.len() >= 2, "{secrets:?}");
        for (place, text) in &shown {
            let text = text.replace(r"\\", r"\");
            for secret in &secrets {
                assert!(!text.contains(secret.as_str()), "{what}: {secret} is in {place}: {text}");
            }
        }
        output.status.code()
    }

    /// The secrets: also as a header, and escaped as in JSON and in addresses.
    fn secrets(&self) -> BTreeSet<String> {
        let mut secrets = self.fake.tokens().secrets();
        secrets.insert(STANDARD.encode("client-0:secret-0"));
        // Half of a secret counts too.
        let halves = secrets.iter().map(|secret| secret.chars().take(12).collect::<String>());
        halves
            .flat_map(|half| {
                let escaped = half.bytes().fold(String::new(), |text, b| text + &format!("\\u{b:04x}"));
                let percent = half.bytes().fold(String::new(), |text, b| text + &format!("%{b:02X}"));
                [half, escaped, percent]
            })
            .collect()
    }
}

fn echo(status: u16, path: &str, times: usize) -> Fault {
    Fault { path: path.into(), skip: 0, times, what: What::Echo(status) }
}

/// Runs the cases in parallel, each in both log formats.
fn each<C: Sync>(cases: &[C], case: impl Fn(&C, &str) + Sync) {
    thread::scope(|scope| {
        for one in cases {
            for format in ["text", "json"] {
                let case = &case;
                scope.spawn(move || case(one, format));
            }
        }
    });
}

#[test]
fn no_sync_shows_a_secret() {
    let status = |status, path, times| Some(echo(status, path, times));
    let forged = |what| Some(Fault::once("/contacts", what));
    let cases = [
        ("everything works", None, 0),
        ("a refused refresh", status(400, "/token", 1), 3),
        ("a refused client", status(401, "/token", 1), 3),
        ("a server in trouble", status(503, "/token", 9), 1),
        ("a throttled server", status(429, "/token", 1), 0),
        ("an odd answer", status(200, "/token", 1), 3),
        ("an unknown answer", status(418, "/token", 1), 3),
        ("a lost answer", Some(Fault { path: "/token".into(), skip: 0, times: 9, what: What::Refuse }), 1),
        ("half an answer", Some(Fault { path: "/token".into(), skip: 0, times: 1, what: What::TruncatedJson }), 3),
        ("a refused call", status(400, "/contacts", 9), 1),
        ("a refused token", status(401, "/contacts", 9), 3),
        ("a refused stream", status(403, "/contacts", 99), 3),
        ("an unknown stream", status(404, "/contacts", 99), 1),
        ("a service in trouble", status(500, "/contacts", 99), 1),
        ("a throttled call", status(429, "/contacts", 1), 0),
        ("a redirect", forged(What::Redirect("https://example.com/".into())), 1),
        ("a link elsewhere", forged(What::NextLink("https://example.com/".into())), 1),
        ("a lost page", Some(Fault { path: "/contacts".into(), skip: 0, times: 9, what: What::CutBody }), 1),
    ];
    each(&cases, |(what, fault, code), format| {
        let mut place = Place::new();
        if let Some(fault) = fault {
            place.fake.fault(fault.clone());
        }
        let child = place.tap(format, &[]).spawn().unwrap();
        assert_eq!(place.check(what, child), Some(*code), "{what}");
        if *code == 0 {
            // The access token of a file that is read again and refused.
            place.fake.tokens().revoke_access_tokens();
            let child = place.tap(format, &[]).spawn().unwrap();
            assert_eq!(place.check(what, child), Some(0), "{what}");
        }
    });
}

#[test]
fn no_form_of_a_refresh_token_is_shown() {
    const TOKEN: &str = "Zx/9+Yw=\"Qé.k3";
    let percent = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let json_text = |text: &str| json!(text).to_string().trim_matches('"').to_owned();
    let escaped = |text: &str| text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect::<Vec<_>>().concat();
    let forms = [
        TOKEN.to_owned(),
        percent(TOKEN),
        percent(&percent(TOKEN)),
        TOKEN.bytes().map(|byte| format!("%{byte:02x}")).collect::<Vec<_>>().concat(),
        json_text(TOKEN),
        json_text(&json_text(TOKEN)),
        TOKEN.replace('/', "\\/"),
        escaped(TOKEN),
        percent(&escaped(TOKEN)),
    ];
    each(&[400, 503], |status, format| {
        for form in &forms {
            let mut place = Place::new();
            place.fake.tokens().refresh_token = TOKEN.into();
            place.config["refresh_token"] = json!(TOKEN);
            place.config["max_retries"] = json!(0);
            let body =
                json!({"error": format!("odd {form}"), "error_description": format!("{form}{form}")}).to_string();
            place.fake.fault(Fault::once("/token", What::Status(*status, body, "application/json")));
            let output = place.tap(format, &[]).output().unwrap();
            let shown = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_ne!(output.status.code(), Some(0), "{shown}");
            assert!(shown.contains("odd ***"), "{form}: {shown}");
            // In JSON lines, every backslash is escaped once more.
            for hidden in forms.iter().map(|form| form.chars().take(6).collect::<String>()) {
                assert!(!shown.contains(&hidden) && !shown.contains(&json_text(&hidden)), "{form}: {shown}");
            }
        }
    });
}

#[test]
fn no_echo_of_the_access_token_is_shown() {
    let error = r#"{"error_key":"k","error_message":"m"}"#;
    let cases = [
        ("a request id", 400, error, 1),
        ("a request id of a service in trouble", 503, error, 1),
        ("a message with escapes", 400, r#"{"error_key":"$ESCAPED","error_message":"$TOKEN %24 $PERCENT"}"#, 1),
        ("a message of the gateway", 403, r#"{"message":"$PERCENT"}"#, 3),
        ("a field's name", 200, r#"{"contacts":[{"contact_id":"a","$TOKEN":1,"$ESCAPED x":1,"$PERCENT":1}]}"#, 0),
        ("a field's name in an object", 200, r#"{"contacts":[{"contact_id":"a","email_address":{"$PERCENT":1}}]}"#, 0),
        ("a value", 200, r#"{"contacts":[{"contact_id":"$TOKEN","first_name":"$ESCAPED","job_title":["$TOKEN"]}]}"#, 0),
        (
            "a value of the wrong kind",
            200,
            r#"{"contacts":[{"contact_id":"$TOKEN","created_at":{"a":"$ESCAPED"}}]}"#,
            0,
        ),
        ("a record's key", 200, r#"{"contacts":[{"contact_id":"$PERCENT","created_at":"no"}]}"#, 0),
        ("a key of the wrong kind", 200, r#"{"contacts":[{"contact_id":["$TOKEN"],"$PERCENT":1}]}"#, 1),
        ("a member of the page", 200, r#"{"$TOKEN":["$ESCAPED"]}"#, 1),
        ("a link elsewhere", 200, r#"{"contacts":[],"_links":{"next":{"href":"https://$TOKEN/"}}}"#, 1),
        ("no JSON", 200, "{$TOKEN", 1),
    ];
    each(&cases, |(what, status, body, code), format| {
        let mut place = Place::new();
        let headers =
            vec![("x-amzn-requestid", "id-$TOKEN-$PERCENT".to_owned()), ("x-amzn-errortype", "$TOKEN".into())];
        let what_comes = What::Answer(*status, headers, (*body).to_owned());
        place.fake.fault(Fault::always("/contacts?", what_comes));
        let child = place.tap(format, &[]).spawn().unwrap();
        assert_eq!(place.check(what, child), Some(*code), "{what}");
    });
}

#[test]
fn no_echo_of_the_other_secrets_is_shown() {
    // Long enough not to be a word, and with characters that JSON and addresses escape.
    let (refresh, secret) = ("refresh/+token\"of-the-test", "client&secret/of the-test");
    let json_text = |text: &str| json!(text).to_string().trim_matches('"').to_owned();
    let percent = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let forms = |text: &str| {
        let escaped = text.bytes().fold(String::new(), |text, byte| text + &format!("\\u{byte:04x}"));
        [text.to_owned(), percent(text), percent(&percent(text)), json_text(text), json_text(&json_text(text)), escaped]
    };
    let cases = ["an error", "a request id", "a name", "a value", "an account"];
    each(&cases, |case, format| {
        for form in [refresh, secret].into_iter().flat_map(forms) {
            let mut place = Place::new();
            place.fake.switches().rotating = false;
            {
                let mut tokens = place.fake.tokens();
                tokens.refresh_token = refresh.into();
                tokens.client_secret = Some(secret.into());
                tokens.granted_scopes.push("account_read".into());
            }
            (place.config["refresh_token"], place.config["client_secret"]) = (json!(refresh), json!(secret));
            let headers = vec![("x-amzn-requestid", percent(&form))];
            let rows = |row: Value| json!({"contacts": [row]}).to_string();
            let (path, status, body) = match *case {
                "an error" => ("/contacts?", 400, json!({"error_key": form, "error_message": form}).to_string()),
                "a request id" => ("/contacts?", 400, json!({"error_key": "k"}).to_string()),
                "a name" => ("/contacts?", 200, rows(json!({"contact_id": "a", form.as_str(): 1}))),
                "a value" => ("/contacts?", 200, rows(json!({"contact_id": "a", "created_at": [form]}))),
                _ => ("/account/summary", 200, json!({"organization_name": form}).to_string()),
            };
            let what = What::Answer(status, headers, body);
            place.fake.fault(Fault::always(path, what));
            let arguments = if *case == "an account" { &["--test"][..] } else { &[] };
            let output = place.tap(format, arguments).output().unwrap();
            let shown = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            for hidden in [refresh, secret].into_iter().flat_map(forms) {
                let half: String = hidden.chars().take(12).collect();
                assert!(!shown.contains(&half) && !shown.contains(&json_text(&half)), "{case}, {form}: {shown}");
            }
        }
    });
}

#[test]
fn no_other_command_shows_a_secret() {
    each(&[&["--test"][..], &["--about"], &["--about", "--format=json"], &["--discover"]], |arguments, format| {
        let mut place = Place::new();
        let child = place.tap(format, arguments).spawn().unwrap();
        let grant = place.fake.tokens().secrets().len();
        assert_eq!(place.check(&format!("{arguments:?}"), child), Some(0));
        assert_eq!(place.fake.tokens().secrets().len() > grant, arguments == &["--test"]);
    });
    each(&[400, 401, 403, 503], |status, format| {
        let mut place = Place::new();
        place.fake.fault(echo(*status, "/account/user/privileges", 9));
        place.fake.fault(echo(*status, "/emails", 9));
        let child = place.tap(format, &["--test"]).spawn().unwrap();
        assert_ne!(place.check(&format!("--test and {status}"), child), Some(0));
    });
}

#[test]
fn a_config_that_cannot_be_used_is_not_shown() {
    for (key, value) in [
        ("refresh_token", json!(["refresh-0"])),
        ("client_secret", json!({"secret-0": "refresh-0"})),
        ("access_token", json!("refresh-0\nsecret-0")),
        ("token_file", json!(null)),
    ] {
        let mut place = Place::new();
        place.config[key] = value;
        if key == "token_file" {
            place.config["api_url"] = json!("no address");
        }
        let child = place.tap("text", &[]).spawn().unwrap();
        place.fake.tokens().revoke_access_tokens();
        let output = child.wait_with_output().unwrap();
        let shown = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{shown}");
        assert!(!shown.contains("refresh-0") && !shown.contains("secret-0"), "{shown}");
    }
    // A broken token file, whose text a parser would quote.
    for text in ["{\"access_token\": [\"secret-0\"]}", "secret-0", "{\"secret-0\""] {
        let place = Place::new();
        fs::write(place.path("tokens.json"), text).unwrap();
        let output = place.tap("text", &[]).output().unwrap();
        let shown = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{shown}");
        assert!(!shown.contains("secret-0"), "{shown}");
    }
}

fn agent(redirects: u32) -> ureq::Agent {
    let config = ureq::Agent::config_builder().http_status_as_error(false).max_redirects(redirects);
    config.max_redirects_will_error(false).proxy(None).build().into()
}

#[test]
fn no_login_shows_a_secret() {
    let cases = [
        ("by browser", None, 0),
        ("by paste", None, 0),
        ("denied", None, 3),
        ("by browser", Some(echo(400, "/token", 1)), 3),
        ("by paste", Some(echo(401, "/token", 1)), 3),
        ("by browser", Some(echo(503, "/token", 9)), 1),
        ("by device", None, 0),
        ("by device", Some(echo(400, "/token", 1)), 3),
        ("by device", Some(echo(400, "/device", 1)), 3),
        ("by device", Some(echo(503, "/device", 9)), 1),
    ];
    each(&cases, |(what, fault, code), format| {
        let mut place = Place::new();
        if let Some(fault) = fault {
            place.fake.fault(fault.clone());
        }
        place.fake.tokens().deny_consent = *what == "denied";
        let arguments = if *what == "by device" { &["--device"][..] } else { &[] };
        let (mut child, url, redirect) = place.login(format, arguments);
        let mut page = String::new();
        if *what == "by paste" {
            let answer = agent(0).get(&url).call().unwrap();
            let address = answer.headers()["location"].to_str().unwrap();
            // An answer of another login is not repeated either.
            let wrong = address.replace("state=", "state=x");
            writeln!(child.stdin.as_mut().unwrap(), "{wrong}\n{address}").unwrap();
        } else if *what != "by device" {
            agent(0).get(format!("{redirect}?code=code-1&state=x")).call().unwrap();
            agent(5).get(&url).call().unwrap().into_body().into_reader().read_to_string(&mut page).unwrap();
            assert!(page.contains("</html>"), "{page}");
        }
        fs::write(place.path("page"), page).unwrap();
        assert_eq!(place.check(what, child), Some(*code), "{what} {format}");
        let said = fs::read_to_string(place.path("said")).unwrap();
        assert!(said.contains(if *code == 0 { "Logged in" } else { "CRITICAL" }) || format == "json", "{said}");
        if *what != "by device" {
            assert!(fs::read_to_string(place.path("opened")).unwrap().contains(&url));
            assert!(fs::read_to_string(place.path("process")).unwrap().contains("login"));
        }
    });
}
