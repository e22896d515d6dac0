//! Turns observations into findings: a table of the questions, and the functions that derive an answer from several calls.

use super::observe::{Listed, Observations};
use super::report::{Answer, Finding, Verdict};
use crate::config::{ActivityRoute, Config};
use crate::shown::plural;
use crate::streams::Contact;

use Verdict::{CannotTell, Confirmed, Refuted};

/// All findings, in the order in which they are shown.
pub(super) fn findings(seen: &Observations, config: &Config) -> Vec<Finding> {
    let mut findings = about_listings(seen);
    findings.extend(about_changes(&seen.sample, config));
    findings.extend(about_reports(seen, config));
    findings.extend(about_limits(seen, config));
    findings
}

fn about_listings(seen: &Observations) -> Vec<Finding> {
    let consequence_of_boundary =
        "The tap asks from one second earlier and skips older rows, so a yes and a no are equally good.";
    vec![
        Finding::new(
            "contacts_are_all_listed",
            "The listing of contacts has as many as the service counts",
            compare_count(&seen.contacts),
            "The tap reads a listing again if it changed while it was read.",
        ),
        Finding::new(
            "lists_are_all_listed",
            "The listing of e-mail lists has as many as the service counts",
            compare_count(&seen.lists),
            "The tap reads e-mail and SMS lists, deleted ones too.",
        ),
        Finding::new(
            "campaigns_can_be_listed",
            "Campaigns can be listed to the end",
            judge_campaigns(&seen.campaigns),
            "The tap lists all campaigns in every run, and also reads campaigns that are only in the summaries.",
        ),
        Finding::new(
            "updated_after_is_inclusive",
            "updated_after includes the second that it names",
            seen.updated_after.clone(),
            consequence_of_boundary,
        ),
        Finding::new(
            "optout_after_is_inclusive",
            "optout_after includes the second that it names",
            seen.optout_after.clone(),
            consequence_of_boundary,
        ),
    ]
}

/// Which changes of a contact move its `updated_at`, by which incremental reads find them.
fn about_changes(contacts: &[Contact], config: &Config) -> Vec<Finding> {
    let reads_all_at_times = config.contacts_full_refresh_days > 0;
    let found_by_complete_read = |id, statement, answer: Answer| {
        let loses = answer.0 == Refuted && !reads_all_at_times;
        let consequence = "A complete read of the contacts finds the change, whether it moves updated_at or not.";
        Finding::new(id, statement, answer, consequence)
            .losing_data(loses, "set contacts_full_refresh_days to 1, or to how often such changes must arrive")
    };
    let without_date = |id, statement| {
        let evidence = "The service dates neither lists nor tags of a contact, so reads alone cannot tell.";
        let setting = "set contacts_full_refresh_days to 1; then it does not matter".to_owned();
        let finding = found_by_complete_read(id, statement, (CannotTell, evidence.into()));
        Finding { setting: (!reads_all_at_times).then_some(setting), ..finding }
    };
    let opt_outs = judge_change(contacts, "opt-out", |contact| {
        Some((contact.email_address.as_ref()?.opt_out_date.instant()?, contact.updated_at.instant()?))
    });
    // The service dates a deletion by the day.
    let deletions = judge_change(contacts, "deletion", |contact| {
        Some((contact.deleted_at.instant()?.date_naive(), contact.updated_at.instant()?.date_naive()))
    });
    let notes = judge_change(contacts, "note", |contact| {
        let newest = contact.notes.as_ref()?.iter().filter_map(|note| note.created_at.instant()).max()?;
        Some((newest, contact.updated_at.instant()?))
    });
    let consents = judge_change(contacts, "consent", |contact| {
        let consents = contact.sms_channel.as_ref()?.sms_channel_consents.as_ref()?;
        let newest = consents.iter().filter_map(|consent| consent.updated_at.instant()).max()?;
        Some((newest, contact.updated_at.instant()?))
    });
    vec![
        Finding::new(
            "opt_outs_move_updated_at",
            "An unsubscribe moves updated_at",
            opt_outs,
            "The tap lists opt-outs separately (optout_after), so none is missed, with a yes or a no.",
        ),
        found_by_complete_read("deletions_move_updated_at", "A deletion moves updated_at", deletions),
        found_by_complete_read("notes_move_updated_at", "A new note moves updated_at", notes),
        found_by_complete_read("consents_move_updated_at", "A change of the SMS consent moves updated_at", consents),
        without_date("list_memberships_move_updated_at", "A change of a contact's lists moves updated_at"),
        without_date("tags_move_updated_at", "A change of a contact's tags moves updated_at"),
    ]
}

