//! Common mistakes: each message says what is wrong and what to do.

use std::fs;
use std::path::Path;

use fake::account::Size;
use fake::{Account, Fake, Switches};
use serde_json::Value;

use crate::tap::{command, without_times};

fn fake() -> Fake {
    let account = Account::generate(3, Size { contacts: 3, lists: 1, campaigns: 1 });
    Fake::start_with(account, Switches::long_lived())
}

/// A mistake: the arguments, the files that differ from good ones, and the message.
struct Mistake<'a> {
    arguments: &'a str,
    files: &'a [(&'a str, &'a str)],
    message: &'a str,
}

const SYNC: &str = "--config config.json";

/// A config with these settings beside good ones.
fn config<'a>(members: &'a str, message: &'a str) -> Mistake<'a> {
    Mistake { arguments: SYNC, files: Box::leak(Box::new([("config.json", members)])), message }
}

/// Other arguments, with good files.
fn arguments<'a>(arguments: &'a str, message: &'a str) -> Mistake<'a> {
    Mistake { arguments, files: &[], message }
}

fn catalog<'a>(text: &'a str, message: &'a str) -> Mistake<'a> {
    let files = Box::leak(Box::new([("catalog.json", text)]));
    Mistake { arguments: "--config config.json --catalog catalog.json", files, message }
}

fn state<'a>(text: &'a str, message: &'a str) -> Mistake<'a> {
    let files = Box::leak(Box::new([("state.json", text)]));
    Mistake { arguments: "--config config.json --state state.json", files, message }
}

