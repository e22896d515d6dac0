//! The records, each of them both the parser of the service's rows and the source of the stream's schema.
//!
//! The comment of a field becomes its description in the schema. Scalars that the service does not send are written
//! as null; objects and arrays are left out, since a null object trips consumers that look inside it.

#![expect(clippy::struct_field_names, reason = "the names are the service's")]

use schemars::JsonSchema;
use serde::de::{Deserialize, Deserializer};
use serde::{Deserialize as DeriveDeserialize, Serialize};

use crate::field::{Flag, Integer, Key, KeyInteger, KeyTimestamp, Text, Timestamp};

/// A list without its nulls, which targets refuse as elements.
fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Option<Vec<T>>, D::Error> {
    let items: Option<Vec<Option<T>>> = Deserialize::deserialize(d)?;
    Ok(items.map(|items| items.into_iter().flatten().collect()))
}

/// A person the account knows, with address, subscriptions and details.
#[derive(Clone, Debug, Default, PartialEq, DeriveDeserialize, Serialize, JsonSchema)]
pub(crate) struct Contact<'a> {
    /// Unique id of the contact.
    #[serde(borrow)]
    pub(crate) contact_id: Key<'a>,
    /// The contact's e-mail address and the permission to send to it.
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    pub(crate) email_address: Option<EmailAddress<'a>>,
    /// First name.
    #[serde(default, borrow)]
    pub(crate) first_name: Text<'a>,
    /// Last name.
    #[serde(default, borrow)]
    pub(crate) last_name: Text<'a>,
    /// Job title.
    #[serde(default, borrow)]
    pub(crate) job_title: Text<'a>,
    /// Name of the company the contact works for.
    #[serde(default, borrow)]
    pub(crate) company_name: Text<'a>,
    /// Month of the contact's birthday, 1 to 12.
    #[serde(default)]
    pub(crate) birthday_month: Integer,
    /// Day of the month of the contact's birthday.
    #[serde(default)]
    pub(crate) birthday_day: Integer,
    /// An anniversary of the contact, such as the day of becoming a customer, as text in the form in which it was
    /// entered.
    #[serde(default, borrow)]
    pub(crate) anniversary: Text<'a>,
    /// Who last updated the contact: Contact or Account.
    #[serde(default, borrow)]
    pub(crate) update_source: Text<'a>,
    /// Who added the contact: Contact or Account.
    #[serde(default, borrow)]
    pub(crate) create_source: Text<'a>,
    /// When the contact was created.
    #[serde(default, borrow)]
    pub(crate) created_at: Timestamp<'a>,
    /// When the contact was last updated. Unsubscribing does not move it.
    #[serde(default, borrow)]
    pub(crate) updated_at: Timestamp<'a>,
    /// For a deleted contact, the day of the deletion (midnight UTC).
    #[serde(default, borrow)]
    pub(crate) deleted_at: Timestamp<'a>,
    /// Values of the account's custom fields, at most 25.
    #[serde(default, borrow, deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub(crate) custom_fields: Option<Vec<CustomField<'a>>>,
    /// Phone numbers, at most 3.
    #[serde(default, borrow, deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub(crate) phone_numbers: Option<Vec<PhoneNumber<'a>>>,
    /// Street addresses, at most 3.
    #[serde(default, borrow, deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub(crate) street_addresses: Option<Vec<StreetAddress<'a>>>,
    /// Ids of the lists to which the contact is subscribed, at most 50.
    #[serde(default, borrow, deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub(crate) list_memberships: Option<Vec<Text<'a>>>,
    /// Ids of the contact's tags, at most 50.
    #[serde(default, borrow, deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub(crate) taggings: Option<Vec<Text<'a>>>,
    /// Notes about the contact, newest first, at most 150.
    #[serde(default, borrow, deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub(crate) notes: Option<Vec<Note<'a>>>,
    /// The contact's phone for text messages and the consents given for it.
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    pub(crate) sms_channel: Option<SmsChannel<'a>>,
}