fn about_reports(seen: &Observations, config: &Config) -> Vec<Finding> {
    let may_read_by_campaign = config.activity_route != ActivityRoute::Contacts && config.contact_ids.is_empty();
    let lacks_rows = seen.both_routes.as_ref().is_some_and(|both| both.by_contact_only > 0);
    let (unique_counts, differing) = compare_unique_counts(seen);
    vec![
        Finding::new(
            "both_routes_give_the_same_rows",
            "A campaign's rows are the same contact by contact and campaign by campaign",
            compare_routes(seen),
            "The tap takes the cheaper route and keeps it.",
        )
        .losing_data(lacks_rows && may_read_by_campaign, "set activity_route to contacts"),
        Finding::new(
            "unique_counts_are_those_of_the_rows",
            "The unique counts of a campaign are the distinct contacts of its rows",
            unique_counts,
            "Counts may exceed rows where contacts were erased, and lag behind them for hours; rows of machine opens may \
             exceed counts. The tap writes both as the service has them.",
        )
        .with_ids(differing),
        Finding::new(
            "all_activity_is_of_listed_campaigns",
            "All activity of contacts belongs to campaigns that are listed",
            judge_activity(seen),
            "Sendings of automations, and others that are not listed, can be read contact by contact only.",
        )
        .losing_data(
            !seen.foreign_activities.is_empty() && may_read_by_campaign,
            "set activity_route to contacts, if you need this activity",
        )
        .with_ids(seen.foreign_activities.clone()),
        Finding::new(
            "deleted_contacts_keep_their_reports",
            "A deleted contact's report can still be read",
            seen.deleted_report.clone(),
            "The tap logs how many contacts have no report and continues; the campaign route has their rows all the same.",
        ),
    ]
}

fn about_limits(seen: &Observations, config: &Config) -> Vec<Finding> {
    vec![
        Finding::new(
            "page_size_500_is_honoured",
            "A page of contacts may have 500 rows",
            seen.page_500.clone(),
            "The tap requests page_size rows and follows the next link, however many rows it gets.",
        ),
        Finding::new(
            "page_size_1000_is_honoured",
            "A page of contact lists may have 1,000 rows",
            seen.page_1000.clone(),
            "The tap requests 500 at most, so it does not depend on this.",
        ),
        Finding::new(
            "the_pace_can_be_kept",
            "The service answers fast enough for requests_per_second",
            judge_latency(seen, config),
            "The tap makes up to eight calls at once, so that the pace is the limit and not the latency.",
        ),
    ]
}

fn compare_count(listed: &Listed) -> Answer {
    match (&listed.refused, listed.count) {
        (Some(why), _) => (CannotTell, format!("It could not be read: {why}.")),
        (None, Some(count)) if !listed.is_complete => (CannotTell, format!("{} of {count} were sampled.", listed.rows)),
        (None, Some(count)) => {
            let verdict = if listed.rows == count { Confirmed } else { Refuted };
            (verdict, format!("The service counts {count}; the listing has {}.", listed.rows))
        }
        (None, None) => (CannotTell, format!("The service gives no count; the listing has {}.", listed.rows)),
    }
}

fn judge_campaigns(campaigns: &Listed) -> Answer {
    let count = plural(campaigns.rows, "campaign");
    match &campaigns.refused {
        Some(why) => (CannotTell, format!("They could not be read: {why}.")),
        None if campaigns.rows == 0 => (CannotTell, "There is no campaign.".into()),
        None if !campaigns.is_complete => (CannotTell, format!("{count} were sampled.")),
        None => (Confirmed, format!("{count} listed; the service gives no count.")),
    }
}

/// Whether a change moves `updated_at`. `dates` gives the dates of the change and of the contact's last update. A single
/// change dated later refutes it. Equal dates confirm it only if there are several, since one may be chance.
fn judge_change<T: Ord>(contacts: &[Contact], what: &str, dates: impl Fn(&Contact) -> Option<(T, T)>) -> Answer {
    let (mut later, mut equal) = (0, 0);
    for (changed, updated) in contacts.iter().filter_map(dates) {
        later += u64::from(changed > updated);
        equal += u64::from(changed == updated);
    }
    let verdict = match (later, equal) {
        (1.., _) => Refuted,
        (0, 3..) => Confirmed,
        _ => CannotTell,
    };
    let are = if later == 1 { "is" } else { "are" };
    let later = plural(later, what);
    (verdict, format!("{later} {are} dated after the contact's own updated_at, {equal} at the same time."))
}

