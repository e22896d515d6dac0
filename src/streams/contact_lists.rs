//! `contact_lists`: `GET /contact_lists`, e-mail and SMS, active and deleted. The service has no date filter for it.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use serde::Deserialize;

use super::records::ContactList;
use super::{Found, Needs, Probe, Stream, each_page, parse, parse_plain, rows};
use crate::client::{Client, Resource};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::fanout::Step;
use crate::field::Text;
use crate::schema;
use crate::sync::Run;

const LISTS: Resource = Resource::listing("contact_lists", "lists");

pub(super) static STREAM: Stream = Stream {
    name: "contact_lists",
    keys: &["list_id"],
    replication_key: None,
    schema: schema::of::<ContactList>,
    needs: Needs { scopes: &["contact_data"], privileges: &["contacts:lists:read"] },
    probe: Probe::Listing(count),
    read,
};

#[derive(Deserialize)]
struct Rows<'a> {
    #[serde(default, borrow, deserialize_with = "rows")]
    lists: Vec<ContactList<'a>>,
}

fn count(client: &Arc<Client>, _: &Config, found: &mut Found) -> Result<()> {
    #[derive(Deserialize)]
    struct Count {
        lists_count: Option<u64>,
    }
    let query = [("status", "all"), ("include_count", "true"), ("limit", "1")];
    let page = client.first(LISTS, "/contact_lists", &query)?;
    found.lists = parse_plain::<Count>(&page.text)?.lists_count;
    Ok(())
}

fn read(run: &mut Run) -> Result<()> {
    let mut seen = HashSet::new();
    let mut has_sms = false;
    let limit = run.config.page_size.to_string();
    // SMS lists are a listing of their own: without channel_type=sms they stay unseen.
    let listing = move |client: &Arc<Client>, channel: &&str| {
        let mut query =
            vec![("status", "all"), ("include_membership_count", "all"), ("channel_type", *channel), ("limit", &limit)];
        // Their members are counted by a parameter of its own, which means nothing to the other listing.
        if *channel == "sms" {
            query.push(("include_sms_membership_count", "true"));
        }
        client.pages(LISTS, "/contact_lists", &query)
    };
    each_page(run.client, vec!["email", "sms"], listing, |channel, step| match step {
        Step::Item(page) => {
            has_sms |= *channel == "sms";
            for mut list in parse::<Rows>(&STREAM, &page)?.lists {
                if seen.insert(list.list_id.as_str().to_owned()) {
                    list.channel_type = Text(Some(Cow::Borrowed(channel)));
                    run.emit(&STREAM, &list, &page.extracted)?;
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
    })
}
