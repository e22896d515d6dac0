//! The data of an account: contacts, lists, campaigns and tracked activity.
//!
//! Strings may contain characters that are awkward in JSON: U+0000 and lone surrogates. A Rust string cannot hold a
//! lone surrogate, so the account stores the character 0x10_0000 above it (`lone(0xD83D)`), and the fake sends it as a
//! bare `\ud83d` escape.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Duration, NaiveDate, TimeZone, Utc};

pub use super::campaigns::{Campaign, CampaignActivity};
pub use super::case::Case;
pub use super::rows::{canonical, clean};

/// The id of a contact, list, campaign or activity; cheap to clone.
pub type Id = Arc<str>;

/// The character that stands for this lone surrogate (0xD800 to 0xDFFF) in the account's strings.
pub fn lone(surrogate: u16) -> char {
    char::from_u32(0x10_0000 + u32::from(surrogate)).expect("a private-use character")
}

/// How many of each `Account::generate` creates.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub contacts: usize,
    pub lists: usize,
    pub campaigns: usize,
}

/// The e-mail block of a contact.
#[derive(Clone, Debug)]
pub struct Email {
    pub address: String,
    pub permission: &'static str,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub opt_in_source: &'static str,
    pub opt_in_date: Option<DateTime<Utc>>,
    pub opt_out_source: Option<&'static str>,
    pub opt_out_date: Option<DateTime<Utc>>,
    pub opt_out_reason: Option<String>,
    pub confirm_status: &'static str,
}

/// A value of a custom field.
#[derive(Clone, Debug)]
pub struct CustomField {
    pub id: Id,
    pub value: Option<String>,
    pub choice_ids: Vec<String>,
}

/// A custom field as the account defines it.
#[derive(Clone, Debug)]
pub struct FieldDefinition {
    pub id: Id,
    pub name: String,
    pub label: String,
    pub kind: &'static str,
    pub choices: Vec<Choice>,
    pub created_at: DateTime<Utc>,
    /// The listing of custom fields omits it; contacts keep their values.
    pub deleted: bool,
}

/// A choice of a custom field. A contact refers to it by six digits, such as `000003`.
#[derive(Clone, Debug)]
pub struct Choice {
    pub number: u32,
    pub label: String,
    pub deleted_at: Option<NaiveDate>,
}

/// A tag.
#[derive(Clone, Debug)]
pub struct Tag {
    pub id: Id,
    pub name: String,
    pub created_at: DateTime<Utc>,
    /// The listing of tags omits it; contacts keep it.
    pub deleted: bool,
}

/// A telephone number.
#[derive(Clone, Debug)]
pub struct Phone {
    pub id: Id,
    pub number: String,
    pub kind: &'static str,
    pub at: DateTime<Utc>,
}

/// A street address.
#[derive(Clone, Debug)]
pub struct Street {
    pub id: Id,
    pub kind: &'static str,
    pub street: Option<String>,
    pub city: Option<String>,
    pub state: Option<String>,
    pub postal_code: Option<String>,
    pub country: Option<String>,
    pub at: DateTime<Utc>,
}

/// A note on a contact.
#[derive(Clone, Debug)]
pub struct Note {
    pub id: Id,
    pub created_at: DateTime<Utc>,
    pub content: String,
}

/// The SMS channel of a contact.
#[derive(Clone, Debug)]
pub struct Sms {
    pub id: Id,
    pub address: String,
    pub permission: &'static str,
    pub opt_in_date: Option<DateTime<Utc>>,
    pub opt_out_date: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// A contact.
#[derive(Clone, Debug)]
pub struct Contact {
    pub id: Id,
    /// What is awkward about it.
    pub case: Case,
    pub email: Option<Email>,
    pub first_name: Option<String>,
    pub last_name: Option<String>,
    pub job_title: Option<String>,
    pub company_name: Option<String>,
    pub birthday: Option<(u8, u8)>,
    pub anniversary: Option<String>,
    pub create_source: &'static str,
    pub update_source: Option<&'static str>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub deleted_at: Option<NaiveDate>,
    pub custom_fields: Vec<CustomField>,
    pub phone_numbers: Vec<Phone>,
    pub street_addresses: Vec<Street>,
    pub list_memberships: Vec<Id>,
    pub taggings: Vec<Id>,
    pub notes: Vec<Note>,
    pub sms: Option<Sms>,
}

impl Contact {
    /// The status that the query parameter `status` filters by.
    pub fn status(&self) -> &'static str {
        if self.deleted_at.is_some() {
            return "deleted";
        }
        match self.email.as_ref().map(|e| e.permission) {
            Some("implicit" | "explicit") => "active",
            Some(other) => other,
            None => "not_set",
        }
    }

    /// When the contact unsubscribed from e-mail.
    pub fn opt_out_date(&self) -> Option<DateTime<Utc>> {
        self.email.as_ref().and_then(|e| e.opt_out_date)
    }
}

