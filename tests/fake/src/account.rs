//! The data of an account: contacts, lists, campaigns and tracked activity.
//!
//! A text may hold characters that JSON cannot carry as they are: U+0000, and
//! lone surrogates, which are written as the character 0x100000 above them
//! (`lone(0xD83D)`) and leave the fake as a bare `\ud83d` escape.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Duration, NaiveDate, SecondsFormat, TimeZone, Utc};
use serde_json::{Map, Value, json};

pub use super::campaigns::{Campaign, CampaignActivity};
pub use super::case::Case;

/// An identifier, cheap to copy.
pub type Id = Arc<str>;

/// The character that stands for a lone surrogate escape in the fake's texts.
pub fn lone(surrogate: u16) -> char {
    char::from_u32(0x10_0000 + u32::from(surrogate)).expect("a private-use character")
}

/// How many of each kind `Account::generate` makes.
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
    /// No longer listed, while contacts keep their values.
    pub deleted: bool,
}

/// A choice of a custom field. Contacts name it by six digits.
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
    /// No longer listed, while contacts keep it.
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
    /// What it was grown as.
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
    /// The status that `status=` selects by.
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

    /// The date the contact unsubscribed from e-mail.
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
    /// Listed only with `channel_type=sms`.
    pub sms: bool,
    /// Built by a segment: has no membership count.
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
    // Of landing pages, which only the reports of contacts have.
    PageOpens,
    PageClicks,
    PageAdds,
    PageUpdates,
}

impl Kind {
    /// Those of e-mails.
    pub const ALL: [Kind; 6] = [Kind::Sends, Kind::Opens, Kind::Clicks, Kind::Bounces, Kind::Optouts, Kind::Forwards];

    /// The service's word for it.
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

/// A tracked activity: one row of the reports.
#[derive(Clone, Debug)]
pub struct Row {
    pub contact_id: Id,
    pub activity_id: Id,
    pub kind: Kind,
    pub at: DateTime<Utc>,
}

/// Which changes move a contact's `updated_at` (copied from the switches).
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

/// Look-ups over an account, rebuilt when it has grown.
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
    pub scrambled: Vec<u32>,
}

/// The account behind the fake.
#[derive(Clone, Debug)]
pub struct Account {
    pub contacts: Vec<Contact>,
    pub lists: Vec<List>,
    pub campaigns: Vec<Campaign>,
    pub activities: Vec<Row>,
    /// What contacts did on landing pages, which are no campaigns.
    pub page_visits: Vec<Row>,
    pub tags: Vec<Tag>,
    pub custom_fields: Vec<FieldDefinition>,
    /// Added to the real time to give the service's clock.
    pub clock_skew: Duration,
    pub moves: Moves,
    /// Whether the e-mails of removed campaigns can be asked for; the service's documents say that they cannot.
    pub removed_emails_readable: bool,
    pub(super) rng: fastrand::Rng,
    index: Option<Arc<Index>>,
}

/// Names a contact by its position, its case or its id.
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

const FIRST: [&str; 12] =
    ["Ann", "Björn", "Chloé", "Dmitri", "Eun-ji", "Fatou", "Grzegorz", "Hana", "Iñigo", "João", "Kwame", "Léa"];
const LAST: [&str; 10] =
    ["Example", "Sample", "O'Specimen", "Tester", "Muster", "Ejemplo", "Dupont", "Rossi", "Fictif", "Placeholder"];
const CITIES: [(&str, &str); 4] = [
    ("San Francisco", "California"),
    ("Waltham", "Massachusetts"),
    ("Loveland", "Colorado"),
    ("Gainesville", "Florida"),
];

/// A stable hash of some text.
pub(super) fn hash(text: &str) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325_u64;
    for b in text.bytes() {
        h = (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
    }
    mix(h)
}

fn mix(mut h: u64) -> u64 {
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^ (h >> 33)
}

pub(super) fn uuid(rng: &mut fastrand::Rng) -> Id {
    let (a, b) = (rng.u64(..), rng.u64(..));
    let text = format!(
        "{:08x}-{:04x}-11ef-{:04x}-{:012x}",
        a >> 32,
        a & 0xffff,
        0x8000 | ((b >> 48) & 0x3fff),
        b & 0xffff_ffff_ffff
    );
    text.into()
}

pub(super) fn pick<T: Copy>(rng: &mut fastrand::Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())]
}

fn chance(rng: &mut fastrand::Rng, percent: u32) -> bool {
    rng.u32(..100) < percent
}

