//! Where the newest tokens live: a token file, else the last config file.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tempfile::NamedTempFile;

use super::{Tokens, json_edit};
use crate::config::{Config, Secret};
use crate::error::{Error, Result};

/// The authorization server allows one call a second; the rest is for what a call's way to it varies.
const SPACING: Duration = Duration::from_millis(1050);

/// The place that outlives a run.
pub(crate) struct Store {
    place: Place,
    /// The config's own refresh token: one put there by hand since the last save wins over the stored one.
    configured: Option<Secret>,
}

enum Place {
    TokenFile(PathBuf),
    Config(PathBuf),
    Nowhere,
}

/// The content of a token file.
#[derive(Serialize, Deserialize)]
struct Content {
    access_token: Option<String>,
    refresh_token: Option<String>,
    expires_at: Option<DateTime<Utc>>,
    /// Whether the last refresh brought a new refresh token; not known after a login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rotates: Option<bool>,
    /// The config's refresh token when this was written.
    config_refresh_token: Option<String>,
}

/// What a token call brought, until it stands in its place: where a run is killed in between, the next one finds it.
#[derive(Serialize, Deserialize)]
struct Left {
    /// The refresh token that a run starts with as long as this has not taken its place.
    instead_of: Option<String>,
    access_token: Option<String>,
    refresh_token: Option<String>,
    expires_at: Option<DateTime<Utc>>,
    rotates: Option<bool>,
}

/// A file for `Left`, made before the call: what the call brings must neither wait for one nor find the disk full.
pub(crate) struct Room {
    /// None where the folder cannot be written, but the file can.
    file: Option<NamedTempFile>,
    instead_of: Option<String>,
}

/// The size of that file: an access token has some 1,200 characters.
const ROOM: usize = 8192;

/// Why tokens are not in their place, and where they are instead.
pub(crate) struct Unsaved {
    pub(crate) why: String,
    pub(crate) kept: Option<PathBuf>,
}

/// The right to call the authorization server and to change the tokens, which one run has at a time; dropping it
/// passes it on.
#[derive(Clone)]
pub(crate) enum Turn {
    /// By a lock file, which says when the last call was made.
    Lock(Rc<File>),
    /// By the store itself, where there is no lock file and none can be made. It is rewritten in place then: a rename
    /// would put another file than the locked one there.
    Store { _lock: Rc<File> },
    /// Nothing can be locked, and nothing stored.
    Free,
}

impl Turn {
    /// Waits until a second has passed since the last call, whichever run made it.
    pub(crate) fn space(&self) {
        let Turn::Lock(file) = self else { return };
        let (mut file, mut text) = (&**file, String::new());
        let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
        let last = read.ok().and_then(|_| text.parse().ok());
        let since = last.map(Duration::from_millis).and_then(|last| now().checked_sub(last));
        // A time to come is a clock's that was set back since.
        if let Some(wait) = since.and_then(|since| SPACING.checked_sub(since)) {
            thread::sleep(wait);
        }
    }

    /// Notes that a call is being made, or has been.
    pub(crate) fn called(&self) {
        let Turn::Lock(file) = self else { return };
        let mut file = &**file;
        // Lost, it costs one 429 at most.
        let _ = file.set_len(0).and_then(|()| file.write_all(now().as_millis().to_string().as_bytes()));
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Room {
    /// Puts the tokens where they outlast the process; false when there is no room.
    fn take(&mut self, tokens: &Tokens) -> io::Result<bool> {
        let Some(file) = &mut self.file else { return Ok(false) };
        let left = Left {
            instead_of: self.instead_of.take(),
            access_token: text(tokens.access.as_ref()),
            refresh_token: text(tokens.refresh.as_ref()),
            expires_at: tokens.expires_at,
            rotates: tokens.rotates,
        };
        let content = serde_json::to_vec(&left)?;
        file.rewind()?;
        file.write_all(&content)?;
        file.as_file().sync_all()?;
        Ok(true)
    }
}

impl Store {
    pub(crate) fn new(config: &Config, config_file: Option<PathBuf>) -> Store {
        let place = match (config.token_file.clone(), config_file) {
            (Some(path), _) => Place::TokenFile(path),
            (None, Some(path)) => Place::Config(path),
            (None, None) => Place::Nowhere,
        };
        Store { place, configured: config.refresh_token.clone() }
    }

    pub(crate) fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::TokenFile(path) | Place::Config(path) => Some(path),
            Place::Nowhere => None,
        }
    }

    /// Warns when other users of the machine can read the token file.
    pub(crate) fn check_mode(&self) {
        if let Place::TokenFile(path) = &self.place {
            check_mode(path);
        }
    }

