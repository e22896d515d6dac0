//! The access token of a run: given, kept, refreshed, and made durable before it is used.

mod json_edit;
pub(crate) mod server;
pub(crate) mod store;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use oauth2::basic::BasicErrorResponse;
use oauth2::{RefreshToken, TokenResponse};

use crate::config::{Config, Secret};
use crate::error::{Error, Result};
use server::{Endpoint, Step};
pub(crate) use store::check_config;
use store::{Store, Turn, Unsaved};

/// A token is renewed this long before it ends, so that no call carries one that ends on its way.
const MARGIN: TimeDelta = TimeDelta::seconds(60);

/// What a run holds of a grant.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tokens {
    access: Option<Secret>,
    /// When the access token ends; unknown for one that came with the config.
    expires_at: Option<DateTime<Utc>>,
    refresh: Option<Secret>,
    /// Whether the refresh token works once, as far as is known.
    rotates: Option<bool>,
    /// What the store holds instead, where these could not be saved: it was spent for them.
    outdated: Option<Secret>,
}

impl Tokens {
    /// The access token, unless it is about to end or is the one that was refused.
    fn usable(&self, refused: Option<&Secret>) -> Option<&Secret> {
        let ending = self.expires_at.is_some_and(|end| end - MARGIN <= Utc::now());
        self.access.as_ref().filter(|token| !ending && Some(*token) != refused)
    }
}

/// The scopes that a grant was given, where the server told them.
pub(crate) type Scopes = Option<Vec<String>>;

/// The one authenticator of a run.
pub(crate) struct Auth {
    endpoint: Endpoint,
    store: Store,
    tokens: Mutex<Tokens>,
    /// Why the grant is dead: whoever else waits for a token is told the same, and the endpoint is not asked again.
    refused: OnceLock<String>,
}

impl Auth {
    /// Collects what is known of the grant; nothing is called yet.
    ///
    /// # Errors
    /// `Usage` when there is nothing, or the token file exists and cannot be understood.
    pub(crate) fn new(config: &Config, config_file: Option<PathBuf>) -> Result<Auth> {
        if config.access_token.is_none() && config.refresh_token.is_none() && config.token_file.is_none() {
            return Err(Error::Usage(
                "config: no credentials; log in (tap-constant-contact login --config FILE), or set refresh_token, \
                 token_file or access_token"
                    .into(),
            ));
        }
        let store = Store::new(config, config_file);
        store.check_mode();
        let configured =
            Tokens { access: config.access_token.clone(), refresh: config.refresh_token.clone(), ..Tokens::default() };
        let stored = store.load()?;
        if let Some(path) = &config.token_file
            && stored.is_none()
            && configured.access.is_none()
            && configured.refresh.is_none()
        {
            return Err(Error::Usage(format!(
                "{}: there is no such file, hence no tokens: log in (tap-constant-contact login --config FILE), or \
                 correct token_file",
                path.display()
            )));
        }
        let tokens = stored.unwrap_or(configured);
        Ok(Auth { endpoint: Endpoint::new(config)?, store, tokens: Mutex::new(tokens), refused: OnceLock::new() })
    }

    /// An access token that is good as far as is known.
    pub(crate) fn bearer(&self) -> Result<Secret> {
        self.token(None)
    }

    /// An access token other than `refused`, which the service answered with 401.
    pub(crate) fn other_than(&self, refused: &Secret) -> Result<Secret> {
        self.token(Some(refused))
    }

    fn token(&self, refused: Option<&Secret>) -> Result<Secret> {
        let mut tokens = self.tokens();
        if let Some(token) = tokens.usable(refused) {
            return Ok(token.clone());
        }
        let turn = self.turn(&mut tokens)?;
        // Another run may have renewed the pair while this one waited.
        if let Some(token) = tokens.usable(refused) {
            return Ok(token.clone());
        }
        self.refresh(turn, &mut tokens).map(|(token, _)| token)
    }

    /// Proves that the grant can be renewed, by renewing it; `None` when there is but an access token.
    pub(crate) fn prove(&self) -> Result<Option<Scopes>> {
        let mut tokens = self.tokens();
        if tokens.refresh.is_none() && tokens.usable(None).is_some() {
            return Ok(None);
        }
        let turn = self.turn(&mut tokens)?;
        self.refresh(turn, &mut tokens).map(|(_, scopes)| Some(scopes))
    }

