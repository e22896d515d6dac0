//! `contact_lists`: `GET /contact_lists`, e-mail and SMS, active and deleted. The service has no date filter for it.

use std::collections::HashSet;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::page::{each_page, rows};
use super::{Found, Probe, Shared, Source};
use crate::client::{Client, Row};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::fanout::Step;
use crate::field::{Flag, Integer, Key, Text, Timestamp};
use crate::run::Run;
use crate::schema;
use crate::stream::{Needs, Stream};

const ENDPOINT: &str = "contact_lists";

pub(super) static SOURCE: Source = Source {
    stream: Stream {
        name: "contact_lists",
        keys: &["list_id"],
        replication_key: None,
        schema: schema::of::<ContactList>,
        needs: Needs { scopes: &["contact_data"], privileges: &["contacts:lists:read"] },
    },
    probe: Probe::Listing(count),
    // The e-mail lists and the SMS lists, at most a thousand together.
    cost: |_, _| Ok(2),
    read,
};

/// A list of contacts, active or deleted, for e-mail or for text messages.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(crate) struct ContactList {
    /// Unique id of the list.
    pub(crate) list_id: Key,
    /// Name of the list.
    #[serde(default)]
    pub(crate) name: Text,
    /// Text that describes the list.
    #[serde(default)]
    pub(crate) description: Text,
    /// Whether the account marked the list as a favorite.
    #[serde(default)]
    pub(crate) favorite: Flag,
    /// When the list was created.
    #[serde(default)]
    pub(crate) created_at: Timestamp,
    /// When the list was last updated.
    #[serde(default)]
    pub(crate) updated_at: Timestamp,
    /// For a deleted list, when it was deleted.
    #[serde(default)]
    pub(crate) deleted_at: Timestamp,
    /// Number of contacts on the list. Segments have none.
    #[serde(default)]
    pub(crate) membership_count: Integer,
    /// The listing the row came from: `email` or `sms`. Filled in by the tap.
    #[serde(default)]
    pub(crate) channel_type: Text,
}

impl Row for ContactList {
    const ROWS: &'static str = "lists";
    const IS_WHOLE: bool = true;
}

fn count(client: &Arc<Client>, _: &Config, found: &mut Found) -> Result<()> {
    let query = [("status", "all"), ("include_count", "true"), ("limit", "1")];
    found.lists = client.first::<ContactList>(ENDPOINT, "/contact_lists", &query, 0)?.count;
    Ok(())
}

fn read(run: &mut Run, _: &mut Shared) -> Result<()> {
    let stream = &SOURCE.stream;
    let mut seen = HashSet::new();
    let mut has_sms = false;
    let limit = run.config.page_size.to_string();
    // SMS lists are a listing of their own: without channel_type=sms they stay unseen.
    let listing = move |client: &Arc<Client>, channel: &&str, priority| {
        let mut query =
            vec![("status", "all"), ("include_membership_count", "all"), ("channel_type", *channel), ("limit", &limit)];
        // Members of SMS lists are counted by this parameter alone, which means nothing to the other listing.
        if *channel == "sms" {
            query.push(("include_sms_membership_count", "true"));
        }
        client.pages::<ContactList>(ENDPOINT, "/contact_lists", &query, priority)
    };
    each_page(run.client, vec!["email", "sms"], listing, |channel, step| match step {
        Step::Item(mut page) => {
            has_sms |= *channel == "sms";
            for mut list in rows(run, stream, &mut page) {
                if seen.insert(list.list_id.as_str().to_owned()) {
                    list.channel_type = Text::from(*channel);
                    run.emit(stream, &list, &page.extracted)?;
                }
            }
            Ok(())
        }
        Step::End(Err(e @ (Error::Forbidden(_) | Error::Refused(_) | Error::NotFound(_))))
            if *channel == "sms" && !has_sms =>
        {
            log::warn!(
                "contact_lists: the service does not list SMS lists for this account ({e}); e-mail lists are complete"
            );
            Ok(())
        }
        Step::End(outcome) => outcome,
    })?;
    run.check_oddities(stream)
}