/// An e-mail address and the permission to send to it.
#[derive(Clone, Debug, Default, PartialEq, DeriveDeserialize, Serialize, JsonSchema)]
#[serde(default)]
pub(crate) struct EmailAddress<'a> {
    /// The address itself, unique among the account's contacts.
    #[serde(borrow)]
    pub(crate) address: Text<'a>,
    /// The permission to send to the contact: `explicit`, `implicit`, `not_set`, `pending_confirmation`, `temp_hold`
    /// or `unsubscribed`.
    #[serde(borrow)]
    pub(crate) permission_to_send: Text<'a>,
    /// When the address was created.
    #[serde(borrow)]
    pub(crate) created_at: Timestamp<'a>,
    /// When the address was last updated.
    #[serde(borrow)]
    pub(crate) updated_at: Timestamp<'a>,
    /// Who opted the address in: Contact or Account.
    #[serde(borrow)]
    pub(crate) opt_in_source: Text<'a>,
    /// When the address was opted in.
    #[serde(borrow)]
    pub(crate) opt_in_date: Timestamp<'a>,
    /// Who unsubscribed the address: Contact, who alone can come back from it, or Account. Only for unsubscribed
    /// contacts.
    #[serde(borrow)]
    pub(crate) opt_out_source: Text<'a>,
    /// When the contact unsubscribed. Only for unsubscribed contacts.
    #[serde(borrow)]
    pub(crate) opt_out_date: Timestamp<'a>,
    /// Why the contact unsubscribed, in the contact's words.
    #[serde(borrow)]
    pub(crate) opt_out_reason: Text<'a>,
    /// Whether the contact confirmed the address after subscribing: `pending`, `confirmed` or `off`.
    #[serde(borrow)]
    pub(crate) confirm_status: Text<'a>,
}

/// The value of one custom field.
#[derive(Clone, Debug, Default, PartialEq, DeriveDeserialize, Serialize, JsonSchema)]
#[serde(default)]
pub(crate) struct CustomField<'a> {
    /// Id of the custom field.
    #[serde(borrow)]
    pub(crate) custom_field_id: Text<'a>,
    /// The contact's value, as text.
    #[serde(borrow)]
    pub(crate) value: Text<'a>,
    /// For fields with a choice, the ids of the options chosen.
    #[serde(borrow, deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub(crate) choice_ids: Option<Vec<Text<'a>>>,
}

/// A phone number.
#[derive(Clone, Debug, Default, PartialEq, DeriveDeserialize, Serialize, JsonSchema)]
#[serde(default)]
pub(crate) struct PhoneNumber<'a> {
    /// Id of the phone number.
    #[serde(borrow)]
    pub(crate) phone_number_id: Text<'a>,
    /// The number, as entered.
    #[serde(borrow)]
    pub(crate) phone_number: Text<'a>,
    /// What kind of number it is: `home`, `work`, `mobile` or `other`.
    #[serde(borrow)]
    pub(crate) kind: Text<'a>,
    /// When the number was created.
    #[serde(borrow)]
    pub(crate) created_at: Timestamp<'a>,
    /// When the number was last updated.
    #[serde(borrow)]
    pub(crate) updated_at: Timestamp<'a>,
    /// Who last updated the number: Contact or Account.
    #[serde(borrow)]
    pub(crate) update_source: Text<'a>,
    /// Who added the number: Contact or Account.
    #[serde(borrow)]
    pub(crate) create_source: Text<'a>,
}