fn compare_routes(seen: &Observations) -> Answer {
    if let Some(why) = &seen.reports_refused {
        return (CannotTell, format!("The reports of campaigns could not be read: {why}."));
    }
    let Some(both) = &seen.both_routes else { return (CannotTell, NO_CHEAP_CAMPAIGN.into()) };
    let evidence = format!(
        "Of {}: {} on both routes, {} by campaign only, {} by contact only.",
        plural(both.contacts, "contact"),
        plural(both.same, "row"),
        both.by_campaign_only,
        both.by_contact_only
    );
    (if both.by_campaign_only + both.by_contact_only == 0 { Confirmed } else { Refuted }, evidence)
}

const NO_CHEAP_CAMPAIGN: &str = "There is no sent campaign that is cheap enough to read.";

/// The answer, and the ids of the campaigns whose counts differ from their rows.
fn compare_unique_counts(seen: &Observations) -> (Answer, Vec<String>) {
    let (mut examples, mut ids) = (Vec::new(), Vec::new());
    for campaign in &seen.reconciled {
        let differing = campaign.contacts.iter().filter(|(_, rows, counted)| rows != counted);
        let differing: Vec<String> = differing
            .map(|(of, rows, counted)| format!("{} {rows} in the rows, {counted} counted", of.report_name()))
            .collect();
        if !differing.is_empty() {
            examples.push(format!(" One: {}.", differing.join("; ")));
            ids.push(campaign.campaign_id.clone());
        }
    }
    let campaigns = plural(seen.reconciled.len() as u64, "campaign");
    let answer = match (seen.reconciled.len(), ids.len()) {
        (0, _) => (CannotTell, NO_CHEAP_CAMPAIGN.into()),
        (_, 0) => (Confirmed, format!("{campaigns} agree, kind by kind.")),
        (_, differing) => (Refuted, format!("{differing} of {campaigns} differ.{}", examples.concat())),
    };
    (answer, ids)
}

fn judge_activity(seen: &Observations) -> Answer {
    let looked_up = plural(seen.looked_up, "activity id");
    match (seen.looked_up, seen.foreign_activities.len()) {
        (0, _) => (CannotTell, "No contact of the sample has activity of another campaign.".into()),
        (_, 0) => (Confirmed, format!("All {looked_up} that were looked up do.")),
        (_, foreign) => (Refuted, format!("{foreign} of {looked_up} do not.")),
    }
}

fn judge_latency(seen: &Observations, config: &Config) -> Answer {
    if seen.latency.is_zero() {
        return (CannotTell, "No call was answered.".into());
    }
    let seconds = seen.latency.as_secs_f64();
    let allowed = 8.0 / seconds.max(0.001);
    let verdict = if allowed >= config.requests_per_second { Confirmed } else { Refuted };
    let milliseconds = seconds * 1000.0;
    (verdict, format!("The median call takes {milliseconds:.0} ms; eight at once allow {allowed:.0} calls a second."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contact(text: &str) -> Contact {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn one_row_dated_later_refutes_and_three_dated_alike_confirm() {
        let (at, later) = ("2026-01-02T03:04:05Z", "2026-02-02T03:04:05Z");
        let row = |opted: &str| {
            contact(&format!(
                r#"{{"contact_id":"a","updated_at":"{at}","email_address":{{"opt_out_date":"{opted}"}}}}"#
            ))
        };
        let verdict = |dates: &[&str]| {
            let contacts: Vec<Contact> = dates.iter().map(|date| row(date)).collect();
            let dates = |contact: &Contact| {
                Some((contact.email_address.as_ref()?.opt_out_date.instant()?, contact.updated_at.instant()?))
            };
            judge_change(&contacts, "opt-out", dates).0
        };
        assert_eq!(verdict(&[at, at, at]), Confirmed);
        assert_eq!(verdict(&[at, at, at, later]), Refuted);
        assert_eq!(verdict(&[at, at]), CannotTell);
        // A record that was updated since says nothing.
        assert_eq!(verdict(&["2020-01-01T00:00:00Z"; 5]), CannotTell);
    }

    #[test]
    fn a_listing_that_was_sampled_confirms_nothing() {
        let listed = |rows, is_complete| Listed { count: Some(7), rows, is_complete, ..Listed::default() };
        let verdict = |listed: &Listed| compare_count(listed).0;
        assert_eq!(verdict(&listed(7, true)), Confirmed);
        assert_eq!(verdict(&listed(6, true)), Refuted);
        assert_eq!(verdict(&listed(7, false)), CannotTell);
    }
}