    /// Waits for a refresh under way to end.
    pub(crate) fn settle(&self) {
        drop(self.tokens());
    }

    /// Whether the answer to a token call is waited for, or is not stored yet.
    pub(crate) fn is_renewing(&self) -> bool {
        self.endpoint.is_asking()
    }

    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn to renew, and takes what another run has stored meanwhile.
    fn turn(&self, tokens: &mut Tokens) -> Result<Turn> {
        // Nothing is made where there is nothing to keep.
        if tokens.refresh.is_none() && !self.store.path().is_some_and(Path::exists) {
            return Ok(Turn::Free);
        }
        let turn = self.store.turn()?;
        if let Some(stored) = self.store.load()?.filter(|s| s.refresh.is_none() || s.refresh != tokens.outdated) {
            // Long-lived refresh tokens stay the same over a new access token.
            let newer_access = stored.access.is_some() && stored.access != tokens.access;
            if newer_access || stored.refresh != tokens.refresh {
                *tokens = stored;
            }
        }
        if let Some(left) = self.store.left()? {
            log::info!("a run that was cut off had renewed the login; going on with what it got");
            self.store
                .save(&turn, &left)
                .map_err(|why| Error::Failed(format!("what a run that was cut off had got cannot be stored: {why}")))?;
            *tokens = left;
        }
        Ok(turn)
    }

    fn refresh(&self, turn: Turn, tokens: &mut Tokens) -> Result<(Secret, Scopes)> {
        if let Some(why) = self.refused.get() {
            return Err(Error::Credentials(why.clone()));
        }
        let outcome = self.trade(turn, tokens);
        self.endpoint.settled();
        if let Err(Error::Credentials(why)) = &outcome {
            self.refused.get_or_init(|| why.clone());
        }
        outcome
    }

    /// Trades the refresh token for a new pair, which is durable when this returns.
    fn trade(&self, turn: Turn, tokens: &mut Tokens) -> Result<(Secret, Scopes)> {
        let Some(refresh) = tokens.refresh.clone() else {
            return Err(Error::Credentials(
                "the access token is missing, expired or refused, and there is no refresh token to get another with: log \
                 in (tap-constant-contact login --config FILE), or set refresh_token and client_id"
                    .into(),
            ));
        };
        // A single-use token must not be spent where its successor cannot be kept.
        let room = self.store.room();
        if let Err(why) = &room {
            if tokens.rotates == Some(true) {
                return Err(Error::Failed(format!(
                    "the next refresh token could not be saved ({why}), and the one at hand works once: it was not \
                     spent; make room, or set token_file to a path that can be written"
                )));
            }
            log::warn!(
                "a rotated refresh token could not be saved ({why}): with rotating refresh tokens this run would be \
                 the last; set token_file to a path that can be written, or use long-lived refresh tokens"
            );
        }
        let client = self.endpoint.oauth()?;
        let spent = RefreshToken::new(refresh.expose().to_owned());
        let from = self.store.source(&refresh);
        let step = Step::Refresh { from: &from };
        let answer = self.endpoint.ask::<_, BasicErrorResponse>(step, &|| Ok(turn.clone()), |http| {
            client.exchange_refresh_token(&spent).request(&http)
        })?;
        *tokens = server::tokens(&answer, Some(refresh));
        let saved = match room {
            Ok(room) => self.store.save_from(&turn, room, tokens),
            // Where there was no room there may be by now.
            Err(_) => self.store.save(&turn, tokens).map_err(|why| Unsaved { why, kept: None }),
        };
        match saved {
            Ok(()) => {}
            Err(Unsaved { why, kept: Some(path) }) => log::error!(
                "the new refresh token could not be saved ({why}); the next run will take it from {}",
                path.display()
            ),
            Err(Unsaved { why, kept: None }) => {
                tokens.outdated = self.store.load()?.and_then(|stored| stored.refresh);
                // With what the store holds spent, nothing is left to lose.
                tokens.rotates = None;
                log::error!(
                    "the new refresh token could not be saved ({why}); if the application rotates them, log in again \
                     after this run"
                );
            }
        }
        drop(turn);
        let scopes = answer.scopes().map(|scopes| scopes.iter().map(|s| s.to_string()).collect());
        // An answer without an access token does not parse.
        Ok((Secret::from(answer.access_token().secret().clone()), scopes))
    }
}
