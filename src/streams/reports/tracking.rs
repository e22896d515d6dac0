//! The tracking reports of campaign activities: one for each kind of activity, its rows newest first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Deserialize;

use super::due_campaigns::DueCampaign;
use super::newest_first::{DatedRow, newest_first};
use super::reading::Reading;
use crate::client::{Client, Page, Row};
use crate::config::ActivityType;
use crate::error::Result;
use crate::field::{Key, KeyTimestamp, Text, Unused};
use crate::id::Id;

const TRACKING: &str = "email_reports";

/// Where one tracking report of a campaign activity is read.
pub(crate) fn tracking_path(activity: &Id, of: ActivityType) -> String {
    format!("/reports/email_reports/{}/tracking/{}", activity.in_path(), of.report_name())
}

/// A row of any of the six tracking reports.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Tracked {
    pub(crate) contact_id: Key,
    pub(crate) created_time: KeyTimestamp,
    pub(super) email_address: Text,
    pub(super) device_type: Text,
    pub(super) url_id: Text,
    pub(super) link_url: Text,
    pub(super) bounce_code: Text,
    pub(super) opt_out_reason: Text,
    // Known from the request.
    #[serde(default, rename = "campaign_activity_id")]
    #[schemars(skip)]
    _activity: Unused,
    #[serde(default, rename = "tracking_activity_type")]
    #[schemars(skip)]
    _kind: Unused,
    // Facts of the contact, which the contacts stream has.
    #[serde(default, rename = "first_name")]
    #[schemars(skip)]
    _first_name: Unused,
    #[serde(default, rename = "last_name")]
    #[schemars(skip)]
    _last_name: Unused,
    #[serde(default, rename = "deleted_at")]
    #[schemars(skip)]
    _deleted_at: Unused,
    #[serde(default, rename = "current_email_address")]
    #[schemars(skip)]
    _current_email_address: Unused,
}

impl Row for Tracked {
    const ROWS: &'static str = "tracking_activities";
    const IS_WHOLE: bool = true;
}

impl DatedRow for Tracked {
    type Identity<'a> = (&'a str, &'a str, Option<&'a str>);

    fn identity(&self) -> Self::Identity<'_> {
        (self.contact_id.as_str(), self.created_time.as_str(), self.url_id.as_str())
    }

    fn at(&self) -> Option<DateTime<Utc>> {
        self.created_time.instant()
    }
}

/// One activity of a campaign, and which streams need its rows.
pub(super) struct ActivityToRead {
    pub(super) id: Id,
    pub(super) campaign: Arc<DueCampaign>,
    pub(super) for_summary: bool,
    pub(super) for_details: bool,
    /// Set once the service has refused one of its tracking reports; the others are then skipped.
    is_refused: AtomicBool,
}

impl ActivityToRead {
    pub(super) fn new(id: Id, campaign: Arc<DueCampaign>, for_summary: bool, for_details: bool) -> ActivityToRead {
        ActivityToRead { id, campaign, for_summary, for_details, is_refused: AtomicBool::new(false) }
    }

    /// Lets the workers skip the reports that they have not begun.
    pub(super) fn refuse(&self) {
        self.is_refused.store(true, Ordering::Relaxed);
    }
}

/// One tracking report of one activity.
pub(super) struct TrackingReport {
    pub(super) activity: Arc<ActivityToRead>,
    pub(super) activity_type: ActivityType,
    /// Older rows are not needed.
    oldest_wanted: Option<DateTime<Utc>>,
    pub(super) is_last_of_activity: bool,
}

impl TrackingReport {
    /// The reports of the activities, in the order in which they are written.
    pub(super) fn of(activities: &[Arc<ActivityToRead>], readings: &[Reading]) -> Vec<TrackingReport> {
        let details = readings.iter().find(|reading| !reading.is_summary());
        let of = |activity: &Arc<ActivityToRead>| {
            let activity = Arc::clone(activity);
            // The summary counts every row; the details stop at their lower bound.
            let oldest_wanted = details.filter(|_| !activity.for_summary).and_then(|reading| reading.since);
            let types: Vec<_> = activity.campaign.reports.iter().map(|report| report.activity_type).collect();
            let last = types.len().saturating_sub(1);
            types.into_iter().enumerate().map(move |(at, activity_type)| TrackingReport {
                activity: Arc::clone(&activity),
                activity_type,
                oldest_wanted,
                is_last_of_activity: at == last,
            })
        };
        activities.iter().flat_map(of).collect()
    }

    /// Passes its pages to `push` until that returns false.
    pub(super) fn fetch(
        &self,
        client: &Arc<Client>,
        priority: usize,
        page_size: u32,
        push: &mut dyn FnMut(Page<Tracked>) -> bool,
    ) -> Result<()> {
        if self.activity.is_refused.load(Ordering::Relaxed) {
            return Ok(());
        }
        let path = tracking_path(&self.activity.id, self.activity_type);
        let limit = page_size.to_string();
        newest_first(client.pages(TRACKING, &path, &[("limit", &limit)], priority), self.oldest_wanted, push)
    }
}
