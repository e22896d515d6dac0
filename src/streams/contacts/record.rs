//! A contact, as the service sends it and as the stream writes it.

#![expect(clippy::struct_field_names, reason = "the names are the service's")]

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::client::Row;
use crate::field::{Integer, Key, Text, Timestamp};
use crate::streams::page::list;

/// A person the account knows, with address, subscriptions and details.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(crate) struct Contact {
    /// Unique id of the contact.
    pub(crate) contact_id: Key,
    /// The contact's e-mail address and the permission to send to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) email_address: Option<EmailAddress>,
    /// First name.
    #[serde(default)]
    pub(crate) first_name: Text,
    /// Last name.
    #[serde(default)]
    pub(crate) last_name: Text,
    /// Job title.
    #[serde(default)]
    pub(crate) job_title: Text,
    /// Name of the company the contact works for.
    #[serde(default)]
    pub(crate) company_name: Text,
    /// Month of the contact's birthday, 1 to 12.
    #[serde(default)]
    pub(crate) birthday_month: Integer,
    /// Day of the month of the contact's birthday.
    #[serde(default)]
    pub(crate) birthday_day: Integer,
    /// An anniversary of the contact, such as the day of becoming a customer, as text in the form in which it was
    /// entered.
    #[serde(default)]
    pub(crate) anniversary: Text,
    /// Who last updated the contact: Contact or Account.
    #[serde(default)]
    pub(crate) update_source: Text,
    /// Who added the contact: Contact or Account.
    #[serde(default)]
    pub(crate) create_source: Text,
    /// When the contact was created.
    #[serde(default)]
    pub(crate) created_at: Timestamp,
    /// When the contact was last updated. Unsubscribing does not move it.
    #[serde(default)]
    pub(crate) updated_at: Timestamp,
    /// For a deleted contact, the day of the deletion (midnight UTC).
    #[serde(default)]
    pub(crate) deleted_at: Timestamp,
    /// Values of the account's custom fields, at most 25.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub(crate) custom_fields: Option<Vec<CustomField>>,
    /// Phone numbers, at most 3.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub(crate) phone_numbers: Option<Vec<PhoneNumber>>,
    /// Street addresses, at most 3.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub(crate) street_addresses: Option<Vec<StreetAddress>>,
    /// Ids of the lists to which the contact is subscribed, at most 50.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub(crate) list_memberships: Option<Vec<Text>>,
    /// Ids of the contact's tags, at most 50.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub(crate) taggings: Option<Vec<Text>>,
    /// Notes about the contact, newest first, at most 150.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub(crate) notes: Option<Vec<Note>>,
    /// The contact's phone for text messages and the consents given for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sms_channel: Option<SmsChannel>,
}

/// An e-mail address and the permission to send to it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub(crate) struct EmailAddress {
    /// The address itself, unique among the account's contacts.
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
    /// The contact's value, as text.
    pub(crate) value: Text,
    /// For fields with a choice, the ids of the options chosen.
    #[serde(deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub(crate) choice_ids: Option<Vec<Text>>,
}

/// A phone number.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
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
#[serde(default)]
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
#[serde(default)]
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
    #[serde(deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub(crate) sms_channel_consents: Option<Vec<SmsConsent>>,
}

/// A consent to receive text messages.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
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

impl Row for Contact {
    const ROWS: &'static str = "contacts";
    const IS_WHOLE: bool = true;
}
