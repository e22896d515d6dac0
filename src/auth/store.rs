//! Where tokens outlive a run: in the `token_file`, else in the last config file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tempfile::NamedTempFile;

use super::durable_file::{self, Lock, beside, folder, follow_links};
use super::json_edit;
use crate::config::{self, Config};
use crate::error::{Error, Result};
use crate::secret::{Secret, stored};

/// What a login holds at one moment. A member that is not known is left out of the files.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Tokens {
    #[serde(default, with = "stored")]
    pub(super) access_token: Option<Secret>,
    #[serde(default, with = "stored")]
    pub(super) refresh_token: Option<Secret>,
    /// When a new access token should be fetched, a little before this one expires. Without it, the token is used until
    /// it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) renew_at: Option<DateTime<Utc>>,
    /// Whether the last renewal brought a new refresh token. Not known right after a login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rotates: Option<bool>,
}

/// The content of a token file.
#[derive(Serialize, Deserialize)]
struct TokenFile {
    #[serde(flatten)]
    tokens: Tokens,
    /// Fingerprints of older refresh tokens: those that were in this file and those of the configs that use it. A
    /// config that still has one of them was not changed since.
    #[serde(default)]
    superseded: Vec<String>,
}

/// How many fingerprints a token file remembers.
const SUPERSEDED: usize = 200;

/// The content of the file beside the store that a renewal writes first. It outlives a run that is killed before the
/// tokens are in the store.
#[derive(Serialize, Deserialize)]
struct Pending {
    #[serde(flatten)]
    tokens: Tokens,
    /// Fingerprint of the refresh token that these tokens replace. Once the store holds another one, they are outdated.
    #[serde(default)]
    replaces: Option<String>,
}

/// Room on disk for the tokens that a renewal is about to bring.
pub(super) struct Reservation {
    /// `None` where the store can only be overwritten in place.
    file: Option<NamedTempFile>,
    replaces: Option<String>,
}

/// How much room is reserved beside that for the store's own content, in bytes. An access token has some 1,200
/// characters.
const RESERVED: u64 = 16 << 10;

/// Why no room could be reserved.
pub(super) struct ReserveError {
    pub(super) why: String,
    /// Whether the disk is full, which passes; else the place cannot be written at all.
    pub(super) is_full: bool,
}

impl From<String> for ReserveError {
    fn from(why: String) -> ReserveError {
        ReserveError { why, is_full: false }
    }
}

/// Why tokens did not reach the store, and the file that they are in instead.
pub(super) struct SaveError {
    pub(super) why: String,
    pub(super) kept_in: Option<PathBuf>,
}

/// The place where tokens outlive a run.
pub(crate) struct TokenStore {
    location: Location,
    /// The config's refresh token and the config file that it stands in, if it stands in one.
    configured: Option<Secret>,
    configured_in: Option<PathBuf>,
    lock_timeout: Duration,
    login_command: String,
}

enum Location {
    TokenFile(PathBuf),
    Config(PathBuf),
    Nowhere,
}

/// Why a run can store nothing if all its settings come from the environment.
const NOWHERE: &str = "there is neither a token_file nor a config file";

impl TokenStore {
    /// `config_file` is the config that tokens may be written to.
    pub(crate) fn new(config: &Config, config_file: Option<PathBuf>) -> TokenStore {
        let location = match (config.token_file.clone(), config_file) {
            (Some(path), _) => Location::TokenFile(path),
            (None, Some(path)) => Location::Config(path),
            (None, None) => Location::Nowhere,
        };
        TokenStore {
            location,
            configured: config.refresh_token.clone(),
            configured_in: config.refresh_token_file.clone(),
            lock_timeout: config.lock_timeout,
            login_command: config.login_command(),
        }
    }

    pub(crate) fn path(&self) -> Option<&Path> {
        match &self.location {
            Location::TokenFile(path) | Location::Config(path) => Some(path),
            Location::Nowhere => None,
        }
    }

    /// Waits until no other run renews or stores tokens. `None` where there is nothing to lock.
    pub(crate) fn lock(&self) -> Result<Option<Lock>> {
        let Some(path) = self.path() else { return Ok(None) };
        // The lock file stands beside the token file, whose folder may not exist yet.
        let _ = self.create_folder();
        Lock::acquire(&follow_links(path), self.lock_timeout)
    }

