//! `--test`: what this login may read, what not and why, and what a full read would cost. Writes no message.

use std::sync::Arc;

use crate::auth::Scopes;
use crate::catalog::Catalog;
use crate::cli::Format;
use crate::client::Client;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::logger::say;
use crate::messages::{Messages, Output};
use crate::progress::Progress;
use crate::run::Run;
use crate::state::State;
use crate::stream::Needs;
use crate::streams::{self, ALL, Found, Probe, Shared, Source};

/// What is known of the grant.
struct Grant {
    /// Unknown where only an access token was given, or the server did not tell.
    scopes: Scopes,
    /// Unknown where the service refuses to tell.
    privileges: Option<Vec<String>>,
}

/// Tries everything once, and reports to stderr.
///
/// # Errors
/// `Forbidden` when a selected stream is refused; else what ended the attempt.
pub(crate) fn test(config: &Config, client: &Arc<Client>, catalog: &Catalog, _format: Format) -> Result<()> {
    let proven = client.prove()?;
    let renewed = proven.is_some();
    let privileges = match client.privileges() {
        Ok(privileges) => Some(privileges),
        Err(Error::Forbidden(_)) => None,
        Err(e) => return Err(e),
    };
    let grant = Grant { scopes: proven.flatten(), privileges };
    say(if renewed {
        "Login:   works, and was renewed"
    } else {
        "Login:   works until the access token ends; there is no refresh token"
    });
    say(&match &grant.scopes {
        Some(scopes) => format!("Scopes:  {}", scopes.join(", ")),
        None => "Scopes:  not told".to_owned(),
    });

    let mut found = Found { contact: config.contact_ids.first().cloned(), ..Found::default() };
    let (mut readable, mut refused) = (Vec::<&'static Source>::new(), Vec::<&'static Source>::new());
    let mut lines = Vec::new();
    for source in ALL {
        let stream = &source.stream;
        let selected = catalog.get(stream.name).is_some();
        let tried = match (&source.probe, &found.contact) {
            // The size of the account is told whatever is selected.
            (Probe::Listing(count), _) => count(client, config, &mut found).map(|()| "may be read"),
            (Probe::OfContact(_), _) if !selected => continue,
            (Probe::OfContact(ask), Some(id)) => match ask(client, config, id) {
                Err(Error::NotFound(_)) => Ok("may be read"),
                other => other.map(|()| "may be read"),
            },
            (Probe::OfContact(_), None) if found.contacts.is_none() => {
                Err(Error::Forbidden("its contacts may not be listed".into()))
            }
            (Probe::OfContact(_), None) => Ok("may be read as far as is known: there is no contact to try it on"),
        };
        let (list, line) = match tried {
            Ok(line) => (&mut readable, line.to_owned()),
            Err(Error::Forbidden(why)) => (&mut refused, format!("refused ({why}): {}", grant.lacks(&stream.needs))),
            Err(e) => return Err(e.context(stream.name)),
        };
        if selected {
            list.push(source);
            lines.push(format!("    {:<26}{line}", stream.name));
        }
    }
    say(&format!("Account: {}", account(&found)));
    say(&format!("Streams:\n{}", lines.join("\n")));
    if !readable.is_empty() {
        // What was learnt above is left out, so that the plan counts what a run would.
        let selected: Vec<_> = readable.iter().map(|source| &source.stream).collect();
        let progress = Progress::hidden(client.call_count(), config.requests_per_second);
        let messages = Messages::new(Output::Other(Box::new(std::io::sink())));
        let mut run = Run::new(config, client, catalog, &messages, &progress, State::new(&selected));
        let cost = streams::plan(&mut run, &mut Shared::default(), &readable)?;
        say(&format!("A full read of what may be read: {cost}"));
    }
    if refused.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = refused.iter().map(|source| source.stream.name).collect();
    Err(Error::Forbidden(format!("this login may not read {}", names.join(", "))))
}

fn account(size: &Found) -> String {
    let counts = [("contacts", size.contacts), ("e-mail lists", size.lists), ("campaigns", size.campaigns)];
    let counts =
        counts.map(|(what, count)| count.map_or(format!("{what} not told"), |count| format!("{count} {what}")));
    counts.join(", ")
}

impl Grant {
    /// Which of the three causes that share one answer it is, as far as can be told.
    fn lacks(&self, needs: &Needs) -> String {
        if let Some(granted) = &self.scopes {
            let missing = lacking(needs.scopes, granted);
            if !missing.is_empty() {
                return format!("the scope {} was not granted; log in again and allow it", missing.join(" and "));
            }
        }
        let Some(privileges) = &self.privileges else {
            return "not even the privileges may be read; the application is deactivated".into();
        };
        let missing = lacking(needs.privileges, privileges);
        if !missing.is_empty() {
            return format!(
                "the user who logged in lacks the privilege {}; log in as one who has it, such as the account's owner",
                missing.join(" and ")
            );
        }
        if self.scopes.is_none() {
            return format!("the scope {} is missing, or the application deactivated", needs.scopes.join(" or "));
        }
        "scope and privileges are there; the application may have been deactivated".into()
    }
}

fn lacking(needed: &[&'static str], there: &[String]) -> Vec<&'static str> {
    needed.iter().copied().filter(|needed| !there.iter().any(|one| one == needed)).collect()
}
