//! `contacts`: `GET /contacts`. Unsubscribing does not move a contact's `updated_at`, hence two passes.

mod record;

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use schemars::JsonSchema;
use serde::Deserialize;

use super::page::{each_page, rows};
use super::{Probe, Shared, Source};
use crate::client::{Client, Page, Pages, Row};
use crate::config::Config;
use crate::error::Result;
use crate::fanout::Step;
use crate::field::{Key, Timestamp};
use crate::id::Id;
use crate::run::{Run, asked_from, in_extra_second};
use crate::schema;
use crate::stream::{Needs, Stream};
pub(super) use record::Contact;

/// Changes can become visible up to this long after their `updated_at`.
const OVERLAP: TimeDelta = TimeDelta::minutes(5);

/// How often a listing whose rows slip between pages is read at most.
const PASSES: u32 = 3;

const ENDPOINT: &str = "contacts";

pub(super) static SOURCE: Source = Source {
    stream: Stream {
        name: "contacts",
        keys: &["contact_id"],
        replication_key: Some("updated_at"),
        schema: schema::of::<Contact>,
        needs: Needs { scopes: &["contact_data"], privileges: &["contacts:read"] },
    },
    probe: Probe::Listing(|client, config, found| {
        let (count, some) = count(client, config)?;
        found.contacts = Some(count);
        found.contact = found.contact.take().or(some);
        Ok(())
    }),
    read,
};

fn read(run: &mut Run, _: &mut Shared) -> Result<()> {
    let stream = &SOURCE.stream;
    let start = run.client.run_start()?;
    let full = run.contacts_are_due(stream, start);
    let since = if full { run.beginning(stream, start) } else { run.since(stream, start) };
    let passes = match since {
        None => vec![None],
        Some(bound) => vec![Some(("updated_after", bound)), Some(("optout_after", bound))],
    };
    let (client, listing) = (run.client, listing(run.config, &run.config.subresources));
    let mut met = Met::new(run.config, &passes);
    let whole = read_whole(client, passes, listing, &mut met, |pass, page, met| write(run, *pass, page, met))?;
    run.check_oddities(stream)?;
    if whole {
        run.complete(stream, start, OVERLAP);
        if full {
            run.contacts_were_complete(stream);
        }
    }
    Ok(())
}

/// The calls of a pass, with these sub-resources of each contact.
fn listing<T: Row>(
    config: &Config,
    include: &[String],
) -> impl Fn(&Arc<Client>, &Pass, usize) -> Pages<T> + Clone + Send + Sync + use<T> + 'static {
    let (status, include) = (config.contact_status.join(","), include.join(","));
    let limit = config.page_size.to_string();
    move |client, pass, priority| {
        let mut query = vec![("status", status.as_str()), ("limit", &limit), ("include_count", "true")];
        if !include.is_empty() {
            query.push(("include", &include));
        }
        let from = pass.map(|(filter, bound)| (filter, asked_from(bound)));
        query.extend(from.as_ref().map(|(filter, from)| (*filter, from.as_str())));
        client.pages(ENDPOINT, "/contacts", &query, priority)
    }
}

/// Reads passes until all contacts have come that were there when it began, and says whether they have.
///
/// The cursor is a page number over a moving set: a row that leaves it moves all later ones up by a place, so that one
/// slips between two pages. A pass in which that may have happened is read again.
fn read_whole<T: Row>(
    client: &Arc<Client>,
    mut passes: Vec<Pass>,
    listing: impl Fn(&Arc<Client>, &Pass, usize) -> Pages<T> + Clone + Send + Sync + 'static,
    met: &mut Met,
    mut each: impl FnMut(&Pass, Page<T>, &mut Met) -> Result<()>,
) -> Result<bool> {
    let mut reads = 0;
    loop {
        reads += 1;
        met.new = 0;
        let mut short = Vec::new();
        each_page(client, passes, listing.clone(), |pass, step| match step {
            Step::Item(page) => each(pass, page, met),
            Step::End(outcome) => {
                outcome?;
                short.extend(met.end_of_pass().map(|missing| (*pass, missing)));
                Ok(())
            }
        })?;
        let missing: u64 = short.iter().map(|(_, missing)| missing).sum();
        if missing == 0 {
            return Ok(true);
        }
        // Who slipped comes when all is read again. Where nobody does, they have left the set, or the count is wrong.
        if reads > 1 && met.new == 0 {
            log::info!("contacts: the service counts {missing} more than it lists; nobody new came in another read");
            return Ok(true);
        }
        if reads == PASSES {
            log::warn!(
                "contacts: {missing} contacts slipped between pages in each of {PASSES} reads; the account changes while \
                 it is read. The next run reads the same again"
            );
            return Ok(false);
        }
        log::info!("contacts: {missing} contacts may have slipped between pages; reading again");
        passes = short.into_iter().map(|(pass, _)| pass).collect();
    }
}