    /// One refresher at a time: waits for another run and says so.
    pub(crate) fn turn(&self) -> Result<Turn> {
        let Some(path) = self.path() else { return Ok(Turn::Free) };
        // The lock stands beside the file, hence in a folder that there may not be yet.
        let _ = self.make_folder();
        let target = real(path);
        loop {
            if let Some(file) = lock_file(&target)? {
                lock(&file, &beside(&target, ".lock"))?;
                return Ok(Turn::Lock(Rc::new(file)));
            }
            let Ok(file) = File::options().read(true).write(true).open(&target) else { return Ok(Turn::Free) };
            lock(&file, &target)?;
            // While this one waited, a run that may write there can have made the lock file, and replaced the store.
            if !beside(&target, ".lock").exists() {
                return Ok(Turn::Store { _lock: Rc::new(file) });
            }
        }
    }

    /// The stored tokens, if they are newer than the config's.
    pub(crate) fn load(&self) -> Result<Option<Tokens>> {
        let bad = |path: &Path, why: String| {
            Error::Usage(format!(
                "{}: {why}; remove it and log in again (tap-constant-contact login --config FILE)",
                path.display()
            ))
        };
        match &self.place {
            Place::TokenFile(path) => {
                let text = match fs::read_to_string(path) {
                    Ok(text) => text,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(e) if e.kind() == io::ErrorKind::InvalidData => return Err(bad(path, e.to_string())),
                    Err(e) => return Err(Error::Usage(format!("{}: {e}", path.display()))),
                };
                let content: Content = serde_json::from_str(&text)
                    .map_err(|e| bad(path, format!("not a token file (line {}, column {})", e.line(), e.column())))?;
                let configured = self.configured.as_ref().map(Secret::expose);
                if configured.is_some() && configured != content.config_refresh_token.as_deref() {
                    return Ok(None);
                }
                Ok(Some(Tokens {
                    access: content.access_token.map(Secret::from),
                    expires_at: content.expires_at,
                    refresh: content.refresh_token.map(Secret::from),
                    rotates: content.rotates,
                    outdated: None,
                }))
            }
            // The config was read at the start of the run: only a later change by another run is news.
            Place::Config(path) => {
                let map: Option<Map<String, Value>> = read(path).ok().and_then(|text| serde_json::from_str(&text).ok());
                let refresh = map.and_then(|map| map.get("refresh_token")?.as_str().map(str::to_owned));
                Ok(refresh
                    .map(Secret::from)
                    .filter(|r| Some(r) != self.configured.as_ref())
                    .map(|r| Tokens { refresh: Some(r), ..Tokens::default() }))
            }
            Place::Nowhere => Ok(None),
        }
    }

