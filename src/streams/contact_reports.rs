//! The contact reports on the contact route: one contact at a time, in id order, so that one id tells how far a
//! read got.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Months, TimeDelta, Utc};
use serde::Deserialize;

use super::contacts::ids;
use super::email_campaigns::oldest;
use super::records::{ActionSummary, ActivityDetail};
use super::{Stream, parse};
use crate::error::{Error, Result};
use crate::field::{Key, KeyInteger};
use crate::schema;
use crate::sync::{Run, asked_from, in_extra_second};
use crate::window::{Window, five_year_windows};

const NEEDS: &str = "the scope contact_data and the user privileges ui:campaign:metrics and contacts:read";

pub(super) static SUMMARY: Stream = Stream {
    name: "contact_action_summary",
    keys: &["contact_id", "campaign_activity_id"],
    replication_key: Some("start_on"),
    schema: schema::of::<ActionSummary>,
    needs: NEEDS,
    read: read_summary,
};

pub(super) static DETAILS: Stream = Stream {
    name: "contact_activity_details",
    keys: &["contact_id", "campaign_activity_id", "tracking_activity_type", "created_time", "occurrence"],
    replication_key: Some("created_time"),
    schema: schema::of::<ActivityDetail>,
    needs: NEEDS,
    read: read_details,
};

#[derive(Deserialize)]
struct SummaryRows<'a> {
    #[serde(default, borrow)]
    campaign_activities: Vec<ActionSummary<'a>>,
}

#[derive(Deserialize)]
struct DetailRows<'a> {
    #[serde(default, borrow)]
    tracking_activities: Vec<ActivityDetail<'a>>,
}

fn read_summary(run: &mut Run) -> Result<()> {
    // Counts of a sent campaign go on growing: what was sent in the days before the bookmark is read again.
    let back = TimeDelta::days(i64::from(run.config.activity_lookback_days));
    let mut ranges = None;
    each_contact(run, &SUMMARY, back, TimeDelta::minutes(5), |run, id, window| {
        let whole = vec![(window.start, window.end)];
        let asked = ranges.clone().unwrap_or(whole);
        match summary(run, id, window, &asked) {
            // How long a range may be is not documented for this endpoint; five years are, for its neighbour.
            Err(Error::Refused(_)) if ranges.is_none() && window.end > window.start + Months::new(60) => {
                let split = five_year_windows(window.start, window.end);
                summary(run, id, window, &split)?;
                ranges = Some(split);
                Ok(())
            }
            other => other,
        }
    })
}

fn summary(run: &mut Run, id: &str, window: &Window, ranges: &[(DateTime<Utc>, DateTime<Utc>)]) -> Result<()> {
    let path = format!("/reports/contact_reports/{id}/activity_summary");
    let mut seen = HashSet::new();
    for (start, end) in ranges {
        let (start, end) = (asked_from(*start), crate::messages::stamp(*end));
        for page in run.client.pages("activity_summary", &path, &[("start", &start), ("end", &end)]) {
            let page = page?;
            for mut row in parse::<SummaryRows>(&SUMMARY, &page)?.campaign_activities {
                let at = row.start_on.instant();
                let outside = in_extra_second(at, Some(window.start)) || (window.bounded && at == Some(window.end));
                if !outside && seen.insert(row.campaign_activity_id.as_str().to_owned()) {
                    row.contact_id = Key(id.into());
                    run.emit(&row, &page)?;
                }
            }
        }
    }
    Ok(())
}

fn read_details(run: &mut Run) -> Result<()> {
    // Opens and clicks may be attributed late.
    each_contact(run, &DETAILS, TimeDelta::zero(), TimeDelta::hours(1), details)
}

fn details(run: &mut Run, id: &str, window: &Window) -> Result<()> {
    let types = run.config.tracking_activity_types.join(",");
    let limit = run.config.page_size.min(100).to_string();
    // The service calls leaving the names out cheaper.
    let names = if run.wants(&["campaign_activity_name"]) { "true" } else { "false" };
    let query =
        [("tracking_activities_list", types.as_str()), ("include_campaign_activity_names", names), ("limit", &limit)];
    let path = format!("/reports/contact_reports/{id}/activity_details");
    // Two opens in one second are equal in all that the service sends.
    let mut occurrences: HashMap<(String, String, String), u64> = HashMap::new();
    for page in run.client.pages("activity_details", &path, &query) {
        let page = page?;
        let mut older = false;
        for mut row in parse::<DetailRows>(&DETAILS, &page)?.tracking_activities {
            let Some(at) = row.created_time.instant() else { continue };
            older |= at < window.start;
            if at < window.start || (window.bounded && at >= window.end) {
                continue;
            }
            let next = occurrences
                .entry((
                    row.campaign_activity_id.as_str().to_owned(),
                    row.tracking_activity_type.as_str().to_owned(),
                    row.created_time.as_str().to_owned(),
                ))
                .or_default();
            row.occurrence = KeyInteger(*next);
            *next += 1;
            run.emit(&row, &page)?;
        }
        // There is no date filter, but the newest come first.
        if older {
            break;
        }
    }
    Ok(())
}

/// Reads a report contact by contact, with a resume point after each.
fn each_contact(
    run: &mut Run,
    stream: &Stream,
    back: TimeDelta,
    overlap: TimeDelta,
    mut read: impl FnMut(&mut Run, &str, &Window) -> Result<()>,
) -> Result<()> {
    let now = run.client.run_start()?;
    let resume = run.resume(stream);
    let window = match (&resume, run.config.report.as_ref()) {
        (Some(resume), _) => Window { start: resume.since, end: resume.until, bounded: false },
        (None, Some(report)) => report.resolve(now, run.config.timezone),
        (None, None) => {
            let start = match run.since_less(stream, now, back) {
                Some(start) => start,
                None => beginning_of_account(run, now)?,
            };
            Window { start: start.min(now), end: now, bounded: false }
        }
    };
    let after = resume.and_then(|r| r.after);
    let parents = if run.config.contact_ids.is_empty() { ids(run)? } else { run.config.contact_ids.clone() };
    let mut gone = 0;
    for id in parents.iter().filter(|id| after.as_ref().is_none_or(|after| *id > after)) {
        match read(run, id, &window) {
            Err(Error::NotFound(why)) => {
                log::debug!("{}: no report of contact {id}: {why}", stream.name);
                gone += 1;
            }
            other => other?,
        }
        if !window.bounded {
            run.reached(stream, &window, id)?;
        }
    }
    if gone > 0 {
        log::info!("{}: the service has no report for {gone} of {} contacts", stream.name, parents.len());
    }
    if !window.bounded {
        run.complete(stream, window.end, overlap);
    }
    Ok(())
}

fn beginning_of_account(run: &Run, now: DateTime<Utc>) -> Result<DateTime<Utc>> {
    let ten_years_ago = now - Months::new(120);
    match oldest(run.client) {
        Ok(oldest) => Ok(oldest.unwrap_or(ten_years_ago)),
        // Without campaign:read the campaigns' dates stay unknown.
        Err(Error::Forbidden(_)) => Ok(ten_years_ago),
        Err(e) => Err(e),
    }
}
