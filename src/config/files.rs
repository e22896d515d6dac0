//! Loads the settings from files and from the environment.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::schema;
use crate::error::{Error, Result};

/// The settings that `TAP_CONSTANT_CONTACT_<SETTING>` variables name, as one JSON object.
fn from_env(vars: impl Iterator<Item = (String, String)>) -> String {
    let known = schema();
    let found: Map<String, Value> = vars
        .filter_map(|(name, value)| {
            let name = name.strip_prefix("TAP_CONSTANT_CONTACT_")?.to_ascii_lowercase();
            let is_setting = known["properties"].get(&name).is_some() || name == "updated_after";
            is_setting.then(|| (name, Value::String(value)))
        })
        .collect();
    Value::Object(found).to_string()
}

/// The last file, which tokens are written back to; the environment, where the refresh token comes from it, cannot be.
pub(crate) fn written_back(config: &[PathBuf]) -> Option<PathBuf> {
    let after = config.iter().rev().take_while(|path| is_env(path)).count();
    let from_env = std::env::var_os("TAP_CONSTANT_CONTACT_REFRESH_TOKEN").is_some_and(|token| !token.is_empty());
    config[..config.len() - after].last().filter(|_| after == 0 || !from_env).cloned()
}

fn is_env(path: &Path) -> bool {
    path.as_os_str() == "ENV"
}

pub(crate) fn sources(paths: &[PathBuf]) -> Result<Vec<(String, String)>> {
    if paths.is_empty() {
        return Err(Error::Usage("the settings are missing: pass --config FILE (or --config ENV); see --help".into()));
    }
    paths
        .iter()
        .map(|path| {
            if is_env(path) {
                Ok(("ENV".to_owned(), from_env(std::env::vars())))
            } else if path.exists() {
                Ok((path.display().to_string(), read(path)?))
            } else {
                let path = path.display();
                Err(Error::Usage(format!(
                    "{path}: there is no such file. Write one with at least {{\"client_id\": \"your API key\", \
                     \"token_file\": \"tokens.json\"}}, then log in (tap-constant-contact login --config {path})"
                )))
            }
        })
        .collect()
}

/// The text of a file, without the byte order mark that editors under Windows put before it.
pub(crate) fn read(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).map_err(|e| Error::Usage(format!("{}: {e}", path.display())))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}