/// A street address.
#[derive(Clone, Debug, Default, PartialEq, DeriveDeserialize, Serialize, JsonSchema)]
#[serde(default)]
pub(crate) struct StreetAddress<'a> {
    /// Id of the street address.
    #[serde(borrow)]
    pub(crate) street_address_id: Text<'a>,
    /// What kind of address it is: `home`, `work` or `other`.
    #[serde(borrow)]
    pub(crate) kind: Text<'a>,
    /// House number and street.
    #[serde(borrow)]
    pub(crate) street: Text<'a>,
    /// City.
    #[serde(borrow)]
    pub(crate) city: Text<'a>,
    /// State or province.
    #[serde(borrow)]
    pub(crate) state: Text<'a>,
    /// Postal or ZIP code.
    #[serde(borrow)]
    pub(crate) postal_code: Text<'a>,
    /// Country.
    #[serde(borrow)]
    pub(crate) country: Text<'a>,
    /// When the address was created.
    #[serde(borrow)]
    pub(crate) created_at: Timestamp<'a>,
    /// When the address was last updated.
    #[serde(borrow)]
    pub(crate) updated_at: Timestamp<'a>,
}

/// A note about a contact.
#[derive(Clone, Debug, Default, PartialEq, DeriveDeserialize, Serialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Note<'a> {
    /// Id of the note.
    #[serde(borrow)]
    pub(crate) note_id: Text<'a>,
    /// When the note was written.
    #[serde(borrow)]
    pub(crate) created_at: Timestamp<'a>,
    /// Text of the note.
    #[serde(borrow)]
    pub(crate) content: Text<'a>,
}

/// A phone for text messages.
#[derive(Clone, Debug, Default, PartialEq, DeriveDeserialize, Serialize, JsonSchema)]
#[serde(default)]
pub(crate) struct SmsChannel<'a> {
    /// Id of the SMS channel.
    #[serde(borrow)]
    pub(crate) sms_channel_id: Text<'a>,
    /// The phone number, without country code.
    #[serde(borrow)]
    pub(crate) sms_address: Text<'a>,
    /// The dial code of the phone's country, such as 1 for the United States.
    #[serde(borrow)]
    pub(crate) dial_code: Text<'a>,
    /// The phone's country, as an ISO code of two letters.
    #[serde(borrow)]
    pub(crate) country_code: Text<'a>,
    /// Who last updated the SMS details: Contact or Account.
    #[serde(borrow)]
    pub(crate) update_source: Text<'a>,
    /// Who added the SMS details: Contact or Account.
    #[serde(borrow)]
    pub(crate) create_source: Text<'a>,
    /// The consents given for this phone.
    #[serde(borrow, deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub(crate) sms_channel_consents: Option<Vec<SmsConsent<'a>>>,
}

/// A consent to receive text messages.
#[derive(Clone, Debug, Default, PartialEq, DeriveDeserialize, Serialize, JsonSchema)]
#[serde(default)]
pub(crate) struct SmsConsent<'a> {
    /// The permission in force.
    #[serde(borrow)]
    pub(crate) sms_consent_permission: Text<'a>,
    /// The kind of consent; `promotional_sms` is the only one so far.
    #[serde(borrow)]
    pub(crate) consent_type: Text<'a>,
    /// When the contact opted in to text messages.
    #[serde(borrow)]
    pub(crate) opt_in_date: Timestamp<'a>,
    /// When the contact opted out of text messages.
    #[serde(borrow)]
    pub(crate) opt_out_date: Timestamp<'a>,
    /// How many promotional messages at most were announced for each `advertised_interval`, as text.
    #[serde(borrow)]
    pub(crate) advertised_frequency: Text<'a>,
    /// The span of time that `advertised_frequency` counts in, such as `monthly`.
    #[serde(borrow)]
    pub(crate) advertised_interval: Text<'a>,
    /// When the consent was recorded.
    #[serde(borrow)]
    pub(crate) created_at: Timestamp<'a>,
    /// When the consent was last updated.
    #[serde(borrow)]
    pub(crate) updated_at: Timestamp<'a>,
}

