//! Calls to the authorization server: one a second, tried again for what may pass, and what its refusals mean.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use chrono::{TimeDelta, Utc};
use oauth2::basic::{BasicClient, BasicTokenResponse};
use oauth2::{
    AuthType, AuthUrl, ClientId, ClientSecret, DeviceAuthorizationUrl, EndpointNotSet, EndpointSet, HttpRequest,
    HttpResponse, RequestTokenError, TokenResponse, TokenUrl,
};
use serde_json::{Value, json};

use super::Tokens;
use super::store::Turn;
use crate::config::{Config, Secret};
use crate::error::{Error, Result};
use crate::http::{Decision, Retry, agent, is_untrusted, network_text, retry_after, untrusted_text};

/// The oauth2 crate's client with all three addresses set.
pub(crate) type OAuth = BasicClient<EndpointSet, EndpointSet, EndpointNotSet, EndpointNotSet, EndpointSet>;

/// What is being asked for; the same refusal means something else to each.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Step<'a> {
    Refresh {
        /// Where the refresh token came from.
        from: &'a str,
    },
    /// The consent page, or the code that it gave.
    Code,
    Device,
}

/// The authorization server as one application sees it.
pub(crate) struct Endpoint {
    agent: ureq::Agent,
    client_id: Option<String>,
    client_secret: Option<Secret>,
    auth_url: String,
    redirect_uri: String,
    max_retries: u32,
    asking: AtomicBool,
}

impl Endpoint {
    pub(crate) fn new(config: &Config) -> Result<Endpoint> {
        Ok(Endpoint {
            agent: agent(config, &config.auth_url)?,
            client_id: config.client_id.clone(),
            client_secret: config.client_secret.clone(),
            auth_url: config.auth_url.as_str().trim_end_matches('/').to_owned(),
            redirect_uri: config.redirect_uri.clone(),
            max_retries: config.max_retries,
            asking: AtomicBool::new(false),
        })
    }

    /// The protocol's client: it builds the requests and reads the answers, and calls nobody.
    pub(crate) fn oauth(&self) -> Result<OAuth> {
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

    /// Has the protocol's client ask, through the HTTP that it is handed, and puts a failure into words.
    pub(crate) fn ask<T, E: oauth2::ErrorResponse + 'static>(
        &self,
        step: Step<'_>,
        turn: &dyn Fn() -> Result<Turn>,
        request: impl FnOnce(&Http) -> std::result::Result<T, RequestTokenError<Error, E>>,
    ) -> Result<T> {
        let last = RefCell::new(Ok(None));
        let http = |request: HttpRequest| match turn().and_then(|turn| self.send(&turn, &request)) {
            Ok((answer, refusal)) => {
                *last.borrow_mut() = Ok(refusal);
                Ok(answer)
            }
            Err(e) => {
                let told = Error::Failed(e.to_string());
                *last.borrow_mut() = Err(e);
                Err(told)
            }
        };
        let error = match request(&http) {
            Ok(answer) => return Ok(answer),
            Err(e) => e,
        };
        // The device flow ends by itself when its time is over: while nobody confirmed, or nobody answered.
        let waiting = |refusal: &Refusal| {
            step == Step::Device && ["authorization_pending", "slow_down"].contains(&refusal.code.as_str())
        };
        Err(match (last.into_inner(), error) {
            (Err(e), _) | (Ok(_), RequestTokenError::Request(e)) => e,
            // Whatever its status was.
            (Ok(Some(refusal)), _) if !waiting(&refusal) => self.refused(step, &refusal),
            (Ok(_), RequestTokenError::ServerResponse(_)) => {
                self.refused(step, &Refusal::new("expired_token", "", &[]))
            }
            (Ok(_), RequestTokenError::Parse(..) | RequestTokenError::Other(_)) => {
                Error::Failed("the authorization server's answer lacks what the protocol says it holds".into())
            }
        })
    }

    /// One request, until its answer is one that another try would not change. A refusal is told as well.
    fn send(&self, turn: &Turn, request: &HttpRequest) -> Result<(HttpResponse, Option<Refusal>)> {
        let secrets = self.secrets(request);
        let mut retry = Retry::new(self.max_retries);
        loop {
            turn.space();
            turn.called();
            self.asking.store(true, Ordering::Relaxed);
            let answer = self.exchange(request.clone());
            turn.called();
            let (why, hold) = match answer {
                Ok(answer) => match read(answer.status().as_u16(), answer.body(), &secrets) {
                    Read::Tokens => return Ok((answer, None)),
                    Read::Refused(refusal) => {
                        let body = json!({"error": refusal.code}).to_string().into_bytes();
                        return Ok((answer.map(|_| body), Some(refusal)));
                    }
                    Read::Passing(why) => (why, retry_after(answer.headers())),
                },
                Err(e) if is_untrusted(&e) => return Err(Error::Failed(untrusted_text(&self.auth_url, &e))),
                Err(e) => (network_text(&e), None),
            };
            self.settled();
            let Decision::Wait(wait) = retry.after(hold) else {
                return Err(Error::Failed(format!(
                    "the authorization server did not answer usably: {why}; tries: {}. Run again later",
                    retry.failures()
                )));
            };
            log::warn!("authorization server: {why}; {retry} in {:.1} s", wait.as_secs_f64());
            thread::sleep(wait);
        }
    }