/// A folder with a good config, catalog and state, unless `files` has others.
fn folder(fake: &Fake, files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        #[cfg(unix)]
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    };
    write("config.json", &fake.config().to_string());
    write("catalog.json", r#"{"streams": [{"tap_stream_id": "contact_lists"}]}"#);
    write("state.json", r#"{"bookmarks": {}}"#);
    for (name, text) in files {
        match serde_json::from_str::<Value>(text) {
            // Settings for the good config.
            Ok(Value::Object(members)) if *name == "config.json" => {
                let mut config = fake.config();
                members.into_iter().for_each(|(key, value)| config[key] = value);
                write(name, &config.to_string());
            }
            _ => write(name, text),
        }
    }
    folder
}

/// Runs the tap in a folder. Returns its exit code and its messages: the lines of these levels, or clap's error without the
/// hints.
fn run(folder: &Path, arguments: &str, levels: &[&str]) -> (i32, String) {
    let output = command().current_dir(folder).args(shell_words(arguments)).output().unwrap();
    let stderr = without_times(&String::from_utf8(output.stderr).unwrap());
    assert!(!stderr.chars().any(|c| c.is_control() && c != '\n'), "{stderr:?}");
    assert!(stderr.lines().all(|line| line.len() <= 2000), "{stderr}");
    let has_level = |line: &&str| levels.iter().any(|level| line.starts_with(level));
    let lines: Vec<&str> = if stderr.starts_with("error: ") {
        let hints = ["Usage: ", "For more information"];
        let lines = stderr.lines().take_while(|line| !hints.iter().any(|hint| line.starts_with(hint)));
        lines.map(str::trim).filter(|line| !line.is_empty()).collect()
    } else {
        stderr.lines().filter(has_level).collect()
    };
    (output.status.code().unwrap(), lines.join(" "))
}

/// Splits arguments at spaces that are not in single quotes.
fn shell_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (i, part) in text.split('\'').enumerate() {
        if i % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn every_mistake_has_a_message_that_says_what_to_do() {
    let fake = fake();
    let mistakes = [
        // The command line.
        arguments(
            "--confg config.json",
            "error: unexpected argument '--confg' found tip: a similar argument exists: '--config'",
        ),
        arguments(
            "lgin --config config.json",
            "error: unrecognized subcommand 'lgin' tip: a similar subcommand exists: 'login'",
        ),
        arguments("--config", "error: a value is required for '--config <FILE>' but none was supplied"),
        arguments(
            "--config config.json --selct contacts",
            "error: unexpected argument '--selct' found tip: a similar argument exists: '--select'",
        ),
        arguments(
            "--config config.json --start-date 2026-01-01",
            r#"error: unexpected argument '--start-date' found tip: start_date is a setting: write it into the config, as "start_date": …"#,
        ),
        arguments("--config config.json extra", "error: unrecognized subcommand 'extra'"),
        arguments("test --config config.json", "error: unrecognized subcommand 'test' tip: --test is an argument"),
        arguments(
            "sync --config config.json",
            "error: unrecognized subcommand 'sync' tip: a sync is what happens without a command",
        ),
        arguments(
            "--config config.json state.json",
            "error: unrecognized subcommand 'state.json' tip: each config needs a --config before it",
        ),
        arguments(
            "--config config.json --select '!contacts.contact_id'",
            r#"CRITICAL --select "!contacts.contact_id": contact_id is a key, and is always written"#,
        ),
        arguments(
            "--config config.json --catalog catalog.json --select contacts",
            "error: the argument '--catalog <FILE>' cannot be used with '--select <PATTERN>'",
        ),
        arguments(
            "--about --format yaml",
            "error: invalid value 'yaml' for '--format <FORMAT>' [possible values: text, json, markdown, meltano]",
        ),
        arguments(
            "--config config.json --format json",
            "error: the following required arguments were not provided: <--about|--test>",
        ),
        arguments(
            "--config config.json --test --format markdown",
            "CRITICAL --test answers as text or json: use --format json, or no --format",
        ),
        arguments(
            "login --config config.json --timeout 18446744073709551615",
            "error: invalid value '18446744073709551615' for '--timeout <SECONDS>': 18446744073709551615 is not in 1..=86400",
        ),
        arguments(
            "login --config config.json --timeout 0",
            "error: invalid value '0' for '--timeout <SECONDS>': 0 is not in 1..=86400",
        ),
        arguments("man lgoin", r#"CRITICAL there is no command "lgoin"; did you mean "login"?"#),
        arguments(
            "--test",
            "CRITICAL no config: pass --config FILE, or --config ENV to take the settings from TAP_CONSTANT_CONTACT_… variables; see --help",
        ),
        arguments(
            "--config conf.json",
            r#"CRITICAL conf.json does not exist. Write conf.json with {"client_id": "your API key", "client_secret": "your secret", "token_file": "tokens.json"}, without client_secret for a PKCE or device application; then run: tap-constant-contact login --config conf.json"#,
        ),
        arguments("--config .", "CRITICAL . is a directory, not a file"),
        arguments(
            "--config config.json --state sate.json",
            "CRITICAL sate.json does not exist; leave --state out of the first run",
        ),
        arguments(
            "--config config.json --select contcts",
            r#"CRITICAL --select "contcts" matches no stream; the nearest is "contacts""#,
        ),
        arguments(
            "--config config.json --select contacts.emial_address",
            r#"CRITICAL --select "contacts.emial_address" matches no field; the nearest is "contacts.email_address""#,
        ),
        arguments(
            "--config config.json --select '!contacts.note'",
            r#"CRITICAL --select "!contacts.note" matches no field; the nearest is "!contacts.notes""#,
        ),
        arguments(
            "--config config.json --select email",
            r#"CRITICAL --select "email" matches no stream; the nearest is "email_campaigns""#,
        ),
        arguments(
            "--config config.json --select zzz",
            r#"CRITICAL --select "zzz" matches no stream; the streams are contact_lists, contacts, email_campaigns, contact_action_summary, contact_activity_details"#,
        ),
        arguments(
            "--config config.json --select contacts.zzz",
            r#"CRITICAL --select "contacts.zzz" matches no field; --discover names all fields"#,
        ),
        arguments("--config config.json --select '!*'", "CRITICAL --select leaves no stream to read: each is excluded"),
        arguments(
            "--config config.json --full-table contact",
            r#"CRITICAL --full-table "contact": there is no such stream; the nearest is "contacts""#,
        ),
        arguments(
            "--config config.json --select contacts --full-table email_campaigns",
            "CRITICAL --full-table email_campaigns: this stream is not selected",
        ),
        // The wrong file.
        arguments(
            "--config catalog.json",
            "CRITICAL catalog.json is a catalog, not a config: pass it with --catalog catalog.json",
        ),
        arguments(
            "--config state.json",
            "CRITICAL state.json is a state, not a config: pass it with --state state.json",
        ),
        arguments(
            "--config config.json --catalog state.json",
            "CRITICAL state.json is a state, not a catalog: pass it with --state state.json",
        ),
        arguments(
            "--config config.json --catalog config.json",
            "CRITICAL config.json is a config, not a catalog: pass it with --config config.json",
        ),
        arguments(
            "--config config.json --state catalog.json",
            "CRITICAL catalog.json is a catalog, not a state: pass it with --catalog catalog.json",
        ),
        arguments(
            "--config config.json --state config.json",
            "CRITICAL config.json is a config, not a state: pass it with --config config.json",
        ),
        Mistake {
            arguments: "--config tokens.json",
            files: &[("tokens.json", r#"{"access_token": "a", "refresh_token": "r", "superseded": []}"#)],
            message: r#"CRITICAL tokens.json holds the tokens that login stored, not a config: name it in the config, with "token_file": "tokens.json""#,
        },
        Mistake {
            arguments: "--config config.json --state out.jsonl",
            files: &[(
                "out.jsonl",
                "{\"type\": \"STATE\", \"value\": {}}\n{\"type\": \"STATE\", \"value\": {\"bookmarks\": {}}}\n",
            )],
            message: "CRITICAL out.jsonl holds the messages of a tap, not a state; the state of that run is in its last line: tail -n 1 out.jsonl > out.jsonl.last, then pass --state out.jsonl.last",
        },
        // The text of the config.
        config("", "CRITICAL config.json: the file is empty"),
        config(
            "{\n  \"client_id\": \"a\",\n}",
            "CRITICAL config.json: not valid JSON: line 3, column 1: there is a comma before the closing bracket",
        ),
        config(
            "{\n  \"client_id\": \"a\"\n  \"page_size\": 5\n}",
            "CRITICAL config.json: not valid JSON: line 3, column 3: a comma or } is missing",
        ),
        config(
            "{'client_id': 'a'}",
            "CRITICAL config.json: not valid JSON: line 1, column 2: a key must be a string in double quotes, and comments are not allowed",
        ),
        config(
            "{\n  // my key\n  \"client_id\": \"a\"\n}",
            "CRITICAL config.json: not valid JSON: line 2, column 3: a key must be a string in double quotes, and comments are not allowed",
        ),
        config(
            "{\"client_secret\": \"hush}",
            "CRITICAL config.json: not valid JSON: line 1, column 24: the file ends within a string",
        ),
        config(
            "[{\"client_id\": \"a\"}]",
            r#"CRITICAL config.json: a config must be one JSON object, such as {"client_id": …}"#,
        ),
        config("client_id: a", "CRITICAL config.json: not valid JSON: line 1, column 1: this is no JSON value"),
        // Settings.
        config(
            r#"{"page_sise": 100}"#,
            r#"CRITICAL config.json: unknown setting "page_sise": did you mean "page_size"?"#,
        ),
        config(
            r#"{"PageSize": 100}"#,
            r#"CRITICAL config.json: unknown setting "PageSize": did you mean "page_size"?"#,
        ),
        config(
            r#"{"status": "active"}"#,
            r#"CRITICAL config.json: unknown setting "status": did you mean "contact_status"?"#,
        ),
        config(
            r#"{"days_back": 3}"#,
            r#"CRITICAL config.json: unknown setting "days_back": did you mean "updated_days_back" or "report_days_back" or "report_start_days_back" or "report_end_days_back"?"#,
        ),
        config(r#"{"page_size": 1000}"#, "CRITICAL config.json: page_size is 1000; allowed: integer from 1 to 500"),
        config(
            r#"{"page_size": "many"}"#,
            r#"CRITICAL config.json: page_size is "many"; allowed: integer from 1 to 500"#,
        ),
        config(
            r#"{"contact_status": "actve"}"#,
            r#"CRITICAL config.json: contact_status is "actve"; allowed: list of all, active, deleted, not_set, pending_confirmation, temp_hold, unsubscribed; did you mean "active"?"#,
        ),
        config(
            r#"{"tracking_activity_types": ["em_opens", "em_click"]}"#,
            r#"CRITICAL config.json: tracking_activity_types is ["em_opens","em_click"]; allowed: list of em_sends, em_opens, em_clicks, em_bounces, em_optouts, em_forwards, p_contact_open, p_contact_click, p_contact_add, p_contact_update; did you mean "em_clicks"?"#,
        ),
        config(r#"{"on_quota": "sleep"}"#, r#"CRITICAL config.json: on_quota is "sleep"; allowed: stop, wait"#),
        config(
            r#"{"include_subresources": "yes"}"#,
            r#"CRITICAL config.json: include_subresources is "yes"; allowed: true or false, or list of custom_fields, list_memberships, phone_numbers, street_addresses, taggings, notes"#,
        ),
        config(
            r#"{"timezone": "EST5"}"#,
            r#"CRITICAL config.json: timezone is "EST5"; allowed: IANA name such as America/New_York; did you mean "EST"?"#,
        ),
        config(
            r#"{"timezone": "Europe/Berln"}"#,
            r#"CRITICAL config.json: timezone is "Europe/Berln"; allowed: IANA name such as America/New_York; did you mean "Europe/Berlin"?"#,
        ),
        config(
            r#"{"refresh_token": null, "token_file": "."}"#,
            "CRITICAL token_file is ., a folder; name a file in it, such as ./tokens.json",
        ),
        Mistake {
            arguments: SYNC,
            files: &[("config.json", r#"{"refresh_token": null, "token_file": "tokens.json"}"#), ("tokens.json", "{}")],
            message: "CRITICAL tokens.json holds no tokens, so you are not logged in. Run: tap-constant-contact login --config config.json (or correct token_file)",
        },
        arguments(
            "--discover --select contacts",
            "error: the argument '--discover' cannot be used with '--select <PATTERN>'",
        ),
        config(
            r#"{"start_date": "01/02/2026"}"#,
            r#"CRITICAL config.json: start_date is "01/02/2026"; allowed: date YYYY-MM-DD or date-time such as 2026-01-31T00:00:00Z, from 1990 to now"#,
        ),
        config(
            r#"{"start_date": "2999-01-01"}"#,
            "CRITICAL config.json: start_date is 2999-01-01 00:00:00 UTC, which is in the future",
        ),
        config(
            r#"{"report_date": "2026-02-30"}"#,
            r#"CRITICAL config.json: report_date is "2026-02-30"; allowed: date YYYY-MM-DD from 1990-01-01 to today"#,
        ),
        config(
            r#"{"report_end_date": "2026-01-02"}"#,
            "CRITICAL config.json: report_end_date needs a start: set report_start_date or report_start_days_back",
        ),
        config(
            r#"{"report_start_date": "2026-01-05", "report_end_date": "2026-01-04"}"#,
            "CRITICAL config.json: report_end_date (2026-01-04) is before report_start_date (2026-01-05): the end must not be before the start",
        ),
        config(
            r#"{"report_date": "2026-01-05", "report_days_back": 3}"#,
            "CRITICAL config.json: report_date and report_days_back do not go together: set report_date, or report_days_back, or one of report_start_date and report_start_days_back with or without one of report_end_date and report_end_days_back",
        ),
        config(
            r#"{"activity_route": "campaigns", "tracking_activity_types": "em_opens,p_contact_add"}"#,
            r#"CRITICAL config.json: activity_route is "campaigns", which cannot read p_contact_add: set it to "auto" or "contacts", or take the landing-page types (p_*) out of tracking_activity_types"#,
        ),
        config(
            r#"{"contact_ids": ["a@b.example"]}"#,
            r#"CRITICAL config.json: contact_ids is ["a@b.example"]; allowed: contact ids (letters, digits and hyphens)"#,
        ),
        config(
            r#"{"api_url": "https://me:hush@api.cc.email/v3?key=hush"}"#,
            r#"CRITICAL config.json: api_url is "https://***@api.cc.email/v3?***"; allowed: https:// URL (http:// for loopback only) without user, query and fragment"#,
        ),
        config(
            r#"{"redirect_uri": "http://example.com/callback"}"#,
            r#"CRITICAL config.json: redirect_uri is "http://example.com/callback"; allowed: https:// URL (http:// for loopback only) without user, query and fragment"#,
        ),
        config(
            r#"{"client_id": "two words"}"#,
            "CRITICAL config.json: client_id is ***; allowed: ASCII characters without spaces",
        ),
        config(
            r#"{"client_id": ""}"#,
            "CRITICAL config.json: client_id is missing: set it to the API key of your application",
        ),
        config(
            r#"{"requests_per_second": 0, "max_retries": -1, "timezon": "UTC"}"#,
            r#"CRITICAL config.json: 3 settings are wrong: (1) requests_per_second is 0; allowed: number from 0.01 to 10000 (2) max_retries is -1; allowed: integer from 0 to 20 (3) unknown setting "timezon": did you mean "timezone"?"#,
        ),
        // The catalog.
        catalog("{}", "CRITICAL catalog.json: not a usable catalog: missing field `streams` at line 1 column 2"),
        catalog(
            "[]",
            r#"CRITICAL catalog.json: not a usable catalog: invalid type: list, expected an object with "streams", as --discover writes it at line 1 column 0"#,
        ),
        catalog(
            r#"{"streams": [{"stream": "contacts", "selected": "yes"}]}"#,
            r#"CRITICAL catalog.json: not a usable catalog: streams[0].selected: invalid type: string "yes", expected a boolean at line 1 column 53"#,
        ),
        catalog(
            r#"{"streams": [{"stream": "contacts", "metadata": [{"breadcrumb": "contacts", "metadata": {}}]}]}"#,
            r#"CRITICAL catalog.json: not a usable catalog: streams[0].metadata[0].breadcrumb: invalid type: string "contacts", expected a list at line 1 column 74"#,
        ),
        catalog(
            r#"{"streams": [{"stream": "contacts"}, {"stream": "contacts"}]}"#,
            "CRITICAL catalog.json: not a usable catalog: streams[1] is a second entry for the stream contacts",
        ),
        catalog(
            r#"{"streams": [{"schema": {}}]}"#,
            r#"CRITICAL catalog.json: not a usable catalog: streams[0] has no "tap_stream_id""#,
        ),
        catalog(
            r#"{"streams": [{"stream": "orders"}]}"#,
            "CRITICAL catalog.json: not a usable catalog: it has none of this tap's streams, which are contact_lists, contacts, email_campaigns, contact_action_summary, contact_activity_details",
        ),
        catalog(
            "{\"streams\": [}",
            "CRITICAL catalog.json: not a usable catalog: not valid JSON: line 1, column 14: this is no JSON value",
        ),
        // The state.
        state(
            "",
            "CRITICAL state.json: the file is empty. Pass the value of the last STATE message of an earlier run, or leave --state out to read everything",
        ),
        state(
            "{\"bookmarks\": {}",
            "CRITICAL state.json: not valid JSON (EOF while parsing an object at line 1 column 16). Pass the value of the last STATE message of an earlier run, or leave --state out to read everything",
        ),
    ];
    assert!(mistakes.len() >= 60);
    for Mistake { arguments, files, message } in &mistakes {
        let folder = folder(&fake, files);
        assert_eq!(run(folder.path(), arguments, &["CRITICAL"]), (2, (*message).to_owned()), "{arguments} {files:?}");
    }
    assert!(fake.calls().is_empty());
}

/// Oddities that do not keep the run from doing what was meant.
#[test]
fn an_oddity_draws_one_warning() {
    let fake = fake();
    for (members, message) in [
        (
            r#"{"page_sise": ""}"#,
            r#"WARNING config.json: unknown setting "page_sise" is ignored; did you mean "page_size"?"#,
        ),
        (r##"{"#page_size": 9, "_note": "mine"}"##, ""),
        (r#"{"zzz": 1}"#, r#"WARNING config.json: unknown setting "zzz" is ignored"#),
        (
            "{\"re\\u001b[31mport\": 1}",
            r#"WARNING config.json: unknown setting "re�[31mport" is ignored; did you mean "report_date"?"#,
        ),
    ] {
        let folder = folder(&fake, &[("config.json", members)]);
        let ran = run(folder.path(), "--config config.json --select contact_lists", &["WARNING", "CRITICAL"]);
        assert_eq!(ran, (0, message.to_owned()), "{members}");
    }
    for (text, message) in [
        (
            r#"{"streams": [{"stream": "contact_lists"}, {"stream": "contcts"}]}"#,
            "WARNING catalog.json: unknown streams are ignored: contcts (did you mean \"contacts\"?)",
        ),
        (
            r#"{"streams": [{"stream": "contact_lists", "metadata": [{"breadcrumb": [], "metadata": {"selectd": true}}]}]}"#,
            "WARNING catalog.json: contact_lists: unknown keys are ignored: selectd (did you mean \"selected\"?)",
        ),
        (
            r#"{"streams": [{"stream": "contact_lists", "replication_key": "updated_at"}]}"#,
            "WARNING catalog.json: contact_lists: replication key \"updated_at\" is ignored; this stream has none",
        ),
        (
            r#"{"streams": [{"stream": "contacts", "metadata": [{"breadcrumb": [], "metadata": {"selected": true, "replication-key": "created_at"}}]}]}"#,
            "WARNING catalog.json: contacts: replication key \"created_at\" is ignored; using \"updated_at\"",
        ),
        (
            r#"{"streams": [{"stream": "contact_lists", "metadata": [{"breadcrumb": ["properties", "nam"], "metadata": {}}]}]}"#,
            "WARNING catalog.json: contact_lists: unknown properties are ignored: nam (did you mean \"name\"?)",
        ),
    ] {
        let folder = folder(&fake, &[("catalog.json", text)]);
        let (code, all) = run(folder.path(), "--config config.json --catalog catalog.json", &["WARNING", "CRITICAL"]);
        assert_eq!(code, 0, "{all}");
        assert!(all.contains(message), "{all}");
    }
}

#[test]
fn a_message_about_the_environment_names_the_variable() {
    let fake = fake();
    let folder = folder(&fake, &[]);
    let with = |variable: &str, value: &std::ffi::OsStr| {
        let mut command = command();
        command.current_dir(folder.path()).args([
            "--config",
            "config.json",
            "--config",
            "ENV",
            "--select",
            "contact_lists",
        ]);
        let output = command.env(variable, value).output().unwrap();
        (output.status.code().unwrap(), without_times(&String::from_utf8(output.stderr).unwrap()))
    };
    let (code, all) = with("TAP_CONSTANT_CONTACT_PAGE_SISE", "7".as_ref());
    let expected = "CRITICAL environment: unknown setting \"TAP_CONSTANT_CONTACT_PAGE_SISE\": did you mean \
                    \"TAP_CONSTANT_CONTACT_PAGE_SIZE\"?\n";
    assert_eq!((code, all.as_str()), (2, expected));
    let (code, all) = with("TAP_CONSTANT_CONTACT_CLIENT_ID", "two words".as_ref());
    assert_eq!((code, all.contains("TAP_CONSTANT_CONTACT_CLIENT_ID is ***")), (2, true), "{all}");
    let output = command().args(["--config", "ENV"]).output().unwrap();
    let all = without_times(&String::from_utf8(output.stderr).unwrap());
    let expected = "CRITICAL environment: TAP_CONSTANT_CONTACT_CLIENT_ID is missing: set it to the API key of your \
                    application\n";
    assert_eq!(all, expected);
    let (code, all) = with("TAP_CONSTANT_CONTACT_PAGE_SIZE", "many".as_ref());
    let expected = "CRITICAL environment: TAP_CONSTANT_CONTACT_PAGE_SIZE is \"many\"; allowed: integer from 1 to 500\n";
    assert_eq!((code, all.as_str()), (2, expected));
    // Meltano's own variables and the log level are not settings.
    for variable in ["TAP_CONSTANT_CONTACT__SELECT", "TAP_CONSTANT_CONTACT_LOGLEVEL"] {
        let (code, all) = with(variable, "INFO".as_ref());
        assert!(code == 0 && !all.contains("WARNING"), "{all}");
    }
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let odd = std::ffi::OsStr::from_bytes(b"hu\xffsh");
        let (code, all) = with("TAP_CONSTANT_CONTACT_CLIENT_ID", odd);
        let expected = "CRITICAL the environment variable TAP_CONSTANT_CONTACT_CLIENT_ID is not UTF-8 text\n";
        assert_eq!((code, all.as_str()), (2, expected));
        assert_eq!(with("ANOTHER_PROGRAM", odd).0, 0);
    }
}

#[test]
fn under_meltano_the_commands_are_those_of_meltano() {
    let output = command().args(["--config", "none.json"]).env("MELTANO_EXTRACTOR_NAME", "tap-cc").output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.ends_with("; then run: meltano invoke tap-cc login\n"), "{message}");
}

/// A pipe can be read only once; a second read would wait forever.
#[cfg(unix)]
#[test]
fn a_config_from_a_pipe_is_read_once() {
    use std::io::Write;
    use std::process::Stdio;

    let fake = fake();
    let mut command = command();
    command.args(["--config", "/dev/stdin", "--select", "contact_lists"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(fake.config().to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    // A pipe cannot store the next refresh token.
    assert!(stderr.contains("there is neither a token_file nor a config file"), "{stderr}");

    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("config");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
    let mut command = crate::tap::command();
    command.arg("--config").arg(&pipe).args(["--select", "contact_lists"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    fs::write(&pipe, fake.config().to_string()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}
