//! `--test`: tries everything once and reports what this login may read, what not and why, and what a full sync costs.
//! Writes no Singer message.

mod report;

use std::sync::Arc;

use crate::auth::Scopes;
use crate::catalog::{Catalog, Selected};
use crate::cli::Format;
use crate::client::{AccountIdentity, Client};
use crate::config::{Config, Route};
use crate::error::{Error, Result};
use crate::logger::say;
use crate::messages::Messages;
use crate::progress::Progress;
use crate::quota::DAILY_QUOTA;
use crate::run::Run;
use crate::state::State;
use crate::stream::{Needs, Stream};
use crate::streams::{self, ALL, CAMPAIGNS, Probe, Probed, Shared, Source};
use report::{Account, FullSync, Login, Report, Size, StreamReport, Verdict};

/// What the login is allowed to do.
struct Grant {
    /// `None` if only an access token was given, or the server did not name them.
    scopes: Scopes,
    /// `None` if the service refuses to name them.
    privileges: Option<Vec<String>>,
}

/// A stream that the service refuses.
struct Refused {
    stream: &'static str,
    needs: &'static Needs,
    /// In words, with what to do.
    why: String,
}

/// Tries everything once. The report goes to stderr as text, and to stdout as JSON.
///
/// # Errors
/// `Forbidden` when a selected stream is refused; else what ended the attempt.
pub(crate) fn test(
    config: &Config,
    client: &Arc<Client>,
    catalog: &Catalog,
    format: Format,
    messages: &Messages,
) -> Result<()> {
    let report = examine(config, client, catalog)?;
    match format {
        Format::Json => messages.answer(report.json().as_bytes())?,
        _ => say(&report.text()),
    }
    let refused = report.refused();
    if refused.is_empty() {
        return Ok(());
    }
    Err(Error::Forbidden(format!("this login may not read {}", refused.join(", "))))
}

fn examine(config: &Config, client: &Arc<Client>, catalog: &Catalog) -> Result<Report> {
    let proven = client.auth.prove()?;
    let is_renewed = proven.is_some();
    let privileges = match client.privileges() {
        Ok(privileges) => Some(privileges),
        Err(Error::Forbidden(_)) => None,
        Err(e) => return Err(e),
    };
    let grant = Grant { scopes: proven.flatten(), privileges };
    let identity = grant.identity(client)?;
    let tried = Tried::by(config, client, catalog, &grant)?;
    let streams = tried.streams(catalog, &grant);
    let mut readable = tried.readable;
    readable.retain(|source| catalog.get(source.stream.name).is_some());
    let scopes = grant.scopes.map(|scopes| scopes.iter().map(|scope| client.without_secrets(scope)).collect());
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        login: Login { is_renewed, scopes, privileges: grant.privileges },
        account: Account {
            organization_name: identity.organization_name,
            encoded_account_id: identity.encoded_account_id,
            sizes: tried.sizes,
        },
        streams,
        full_sync: if readable.is_empty() { None } else { Some(full_sync(config, client, catalog, &readable)?) },
    })
}

/// What a cheap call for each stream has shown.
#[derive(Default)]
struct Tried {
    sizes: Vec<Size>,
    readable: Vec<&'static Source>,
    refused: Vec<Refused>,
    /// Streams that are taken to be readable: there is no contact to try them on.
    untried: Vec<&'static str>,
}

impl Tried {
    fn by(config: &Config, client: &Arc<Client>, catalog: &Catalog, grant: &Grant) -> Result<Tried> {
        let mut tried = Tried::default();
        let mut probed = Probed { contact: config.contact_ids.first().cloned(), ..Probed::default() };
        for source in ALL {
            let stream = &source.stream;
            let by_campaign = stream.has_routes() && config.activity_route.fixed() == Some(Route::Campaigns);
            let lacks_campaigns = by_campaign && tried.refused.iter().any(|refused| refused.stream == CAMPAIGNS.name);
            let outcome = match source.probe {
                // Listings are counted even if they are not selected, to report the size of the account.
                Probe::Listing(rows, count) => {
                    let count = count(client, config, &mut probed);
                    tried.sizes.push(Size { rows, count: count.as_ref().ok().copied().flatten() });
                    count.map(|_| ())
                }
                Probe::OfContact(_) if catalog.get(stream.name).is_none() => continue,
                Probe::OfContact(_) if lacks_campaigns => {
                    Err(Error::Forbidden("activity_route is \"campaigns\", and they cannot be listed".into()))
                }
                Probe::OfContact(ask) => match &probed.contact {
                    Some(id) => match ask(client, config, id) {
                        Err(Error::NotFound(_)) => Ok(()),
                        other => other,
                    },
                    None if probed.can_list_contacts => {
                        tried.untried.push(stream.name);
                        Ok(())
                    }
                    None => Err(Error::Forbidden("the contacts cannot be listed".into())),
                },
            };
            match outcome {
                Ok(()) => tried.readable.push(source),
                Err(Error::Forbidden(why)) => {
                    let needs = if lacks_campaigns { &CAMPAIGNS.needs } else { &stream.needs };
                    let why = format!("{} ({why})", grant.lacks(needs));
                    tried.refused.push(Refused { stream: stream.name, needs: &stream.needs, why });
                }
                Err(e) => return Err(e.context(stream.name)),
            }
        }
        Ok(tried)
    }

