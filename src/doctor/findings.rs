//! Turns observations into findings: one pure function per question.

use std::fmt::Write;

use chrono::{DateTime, Utc};

use super::observe::{Boundary, DeletedReport, Listed, Observations, PageSize};
use super::report::{Finding, Verdict};
use crate::config::{ActivityRoute, Config};
use crate::streams::Contact;

use Verdict::{CannotTell, Confirmed, Refuted};

/// All findings, in the order in which they are shown.
pub(super) fn findings(seen: &Observations, config: &Config) -> Vec<Finding> {
    vec![
        counts(
            "contacts_are_all_listed",
            "The listing of contacts has as many as the service counts",
            &seen.contacts,
            "The tap reads a listing again if it changed while it was read.",
        ),
        counts(
            "lists_are_all_listed",
            "The listing of e-mail lists has as many as the service counts",
            &seen.lists,
            "The tap reads e-mail and SMS lists, deleted ones too.",
        ),
        campaigns(seen),
        boundary("updated_after_is_inclusive", "updated_after includes the second that it names", seen.updated_after),
        boundary("optout_after_is_inclusive", "optout_after includes the second that it names", seen.optout_after),
        opt_outs(seen),
        deletions(seen, config),
        notes(seen, config),
        consents(seen, config),
        undated("list_memberships_move_updated_at", "A change of a contact's lists moves updated_at", config),
        undated("tags_move_updated_at", "A change of a contact's tags moves updated_at", config),
        both_routes(seen, config),
        unique_counts(seen),
        foreign_activities(seen, config),
        deleted_report(seen),
        page_size(
            "page_size_500_is_honoured",
            "A page of contacts may have 500 rows",
            seen.page_500,
            "The tap requests page_size rows and follows the next link, however many rows it gets.",
        ),
        page_size(
            "page_size_1000_is_honoured",
            "A page of contact lists may have 1,000 rows",
            seen.page_1000,
            "The tap requests 500 at most, so it does not depend on this.",
        ),
        latency(seen, config),
    ]
}

