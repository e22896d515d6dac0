//! The kinds of activity that both routes have.

use crate::config::{ActivityType, Word};

/// A kind of tracked activity, with a report of its own on the campaign route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Sends,
    Opens,
    Clicks,
    Bounces,
    Optouts,
    Forwards,
}

/// All kinds, in the order in which counts of them stand in arrays.
pub(super) const KINDS: [Kind; 6] =
    [Kind::Sends, Kind::Opens, Kind::Clicks, Kind::Bounces, Kind::Optouts, Kind::Forwards];

impl Kind {
    /// As `tracking_activity_type` spells it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Sends => "em_sends",
            Kind::Opens => "em_opens",
            Kind::Clicks => "em_clicks",
            Kind::Bounces => "em_bounces",
            Kind::Optouts => "em_optouts",
            Kind::Forwards => "em_forwards",
        }
    }

    /// The last part of the report's path. `opens` and not `unique_opens`, which keeps one row a contact.
    pub(super) fn path(self) -> &'static str {
        &self.name()["em_".len()..]
    }

    /// The kinds that `tracking_activity_types` selects.
    pub(super) fn chosen(types: &[ActivityType]) -> Vec<Kind> {
        KINDS.into_iter().filter(|kind| types.iter().any(|name| name.as_str() == kind.name())).collect()
    }
}
