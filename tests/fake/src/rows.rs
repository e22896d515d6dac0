//! JSON of an account: as the service writes it, or as the tap must.

use std::collections::HashMap;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use super::account::{Contact, FieldDefinition, Id, Kind, List, Row, Tag, hash, mix};

/// The string as the tap must write it: without U+0000, and U+FFFD for each lone surrogate.
pub fn clean(text: &str) -> String {
    text.chars()
        .filter(|c| *c != '\0')
        .map(|c| match u32::from(c) {
            0x10_D800..=0x10_DFFF => char::REPLACEMENT_CHARACTER,
            _ => c,
        })
        .collect()
}

/// A timestamp as the tap must write it.
pub fn canonical(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// Builds a JSON object with the service's habits: a missing value is absent or sometimes null, and a timestamp comes
/// in several formats. With `truth` it builds the tap's canonical form.
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
                let west = chrono::FixedOffset::west_opt(5 * 3600).expect("an offset");
                at.with_timezone(&west).to_rfc3339_opts(auto, true)
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

/// A contact, with the requested sub-resources.
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

/// A tag, with its number of contacts if that was requested.
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

/// A list, with its number of members if that was requested.
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

/// A row of `activity_details`.
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

/// A row of `activity_summary`: what a contact did with one campaign activity.
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

/// Counts one contact's rows by campaign activity, the latest send first.
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