fn plural(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn counts(id: &'static str, statement: &'static str, listed: &Listed, consequence: &'static str) -> Finding {
    let verdict = match (&listed.refused, listed.count) {
        (Some(why), _) => (CannotTell, format!("It could not be read: {why}.")),
        (None, Some(count)) if !listed.is_complete => (CannotTell, format!("{} of {count} were sampled.", listed.rows)),
        (None, Some(count)) => {
            let verdict = if listed.rows == count { Confirmed } else { Refuted };
            (verdict, format!("The service counts {count}; the listing has {}.", listed.rows))
        }
        (None, None) => (CannotTell, format!("The service gives no count; the listing has {}.", listed.rows)),
    };
    Finding::new(id, statement, verdict, consequence)
}

fn campaigns(seen: &Observations) -> Finding {
    let listed = &seen.campaigns;
    let verdict = match &listed.refused {
        Some(why) => (CannotTell, format!("They could not be read: {why}.")),
        None if listed.rows == 0 => (CannotTell, "There is no campaign.".into()),
        None if !listed.is_complete => (CannotTell, format!("{} were sampled.", plural(listed.rows, "campaign"))),
        None => (Confirmed, plural(listed.rows, "campaign") + " listed; the service gives no count."),
    };
    Finding::new(
        "campaigns_can_be_listed",
        "Campaigns can be listed to the end",
        verdict,
        "The tap lists all campaigns in every run, and also reads campaigns that are only in the summaries.",
    )
}

fn boundary(id: &'static str, statement: &'static str, boundary: Boundary) -> Finding {
    let verdict = match boundary {
        Boundary::Inclusive => (Confirmed, "The newest row was returned when its own second was named.".to_owned()),
        Boundary::Exclusive => (Refuted, "The newest row was not returned when its own second was named.".to_owned()),
        Boundary::Unknown => (CannotTell, "There is no row to try it on, or the call was refused.".to_owned()),
    };
    Finding::new(
        id,
        statement,
        verdict,
        "The tap asks from one second earlier and skips older rows, so a yes and a no are equally good.",
    )
}

/// Records that show whether a change moves `updated_at`: how many changes are dated later than the record, and how many
/// at the same time.
#[derive(Debug, Default, PartialEq)]
struct Moves {
    later: u64,
    with_it: u64,
}

impl Moves {
    /// `dates` gives the date of a change, and the record's at the precision of that date.
    fn count(contacts: &[Contact], dates: impl Fn(&Contact) -> Option<(DateTime<Utc>, DateTime<Utc>)>) -> Moves {
        let mut moves = Moves::default();
        for (changed, updated) in contacts.iter().filter_map(dates) {
            if changed > updated {
                moves.later += 1;
            } else if changed == updated {
                moves.with_it += 1;
            }
        }
        moves
    }

    /// Whether the change moves `updated_at`. A single later date refutes it. Equal dates confirm it only if there are
    /// several, since one may be chance.
    fn verdict(&self, what: &str) -> (Verdict, String) {
        let evidence = format!(
            "{} after the contact's own updated_at, {} at the same time.",
            plural(self.later, what) + if self.later == 1 { " is dated" } else { " are dated" },
            self.with_it
        );
        match self {
            Moves { later: 1.., .. } => (Refuted, evidence),
            Moves { with_it: 3.., .. } => (Confirmed, evidence),
            _ => (CannotTell, evidence),
        }
    }
}

fn opt_outs(seen: &Observations) -> Finding {
    let moves = Moves::count(&seen.sample, |contact| {
        Some((contact.email_address.as_ref()?.opt_out_date.instant()?, contact.updated_at.instant()?))
    });
    Finding::new(
        "opt_outs_move_updated_at",
        "An unsubscribe moves updated_at",
        moves.verdict("opt-out"),
        "The tap lists opt-outs separately (optout_after), so none is missed, with a yes or a no.",
    )
}

/// Why the tap reads all contacts now and then.
const COMPLETE_READS: &str = "A complete read of the contacts finds the change, whether it moves updated_at or not.";

/// A change that incremental reads do not find is lost if complete reads are off.
fn undated_change(finding: Finding, config: &Config) -> Finding {
    let loses = finding.verdict == Refuted && config.contacts_full_refresh_days == 0;
    finding.losing_data(loses, "set contacts_full_refresh_days to 1, or to how often such changes must arrive")
}

fn deletions(seen: &Observations, config: &Config) -> Finding {
    // The service dates a deletion by the day.
    let moves = Moves::count(&seen.sample, |contact| {
        let day = |at: DateTime<Utc>| at.date_naive().and_hms_opt(0, 0, 0).map(|at| at.and_utc());
        Some((day(contact.deleted_at.instant()?)?, day(contact.updated_at.instant()?)?))
    });
    let finding = Finding::new(
        "deletions_move_updated_at",
        "A deletion moves updated_at",
        moves.verdict("deletion"),
        COMPLETE_READS,
    );
    undated_change(finding, config)
}

fn notes(seen: &Observations, config: &Config) -> Finding {
    let moves = Moves::count(&seen.sample, |contact| {
        let newest = contact.notes.as_ref()?.iter().filter_map(|note| note.created_at.instant()).max()?;
        Some((newest, contact.updated_at.instant()?))
    });
    let finding =
        Finding::new("notes_move_updated_at", "A new note moves updated_at", moves.verdict("note"), COMPLETE_READS);
    undated_change(finding, config)
}

fn consents(seen: &Observations, config: &Config) -> Finding {
    let moves = Moves::count(&seen.sample, |contact| {
        let consents = contact.sms_channel.as_ref()?.sms_channel_consents.as_ref()?;
        let newest = consents.iter().filter_map(|consent| consent.updated_at.instant()).max()?;
        Some((newest, contact.updated_at.instant()?))
    });
    let finding = Finding::new(
        "consents_move_updated_at",
        "A change of the SMS consent moves updated_at",
        moves.verdict("consent"),
        COMPLETE_READS,
    );
    undated_change(finding, config)
}

/// Changes without a date, which reads alone cannot decide.
fn undated(id: &'static str, statement: &'static str, config: &Config) -> Finding {
    let mut finding = Finding::new(
        id,
        statement,
        (CannotTell, "The service dates neither lists nor tags of a contact, so reads alone cannot tell.".into()),
        COMPLETE_READS,
    );
    if config.contacts_full_refresh_days == 0 {
        finding.setting = Some("set contacts_full_refresh_days to 1; then it does not matter".into());
    }
    finding
}

/// Whether this config may read the reports campaign by campaign.
fn takes_campaigns(config: &Config) -> bool {
    config.activity_route != ActivityRoute::Contacts && config.contact_ids.is_empty()
}

fn both_routes(seen: &Observations, config: &Config) -> Finding {
    let (verdict, loses) = match (&seen.both_routes, &seen.reports_refused) {
        (_, Some(why)) => ((CannotTell, format!("The reports of campaigns could not be read: {why}.")), false),
        (None, None) => ((CannotTell, "There is no sent campaign that is cheap enough to read.".into()), false),
        (Some(both), None) => {
            let verdict = if both.by_campaign_only + both.by_contact_only == 0 { Confirmed } else { Refuted };
            let evidence = format!(
                "Of {}: {} on both routes, {} by campaign only, {} by contact only.",
                plural(both.contacts, "contact"),
                plural(both.same, "row"),
                both.by_campaign_only,
                both.by_contact_only
            );
            ((verdict, evidence), both.by_contact_only > 0 && takes_campaigns(config))
        }
    };
    Finding::new(
        "both_routes_give_the_same_rows",
        "A campaign's rows are the same contact by contact and campaign by campaign",
        verdict,
        "The tap takes the cheaper route and keeps it.",
    )
    .losing_data(loses, "set activity_route to contacts")
}

fn unique_counts(seen: &Observations) -> Finding {
    let mut evidence = String::new();
    let (mut differ, mut ids) = (0u64, Vec::new());
    for campaign in &seen.reconciled {
        let different = campaign.contacts.iter().filter(|(_, (rows, counted))| rows != counted);
        let short: Vec<String> = different
            .map(|(of, (rows, counted))| format!("{} {rows} in the rows, {counted} counted", of.report_name()))
            .collect();
        if !short.is_empty() {
            differ += 1;
            let _ = write!(evidence, " One: {}.", short.join("; "));
            ids.push(campaign.campaign_id.clone());
        }
    }
    let campaigns = seen.reconciled.len() as u64;
    let verdict = match (campaigns, differ) {
        (0, _) => (CannotTell, "There is no sent campaign that is cheap enough to read.".to_owned()),
        (_, 0) => (Confirmed, format!("{} agree, kind by kind.", plural(campaigns, "campaign"))),
        _ => (Refuted, format!("{differ} of {} differ.{evidence}", plural(campaigns, "campaign"))),
    };
    Finding::new(
        "unique_counts_are_those_of_the_rows",
        "The unique counts of a campaign are the distinct contacts of its rows",
        verdict,
        "Counts may exceed rows where contacts were erased, and lag behind them for hours; rows of machine opens may \
         exceed counts. The tap writes both as the service has them.",
    )
    .with_ids(ids)
}

fn foreign_activities(seen: &Observations, config: &Config) -> Finding {
    let foreign = seen.foreign_activities.len() as u64;
    let verdict = match (seen.looked_up, foreign) {
        (0, _) => (CannotTell, "No contact of the sample has activity of another campaign.".to_owned()),
        (_, 0) => (Confirmed, format!("All {} that were looked up do.", plural(seen.looked_up, "activity id"))),
        _ => (Refuted, format!("{foreign} of {} do not.", plural(seen.looked_up, "activity id"))),
    };
    Finding::new(
        "all_activity_is_of_listed_campaigns",
        "All activity of contacts belongs to campaigns that are listed",
        verdict,
        "Sendings of automations, and others that are not listed, can be read contact by contact only.",
    )
    .losing_data(foreign > 0 && takes_campaigns(config), "set activity_route to contacts, if you need this activity")
    .with_ids(seen.foreign_activities.clone())
}

fn deleted_report(seen: &Observations) -> Finding {
    let verdict = match seen.deleted_report {
        DeletedReport::Answers => (Confirmed, "The report of a deleted contact answered.".to_owned()),
        DeletedReport::NotFound => (Refuted, "The report of a deleted contact answered 404.".to_owned()),
        DeletedReport::Unknown => (CannotTell, "There is no deleted contact, or the call was refused.".to_owned()),
    };
    Finding::new(
        "deleted_contacts_keep_their_reports",
        "A deleted contact's report can still be read",
        verdict,
        "The tap logs how many contacts have no report and continues; the campaign route has their rows all the same.",
    )
}

fn page_size(id: &'static str, statement: &'static str, size: PageSize, consequence: &'static str) -> Finding {
    let verdict = match size {
        PageSize::Honoured => (Confirmed, "It was honoured.".to_owned()),
        PageSize::Refused => (Refuted, "It was refused with 400.".to_owned()),
        PageSize::Capped => (Refuted, "The page had fewer rows than requested, although there are more.".to_owned()),
        PageSize::Unknown => (CannotTell, "There are too few rows to try it on, or the call was refused.".to_owned()),
    };
    Finding::new(id, statement, verdict, consequence)
}

fn latency(seen: &Observations, config: &Config) -> Finding {
    let seconds = seen.latency.as_secs_f64();
    let at_once = 8.0;
    let allowed = at_once / seconds.max(0.001);
    let verdict = if seen.latency.is_zero() {
        (CannotTell, "No call was answered.".to_owned())
    } else {
        let verdict = if allowed >= config.requests_per_second { Confirmed } else { Refuted };
        (
            verdict,
            format!(
                "The median call takes {:.0} ms; eight at once allow {allowed:.0} calls a second.",
                seconds * 1000.0
            ),
        )
    };
    Finding::new(
        "the_pace_can_be_kept",
        "The service answers fast enough for requests_per_second",
        verdict,
        "The tap makes up to eight calls at once, so that the pace is the limit and not the latency.",
    )
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
            let moves = Moves::count(&contacts, |contact| {
                Some((contact.email_address.as_ref()?.opt_out_date.instant()?, contact.updated_at.instant()?))
            });
            moves.verdict("opt-out").0
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
        let verdict = |listed: &Listed| counts("a", "b", listed, "c").verdict;
        assert_eq!(verdict(&listed(7, true)), Confirmed);
        assert_eq!(verdict(&listed(6, true)), Refuted);
        assert_eq!(verdict(&listed(7, false)), CannotTell);
    }
}
