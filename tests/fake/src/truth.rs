//! The records that the tap must write for an account.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use super::account::{Account, Contact, FieldDefinition, Id, Kind, Row};
use super::reports::{bounce_code, url_of};
use super::rows::{canonical, clean, contact_json, detail_json, list_json, summarise};

impl Account {
    /// The records that a full read of a stream must write, in no particular order and without fields that are null.
    /// Panics on a stream that the fake does not know.
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

    /// The records of `contact_activity_details` if only these kinds are requested.
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

    /// The campaign id of each campaign activity.
    fn campaign_ids(&self) -> HashMap<&str, &str> {
        self.campaigns.iter().flat_map(|c| c.activities.iter().map(|activity| (&*activity.id, &*c.id))).collect()
    }

    /// The record of a contact, with the names of its tags, lists, custom fields and choices.
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

    /// The bounces with their codes, which only the campaigns' reports contain.
    pub fn bounces(&self) -> Vec<Value> {
        let addresses: HashMap<&Id, Option<&str>> =
            self.contacts.iter().map(|c| (&c.id, c.email.as_ref().map(|e| e.address.as_str()))).collect();
        let bounces = self.activities.iter().filter(|row| row.kind == Kind::Bounces);
        let bounce = |row: &Row| {
            json!({
                "email_address": addresses.get(&row.contact_id),
                "bounce_code": bounce_code(row),
                "created_time": canonical(row.at),
            })
        };
        bounces.map(bounce).collect()
    }

    /// The clicks with their links, which only the campaigns' reports contain.
    pub fn clicks(&self) -> Vec<Value> {
        let campaigns = self.campaign_ids();
        let click = |row: &Row| {
            json!({
                "contact_id": &*row.contact_id,
                "campaign_activity_id": &*row.activity_id,
                "campaign_id": campaigns.get(&*row.activity_id),
                "link_url": url_of(row).1,
                "created_time": canonical(row.at),
            })
        };
        self.activities.iter().filter(|row| row.kind == Kind::Clicks).map(click).collect()
    }
}