    /// Whether a new token could be kept; no more is made than its folder.
    pub(crate) fn writable(&self) -> std::result::Result<(), String> {
        let path = self.path().ok_or(NOWHERE)?;
        self.make_folder()?;
        let target = real(path);
        let Err(e) = NamedTempFile::new_in(folder(&target)) else { return Ok(()) };
        match File::options().write(true).open(&target) {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("{}: {e}", target.display())),
        }
    }

    fn make_folder(&self) -> std::result::Result<(), String> {
        if let Place::TokenFile(path) = &self.place {
            fs::create_dir_all(folder(path)).map_err(|e| format!("{}: {e}", folder(path).display()))?;
        }
        Ok(())
    }

    /// Makes room for what a call will bring. Asked for with the turn at hand, and before the call.
    pub(crate) fn room(&self) -> std::result::Result<Room, String> {
        let target = real(self.path().ok_or(NOWHERE)?);
        self.make_folder()?;
        let instead_of = self.starts_with().map_err(|e| e.to_string())?;
        let made = fresh(&target, ".next").and_then(|mut file| {
            file.write_all(&[b' '; ROOM])?;
            file.as_file().sync_all()?;
            Ok(file)
        });
        match made {
            Ok(file) => Ok(Room { file: Some(file), instead_of }),
            Err(e) if e.kind() != io::ErrorKind::StorageFull && File::options().write(true).open(&target).is_ok() => {
                Ok(Room { file: None, instead_of })
            }
            Err(e) => Err(format!("{}: {e}", target.display())),
        }
    }

    /// What a run that was killed had got and not put in its place. The turn must be at hand.
    pub(crate) fn left(&self) -> Result<Option<Tokens>> {
        let Some(path) = self.path() else { return Ok(None) };
        let path = beside(&real(path), ".next");
        let left = match fs::read(&path) {
            // The only token that works may be in it.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                return Err(Error::Failed(format!(
                    "{}: {e}: a run of another user that was cut off left it; give it to this one",
                    path.display()
                )));
            }
            left => left.ok(),
        };
        // Without an answer, there are but spaces.
        let Some(left) = left.and_then(|left| serde_json::from_slice::<Left>(&left).ok()) else { return Ok(None) };
        if left.instead_of != self.starts_with()? {
            return Ok(None);
        }
        Ok(Some(Tokens {
            access: left.access_token.map(Secret::from),
            expires_at: left.expires_at,
            refresh: left.refresh_token.map(Secret::from),
            rotates: left.rotates,
            outdated: None,
        }))
    }

    /// The refresh token that a run would start with now.
    fn starts_with(&self) -> Result<Option<String>> {
        let refresh = self.load()?.map_or_else(|| self.configured.clone(), |stored| stored.refresh);
        Ok(text(refresh.as_ref()))
    }

    /// Where a refresh token came from, for a person to read.
    pub(crate) fn source(&self, token: &Secret) -> String {
        let holds = |path: &&Path| {
            let stored: Option<Value> = read(path).ok().and_then(|text| serde_json::from_str(&text).ok());
            stored.is_some_and(|stored| stored["refresh_token"] == token.expose())
        };
        match self.path().filter(holds) {
            Some(path) => path.display().to_string(),
            None if self.configured.as_ref() == Some(token) => "the config".into(),
            None => "an earlier refresh of this run".into(),
        }
    }

    /// Stores what a call brought. From the first line on, a crash loses nothing; nor does a failure, when it names the
    /// file that the tokens are left in.
    pub(crate) fn save_from(&self, turn: &Turn, mut room: Room, tokens: &Tokens) -> std::result::Result<(), Unsaved> {
        let noted = room.take(tokens);
        self.save(turn, tokens).map_err(|why| {
            let file = room.file.filter(|_| matches!(noted, Ok(true)));
            Unsaved { why, kept: file.and_then(|file| file.into_temp_path().keep().ok()) }
        })
    }

    /// Writes the tokens so that a crash at any moment leaves either the old file or the new one.
    pub(crate) fn save(&self, turn: &Turn, tokens: &Tokens) -> std::result::Result<(), String> {
        let path = self.path().ok_or(NOWHERE)?;
        let target = real(path);
        if let Some(content) = self.content(tokens)? {
            self.make_folder()?;
            let written = match turn {
                Turn::Store { .. } => rewrite(&target, content),
                Turn::Lock(_) | Turn::Free => {
                    replace(&target, &content).or_else(|e| rewrite(&target, content).map_err(|_| e))
                }
            };
            written.map_err(|e| format!("{}: {e}", target.display()))?;
        }
        // What a killed run left has been taken, or another login has made it useless.
        let _ = fs::remove_file(beside(&target, ".next"));
        Ok(())
    }

    /// What the store would hold with these tokens; `None` when it holds them already.
    fn content(&self, tokens: &Tokens) -> std::result::Result<Option<String>, String> {
        match &self.place {
            Place::TokenFile(_) => {
                let content = Content {
                    access_token: text(tokens.access.as_ref()),
                    refresh_token: text(tokens.refresh.as_ref()),
                    expires_at: tokens.expires_at,
                    rotates: tokens.rotates,
                    config_refresh_token: text(self.configured.as_ref()),
                };
                Ok(Some(serde_json::to_string_pretty(&content).map_err(|e| e.to_string())? + "\n"))
            }
            Place::Config(path) => {
                let old = read(path)?;
                let object = || format!("{} is no longer a JSON object", path.display());
                let map: Map<String, Value> = serde_json::from_str(&old).map_err(|_| object())?;
                let mut members = Vec::new();
                if let Some(refresh) = &tokens.refresh {
                    members.push(("refresh_token", refresh.expose()));
                }
                // A config without an access token does not get one: its end could not be told.
                if let Some(access) = tokens.access.as_ref().filter(|_| map.contains_key("access_token")) {
                    members.push(("access_token", access.expose()));
                }
                members.retain(|(key, value)| map.get(*key).and_then(Value::as_str) != Some(value));
                if members.is_empty() {
                    return Ok(None);
                }
                json_edit::set(&old, &members).ok_or_else(object).map(Some)
            }
            Place::Nowhere => Err(NOWHERE.into()),
        }
    }
}

/// Why nothing can be stored by a run whose settings all come from the environment.
const NOWHERE: &str = "there is neither a token_file nor a config file";

