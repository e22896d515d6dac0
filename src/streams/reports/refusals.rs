//! The campaign activities whose tracking reports the service refuses.

use std::collections::{BTreeMap, HashSet};

use super::reading::Reading;
use super::tracking::TrackingReport;
use crate::error::{Error, Result};
use crate::id::Id;
use crate::streams::campaigns::{REFUSING_CAMPAIGNS, named};

/// How many refused activities the warning names.
const NAMED_ACTIVITIES: usize = 3;

/// The activities whose reports the service refuses.
#[derive(Default)]
pub(super) struct Refusals {
    by_status: BTreeMap<u16, u64>,
    named: Vec<String>,
    /// The campaigns that answered 403.
    forbidden: HashSet<Id>,
    /// Whether any report was answered otherwise.
    has_answered: bool,
    /// How many campaigns are read.
    campaigns: usize,
}

impl Refusals {
    pub(super) fn new(reports: &[TrackingReport]) -> Refusals {
        let campaigns: HashSet<&Id> = reports.iter().map(|report| &report.activity.campaign.id).collect();
        Refusals { campaigns: campaigns.len(), ..Refusals::default() }
    }

    /// Records that a report was read.
    pub(super) fn note_answer(&mut self) {
        self.has_answered = true;
    }

    /// Whether all reports so far are refused with 403, so that the next one may show that the stream is. Until then the
    /// resume point must not move past them.
    pub(super) fn may_be_of_stream(&self) -> bool {
        !self.has_answered && !self.forbidden.is_empty()
    }

    /// Records an error on the first page of a report.
    ///
    /// # Errors
    /// Any error that does not concern this activity alone: other failures, and 403 for each of the first campaigns.
    pub(super) fn note(&mut self, report: &TrackingReport, error: Error) -> Result<()> {
        let activity = &report.activity;
        let (status, why) = match error {
            Error::Refused(why) => (400, why),
            Error::Forbidden(why) => (403, why),
            Error::NotFound(why) => (404, why),
            other => return Err(other),
        };
        log::debug!("no {} of campaign activity {}: {why}", report.activity_type.report_name(), activity.id);
        if status == 403 {
            self.forbidden.insert(activity.campaign.id.clone());
            if !self.has_answered && self.forbidden.len() >= REFUSING_CAMPAIGNS.min(self.campaigns) {
                return Err(Error::Forbidden(why));
            }
        } else {
            self.has_answered = true;
        }
        *self.by_status.entry(status).or_default() += 1;
        if self.named.len() < NAMED_ACTIVITIES {
            let campaign = &activity.campaign;
            self.named.push(format!("{} of campaign {}", activity.id, named(&campaign.id, campaign.name.as_deref())));
        }
        Ok(())
    }

    /// Warns about the rows that are missing, unless the next run asks for them again.
    pub(super) fn log(&self, readings: &[Reading]) {
        if self.by_status.is_empty() || self.may_be_of_stream() {
            return;
        }
        let streams: Vec<&str> = readings.iter().map(|reading| reading.stream.name).collect();
        let counts: Vec<String> =
            self.by_status.iter().map(|(status, count)| format!("{count} with {status}")).collect();
        log::warn!(
            "{}: the service refuses the reports of some campaign activities ({}), so these rows are missing: {}. With \
             activity_route set to contacts they are read by contact",
            streams.join(" and "),
            counts.join(", "),
            self.named.join(", ")
        );
    }
}
