//! A contact, as the service sends it and as the stream writes it.

#![expect(clippy::struct_field_names, reason = "the names are the service's")]

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::client::Row;
use crate::field::{Integer, Key, Text, Timestamp};
use crate::streams::definitions::{Definitions, Names};
use crate::streams::page::{list, object, objects};

/// A person the account knows, with address, subscriptions and details.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(crate) struct Contact {
    /// Unique id of the contact.
    pub(crate) contact_id: Key,
    /// The contact's e-mail address, the same as `email_address.address`. Two contacts may share an address. Filled in
    /// by the tap.
    #[serde(skip_deserializing)]
    pub(crate) email: Text,
    /// Status of the contact: `deleted`, else `active` when e-mail may be sent, else the permission: `not_set`,
    /// `pending_confirmation`, `temp_hold` or `unsubscribed`. Null for a contact without an e-mail address. Filled in by
    /// the tap.
    #[serde(skip_deserializing)]
    pub(crate) status: Text,
    /// The contact's e-mail address and the permission to send to it.
    #[serde(default, deserialize_with = "object", skip_serializing_if = "Option::is_none")]
    pub(crate) email_address: Option<Box<EmailAddress>>,
    /// First name.
    pub(crate) first_name: Text,
    /// Last name.
    pub(crate) last_name: Text,
    /// Job title.
    pub(crate) job_title: Text,
    /// Name of the company the contact works for.
    pub(crate) company_name: Text,
    /// Month of the contact's birthday, 1 to 12.
    pub(crate) birthday_month: Integer,
    /// Day of the month of the contact's birthday.
    pub(crate) birthday_day: Integer,
    /// An anniversary of the contact, such as the day of becoming a customer, as text in the form in which it was
    /// entered.
    pub(crate) anniversary: Text,
    /// Who last updated the contact: Contact or Account.
    pub(crate) update_source: Text,
    /// Who added the contact: Contact or Account.
    pub(crate) create_source: Text,
    /// When the contact was created.
    pub(crate) created_at: Timestamp,
    /// When the contact was last updated. Unsubscribing does not move it.
    pub(crate) updated_at: Timestamp,
    /// For a deleted contact, the day of the deletion (midnight UTC).
    pub(crate) deleted_at: Timestamp,
    /// Values of the account's custom fields, at most 25.
    #[serde(default, deserialize_with = "objects", skip_serializing_if = "Option::is_none")]
    pub(crate) custom_fields: Option<Vec<CustomField>>,
    /// The same values by the name of their field: the text, the label of a single choice, or a list of the labels of
    /// several. A field without a definition is under its id, and so is one whose name differs from another's only in
    /// upper and lower case. Filled in by the tap.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub(crate) custom_field_values: Option<Values>,
    /// Phone numbers, at most 3.
    #[serde(default, deserialize_with = "objects", skip_serializing_if = "Option::is_none")]
    pub(crate) phone_numbers: Option<Vec<PhoneNumber>>,
    /// Street addresses, at most 3.
    #[serde(default, deserialize_with = "objects", skip_serializing_if = "Option::is_none")]
    pub(crate) street_addresses: Option<Vec<StreetAddress>>,
    /// Ids of the lists to which the contact is subscribed, at most 50.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub(crate) list_memberships: Option<Vec<Text>>,
    /// Names of these lists, in the order of the ids. Filled in by the tap.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub(crate) list_names: Option<Labels>,
    /// Ids of the contact's tags, at most 50.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub(crate) taggings: Option<Vec<Text>>,
    /// Names of these tags, in the order of the ids. Filled in by the tap.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub(crate) tag_names: Option<Labels>,
    /// Notes about the contact, newest first, at most 150.
    #[serde(default, deserialize_with = "objects", skip_serializing_if = "Option::is_none")]
    pub(crate) notes: Option<Vec<Note>>,
    /// The contact's phone for text messages and the consents given for it.
    #[serde(default, deserialize_with = "object", skip_serializing_if = "Option::is_none")]
    pub(crate) sms_channel: Option<Box<SmsChannel>>,
}