/// The baseline of the benchmark: see the function of this name in the crate's root.
pub(crate) fn parse_and_write(page: &str, out: &mut impl std::io::Write) -> std::io::Result<()> {
    #[derive(Deserialize)]
    struct Body {
        contacts: Vec<Contact>,
    }
    for contact in serde_json::from_str::<Body>(page)?.contacts {
        serde_json::to_writer(&mut *out, &contact)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// The filter of a listing with its lower bound; `None` lists everything.
type Pass = Option<(&'static str, DateTime<Utc>)>;

/// The contacts met so far.
#[derive(Default)]
struct Met {
    /// Each with the number of the pass that met it last, and whether it was written.
    contacts: HashMap<Id, (u32, bool)>,
    /// Nobody leaves the set, so that one more read of it need only bring the rest.
    is_fixed: bool,
    pass: u32,
    /// What the first page of the pass said: how many there are, and when. Those that are added later do not count.
    first: Option<(u64, DateTime<Utc>)>,
    /// How many of these have come.
    came: u64,
    /// How many of these had come in no pass before.
    new: u64,
}

impl Met {
    fn new(config: &Config, passes: &[Pass]) -> Met {
        // Among all, a deleted contact stays.
        Met { is_fixed: config.contact_status == ["all"] && passes == [None], ..Met::default() }
    }

    /// Takes note of a page before its contacts are met.
    fn turns_to<T>(&mut self, page: &Page<T>) {
        // The service keeps whole seconds.
        self.first = self.first.or(page.count.map(|count| (count, page.at + TimeDelta::seconds(1))));
    }

    /// Whether a contact that is met is to be written: once a run, and only where it is `wanted`.
    fn meets(&mut self, id: Id, created: Option<DateTime<Utc>>, wanted: bool) -> bool {
        let pass = self.pass;
        let met = self.contacts.entry(id).or_insert((u32::MAX, false));
        let was_there = self.first.zip(created).is_none_or(|((_, at), created)| created <= at);
        self.came += u64::from(was_there && met.0 != pass);
        self.new += u64::from(was_there && met.0 == u32::MAX);
        met.0 = pass;
        let write = wanted && !met.1;
        met.1 |= wanted;
        write
    }

    /// How many contacts have not come, if any.
    fn end_of_pass(&mut self) -> Option<u64> {
        let missing = self.first.map_or(0, |(count, _)| count).saturating_sub(self.came);
        if !self.is_fixed {
            (self.pass, self.came, self.first) = (self.pass + 1, 0, None);
        }
        (missing > 0).then_some(missing)
    }
}

fn write(run: &mut Run, pass: Pass, mut page: Page<Contact>, met: &mut Met) -> Result<()> {
    let stream = &SOURCE.stream;
    met.turns_to(&page);
    if let (None, Some(count)) = (pass, page.count) {
        run.set_total(stream, count);
    }
    for contact in rows(run, stream, &mut page) {
        let dated = match pass {
            Some(("optout_after", _)) => contact.email_address.as_ref().and_then(|e| e.opt_out_date.instant()),
            _ => contact.updated_at.instant(),
        };
        let id = Id::from(contact.contact_id.as_str());
        let wanted = !in_extra_second(dated, pass.map(|(_, bound)| bound));
        if met.meets(id, contact.created_at.instant(), wanted) {
            run.emit(stream, &contact, &page.extracted)?;
        }
    }
    Ok(())
}

/// A contact of which only the id matters.
#[derive(Deserialize, JsonSchema)]
struct ContactId {
    contact_id: Key,
    #[serde(default)]
    created_at: Timestamp,
}

impl Row for ContactId {
    const ROWS: &'static str = "contacts";
    const IS_WHOLE: bool = false;
}

/// The ids of the contacts that the reports are read for, in order, and whether they are all.
pub(super) fn ids(run: &Run) -> Result<(Vec<Id>, bool)> {
    let mut met = Met::new(run.config, &[None]);
    let listing = listing::<ContactId>(run.config, &[]);
    let all = read_whole(run.client, vec![None], listing, &mut met, |_, page, met| {
        met.turns_to(&page);
        for row in page.rows {
            met.meets(Id::from(row.contact_id.as_str()), row.created_at.instant(), true);
        }
        Ok(())
    })?;
    let mut ids: Vec<Id> = met.contacts.into_keys().collect();
    ids.sort_unstable();
    Ok((ids, all))
}

/// How many contacts there are, and the id of one.
pub(super) fn count(client: &Client, config: &Config) -> Result<(u64, Option<String>)> {
    let status = config.contact_status.join(",");
    let query = [("status", status.as_str()), ("limit", "1"), ("include_count", "true")];
    let page = client.first::<ContactId>(ENDPOINT, "/contacts", &query, 0)?;
    let some = page.rows.first().map(|row| row.contact_id.as_str().to_owned());
    Ok((page.count.unwrap_or(page.rows.len() as u64), some))
}
