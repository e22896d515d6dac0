//! The statistics of campaigns and of their activities.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::account::Kind;
use super::api::{Answer, Context, invalid, object_error, single};
use super::rows::Obj;

impl Context<'_> {
    /// The statistics of up to 150 campaigns. One unknown id fails the whole call.
    pub(super) fn campaign_stats(&mut self, ids: &str) -> Answer {
        let ids: Vec<&str> = ids.split(',').collect();
        if ids.len() > 150 {
            return Err(invalid("campaign_ids"));
        }
        let index = self.account.index();
        let account = &*self.account;
        let known: HashMap<&str, _> = account.campaigns.iter().map(|c| (&*c.id, c)).collect();
        let (mut results, mut errors) = (Vec::new(), Vec::new());
        for id in ids {
            let key = "reportingsvc.not_found.invalid_path_param.campaign_ids";
            let campaign = known.get(id).ok_or_else(|| object_error(404, key, "No stats for these campaigns."))?;
            if campaign.activities.iter().all(|activity| activity.sent_at.is_none()) {
                errors.push(json!({"error_key": key, "error_message": format!("No stats for {id}.")}));
                continue;
            }
            let mut stats = Map::new();
            for kind in Kind::ALL {
                let reports = campaign.activities.iter().filter_map(|a| index.reports.get(&a.id));
                let rows: Vec<u32> = reports.flat_map(|reports| reports[kind as usize].iter().copied()).collect();
                let mut contacts: Vec<&str> =
                    rows.iter().map(|row| &*account.activities[*row as usize].contact_id).collect();
                contacts.sort_unstable();
                contacts.dedup();
                stats.insert(kind.name().into(), contacts.len().into());
                if matches!(kind, Kind::Opens | Kind::Clicks) {
                    stats.insert(format!("{}_all", kind.name()), rows.len().into());
                }
            }
            let mut o = Obj::new(id, false, true);
            o.put("campaign_id", id).put("stats", stats).time("last_refresh_time", Some(account.now()));
            results.push(o.done());
        }
        Ok(single(json!({"results": results, "errors": errors})))
    }

    /// The campaign of up to 10 activities. Unknown ids are listed under `errors`; a malformed id fails the whole call.
    pub(super) fn activity_stats(&mut self, ids: &str) -> Answer {
        let ids: Vec<&str> = ids.split(',').collect();
        if ids.len() > 10 {
            return Err(invalid("campaign_activity_ids"));
        }
        let key = "reportingsvc.not_found.invalid_path_param.campaign_activity_ids";
        if ids.iter().any(|id| id.len() != 36) {
            return Err(object_error(404, key, "An id is malformed."));
        }
        let index = self.account.index();
        let (mut results, mut errors) = (Vec::<Value>::new(), Vec::new());
        for id in ids {
            match index.activities.get(id) {
                Some((campaign, _)) => {
                    let campaign_id = &*self.account.campaigns[*campaign].id;
                    results.push(json!({"campaign_activity_id": id, "campaign_id": campaign_id, "stats": {}}));
                }
                None => errors.push(json!({"error_key": key, "error_message": format!("No stats for {id}.")})),
            }
        }
        Ok(single(json!({"results": results, "errors": errors})))
    }
}
