//! The access token of a run: given, kept, refreshed, and made durable before it is used.

mod token_file;

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use oauth2::basic::{BasicClient, BasicErrorResponseType, BasicTokenResponse};
use oauth2::{
    AuthType, ClientId, ClientSecret, HttpRequest, HttpResponse, RefreshToken, RequestTokenError, TokenResponse,
    TokenUrl,
};

use crate::client::backoff;
use crate::config::{Config, Secret};
use crate::error::{Error, Result};
use token_file::Store;

/// A token is renewed this long before it ends, so that no call carries one that ends on its way.
const MARGIN: TimeDelta = TimeDelta::seconds(60);

/// What a run holds of a grant.
#[derive(Debug, Clone, Default)]
struct Tokens {
    access: Option<Secret>,
    /// When the access token ends; unknown for one that came with the config.
    expires_at: Option<DateTime<Utc>>,
    refresh: Option<Secret>,
}

impl Tokens {
    fn usable(&self) -> Option<&Secret> {
        let ending = self.expires_at.is_some_and(|end| end - MARGIN <= Utc::now());
        self.access.as_ref().filter(|_| !ending)
    }
}

/// The one authenticator of a run.
pub(crate) struct Auth {
    agent: ureq::Agent,
    client_id: Option<String>,
    client_secret: Option<Secret>,
    token_url: String,
    max_retries: u32,
    store: Store,
    tokens: Mutex<Tokens>,
    /// Why the grant is dead: whoever else waits for a token is told the same, and the endpoint is not asked again.
    refused: OnceLock<String>,
}

impl Auth {
    /// Collects what is known of the grant; nothing is called yet.
    ///
    /// # Errors
    /// `Usage` when the token file exists and cannot be understood.
    pub(crate) fn new(config: &Config, config_file: Option<PathBuf>, agent: ureq::Agent) -> Result<Auth> {
        let store = Store::new(config.token_file.clone(), config_file, config.refresh_token.clone());
        let mut tokens =
            Tokens { access: config.access_token.clone(), expires_at: None, refresh: config.refresh_token.clone() };
        if let Some(stored) = store.load()? {
            tokens = stored;
        }
        Ok(Auth {
            agent,
            client_id: config.client_id.clone(),
            client_secret: config.client_secret.clone(),
            token_url: format!("{}/token", config.auth_url.as_str().trim_end_matches('/')),
            max_retries: config.max_retries,
            store,
            tokens: Mutex::new(tokens),
            refused: OnceLock::new(),
        })
    }

    /// An access token that is good as far as is known.
    pub(crate) fn bearer(&self) -> Result<Secret> {
        let mut tokens = self.tokens();
        if let Some(token) = tokens.usable() {
            return Ok(token.clone());
        }
        self.renew(&mut tokens)
    }

    /// An access token other than `refused`, which the service answered with 401.
    pub(crate) fn other_than(&self, refused: &Secret) -> Result<Secret> {
        let mut tokens = self.tokens();
        if let Some(token) = tokens.usable().filter(|t| t.expose() != refused.expose()) {
            return Ok(token.clone());
        }
        tokens.access = None;
        self.renew(&mut tokens)
    }

    /// Waits for a refresh under way to end.
    pub(crate) fn settle(&self) {
        drop(self.tokens());
    }

    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn renew(&self, tokens: &mut Tokens) -> Result<Secret> {
        if let Some(why) = self.refused.get() {
            return Err(Error::Credentials(why.clone()));
        }
        let outcome = self.trade(tokens);
        if let Err(Error::Credentials(why)) = &outcome {
            self.refused.get_or_init(|| why.clone());
        }
        outcome
    }

    /// Trades the refresh token for a new pair, one run at a time.
    fn trade(&self, tokens: &mut Tokens) -> Result<Secret> {
        if tokens.refresh.is_none() {
            return Err(Error::Credentials(
                "the access token is missing, expired or refused, and there is no refresh_token to get another with: \
                 set refresh_token (and client_id), or a fresh access_token"
                    .into(),
            ));
        }
        let _lock = self.store.lock()?;
        // Another run may have renewed the pair while this one waited for the lock.
        if let Some(stored) = self.store.load()? {
            let newer = stored.refresh.as_ref().map(Secret::expose) != tokens.refresh.as_ref().map(Secret::expose);
            if newer {
                *tokens = stored;
                if let Some(token) = tokens.usable() {
                    return Ok(token.clone());
                }
            }
        }
        // A single-use token must not be spent where its successor cannot be kept.
        if let Err(why) = self.store.writable() {
            log::warn!(
                "a rotated refresh token could not be saved ({why}): with rotating refresh tokens this run would be \
                 the last; set token_file to a path that can be written, or use long-lived refresh tokens"
            );
        }
        let Some(refresh) = tokens.refresh.clone() else {
            return Err(Error::Credentials("the stored tokens hold no refresh token: log in again".into()));
        };
        let answer = self.exchange(&refresh)?;
        let access = Secret::from(answer.access_token().secret().clone());
        let lifetime = answer.expires_in().and_then(|d| TimeDelta::from_std(d).ok());
        *tokens = Tokens {
            access: Some(access.clone()),
            // Only `expires_in` is to be trusted: the documents name 8 and 24 hours.
            expires_at: lifetime.and_then(|d| Utc::now().checked_add_signed(d)),
            // Long-lived tokens may come back absent: the old one goes on.
            refresh: Some(answer.refresh_token().map_or(refresh, |t| Secret::from(t.secret().clone()))),
        };
        if let Err(why) = self.store.save(tokens) {
            log::error!(
                "the new refresh token could not be saved ({why}); if the application rotates them, log in again after this run"
            );
        }
        Ok(access)
    }