    /// Whether an answer is waited for, or has come and is not [`settled`](Endpoint::settled) yet.
    pub(crate) fn is_asking(&self) -> bool {
        self.asking.load(Ordering::Relaxed)
    }

    /// Says that no answer is waited for, and that what came is where it belongs.
    pub(crate) fn settled(&self) {
        self.asking.store(false, Ordering::Relaxed);
    }

    fn exchange(&self, request: HttpRequest) -> std::result::Result<HttpResponse, ureq::Error> {
        let mut response = self.agent.run(request)?;
        let body = response.body_mut().read_to_vec()?;
        let (parts, _) = response.into_parts();
        Ok(HttpResponse::from_parts(parts, body))
    }

    /// The secrets of a request, which its refusal may echo.
    fn secrets(&self, request: &HttpRequest) -> Vec<String> {
        let sent = url::form_urlencoded::parse(request.body());
        let sent = sent.filter(|(key, _)| ["refresh_token", "code", "code_verifier", "device_code"].contains(&&**key));
        let basic = request.headers().get("authorization").and_then(|v| v.to_str().ok()?.split(' ').nth(1));
        let given = self.client_secret.as_ref().map(Secret::expose).into_iter().chain(basic);
        sent.map(|(_, value)| value.into_owned()).chain(given.map(str::to_owned)).filter(|s| !s.is_empty()).collect()
    }

    /// A refusal as what it means here and what to do.
    pub(crate) fn refused(&self, step: Step<'_>, refusal: &Refusal) -> Error {
        let text = refusal.text.to_ascii_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let secret = self.client_secret.is_some();
        let told = match (step, refusal.code.as_str()) {
            (Step::Refresh { from }, "invalid_grant") => format!(
                "the refresh token is invalid, expired, revoked or used already (invalid_grant); it came from {from}: log \
                 in again (tap-constant-contact login --config FILE). With rotating refresh tokens each works once; let \
                 the tap keep the newest in token_file, and let nothing else use this application's grant"
            ),
            (Step::Code, "invalid_grant" | "invalid_request") if says(&["redirect"]) => format!(
                "the redirect URI was refused: register {} for the application, letter by letter the same, or set \
                 redirect_uri to one that is registered",
                self.redirect_uri
            ),
            (Step::Code, "invalid_grant") if says(&["pkce", "verifier"]) => {
                "the proof that this login and its code belong together was refused (PKCE): start the login again"
                    .into()
            }
            (Step::Code, "invalid_grant") => {
                "the code has expired or was used already: it lives for five minutes and works once; start the login \
                 again"
                    .into()
            }
            (Step::Device, "expired_token" | "invalid_grant") => {
                "the code was not confirmed in time, or has been used: start the login again".into()
            }
            // No document tells how a private application refuses; this is what the server behind it says of a user
            // who is not assigned to one.
            (_, "access_denied") if says(&["not assigned", "not allowed", "private"]) => {
                "this user may not use this application: since July 2026 a new application is private, and only the \
                 Constant Contact user who created it can log in, until Constant Contact has approved it as public; log \
                 in as that user"
                    .into()
            }
            (_, "access_denied") => {
                "consent was denied. Start the login again and allow the access; if it was allowed, the application may \
                 be a private one, for the user who created it alone"
                    .into()
            }
            (_, "invalid_client") if secret => {
                "the application was refused (invalid_client): check client_id and client_secret; a PKCE or device \
                 application has no client_secret, and a regenerated secret kills the old one at once"
                    .into()
            }
            (_, "invalid_client") => {
                "the application was refused (invalid_client): check client_id; an application of the authorization code \
                 type needs its client_secret too"
                    .into()
            }
            (Step::Device, "unauthorized_client" | "unsupported_grant_type") => {
                "the application is of the wrong type: login --device needs one of the device type; without --device, one \
                 of the authorization code or PKCE type"
                    .into()
            }
            (_, "unauthorized_client" | "unsupported_grant_type" | "unsupported_response_type") => {
                "the application is of the wrong type: it must be of the authorization code type (with client_secret) or \
                 the PKCE type (without); one of the device type logs in with login --device"
                    .into()
            }
            (_, "invalid_scope") => {
                "the application may not ask for contact_data, campaign_data and offline_access (invalid_scope): allow \
                 them in its settings"
                    .into()
            }
            _ => format!("the authorization server refused: {} {}", refusal.shown, refusal.text),
        };
        Error::Credentials(told)
    }
}

