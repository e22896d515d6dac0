//! The summary of one campaign activity, counted from the rows of its tracking reports.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::records::ActionSummary;
use super::tracking::ActivityToRead;
use crate::config::ActivityType;
use crate::field::{Integer, Key, Text, Timestamp};
use crate::id::Id;

/// The counts of one activity for each contact, in the order of their ids.
#[derive(Default)]
pub(super) struct SummaryCounts(BTreeMap<Id, Counts>);

#[derive(Default)]
struct Counts {
    /// The last send to the contact, or the first activity of any kind if no send is reported.
    start_on: Option<DateTime<Utc>>,
    rows: [u32; ActivityType::OF_EMAILS.len()],
}

impl SummaryCounts {
    /// Counts one row.
    pub(super) fn add(&mut self, contact: Id, of: ActivityType, at: Option<DateTime<Utc>>) {
        let counts = self.0.entry(contact).or_default();
        let is_sent = counts.rows[ActivityType::Sends as usize] > 0;
        counts.start_on = match (of, is_sent) {
            (ActivityType::Sends, true) => counts.start_on.max(at),
            (ActivityType::Sends, false) => at,
            (_, true) => counts.start_on,
            (_, false) => counts.start_on.into_iter().chain(at).min(),
        };
        counts.rows[of as usize] += 1;
    }

    /// The records of the contacts whose last send is in the window.
    pub(super) fn records(
        self,
        activity: &ActivityToRead,
        is_in_window: impl Fn(DateTime<Utc>) -> bool,
    ) -> impl Iterator<Item = ActionSummary> {
        let campaign_id = Text::from(activity.campaign.id.to_string().as_str());
        let activity_id = Key::from(activity.id.to_string().as_str());
        self.0.into_iter().filter_map(move |(contact, counts)| {
            let start_on = counts.start_on.filter(|at| is_in_window(*at))?;
            let [sends, opens, clicks, bounces, optouts, forwards] =
                counts.rows.map(|rows| Integer(Some(i64::from(rows))));
            Some(ActionSummary {
                contact_id: Key::from(contact.to_string().as_str()),
                campaign_activity_id: activity_id.clone(),
                campaign_id: campaign_id.clone(),
                start_on: Timestamp::from(start_on),
                em_bounces: bounces,
                em_clicks: clicks,
                em_forwards: forwards,
                em_opens: opens,
                em_sends: sends,
                em_unsubscribes: optouts,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp(60 * minute, 0)
    }

    /// The start of the summary that these rows of one contact give.
    fn start_of(rows: &[(ActivityType, i64)]) -> Option<DateTime<Utc>> {
        let mut counts = SummaryCounts::default();
        for (of, minute) in rows {
            counts.add(Id::from("c"), *of, at(*minute));
        }
        counts.0[&Id::from("c")].start_on
    }

    #[test]
    fn a_summary_starts_with_the_last_send_or_else_the_first_activity() {
        assert_eq!(
            start_of(&[
                (ActivityType::Sends, 5),
                (ActivityType::Sends, 3),
                (ActivityType::Opens, 1),
                (ActivityType::Opens, 9)
            ]),
            at(5)
        );
        // Rows come newest first, and the sends before everything else. Without one, the first activity counts.
        assert_eq!(start_of(&[(ActivityType::Opens, 9), (ActivityType::Opens, 7), (ActivityType::Clicks, 8)]), at(7));
        assert_eq!(start_of(&[(ActivityType::Opens, 9), (ActivityType::Sends, 5)]), at(5));
    }

    #[test]
    fn each_contact_is_counted_by_type() {
        let mut counts = SummaryCounts::default();
        for (contact, of) in [
            ("b", ActivityType::Sends),
            ("a", ActivityType::Sends),
            ("a", ActivityType::Opens),
            ("a", ActivityType::Opens),
        ] {
            counts.add(Id::from(contact), of, at(1));
        }
        let rows: Vec<_> = counts.0.iter().map(|(contact, counts)| (contact.to_string(), counts.rows)).collect();
        assert_eq!(rows, [("a".into(), [1, 2, 0, 0, 0, 0]), ("b".into(), [1, 0, 0, 0, 0, 0])]);
    }
}