/// An e-mail address and the permission to send to it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(crate) struct EmailAddress {
    /// The address itself. Two contacts may share an address.
    pub(crate) address: Text,
    /// The permission to send to the contact: `explicit`, `implicit`, `not_set`, `pending_confirmation`, `temp_hold`
    /// or `unsubscribed`.
    pub(crate) permission_to_send: Text,
    /// When the address was created.
    pub(crate) created_at: Timestamp,
    /// When the address was last updated.
    pub(crate) updated_at: Timestamp,
    /// Who opted the address in: Contact or Account.
    pub(crate) opt_in_source: Text,
    /// When the address was opted in.
    pub(crate) opt_in_date: Timestamp,
    /// Who unsubscribed the address: Contact, who alone can come back from it, or Account. Only for unsubscribed
    /// contacts.
    pub(crate) opt_out_source: Text,
    /// When the contact unsubscribed. Only for unsubscribed contacts.
    pub(crate) opt_out_date: Timestamp,
    /// Why the contact unsubscribed, in the contact's words.
    pub(crate) opt_out_reason: Text,
    /// Whether the contact confirmed the address after subscribing: `pending`, `confirmed` or `off`.
    pub(crate) confirm_status: Text,
}

/// The value of one custom field.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub(crate) struct CustomField {
    /// Id of the custom field.
    pub(crate) custom_field_id: Text,
    /// Name of the custom field. The service makes it anew from the label when the field is renamed. Filled in by the
    /// tap.
    #[serde(skip_deserializing)]
    pub(crate) name: Text,
    /// Label of the custom field, as people see it. Filled in by the tap.
    #[serde(skip_deserializing)]
    pub(crate) label: Text,
    /// Type of the custom field: `string`, `text_area`, `number`, `currency`, `boolean`, `date`, `datetime`,
    /// `single_select` or `multi_select`. Filled in by the tap.
    #[serde(skip_deserializing)]
    pub(crate) r#type: Text,
    /// The contact's value, as text.
    pub(crate) value: Text,
    /// For fields with a choice, the ids of the options chosen.
    #[serde(deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub(crate) choice_ids: Option<Vec<Text>>,
    /// Labels of these options, in the order of the ids. Filled in by the tap.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub(crate) choice_labels: Option<Labels>,
}

/// What ids mean, in their order; `None` where the service refuses to say, which is null and not left out.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Labels(Option<Vec<Text>>);

/// Values of custom fields by name; `None` where the service refuses to say the names.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Values(Option<Map<String, Value>>);

/// A phone number.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(crate) struct PhoneNumber {
    /// Id of the phone number.
    pub(crate) phone_number_id: Text,
    /// The number, as entered.
    pub(crate) phone_number: Text,
    /// What kind of number it is: `home`, `work`, `mobile` or `other`.
    pub(crate) kind: Text,
    /// When the number was created.
    pub(crate) created_at: Timestamp,
    /// When the number was last updated.
    pub(crate) updated_at: Timestamp,
    /// Who last updated the number: Contact or Account.
    pub(crate) update_source: Text,
    /// Who added the number: Contact or Account.
    pub(crate) create_source: Text,
}

/// A street address.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(crate) struct StreetAddress {
    /// Id of the street address.
    pub(crate) street_address_id: Text,
    /// What kind of address it is: `home`, `work` or `other`.
    pub(crate) kind: Text,
    /// House number and street.
    pub(crate) street: Text,
    /// City.
    pub(crate) city: Text,
    /// State or province.
    pub(crate) state: Text,
    /// Postal or ZIP code.
    pub(crate) postal_code: Text,
    /// Country.
    pub(crate) country: Text,
    /// When the address was created.
    pub(crate) created_at: Timestamp,
    /// When the address was last updated.
    pub(crate) updated_at: Timestamp,
}

