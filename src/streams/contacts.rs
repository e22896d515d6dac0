//! `contacts`: `GET /contacts`. Unsubscribing does not move a contact's `updated_at`, hence two passes.

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;

use super::email_campaigns::parse_plain;
use super::records::Contact;
use super::{Stream, parse};
use crate::error::Result;
use crate::schema;
use crate::sync::{Run, asked_from, in_extra_second};

/// Changes may show up this much after the moment that dates them.
const OVERLAP: TimeDelta = TimeDelta::minutes(5);

/// How often a listing whose rows slip between pages is read at most.
const PASSES: u32 = 3;

pub(super) static STREAM: Stream = Stream {
    name: "contacts",
    keys: &["contact_id"],
    replication_key: Some("updated_at"),
    schema: schema::of::<Contact>,
    needs: "the scope contact_data and the user privilege contacts:read",
    read,
};

#[derive(Deserialize)]
struct Rows<'a> {
    #[serde(default, borrow)]
    contacts: Vec<Contact<'a>>,
    #[serde(default)]
    contacts_count: Option<u64>,
}

fn read(run: &mut Run) -> Result<()> {
    let start = run.client.run_start()?;
    let mut since = run.since(&STREAM, start);
    let full = run.contacts_are_due(start);
    if full {
        since = run.beginning(start);
    }
    let status = run.config.contact_status.join(",");
    let include = run.config.subresources.join(",");
    let limit = run.config.page_size.to_string();
    let mut query = vec![("status", status.as_str()), ("limit", &limit), ("include_count", "true")];
    if !include.is_empty() {
        query.push(("include", &include));
    }
    let mut seen = HashSet::new();
    match since {
        None => pass(run, &query, None, &mut seen)?,
        Some(bound) => {
            let from = asked_from(bound);
            for filter in ["updated_after", "optout_after"] {
                let query: Vec<_> = query.iter().copied().chain([(filter, from.as_str())]).collect();
                pass(run, &query, Some((filter, bound)), &mut seen)?;
            }
        }
    }
    run.complete(&STREAM, start, OVERLAP);
    if full {
        run.contacts_were_complete();
    }
    Ok(())
}

/// One listing, read again while the service counts more contacts than came.
fn pass(
    run: &mut Run,
    query: &[(&str, &str)],
    bound: Option<(&str, DateTime<Utc>)>,
    written: &mut HashSet<String>,
) -> Result<()> {
    for attempt in 1.. {
        // The cursor is a page number over a moving set: a row that leaves it moves all later ones up by a place.
        let mut met = HashSet::new();
        let mut count = 0;
        for page in run.client.pages("contacts", "/contacts", query) {
            let page = page?;
            let rows: Rows = parse(&STREAM, &page)?;
            count = count.max(rows.contacts_count.unwrap_or(0));
            for contact in rows.contacts {
                let id = contact.contact_id.as_str().to_owned();
                let dated = match bound {
                    Some(("optout_after", _)) => contact.email_address.as_ref().and_then(|e| e.opt_out_date.instant()),
                    _ => contact.updated_at.instant(),
                };
                met.insert(id.clone());
                if !in_extra_second(dated, bound.map(|(_, at)| at)) && written.insert(id) {
                    run.emit(&contact, &page)?;
                }
            }
        }
        let missing = count.saturating_sub(met.len() as u64);
        if missing == 0 {
            return Ok(());
        }
        if attempt == PASSES {
            log::warn!(
                "contacts: {missing} of {count} contacts slipped between pages in each of {PASSES} reads; the account \
                 changes while it is read. The next complete read will bring them"
            );
            return Ok(());
        }
        log::info!("contacts: {missing} of {count} contacts slipped between pages; reading again");
    }
    Ok(())
}

/// The ids of the contacts that the reports are read for, in order.
pub(super) fn ids(run: &Run) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Rows {
        #[serde(default)]
        contacts: Vec<Row>,
        #[serde(default)]
        contacts_count: Option<usize>,
    }
    #[derive(Deserialize)]
    struct Row {
        contact_id: String,
    }
    let status = run.config.contact_status.join(",");
    let limit = run.config.page_size.to_string();
    let query = [("status", status.as_str()), ("limit", &limit), ("include_count", "true")];
    let mut ids = HashSet::new();
    for _ in 0..PASSES {
        let mut met = HashSet::new();
        let mut count = 0;
        for page in run.client.pages("contacts", "/contacts", &query) {
            let rows: Rows = parse_plain(&page?.text)?;
            count = count.max(rows.contacts_count.unwrap_or(0));
            met.extend(rows.contacts.into_iter().map(|row| row.contact_id).filter(|id| !id.is_empty()));
        }
        let complete = met.len() >= count;
        ids.extend(met);
        if complete {
            break;
        }
    }
    let mut ids: Vec<_> = ids.into_iter().collect();
    ids.sort_unstable();
    Ok(ids)
}
