//! Which route the contact reports take, and why. Pure: nothing here calls the service.

use std::fmt;

use super::DETAILS;
use super::reading::Reading;
use crate::config::Route;
use crate::run::Run;

/// A switch away from the campaign route must save at least this many calls, and at least half of them.
const WORTH_A_SWITCH: u64 = 1000;

/// Why a route is taken.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reason {
    /// The setting `activity_route` names it.
    Setting,
    /// An interrupted read is continued, on its own route.
    Interrupted,
    /// `contact_ids` names the contacts, so only their reports are needed.
    NamedContacts,
    /// Activity of landing pages is selected, which only the contact route has.
    LandingPages,
    /// Earlier runs took it: the rows of both routes differ in some columns, so a switch needs a good reason.
    Bookmark,
    /// It is cheaper than the other route. The campaign route may cost a tenth more, since it fills more columns.
    Cost { other: Calls },
    /// It saves so many calls that a switch from the campaign route is worth it.
    Savings { by_campaign: u64 },
    /// The service refuses the campaign route.
    Refused { why: String, by_campaign: u64 },
}

/// How many calls a route takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Calls {
    About(u64),
    AtLeast(u64),
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Calls::About(calls) => write!(f, "about {calls}"),
            Calls::AtLeast(calls) => write!(f, "at least {calls}"),
        }
    }
}

/// The route, if something other than cost decides it.
pub(super) fn fixed(run: &Run, readings: &[Reading]) -> Option<(Route, Reason)> {
    if let Some(route) = run.config.activity_route.fixed() {
        return Some((route, Reason::Setting));
    }
    if let Some(route) = readings.iter().find_map(|reading| reading.resume.as_ref()?.route) {
        return Some((route, Reason::Interrupted));
    }
    if !run.config.contact_ids.is_empty() {
        return Some((Route::Contacts, Reason::NamedContacts));
    }
    let has_landing_pages = run.config.tracking_activity_types.iter().any(|kind| kind.is_of_landing_pages());
    if has_landing_pages && run.selects(&DETAILS.stream) {
        return Some((Route::Contacts, Reason::LandingPages));
    }
    // The other report was read on this route in an earlier run of the round.
    if let Some(route) = readings.iter().find_map(|reading| reading.round_route) {
        return Some((route, Reason::Interrupted));
    }
    // A later run never leaves the contact route: it also has the rows of automations, whose campaigns are in no listing.
    let previous = readings.iter().find_map(|reading| reading.previous_route(run));
    previous.filter(|route| *route == Route::Contacts).map(|route| (route, Reason::Bookmark))
}

/// Chooses a route by the calls that each costs. The campaign route fills more columns, so it wins if both cost about the
/// same, and if earlier runs took it, this one leaves it only to save many calls.
pub(super) fn choose(by_contact: Calls, by_campaign: u64, was_by_campaign: bool) -> (Route, Reason) {
    let (Calls::About(calls) | Calls::AtLeast(calls)) = by_contact;
    let is_worth_a_switch = calls <= by_campaign / 2 && calls + WORTH_A_SWITCH <= by_campaign;
    match was_by_campaign {
        true if is_worth_a_switch => (Route::Contacts, Reason::Savings { by_campaign }),
        true => (Route::Campaigns, Reason::Bookmark),
        false if by_campaign <= calls + calls / 10 => (Route::Campaigns, Reason::Cost { other: by_contact }),
        false => (Route::Contacts, Reason::Cost { other: Calls::About(by_campaign) }),
    }
}

impl Reason {
    /// The route and this reason.
    pub(super) fn words(&self, route: Route) -> String {
        let name = match route {
            Route::Contacts => "contact",
            Route::Campaigns => "campaign",
        };
        format!("the contact reports by the {name} route ({})", self.why(route))
    }

    fn why(&self, route: Route) -> String {
        match self {
            Reason::Setting => "set by activity_route".into(),
            Reason::Interrupted => "to continue the interrupted read".into(),
            Reason::NamedContacts => "because contact_ids is set".into(),
            Reason::LandingPages => "the only one for landing pages (p_*)".into(),
            Reason::Bookmark => "as in earlier runs".into(),
            Reason::Cost { other } if route == Route::Contacts => format!("the campaign route takes {other} calls"),
            Reason::Cost { other } => format!("it fills more columns; the contact route takes {other} calls"),
            Reason::Savings { .. } | Reason::Refused { .. } => "see the warning".into(),
        }
    }

    /// Warns about a contact route, of this many calls, that the user may not want: it costs more than the campaign route,
    /// or clears columns that earlier runs filled.
    pub(super) fn warn(&self, calls: u64, was_by_campaign: bool) {
        let (why, advice) = match self {
            Reason::Refused { why, by_campaign } => {
                log::warn!(
                    "campaign reports are refused ({why}); falling back to the contact route: about {calls} calls, instead \
                     of about {by_campaign}. To save them, log in again and allow the scope campaign_data"
                );
                return;
            }
            Reason::Savings { by_campaign } => (
                format!("about {calls} calls, instead of about {by_campaign}"),
                "To keep the campaign route, set activity_route to campaigns",
            ),
            Reason::NamedContacts | Reason::LandingPages if was_by_campaign => {
                (self.why(Route::Contacts), "To keep them, give such runs a state file and target tables of their own")
            }
            _ => return,
        };
        log::warn!(
            "the contact reports change to the contact route: {why}. It does not fill {}, so rows that are written again \
             lose them. {advice}",
            only_by_campaign()
        );
    }
}

/// The columns that only the campaign route fills.
pub(super) fn only_by_campaign() -> String {
    DETAILS.stream.only_by_campaign.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(by_contact: u64, by_campaign: u64, was_by_campaign: bool) -> (Route, Reason) {
        choose(Calls::About(by_contact), by_campaign, was_by_campaign)
    }

    #[test]
    fn the_campaign_route_is_taken_where_both_cost_about_the_same() {
        let cost = |other| Reason::Cost { other: Calls::About(other) };
        assert_eq!(chosen(100, 110, false), (Route::Campaigns, cost(100)));
        assert_eq!(chosen(100, 111, false), (Route::Contacts, cost(111)));
        assert_eq!(chosen(4, 4, false), (Route::Campaigns, cost(4)));
    }

    #[test]
    fn later_runs_keep_the_campaign_route_unless_much_is_saved() {
        assert_eq!(chosen(1001, 2000, true), (Route::Campaigns, Reason::Bookmark));
        assert_eq!(chosen(1000, 2000, true), (Route::Contacts, Reason::Savings { by_campaign: 2000 }));
        assert_eq!(chosen(10, 900, true), (Route::Campaigns, Reason::Bookmark));
        assert_eq!(chosen(1600, 3000, true), (Route::Campaigns, Reason::Bookmark));
    }
}
