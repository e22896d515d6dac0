//! Calls to the authorization server: one a second, retried where that can help, and its refusals in words.

use std::cell::RefCell;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oauth2::basic::BasicClient;
use oauth2::{
    AuthType, AuthUrl, ClientId, ClientSecret, DeviceAuthorizationUrl, EndpointNotSet, EndpointSet, HttpRequest,
    HttpResponse, RequestTokenError, TokenUrl,
};
use serde_json::{Value, json};
use ureq::unversioned::transport::DefaultConnector;

use super::durable_file::Lock;
use super::store::Tokens;
use super::token_answer;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::http::{Retry, agent, is_unsent, is_untrusted, network_text, retry_after, untrusted_text};
use crate::secret::{Secret, mask};
use crate::shown::shown;

/// The authorization server allows one call a second; the rest is for calls that take a different time to get there.
const SPACING: Duration = Duration::from_millis(1050);

/// The wait before a token is sent again that the server may have used already. It may still be working on the first
/// call, and some servers accept a used token once more for a short time.
const UNCERTAIN_WAIT: Duration = Duration::from_secs(5);

/// The largest answer read, in bytes.
const LARGEST_ANSWER: u64 = 1 << 20;

/// The `oauth2` crate's client with all three addresses set.
pub(crate) type ProtocolClient = BasicClient<EndpointSet, EndpointSet, EndpointNotSet, EndpointNotSet, EndpointSet>;

/// What a token is asked for with. The same refusal means something else for each.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum GrantType<'a> {
    RefreshToken {
        /// Where the refresh token came from.
        from: &'a str,
    },
    AuthorizationCode,
    DeviceCode,
}

/// The authorization server as one application sees it.
pub(crate) struct AuthServer {
    agent: ureq::Agent,
    client_id: Option<String>,
    client_secret: Option<Secret>,
    auth_url: String,
    redirect_uri: String,
    max_retries: u32,
    login_command: String,
    /// Whether a token may be on its way that is not stored yet.
    is_renewing: AtomicBool,
    /// Every secret that the run has held.
    secrets: Mutex<Vec<Secret>>,
}

impl AuthServer {
    pub(crate) fn new(config: &Config) -> Result<AuthServer> {
        let given = [&config.client_secret, &config.refresh_token, &config.access_token];
        Ok(AuthServer {
            agent: agent(config, &config.auth_url, DefaultConnector::new())?,
            client_id: config.client_id.clone(),
            client_secret: config.client_secret.clone(),
            auth_url: config.auth_url.as_str().trim_end_matches('/').to_owned(),
            redirect_uri: config.redirect_uri.clone(),
            max_retries: config.max_retries,
            login_command: config.login_command(),
            is_renewing: AtomicBool::new(false),
            secrets: Mutex::new(given.into_iter().flatten().cloned().collect()),
        })
    }

    /// Every secret that the run has held.
    pub(super) fn secrets(&self) -> Vec<Secret> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same tokens, noted as secrets.
    pub(super) fn noted(&self, tokens: Tokens) -> Tokens {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        for secret in [&tokens.access_token, &tokens.refresh_token].into_iter().flatten() {
            if !secrets.contains(secret) {
                secrets.push(secret.clone());
            }
        }
        drop(secrets);
        tokens
    }

    /// The client that builds requests and reads answers. It makes no calls.
    pub(crate) fn protocol(&self) -> Result<ProtocolClient> {
        let Some(id) = &self.client_id else {
            return Err(Error::Usage("config: client_id is missing; set it to the application's API key".into()));
        };
        let bad = |e: url::ParseError| Error::Usage(format!("auth_url: {e}"));
        let at = |path: &str| format!("{}/{path}", self.auth_url);
        let client = BasicClient::new(ClientId::new(id.clone()))
            .set_token_uri(TokenUrl::new(at("token")).map_err(bad)?)
            .set_auth_uri(AuthUrl::new(at("authorize")).map_err(bad)?)
            .set_device_authorization_url(DeviceAuthorizationUrl::new(at("device/authorize")).map_err(bad)?);
        Ok(match &self.client_secret {
            Some(secret) => client
                .set_client_secret(ClientSecret::new(secret.expose().to_owned()))
                .set_auth_type(AuthType::BasicAuth),
            None => client.set_auth_type(AuthType::RequestBody),
        })
    }