    /// The stored tokens; `None` where there are none, or where the config's are newer.
    pub(super) fn load(&self) -> Result<Option<Tokens>> {
        match &self.location {
            Location::TokenFile(path) => {
                let file = self.read_token_file(path)?.filter(|file| !self.config_is_newer(file, path));
                let tokens = file.map(|file| file.tokens);
                Ok(tokens.filter(|tokens| tokens.access_token.is_some() || tokens.refresh_token.is_some()))
            }
            // The config was read when the run started, so that only another run's change since is news.
            Location::Config(path) => {
                let text = config::read(path).unwrap_or_default();
                let tokens: Option<Tokens> = serde_json::from_str(&text).ok();
                let refresh_token = tokens.and_then(|tokens| tokens.refresh_token);
                let is_new = |token: &Secret| Some(token) != self.configured.as_ref();
                Ok(refresh_token.filter(is_new).map(|new| Tokens { refresh_token: Some(new), ..Tokens::default() }))
            }
            Location::Nowhere => Ok(None),
        }
    }

    /// The tokens of the token file, where the config's refresh token was sent because the file did not know it.
    pub(super) fn instead_of(&self, sent: Option<&Secret>) -> Result<Option<Tokens>> {
        let Location::TokenFile(path) = &self.location else { return Ok(None) };
        if sent.is_none() || sent != self.configured.as_ref() {
            return Ok(None);
        }
        let tokens = self.read_token_file(path)?.map(|file| file.tokens);
        Ok(tokens.filter(|tokens| tokens.refresh_token.is_some() && tokens.refresh_token.as_ref() != sent))
    }

