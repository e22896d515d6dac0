//! The campaign of each activity, for the contact route: its rows name only the activity.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::Deserialize;

use super::stats::stats;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::field::Text;
use crate::id::Id;
use crate::run::Run;
use crate::stream::Stream;
use crate::streams::campaigns::CampaignCache;
use crate::streams::email_campaigns::record::CampaignActivity;

/// How many activities one call may name.
const IDS: usize = 10;

/// The campaigns of activities known so far. Each activity is looked up once per run, ten per call.
#[derive(Default)]
pub(super) struct CampaignIds {
    known: HashMap<Id, Text>,
    /// Activities that later rows will name. They are looked up together with the first one.
    expected: BTreeSet<Id>,
    /// Whether the service refuses to name campaigns. Then the field is null and the rows are written.
    is_refused: bool,
}

impl CampaignIds {
    /// The campaign of an activity; null where the service knows none, as for landing pages.
    pub(super) fn of(&self, activity: &Id) -> Text {
        self.known.get(activity).cloned().unwrap_or_default()
    }

    /// Announces activities that later rows will name.
    pub(super) fn expect(&mut self, activities: impl Iterator<Item = Id>) {
        self.expected.extend(activities);
    }

    /// Looks up the activities that are not known yet, if the stream selects the field.
    ///
    /// # Errors
    /// What ends the run; a refusal does not.
    pub(super) fn look_up<'a>(
        &mut self,
        run: &Run,
        stream: &Stream,
        campaigns: &CampaignCache,
        activities: impl Iterator<Item = &'a str>,
    ) -> Result<()> {
        if self.is_refused || !run.wants(stream, &["campaign_id"]) {
            return Ok(());
        }
        let mut missing: BTreeSet<Id> = activities.map(Id::from).filter(|id| !self.known.contains_key(id)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        missing.append(&mut self.expected);
        missing.retain(|id| !self.known.contains_key(id));
        // If the details of a campaign were read, they name its activities without another call.
        for (campaign, details) in &campaigns.details {
            for activity in details.iter().flat_map(|details| details.activities()).map(CampaignActivity::id) {
                if missing.remove(&activity) {
                    self.known.insert(activity, Text::from(campaign.to_string().as_str()));
                }
            }
        }
        let missing: Vec<Id> = missing.into_iter().collect();
        for ids in missing.chunks(IDS) {
            match self.ask(run.client, ids) {
                Err(Error::Forbidden(why)) => {
                    self.is_refused = true;
                    log::warn!(
                        "the campaigns of activities are refused ({why}): campaign_id is null in the contact reports. To \
                         fill it, log in again and allow the scope campaign_data"
                    );
                    return Ok(());
                }
                outcome => outcome?,
            }
        }
        Ok(())
    }

    fn ask(&mut self, client: &Arc<Client>, ids: &[Id]) -> Result<()> {
        #[derive(Default, Deserialize)]
        struct ActivityStats {
            campaign_activity_id: Text,
            campaign_id: Text,
        }
        match stats::<ActivityStats>(client, "email_activity_stats", "email_campaign_activities", ids, 0) {
            Ok(found) => {
                for found in found {
                    if let Some(id) = found.campaign_activity_id.as_str() {
                        self.known.insert(Id::from(id), found.campaign_id);
                    }
                }
            }
            // A single id that the service does not accept fails the whole call.
            Err(Error::NotFound(_) | Error::Refused(_)) if ids.len() > 1 => {
                let (some, others) = ids.split_at(ids.len() / 2);
                self.ask(client, some)?;
                self.ask(client, others)?;
            }
            Err(Error::NotFound(why) | Error::Refused(why)) => log::debug!("no campaign of activity {}: {why}", ids[0]),
            Err(e) => return Err(e),
        }
        for id in ids {
            self.known.entry(id.clone()).or_default();
        }
        Ok(())
    }
}
