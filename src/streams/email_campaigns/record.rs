//! A record of `email_campaigns`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::client::Row;
use crate::field::{Integer, Key, Text, Timestamp};
use crate::id::Id;
use crate::streams::page::list;

/// An e-mail campaign, drafts and removed ones included.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(crate) struct EmailCampaign {
    /// Unique id of the campaign.
    pub(crate) campaign_id: Key,
    /// When the campaign was created.
    pub(crate) created_at: Timestamp,
    /// State of the campaign: Draft, Scheduled, Executing (being sent), Done (sent), Error or Removed (deleted, can be
    /// restored).
    pub(crate) current_status: Text,
    /// Name of the campaign, unique in the account.
    pub(crate) name: Text,
    /// Kind of the campaign, such as `NEWSLETTER` or `CUSTOM_CODE_EMAIL`.
    pub(crate) r#type: Text,
    /// Number of the campaign's kind, such as 10 (newsletter), 26 (custom code e-mail) or 57 (A/B test).
    pub(crate) type_code: Integer,
    /// When the campaign was last updated. Opens, clicks and other counts do not move it.
    pub(crate) updated_at: Timestamp,
    /// When the campaign was last sent. Null for a campaign that was never sent.
    pub(crate) last_sent_date: Timestamp,
    /// Number of contacts to whom the campaign was sent, bounces included. Null for a campaign that was never sent.
    pub(crate) unique_sends: Integer,
    /// Number of contacts who opened it, each counted once however often they did. Null for a campaign that was never
    /// sent.
    pub(crate) unique_opens: Integer,
    /// Number of contacts who clicked a link in it, each counted once. Null for a campaign that was never sent.
    pub(crate) unique_clicks: Integer,
    /// Number of contacts to whom it could not be delivered, each counted once. Null for a campaign that was never
    /// sent.
    pub(crate) unique_bounces: Integer,
    /// Number of contacts who unsubscribed by a link in it. Null for a campaign that was never sent.
    pub(crate) unique_optouts: Integer,
    /// Number of contacts who forwarded it with the forward-to-a-friend link, each counted once. Null for a campaign
    /// that was never sent.
    pub(crate) unique_forwards: Integer,
    /// Number of contacts who reported it as spam. Null for a campaign that was never sent.
    pub(crate) unique_abuse: Integer,
    /// Number of contacts who got it and did not open it. Null for a campaign that was never sent.
    pub(crate) unique_not_opened: Integer,
    /// What the campaign consists of: the e-mail, its web version, resends to those who did not open it.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub(crate) campaign_activities: Option<Vec<CampaignActivity>>,
    /// Subject line of the campaign's primary e-mail.
    pub(crate) subject: Text,
    /// Text that mail programs show after the subject of the primary e-mail.
    pub(crate) preheader: Text,
    /// Name of the sender of the primary e-mail.
    pub(crate) from_name: Text,
    /// Address of the sender of the primary e-mail.
    pub(crate) from_email: Text,
    /// Address that answers to the primary e-mail go to.
    pub(crate) reply_to_email: Text,
    /// Ids of the lists that the primary e-mail is sent to. Empty or absent where it goes to a segment.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub(crate) contact_list_ids: Option<Vec<Text>>,
    /// Ids of the segments that the primary e-mail is sent to.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub(crate) segment_ids: Option<Vec<Integer>>,
}

/// One activity of a campaign.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(crate) struct CampaignActivity {
    /// Unique id of the activity, by which the contact reports name the campaign.
    pub(crate) campaign_activity_id: Text,
    /// What the activity is for: `primary_email` (the e-mail), `permalink` (its web version) or `resend` (the e-mail
    /// sent again to those who did not open it).
    pub(crate) role: Text,
}

impl Row for EmailCampaign {
    const ROWS: &'static str = "campaigns";
    const IS_WHOLE: bool = true;
}

impl EmailCampaign {
    fn has_status(&self, status: &str) -> bool {
        self.current_status.as_str().is_some_and(|own| own.eq_ignore_ascii_case(status))
    }

    /// Whether it was never sent so far, by its status.
    pub(in crate::streams) fn is_unsent(&self) -> bool {
        self.has_status("Draft") || self.has_status("Scheduled")
    }

    pub(super) fn is_done(&self) -> bool {
        self.has_status("Done")
    }

    pub(in crate::streams) fn is_removed(&self) -> bool {
        self.has_status("Removed")
    }

    /// Its activities, each once and with an id: the service may name one twice.
    pub(crate) fn activities(&self) -> Vec<&CampaignActivity> {
        let mut activities: Vec<&CampaignActivity> = Vec::new();
        for activity in self.campaign_activities.iter().flatten() {
            let id = &activity.campaign_activity_id;
            if id.as_str().is_some_and(|id| !id.is_empty())
                && activities.iter().all(|known| known.campaign_activity_id != *id)
            {
                activities.push(activity);
            }
        }
        activities
    }

    /// The id of the activity that is the campaign's e-mail.
    pub(super) fn primary_email(&self) -> Option<Id> {
        self.activities().into_iter().find(|activity| activity.has_role("primary_email")).map(CampaignActivity::id)
    }

    /// The ids of the activities that can have tracking reports. Undocumented roles are tried, and the service may refuse.
    pub(crate) fn tracked_activities(&self) -> Vec<Id> {
        let activities = self.activities().into_iter();
        activities.filter(|activity| !activity.has_role("permalink")).map(CampaignActivity::id).collect()
    }
}

impl CampaignActivity {
    pub(in crate::streams) fn id(&self) -> Id {
        Id::from(self.campaign_activity_id.as_str().unwrap_or_default())
    }

    fn has_role(&self, role: &str) -> bool {
        self.role.as_str().is_some_and(|own| own.eq_ignore_ascii_case(role))
    }
}
