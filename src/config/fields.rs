//! Deserializes single settings. The errors say what is allowed; the caller adds the setting's name and value.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use chrono_tz::Tz;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use url::{Host, Url};
use uuid::Uuid;

use super::words::{ContactStatus, Subresource, Word};
use crate::secret::Secret;
use crate::spelling::did_you_mean;
use crate::window::local;

/// A time to wait, written as a number of seconds.
pub(super) fn seconds<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    f64::deserialize(d).map(Duration::from_secs_f64)
}

fn checked<'de, D: Deserializer<'de>>(d: D, is_good: fn(&str) -> bool, allowed: &str) -> Result<String, D::Error> {
    let text = String::deserialize(d)?;
    if is_good(&text) { Ok(text) } else { Err(D::Error::custom(allowed)) }
}

/// A string that can stand in an HTTP header or a URL as it is.
pub(super) fn key<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    checked(d, is_key, "ASCII characters without spaces").map(Some)
}

/// Whether a text may be a key.
pub(crate) fn is_key(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic())
}

pub(super) fn access_token<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Secret>, D::Error> {
    Ok(key(d)?.map(Secret::from))
}

pub(super) fn user_agent<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    checked(d, |text| text.bytes().all(|b| (b' '..=b'~').contains(&b)), "visible ASCII characters")
}

pub(super) fn timezone<'de, D: Deserializer<'de>>(d: D) -> Result<Tz, D::Error> {
    let name = String::deserialize(d)?;
    name.trim().parse().map_err(|_| {
        let nearest = did_you_mean(&name, chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name()));
        D::Error::custom(format!("IANA name such as America/New_York{nearest}"))
    })
}

/// The service finds UUIDs only in lower case.
pub(super) fn contact_ids<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    let mut ids = BTreeSet::new();
    for id in Vec::<String>::deserialize(d)? {
        let id = id.trim();
        if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(D::Error::custom("contact ids (letters, digits and hyphens)"));
        }
        ids.insert(if Uuid::try_parse(id).is_ok() { id.to_ascii_lowercase() } else { id.to_owned() });
    }
    Ok(ids.into_iter().collect())
}

/// A list in the order of its enum, each value once: the order in which a user lists them must not look like a change
/// of settings.
pub(super) fn in_order<'de, T: Deserialize<'de> + Ord, D: Deserializer<'de>>(d: D) -> Result<Vec<T>, D::Error> {
    Ok(BTreeSet::deserialize(d)?.into_iter().collect())
}

/// `all` together with other statuses means all.
pub(super) fn statuses<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<ContactStatus>, D::Error> {
    let statuses: Vec<ContactStatus> = in_order(d)?;
    Ok(if statuses.contains(&ContactStatus::All) { vec![ContactStatus::All] } else { statuses })
}

/// True stands for all, false for none.
pub(super) fn subresources<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Subresource>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        AllOrNone(bool),
        These(BTreeSet<Subresource>),
    }
    Ok(match Given::deserialize(d)? {
        Given::AllOrNone(true) => Subresource::ALL.to_vec(),
        Given::AllOrNone(false) => Vec::new(),
        Given::These(list) => list.into_iter().collect(),
    })
}

/// The base URL of a server. Plain http is only allowed within this machine, since it would show the token to the
/// network.
pub(super) fn server_url<'de, D: Deserializer<'de>>(d: D) -> Result<Url, D::Error> {
    let allowed = "https:// URL (http:// for loopback only) without user, query and fragment";
    let bad = || D::Error::custom(allowed);
    let url = Url::parse(&String::deserialize(d)?).map_err(|_| bad())?;
    let is_safe = url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url));
    let is_base =
        url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    if is_safe && is_base { Ok(url) } else { Err(bad()) }
}

/// Kept as written, because the authorization server compares it character by character.
pub(super) fn redirect_uri<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    let text = String::deserialize(d)?;
    server_url(serde::de::value::StrDeserializer::<D::Error>::new(&text))?;
    Ok(text)
}

/// Whether a URL's host is this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// Whether a date can be meant: Constant Contact began in 1995.
fn is_plausible(date: &impl Datelike) -> bool {
    (1990..=9999).contains(&date.year())
}

pub(super) fn date<'de, D: Deserializer<'de>>(d: D) -> Result<Option<NaiveDate>, D::Error> {
    NaiveDate::parse_from_str(String::deserialize(d)?.trim(), "%Y-%m-%d")
        .ok()
        .filter(is_plausible)
        .map(Some)
        .ok_or_else(|| D::Error::custom("date YYYY-MM-DD from 1990-01-01 to today"))
}

/// A date or date-time as written. Which instant it is can depend on `timezone`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Start {
    /// A time without a zone, as Meltano writes it for "3 days ago", or the midnight at which a date begins.
    Local(NaiveDateTime),
    Instant(DateTime<Utc>),
}

impl Start {
    pub(super) fn instant(self, zone: Tz) -> DateTime<Utc> {
        match self {
            Start::Local(at) => local(at, zone),
            Start::Instant(at) => at,
        }
    }
}

const START: &str = "date YYYY-MM-DD or date-time such as 2026-01-31T00:00:00Z, from 1990 to now";

impl<'de> Deserialize<'de> for Start {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Start, D::Error> {
        let text = String::deserialize(d)?;
        // Databases print a space before the time.
        let text = text.trim().replacen(' ', "T", 1);
        let instant = || DateTime::parse_from_rfc3339(&text).ok().map(|at| at.to_utc());
        let local = || {
            NaiveDateTime::parse_from_str(&text, "%Y-%m-%dT%H:%M:%S%.f")
                .or_else(|_| NaiveDateTime::parse_from_str(&text, "%Y-%m-%dT%H:%M"))
                .or_else(|_| NaiveDate::parse_from_str(&text, "%Y-%m-%d").map(|day| day.and_time(NaiveTime::MIN)))
                .ok()
        };
        let start = instant().filter(is_plausible).map(Start::Instant);
        start.or_else(|| local().filter(is_plausible).map(Start::Local)).ok_or_else(|| D::Error::custom(START))
    }
}