/// A list of contacts, active or deleted, for e-mail or for text messages.
#[derive(Clone, Debug, Default, PartialEq, DeriveDeserialize, Serialize, JsonSchema)]
pub(crate) struct ContactList<'a> {
    /// Unique id of the list.
    #[serde(borrow)]
    pub(crate) list_id: Key<'a>,
    /// Name of the list.
    #[serde(default, borrow)]
    pub(crate) name: Text<'a>,
    /// Text that describes the list.
    #[serde(default, borrow)]
    pub(crate) description: Text<'a>,
    /// Whether the account marked the list as a favorite.
    #[serde(default)]
    pub(crate) favorite: Flag,
    /// When the list was created.
    #[serde(default, borrow)]
    pub(crate) created_at: Timestamp<'a>,
    /// When the list was last updated.
    #[serde(default, borrow)]
    pub(crate) updated_at: Timestamp<'a>,
    /// For a deleted list, when it was deleted.
    #[serde(default, borrow)]
    pub(crate) deleted_at: Timestamp<'a>,
    /// Number of contacts on the list. Segments have none.
    #[serde(default)]
    pub(crate) membership_count: Integer,
    /// The listing the row came from: `email` or `sms`. Filled in by the tap.
    #[serde(default, borrow)]
    pub(crate) channel_type: Text<'a>,
}

/// An e-mail campaign, drafts and removed ones included.
#[derive(Clone, Debug, Default, PartialEq, DeriveDeserialize, Serialize, JsonSchema)]
pub(crate) struct EmailCampaign<'a> {
    /// Unique id of the campaign.
    #[serde(borrow)]
    pub(crate) campaign_id: Key<'a>,
    /// When the campaign was created.
    #[serde(default, borrow)]
    pub(crate) created_at: Timestamp<'a>,
    /// State of the campaign: Draft, Scheduled, Executing (being sent), Done (sent), Error or Removed (deleted, can be
    /// restored).
    #[serde(default, borrow)]
    pub(crate) current_status: Text<'a>,
    /// Name of the campaign, unique in the account.
    #[serde(default, borrow)]
    pub(crate) name: Text<'a>,
    /// Kind of the campaign, such as Newsletter or Custom Code Email.
    #[serde(default, borrow)]
    pub(crate) r#type: Text<'a>,
    /// Number of the campaign's kind, such as 10 (Newsletter), 26 (Custom Code Email) or 57 (A/B Test).
    #[serde(default)]
    pub(crate) type_code: Integer,
    /// When the campaign was last updated.
    #[serde(default, borrow)]
    pub(crate) updated_at: Timestamp<'a>,
}

/// What one contact did with one campaign activity, counted.
#[derive(Clone, Debug, Default, PartialEq, DeriveDeserialize, Serialize, JsonSchema)]
pub(crate) struct ActionSummary<'a> {
    // The service names the contact once, beside the rows.
    /// Id of the contact.
    #[serde(default, borrow)]
    pub(crate) contact_id: Key<'a>,
    /// Id of the campaign activity (one sending of a campaign).
    #[serde(borrow)]
    pub(crate) campaign_activity_id: Key<'a>,
    /// When the e-mail was last sent to this contact.
    #[serde(default, borrow)]
    pub(crate) start_on: Timestamp<'a>,
    /// How often the e-mail to this contact bounced.
    #[serde(default)]
    pub(crate) em_bounces: Integer,
    /// How often the contact clicked a link in it.
    #[serde(default)]
    pub(crate) em_clicks: Integer,
    /// How often the contact forwarded it.
    #[serde(default)]
    pub(crate) em_forwards: Integer,
    /// How often the contact opened it.
    #[serde(default)]
    pub(crate) em_opens: Integer,
    /// How often it was sent to the contact.
    #[serde(default)]
    pub(crate) em_sends: Integer,
    /// How often the contact unsubscribed through it.
    #[serde(default)]
    pub(crate) em_unsubscribes: Integer,
}

