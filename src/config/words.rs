//! The settings whose values come from a fixed list.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A value that the config and the API write as one word.
pub(crate) trait Word: Copy + 'static {
    const ALL: &'static [Self];

    fn as_str(self) -> &'static str;
}

/// A comma-separated list of words, as the API expects it.
pub(crate) fn words<T: Word>(list: &[T]) -> String {
    list.iter().map(|word| word.as_str()).collect::<Vec<_>>().join(",")
}

/// Enums whose variants are written as the given words, in the config and to the API.
macro_rules! words {
    ($($(#[$meta:meta])* $name:ident { $($(#[$of_variant:meta])* $variant:ident = $word:literal,)+ })+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[schemars(inline)]
        pub(crate) enum $name { $($(#[$of_variant])* #[serde(rename = $word)] $variant,)+ }

        impl Word for $name {
            const ALL: &'static [$name] = &[$($name::$variant),+];

            fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
        }
    )+};
}

words! {
    /// The contacts to read, by the state of their subscription.
    ContactStatus {
        All = "all",
        Active = "active",
        Deleted = "deleted",
        NotSet = "not_set",
        PendingConfirmation = "pending_confirmation",
        TempHold = "temp_hold",
        Unsubscribed = "unsubscribed",
    }

    /// The parts of a contact that the service sends only on request.
    Subresource {
        CustomFields = "custom_fields",
        ListMemberships = "list_memberships",
        PhoneNumbers = "phone_numbers",
        StreetAddresses = "street_addresses",
        Taggings = "taggings",
        Notes = "notes",
    }

    /// What a contact did, or what happened to an e-mail on its way to the contact.
    ActivityType {
        Sends = "em_sends",
        Opens = "em_opens",
        Clicks = "em_clicks",
        Bounces = "em_bounces",
        Optouts = "em_optouts",
        Forwards = "em_forwards",
        LandingPageOpen = "p_contact_open",
        LandingPageClick = "p_contact_click",
        LandingPageAdd = "p_contact_add",
        LandingPageUpdate = "p_contact_update",
    }

    /// The setting for how the contact reports of a whole account are read.
    ActivityRoute {
        Auto = "auto",
        Contacts = "contacts",
        Campaigns = "campaigns",
    }

    /// How the contact reports are read.
    Route {
        /// One contact at a time.
        Contacts = "contacts",
        /// One sent campaign activity at a time.
        Campaigns = "campaigns",
    }

    /// What to do when the daily quota is used up.
    OnQuota {
        Stop = "stop",
        Wait = "wait",
    }
}

impl ActivityType {
    /// Landing pages have reports by contact only.
    pub(crate) fn is_of_landing_pages(self) -> bool {
        self.as_str().starts_with("p_")
    }

    /// The types that both routes can read: the default. Counts of them stand in arrays in this order.
    pub(crate) const OF_EMAILS: [ActivityType; 6] = [
        ActivityType::Sends,
        ActivityType::Opens,
        ActivityType::Clicks,
        ActivityType::Bounces,
        ActivityType::Optouts,
        ActivityType::Forwards,
    ];

    /// The name of its report on the campaign route. `opens` and not `unique_opens`, which has one row a contact.
    pub(crate) fn report_name(self) -> &'static str {
        self.as_str().trim_start_matches("em_")
    }
}

impl ActivityRoute {
    /// The route that the setting fixes; `None` leaves the choice to the tap.
    pub(crate) fn fixed(self) -> Option<Route> {
        match self {
            ActivityRoute::Auto => None,
            ActivityRoute::Contacts => Some(Route::Contacts),
            ActivityRoute::Campaigns => Some(Route::Campaigns),
        }
    }
}