fn whole_second(at: DateTime<Utc>) -> DateTime<Utc> {
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

    /// An account grown from a seed, up to a day before now.
    pub fn generate(seed: u64, size: Size) -> Account {
        Account::generate_at(seed, size, Utc::now())
    }

    /// An account grown from a seed: the newest data is a day older than
    /// `now`, the oldest about three years.
    pub fn generate_at(seed: u64, size: Size, now: DateTime<Utc>) -> Account {
        let mut account = Account::empty();
        account.rng = fastrand::Rng::with_seed(seed);
        let base = whole_second(now) - Duration::hours(25);
        account.grow_lists(size.lists, base);
        account.grow_campaigns(size.campaigns, base);
        account.grow_contacts(size.contacts, base);
        account.grow_activities(base);
        account.grow_page_visits(base);
        account
    }

    /// Lets every campaign be read by its id. Otherwise drafts that were removed are listed and answer 404, so the rows
    /// of their reports can be read by contact only.
    #[must_use]
    pub fn with_all_details(mut self) -> Account {
        self.campaigns.iter_mut().for_each(|campaign| campaign.detail_404 = false);
        self
    }

    /// Dates the creation of each contact before its first activity. Otherwise it may be later, as after an import.
    #[must_use]
    pub fn with_activity_after_creation(mut self) -> Account {
        for contact in &mut self.contacts {
            let rows = self.activities.iter().filter(|row| row.contact_id == contact.id);
            contact.created_at =
                rows.map(|row| row.at).min().map_or(contact.created_at, |at| at.min(contact.created_at));
        }
        self
    }

    /// The position of the first contact of a case. Only an account of `Case::EARLY` contacts or more has all of them.
    pub fn case(&self, case: Case) -> usize {
        let found = self.contacts.iter().position(|contact| contact.case == case);
        found.unwrap_or_else(|| panic!("{case:?} needs an account with more than {} contacts", self.contacts.len()))
    }

    /// The service's clock, to the second.
    pub fn now(&self) -> DateTime<Utc> {
        whole_second(Utc::now() + self.clock_skew)
    }

    pub(super) fn past(&mut self, base: DateTime<Utc>, days: i64) -> DateTime<Utc> {
        base - Duration::seconds(self.rng.i64(0..days * 86_400))
    }

    fn grow_lists(&mut self, count: usize, base: DateTime<Utc>) {
        for i in 0..12 {
            self.tags.push(Tag {
                id: uuid(&mut self.rng),
                name: match i {
                    0 => "VIP \"gold\" 🥇".into(),
                    _ => format!("Tag {i}"),
                },
                created_at: base - Duration::days(30 * i),
                deleted: i % 6 == 5,
            });
        }
        for i in 0..count {
            let created_at = self.past(base, 1000);
            self.lists.push(List {
                id: uuid(&mut self.rng),
                name: match i {
                    1 => "Friends \"of\" the\nhouse 🎉".into(),
                    _ => format!("List {i}"),
                },
                description: (i % 4 == 0).then(|| format!("What list {i} is for, \\ and more")),
                favorite: i == 0,
                created_at,
                updated_at: created_at + (base - created_at) / 2,
                deleted_at: (i % 9 == 2).then(|| base - Duration::days(3)),
                sms: i % 9 == 3,
                segment: i % 9 == 4,
            });
        }
    }

    /// The definitions of these custom fields, and the id of one that was deleted.
    fn define_fields(&mut self, ids: &[Id], base: DateTime<Utc>) -> Id {
        let created_at = base - Duration::days(900);
        let choice = |number, label: &str| Choice { number, label: label.into(), deleted_at: None };
        let mut define = |id: &Id, name: &str, label: &str, kind, choices| {
            let (id, name, label) = (id.clone(), name.into(), label.into());
            self.custom_fields.push(FieldDefinition { id, name, label, kind, choices, created_at, deleted: false });
        };
        define(&ids[0], "What_they_like", "What they like", "string", vec![]);
        // A label that is repeated, since another choice of it was deleted.
        let mut colours = vec![choice(1, "Red"), choice(2, "Blue"), choice(3, "Blue")];
        colours[1].deleted_at = Some(base.date_naive());
        define(&ids[1], "Colours", "Colours \"so far\"", "multi_select", colours);
        // Two names that differ in case only.
        define(&ids[2], "Size", "Size", "single_select", vec![choice(1, "Small"), choice(2, "Large")]);
        define(&ids[3], "size", "size", "text_area", vec![]);
        let deleted = uuid(&mut fastrand::Rng::with_seed(hash(&ids[0])));
        define(&deleted, "Forgotten", "Forgotten", "date", vec![]);
        self.custom_fields[4].deleted = true;
        deleted
    }

    fn grow_contacts(&mut self, count: usize, base: DateTime<Utc>) {
        let import = base - Duration::days(40);
        let fields: Vec<Id> = (0..4).map(|_| uuid(&mut self.rng)).collect();
        let deleted_field = self.define_fields(&fields, base);
        let live_lists: Vec<(Id, bool)> =
            self.lists.iter().filter(|l| l.deleted_at.is_none() && !l.segment).map(|l| (l.id.clone(), l.sms)).collect();
        for i in 0..count {
            let is_early = i < Case::EARLY;
            let number = if is_early { i } else { self.rng.usize(..Case::NUMBERS) };
            let case = if is_early { Case::early(number) } else { Case::later(number) };
            let rng = &mut self.rng;
            let imported = number % 3 == 1;
            let mut created_at = base - Duration::seconds(rng.i64(86_400 * 5..86_400 * 1090));
            let mut updated_at = created_at + Duration::seconds(rng.i64(0..=(base - created_at).num_seconds()));
            if imported {
                created_at = created_at.min(import);
                updated_at = import;
            } else if chance(rng, 30) {
                updated_at = created_at;
            }
            let id = uuid(rng);
            let mut email = Email {
                address: format!("contact{i}@example.com"),
                permission: pick(rng, &["implicit", "implicit", "explicit"]),
                created_at,
                updated_at: created_at,
                opt_in_source: pick(rng, &["Account", "Contact"]),
                opt_in_date: Some(created_at - Duration::seconds(1)),
                opt_out_source: None,
                opt_out_date: None,
                opt_out_reason: None,
                confirm_status: pick(rng, &["off", "confirmed"]),
            };
            match case {
                Case::UnsubscribedAfterUpdate => {
                    let gap = (base - updated_at).num_seconds().max(1);
                    let date = updated_at + Duration::seconds(gap / 2 + rng.i64(0..=gap / 2));
                    email.permission = "unsubscribed";
                    email.updated_at = date;
                    email.opt_out_date = Some(date);
                    email.opt_out_source = Some("Contact");
                    email.opt_out_reason = (number % 2 == 0).then(|| "Other".into());
                }
                Case::Unconfirmed => email.permission = "pending_confirmation",
                Case::OnHold => email.permission = "temp_hold",
                Case::PermissionNotSet => email.permission = "not_set",
                // The same address as the first contact has.
                Case::SharedAddress => email.address = "contact0@example.com".into(),
                _ => {}
            }
            let sms = matches!(case, Case::Sms | Case::SmsOnly).then(|| {
                let out = number % 2 == 0;
                Sms {
                    id: uuid(rng),
                    address: format!("781555{:04}", i % 10_000),
                    permission: if out { "opt_out" } else { "explicit" },
                    opt_in_date: Some(created_at),
                    opt_out_date: out.then_some(updated_at),
                    created_at,
                    updated_at,
                }
            });
            let deleted = matches!(case, Case::Deleted | Case::DeletedUnsubscribed);
            let deleted_at = deleted.then(|| {
                let span = (base - updated_at).num_seconds().max(1);
                (updated_at + Duration::seconds(rng.i64(0..span))).date_naive()
            });
            if case == Case::DeletedUnsubscribed {
                email.permission = "unsubscribed";
                email.opt_out_source = Some("Account");
                email.opt_out_date = Some(updated_at);
                email.updated_at = updated_at;
            }
            let without_email = matches!(case, Case::SmsOnly | Case::NoChannel);
            let (mut first, mut last) = (
                chance(rng, 70).then(|| pick(rng, &FIRST).to_owned()),
                chance(rng, 20).then(|| pick(rng, &LAST).to_owned()),
            );
            match case {
                Case::QuotedName => first = Some("Zoë 🦄 \"Zo\"".into()),
                Case::LineBreakInName => first = Some("Line\r\nbreak\tand \\ slash".into()),
                Case::NulInName => first = Some("Nul\u{0}inside".into()),
                Case::LoneSurrogateAtEnd => first = Some(format!("Half{}", lone(0xD83D))),
                Case::LoneSurrogateAtStart => last = Some(format!("{}Tail \u{2028}\u{7f}", lone(0xDE00))),
                Case::MarkupInName => last = Some("</script><b>&amp;".into()),
                Case::LongName => last = Some("x".repeat(50)),
                Case::BlankNames => {
                    first = Some(String::new());
                    last = Some(" ".into());
                }
                _ => {}
            }
            let mut custom_fields = Vec::new();
            if case == Case::CustomFields || chance(rng, 20) {
                custom_fields.push(CustomField {
                    id: fields[0].clone(),
                    value: Some("Skiing, \"off-piste\"".into()),
                    choice_ids: vec![],
                });
            }
            if matches!(case, Case::CustomFields | Case::DeletedField) || chance(rng, 5) {
                custom_fields.push(CustomField {
                    id: fields[1].clone(),
                    value: (number % 2 == 0).then(|| "Blue".into()),
                    choice_ids: vec!["000001".into(), "000003".into()],
                });
            }
            let mut more = |id: &Id, value: Option<&str>, choice: Option<&str>| {
                custom_fields.push(CustomField {
                    id: id.clone(),
                    value: value.map(str::to_owned),
                    choice_ids: choice.map(str::to_owned).into_iter().collect(),
                });
            };
            match case {
                Case::CustomFields => more(&fields[2], None, Some("000002")),
                Case::DeletedField => more(&deleted_field, Some("2021-03-04"), None),
                Case::UnknownChoice => {
                    more(&fields[2], None, Some("000007"));
                    more(&fields[3], Some("XL"), None);
                }
                Case::DeletedFieldChoice => more(&deleted_field, None, Some("000001")),
                _ => {}
            }
            let mut phone_numbers = Vec::new();
            if case == Case::PhonesAndStreets || chance(rng, 20) {
                for kind in ["mobile", "home"].into_iter().take(1 + i % 2) {
                    phone_numbers.push(Phone {
                        id: uuid(rng),
                        number: format!("+1-555-{:04}", i % 10_000),
                        kind,
                        at: updated_at,
                    });
                }
            }
            let mut street_addresses = Vec::new();
            if case == Case::PhonesAndStreets || chance(rng, 15) {
                let (city, state) = pick(rng, &CITIES);
                street_addresses.push(Street {
                    id: uuid(rng),
                    kind: pick(rng, &["home", "work", "other"]),
                    street: Some(format!("{} Market St\nFloor 2", i + 1)),
                    city: Some(city.into()),
                    state: (number % 2 == 0).then(|| state.into()),
                    postal_code: Some("02134".into()),
                    country: Some("United States".into()),
                    at: updated_at,
                });
            }
            let mut list_memberships = Vec::new();
            if !deleted {
                for (list, is_sms) in &live_lists {
                    let p = if list_memberships.is_empty() { 40 } else { 8 };
                    if (!is_sms || sms.is_some()) && chance(rng, p) {
                        list_memberships.push(list.clone());
                    }
                }
            }
            let mut taggings = Vec::new();
            if !self.tags.is_empty() && chance(rng, 15) {
                let at = rng.usize(..self.tags.len());
                taggings.push(self.tags[at].id.clone());
            }
            let mut notes = Vec::new();
            if case == Case::Notes || chance(rng, 5) {
                for k in 0..=(i % 3) {
                    notes.push(Note {
                        id: uuid(rng),
                        created_at: updated_at + Duration::milliseconds(if k == 1 { 108 } else { 0 }),
                        content: format!("Note {k}: \"called\"\nagain on Monday 🗓"),
                    });
                }
            }
            self.contacts.push(Contact {
                id,
                case,
                email: (!without_email).then_some(email),
                first_name: first,
                last_name: last,
                job_title: chance(rng, 20).then(|| "Musician".into()),
                company_name: chance(rng, 20).then(|| "Acme, Inc.".into()),
                birthday: (case == Case::UnknownChoice || chance(rng, 10)).then(|| (rng.u8(1..13), rng.u8(1..29))),
                anniversary: (case == Case::UnknownChoice || chance(rng, 5)).then(|| "2006-11-15".into()),
                create_source: pick(rng, &["Account", "Contact"]),
                update_source: (updated_at != created_at).then_some("Account"),
                created_at,
                updated_at,
                deleted_at,
                custom_fields,
                phone_numbers,
                street_addresses,
                list_memberships,
                taggings,
                notes,
                sms,
            });
        }
    }

    fn grow_activities(&mut self, base: DateTime<Utc>) {
        let sent: Vec<(Id, DateTime<Utc>, Duration)> = self
            .campaigns
            .iter()
            .flat_map(|c| &c.activities)
            .filter_map(|a| a.sent_at.map(|t| (a.id.clone(), t, a.sending_takes)))
            .collect();
        if sent.is_empty() {
            return;
        }
        let many = self.contacts.len() > 5_000;
        let mut rows = Vec::new();
        for (i, contact) in self.contacts.iter().enumerate() {
            if contact.email.is_none() {
                continue;
            }
            let rng = &mut self.rng;
            let sends = if contact.case == Case::LongHistory {
                sent.len()
            } else if many {
                rng.usize(0..4).min(sent.len())
            } else {
                rng.usize(0..=sent.len().min(8))
            };
            let start = rng.usize(..sent.len());
            for k in 0..sends {
                let (activity, begun_at, takes) = &sent[(start + k) % sent.len()];
                // A large sending goes on for hours: contacts get it one after the other.
                let sent_at = &(*begun_at + Duration::seconds(takes.num_seconds() * (i as i64 % 8) / 8));
                let span = (base - *sent_at).num_seconds().max(1);
                let mut push = |kind, at| {
                    rows.push(Row { contact_id: contact.id.clone(), activity_id: activity.clone(), kind, at });
                };
                push(Kind::Sends, *sent_at);
                if chance(rng, 6) {
                    push(Kind::Bounces, *sent_at + Duration::seconds(span.min(20)));
                    continue;
                }
                let opens = if chance(rng, 50) { rng.u32(1..4) } else { 0 };
                let mut last = *sent_at;
                for _ in 0..opens {
                    let near = span.min(20 * 86_400);
                    last = *sent_at + Duration::seconds(rng.i64(0..near));
                    push(Kind::Opens, last);
                }
                if opens > 0 && (contact.case == Case::EqualOpens || chance(rng, 4)) {
                    // Two equal opens in one second.
                    push(Kind::Opens, last);
                }
                if opens > 0 && chance(rng, 30) {
                    push(Kind::Clicks, last);
                }
                if chance(rng, 2) {
                    push(Kind::Forwards, last);
                }
                if k + 1 == sends && contact.email.as_ref().is_some_and(|e| e.permission == "unsubscribed") {
                    push(Kind::Optouts, last);
                }
            }
        }
        // A small account has the histories that chance gave it.
        if self.contacts.len() >= Case::EARLY {
            let mut push = |case, kind, at: DateTime<Utc>| {
                rows.push(Row {
                    contact_id: self.contacts[self.case(case)].id.clone(),
                    activity_id: sent[0].0.clone(),
                    kind,
                    at: at.min(base),
                });
            };
            let at = sent[0].1;
            for k in 0..130 {
                push(Case::LongHistory, Kind::Opens, at + Duration::minutes(k / 2));
            }
            for _ in 0..3 {
                push(Case::EqualOpens, Kind::Opens, at + Duration::hours(1));
            }
            for (case, kind, hours) in [
                (Case::Deleted, Kind::Sends, 0),
                (Case::Deleted, Kind::Opens, 2),
                // Each kind of activity is there at least once.
                (Case::QuotedName, Kind::Bounces, 0),
                (Case::LineBreakInName, Kind::Forwards, 3),
                (Case::UnsubscribedAfterUpdate, Kind::Optouts, 4),
                (Case::NulInName, Kind::Clicks, 5),
            ] {
                push(case, kind, at + Duration::hours(hours));
            }
        }
        self.activities = rows;
    }

    /// Landing pages are older than any campaign that is listed. Drawn without the random numbers that the rest of the
    /// account is grown from.
    fn grow_page_visits(&mut self, base: DateTime<Utc>) {
        let pages: [Id; 2] =
            ["00000000-0000-11ef-8000-00000000000a".into(), "00000000-0000-11ef-8000-00000000000b".into()];
        let kinds = [Kind::PageOpens, Kind::PageClicks, Kind::PageAdds, Kind::PageUpdates, Kind::PageOpens];
        for contact in self.contacts.iter().step_by(2) {
            let draw = hash(&contact.id);
            let activity_id = &pages[usize::from(draw.is_multiple_of(3))];
            let days = i64::try_from(draw % 2000).expect("a small number");
            let visits = usize::try_from(draw % 5 + 1).expect("a small number");
            self.page_visits.extend(kinds[..visits].iter().zip(0..).map(|(kind, seconds)| Row {
                contact_id: contact.id.clone(),
                activity_id: activity_id.clone(),
                kind: *kind,
                at: base - Duration::days(days) + Duration::seconds(seconds),
            }));
        }
    }

    /// The look-ups, rebuilt when the account has grown.
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

    // ---- changes, at the service's clock ----

    /// A change of the record that moves `updated_at`.
    pub fn rename(&mut self, contact: impl ContactKey, first_name: &str) {
        let (now, at) = (self.now(), contact.position(self));
        let contact = &mut self.contacts[at];
        contact.first_name = Some(first_name.into());
        contact.updated_at = now;
        contact.update_source = Some("Account");
    }

    /// The contact unsubscribes: only the e-mail block changes.
    pub fn unsubscribe(&mut self, contact: impl ContactKey) {
        let (now, at) = (self.now(), contact.position(self));
        if let Some(email) = &mut self.contacts[at].email {
            email.permission = "unsubscribed";
            email.updated_at = now;
            email.opt_out_date = Some(now);
            email.opt_out_source = Some("Contact");
        }
    }

    /// A tracked activity now.
    pub fn track(&mut self, kind: Kind, contact: impl ContactKey, activity_id: &str) {
        let (at, contact) = (self.now(), contact.position(self));
        self.activities.push(Row {
            contact_id: self.contacts[contact].id.clone(),
            activity_id: activity_id.into(),
            kind,
            at,
        });
    }

    /// An open now.
    pub fn open(&mut self, contact: impl ContactKey, activity_id: &str) {
        self.track(Kind::Opens, contact, activity_id);
    }

    /// Deletes a contact; its history stays.
    pub fn delete(&mut self, contact: impl ContactKey) {
        let (now, at, moves) = (self.now(), contact.position(self), self.moves.delete);
        let contact = &mut self.contacts[at];
        contact.deleted_at = Some(now.date_naive());
        contact.list_memberships.clear();
        if moves {
            contact.updated_at = now;
        }
    }

    /// A new contact now; gives its id.
    pub fn add_contact(&mut self) -> Id {
        let now = self.now();
        let id = uuid(&mut self.rng);
        let n = self.contacts.len();
        self.contacts.push(Contact {
            id: id.clone(),
            case: Case::Ordinary,
            email: Some(Email {
                address: format!("new{n}@example.com"),
                permission: "implicit",
                created_at: now,
                updated_at: now,
                opt_in_source: "Account",
                opt_in_date: Some(now - Duration::seconds(1)),
                opt_out_source: None,
                opt_out_date: None,
                opt_out_reason: None,
                confirm_status: "off",
            }),
            first_name: Some("Nina".into()),
            last_name: None,
            job_title: None,
            company_name: None,
            birthday: None,
            anniversary: None,
            create_source: "Account",
            update_source: None,
            created_at: now,
            updated_at: now,
            deleted_at: None,
            custom_fields: vec![],
            phone_numbers: vec![],
            street_addresses: vec![],
            list_memberships: vec![],
            taggings: vec![],
            notes: vec![],
            sms: None,
        });
        id
    }

    /// Puts a contact on a list.
    pub fn add_to_list(&mut self, contact: impl ContactKey, list_id: &str) {
        let (now, at, moves) = (self.now(), contact.position(self), self.moves.lists);
        let contact = &mut self.contacts[at];
        if !contact.list_memberships.iter().any(|l| &**l == list_id) {
            contact.list_memberships.push(list_id.into());
        }
        if moves {
            contact.updated_at = now;
        }
    }

    /// Tags a contact.
    pub fn add_tag(&mut self, contact: impl ContactKey, tag_id: &str) {
        let (now, at, moves) = (self.now(), contact.position(self), self.moves.tags);
        let contact = &mut self.contacts[at];
        if !contact.taggings.iter().any(|t| &**t == tag_id) {
            contact.taggings.push(tag_id.into());
        }
        if moves {
            contact.updated_at = now;
        }
    }

    /// Writes a note on a contact.
    pub fn add_note(&mut self, contact: impl ContactKey, content: &str) {
        let (now, at, moves) = (self.now(), contact.position(self), self.moves.notes);
        let id = uuid(&mut self.rng);
        let contact = &mut self.contacts[at];
        let note = Note { id, created_at: now, content: content.into() };
        contact.notes.insert(0, note);
        if moves {
            contact.updated_at = now;
        }
    }

    /// Withdraws the consent to SMS, if the contact has the channel.
    pub fn sms_opt_out(&mut self, contact: impl ContactKey) {
        let (now, at, moves) = (self.now(), contact.position(self), self.moves.sms);
        let contact = &mut self.contacts[at];
        if let Some(sms) = &mut contact.sms {
            sms.permission = "opt_out";
            sms.opt_out_date = Some(now);
            sms.updated_at = now;
            if moves {
                contact.updated_at = now;
            }
        }
    }

    /// Ids of the activities that were sent: primary e-mails and resends.
    pub fn sent_activities(&self) -> Vec<Id> {
        self.campaigns
            .iter()
            .flat_map(|c| &c.activities)
            .filter(|a| a.sent_at.is_some())
            .map(|a| a.id.clone())
            .collect()
    }

    /// Members of each list: contacts that are not deleted, or with `active`
    /// only those that may be mailed.
    pub fn membership_counts(&self, active: bool) -> HashMap<Id, u64> {
        let mut counts = HashMap::new();
        for contact in &self.contacts {
            let status = contact.status();
            if status == "deleted" || (active && status != "active") {
                continue;
            }
            for list in &contact.list_memberships {
                *counts.entry(list.clone()).or_default() += 1;
            }
        }
        counts
    }

    /// The records that a full read of a stream must give, in no order:
    /// `contacts`, `contact_lists`, `email_campaigns`,
    /// `contact_action_summary`, `contact_activity_details`.
    pub fn truth(&self, stream: &str) -> Vec<Value> {
        match stream {
            "contacts" => self.contacts.iter().map(|c| self.described(c)).collect(),
            "contact_lists" => {
                let counts = self.membership_counts(false);
                self.lists
                    .iter()
                    .map(|l| {
                        let count = counts.get(&l.id).copied().unwrap_or(0);
                        let mut v = list_json(l, Some(count), true);
                        v["channel_type"] = json!(if l.sms { "sms" } else { "email" });
                        v
                    })
                    .collect()
            }
            "email_campaigns" => self.campaign_truth(),
            "contact_action_summary" => {
                let campaigns = self.campaign_ids();
                let mut by_contact: HashMap<&str, Vec<&Row>> = HashMap::new();
                for row in &self.activities {
                    by_contact.entry(&row.contact_id).or_default().push(row);
                }
                by_contact
                    .into_iter()
                    .flat_map(|(contact, rows)| {
                        let campaigns = &campaigns;
                        summarise(&rows).into_iter().map(move |s| {
                            let mut out = Map::new();
                            out.insert("contact_id".into(), contact.into());
                            if let Some(campaign) = campaigns.get(&*s.activity_id) {
                                out.insert("campaign_id".into(), (*campaign).into());
                            }
                            if let Value::Object(rest) = s.json(true) {
                                out.extend(rest);
                            }
                            Value::Object(out)
                        })
                    })
                    .collect()
            }
            "contact_activity_details" => self.details_truth(&Kind::ALL),
            other => panic!("the fake knows no stream {other}"),
        }
    }

    /// The records of the details, if these kinds are asked for.
    pub fn details_truth(&self, kinds: &[Kind]) -> Vec<Value> {
        let campaigns = self.campaign_ids();
        let mut names: HashMap<&str, &str> = HashMap::new();
        for campaign in &self.campaigns {
            for activity in &campaign.activities {
                names.insert(&activity.id, &campaign.name);
            }
        }
        let mut seen: HashMap<(&str, &str, Kind, DateTime<Utc>), u64> = HashMap::new();
        let rows = self.activities.iter().chain(&self.page_visits).filter(|row| kinds.contains(&row.kind));
        rows.map(|row| {
            let times = seen.entry((&row.contact_id, &row.activity_id, row.kind, row.at)).or_default();
            let name = names.get(&*row.activity_id).copied();
            let mut v = detail_json(row, name, true);
            v["occurrence"] = json!(*times);
            if let Some(campaign) = campaigns.get(&*row.activity_id) {
                v["campaign_id"] = json!(campaign);
            }
            *times += 1;
            v
        })
        .collect()
    }

    /// The campaign of each activity.
    fn campaign_ids(&self) -> HashMap<&str, &str> {
        self.campaigns.iter().flat_map(|c| c.activities.iter().map(|activity| (&*activity.id, &*c.id))).collect()
    }

    /// A contact with all that its ids mean.
    fn described(&self, contact: &Contact) -> Value {
        let mut record = contact_json(contact, &|_| true, true);
        record["email"] = json!(contact.email.as_ref().map(|e| &e.address));
        let permission = contact.email.as_ref().map(|e| e.permission);
        record["status"] = match permission {
            _ if contact.deleted_at.is_some() => json!("deleted"),
            Some("implicit" | "explicit") => json!("active"),
            other => json!(other),
        };
        let names = |ids: &[Id], name: &dyn Fn(&Id) -> Option<String>| -> Value {
            ids.iter().map(|id| name(id).unwrap_or_else(|| id.to_string())).collect()
        };
        record["tag_names"] = names(&contact.taggings, &|id| {
            self.tags.iter().find(|tag| tag.id == *id && !tag.deleted).map(|tag| clean(&tag.name))
        });
        record["list_names"] = names(&contact.list_memberships, &|id| {
            self.lists.iter().find(|list| list.id == *id).map(|list| clean(&list.name))
        });
        let defined: Vec<&FieldDefinition> = self.custom_fields.iter().filter(|field| !field.deleted).collect();
        let mut values = Map::new();
        for (i, value) in contact.custom_fields.iter().enumerate() {
            let field = defined.iter().find(|field| field.id == value.id);
            let label = |id: &String| {
                let choice = field.and_then(|f| f.choices.iter().find(|c| format!("{:06}", c.number) == *id));
                choice.map_or_else(|| id.clone(), |choice| clean(&choice.label))
            };
            let labels: Vec<String> = value.choice_ids.iter().map(label).collect();
            let is_alone = |name: &str| defined.iter().filter(|f| f.name.eq_ignore_ascii_case(name)).count() == 1;
            let key = field.filter(|f| is_alone(&f.name)).map_or(value.id.to_string(), |f| f.name.clone());
            values.insert(
                key,
                match labels.as_slice() {
                    [] => json!(value.value.as_deref().map(clean)),
                    [one] => json!(one),
                    several => json!(several),
                },
            );
            let out = &mut record["custom_fields"][i];
            if let Some(field) = field {
                out["name"] = json!(field.name);
                out["label"] = json!(field.label);
                out["type"] = json!(field.kind);
            }
            if !labels.is_empty() {
                out["choice_labels"] = json!(labels);
            }
        }
        record["custom_field_values"] = values.into();
        record
    }

    /// The bounces with their codes, which only the campaigns' reports tell.
    pub fn bounces(&self) -> Vec<Value> {
        let addresses: HashMap<&Id, Option<&str>> =
            self.contacts.iter().map(|c| (&c.id, c.email.as_ref().map(|e| e.address.as_str()))).collect();
        let bounces = self.activities.iter().filter(|row| row.kind == Kind::Bounces);
        let bounce = |row: &Row| {
            json!({
                "email_address": addresses.get(&row.contact_id),
                "bounce_code": super::api::bounce_code(row),
                "created_time": canonical(row.at),
            })
        };
        bounces.map(bounce).collect()
    }

    /// The clicks with their links, which only the campaigns' reports tell.
    pub fn clicks(&self) -> Vec<Value> {
        let campaigns = self.campaign_ids();
        let click = |row: &Row| {
            json!({
                "contact_id": &*row.contact_id,
                "campaign_activity_id": &*row.activity_id,
                "campaign_id": campaigns.get(&*row.activity_id),
                "link_url": super::api::url_of(row).1,
                "created_time": canonical(row.at),
            })
        };
        self.activities.iter().filter(|row| row.kind == Kind::Clicks).map(click).collect()
    }

    /// Ids of the deleted contacts.
    pub fn deleted(&self) -> HashSet<Id> {
        self.contacts.iter().filter(|c| c.deleted_at.is_some()).map(|c| c.id.clone()).collect()
    }
}