/// One thing that a contact did with a campaign activity, or that happened to it.
#[derive(Clone, Debug, Default, PartialEq, DeriveDeserialize, Serialize, JsonSchema)]
pub(crate) struct ActivityDetail<'a> {
    /// Id of the contact.
    #[serde(borrow)]
    pub(crate) contact_id: Key<'a>,
    /// Id of the campaign activity (one sending of a campaign).
    #[serde(borrow)]
    pub(crate) campaign_activity_id: Key<'a>,
    /// When it happened.
    #[serde(borrow)]
    pub(crate) created_time: KeyTimestamp<'a>,
    /// What happened: `em_sends`, `em_opens`, `em_clicks`, `em_bounces`, `em_optouts`, `em_forwards`, or for landing
    /// pages `p_contact_open`, `p_contact_click`, `p_contact_add`, `p_contact_update`.
    #[serde(borrow)]
    pub(crate) tracking_activity_type: Key<'a>,
    /// Name of the campaign activity.
    #[serde(default, borrow)]
    pub(crate) campaign_activity_name: Text<'a>,
    /// 0, 1, 2 and so on among rows that are equal in the other key fields, so that two opens in one second stay two
    /// rows. Filled in by the tap.
    #[serde(default)]
    pub(crate) occurrence: KeyInteger,
    /// The address that the e-mail went to. Only from the campaign reports.
    #[serde(default, borrow)]
    pub(crate) email_address: Text<'a>,
    /// Kind of device used for an open or a click, such as computer. Only from the campaign reports.
    #[serde(default, borrow)]
    pub(crate) device_type: Text<'a>,
    /// Id of the link clicked. Only from the campaign reports.
    #[serde(default, borrow)]
    pub(crate) url_id: Text<'a>,
    /// The link clicked. Only from the campaign reports.
    #[serde(default, borrow)]
    pub(crate) link_url: Text<'a>,
    /// Why the e-mail bounced, as a letter, such as B for an address that does not exist and D for undeliverable. Only
    /// from the campaign reports.
    #[serde(default, borrow)]
    pub(crate) bounce_code: Text<'a>,
    /// Why the contact unsubscribed, if a reason was given. Only from the campaign reports.
    #[serde(default, borrow)]
    pub(crate) opt_out_reason: Text<'a>,
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;
    use serde_json::{Value, json};

    use super::*;
    use crate::schema;

    #[test]
    fn absent_scalars_are_null_and_absent_objects_and_arrays_left_out() {
        let contact: Contact = serde_json::from_str(
            r#"{"contact_id":"c1","notes":null,"email_address":{},"taggings":["t1",null,7],"phone_numbers":[null,{"kind":"home"}]}"#,
        )
        .unwrap();
        let out = serde_json::to_value(&contact).unwrap();
        assert_eq!(out["first_name"], Value::Null);
        assert_eq!(out["taggings"], json!(["t1", "7"]));
        assert_eq!(out["phone_numbers"].as_array().unwrap().len(), 1);
        assert_eq!(out["email_address"]["opt_out_date"], Value::Null);
        assert!(out["email_address"].as_object().unwrap().contains_key("opt_out_date"));
        for absent in ["notes", "sms_channel", "custom_fields", "list_memberships"] {
            assert!(out.get(absent).is_none(), "{absent}");
        }
    }

    #[test]
    fn a_row_without_its_key_is_an_error() {
        for row in ["{}", r#"{"contact_id":null}"#, r#"{"contact_id":""}"#] {
            assert!(serde_json::from_str::<Contact>(row).is_err());
        }
    }

    #[test]
    fn the_keys_of_the_reports_can_be_filled_in_after_parsing() {
        let mut row: ActionSummary =
            serde_json::from_str(r#"{"campaign_activity_id":"a","em_opens":"2","start_on":"2026-01-02"}"#).unwrap();
        row.contact_id = Key("c".into());
        let out = serde_json::to_string(&row).unwrap();
        assert!(out.starts_with(r#"{"contact_id":"c","campaign_activity_id":"a","start_on":"2026-01-02T00:00:00Z""#));
        assert!(out.contains(r#""em_opens":2"#));

        let mut row: ActivityDetail = serde_json::from_str(
            r#"{"contact_id":"c","campaign_activity_id":"a","created_time":"2026-01-02T03:04:05.000Z",
                "tracking_activity_type":"em_opens"}"#,
        )
        .unwrap();
        row.occurrence = KeyInteger(1);
        let out = serde_json::to_value(&row).unwrap();
        assert_eq!((&out["created_time"], &out["occurrence"]), (&json!("2026-01-02T03:04:05Z"), &json!(1)));
        assert_eq!(out["url_id"], Value::Null);
    }

    fn any_json() -> BoxedStrategy<Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
            Just("2026-02-30T25:00:00+14:00".into()),
        ];
        let nested = leaf.prop_recursive(2, 8, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-z_]{1,8}", inner, 0..3)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        });
        nested.boxed()
    }

    /// Something like what a schema describes: now and then a field is missing, null or of another kind.
    fn like(schema: &Value) -> BoxedStrategy<Value> {
        let kind = schema["type"].as_array().and_then(|types| types.last()).unwrap_or(&schema["type"]);
        let good = match kind.as_str() {
            Some("object") => {
                let fields = schema["properties"].as_object().unwrap();
                // A row without one of its keys is refused, and shows nothing of what is written.
                let there = |field: &Value| if field["type"][0] == "null" { 0.9 } else { 0.99 };
                let (names, fields): (Vec<String>, Vec<_>) = fields
                    .iter()
                    .map(|(name, field)| (name.clone(), prop::option::weighted(there(field), like(field))))
                    .unzip();
                let object = move |values: Vec<Option<Value>>| {
                    names.iter().cloned().zip(values).filter_map(|(name, value)| Some((name, value?))).collect()
                };
                fields.prop_map(object).prop_map(Value::Object).boxed()
            }
            Some("array") => prop::collection::vec(like(&schema["items"]), 0..3).prop_map(Value::from).boxed(),
            Some("integer") => prop_oneof![any::<i64>().prop_map(Value::from), "[0-9]{1,4}".prop_map(Value::from)].boxed(),
            Some("boolean") => any::<bool>().prop_map(Value::from).boxed(),
            _ if schema["format"] == "date-time" => {
                "20[0-9]{2}-(0[1-9]|1[0-2])-[012][1-8]T[01][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-][01][0-9]:[0-5][0-9])"
                    .prop_map(Value::from)
                    .boxed()
            }
            _ => prop_oneof![20 => ".{1,12}", 1 => Just(String::new())].prop_map(Value::from).boxed(),
        };
        prop_oneof![150 => good, 1 => Just(Value::Null), 1 => any_json()].boxed()
    }

    /// Whatever comes is refused, or written as its schema says.
    fn any_row_fits_its_schema(schema: &Value, write: fn(&str) -> Option<Value>) {
        let validator = jsonschema::options().should_validate_formats(true).build(schema).unwrap();
        let config = ProptestConfig { failure_persistence: None, cases: 200, ..ProptestConfig::default() };
        let written = Cell::new(0);
        TestRunner::new(config)
            .run(&like(schema), |row| {
                if let Some(record) = write(&row.to_string()) {
                    written.set(written.get() + 1);
                    prop_assert!(validator.is_valid(&record), "{record}");
                }
                Ok(())
            })
            .unwrap();
        assert!(written.get() > 50, "{} of 200 rows were written", written.get());
    }

    fn written(record: serde_json::Result<impl Serialize>) -> Option<Value> {
        record.ok().map(|record| serde_json::to_value(record).unwrap())
    }

    #[test]
    fn every_stream_writes_what_its_schema_says() {
        any_row_fits_its_schema(&schema::of::<Contact>(), |row| written(serde_json::from_str::<Contact>(row)));
        any_row_fits_its_schema(&schema::of::<ContactList>(), |row| written(serde_json::from_str::<ContactList>(row)));
        any_row_fits_its_schema(&schema::of::<EmailCampaign>(), |row| {
            written(serde_json::from_str::<EmailCampaign>(row))
        });
        any_row_fits_its_schema(&schema::of::<ActionSummary>(), |row| {
            written(serde_json::from_str::<ActionSummary>(row))
        });
        any_row_fits_its_schema(&schema::of::<ActivityDetail>(), |row| {
            written(serde_json::from_str::<ActivityDetail>(row))
        });
    }
}
