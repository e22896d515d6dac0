//! Pages of listings on their way from the client to a stream.

use std::sync::Arc;

use serde::{Deserialize, Deserializer};

use crate::client::{Client, Page, Pages, Row};
use crate::error::Result;
use crate::fanout::{self, Step};
use crate::run::Run;
use crate::stream::Stream;

/// Deserializes a list without its nulls, which targets refuse as elements.
pub(super) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    d: D,
) -> std::result::Result<Option<Vec<T>>, D::Error> {
    let items: Option<Vec<Option<T>>> = Deserialize::deserialize(d)?;
    Ok(items.map(|items| items.into_iter().flatten().collect()))
}

/// The pages of several listings, fetched at the same time and handed over listing by listing: while one page is
/// written, the next ones are under way.
pub(super) fn each_page<P, T>(
    client: &Arc<Client>,
    listings: Vec<P>,
    pages: impl Fn(&Arc<Client>, &P, usize) -> Pages<T> + Send + Sync + 'static,
    each: impl FnMut(&P, Step<Page<T>>) -> Result<()>,
) -> Result<()>
where
    P: Send + Sync + 'static,
    T: Row,
{
    let (client, workers) = (Arc::clone(client), client.workers());
    let fetch = move |priority: usize, listing: &P, push: &mut dyn FnMut(Page<T>) -> bool| {
        for page in pages(&client, listing, priority) {
            if !push(page?) {
                break;
            }
        }
        Ok(())
    };
    fanout::in_order(listings, workers, |page| page.weight, fetch, each)
}

/// Takes the rows out of a page; what is odd about them is warned of in the stream's name.
pub(super) fn rows<T>(run: &mut Run, stream: &Stream, page: &mut Page<T>) -> Vec<T> {
    let rows = std::mem::take(&mut page.rows);
    run.note_oddities(stream, rows.len(), &page.oddities);
    rows
}
