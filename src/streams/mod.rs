//! The streams: each one's file says its endpoint, its passes and its quirks; the records are in `records`.

mod contact_lists;
mod contacts;
mod email_campaigns;
pub(crate) mod records;
mod reports;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use serde_ignored::Path;
use serde_json::Value;

use crate::client::{Client, Page, Pages};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::fanout::{self, Step};
use crate::sync::Run;
use crate::{field, logger};
pub(crate) use contacts::parse_and_write as parse_and_write_contacts;
pub(crate) use reports::route::{Survey, full_read};

/// What the tap knows of a stream before it reads it.
pub(crate) struct Stream {
    pub(crate) name: &'static str,
    pub(crate) keys: &'static [&'static str],
    /// `None` for a stream that is read whole every time.
    pub(crate) replication_key: Option<&'static str>,
    pub(crate) schema: fn() -> Value,
    pub(crate) needs: Needs,
    pub(crate) probe: Probe,
    pub(crate) read: fn(&mut Run) -> Result<()>,
}

/// The scopes and the user privileges without which the service answers 403.
pub(crate) struct Needs {
    pub(crate) scopes: &'static [&'static str],
    pub(crate) privileges: &'static [&'static str],
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let list = |f: &mut fmt::Formatter, what, names: &[&str]| {
            write!(f, "the {what}{} {}", if names.len() > 1 { "s" } else { "" }, names.join(" and "))
        };
        list(f, "scope", self.scopes)?;
        f.write_str(" and ")?;
        list(f, "user privilege", self.privileges)
    }
}

/// The cheap way to find out whether a stream may be read.
pub(crate) enum Probe {
    /// Counts the rows of the listing.
    Listing(fn(&Arc<Client>, &Config, &mut Found) -> Result<()>),
    /// Asks for the report of one contact.
    OfContact(fn(&Client, &Config, &str) -> Result<()>),
}

/// What the probes of the listings have found.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) contacts: Option<u64>,
    pub(crate) lists: Option<u64>,
    pub(crate) campaigns: Option<u64>,
    /// The id of some contact.
    pub(crate) contact: Option<String>,
    pub(crate) survey: Survey,
}

/// All streams in the order they are read: those of few calls first.
pub(crate) static ALL: [&Stream; 5] =
    [&contact_lists::STREAM, &email_campaigns::STREAM, &contacts::STREAM, &reports::SUMMARY, &reports::DETAILS];

/// The pages of several listings, read at once and handed over listing by listing.
///
/// While one page is parsed and written, the next is under way.
fn each_page<P: Send + Sync + 'static>(
    client: &Arc<Client>,
    listings: Vec<P>,
    pages: impl Fn(&Arc<Client>, &P) -> Pages + Send + Sync + 'static,
    each: impl FnMut(&P, Step<Page>) -> Result<()>,
) -> Result<()> {
    let (client, workers) = (Arc::clone(client), client.workers());
    let fetch = move |listing: &P, push: &mut dyn FnMut(Page) -> bool| {
        for page in pages(&client, listing) {
            if !push(page?) {
                break;
            }
        }
        Ok(())
    };
    fanout::in_order(listings, workers, |page| page.text.len(), fetch, each)
}

/// Rows, of which null says that there are none.
fn rows<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> std::result::Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// Parses a page into typed rows that borrow from its text.
///
/// Fields that the records do not know draw one warning each, and so do timestamps that cannot be read.
fn parse<'p, T: Deserialize<'p>>(stream: &Stream, page: &'p Page) -> Result<T> {
    let mut unknown = BTreeSet::new();
    let mut json = serde_json::Deserializer::from_str(&page.text);
    let parsed = serde_ignored::deserialize(&mut json, |path| {
        unknown.extend(field_of(&path));
    });
    for field in unknown {
        logger::warn_once(format!("{}: the field {field} is not known to this version and is left out", stream.name));
    }
    if field::take_unreadable() > 0 {
        for field in unreadable(&page.text, &(stream.schema)()) {
            logger::warn_once(format!(
                "{}: {field} has values that are no timestamps; they are written as null",
                stream.name
            ));
        }
    }
    parsed.map_err(|_| {
        // The way to the place is only worth its cost when there is one to name.
        let mut json = serde_json::Deserializer::from_str(&page.text);
        let place = serde_path_to_error::deserialize::<_, T>(&mut json).err();
        let text = place.map_or_else(String::new, |e| format!("{}: {}", e.path(), e.inner()));
        Error::Failed(format!("the service sent a value of an unexpected kind at {text}"))
    })
}

