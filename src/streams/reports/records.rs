//! The records of the two streams. The contact route sends rows of the same form.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::newest_first::DatedRow;
use crate::client::Row;
use crate::field::{Integer, Key, KeyInteger, KeyTimestamp, Text, Timestamp};

/// What one contact did with one campaign activity, counted.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(crate) struct ActionSummary {
    // The service names the contact once, beside the rows.
    /// Id of the contact.
    #[serde(default)]
    pub(crate) contact_id: Key,
    /// Id of the campaign activity (one sending of a campaign).
    pub(crate) campaign_activity_id: Key,
    /// Id of the campaign, as in `email_campaigns`.
    pub(crate) campaign_id: Text,
    /// When the e-mail was last sent to this contact.
    pub(crate) start_on: Timestamp,
    /// How often the e-mail to this contact bounced.
    pub(crate) em_bounces: Integer,
    /// How often the contact clicked a link in it.
    pub(crate) em_clicks: Integer,
    /// How often the contact forwarded it.
    pub(crate) em_forwards: Integer,
    /// How often the contact opened it.
    pub(crate) em_opens: Integer,
    /// How often it was sent to the contact.
    pub(crate) em_sends: Integer,
    /// How often the contact unsubscribed through it.
    pub(crate) em_unsubscribes: Integer,
}

/// One thing that a contact did with a campaign activity, or that happened to it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(crate) struct ActivityDetail {
    /// Id of the contact.
    pub(crate) contact_id: Key,
    /// Id of the campaign activity (one sending of a campaign).
    pub(crate) campaign_activity_id: Key,
    /// Id of the campaign, as in `email_campaigns`. Null for landing pages.
    pub(crate) campaign_id: Text,
    /// When it happened.
    pub(crate) created_time: KeyTimestamp,
    /// What happened: `em_sends`, `em_opens`, `em_clicks`, `em_bounces`, `em_optouts`, `em_forwards`, or for landing
    /// pages `p_contact_open`, `p_contact_click`, `p_contact_add`, `p_contact_update`.
    #[serde(default, deserialize_with = "key_or_none")]
    pub(crate) tracking_activity_type: Key,
    /// Name of the campaign activity.
    pub(crate) campaign_activity_name: Text,
    /// 0, 1, 2 and so on among rows that are equal in the other key fields, so that two opens in one second stay two
    /// rows. Filled in by the tap.
    #[serde(default)]
    pub(crate) occurrence: KeyInteger,
    /// The address that the e-mail went to. Only from the campaign reports.
    pub(crate) email_address: Text,
    /// Kind of device used for an open or a click, such as computer. Only from the campaign reports.
    pub(crate) device_type: Text,
    /// Id of the link clicked. Only from the campaign reports.
    pub(crate) url_id: Text,
    /// The link clicked. Only from the campaign reports.
    pub(crate) link_url: Text,
    /// Why the e-mail bounced, as a letter, such as B for an address that does not exist and D for undeliverable. V is an
    /// automatic reply, to an e-mail that was delivered. Only from the campaign reports.
    pub(crate) bounce_code: Text,
    /// Why the contact unsubscribed, if a reason was given. Only from the campaign reports.
    pub(crate) opt_out_reason: Text,
}

/// Deserializes a key that may be missing, as the empty string: if only one type was requested, the tap fills it in.
fn key_or_none<'de, D: Deserializer<'de>>(d: D) -> Result<Key, D::Error> {
    let text = Text::deserialize(d)?;
    Ok(text.as_str().map(Key::from).unwrap_or_default())
}

impl Row for ActionSummary {
    const ROWS: &'static str = "campaign_activities";
    const IS_WHOLE: bool = true;
}

impl Row for ActivityDetail {
    const ROWS: &'static str = "tracking_activities";
    const IS_WHOLE: bool = true;
}

impl DatedRow for ActivityDetail {
    type Identity<'a> = (&'a str, &'a str, &'a str);

    fn identity(&self) -> Self::Identity<'_> {
        (self.campaign_activity_id.as_str(), self.tracking_activity_type.as_str(), self.created_time.as_str())
    }

    fn at(&self) -> Option<DateTime<Utc>> {
        self.created_time.instant()
    }
}
