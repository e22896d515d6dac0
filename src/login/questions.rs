//! Asks a person at a terminal for what no config says yet: the application's API key and secret.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use crate::auth::{follow_links, replace_file, set_members};
use crate::config::{command, how_to_write, is_key, is_under_meltano, read, sources};
use crate::error::{Error, Result};
use crate::logger::say;

/// Asks for the application where no config names one, writes the answers into the last config, and returns the configs.
///
/// # Errors
/// `Usage` where there is nobody to ask, or a config cannot be read; `Failed` where the answers cannot be stored.
pub(crate) fn complete(mut configs: Vec<PathBuf>, is_device: bool) -> Result<Vec<PathBuf>> {
    // Meltano writes the config that it passes anew for each run, so nothing would be kept there.
    let can_ask = io::stdin().is_terminal() && !is_under_meltano();
    if configs.is_empty() {
        let name = "config.json";
        if Path::new(name).exists() {
            let login = command(&[name.to_owned()], "login");
            return Err(Error::Usage(format!("login needs a config, and {name} is there already. Run: {login}")));
        }
        if !can_ask {
            return Err(Error::Usage(format!("login needs a config, or a terminal to ask at. {}", how_to_write(name))));
        }
        configs.push(name.into());
    }
    let Some((path, others)) = configs.split_last() else { return Ok(configs) };
    // A pipe can be read only once, and this is not the place.
    let is_pipe = |path: &PathBuf| path.exists() && !path.is_file();
    if !can_ask || path.as_os_str() == "ENV" || configs.iter().any(is_pipe) {
        return Ok(configs);
    }
    let is_new = !path.exists();
    let known = if is_new { others } else { &configs };
    if !known.is_empty() && sources(known)?.iter().any(|source| source.sets("client_id")) {
        return Ok(configs);
    }
    let name = path.display();
    let old = if is_new { "{}".to_owned() } else { read(path)? };
    let what = if is_new { "does not exist yet" } else { "names no application yet" };
    say(&format!("{name} {what}. Both answers stand on your application's page at developer.constantcontact.com."));
    let mut members = vec![("client_id", ask_key()?)];
    // Applications of the device type have none.
    if !is_device && let Some(secret) = ask_secret()? {
        members.push(("client_secret", secret));
    }
    if is_new {
        members.push(("token_file", token_file(path)?));
    }
    let members: Vec<(&str, &str)> = members.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let content =
        set_members(&old, &members).ok_or_else(|| Error::Usage(format!("{name}: a config must be one JSON object")))?;
    replace_file(&follow_links(path), &content).map_err(|e| Error::Failed(format!("{name} cannot be written: {e}")))?;
    say(&format!("Wrote {name}. Only you can read it.\n"));
    Ok(configs)
}

/// Where the tokens of a new config go: beside it, by an absolute path, since a scheduler may start the tap in any folder.
/// Two configs in one folder are two logins.
fn token_file(config: &Path) -> Result<String> {
    let stem = config.file_stem().unwrap_or_default().to_string_lossy();
    let name = if stem == "config" { "tokens.json".into() } else { format!("{stem}-tokens.json") };
    let path = std::path::absolute(config.with_file_name(name))
        .map_err(|e| Error::Failed(format!("the current folder cannot be found: {e}")))?;
    path.into_os_string().into_string().map_err(|path| {
        Error::Usage(format!("{} is not UTF-8 text; put the config into another folder", path.display()))
    })
}

fn ask_key() -> Result<String> {
    loop {
        say("API key:");
        let key = read_line()?;
        if !key.is_empty() && is_key(&key) {
            return Ok(key);
        }
        say("An API key consists of letters, digits and hyphens.");
    }
}

/// `None` for an application that has no secret.
fn ask_secret() -> Result<Option<String>> {
    let silence = Silence::of_stdin();
    let shown = if silence.is_some() { "it is not shown while you type" } else { "it is shown while you type" };
    say(&format!("Secret ({shown}; only press Enter for a PKCE application, which has none):"));
    Ok(Some(read_line()?).filter(|secret| !secret.is_empty()))
}

fn read_line() -> Result<String> {
    let mut line = String::new();
    match io::stdin().read_line(&mut line) {
        Ok(0) => Err(Error::Usage("login was given no answer, and has written nothing".into())),
        Ok(_) => Ok(line.trim().to_owned()),
        Err(e) => Err(Error::Failed(format!("cannot read the answer: {e}"))),
    }
}

/// While it lives, the terminal does not show what is typed.
struct Silence {
    #[cfg(unix)]
    before: rustix::termios::Termios,
}

#[cfg(unix)]
impl Silence {
    /// `None` where the terminal cannot be silenced.
    fn of_stdin() -> Option<Silence> {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let before = tcgetattr(io::stdin()).ok()?;
        let mut silent = before.clone();
        silent.local_modes -= LocalModes::ECHO;
        tcsetattr(io::stdin(), OptionalActions::Now, &silent).ok()?;
        Some(Silence { before })
    }
}

#[cfg(not(unix))]
impl Silence {
    fn of_stdin() -> Option<Silence> {
        None
    }
}

#[cfg(unix)]
impl Drop for Silence {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(io::stdin(), rustix::termios::OptionalActions::Now, &self.before);
    }
}
