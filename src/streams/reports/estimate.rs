//! How many API calls each route takes. Pure: nothing here calls the service.
//!
//! The contact route takes one call per page of each contact's report, and at least one per contact. The campaign route
//! takes one call per campaign, and one per page of each of its tracking reports, at least one. So the campaign route is
//! cheap if few campaigns went to many contacts, and the contact route if there are few contacts.

use std::time::Duration;

use super::due_campaigns::DueCampaign;
use crate::config::ActivityType;
use crate::quota::{DAILY_QUOTA, in_words, share_of_quota};

/// What is known about one report on the contact route before it is read.
#[derive(Clone, Debug, Default)]
pub(super) struct ContactEstimate {
    /// How many contacts still have to be read.
    pub(super) contacts: u64,
    /// The most rows of a page.
    pub(super) rows_a_page: u64,
    /// The calls if no contact had a row: one per contact, or one per part of a window that is split.
    pub(super) least_calls: u64,
    /// How many rows all these contacts have together, if the service's counts of campaigns are known.
    pub(super) rows: Option<u64>,
    /// The number of rows of each contact in the sample.
    pub(super) sample: Vec<u64>,
}

impl ContactEstimate {
    /// A lower bound of its calls.
    pub(super) fn at_least(&self) -> u64 {
        self.least_calls.max(self.rows.unwrap_or(0) / self.rows_a_page.max(1))
    }

    /// How many calls it takes, including those for the sample.
    pub(super) fn calls(&self) -> u64 {
        let sampled = self.sample.len() as u64;
        let sampled_rows: u64 = self.sample.iter().sum();
        let pages = |rows: f64| (rows / as_f64(self.rows_a_page)).ceil().max(1.0);
        if sampled == 0 || (sampled_rows == 0 && self.rows.is_some()) {
            // No contact of the sample has rows, so few contacts have them all, on full pages.
            return self.least_calls + self.rows.unwrap_or(0) / self.rows_a_page.max(1);
        }
        // The counts give the number of rows, the sample shows how they are distributed. If at least half of the sample
        // has rows, and far more than the counts say, the counts are too low: they lack the rows of automations.
        let counted = self.rows.map(|rows| as_f64(rows) / as_f64(self.contacts.max(1)));
        let with_rows = self.sample.iter().filter(|rows| **rows > 0).count();
        let least = if 2 * with_rows >= self.sample.len() { 0.5 } else { 0.0 };
        let scale = match counted {
            Some(counted) if sampled < self.contacts => (counted * as_f64(sampled) / as_f64(sampled_rows)).max(least),
            _ => 1.0,
        };
        let sampled_pages: f64 = self.sample.iter().map(|rows| pages(as_f64(*rows) * scale)).sum();
        let more = (sampled_pages / as_f64(sampled) - 1.0) * as_f64(self.contacts);
        self.least_calls + as_u64(more)
    }
}

/// How many calls the campaign route takes: one per campaign, and one per page of its reports.
pub(super) fn campaign_calls(campaigns: &[DueCampaign], page_size: u64) -> u64 {
    let known: Vec<u64> = campaigns.iter().filter_map(|campaign| campaign.tracked_activities).collect();
    // Campaigns whose activities are unknown are taken to have the average number.
    let average = if known.is_empty() { 1.0 } else { as_f64(known.iter().sum()) / as_f64(known.len() as u64) };
    let of_reports = |campaign: &DueCampaign, activities: u64| -> f64 {
        // The rows of a campaign are spread over its activities.
        let pages = |rows: u64| rows.div_ceil(activities.max(1)).div_ceil(page_size.max(1)).max(1) * activities;
        as_f64(campaign.reports.iter().map(|report| pages(report.rows)).sum())
    };
    let calls = |campaign: &DueCampaign| {
        if let Some(activities) = campaign.tracked_activities {
            return of_reports(campaign, activities);
        }
        let (fewer, share) = (as_u64(average.floor()), average.fract());
        of_reports(campaign, fewer) * (1.0 - share) + of_reports(campaign, fewer + 1) * share
    };
    let details = campaigns.iter().filter(|campaign| !campaign.has_details).count() as u64;
    details + as_u64(campaigns.iter().map(calls).sum())
}