/// The HTTP that the protocol's client is handed.
pub(crate) type Http<'a> = dyn Fn(HttpRequest) -> Result<HttpResponse> + 'a;

/// Why the server said no.
#[derive(Debug, PartialEq)]
pub(crate) struct Refusal {
    /// As it came: what the protocol goes by, and nobody is shown.
    code: String,
    /// The code and the server's own words, cut short and without the secrets of the request.
    shown: String,
    text: String,
}

impl Refusal {
    pub(crate) fn new(code: &str, text: &str, secrets: &[String]) -> Refusal {
        // Masked before it is cut: the half of a secret would no longer be found.
        let masked = |text: &str| secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "***"));
        let cut = |text: &str| masked(text).chars().filter(|c| !c.is_control()).take(200).collect();
        Refusal { code: code.to_owned(), shown: cut(code), text: cut(text) }
    }
}

#[derive(Debug, PartialEq)]
enum Read {
    Tokens,
    Refused(Refusal),
    Passing(String),
}

/// What an answer is, by status and body alone; none of the secrets is in what it says.
fn read(status: u16, body: &[u8], secrets: &[String]) -> Read {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |key: &str| value[key].as_str().unwrap_or_default();
    // Okta's own shape, beside the standard's.
    let refusal = [("error", "error_description"), ("errorCode", "errorSummary")]
        .iter()
        .find(|(code, _)| !text(code).is_empty())
        .map(|(code, why)| Refusal::new(text(code), text(why), secrets));
    match (status, refusal) {
        (408 | 425 | 429 | 500..=599, Some(refusal)) => Read::Passing(format!("{status} {}", refusal.shown)),
        (_, Some(refusal)) => Read::Refused(refusal),
        (200, None) if ["access_token", "device_code"].iter().any(|held| !text(held).is_empty()) => Read::Tokens,
        (401, None) => Read::Refused(Refusal::new("invalid_client", "", &[])),
        (_, None) if body.is_empty() => Read::Passing(format!("{status} with an empty body")),
        // A bot filter answers in HTML before the server has seen the request.
        (_, None) => Read::Passing(format!("{status} with a body that is not a token answer")),
    }
}

/// What a grant's answer leaves to keep; `old` is the refresh token that it was got with.
pub(crate) fn tokens(answer: &BasicTokenResponse, old: Option<Secret>) -> Tokens {
    let new = answer.refresh_token().map(|t| Secret::from(t.secret().clone()));
    let lifetime = answer.expires_in().and_then(|d| TimeDelta::from_std(d).ok());
    Tokens {
        access: Some(Secret::from(answer.access_token().secret().clone())),
        // Only `expires_in` is to be trusted: the documents name 8 and 24 hours.
        expires_at: lifetime.and_then(|d| Utc::now().checked_add_signed(d)),
        rotates: old.as_ref().map(|old| new.as_ref().is_some_and(|new| new != old)),
        // Long-lived tokens may come back absent: the old one goes on.
        refresh: new.or(old),
        outdated: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let refused = |code: &str, text: &str| Read::Refused(Refusal::new(code, text, &[]));
        let read = |status, body: &[u8]| read(status, body, &[]);
        assert_eq!(read(200, br#"{"access_token":"a"}"#), Read::Tokens);
        assert_eq!(read(400, br#"{"error":"invalid_grant","error_description":"no"}"#), refused("invalid_grant", "no"));
        assert_eq!(
            read(401, br#"{"errorCode":"invalid_client","errorSummary":"no"}"#),
            refused("invalid_client", "no")
        );
        assert_eq!(read(200, br#"{"error":"invalid_grant"}"#), refused("invalid_grant", ""));
        assert_eq!(read(401, b"<html>"), refused("invalid_client", ""));
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
            assert!(matches!(read(status, body), Read::Passing(_)), "{status}");
        }
    }

    #[test]
    fn no_secret_is_in_what_an_answer_says() {
        // Cut first, the half of it that is left would no longer be found.
        let long = format!(r#"{{"error":"no-secret","error_description":"{}secret"}}"#, "x".repeat(196));
        let secrets = ["secret".to_owned()];
        let Read::Passing(why) = read(503, long.as_bytes(), &secrets) else { panic!() };
        let Read::Refused(refusal) = read(400, long.as_bytes(), &secrets) else { panic!() };
        for shown in [why, refusal.shown, refusal.text] {
            assert!(!shown.contains("sec"), "{shown}");
        }
        assert_eq!(refusal.code, "no-secret");
    }
}