    /// `None` where there is no token file yet.
    fn read_token_file(&self, path: &Path) -> Result<Option<TokenFile>> {
        check_is_file(path).map_err(Error::Usage)?;
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                return Err(Error::Usage(format!("token_file: {}", config::not_permitted(path))));
            }
            Err(e) => return Err(Error::Usage(format!("token_file: {}: {e}", path.display()))),
        };
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        // The parser's own words could quote a token.
        let file = serde_json::from_slice(bytes).ok().filter(|_| !is_of_others(bytes));
        file.map(Some).ok_or_else(|| Error::Usage(self.not_a_token_file(path)))
    }

    /// The token file that new tokens replace, never one that holds something else. `None` where there is none, or an
    /// empty one.
    fn replaced(&self, path: &Path) -> Result<Option<TokenFile>> {
        let is_empty = fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == 0);
        if is_empty { Ok(None) } else { self.read_token_file(path) }
    }

    fn not_a_token_file(&self, path: &Path) -> String {
        format!(
            "{} is not a token file. Set token_file to another path, or remove the file; then run: {}",
            path.display(),
            self.login_command
        )
    }

    /// Whether the config's refresh token was put there after the token file was written.
    fn config_is_newer(&self, file: &TokenFile, path: &Path) -> bool {
        let Some(configured) = &self.configured else { return false };
        if file.tokens.refresh_token.as_ref() == Some(configured) || file.superseded.contains(&fingerprint(configured))
        {
            return false;
        }
        // This token file has not seen that token before. It still may be an old one, of a config that never ran.
        match (self.configured_in.as_deref().and_then(modified), modified(path)) {
            (Some(config), Some(file)) => config >= file,
            _ => true,
        }
    }

    /// Fails if a new token could not be stored. Creates nothing but the token file's folder.
    ///
    /// # Errors
    /// `Usage` where the setting names something that tokens must not replace, `Failed` where it cannot be written.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if let Location::TokenFile(path) = &self.location {
            self.replaced(path)?;
        }
        let written = || {
            let target = follow_links(self.path().ok_or(NOWHERE)?);
            self.create_folder()?;
            durable_file::check_writable(&target).map_err(|e| format!("{}: {e}", target.display()))
        };
        written().map_err(|why: String| Error::Failed(format!("the tokens could not be stored: {why}")))
    }

    fn create_folder(&self) -> Result<(), String> {
        if let Location::TokenFile(path) = &self.location {
            fs::create_dir_all(folder(path)).map_err(|e| format!("{}: {e}", folder(path).display()))?;
        }
        Ok(())
    }

    /// Reserves the room for new tokens, before a call spends the old one for them. The caller holds the lock.
    pub(super) fn reserve(&self) -> Result<Reservation, ReserveError> {
        let target = follow_links(self.path().ok_or(NOWHERE.to_owned())?);
        self.create_folder()?;
        let replaces = self.current().map_err(|e| e.to_string())?;
        // For the tokens by themselves, and for the new store.
        let size = RESERVED + fs::metadata(&target).map_or(0, |file| file.len());
        let failed = |e: io::Error| ReserveError { why: format!("{}: {e}", target.display()), is_full: is_full(&e) };
        match durable_file::reserve(&target, ".next", size) {
            Ok(file) => Ok(Reservation { file: Some(file), replaces }),
            Err(e) if is_full(&e) => Err(failed(e)),
            Err(e) => match durable_file::check_room(&target, size) {
                Ok(()) => Ok(Reservation { file: None, replaces }),
                Err(full) if is_full(&full) => Err(failed(full)),
                Err(_) => Err(failed(e)),
            },
        }
    }

    /// The tokens that a killed run received and could not store. The caller holds the lock.
    pub(super) fn pending(&self) -> Result<Option<Tokens>> {
        let Some(path) = self.path() else { return Ok(None) };
        let path = beside(&follow_links(path), ".next");
        let text = match fs::read(&path) {
            // The only token that works may be in there.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                return Err(Error::Failed(format!(
                    "{}: {e}. Another user's run was killed while it renewed the login and left its tokens there; chown \
                     the file to the user of this run",
                    path.display()
                )));
            }
            text => text.unwrap_or_default(),
        };
        // A run that was killed before the answer came has left spaces.
        let Ok(pending) = serde_json::from_slice::<Pending>(&text) else { return Ok(None) };
        Ok(if pending.replaces == self.current()? { Some(pending.tokens) } else { None })
    }

    /// Fingerprint of the refresh token that a run would start with now.
    fn current(&self) -> Result<Option<String>> {
        let refresh_token = self.load()?.map_or_else(|| self.configured.clone(), |tokens| tokens.refresh_token);
        Ok(refresh_token.as_ref().map(fingerprint))
    }

    /// Where a refresh token came from, for an error message.
    pub(super) fn source(&self, token: &Secret) -> String {
        let holds = |path: &&Path| {
            let text = config::read(path).unwrap_or_default();
            serde_json::from_str(&text).is_ok_and(|tokens: Tokens| tokens.refresh_token.as_ref() == Some(token))
        };
        match self.path().into_iter().chain(self.configured_in.as_deref()).find(holds) {
            Some(path) => path.display().to_string(),
            None if self.configured.as_ref() == Some(token) => "the environment".into(),
            None => "an earlier renewal in this run".into(),
        }
    }

    /// Stores what a call brought. The tokens are in the reserved file first: from then on a crash loses nothing, and
    /// neither does an error that names this file.
    pub(super) fn save_reserved(
        &self,
        lock: Option<&Lock>,
        reservation: Reservation,
        tokens: &Tokens,
    ) -> Result<(), SaveError> {
        let kept = reservation.file.and_then(|mut file| {
            let pending = Pending { tokens: tokens.clone(), replaces: reservation.replaces };
            let text = serde_json::to_vec(&pending).ok()?;
            durable_file::fill(&mut file, &text).ok().map(|()| file)
        });
        self.save(lock, tokens)
            .map_err(|why| SaveError { why, kept_in: kept.and_then(|file| file.into_temp_path().keep().ok()) })
    }

    /// Stores the tokens, so that a crash at any moment leaves the old content or the new one. The caller holds the
    /// lock.
    pub(crate) fn save(&self, lock: Option<&Lock>, tokens: &Tokens) -> Result<(), String> {
        let target = follow_links(self.path().ok_or(NOWHERE)?);
        if let Some(content) = self.content(tokens)? {
            self.create_folder()?;
            let saved = match lock {
                Some(Lock::Itself { .. }) => durable_file::overwrite(&target, &content),
                _ => match durable_file::replace(&target, &content) {
                    // For instance because the file is a mount point.
                    Err(e) if !is_full(&e) => durable_file::overwrite(&target, &content).map_err(|_| e),
                    replaced => replaced,
                },
            };
            saved.map_err(|e| format!("{}: {e}", target.display()))?;
        }
        // Tokens that a killed run left are in the store now, or a new login has replaced them.
        let _ = fs::remove_file(beside(&target, ".next"));
        Ok(())
    }

    /// The store's new content; `None` when it need not change.
    fn content(&self, tokens: &Tokens) -> Result<Option<String>, String> {
        match &self.location {
            Location::TokenFile(path) => {
                let old = self.replaced(path).map_err(|e| e.to_string())?;
                let (replaced, mut superseded) =
                    old.map(|file| (file.tokens.refresh_token, file.superseded)).unwrap_or_default();
                for token in [replaced.as_ref(), self.configured.as_ref()].into_iter().flatten() {
                    let fingerprint = fingerprint(token);
                    superseded.retain(|other| *other != fingerprint);
                    superseded.push(fingerprint);
                }
                let now = tokens.refresh_token.as_ref().map(fingerprint);
                superseded.retain(|other| Some(other) != now.as_ref());
                superseded.drain(..superseded.len().saturating_sub(SUPERSEDED));
                let file = TokenFile { tokens: tokens.clone(), superseded };
                Ok(Some(serde_json::to_string_pretty(&file).map_err(|e| e.to_string())? + "\n"))
            }
            Location::Config(path) => {
                let old = config::read(path).map_err(|e| e.to_string())?;
                let not_an_object = || format!("{} is no longer a JSON object", path.display());
                let settings: Map<String, Value> = serde_json::from_str(&old).map_err(|_| not_an_object())?;
                let mut members = Vec::new();
                if let Some(token) = &tokens.refresh_token {
                    members.push(("refresh_token", token.expose()));
                }
                // A config without an access token does not get one, since it has no place for when it expires.
                if let Some(token) = tokens.access_token.as_ref().filter(|_| settings.contains_key("access_token")) {
                    members.push(("access_token", token.expose()));
                }
                members.retain(|(key, value)| settings.get(*key).and_then(Value::as_str) != Some(value));
                if members.is_empty() {
                    return Ok(None);
                }
                json_edit::set(&old, &members).ok_or_else(not_an_object).map(Some)
            }
            Location::Nowhere => Err(NOWHERE.into()),
        }
    }

    /// Warns when other users of the machine can read the token file.
    pub(super) fn warn_if_readable(&self) {
        if let Location::TokenFile(path) = &self.location {
            warn_if_readable(path);
        }
    }
}

