//! The access token of a run: taken from the config or the store, renewed when needed, and stored before it is used.

mod durable_file;
mod json_edit;
pub(crate) mod server;
pub(crate) mod store;
mod token_answer;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use oauth2::basic::{BasicErrorResponse, BasicTokenResponse};
use oauth2::{RefreshToken, TokenResponse};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::secret::Secret;
pub(crate) use durable_file::{Lock, follow_links, replace as replace_file};
pub(crate) use json_edit::set as set_members;
use server::{AuthServer, GrantType};
pub(crate) use store::warn_if_config_is_readable;
use store::{ReserveError, SaveError, TokenStore, Tokens};

/// The scopes of a login, where the server named them.
pub(crate) type Scopes = Option<Vec<String>>;

/// The one authenticator of a run.
pub(crate) struct Auth {
    server: AuthServer,
    store: TokenStore,
    held: Mutex<Held>,
    /// Why the login is dead. Every thread gets this answer, and the server is not asked again.
    refused: OnceLock<String>,
    login_command: String,
}

/// What the run holds.
struct Held {
    tokens: Tokens,
    /// The refresh token still on disk when saving failed. It has been used and is dead.
    dead_on_disk: Option<Secret>,
}

impl Auth {
    /// Loads the tokens. No call is made.
    ///
    /// # Errors
    /// `Usage` when there are none, or when the token file cannot be read.
    pub(crate) fn new(config: &Config, config_file: Option<PathBuf>) -> Result<Auth> {
        let login_command = config.login_command();
        let has_none = config.access_token.is_none() && config.refresh_token.is_none();
        if has_none && config.token_file.is_none() {
            return Err(Error::Usage(format!(
                "config: no credentials. Run: {login_command} (or set refresh_token, token_file or access_token)"
            )));
        }
        let store = TokenStore::new(config, config_file);
        store.warn_if_readable();
        let stored = store.load()?;
        if let Some(path) = &config.token_file
            && stored.is_none()
            && has_none
        {
            let cure = format!("Run: {login_command} (or correct token_file)");
            return Err(Error::Usage(if path.exists() {
                format!("{} holds no tokens, so you are not logged in. {cure}", path.display())
            } else {
                format!("{} does not exist, so you are not logged in. {cure}", path.display())
            }));
        }
        let tokens = stored.unwrap_or_else(|| Tokens {
            access_token: config.access_token.clone(),
            refresh_token: config.refresh_token.clone(),
            ..Tokens::default()
        });
        let server = AuthServer::new(config)?;
        let held = Mutex::new(Held { tokens: server.noted(tokens), dead_on_disk: None });
        Ok(Auth { server, store, held, refused: OnceLock::new(), login_command })
    }

    /// Every secret that the run has held. No message and no record may show one.
    pub(crate) fn secrets(&self) -> Vec<Secret> {
        self.server.secrets()
    }

    /// An access token that is good as far as is known, and other than `refused`, which the service answered with 401.
    pub(crate) fn token(&self, refused: Option<&Secret>) -> Result<Secret> {
        let mut held = self.held();
        if let Some(token) = held.tokens.usable(refused) {
            return Ok(token.clone());
        }
        let lock = self.lock_and_reload(&mut held)?;
        // Another run may have renewed the tokens while this one waited.
        if let Some(token) = held.tokens.usable(refused) {
            return Ok(token.clone());
        }
        self.renew(lock.as_ref(), &mut held).map(|(token, _)| token)
    }

    /// Proves that the login can be renewed, by renewing it. `None` when there is only an access token.
    pub(crate) fn prove(&self) -> Result<Option<Scopes>> {
        let mut held = self.held();
        if held.tokens.refresh_token.is_none() && held.tokens.usable(None).is_some() {
            return Ok(None);
        }
        let lock = self.lock_and_reload(&mut held)?;
        self.renew(lock.as_ref(), &mut held).map(|(_, scopes)| Some(scopes))
    }

    /// Waits for a renewal in another thread to end.
    pub(crate) fn settle(&self) {
        drop(self.held());
    }