/// How many calls it takes until the first activity is read: all details, since the activities are read in the order of
/// their ids, and the reports of the largest campaign.
pub(super) fn calls_to_progress(campaigns: &[DueCampaign], page_size: u64) -> u64 {
    let pages =
        |campaign: &DueCampaign| campaign.reports.iter().map(|report| report.rows.div_ceil(page_size).max(1)).sum();
    let details = campaigns.iter().filter(|campaign| campaign.tracked_activities.is_none()).count() as u64;
    details + campaigns.iter().map(pages).max().unwrap_or(0)
}

/// Like [`campaign_calls`], from the number of campaigns and of their rows alone.
pub(super) fn campaign_calls_of(campaigns: u64, rows: u64, page_size: u64) -> u64 {
    campaigns * (1 + ActivityType::OF_EMAILS.len() as u64) + rows / page_size.max(1)
}

/// How many calls it takes to look up the campaigns of activities. Those of the sample fill calls of ten; the others
/// turn up page by page, about five per call.
pub(super) fn lookups(sampled: u64, others: u64) -> u64 {
    sampled.div_ceil(10) + others.div_ceil(5)
}

/// How long a number of calls takes at `per_second`.
pub(crate) fn time(calls: u64, per_second: f64) -> Duration {
    Duration::from_secs_f64((as_f64(calls) / per_second).ceil())
}

/// A number of calls in words, with the time it takes at `per_second`, and the share of a day's quota.
pub(crate) fn cost(calls: u64, per_second: f64) -> String {
    let time = in_words(time(calls, per_second));
    let days = match calls.div_ceil(DAILY_QUOTA) {
        0 | 1 => String::new(),
        days => format!(", {days} days"),
    };
    format!("about {calls} calls: {time} at the pace, {} % of the daily quota{days}", share_of_quota(calls))
}