    /// What the report says of the selected streams.
    fn streams(&self, catalog: &Catalog, grant: &Grant) -> Vec<StreamReport> {
        let report = |stream: &'static Stream| {
            let selected = catalog.get(stream.name)?;
            let refused = self.refused.iter().find(|refused| refused.stream == stream.name);
            let (verdict, why, null_fields) = if let Some(refused) = refused {
                (Verdict::Refused, Some(refused.why.clone()), Vec::new())
            } else {
                let (null_fields, why) = grant.null_fields(stream, selected, &self.refused);
                let is_untried = self.untried.contains(&stream.name);
                (if is_untried { Verdict::Untried } else { Verdict::MayBeRead }, why, null_fields)
            };
            Some(StreamReport { stream: stream.name, verdict, why, null_fields })
        };
        streams::all().filter_map(report).collect()
    }
}

/// The plan of a run that starts from nothing, so that it counts the calls that such a run makes.
fn full_sync(
    config: &Config,
    client: &Arc<Client>,
    catalog: &Catalog,
    readable: &[&'static Source],
) -> Result<FullSync> {
    let selected: Vec<_> = readable.iter().map(|source| &source.stream).collect();
    let progress = Progress::hidden(client.call_count(), config.requests_per_second);
    let messages = Messages::new(std::io::sink());
    // A sync goes on without the streams that are refused, so they are no part of the plan.
    let catalog = catalog.of(&selected.iter().map(|stream| stream.name).collect::<Vec<_>>());
    let mut run = Run::new(config, client, &catalog, &messages, &progress, State::new(&selected));
    let plan = streams::plan(&mut run, &mut Shared::default(), readable).map_err(|(_, e)| e)?;
    Ok(FullSync {
        calls: plan.calls,
        seconds: plan.time().as_secs(),
        days: plan.days(),
        daily_quota: DAILY_QUOTA,
        text: plan.to_string(),
    })
}

impl Grant {
    /// Which account it is; nothing where the login may not know.
    fn identity(&self, client: &Client) -> Result<AccountIdentity> {
        if self.scopes.as_ref().is_some_and(|granted| !granted.iter().any(|scope| scope == "account_read")) {
            return Ok(AccountIdentity::default());
        }
        match client.account() {
            Err(e) if e.is_refusal() => Ok(AccountIdentity::default()),
            outcome => outcome,
        }
    }

    /// The selected fields of a readable stream that stay null because something else is refused, and why that is.
    fn null_fields(
        &self,
        stream: &Stream,
        selected: &Selected,
        refused: &[Refused],
    ) -> (Vec<&'static str>, Option<String>) {
        let (mut fields, mut why) = (Vec::new(), None);
        for group in stream.field_needs.iter().filter(|group| self.is_lacking(group.needs, refused)) {
            let wanted = group.fields.iter().copied().filter(|field| selected.mask.wants(&[field]));
            let before = fields.len();
            fields.extend(wanted);
            if fields.len() > before {
                why.get_or_insert_with(|| self.lacks(group.needs));
            }
        }
        (fields, why)
    }

    /// Whether something is missing, as far as is known: scopes that nobody named show in what else is refused.
    fn is_lacking(&self, needs: &Needs, refused: &[Refused]) -> bool {
        let has_scopes = match &self.scopes {
            Some(granted) => lacking(needs.scopes, granted).is_empty(),
            None => !refused.iter().any(|refused| refused.needs.scopes == needs.scopes),
        };
        let has_privileges = self.privileges.as_ref().is_none_or(|had| lacking(needs.privileges, had).is_empty());
        !has_scopes || !has_privileges || refused.iter().any(|refused| refused.needs == needs)
    }

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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn the_schema_checked_in_is_that_of_the_report() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/test.json");
        let schema = format!("{:#}\n", schemars::schema_for!(Report).to_value());
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, &schema).unwrap();
        }
        assert_eq!(
            fs::read_to_string(&path).unwrap_or_default(),
            schema,
            "schemas/test.json is stale: run with UPDATE=1"
        );
    }
}