/// Refuses a `token_file` that tokens cannot be kept in. A device may never end.
fn check_is_file(path: &Path) -> Result<(), String> {
    let shown = path.display();
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(format!(
            "token_file is {shown}, a folder; name a file in it, such as {}",
            path.join("tokens.json").display()
        )),
        Ok(found) if !found.is_file() => Err(format!("token_file is {shown}, a device or pipe; name a file")),
        _ => Ok(()),
    }
}

/// Whether this is JSON with other members than tokens, such as a config. A renewal would replace it.
fn is_of_others(bytes: &[u8]) -> bool {
    const MEMBERS: [&str; 9] = [
        "access_token",
        "refresh_token",
        "renew_at",
        "rotates",
        "superseded",
        // These also stand in the answer of the authorization server.
        "token_type",
        "expires_in",
        "scope",
        "id_token",
    ];
    let members: Option<Map<String, Value>> = serde_json::from_slice(bytes).ok();
    members.is_some_and(|members| members.keys().any(|key| !MEMBERS.contains(&&**key)))
}

/// A short hash that is the same on every machine (64-bit FNV-1a). It tells tokens apart; it protects nothing.
fn fingerprint(token: &Secret) -> String {
    let hash = token
        .expose()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|file| file.modified()).ok()
}

/// Whether the disk, or the user's share of it, is full.
fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The settings that nobody else may read.
const SECRETS: [&str; 3] = ["client_secret", "refresh_token", "access_token"];

/// Warns when other users of the machine can read a config that holds a secret.
pub(crate) fn warn_if_config_is_readable(path: &Path, text: &str) {
    let settings: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
    if SECRETS.iter().any(|key| settings.get(*key).and_then(Value::as_str).is_some_and(|secret| !secret.is_empty())) {
        warn_if_readable(path);
    }
}

#[cfg(unix)]
fn warn_if_readable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let file = fs::metadata(path).ok().filter(fs::Metadata::is_file);
    let mode = file.map_or(0, |file| file.permissions().mode() & 0o777);
    if mode & 0o077 != 0 {
        let path = path.display();
        log::warn!(
            "{path} holds secrets, and other users of this machine can read it (mode {mode:o}). Run: chmod 600 {path}"
        );
    }
}

#[cfg(not(unix))]
fn warn_if_readable(_: &Path) {}
