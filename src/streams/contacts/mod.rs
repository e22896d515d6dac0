//! `contacts`: `GET /contacts`. Unsubscribing does not change a contact's `updated_at`, so an incremental read makes two
//! listings: by `updated_after` and by `optout_after`.

mod record;

use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use schemars::JsonSchema;
use serde::Deserialize;

use super::definitions::{Definitions, Needed};
use super::page::{Coverage, every_row, object, rows};
use super::seen::{Seen, Sighting};
use super::{Probe, Shared, Source, contact_lists};
use crate::client::{Client, Page, Pages, Row};
use crate::config::{Config, ContactStatus, Subresource, Word, words};
use crate::error::Result;
use crate::extent;
use crate::field::{Key, Timestamp};
use crate::id::Id;
use crate::odd_rows::check_listing;
use crate::quota::DAILY_QUOTA;
use crate::run::Run;
use crate::schema;
use crate::stream::{FieldNeeds, Needs, Stream};
use crate::window::{is_before_bound, query_bound};
pub(crate) use record::Contact;

/// Changes can become visible up to this long after their `updated_at`.
const OVERLAP: TimeDelta = TimeDelta::minutes(5);

const ENDPOINT: &str = "contacts";

pub(super) static SOURCE: Source = Source {
    stream: Stream {
        name: "contacts",
        keys: &["contact_id"],
        replication_key: Some("updated_at"),
        schema: LazyLock::new(schema::of::<Contact>),
        needs: Needs { scopes: &["contact_data"], privileges: &["contacts:read"] },
        narrowed_by: |config| {
            extent::Filter::of(&[("status", words(&config.contact_status)), ("include", words(&config.subresources))])
        },
        bookmark_keys: &["full_refresh_at", "filter", "deselected", "read_from"],
        only_by_campaign: &[],
        field_needs: &[FieldNeeds { fields: &["list_names"], needs: &contact_lists::NEEDS }],
    },
    probe: Probe::Listing("contacts", |client, config, found| {
        let (count, some) = count(client, config)?;
        found.can_list_contacts = true;
        found.contact = found.contact.take().or(some);
        Ok(Some(count))
    }),
    cost,
    read,
};

/// The pages of all contacts, or one page for each listing of changes, plus the definitions of their fields.
fn cost(run: &mut Run, _: &mut Shared) -> Result<u64> {
    let stream = &SOURCE.stream;
    let start = run.client.run_start()?;
    let definitions = needed_definitions(run, &include(run)).calls(run.selects(&contact_lists::SOURCE.stream));
    if !is_complete_read_due(run, start) || run.beginning(stream, start).is_some() {
        return Ok(definitions + 2);
    }
    let (contacts, _) = count(run.client, run.config)?;
    // The count is a call as well.
    Ok(definitions + 1 + contacts.div_ceil(u64::from(run.config.page_size)).max(1))
}

fn read(run: &mut Run, shared: &mut Shared) -> Result<()> {
    let stream = &SOURCE.stream;
    if run.config.contact_status != [ContactStatus::All] {
        log::warn!(
            "contacts: contact_status leaves out contacts that change to another status, so their last record stays as \
             it was. To see such changes, set contact_status to all and filter on the field status"
        );
    }
    let start = run.client.run_start()?;
    let include = include(run);
    let needed = needed_definitions(run, &include);
    run.client.note_calls_to_progress(needed.calls(false) + 1);
    let definitions = Definitions::read(run, shared, stream, &needed)?;
    let pages = pages(run.config, &include);
    let complete = complete_read(run, start, &pages)?;
    let is_complete = complete.is_some();
    let Listings { listings, first } = match complete {
        Some(reading) => reading,
        None => Listings::of(run.since(stream, start)),
    };
    let first = Arc::new(Mutex::new(first));
    let pages = move |client: &Arc<Client>, filter: &ChangeFilter, priority| {
        // Only the first pass over the first listing can have started already.
        let started = first.lock().unwrap_or_else(PoisonError::into_inner).take_if(|started| started.filter == *filter);
        let (page, rest) = match started {
            Some(started) => (Some(Ok(started.page)), started.rest),
            None => (None, pages(client, filter, priority)),
        };
        page.into_iter().chain(rest)
    };
    let mut seen = Seen::default();
    let coverage = every_row(run.client, stream.name, listings, pages, &mut seen, |filter, page, seen| {
        write(run, *filter, page, &definitions, seen)
    })?;
    run.odd_rows.check(stream)?;
    run.advance_bookmark(stream, start, OVERLAP);
    match coverage {
        Coverage::Whole if is_complete => run.state.bookmark_mut(stream).note_full_refresh(),
        Coverage::Whole => {}
        Coverage::MayLackRows(why) => {
            log::warn!("contacts: {why}. Contacts may be missing; the next run reads all contacts again");
            run.state.bookmark_mut(stream).note_missed_contacts();
        }
    }
    Ok(())
}