/// The settings that nobody else may read.
const SECRETS: [&str; 3] = ["client_secret", "refresh_token", "access_token"];

/// Warns when other users of the machine can read a config that holds a secret.
pub(crate) fn check_config(path: &Path, text: &str) {
    let settings: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
    if SECRETS.iter().any(|key| settings.get(*key).and_then(Value::as_str).is_some_and(|secret| !secret.is_empty())) {
        check_mode(path);
    }
}

#[cfg(unix)]
fn check_mode(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(path).map_or(0, |m| m.permissions().mode() & 0o777);
    if mode & 0o077 != 0 {
        log::warn!(
            "{} holds secrets and can be read by other users of this machine (mode {mode:o}): chmod 600 it",
            path.display()
        );
    }
}

#[cfg(not(unix))]
fn check_mode(_: &Path) {}

fn text(secret: Option<&Secret>) -> Option<String> {
    secret.map(|secret| secret.expose().to_owned())
}

/// Waits for another run and says so.
fn lock(file: &File, path: &Path) -> Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            log::info!("another run is getting a token; waiting for it");
            file.lock().map_err(|e| cannot_lock(path, &e))
        }
        // Some file systems of a network have no locks.
        Err(TryLockError::Error(e)) => {
            log::warn!("{} cannot be locked ({e}): see that no other run uses this login meanwhile", path.display());
            Ok(())
        }
    }
}

/// The lock file, which is never removed; `None` where there is none and none can be made.
fn lock_file(target: &Path) -> Result<Option<File>> {
    let path = beside(target, ".lock");
    let mut options = File::options();
    options.read(true).append(true);
    if let Ok(file) = options.clone().create_new(true).open(&path) {
        #[cfg(unix)]
        let _ = {
            use std::os::unix::fs::PermissionsExt;
            // For all who use the store, whatever the umask is.
            file.set_permissions(fs::Permissions::from_mode(0o644))
        };
        give(&file, target);
        return Ok(Some(file));
    }
    // One that cannot be written can be locked as well: only the note of the last call is lost.
    match options.open(&path).or_else(|_| File::open(&path)) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(cannot_lock(&path, &e)),
    }
}

fn cannot_lock(path: &Path, e: &io::Error) -> Error {
    Error::Failed(format!("cannot lock {}: {e}", path.display()))
}

/// A new file of mode 0600 beside the target, whatever a killed run left there. It goes when it is dropped.
fn fresh(target: &Path, suffix: &str) -> io::Result<NamedTempFile> {
    let path = beside(target, suffix);
    let _ = fs::remove_file(&path);
    let name = path.file_name().unwrap_or_default();
    let file = tempfile::Builder::new().prefix(name).rand_bytes(0).tempfile_in(folder(&path))?;
    give(file.as_file(), target);
    Ok(file)
}

/// What a run by root makes goes to the owner of the store, or of its folder where there is no store yet; nobody else
/// can give files away, nor needs to.
#[cfg(unix)]
fn give(file: &File, target: &Path) {
    use std::os::unix::fs::{MetadataExt, fchown};
    if let Ok(owner) = fs::metadata(target).or_else(|_| fs::metadata(folder(target))) {
        let _ = fchown(file, Some(owner.uid()), Some(owner.gid()));
    }
}

#[cfg(not(unix))]
fn give(_: &File, _: &Path) {}

fn replace(target: &Path, content: &str) -> io::Result<()> {
    // Its mode is kept by the rename.
    let mut file = fresh(target, ".new")?;
    file.write_all(content.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(target).map_err(|e| e.error)?;
    // The rename itself is durable only with its folder.
    File::open(folder(target)).and_then(|dir| dir.sync_all()).ok();
    Ok(())
}

/// Rewrites a file that cannot be replaced: one mounted by itself, or in a folder of another user.
fn rewrite(target: &Path, mut content: String) -> io::Result<()> {
    let mut file = File::options().write(true).open(target)?;
    // In one write that covers the old content, and is JSON as it stands: there is no moment at which it is empty.
    let length = content.len();
    let old = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    content.extend(std::iter::repeat_n(' ', old.saturating_sub(length)));
    file.write_all(content.as_bytes())?;
    file.set_len(length as u64)?;
    file.sync_all()
}

/// A file that stands beside another.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Where links lead, also to a file that there is not yet: the file is replaced, never the link.
fn real(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    // As many as Linux follows.
    for _ in 0..40 {
        let Ok(to) = fs::read_link(&path) else { break };
        path = folder(&path).join(to);
    }
    path
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn read(path: &Path) -> std::result::Result<String, String> {
    crate::config::read(path).map_err(|e| e.to_string())
}