    /// Lets the protocol's client make its calls through `request`, each under a lock from `lock`, and puts a failure
    /// into words.
    pub(crate) fn ask<T, E: oauth2::ErrorResponse + 'static>(
        &self,
        grant_type: GrantType<'_>,
        lock: &dyn Fn() -> Result<Option<Lock>>,
        request: impl FnOnce(&Http) -> Result<T, RequestTokenError<Error, E>>,
    ) -> Result<T> {
        let last = RefCell::new(Ok(None));
        let http = |request: HttpRequest| match lock().and_then(|lock| self.send(lock.as_ref(), &request)) {
            Ok((answer, refusal)) => {
                *last.borrow_mut() = Ok(refusal);
                Ok(answer)
            }
            Err(e) => {
                let shown = Error::Failed(e.to_string());
                *last.borrow_mut() = Err(e);
                Err(shown)
            }
        };
        let error = match request(&http) {
            Ok(answer) => return Ok(answer),
            Err(e) => e,
        };
        // The device flow stops by itself when its time is over, and the last answer then was "not yet".
        let is_not_yet = |refusal: &Refusal| {
            grant_type == GrantType::DeviceCode
                && ["authorization_pending", "slow_down"].contains(&refusal.code.as_str())
        };
        Err(match (last.into_inner(), error) {
            (Err(e), _) | (Ok(_), RequestTokenError::Request(e)) => e,
            (Ok(Some(refusal)), _) if !is_not_yet(&refusal) => self.refused(grant_type, &refusal),
            (Ok(_), RequestTokenError::ServerResponse(_)) => {
                self.refused(grant_type, &Refusal::new("expired_token", "", &[]))
            }
            (Ok(_), RequestTokenError::Parse(..) | RequestTokenError::Other(_)) => {
                Error::Failed("the authorization server's answer lacks members that the protocol requires".into())
            }
        })
    }

    /// Sends a request until the answer is one that a retry would not change. A refusal is also returned in words.
    fn send(&self, lock: Option<&Lock>, request: &HttpRequest) -> Result<(HttpResponse, Option<Refusal>)> {
        let secrets = self.secrets_to_hide(request);
        let mut retry = Retry::new(self.max_retries);
        loop {
            wait_for_spacing(lock);
            note_call(lock);
            self.is_renewing.store(true, Ordering::Relaxed);
            let answer = self.exchange(request.clone());
            note_call(lock);
            let failure = match answer {
                Ok(answer) => match judge(answer.status().as_u16(), answer.body(), &secrets) {
                    // Without the headers, since the content type may be wrong.
                    Reply::Good(body) => return Ok((HttpResponse::new(body), None)),
                    Reply::Refused(refusal) => {
                        let body = json!({"error": refusal.code}).to_string().into_bytes();
                        return Ok((answer.map(|_| body), Some(refusal)));
                    }
                    Reply::Passing(why) => Failure {
                        why,
                        hold: retry_after(answer.headers()),
                        may_have_spent: answer.status().is_success() || answer.status().is_server_error(),
                    },
                },
                Err((e, _)) if is_untrusted(&e) => return Err(Error::Failed(untrusted_text(&self.auth_url, &e))),
                Err((e, may_have_spent)) => Failure { why: network_text(&e), hold: None, may_have_spent },
            };
            self.finish_renewal();
            let why = failure.why;
            let Some(mut wait) = retry.after(failure.hold) else {
                let times = match retry.failures() {
                    1 => "once".to_owned(),
                    n => format!("{n} times"),
                };
                return Err(Error::Failed(format!(
                    "the authorization server, {}, failed {times}: {why}. Run again later; if it lasts, check auth_url",
                    self.auth_url
                )));
            };
            let mut doubt = "";
            if failure.may_have_spent {
                wait = wait.max(UNCERTAIN_WAIT);
                doubt = "; it may have used the token all the same";
            }
            log::warn!(
                "authorization server ({}): {why}{doubt}; {retry} in {:.1} s",
                self.auth_url,
                wait.as_secs_f64()
            );
            thread::sleep(wait);
        }
    }

    /// Whether a token may be on its way that is not [stored](AuthServer::finish_renewal) yet.
    pub(crate) fn is_renewing(&self) -> bool {
        self.is_renewing.load(Ordering::Relaxed)
    }

    /// Notes that no answer is awaited, and that tokens which came are stored.
    pub(crate) fn finish_renewal(&self) {
        self.is_renewing.store(false, Ordering::Relaxed);
    }

    /// One call over the wire. An error comes with whether the server may have seen the request.
    fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, (ureq::Error, bool)> {
        let answer = self.agent.run(request).map_err(|e| {
            let may_be_seen = !is_unsent(&e);
            (e, may_be_seen)
        })?;
        let (parts, body) = answer.into_parts();
        let mut bytes = Vec::new();
        let read = body.into_with_config().limit(LARGEST_ANSWER).reader().read_to_end(&mut bytes);
        match read {
            // A connection that was cut in the answer may have brought all that matters.
            Err(e) if token_answer::strict(parts.status.as_u16(), &bytes).is_none() => Err((e.into(), true)),
            _ => Ok(HttpResponse::from_parts(parts, bytes)),
        }
    }

    /// The secrets that an answer may echo: those of the run, and what else is in the request.
    fn secrets_to_hide(&self, request: &HttpRequest) -> Vec<String> {
        let sent = url::form_urlencoded::parse(request.body());
        let sent = sent.filter(|(key, _)| ["refresh_token", "code", "code_verifier", "device_code"].contains(&&**key));
        let basic = request.headers().get("authorization").and_then(|v| v.to_str().ok()?.split(' ').nth(1));
        let held = self.secrets().into_iter().map(|secret| secret.expose().to_owned());
        sent.map(|(_, value)| value.into_owned()).chain(basic.map(str::to_owned)).chain(held).collect()
    }

    /// What a refusal means for this grant type, and what to do about it.
    pub(crate) fn refused(&self, grant_type: GrantType<'_>, refusal: &Refusal) -> Error {
        let text = refusal.text.to_ascii_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let has_secret = self.client_secret.is_some();
        let login = &self.login_command;
        Error::Credentials(match (grant_type, refusal.code.as_str()) {
            (GrantType::RefreshToken { from }, "invalid_grant") => format!(
                "the refresh token is invalid, expired, revoked or already used (invalid_grant); it came from {from}. Log \
                 in again: {login}. If the application's refresh tokens rotate, each works once: let the tap keep the \
                 newest in token_file, and use this login nowhere else"
            ),
            (GrantType::AuthorizationCode, "invalid_grant" | "invalid_request") if says(&["redirect"]) => format!(
                "the redirect URI was refused: register exactly {} for the application, or set redirect_uri to one that \
                 is registered",
                self.redirect_uri
            ),
            (GrantType::AuthorizationCode, "invalid_grant") if says(&["pkce", "verifier"]) => {
                format!("the server says that this code belongs to another login (PKCE). Start again: {login}")
            }
            (GrantType::AuthorizationCode, "invalid_grant") => format!(
                "the code has expired or was already used: it is valid for five minutes and works once. Start again: \
                 {login}"
            ),
            (GrantType::DeviceCode, "expired_token" | "invalid_grant") => {
                format!("the code was not confirmed in time, or was already used. Start again: {login} --device")
            }
            // No document shows how a private application refuses. These are the words that the server's product uses
            // for a user who is not assigned to an application.
            (_, "access_denied") if says(&["not assigned", "not allowed", "private"]) => {
                "this user may not use this application. Since July 2026, a new application is private until Constant \
                 Contact approves it as public, and only the user who created it can log in: log in as that user"
                    .into()
            }
            (_, "access_denied") => format!(
                "consent was denied. Start again and allow the access: {login}. If it was allowed, the application may be \
                 private: then only the user who created it can log in"
            ),
            (_, "invalid_client") if has_secret => {
                "the application was refused (invalid_client): check client_id and client_secret. A PKCE or device \
                 application has no client_secret, and generating a new secret disables the old one at once"
                    .into()
            }
            (_, "invalid_client") => {
                "the application was refused (invalid_client): check client_id. An application of the authorization code \
                 type needs its client_secret too"
                    .into()
            }
            (GrantType::DeviceCode, "unauthorized_client" | "unsupported_grant_type") => {
                "the application is of the wrong type: login --device needs an application of the device type, and login \
                 without --device one of the authorization code or PKCE type"
                    .into()
            }
            (_, "unauthorized_client" | "unsupported_grant_type" | "unsupported_response_type") => {
                "the application is of the wrong type: it must be of the authorization code type (with client_secret) or \
                 the PKCE type (without). For an application of the device type, use login --device"
                    .into()
            }
            (_, "invalid_scope") => {
                "the application may not request contact_data, campaign_data and offline_access (invalid_scope): allow \
                 them in its settings"
                    .into()
            }
            _ => format!("the authorization server refused: {} {}", refusal.shown, refusal.text),
        })
    }
}

