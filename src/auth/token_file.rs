//! Where the newest tokens live: a token file, else the last config file.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tempfile::NamedTempFile;

use super::Tokens;
use crate::config::Secret;
use crate::error::{Error, Result};

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

impl Store {
    pub(super) fn new(token_file: Option<PathBuf>, config_file: Option<PathBuf>, configured: Option<Secret>) -> Store {
        let place = match (token_file, config_file) {
            (Some(path), _) => Place::TokenFile(path),
            (None, Some(path)) => Place::Config(path),
            (None, None) => Place::Nowhere,
        };
        Store { place, configured }
    }

    fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::TokenFile(path) | Place::Config(path) => Some(path),
            Place::Nowhere => None,
        }
    }

    /// One refresher at a time: waits for another run and says so. Dropping the file ends the lock.
    pub(super) fn lock(&self) -> Result<Option<File>> {
        let Some(path) = self.path() else { return Ok(None) };
        let mut name = real(path).into_os_string();
        name.push(".lock");
        // Where no lock can be made, no token can be saved either, which `writable` tells.
        let Ok(file) = File::options().create(true).append(true).open(&name) else { return Ok(None) };
        if file.try_lock().is_err() {
            log::info!("another run is refreshing the token; waiting for it");
            file.lock().map_err(|e| Error::Failed(format!("cannot lock {}: {e}", Path::new(&name).display())))?;
        }
        Ok(Some(file))
    }

    /// The stored tokens, if they are newer than the config's.
    pub(super) fn load(&self) -> Result<Option<Tokens>> {
        let bad =
            |path: &Path, why: String| Error::Usage(format!("{}: {why}; remove it and log in again", path.display()));
        match &self.place {
            Place::TokenFile(path) => {
                let text = match fs::read_to_string(path) {
                    Ok(text) => text,
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
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
                let refresh =
                    read_object(path).ok().and_then(|map| map.get("refresh_token")?.as_str().map(str::to_owned));
                let configured = self.configured.as_ref().map(Secret::expose);
                Ok(refresh.filter(|r| Some(r.as_str()) != configured).map(|r| Tokens {
                    access: None,
                    expires_at: None,
                    refresh: Some(Secret::from(r)),
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
        NamedTempFile::new_in(folder(&target)).map_err(|e| format!("{}: {e}", target.display()))?;
        Ok(())
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
                (path, serde_json::to_string_pretty(&content))
            }
            Place::Config(path) => {
                let mut map = read_object(path)?;
                let mut changed = false;
                for (key, value) in [("refresh_token", text(&tokens.refresh)), ("access_token", text(&tokens.access))] {
                    // A config without an access token does not get one: its end could not be told.
                    if let Some(value) = value.filter(|v| map.get(key).is_some_and(|old| old.as_str() != Some(v))) {
                        map.insert(key.into(), value.into());
                        changed = true;
                    }
                }
                if !changed {
                    return Ok(());
                }
                (path, serde_json::to_string_pretty(&map))
            }
            Place::Nowhere => return Err("there is neither a token_file nor a config file".into()),
        };
        self.make_folder()?;
        let target = real(path);
        let at = |e: std::io::Error| format!("{}: {e}", target.display());
        // Created with mode 0600, which the rename keeps.
        let mut file = NamedTempFile::new_in(folder(&target)).map_err(at)?;
        let content = content.map_err(|e| e.to_string())?;
        file.write_all(content.as_bytes()).and_then(|()| file.write_all(b"\n")).map_err(at)?;
        file.as_file().sync_all().map_err(at)?;
        file.persist(&target).map_err(|e| at(e.error))?;
        // The rename itself is durable only with its folder.
        File::open(folder(&target)).and_then(|dir| dir.sync_all()).ok();
        Ok(())
    }
}

/// Where a link leads: the file is replaced, never the link.
fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn read_object(path: &Path) -> std::result::Result<Map<String, Value>, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_json::from_str(&text).map_err(|_| format!("{} is no longer a JSON object", path.display()))
}