    /// One refresh at the token endpoint, tried again for what may pass.
    fn exchange(&self, refresh: &Secret) -> Result<BasicTokenResponse> {
        let Some(id) = &self.client_id else {
            return Err(Error::Usage("refresh_token needs client_id: the application's API key".into()));
        };
        let url = TokenUrl::new(self.token_url.clone()).map_err(|e| Error::Usage(format!("auth_url: {e}")))?;
        let mut client = BasicClient::new(ClientId::new(id.clone())).set_token_uri(url);
        client = match &self.client_secret {
            Some(secret) => client
                .set_client_secret(ClientSecret::new(secret.expose().to_owned()))
                .set_auth_type(AuthType::BasicAuth),
            None => client.set_auth_type(AuthType::RequestBody),
        };
        let refresh = RefreshToken::new(refresh.expose().to_owned());
        let status = Cell::new(0);
        let http = |request: HttpRequest| -> std::result::Result<HttpResponse, ureq::Error> {
            status.set(0);
            let mut response = self.agent.run(request)?;
            status.set(response.status().as_u16());
            let body = response.body_mut().read_to_vec()?;
            let (parts, _) = response.into_parts();
            Ok(HttpResponse::from_parts(parts, body))
        };
        let mut attempt = 0;
        loop {
            let error = match client.exchange_refresh_token(&refresh).request(&http) {
                Ok(answer) => return Ok(answer),
                Err(e) => e,
            };
            let why = match (error, status.get()) {
                (RequestTokenError::ServerResponse(answer), code) => {
                    if let Some(fatal) = refusal(answer.error()) {
                        return Err(fatal);
                    }
                    let told = format!("{code} {}", answer.error().as_ref());
                    if code != 429 && code < 500 {
                        return Err(Error::Credentials(format!("the token endpoint refused the refresh: {told}")));
                    }
                    told
                }
                (RequestTokenError::Parse(_, body), code) => {
                    // Okta's own shape, beside the standard's.
                    let okta = serde_json::from_slice::<serde_json::Value>(&body).unwrap_or_default();
                    if let Some(code) = okta["errorCode"].as_str() {
                        let kind = match code {
                            "invalid_client" => BasicErrorResponseType::InvalidClient,
                            "invalid_grant" => BasicErrorResponseType::InvalidGrant,
                            other => BasicErrorResponseType::Extension(other.to_owned()),
                        };
                        if let Some(fatal) = refusal(&kind) {
                            return Err(fatal);
                        }
                    }
                    if code == 401 {
                        return Err(refusal(&BasicErrorResponseType::InvalidClient).unwrap_or(Error::Closed));
                    }
                    format!("{code} with a body that is not a token answer")
                }
                (RequestTokenError::Request(e), _) => crate::client::network_text(&e),
                (RequestTokenError::Other(_), code) => format!("{code} with an empty body"),
            };
            attempt += 1;
            if attempt > self.max_retries {
                return Err(Error::Failed(format!("the token endpoint did not answer usably: {why}")));
            }
            // It allows one call a second.
            let wait = Duration::from_secs(1) + backoff(attempt);
            log::debug!("token endpoint: {why}; next try in {:.1} s", wait.as_secs_f64());
            thread::sleep(wait);
        }
    }
}

/// The refusals that no other try changes.
fn refusal(error: &BasicErrorResponseType) -> Option<Error> {
    let text = match error {
        BasicErrorResponseType::InvalidGrant => {
            "the refresh token is invalid, expired, revoked or used already (invalid_grant): get a new one by logging in \
             again. With rotating refresh tokens each works once; let the tap keep the newest in token_file, and let \
             nothing else use this application's grant"
        }
        BasicErrorResponseType::InvalidClient => {
            "the application was refused (invalid_client): check client_id and client_secret; a PKCE or device \
             application has no client_secret, and a regenerated secret kills the old one at once"
        }
        BasicErrorResponseType::UnauthorizedClient => {
            "the application may not refresh tokens (unauthorized_client): check its type in the developer portal"
        }
        _ => return None,
    };
    Some(Error::Credentials(text.into()))
}
