//! The service's limits, and what it does where its documentation does not say.

use std::time::Duration;

use super::account::Moves;

/// The order of GET /contacts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By a hash of the id, which is no order that a client could use.
    Scrambled,
    UpdatedDesc,
    CreatedDesc,
}

/// How the last page of a listing says that there is no next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastPage {
    /// Without `_links`.
    NoLinks,
    /// `_links` is `{}`.
    EmptyLinks,
    /// `_links` is null.
    NullLinks,
    /// `_links.next.href` is null.
    NullHref,
}

/// The service's limits, and what it does where its documentation does not say. The defaults are the likeliest guess.
#[derive(Clone, Debug)]
pub struct Switches {
    /// Whether `updated_after`, `created_after`, `optout_after` and `after_date` include the bound itself.
    pub updated_after_inclusive: bool,
    /// Which changes move a contact's `updated_at`.
    pub moves_updated_at_on: Moves,
    /// Without `status`, whether `optout_after` omits deleted contacts as other listings do, or includes every status.
    pub optout_after_defaults_status: bool,
    /// The reports of a deleted contact answer 404.
    pub deleted_contact_reports_404: bool,
    /// `activity_summary` answers 400 for a range of more years.
    pub summary_max_years: Option<i32>,
    /// `GET /contact_lists` accepts a limit of 1000 instead of 500.
    pub lists_limit_1000_ok: bool,
    /// A contact's report without rows omits the list of rows instead of sending an empty one.
    pub empty_reports_lack_rows: bool,
    /// By how much `contacts_count` exceeds the number of contacts that the listing has.
    pub contacts_counted_too_many: usize,
    /// `choice_id` in a definition is a string of six digits, as on a contact, instead of a number.
    pub choice_ids_as_text: bool,
    /// A malformed cursor gets 404 instead of 400.
    pub bad_cursor_404: bool,
    /// For how long a refresh token still works after its use.
    pub refresh_grace: Duration,
    /// Each refresh replaces the refresh token.
    pub rotating: bool,
    /// Reuse of a refresh token revokes the whole grant.
    pub reuse_kills_grant: bool,
    /// Lifetime of an access token in seconds.
    pub expires_in: i64,
    /// API calls per second; more get 429.
    pub per_second: u32,
    /// Count `per_second` in fixed windows instead of a sliding one.
    pub fixed_window: bool,
    /// API calls per UTC day; more get 429.
    pub per_day: u32,
    /// Calls per second to the authorization server; more get 429.
    pub token_per_second: Option<u32>,
    /// Record requests that break the rules of the service, and panic when the `Fake` is dropped.
    pub strict: bool,
    /// The service's clock is the real time plus this.
    pub clock_skew: chrono::Duration,
    /// How long the service takes for an answer.
    pub latency: Duration,
    /// Each request takes a random time up to this to arrive.
    pub jitter: Duration,
    /// Compress answers if the client accepts gzip.
    pub gzip: bool,
    /// The form of `_links` on the last page; `None` varies it.
    pub last_page: Option<LastPage>,
    pub contacts_order: Order,
    /// More API calls than this in any second are a violation.
    pub max_pace: Option<u32>,
}

impl Default for Switches {
    fn default() -> Self {
        Switches {
            updated_after_inclusive: false,
            moves_updated_at_on: Moves::default(),
            optout_after_defaults_status: true,
            deleted_contact_reports_404: false,
            summary_max_years: None,
            lists_limit_1000_ok: false,
            empty_reports_lack_rows: false,
            contacts_counted_too_many: 0,
            choice_ids_as_text: false,
            bad_cursor_404: false,
            refresh_grace: Duration::ZERO,
            rotating: true,
            reuse_kills_grant: true,
            expires_in: 86_400,
            per_second: 1000,
            fixed_window: false,
            per_day: 10_000,
            token_per_second: None,
            strict: true,
            clock_skew: chrono::Duration::zero(),
            latency: Duration::ZERO,
            jitter: Duration::ZERO,
            gzip: true,
            last_page: None,
            contacts_order: Order::Scrambled,
            max_pace: None,
        }
    }
}

impl Switches {
    /// The default, with refresh tokens that do not rotate, so that a test can use one config for several runs.
    pub fn long_lived() -> Switches {
        Switches { rotating: false, ..Switches::default() }
    }
}
