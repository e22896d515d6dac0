//! Generates an account from a seed: the same seed and size give the same account.

use chrono::{DateTime, Duration, Utc};

use super::account::{
    Account, Case, Choice, Contact, CustomField, Email, FieldDefinition, Id, Kind, List, Note, Phone, Row, Size, Sms,
    Street, Tag, hash, lone, whole_second,
};

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

impl Account {
    /// Generates an account whose newest data is about a day old and whose oldest is about three years old.
    pub fn generate(seed: u64, size: Size) -> Account {
        Account::generate_at(seed, size, Utc::now())
    }

    /// The same, as of `now`.
    pub fn generate_at(seed: u64, size: Size, now: DateTime<Utc>) -> Account {
        let mut account = Account::empty();
        account.rng = fastrand::Rng::with_seed(seed);
        let base = whole_second(now) - Duration::hours(25);
        account.add_lists(size.lists, base);
        account.add_campaigns(size.campaigns, base);
        account.add_contacts(size.contacts, base);
        account.add_activities(base);
        account.add_page_visits(base);
        account
    }

    pub(super) fn past(&mut self, base: DateTime<Utc>, days: i64) -> DateTime<Utc> {
        base - Duration::seconds(self.rng.i64(0..days * 86_400))
    }

    fn add_lists(&mut self, count: usize, base: DateTime<Utc>) {
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

    /// Defines custom fields with these four ids and a deleted one, whose id it returns.
    fn define_fields(&mut self, ids: &[Id], base: DateTime<Utc>) -> Id {
        let created_at = base - Duration::days(900);
        let choice = |number, label: &str| Choice { number, label: label.into(), deleted_at: None };
        let mut define = |id: &Id, name: &str, label: &str, kind, choices| {
            let (id, name, label) = (id.clone(), name.into(), label.into());
            self.custom_fields.push(FieldDefinition { id, name, label, kind, choices, created_at, deleted: false });
        };
        define(&ids[0], "What_they_like", "What they like", "string", vec![]);
        // Two choices have the same label; one of them is deleted.
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

    fn add_contacts(&mut self, count: usize, base: DateTime<Utc>) {
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
                // The address of the first contact.
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

    fn add_activities(&mut self, base: DateTime<Utc>) {
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
                // A large send takes hours: contacts receive it one after the other.
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
                    // Two opens in one second.
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
        // A smaller account has only what chance gave it.
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
                // So that each kind of activity occurs at least once.
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

    /// Adds visits of landing pages, some older than any listed campaign. Uses a hash and not the random numbers, so that
    /// the rest of the account does not depend on it.
    fn add_page_visits(&mut self, base: DateTime<Utc>) {
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
}