/// A contact list.
#[derive(Clone, Debug)]
pub struct List {
    pub id: Id,
    pub name: String,
    pub description: Option<String>,
    pub favorite: bool,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub deleted_at: Option<DateTime<Utc>>,
    /// An SMS list: listed only with `channel_type=sms`.
    pub sms: bool,
    /// Filled by a segment; the service gives it no membership count.
    pub segment: bool,
}

/// The kind of a tracked activity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Sends,
    Opens,
    Clicks,
    Bounces,
    Optouts,
    Forwards,
    // On landing pages, which only the reports by contact show.
    PageOpens,
    PageClicks,
    PageAdds,
    PageUpdates,
}

impl Kind {
    /// The kinds of e-mails; landing pages have others.
    pub const ALL: [Kind; 6] = [Kind::Sends, Kind::Opens, Kind::Clicks, Kind::Bounces, Kind::Optouts, Kind::Forwards];

    /// The `tracking_activity_type` of such a row.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Sends => "em_sends",
            Kind::Opens => "em_opens",
            Kind::Clicks => "em_clicks",
            Kind::Bounces => "em_bounces",
            Kind::Optouts => "em_optouts",
            Kind::Forwards => "em_forwards",
            Kind::PageOpens => "p_contact_open",
            Kind::PageClicks => "p_contact_click",
            Kind::PageAdds => "p_contact_add",
            Kind::PageUpdates => "p_contact_update",
        }
    }
}

/// A tracked activity: one row of `activity_details` and of the tracking reports.
#[derive(Clone, Debug)]
pub struct Row {
    pub contact_id: Id,
    pub activity_id: Id,
    pub kind: Kind,
    pub at: DateTime<Utc>,
}

/// Which changes move a contact's `updated_at`, beside changes of the record itself. Set it in the `Switches`.
#[derive(Clone, Copy, Debug)]
pub struct Moves {
    pub lists: bool,
    pub tags: bool,
    pub notes: bool,
    pub sms: bool,
    pub delete: bool,
}

impl Default for Moves {
    fn default() -> Self {
        Moves { lists: true, tags: false, notes: false, sms: false, delete: true }
    }
}

/// Indexes of an account, rebuilt when it has grown.
#[derive(Debug, Default)]
pub(super) struct Index {
    shape: (usize, usize, usize, usize, usize),
    pub contacts: HashMap<Id, usize>,
    pub rows_by_contact: HashMap<Id, Vec<u32>>,
    pub visits_by_contact: HashMap<Id, Vec<u32>>,
    /// The tracking reports of each activity, by kind, newest first.
    pub reports: HashMap<Id, [Vec<u32>; 6]>,
    /// Activity id to (campaign, activity) positions.
    pub activities: HashMap<Id, (usize, usize)>,
    /// The contacts in the order in which the listing gives them: by a hash of the id.
    pub scrambled: Vec<u32>,
}

/// The account behind the fake.
#[derive(Clone, Debug)]
pub struct Account {
    pub contacts: Vec<Contact>,
    pub lists: Vec<List>,
    pub campaigns: Vec<Campaign>,
    pub activities: Vec<Row>,
    /// What contacts did on landing pages, which are not campaigns.
    pub page_visits: Vec<Row>,
    pub tags: Vec<Tag>,
    pub custom_fields: Vec<FieldDefinition>,
    /// The service's clock is the real time plus this.
    pub clock_skew: Duration,
    pub moves: Moves,
    /// `GET /emails/activities/{id}` answers 200 for removed campaigns too. The service's documentation says 404.
    pub removed_emails_readable: bool,
    pub(super) rng: fastrand::Rng,
    pub(super) index: Option<Arc<Index>>,
}

/// A way to name a contact: its position, its case or its id.
pub trait ContactKey {
    fn position(&self, account: &Account) -> usize;
}

impl ContactKey for usize {
    fn position(&self, _account: &Account) -> usize {
        *self
    }
}

impl ContactKey for Case {
    fn position(&self, account: &Account) -> usize {
        account.case(*self)
    }
}

impl ContactKey for &str {
    fn position(&self, account: &Account) -> usize {
        account.contacts.iter().position(|c| &*c.id == *self).expect("a contact of this id")
    }
}

impl ContactKey for &Id {
    fn position(&self, account: &Account) -> usize {
        (&***self).position(account)
    }
}

impl ContactKey for &String {
    fn position(&self, account: &Account) -> usize {
        self.as_str().position(account)
    }
}

/// A hash of a string that is the same in every run.
pub(super) fn hash(text: &str) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325_u64;
    for b in text.bytes() {
        h = (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
    }
    mix(h)
}

pub(super) fn mix(mut h: u64) -> u64 {
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^ (h >> 33)
}

pub(super) fn whole_second(at: DateTime<Utc>) -> DateTime<Utc> {
    Utc.timestamp_opt(at.timestamp(), 0).single().expect("time")
}