    /// Whether a token may be on its way that is not stored yet.
    pub(crate) fn is_renewing(&self) -> bool {
        self.server.is_renewing()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no other run renews the tokens, then takes those that another run has stored.
    fn lock_and_reload(&self, held: &mut Held) -> Result<Option<Lock>> {
        // With nothing to store, no lock file is left behind.
        if held.tokens.refresh_token.is_none() && !self.store.path().is_some_and(Path::exists) {
            return Ok(None);
        }
        let lock = self.store.lock()?;
        let is_dead = |stored: &Tokens| stored.refresh_token.is_some() && stored.refresh_token == held.dead_on_disk;
        if let Some(stored) = self.store.load()?.filter(|stored| !is_dead(stored)) {
            // A long-lived refresh token stays the same when the access token is renewed.
            let has_new_access = stored.access_token.is_some() && stored.access_token != held.tokens.access_token;
            if has_new_access || stored.refresh_token != held.tokens.refresh_token {
                held.tokens = self.server.noted(stored);
            }
        }
        if let Some(pending) = self.store.pending()? {
            log::info!("storing the tokens of a run that was killed while it renewed the login");
            self.store.save(lock.as_ref(), &pending).map_err(|why| {
                Error::Failed(format!(
                    "the tokens that a killed run left cannot be stored ({why}); nothing was lost. Make room, then run \
                     again"
                ))
            })?;
            held.tokens = self.server.noted(pending);
        }
        Ok(lock)
    }

    fn renew(&self, lock: Option<&Lock>, held: &mut Held) -> Result<(Secret, Scopes)> {
        if let Some(why) = self.refused.get() {
            return Err(Error::Credentials(why.clone()));
        }
        let mut outcome = self.exchange_refresh_token(lock, held);
        if let Err(Error::Credentials(_)) = &outcome
            && let Some(stored) = self.store.instead_of(held.tokens.refresh_token.as_ref())?
        {
            log::warn!(
                "the refresh_token of the config is refused, so the one in token_file is used, and the config's never \
                 again. Remove it from the config"
            );
            // From now on the file knows the config's token as an old one.
            self.store.save(lock, &stored).map_err(Error::Failed)?;
            held.tokens = self.server.noted(stored);
            outcome = self.exchange_refresh_token(lock, held);
        }
        self.server.finish_renewal();
        if let Err(Error::Credentials(why)) = &outcome {
            self.refused.get_or_init(|| why.clone());
        }
        outcome
    }

    /// Exchanges the refresh token for new tokens, which are stored when this returns.
    fn exchange_refresh_token(&self, lock: Option<&Lock>, held: &mut Held) -> Result<(Secret, Scopes)> {
        let Some(refresh_token) = held.tokens.refresh_token.clone() else {
            return Err(Error::Credentials(format!(
                "the access token is missing, expired or refused, and there is no refresh token to renew it with. Log in: \
                 {} (or set refresh_token and client_id)",
                self.login_command
            )));
        };
        // A refresh token that works once must not be used where its successor cannot be stored. A full disk may have
        // room again in the next run, so there the token is not risked even if it is not known to work once.
        let reservation = self.store.reserve();
        if let Err(ReserveError { why, is_full }) = &reservation {
            let may_rotate = held.tokens.rotates != Some(false);
            if held.tokens.rotates == Some(true) || (*is_full && may_rotate) {
                return Err(Error::Failed(format!(
                    "a new refresh token could not be saved ({why}). The present one may work only once, so it was not \
                     used: make room, or set token_file to a path that can be written"
                )));
            }
            log::warn!(
                "a new refresh token could not be saved ({why}). If the application's refresh tokens rotate, the next run \
                 will need a new login: set token_file to a path that can be written, or use long-lived refresh tokens"
            );
        }
        let protocol = self.server.protocol()?;
        let from = self.store.source(&refresh_token);
        let sent = RefreshToken::new(refresh_token.expose().to_owned());
        let answer = self.server.ask::<_, BasicErrorResponse>(
            GrantType::RefreshToken { from: &from },
            &|| Ok(lock.cloned()),
            |http| protocol.exchange_refresh_token(&sent).request(&http),
        )?;
        held.tokens = self.server.noted(Tokens::from_answer(&answer, Some(refresh_token)));
        let saved = match reservation {
            Ok(reservation) => self.store.save_reserved(lock, reservation, &held.tokens),
            // There may be room by now.
            Err(_) => self.store.save(lock, &held.tokens).map_err(|why| SaveError { why, kept_in: None }),
        };
        match saved {
            Ok(()) => {}
            Err(SaveError { why, kept_in: Some(path) }) => log::error!(
                "the new refresh token could not be saved ({why}); the next run will take it from {}",
                path.display()
            ),
            Err(SaveError { why, kept_in: None }) => {
                held.dead_on_disk = self.store.load()?.and_then(|stored| stored.refresh_token);
                // The token on disk is dead, so there is nothing left to protect.
                held.tokens.rotates = None;
                log::error!(
                    "the new refresh token could not be saved ({why}). If the application's refresh tokens rotate, log in \
                     again after this run: {}",
                    self.login_command
                );
            }
        }
        let scopes = answer.scopes().map(|scopes| scopes.iter().map(|scope| scope.to_string()).collect());
        Ok((Secret::from(answer.access_token().secret().clone()), scopes))
    }
}

impl Tokens {
    /// The tokens of an answer; `old` is the refresh token that was sent, which goes on working if no new one came.
    pub(crate) fn from_answer(answer: &BasicTokenResponse, old: Option<Secret>) -> Tokens {
        let new = answer.refresh_token().map(|token| Secret::from(token.secret().clone()));
        Tokens {
            access_token: Some(Secret::from(answer.access_token().secret().clone())),
            renew_at: answer.expires_in().and_then(|lifetime| renew_at(Utc::now(), lifetime)),
            rotates: old.as_ref().map(|old| new.as_ref().is_some_and(|new| new != old)),
            refresh_token: new.or(old),
        }
    }

    /// The access token, unless it is about to expire or is the one that was refused.
    fn usable(&self, refused: Option<&Secret>) -> Option<&Secret> {
        let is_due = self.renew_at.is_some_and(|at| at <= Utc::now());
        self.access_token.as_ref().filter(|token| !is_due && Some(*token) != refused)
    }
}

/// When to renew an access token that lives so long: a minute before it expires, so that no call carries one that
/// expires on its way. One that lives for minutes is used for nine tenths of its life.
fn renew_at(now: DateTime<Utc>, lifetime: Duration) -> Option<DateTime<Utc>> {
    let margin = Duration::from_secs(60).min(lifetime / 10);
    now.checked_add_signed(TimeDelta::from_std(lifetime.saturating_sub(margin)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_used_for_most_of_its_life() {
        let now: DateTime<Utc> = "2026-11-23T10:00:00Z".parse().unwrap();
        for (lifetime, used) in [(86_400, 86_340), (600, 540), (100, 90), (60, 54), (10, 9), (0, 0)] {
            let at = renew_at(now, Duration::from_secs(lifetime)).unwrap();
            assert_eq!((at - now).num_seconds(), used, "{lifetime}");
        }
        assert_eq!(renew_at(now, Duration::from_secs(u64::MAX)), None);
    }
}
