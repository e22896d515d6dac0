//! Iterates over the pages of a listing, parsed into typed rows.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use compact_str::CompactString;

use super::rows::{self, Body, Envelope, Oddities, Row};
use super::text::shown;
use super::{Bearer, Call, Client, Received, judge};
use crate::error::{Error, Result};
use crate::timestamp::stamp;

/// One page of a listing.
pub(crate) struct Page<T> {
    pub(crate) rows: Vec<T>,
    /// How many rows the whole listing has, according to the service's count.
    pub(crate) count: Option<u64>,
    /// The contact that a report is about, if the service names it.
    pub(crate) contact_id: Option<CompactString>,
    /// When it was read, by this machine's clock: the `time_extracted` of its records.
    pub(crate) extracted: String,
    /// When it was read, by the service's clock.
    pub(crate) at: DateTime<Utc>,
    pub(crate) oddities: Oddities,
    /// The size of the body in bytes, a measure of the memory that the rows take.
    pub(crate) weight: usize,
    next: Option<String>,
}

impl<T> Page<T> {
    pub(crate) fn is_last(&self) -> bool {
        self.next.is_none()
    }
}

/// An iterator over the pages of a listing. It ends after the first error.
pub(crate) struct Pages<T> {
    client: Arc<Client>,
    /// The call of the last page returned, or of the first one.
    call: Call,
    /// The call for the page before that.
    before: Option<Call>,
    next: Option<String>,
    /// The addresses requested so far: following a next link back to one of them would never end.
    seen: HashSet<String>,
    rows: std::marker::PhantomData<fn() -> T>,
}

impl<T: Row> Pages<T> {
    pub(super) fn new(client: &Arc<Client>, call: Call) -> Pages<T> {
        let next = Some(call.url.clone());
        Pages {
            client: Arc::clone(client),
            call,
            before: None,
            next,
            seen: HashSet::new(),
            rows: std::marker::PhantomData,
        }
    }

    /// Reads the last page again.
    pub(crate) fn again(&mut self) -> Result<Page<T>> {
        let page = read_page(&self.client, &self.call, self.seen.len() <= 1)?;
        self.next.clone_from(&page.next);
        Ok(page)
    }

    /// Reads the page before the last one again; `None` if the last one is the first.
    pub(crate) fn previous(&self) -> Option<Result<Page<T>>> {
        let call = self.before.as_ref()?;
        Some(read_page(&self.client, call, self.seen.len() <= 2))
    }
}

impl<T: Row> Iterator for Pages<T> {
    type Item = Result<Page<T>>;

    fn next(&mut self) -> Option<Result<Page<T>>> {
        let url = self.next.take()?;
        let before = std::mem::replace(&mut self.call.url, url);
        if !self.seen.is_empty() {
            self.before = Some(Call { url: before, ..self.call.clone() });
        }
        if !self.seen.insert(self.call.url.clone()) {
            return Some(Err(Error::Failed("a next link leads back to a page already read".into())));
        }
        Some(self.again())
    }
}

/// Reads one page. `is_first` says that no next link led to it.
pub(super) fn read_page<T: Row>(client: &Client, call: &Call, is_first: bool) -> Result<Page<T>> {
    let read = |text: &str, token: &Bearer| {
        let mut body: Body<T> = rows::read(text).map_err(|e| {
            // The text of the error could show a value.
            format!("200 response that is not a page of {}: line {}, column {}", T::ROWS, e.line(), e.column())
        })?;
        if body.rows.is_none() && !judge::lack_means_none(&body.envelope, is_first) {
            return Err(format!("200 response without \"{}\"", T::ROWS));
        }
        body.oddities.show(|text| shown(text, token));
        Ok(body)
    };
    let mut received = client.get(call, read)?;
    if received.body.rows.is_none() {
        log::debug!("{}: 200 response without \"{}\"; asking once more", call.endpoint, T::ROWS);
        received = client.get(call, read)?;
    }
    let Received { body: Body { rows, envelope, oddities }, size: weight, at } = received;
    let rows = rows.unwrap_or_default();
    if let Some(why) = oddities.why_left_out.as_ref().filter(|_| rows.is_empty()) {
        return Err(Error::Failed(format!(
            "no row of a page can be used ({why}): the service has changed its format; update the tap, or report it"
        )));
    }
    let Envelope { count, contact_id, next, .. } = envelope;
    let next = next.map(|href| client.resolve(&href)).transpose()?;
    Ok(Page { rows, count, contact_id, extracted: stamp(Utc::now()), at, oddities, weight, next })
}