impl Account {
    /// An account with nothing in it.
    pub fn empty() -> Account {
        Account {
            contacts: Vec::new(),
            lists: Vec::new(),
            campaigns: Vec::new(),
            activities: Vec::new(),
            page_visits: Vec::new(),
            tags: Vec::new(),
            custom_fields: Vec::new(),
            clock_skew: Duration::zero(),
            moves: Moves::default(),
            removed_emails_readable: false,
            rng: fastrand::Rng::with_seed(1),
            index: None,
        }
    }

    /// Makes every campaign readable by its id. Without this, removed drafts are listed and answer 404, so that their
    /// report rows can be read only contact by contact.
    #[must_use]
    pub fn with_all_details(mut self) -> Account {
        self.campaigns.iter_mut().for_each(|campaign| campaign.detail_404 = false);
        self
    }

    /// Moves each contact's `created_at` before its first activity. Without this it may be later, as after an import.
    #[must_use]
    pub fn with_activity_after_creation(mut self) -> Account {
        for contact in &mut self.contacts {
            let rows = self.activities.iter().filter(|row| row.contact_id == contact.id);
            contact.created_at =
                rows.map(|row| row.at).min().map_or(contact.created_at, |at| at.min(contact.created_at));
        }
        self
    }

    /// The position of the first contact of a case. Panics if there is none; an account of at least `Case::EARLY`
    /// contacts has one of each.
    pub fn case(&self, case: Case) -> usize {
        let found = self.contacts.iter().position(|contact| contact.case == case);
        found.unwrap_or_else(|| panic!("{case:?} needs an account with more than {} contacts", self.contacts.len()))
    }

    /// The time by the service's clock, cut to whole seconds.
    pub fn now(&self) -> DateTime<Utc> {
        whole_second(Utc::now() + self.clock_skew)
    }

    /// The indexes, rebuilt when the account has grown.
    pub(super) fn index(&mut self) -> Arc<Index> {
        let shape = (
            self.contacts.len(),
            self.lists.len(),
            self.campaigns.iter().map(|c| c.activities.len()).sum::<usize>() + self.campaigns.len(),
            self.activities.len(),
            self.page_visits.len(),
        );
        if let Some(index) = &self.index
            && index.shape == shape
        {
            return index.clone();
        }
        let mut index = Index { shape, ..Index::default() };
        for (i, contact) in self.contacts.iter().enumerate() {
            index.contacts.insert(contact.id.clone(), i);
        }
        for (i, row) in self.activities.iter().enumerate() {
            let i = u32::try_from(i).expect("a modest number of rows");
            index.rows_by_contact.entry(row.contact_id.clone()).or_default().push(i);
            index.reports.entry(row.activity_id.clone()).or_default()[row.kind as usize].push(i);
        }
        for (i, row) in self.page_visits.iter().enumerate() {
            let i = u32::try_from(i).expect("a modest number of rows");
            index.visits_by_contact.entry(row.contact_id.clone()).or_default().push(i);
        }
        let newest = |i: &u32| {
            let row = &self.activities[*i as usize];
            std::cmp::Reverse((row.at, &row.contact_id))
        };
        index.reports.values_mut().flatten().for_each(|rows| rows.sort_by(|a, b| newest(a).cmp(&newest(b))));
        for (i, campaign) in self.campaigns.iter().enumerate() {
            for (k, activity) in campaign.activities.iter().enumerate() {
                index.activities.insert(activity.id.clone(), (i, k));
            }
        }
        let mut order: Vec<(u64, u32)> = self
            .contacts
            .iter()
            .enumerate()
            .map(|(i, c)| (hash(&c.id), u32::try_from(i).expect("a modest number")))
            .collect();
        order.sort_unstable();
        index.scrambled = order.into_iter().map(|(_, i)| i).collect();
        let index = Arc::new(index);
        self.index = Some(index.clone());
        index
    }

    /// The ids of the campaign activities that were sent: primary e-mails and resends.
    pub fn sent_activities(&self) -> Vec<Id> {
        self.campaigns
            .iter()
            .flat_map(|c| &c.activities)
            .filter(|a| a.sent_at.is_some())
            .map(|a| a.id.clone())
            .collect()
    }

    /// The number of members of each list: contacts that are not deleted, or with `only_active` those that may be
    /// mailed.
    pub fn membership_counts(&self, only_active: bool) -> HashMap<Id, u64> {
        let mut counts = HashMap::new();
        for contact in &self.contacts {
            let status = contact.status();
            if status == "deleted" || (only_active && status != "active") {
                continue;
            }
            for list in &contact.list_memberships {
                *counts.entry(list.clone()).or_default() += 1;
            }
        }
        counts
    }

    /// The ids of the deleted contacts.
    pub fn deleted(&self) -> HashSet<Id> {
        self.contacts.iter().filter(|c| c.deleted_at.is_some()).map(|c| c.id.clone()).collect()
    }
}