/// Rows read for one value of theirs only, whose other fields are nobody's matter.
fn parse_plain<'p, T: Deserialize<'p>>(text: &'p str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::Failed(format!("the service sent rows of an unexpected kind: {e}")))
}

/// `contacts.17.email_address.foo` as `email_address.foo`; nothing for what stands beside the rows.
fn field_of(path: &Path) -> Option<String> {
    let mut names = Vec::new();
    let mut at = path;
    loop {
        at = match at {
            Path::Root => break,
            Path::Map { parent, key } => {
                names.push(key.as_str());
                parent
            }
            Path::Seq { parent, .. }
            | Path::Some { parent }
            | Path::NewtypeStruct { parent }
            | Path::NewtypeVariant { parent } => parent,
        };
    }
    names.pop();
    names.reverse();
    (!names.is_empty()).then(|| names.join("."))
}

/// The date-time fields of a page that hold a value which is none.
fn unreadable(text: &str, schema: &Value) -> BTreeSet<String> {
    fn walk(value: &Value, schema: &Value, path: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Array(items) => {
                let schema = if schema["items"].is_null() { schema } else { &schema["items"] };
                for item in items {
                    walk(item, schema, path, found);
                }
            }
            Value::Object(map) => {
                for (name, value) in map {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    walk(value, &schema["properties"][name], &path, found);
                }
            }
            Value::Null => {}
            scalar if schema["format"] == "date-time" => {
                let instant = serde_json::to_string(scalar)
                    .ok()
                    .and_then(|text| serde_json::from_str::<field::Timestamp>(&text).ok().and_then(|t| t.instant()));
                if instant.is_none() {
                    found.insert(path.to_owned());
                }
            }
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    if let Ok(Value::Object(page)) = serde_json::from_str(text) {
        page.values().filter(|v| v.is_array()).for_each(|rows| walk(rows, schema, "", &mut found));
    }
    field::take_unreadable();
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::records::{ActionSummary, ActivityDetail, Contact, ContactList, EmailCampaign};
    use super::*;

    /// What any of the listings may hold.
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "what is read is not looked at")]
    struct Rows<'a> {
        #[serde(default, borrow)]
        contacts: Vec<Contact<'a>>,
        #[serde(default, borrow)]
        lists: Vec<ContactList<'a>>,
        #[serde(default, borrow)]
        campaigns: Vec<EmailCampaign<'a>>,
        #[serde(default, borrow)]
        campaign_activities: Vec<ActionSummary<'a>>,
        #[serde(default, borrow)]
        tracking_activities: Vec<ActivityDetail<'a>>,
    }

    const PAGES: [&str; 4] = [
        r#"{"contacts":[{"contact_id":"a","email_address":{"address":"a@example.com","opt_out_date":"2026-01-02"},
            "notes":[{}],"birthday_day":3}],"contacts_count":1,"_links":{"next":{"href":"/v3/a"}}}"#,
        r#"{"lists":[{"list_id":"a","favorite":true,"membership_count":3,"created_at":"2026-01-02T03:04:05Z"}]}"#,
        r#"{"campaigns":[{"campaign_id":"a","type_code":10}],
            "campaign_activities":[{"campaign_activity_id":"b","em_opens":2}],"_links":{"next":{"href":null}}}"#,
        r#"{"tracking_activities":[{"contact_id":"a","created_time":"2026-01-02T03:04:05.000Z",
            "campaign_activity_id":"b","tracking_activity_type":"em_opens"}],"_links":{}}"#,
    ];

    #[test]
    fn the_pages_that_are_tampered_with_are_read_as_they_are() {
        for page in PAGES {
            assert!(parse::<Rows>(ALL[0], &Page::of(page.into()).unwrap()).is_ok(), "{page}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        /// A page with anything put anywhere in it is read or refused, by whatever reads it.
        #[test]
        fn any_bytes_are_survived(page in 0usize..5, at in 0usize..250, cut in 0usize..40, put: Vec<u8>) {
            let mut bytes = PAGES.get(page).map_or(Vec::new(), |page| page.as_bytes().to_vec());
            let at = at.min(bytes.len());
            bytes.splice(at..(at + cut).min(bytes.len()), put);
            if let Some(page) = Page::of(bytes) {
                let _ = parse::<Rows>(ALL[0], &page);
            }
        }
    }
}