/// The HTTP that the protocol's client is given.
pub(crate) type Http<'a> = dyn Fn(HttpRequest) -> Result<HttpResponse> + 'a;

/// A failed attempt.
struct Failure {
    why: String,
    /// The wait that the server asked for.
    hold: Option<Duration>,
    /// Whether the server may have used up the token that was sent.
    may_have_spent: bool,
}

/// Waits until a second has passed since the last call, whichever run made it.
fn wait_for_spacing(lock: Option<&Lock>) {
    let last = lock.and_then(Lock::note).and_then(|note| note.parse().ok()).map(Duration::from_millis);
    // A last call in the future means that the clock was set back; then there is nothing to wait for.
    let since = last.and_then(|last| since_epoch().checked_sub(last));
    if let Some(wait) = since.and_then(|since| SPACING.checked_sub(since)) {
        thread::sleep(wait);
    }
}

fn note_call(lock: Option<&Lock>) {
    if let Some(lock) = lock {
        lock.write_note(&since_epoch().as_millis().to_string());
    }
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Why the server said no.
#[derive(Debug, PartialEq)]
pub(crate) struct Refusal {
    /// As it came: for the protocol, never shown.
    code: String,
    /// The code and the server's words, without secrets.
    shown: String,
    text: String,
}

impl Refusal {
    /// `secrets` are those of the request, which the server may have echoed.
    pub(crate) fn new(code: &str, text: &str, secrets: &[String]) -> Refusal {
        // Masked before they are cut: half a secret would not be found.
        let clean = |text: &str| shown(mask(text, secrets.iter().map(String::as_str)));
        Refusal { code: code.to_owned(), shown: clean(code), text: clean(text) }
    }
}

/// What an answer means.
#[derive(Debug, PartialEq)]
enum Reply {
    /// Tokens, or the start of a device login, in the form that the protocol asks for.
    Good(Vec<u8>),
    Refused(Refusal),
    /// A retry may bring another answer. The text says what happened.
    Passing(String),
}

/// Judges an answer by status and body alone. No secret is in what it says.
fn judge(status: u16, body: &[u8], secrets: &[String]) -> Reply {
    if let Some(tokens) = token_answer::strict(status, body) {
        return Reply::Good(tokens);
    }
    let members = token_answer::members(body);
    let text = |key: &str| members.get(key).and_then(Value::as_str).unwrap_or_default();
    // In the standard's form, or in that of Okta, which runs the server.
    let refusal = [("error", "error_description"), ("errorCode", "errorSummary")]
        .iter()
        .find(|(code, _)| !text(code).is_empty())
        .map(|(code, why)| Refusal::new(text(code), text(why), secrets));
    match (status, refusal) {
        (408 | 425 | 429 | 500..=599, Some(refusal)) => Reply::Passing(format!("{status} {}", refusal.shown)),
        (_, Some(refusal)) => Reply::Refused(refusal),
        (200..=299, None) if !text("device_code").is_empty() => Reply::Good(Value::Object(members).to_string().into()),
        (401, None) => Reply::Refused(Refusal::new("invalid_client", "", &[])),
        (_, None) if body.is_empty() => Reply::Passing(format!("{status} with an empty body")),
        // Bot filters answer in HTML, before the server has seen the request.
        (_, None) => Reply::Passing(format!("{status} without tokens")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_retried() {
        let refused = |code: &str, text: &str| Reply::Refused(Refusal::new(code, text, &[]));
        let judge = |status, body: &[u8]| judge(status, body, &[]);
        assert!(matches!(judge(200, br#"{"access_token":"a"}"#), Reply::Good(_)));
        assert!(matches!(judge(500, br#"{"access_token":"a","refresh_token":"r"}"#), Reply::Good(_)));
        assert!(matches!(judge(200, b"\xef\xbb\xbf{\"device_code\":\"d\"}"), Reply::Good(_)));
        assert_eq!(
            judge(400, br#"{"error":"invalid_grant","error_description":"no"}"#),
            refused("invalid_grant", "no")
        );
        assert_eq!(
            judge(401, br#"{"errorCode":"invalid_client","errorSummary":"no"}"#),
            refused("invalid_client", "no")
        );
        assert_eq!(judge(200, br#"{"error":"invalid_grant"}"#), refused("invalid_grant", ""));
        assert_eq!(judge(401, b"<html>"), refused("invalid_client", ""));
        for (status, body) in [
            (429, &b""[..]),
            (429, br#"{"error":"too_many"}"#),
            (503, br#"{"error":"server_error"}"#),
            (403, b"<html>"),
            (403, br#"{"message":"Forbidden"}"#),
            (200, b""),
            (200, b"null"),
            (302, b""),
        ] {
            assert!(matches!(judge(status, body), Reply::Passing(_)), "{status}");
        }
    }

    #[test]
    fn no_secret_is_in_what_an_answer_says() {
        for form in ["se/cret", "se%2Fcret", "se\\\\/cret", "se\\\\\\\\/cret"] {
            // Cut first, the half of it that is left would no longer be found.
            let long = format!(r#"{{"error":"no-{form}","error_description":"{}{form}"}}"#, "x".repeat(194));
            let secrets = ["se/cret".to_owned()];
            let Reply::Passing(why) = judge(503, long.as_bytes(), &secrets) else { panic!() };
            let Reply::Refused(refusal) = judge(400, long.as_bytes(), &secrets) else { panic!() };
            for shown in [why, refusal.shown, refusal.text] {
                assert!(shown.contains("***") && !shown.contains("se"), "{shown}");
            }
            assert!(refusal.code.starts_with("no-se"));
        }
    }
}