// ---- JSON, as the service writes it or as the truth has it ----

/// The text as a reader must end up with it.
pub fn clean(text: &str) -> String {
    text.chars()
        .filter(|c| *c != '\0')
        .map(|c| match u32::from(c) {
            0x10_D800..=0x10_DFFF => char::REPLACEMENT_CHARACTER,
            _ => c,
        })
        .collect()
}

/// The canonical form of a time.
pub fn canonical(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// Writes an object with the service's habits: absent values, now and then
/// an explicit null, and several spellings of one instant.
pub(super) struct Obj {
    map: Map<String, Value>,
    truth: bool,
    salt: u64,
    millis: bool,
}

impl Obj {
    pub fn new(id: &str, truth: bool, millis: bool) -> Obj {
        Obj { map: Map::new(), truth, salt: hash(id), millis }
    }

    fn roll(&self, key: &str) -> u64 {
        mix(self.salt ^ hash(key))
    }

    pub fn put(&mut self, key: &str, value: impl Into<Value>) -> &mut Obj {
        self.map.insert(key.into(), value.into());
        self
    }

    pub fn text(&mut self, key: &str, value: Option<&str>) -> &mut Obj {
        match value {
            Some(v) if self.truth => self.put(key, clean(v)),
            Some(v) => self.put(key, v),
            None => self.nothing(key),
        }
    }

    pub fn time(&mut self, key: &str, value: Option<DateTime<Utc>>) -> &mut Obj {
        let Some(at) = value else {
            return self.nothing(key);
        };
        if self.truth {
            return self.put(key, canonical(at));
        }
        let auto = SecondsFormat::AutoSi;
        let text = match self.roll(key) % 12 {
            0 => at.to_rfc3339_opts(SecondsFormat::Millis, true),
            1 => {
                let east = chrono::FixedOffset::west_opt(5 * 3600).expect("an offset");
                at.with_timezone(&east).to_rfc3339_opts(auto, true)
            }
            _ if self.millis => at.to_rfc3339_opts(SecondsFormat::Millis, true),
            _ => at.to_rfc3339_opts(auto, true),
        };
        self.put(key, text)
    }

    fn nothing(&mut self, key: &str) -> &mut Obj {
        if !self.truth && self.roll(key).is_multiple_of(13) {
            self.put(key, Value::Null);
        }
        self
    }

    pub fn done(self) -> Value {
        Value::Object(self.map)
    }
}

/// A contact, with those sub-resources that were asked for.
pub(super) fn contact_json(c: &Contact, asked: &dyn Fn(&str) -> bool, truth: bool) -> Value {
    let mut o = Obj::new(&c.id, truth, false);
    o.put("contact_id", &*c.id);
    if let Some(e) = &c.email {
        let mut b = Obj::new(&c.id, truth, false);
        b.put("address", e.address.as_str())
            .put("permission_to_send", e.permission)
            .time("created_at", Some(e.created_at))
            .time("updated_at", Some(e.updated_at))
            .put("opt_in_source", e.opt_in_source)
            .time("opt_in_date", e.opt_in_date)
            .text("opt_out_source", e.opt_out_source)
            .time("opt_out_date", e.opt_out_date)
            .text("opt_out_reason", e.opt_out_reason.as_deref())
            .put("confirm_status", e.confirm_status);
        o.put("email_address", b.done());
    }
    o.text("first_name", c.first_name.as_deref())
        .text("last_name", c.last_name.as_deref())
        .text("job_title", c.job_title.as_deref())
        .text("company_name", c.company_name.as_deref());
    if let Some((month, day)) = c.birthday {
        o.put("birthday_month", month).put("birthday_day", day);
    }
    o.text("anniversary", c.anniversary.as_deref())
        .text("update_source", c.update_source)
        .put("create_source", c.create_source)
        .time("created_at", Some(c.created_at))
        .time("updated_at", Some(c.updated_at));
    if let Some(date) = c.deleted_at {
        let tail = if truth { "T00:00:00Z" } else { "" };
        o.put("deleted_at", format!("{date}{tail}"));
    }
    if asked("custom_fields") {
        let fields = c.custom_fields.iter().map(|f| {
            let mut b = Obj::new(&c.id, truth, false);
            b.put("custom_field_id", &*f.id).text("value", f.value.as_deref());
            if !f.choice_ids.is_empty() {
                b.put("choice_ids", f.choice_ids.clone());
            }
            b.done()
        });
        o.put("custom_fields", fields.collect::<Vec<_>>());
    }
    if asked("phone_numbers") {
        let phones = c.phone_numbers.iter().map(|p| {
            let mut b = Obj::new(&p.id, truth, false);
            b.put("phone_number_id", &*p.id)
                .put("phone_number", p.number.as_str())
                .put("kind", p.kind)
                .time("created_at", Some(p.at))
                .time("updated_at", Some(p.at))
                .put("update_source", "Contact");
            b.done()
        });
        o.put("phone_numbers", phones.collect::<Vec<_>>());
    }
    if asked("street_addresses") {
        let streets = c.street_addresses.iter().map(|s| {
            let mut b = Obj::new(&s.id, truth, false);
            b.put("street_address_id", &*s.id)
                .put("kind", s.kind)
                .text("street", s.street.as_deref())
                .text("city", s.city.as_deref())
                .text("state", s.state.as_deref())
                .text("postal_code", s.postal_code.as_deref())
                .text("country", s.country.as_deref())
                .time("created_at", Some(s.at))
                .time("updated_at", Some(s.at));
            b.done()
        });
        o.put("street_addresses", streets.collect::<Vec<_>>());
    }
    let ids = |ids: &[Id]| ids.iter().map(|i| Value::from(&**i)).collect::<Vec<_>>();
    if asked("list_memberships") {
        o.put("list_memberships", ids(&c.list_memberships));
    }
    if asked("taggings") {
        o.put("taggings", ids(&c.taggings));
    }
    if asked("notes") {
        let notes = c.notes.iter().map(|n| {
            let mut b = Obj::new(&n.id, truth, false);
            b.put("note_id", &*n.id).time("created_at", Some(n.created_at)).text("content", Some(&n.content));
            b.done()
        });
        o.put("notes", notes.collect::<Vec<_>>());
    }
    if let Some(s) = &c.sms {
        let mut consent = Obj::new(&s.id, truth, false);
        consent
            .put("sms_consent_permission", s.permission)
            .put("consent_type", "promotional_sms")
            .time("opt_in_date", s.opt_in_date)
            .time("opt_out_date", s.opt_out_date)
            .put("advertised_frequency", "1")
            .put("advertised_interval", "monthly")
            .time("created_at", Some(s.created_at))
            .time("updated_at", Some(s.updated_at));
        let mut b = Obj::new(&s.id, truth, false);
        b.put("sms_channel_id", &*s.id)
            .put("sms_address", s.address.as_str())
            .put("dial_code", "1")
            .put("country_code", "US")
            .put("update_source", "Contact")
            .put("create_source", "Account")
            .put("sms_channel_consents", vec![consent.done()]);
        o.put("sms_channel", b.done());
    }
    o.done()
}

/// A custom field, as the account defines it.
pub(super) fn field_json(field: &FieldDefinition, choice_ids_as_text: bool) -> Value {
    let mut o = Obj::new(&field.id, false, true);
    o.put("custom_field_id", &*field.id)
        .put("label", field.label.as_str())
        .put("name", field.name.as_str())
        .put("type", field.kind)
        .put("metadata", json!({"display_type": "checkbox"}))
        .put("version", 1)
        .time("created_at", Some(field.created_at))
        .time("updated_at", Some(field.created_at));
    if !field.choices.is_empty() {
        let choices = field.choices.iter().enumerate().map(|(i, choice)| {
            let mut b = Obj::new(&field.id, false, true);
            b.put("custom_field_id", &*field.id)
                .put("choice_label", choice.label.as_str())
                .put("display_order", i + 1)
                .time("created_at", Some(field.created_at));
            if choice_ids_as_text {
                b.put("choice_id", format!("{:06}", choice.number));
            } else {
                b.put("choice_id", choice.number);
            }
            if let Some(date) = choice.deleted_at {
                b.put("deleted_at", date.to_string());
            }
            b.done()
        });
        o.put("choices", choices.collect::<Vec<_>>());
    }
    o.done()
}

/// A tag, with its count of contacts when that was asked for.
pub(super) fn tag_json(tag: &Tag, count: Option<usize>) -> Value {
    let mut o = Obj::new(&tag.id, false, true);
    o.put("tag_id", &*tag.id)
        .put("name", tag.name.as_str())
        .time("created_at", Some(tag.created_at))
        .time("updated_at", Some(tag.created_at))
        .put("tag_source", "Contact");
    if let Some(count) = count {
        o.put("contacts_count", count);
    }
    o.done()
}

/// A list, with its count of members when that was asked for.
pub(super) fn list_json(l: &List, count: Option<u64>, truth: bool) -> Value {
    let mut o = Obj::new(&l.id, truth, false);
    o.put("list_id", &*l.id)
        .text("name", Some(&l.name))
        .text("description", l.description.as_deref())
        .put("favorite", l.favorite)
        .time("created_at", Some(l.created_at))
        .time("updated_at", Some(l.updated_at))
        .time("deleted_at", l.deleted_at);
    if let (Some(count), false) = (count, l.segment) {
        o.put("membership_count", count);
    }
    o.done()
}

/// A row of the contact's activity details.
pub(super) fn detail_json(row: &Row, name: Option<&str>, truth: bool) -> Value {
    let mut o = Obj::new(&row.contact_id, truth, true);
    o.put("contact_id", &*row.contact_id)
        .put("campaign_activity_id", &*row.activity_id)
        .time("created_time", Some(row.at))
        .put("tracking_activity_type", row.kind.name());
    if name.is_some() {
        o.text("campaign_activity_name", name);
    }
    o.done()
}

/// What a contact did with one activity.
pub(super) struct Summary {
    pub activity_id: Id,
    pub start_on: DateTime<Utc>,
    counts: [u64; 6],
}

impl Summary {
    pub fn json(&self, truth: bool) -> Value {
        let mut o = Obj::new(&self.activity_id, truth, true);
        o.put("campaign_activity_id", &*self.activity_id)
            .time("start_on", Some(self.start_on))
            .put("em_bounces", self.counts[3])
            .put("em_clicks", self.counts[2])
            .put("em_forwards", self.counts[5])
            .put("em_opens", self.counts[1])
            .put("em_sends", self.counts[0])
            .put("em_unsubscribes", self.counts[4]);
        o.done()
    }
}

/// Sums up one contact's rows by activity, the latest send first.
pub(super) fn summarise(rows: &[&Row]) -> Vec<Summary> {
    let mut by: HashMap<&Id, (Summary, bool)> = HashMap::new();
    for row in rows {
        let (s, has_send) = by.entry(&row.activity_id).or_insert_with(|| {
            let s = Summary { activity_id: row.activity_id.clone(), start_on: row.at, counts: [0; 6] };
            (s, false)
        });
        s.counts[row.kind as usize] += 1;
        if row.kind == Kind::Sends {
            s.start_on = if *has_send { s.start_on.max(row.at) } else { row.at };
            *has_send = true;
        } else if !*has_send {
            s.start_on = s.start_on.min(row.at);
        }
    }
    let mut out: Vec<Summary> = by.into_values().map(|(s, _)| s).collect();
    out.sort_by(|a, b| (b.start_on, &b.activity_id).cmp(&(a.start_on, &a.activity_id)));
    out
}
