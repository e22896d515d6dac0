//! `contact_lists`: `GET /contact_lists`, e-mail and SMS, active and deleted. The service has no date filter for it.

use std::borrow::Cow;
use std::collections::HashSet;

use serde::Deserialize;

use super::records::ContactList;
use super::{Stream, parse};
use crate::error::{Error, Result};
use crate::field::Text;
use crate::schema;
use crate::sync::Run;

pub(super) static STREAM: Stream = Stream {
    name: "contact_lists",
    keys: &["list_id"],
    replication_key: None,
    schema: schema::of::<ContactList>,
    needs: "the scope contact_data and the user privilege contacts:lists:read",
    read,
};

#[derive(Deserialize)]
struct Rows<'a> {
    #[serde(default, borrow)]
    lists: Vec<ContactList<'a>>,
}

fn read(run: &mut Run) -> Result<()> {
    let mut seen = HashSet::new();
    // SMS lists are a listing of their own: without channel_type=sms they stay unseen.
    for channel in ["email", "sms"] {
        match read_channel(run, channel, &mut seen) {
            Err(e @ (Error::Forbidden(_) | Error::Refused(_) | Error::NotFound(_))) if channel == "sms" => {
                log::warn!(
                    "contact_lists: the service does not list SMS lists for this account ({e}); e-mail lists are complete"
                );
            }
            other => other?,
        }
    }
    Ok(())
}

fn read_channel(run: &mut Run, channel: &'static str, seen: &mut HashSet<String>) -> Result<()> {
    let limit = run.config.page_size.to_string();
    let query = [("status", "all"), ("include_membership_count", "all"), ("channel_type", channel), ("limit", &limit)];
    for page in run.client.pages("contact_lists", "/contact_lists", &query) {
        let page = page?;
        for mut list in parse::<Rows>(&STREAM, &page)?.lists {
            if seen.insert(list.list_id.as_str().to_owned()) {
                list.channel_type = Text(Some(Cow::Borrowed(channel)));
                run.emit(&list, &page)?;
            }
        }
    }
    Ok(())
}