/// A note about a contact.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(crate) struct Note {
    /// Id of the note.
    pub(crate) note_id: Text,
    /// When the note was written.
    pub(crate) created_at: Timestamp,
    /// Text of the note.
    pub(crate) content: Text,
}

/// A phone for text messages.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub(crate) struct SmsChannel {
    /// Id of the SMS channel.
    pub(crate) sms_channel_id: Text,
    /// The phone number, without country code.
    pub(crate) sms_address: Text,
    /// The dial code of the phone's country, such as 1 for the United States.
    pub(crate) dial_code: Text,
    /// The phone's country, as an ISO code of two letters.
    pub(crate) country_code: Text,
    /// Who last updated the SMS details: Contact or Account.
    pub(crate) update_source: Text,
    /// Who added the SMS details: Contact or Account.
    pub(crate) create_source: Text,
    /// The consents given for this phone.
    #[serde(deserialize_with = "objects", skip_serializing_if = "Option::is_none")]
    pub(crate) sms_channel_consents: Option<Vec<SmsConsent>>,
}

/// A consent to receive text messages.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(crate) struct SmsConsent {
    /// The permission in force.
    pub(crate) sms_consent_permission: Text,
    /// The kind of consent; `promotional_sms` is the only one so far.
    pub(crate) consent_type: Text,
    /// When the contact opted in to text messages.
    pub(crate) opt_in_date: Timestamp,
    /// When the contact opted out of text messages.
    pub(crate) opt_out_date: Timestamp,
    /// How many promotional messages at most were announced for each `advertised_interval`, as text.
    pub(crate) advertised_frequency: Text,
    /// The span of time that `advertised_frequency` counts in, such as `monthly`.
    pub(crate) advertised_interval: Text,
    /// When the consent was recorded.
    pub(crate) created_at: Timestamp,
    /// When the consent was last updated.
    pub(crate) updated_at: Timestamp,
}

impl Contact {
    /// Fills in what the service does not send with a contact.
    pub(super) fn complete(&mut self, definitions: &Definitions) {
        let email = self.email_address.as_ref();
        self.email = email.map(|email| email.address.clone()).unwrap_or_default();
        self.status = Text(self.status().map(Into::into));
        let names = |ids: &Option<Vec<Text>>, names: &Option<Names>| {
            ids.as_ref().map(|ids| Labels(names.as_ref().map(|names| names.of(ids))))
        };
        self.tag_names = names(&self.taggings, &definitions.tags);
        self.list_names = names(&self.list_memberships, &definitions.lists);
        let Some(custom_fields) = &mut self.custom_fields else { return };
        let mut values = definitions.custom_fields.is_some().then(Map::new);
        for field in custom_fields {
            let choice_ids = field.choice_ids.as_deref();
            let mut labels = None;
            if let (Some(fields), Some(values)) = (&definitions.custom_fields, &mut values) {
                let id = &field.custom_field_id;
                let of_choices = fields.labels(id, choice_ids.unwrap_or_default());
                fields.insert_value(values, id, &field.value, &of_choices);
                if let Some(definition) = fields.get(id) {
                    field.name = definition.name.clone();
                    field.label = definition.label.clone();
                    field.r#type = definition.r#type.clone();
                }
                labels = Some(of_choices);
            }
            field.choice_labels = choice_ids.map(|_| Labels(labels));
        }
        self.custom_field_values = Some(Values(values));
    }

    /// As `contact_status` names it.
    fn status(&self) -> Option<&str> {
        if self.deleted_at.instant().is_some() {
            return Some("deleted");
        }
        match self.email_address.as_ref()?.permission_to_send.as_str()? {
            "explicit" | "implicit" => Some("active"),
            other => Some(other),
        }
    }
}

impl Row for Contact {
    const ROWS: &'static str = "contacts";
    const IS_WHOLE: bool = true;
}