/// The listings that a run reads.
struct Listings {
    listings: Vec<ChangeFilter>,
    /// The first listing, if its first page was already read for the count.
    first: Option<StartedListing>,
}

/// A listing whose first page has been read.
struct StartedListing {
    filter: ChangeFilter,
    page: Page<Contact>,
    rest: Pages<Contact>,
}

impl Listings {
    /// All contacts, or those that changed since a bound: unsubscribing is not an update, so it has a listing of its own.
    fn of(since: Option<DateTime<Utc>>) -> Listings {
        let listings = match since {
            None => vec![None],
            Some(bound) => vec![Some(("updated_after", bound)), Some(("optout_after", bound))],
        };
        Listings { listings, first: None }
    }
}

/// Whether all contacts must be read: there is no bookmark, or the last complete read is too long ago.
fn is_complete_read_due(run: &Run, start: DateTime<Utc>) -> bool {
    let (stream, days) = (&SOURCE.stream, run.config.contacts_full_refresh_days);
    run.bookmark(stream).is_none() || run.state.bookmark(stream).is_full_refresh_due(start, days)
}

/// The read of all contacts, if it is due and there are enough calls for it.
fn complete_read(
    run: &Run,
    start: DateTime<Utc>,
    pages: &impl Fn(&Arc<Client>, &ChangeFilter, usize) -> Pages<Contact>,
) -> Result<Option<Listings>> {
    let stream = &SOURCE.stream;
    if !is_complete_read_due(run, start) {
        return Ok(None);
    }
    let mut reading = Listings::of(run.beginning(stream, start));
    // Without a bookmark, reading all contacts is the only way.
    if run.bookmark(stream).is_some() {
        let filter = reading.listings[0];
        let mut rest = pages(run.client, &filter, 0);
        let Some(page) = rest.next().transpose()? else { return Ok(Some(reading)) };
        let calls = page.count.unwrap_or(0).div_ceil(u64::from(run.config.page_size)).saturating_sub(1);
        let left = run.config.max_requests.map(|most| most.saturating_sub(run.client.calls()));
        if left.is_some_and(|left| calls > left) || calls > DAILY_QUOTA / 2 {
            log::warn!(
                "contacts: a complete read is due, but would take {calls} more calls ({}). Only changes are read; raise \
                 max_requests or page_size, or set contacts_full_refresh_days to 0",
                left.map_or("over half of a day's quota".into(), |left| format!("max_requests leaves {left}"))
            );
            return Ok(None);
        }
        reading.first = Some(StartedListing { filter, page, rest });
    }
    Ok(Some(reading))
}

/// Sub-resources that hold ids, and the field into which the tap writes their names.
const TRANSLATED: [(Subresource, &str); 3] = [
    (Subresource::CustomFields, "custom_field_values"),
    (Subresource::Taggings, "tag_names"),
    (Subresource::ListMemberships, "list_names"),
];

/// The sub-resources that the selected fields need and `include_subresources` allows.
fn include(run: &Run) -> Vec<Subresource> {
    let wants = |field: &str| run.wants(&SOURCE.stream, &[field]);
    let is_needed = |included: &Subresource| {
        wants(included.as_str()) || TRANSLATED.iter().any(|(of, field)| included == of && wants(field))
    };
    run.config.subresources.iter().copied().filter(is_needed).collect()
}

fn needed_definitions(run: &Run, include: &[Subresource]) -> Needed {
    let wants = |path: &[&str]| run.wants(&SOURCE.stream, path);
    let of_field = ["name", "label", "type", "choice_labels"];
    Needed {
        custom_fields: include.contains(&Subresource::CustomFields)
            && (wants(&["custom_field_values"]) || of_field.iter().any(|field| wants(&["custom_fields", field]))),
        tags: include.contains(&Subresource::Taggings) && wants(&["tag_names"]),
        lists: include.contains(&Subresource::ListMemberships) && wants(&["list_names"]),
    }
}

