//! `contact_lists`: `GET /contact_lists`, e-mail and SMS, active and deleted. The service has no date filter for it.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, LazyLock};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::page::{Coverage, every_row};
use super::seen::{Seen, Sighting};
use super::{Names, Probe, Probed, Shared, Source};
use crate::client::{Client, Page, Row};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::extent::Filter;
use crate::field::{Flag, Integer, Key, Text, Timestamp};
use crate::id::Id;
use crate::run::Run;
use crate::schema;
use crate::state::KnownList;
use crate::stream::{Needs, Stream};

const ENDPOINT: &str = "contact_lists";

pub(super) const NEEDS: Needs = Needs { scopes: &["contact_data"], privileges: &["contacts:lists:read"] };

pub(super) static SOURCE: Source = Source {
    stream: Stream {
        name: "contact_lists",
        keys: &["list_id"],
        replication_key: None,
        schema: LazyLock::new(schema::of::<ContactList>),
        needs: NEEDS,
        narrowed_by: |_| Filter::default(),
        bookmark_keys: &[],
        only_by_campaign: &[],
        field_needs: &[],
    },
    probe: Probe::Listing("e-mail lists", count),
    // One call for the SMS lists. The e-mail lists are counted as the first call of every run.
    cost: |_, _| Ok(1),
    read,
};

/// A list of contacts, active or deleted, for e-mail or for text messages.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(crate) struct ContactList {
    /// Unique id of the list.
    pub(crate) list_id: Key,
    /// Name of the list.
    pub(crate) name: Text,
    /// Text that describes the list.
    pub(crate) description: Text,
    /// Whether the account marked the list as a favorite.
    pub(crate) favorite: Flag,
    /// When the list was created.
    pub(crate) created_at: Timestamp,
    /// When the list was last updated.
    pub(crate) updated_at: Timestamp,
    /// For a deleted list, when it was deleted.
    pub(crate) deleted_at: Timestamp,
    /// Number of contacts on the list. Segments have none.
    pub(crate) membership_count: Integer,
    /// The listing the row came from: `email` or `sms`. Filled in by the tap.
    pub(crate) channel_type: Text,
}

impl Row for ContactList {
    const ROWS: &'static str = "lists";
    const IS_WHOLE: bool = true;
}

fn count(client: &Arc<Client>, _: &Config, _: &mut Probed) -> Result<Option<u64>> {
    let query = [("status", "all"), ("include_count", "true"), ("limit", "1")];
    Ok(client.first::<ContactList>(ENDPOINT, "/contact_lists", &query, 0)?.count)
}

/// The lists of the account, read once per run. SMS lists have a listing of their own: only `channel_type=sms` returns
/// them.
#[derive(Default)]
pub(crate) struct Lists {
    email: Option<ChannelListing>,
    sms: Option<ChannelListing>,
}

/// The pages of one listing, and the outcome of reading it.
pub(super) struct ChannelListing {
    channel: &'static str,
    pages: Vec<Page<ContactList>>,
    end: Result<()>,
}

impl Lists {
    /// The listing of the e-mail lists.
    pub(super) fn email(&mut self, client: &Arc<Client>, config: &Config) -> &ChannelListing {
        self.email.get_or_insert_with(|| ChannelListing::read(client, config, "email"))
    }

    /// The listing of the SMS lists, which not every account may read.
    pub(super) fn sms(&mut self, client: &Arc<Client>, config: &Config) -> &ChannelListing {
        self.sms.get_or_insert_with(|| ChannelListing::read(client, config, "sms"))
    }

