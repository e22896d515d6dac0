//! `--test`: reports what this login may read, what not and why, and what a full sync costs. Writes no Singer message.

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
use crate::streams::{self, ALL, Probe, Probed, Shared, Source};

/// What the login is allowed to do.
struct Grant {
    /// `None` if only an access token was given, or the server did not name them.
    scopes: Scopes,
    /// `None` if the service refuses to name them.
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
        None => "Scopes:  unknown".to_owned(),
    });

    let mut found = Probed { contact: config.contact_ids.first().cloned(), ..Probed::default() };
    let mut sizes = Vec::new();
    let (mut readable, mut refused) = (Vec::<&'static Source>::new(), Vec::<&'static Source>::new());
    let mut lines = Vec::new();
    for source in ALL {
        let stream = &source.stream;
        let selected = catalog.get(stream.name).is_some();
        let tried = match (&source.probe, &found.contact) {
            // Listings are counted even if they are not selected, to report the size of the account.
            (Probe::Listing(rows, count), _) => {
                let count = count(client, config, &mut found);
                sizes.push(match count {
                    Ok(Some(count)) => format!("{count} {rows}"),
                    _ => format!("{rows} unknown"),
                });
                count.map(|_| "may be read")
            }
            (Probe::OfContact(_), _) if !selected => continue,
            (Probe::OfContact(ask), Some(id)) => match ask(client, config, id) {
                Err(Error::NotFound(_)) => Ok("may be read"),
                other => other.map(|()| "may be read"),
            },
            (Probe::OfContact(_), None) if !found.can_list_contacts => {
                Err(Error::Forbidden("the contacts cannot be listed".into()))
            }
            (Probe::OfContact(_), None) => Ok("may be read, probably: there is no contact to try it on"),
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
    say(&format!("Account: {}", sizes.join(", ")));
    say(&format!("Streams:\n{}", lines.join("\n")));
    if !readable.is_empty() {
        // The plan starts from nothing, so that it counts the calls of a run.
        let selected: Vec<_> = readable.iter().map(|source| &source.stream).collect();
        let progress = Progress::hidden(client.call_count(), config.requests_per_second);
        let messages = Messages::new(Output::Other(Box::new(std::io::sink())));
        let mut run = Run::new(config, client, catalog, &messages, &progress, State::new(&selected));
        let cost = streams::plan(&mut run, &mut Shared::default(), &readable)?;
        say(&format!("Estimated full sync: {cost}"));
    }
    if refused.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = refused.iter().map(|source| source.stream.name).collect();
    Err(Error::Forbidden(format!("this login may not read {}", names.join(", "))))
}

impl Grant {
    /// Why the service answered 403: scope, privilege or application, as far as that is known.
    fn lacks(&self, needs: &Needs) -> String {
        if let Some(granted) = &self.scopes {
            let missing = lacking(needs.scopes, granted);
            if !missing.is_empty() {
                return format!("the scope {} was not granted; log in again and allow it", missing.join(" and "));
            }
        }
        let Some(privileges) = &self.privileges else {
            return "the service refuses even the list of privileges, so the application is deactivated".into();
        };
        let missing = lacking(needs.privileges, privileges);
        if !missing.is_empty() {
            return format!(
                "the user who logged in lacks the privilege {}; log in as one who has it, such as the account's owner",
                missing.join(" and ")
            );
        }
        if self.scopes.is_none() {
            return format!("the scope {} is missing, or the application is deactivated", needs.scopes.join(" or "));
        }
        "scopes and privileges are there, so the application may be deactivated".into()
    }
}

fn lacking(needed: &[&'static str], there: &[String]) -> Vec<&'static str> {
    needed.iter().copied().filter(|needed| !there.iter().any(|one| one == needed)).collect()
}
