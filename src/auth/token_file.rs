//! Where the newest tokens live: a token file, else the last config file.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tempfile::NamedTempFile;

use super::{Tokens, edit};
use crate::config::{Config, Secret};
use crate::error::{Error, Result};

/// The authorization server allows one call a second; the rest is for what a call's way to it varies.
const SPACING: Duration = Duration::from_millis(1050);

/// The place that outlives a run.
pub(super) struct Store {
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
    /// The config's refresh token when this was written.
    config_refresh_token: Option<String>,
}

/// The right to call the authorization server and to change the tokens, which one run has at a time; dropping it
/// passes it on. The lock file says when the last call was made.
#[derive(Clone)]
pub(super) struct Turn(Option<Rc<File>>);

impl Turn {
    /// Waits until a second has passed since the last call, whichever run made it.
    pub(super) fn space(&self) {
        let Some(mut file) = self.0.as_deref() else { return };
        let mut text = String::new();
        let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
        let last = read.ok().and_then(|_| text.parse().ok());
        let since = last.map(Duration::from_millis).and_then(|last| now().checked_sub(last));
        // A time to come is a clock's that was set back since.
        if let Some(wait) = since.and_then(|since| SPACING.checked_sub(since)) {
            thread::sleep(wait);
        }
    }

    /// Notes that a call is being made, or has been.
    pub(super) fn called(&self) {
        let Some(mut file) = self.0.as_deref() else { return };
        // Lost, it costs one 429 at most.
        let _ = file.set_len(0).and_then(|()| file.write_all(now().as_millis().to_string().as_bytes()));
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Store {
    pub(super) fn new(config: &Config, config_file: Option<PathBuf>) -> Store {
        let place = match (config.token_file.clone(), config_file) {
            (Some(path), _) => Place::TokenFile(path),
            (None, Some(path)) => Place::Config(path),
            (None, None) => Place::Nowhere,
        };
        Store { place, configured: config.refresh_token.clone() }
    }

    pub(super) fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::TokenFile(path) | Place::Config(path) => Some(path),
            Place::Nowhere => None,
        }
    }

    /// Warns when other users of the machine can read the tokens.
    #[cfg(unix)]
    pub(super) fn check_mode(&self) {
        use std::os::unix::fs::PermissionsExt;
        let Some(path) = self.path() else { return };
        let mode = fs::metadata(path).map_or(0, |m| m.permissions().mode() & 0o777);
        if mode & 0o077 != 0 {
            log::warn!(
                "{} holds tokens and can be read by other users of this machine (mode {mode:o}): chmod 600 it",
                path.display()
            );
        }
    }

    #[cfg(not(unix))]
    pub(super) fn check_mode(&self) {}

    /// One refresher at a time: waits for another run and says so.
    pub(super) fn turn(&self) -> Result<Turn> {
        let Some(path) = self.path() else { return Ok(Turn(None)) };
        // The lock stands beside the file, hence in a folder that there may not be yet.
        let _ = self.make_folder();
        let mut name = real(path).into_os_string();
        name.push(".lock");
        // Where no lock can be made, no token can be saved either, which `writable` tells.
        let Ok(file) = File::options().create(true).read(true).append(true).open(&name) else { return Ok(Turn(None)) };
        if file.try_lock().is_err() {
            log::info!("another run is getting a token; waiting for it");
            file.lock().map_err(|e| Error::Failed(format!("cannot lock {}: {e}", Path::new(&name).display())))?;
        }
        Ok(Turn(Some(Rc::new(file))))
    }

    /// The stored tokens, if they are newer than the config's.
    pub(super) fn load(&self) -> Result<Option<Tokens>> {
        let bad = |path: &Path, why: String| {
            Error::Usage(format!("{}: {why}; remove it and log in again (tap-constant-contact login)", path.display()))
        };
        match &self.place {
            Place::TokenFile(path) => {
                let text = match fs::read_to_string(path) {
                    Ok(text) => text,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(e) => return Err(bad(path, e.to_string())),
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
                }))
            }
            // The config was read at the start of the run: only a later change by another run is news.
            Place::Config(path) => {
                let map: Option<Map<String, Value>> = read(path).ok().and_then(|text| serde_json::from_str(&text).ok());
                let refresh = map.and_then(|map| map.get("refresh_token")?.as_str().map(str::to_owned));
                Ok(refresh.map(Secret::from).filter(|r| Some(r) != self.configured.as_ref()).map(|r| Tokens {
                    access: None,
                    expires_at: None,
                    refresh: Some(r),
                }))
            }
            Place::Nowhere => Ok(None),
        }
    }

    /// Whether a new token could be kept; nothing is changed.
    pub(super) fn writable(&self) -> std::result::Result<(), String> {
        let path = self.path().ok_or("there is neither a token_file nor a config file")?;
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

    /// Writes the tokens so that a crash at any moment leaves either the old file or the new one.
    pub(super) fn save(&self, tokens: &Tokens) -> std::result::Result<(), String> {
        let text = |secret: &Option<Secret>| secret.as_ref().map(|s| s.expose().to_owned());
        let (path, content) = match &self.place {
            Place::TokenFile(path) => {
                let content = Content {
                    access_token: text(&tokens.access),
                    refresh_token: text(&tokens.refresh),
                    expires_at: tokens.expires_at,
                    config_refresh_token: text(&self.configured),
                };
                (path, serde_json::to_string_pretty(&content).map_err(|e| e.to_string())? + "\n")
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
                    return Ok(());
                }
                (path, edit::set(&old, &members).ok_or_else(object)?)
            }
            Place::Nowhere => return Err("there is neither a token_file nor a config file".into()),
        };
        self.make_folder()?;
        let target = real(path);
        replace(&target, &content)
            .or_else(|e| {
                // A file mounted by itself, or in a folder of another user, can be rewritten though not replaced.
                let mut file = File::options().write(true).open(&target).map_err(|_| e)?;
                file.set_len(0)?;
                file.write_all(content.as_bytes())?;
                file.sync_all()
            })
            .map_err(|e| format!("{}: {e}", target.display()))
    }
}

fn replace(target: &Path, content: &str) -> io::Result<()> {
    // Created with mode 0600, which the rename keeps.
    let mut file = NamedTempFile::new_in(folder(target))?;
    #[cfg(unix)]
    if let Ok(old) = fs::metadata(target) {
        use std::os::unix::fs::{MetadataExt, fchown};
        // A run by root leaves the file to its owner; nobody else can give files away, nor needs to.
        let _ = fchown(file.as_file(), Some(old.uid()), Some(old.gid()));
    }
    file.write_all(content.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(target).map_err(|e| e.error)?;
    // The rename itself is durable only with its folder.
    File::open(folder(target)).and_then(|dir| dir.sync_all()).ok();
    Ok(())
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
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}