/// Scales a number found in `part` of something up to the `whole`.
pub(super) fn scaled(number: u64, whole: u64, part: u64) -> u64 {
    as_u64(as_f64(number) * as_f64(whole) / as_f64(part.max(1)))
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn as_f64(n: u64) -> f64 {
    n as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate, never negative")]
fn as_u64(n: f64) -> u64 {
    n.round().max(0.0) as u64
}

#[cfg(test)]
mod tests {
    use super::super::due_campaigns::DueReport;
    use super::super::route::{Calls, choose};
    use super::*;
    use crate::config::Route;
    use crate::id::Id;

    #[test]
    fn a_contact_costs_the_pages_that_its_rows_fill() {
        let report = |rows, sample: &[u64]| ContactEstimate {
            contacts: 1000,
            rows_a_page: 100,
            least_calls: 1000,
            rows,
            sample: sample.into(),
        };
        assert_eq!(report(None, &[]).calls(), 1000);
        assert_eq!(report(Some(800_000), &[]).at_least(), 8000);
        assert_eq!(report(None, &[0, 100, 101, 250]).calls(), 1000 * (1 + 1 + 2 + 3) / 4);
        // The sample met fewer rows a contact than there are.
        assert_eq!(report(Some(800_000), &[400, 400]).calls(), 8000);
        // Those with rows are few, and none was met.
        assert_eq!(report(Some(50_000), &[0; 20]).calls(), 1500);
        // Windows of five years are more calls, also without a row.
        assert_eq!(ContactEstimate { least_calls: 3000, ..report(None, &[0, 300]) }.calls(), 4000);
    }

    fn campaign(rows: [u64; 6], tracked: Option<u64>) -> DueCampaign {
        let reports = ActivityType::OF_EMAILS
            .into_iter()
            .zip(rows)
            .map(|(activity_type, rows)| DueReport { activity_type, rows })
            .collect();
        DueCampaign {
            id: Id::from("c"),
            name: None,
            for_summary: true,
            for_details: false,
            reports,
            is_sent: true,
            tracked_activities: tracked,
            has_details: false,
        }
    }

    #[test]
    fn a_campaign_costs_its_detail_and_a_page_of_each_report_at_least() {
        assert_eq!(campaign_calls(&[campaign([0; 6], Some(1))], 500), 7);
        assert_eq!(campaign_calls(&[campaign([1200, 501, 500, 1, 0, 0], Some(1))], 500), 1 + 3 + 2 + 4);
        // Two activities share the rows.
        assert_eq!(campaign_calls(&[campaign([1200, 0, 0, 0, 0, 0], Some(2))], 500), 1 + 4 + 10);
        assert_eq!(campaign_calls(&[campaign([0; 6], Some(0))], 500), 1);
        // Every other campaign has a second activity.
        let some = [Some(1), Some(2), None, None].map(|tracked| campaign([0; 6], tracked));
        assert_eq!(campaign_calls(&some, 500), 4 + 4 * 9);
    }

    /// An account whose every call can be counted.
    struct Account {
        /// The number of campaigns that each contact was sent.
        sent: Vec<u64>,
        campaigns: u64,
    }

    /// Opens, clicks, bounces and so on, for each hundred sends.
    const OF_HUNDRED: [u64; 6] = [100, 90, 15, 3, 1, 1];

    impl Account {
        /// `heavy` of a hundred contacts get the campaigns, and each of these the given share of them.
        fn new(contacts: u64, campaigns: u64, heavy: u64, share: u64) -> Account {
            let mut random = fastrand::Rng::with_seed(contacts * 31 + campaigns * 7 + heavy + share);
            let mut of = |_| {
                let mean = campaigns * share / 100;
                if random.u64(0..100) < heavy { random.u64(mean / 2..=mean + mean / 2).min(campaigns) } else { 0 }
            };
            Account { sent: (0..contacts).map(&mut of).collect(), campaigns }
        }

        fn sends(&self) -> u64 {
            self.sent.iter().sum()
        }

        fn details(sent: u64) -> u64 {
            sent * OF_HUNDRED.iter().sum::<u64>() / 100
        }

        fn by_contact(&self) -> u64 {
            let pages = |rows: u64, page: u64| rows.div_ceil(page).max(1);
            self.sent.iter().map(|sent| pages(*sent, 200) + pages(Account::details(*sent), 100)).sum()
        }

        fn by_campaign(&self) -> u64 {
            campaign_calls(&self.to_read(), 500)
        }

        fn to_read(&self) -> Vec<DueCampaign> {
            let sends = self.sends();
            let of = |n: u64| OF_HUNDRED.map(|k| (sends * k / 100 + n) / self.campaigns);
            (0..self.campaigns).map(|n| campaign(of(n), Some(1))).collect()
        }

        /// The two reports as a sample shows them.
        fn reports(&self, sample: usize) -> [ContactEstimate; 2] {
            let contacts = self.sent.len() as u64;
            let some: Vec<u64> =
                super::super::plan::spread_over(self.sent.len(), sample).map(|at| self.sent[at]).collect();
            let report = |page, rows, sample| ContactEstimate {
                contacts,
                rows_a_page: page,
                least_calls: contacts,
                rows: Some(rows),
                sample,
            };
            [
                report(200, self.sends(), some.clone()),
                report(100, Account::details(self.sends()), some.into_iter().map(Account::details).collect()),
            ]
        }
    }

    #[test]
    fn over_a_grid_of_accounts_the_plan_is_true_and_the_route_never_much_dearer() {
        for contacts in [4, 40, 350, 1200, 5000, 26_000] {
            for campaigns in [1, 12, 22, 120, 400, 420, 1500, 5000] {
                for heavy in [3, 10, 50, 100] {
                    for share in [2, 30, 100] {
                        let account = Account::new(contacts, campaigns, heavy, share);
                        let case = format!("{contacts} contacts, {campaigns} campaigns, {heavy} % get {share} %");
                        let real = (account.by_contact(), account.by_campaign());
                        let planned: u64 = account.reports(20).iter().map(ContactEstimate::calls).sum();
                        let least: u64 = account.reports(0).iter().map(ContactEstimate::at_least).sum();
                        assert!(
                            planned * 4 >= real.0 * 3 && planned * 4 <= real.0 * 5,
                            "{case}: {planned} for {real:?}"
                        );
                        assert!(least <= real.0, "{case}: at least {least} for {real:?}");
                        let route = match choose(Calls::AtLeast(least), real.1, false).0 {
                            Route::Contacts => choose(Calls::About(planned), real.1, false).0,
                            Route::Campaigns => Route::Campaigns,
                        };
                        let (taken, other) = match route {
                            Route::Contacts => (real.0, real.1),
                            Route::Campaigns => (real.1, real.0),
                        };
                        assert!(taken * 4 <= other * 5, "{case}: {route:?} costs {taken}, the other {other}");
                    }
                }
            }
        }
    }
}