/// The pages of a listing, with these sub-resources of each contact.
fn pages<T: Row>(
    config: &Config,
    include: &[Subresource],
) -> impl Fn(&Arc<Client>, &ChangeFilter, usize) -> Pages<T> + Clone + Send + Sync + use<T> + 'static {
    let (status, include) = (words(&config.contact_status), words(include));
    let limit = config.page_size.to_string();
    move |client, filter, priority| {
        let mut query = vec![("status", status.as_str()), ("limit", &limit), ("include_count", "true")];
        if !include.is_empty() {
            query.push(("include", &include));
        }
        let from = filter.map(|(name, bound)| (name, query_bound(bound)));
        query.extend(from.as_ref().map(|(name, from)| (*name, from.as_str())));
        client.pages(ENDPOINT, "/contacts", &query, priority)
    }
}

/// The baseline of the benchmark: see the function of this name in the root of the crate.
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
type ChangeFilter = Option<(&'static str, DateTime<Utc>)>;

fn write(
    run: &mut Run,
    filter: ChangeFilter,
    mut page: Page<Contact>,
    definitions: &Definitions,
    seen: &mut Seen,
) -> Result<()> {
    let stream = &SOURCE.stream;
    if let (None, Some(count)) = (filter, page.count) {
        run.progress.line(stream.name).set_total(count);
    }
    for mut contact in rows(run, stream, &mut page) {
        if seen.insert(sighting(&contact, filter)) {
            contact.complete(definitions);
            run.emit(stream, &contact, &page.extracted)?;
        }
    }
    Ok(())
}

fn sighting(contact: &Contact, filter: ChangeFilter) -> Sighting {
    let email = contact.email_address.as_ref();
    let (created_at, updated_at) = (contact.created_at.instant(), contact.updated_at.instant());
    let opt_out_date = email.and_then(|email| email.opt_out_date.instant());
    let email_updated_at = email.and_then(|email| email.updated_at.instant());
    let entered_at = match filter {
        None => created_at,
        Some(("optout_after", _)) => opt_out_date,
        Some(_) => updated_at,
    };
    Sighting {
        id: Id::from(contact.contact_id.as_str()),
        entered_at,
        changed_at: [created_at, updated_at, email_updated_at, opt_out_date].into_iter().flatten().max(),
        is_wanted: filter.is_none_or(|(_, bound)| !is_before_bound(entered_at, Some(bound))),
    }
}

/// A contact's id, and the dates that show whether its place in the listing changed.
#[derive(Deserialize, JsonSchema)]
struct ContactId {
    #[serde(rename = "contact_id")]
    id: Key,
    created_at: Timestamp,
    updated_at: Timestamp,
    #[serde(default, deserialize_with = "object")]
    email_address: Option<Box<EmailDates>>,
}

#[derive(Default, Deserialize, JsonSchema)]
struct EmailDates {
    updated_at: Timestamp,
    opt_out_date: Timestamp,
}

impl Row for ContactId {
    const ROWS: &'static str = "contacts";
    const IS_WHOLE: bool = false;
}

/// The ids of the contacts whose reports are read, in their order, and whether the listing surely had all of them.
pub(super) fn listed(run: &Run) -> Result<(Vec<Id>, bool)> {
    let (mut list, mut oddities) = (Vec::new(), Vec::new());
    let mut seen = Seen::default();
    let pages = pages::<ContactId>(run.config, &[]);
    let coverage = every_row(run.client, SOURCE.stream.name, vec![None], pages, &mut seen, |_, page, seen| {
        oddities.push((page.rows.len(), page.oddities));
        for row in page.rows {
            let email = row.email_address.unwrap_or_default();
            let dates = [&row.created_at, &row.updated_at, &email.updated_at, &email.opt_out_date];
            let (id, created_at) = (Id::from(row.id.as_str()), row.created_at.instant());
            let changed_at = dates.into_iter().filter_map(Timestamp::instant).max();
            let sighting = Sighting { id: id.clone(), entered_at: created_at, changed_at, is_wanted: true };
            if seen.insert(sighting) {
                list.push(id);
            }
        }
        Ok(())
    })?;
    check_listing("contacts", &oddities)?;
    list.sort_unstable();
    if let Coverage::MayLackRows(why) = &coverage {
        log::warn!(
            "contacts: {why}. Activity of some contacts may be missing; the bookmark stays, so a later run reads it"
        );
    }
    Ok((list, coverage == Coverage::Whole))
}

/// How many contacts there are, and the id of any one.
pub(super) fn count(client: &Client, config: &Config) -> Result<(u64, Option<String>)> {
    let status = words(&config.contact_status);
    let query = [("status", status.as_str()), ("limit", "1"), ("include_count", "true")];
    let page = client.first::<ContactId>(ENDPOINT, "/contacts", &query, 0)?;
    let some = page.rows.first().map(|row| row.id.as_str().to_owned());
    Ok((page.count.unwrap_or(page.rows.len() as u64), some))
}