    /// The e-mail lists, by which the state recognizes its account; empty if they cannot be read, which is
    /// logged if the state names an account.
    ///
    /// # Errors
    /// What would end any other call as well, such as bad credentials.
    pub(crate) fn of_account(
        &mut self,
        client: &Arc<Client>,
        config: &Config,
        is_compared: bool,
    ) -> Result<Vec<KnownList<'_>>> {
        let listing = self.email(client, config);
        match &listing.end {
            Ok(()) => {
                let lists = listing.lists();
                Ok(lists
                    .map(|list| KnownList { created_at: list.created_at.instant(), id: list.list_id.as_str() })
                    .collect())
            }
            Err(e @ Error::Failed(_)) if !client.was_reached() => Err(e.clone()),
            Err(Error::Forbidden(why) | Error::Refused(why) | Error::NotFound(why) | Error::Failed(why)) => {
                if is_compared {
                    log::info!(
                        "the lists cannot be read ({why}), so the account is not compared with that of the state"
                    );
                }
                Ok(Vec::new())
            }
            Err(e) => Err(e.clone()),
        }
    }

    /// The names of all lists by id, for a stream.
    pub(super) fn names(&mut self, client: &Arc<Client>, config: &Config, stream: &Stream) -> Result<Names> {
        self.email(client, config).end.clone()?;
        self.sms(client, config)
            .tolerate_end(stream, "list_names has the ids of SMS lists, since the service does not list them")?;
        let lists = self.email.iter().chain(&self.sms).flat_map(ChannelListing::lists);
        Ok(lists.map(|list| (list.list_id.as_str(), &list.name)).collect())
    }
}

impl ChannelListing {
    fn read(client: &Arc<Client>, config: &Config, channel: &'static str) -> ChannelListing {
        let limit = config.page_size.to_string();
        let pages = move |client: &Arc<Client>, channel: &&'static str, priority| {
            let mut query = vec![
                ("status", "all"),
                ("include_membership_count", "all"),
                ("channel_type", *channel),
                ("limit", &limit),
            ];
            // Only this parameter makes the service count the members of SMS lists.
            if *channel == "sms" {
                query.push(("include_sms_membership_count", "true"));
            }
            client.pages::<ContactList>(ENDPOINT, "/contact_lists", &query, priority)
        };
        let mut read = Vec::new();
        let outcome = every_row(client, "lists", vec![channel], pages, &mut Seen::default(), |_, page, seen| {
            for list in &page.rows {
                let (created_at, updated_at) = (list.created_at.instant(), list.updated_at.instant());
                seen.insert(Sighting {
                    id: Id::from(list.list_id.as_str()),
                    entered_at: created_at,
                    changed_at: created_at.max(updated_at),
                    is_wanted: true,
                });
            }
            read.push(page);
            Ok(())
        });
        let end = outcome.map(|coverage| {
            if let Coverage::MayLackRows(why) = coverage {
                log::warn!("contact_lists: {why}. Lists may be missing; the next run lists them again");
            }
        });
        ChannelListing { channel, pages: read, end }
    }

    pub(super) fn lists(&self) -> impl Iterator<Item = &ContactList> {
        self.pages.iter().flat_map(|page| &page.rows)
    }

    /// Warns if the listing failed, and says what that means for a stream.
    ///
    /// # Errors
    /// What would end any other call as well, such as bad credentials.
    fn tolerate_end(&self, stream: &Stream, missing: &str) -> Result<()> {
        match &self.end {
            Err(Error::Forbidden(why) | Error::Refused(why) | Error::NotFound(why) | Error::Failed(why)) => {
                log::warn!("{}: {missing} ({why})", stream.name);
                Ok(())
            }
            end => end.clone(),
        }
    }

    fn write(&self, run: &mut Run, seen: &mut HashSet<String>) -> Result<()> {
        let stream = &SOURCE.stream;
        // If the listing repeats a row, the last one is the newest.
        let mut newest = BTreeMap::new();
        for page in &self.pages {
            run.odd_rows.note(stream, page.rows.len(), &page.oddities);
            newest.extend(page.rows.iter().map(|list| (list.list_id.as_str(), (list, &page.extracted))));
        }
        for (id, (list, extracted)) in newest {
            if seen.insert(id.to_owned()) {
                let list = ContactList { channel_type: Text::from(self.channel), ..list.clone() };
                run.emit(stream, &list, extracted)?;
            }
        }
        Ok(())
    }
}

fn read(run: &mut Run, shared: &mut Shared) -> Result<()> {
    let mut seen = HashSet::new();
    let email = shared.lists.email(run.client, run.config);
    email.write(run, &mut seen)?;
    email.end.clone()?;
    let sms = shared.lists.sms(run.client, run.config);
    sms.write(run, &mut seen)?;
    sms.tolerate_end(&SOURCE.stream, "SMS lists may be missing, since the service does not list them")?;
    run.odd_rows.check(&SOURCE.stream)
}
