//! The reports: by contact (`contact_reports`) and by campaign activity (`email_reports`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::Datelike as _;
use serde_json::{Map, Value};

use super::account::{Contact, Index, Kind, Row, hash};
use super::api::{
    Answer, Context, Params, flag, get, invalid, limit, not_found, object_error, paged, slice, time, words,
};
use super::http::Response;
use super::rows::{Obj, detail_json, summarise};

const DETAIL_TYPES: [&str; 10] = [
    "em_sends",
    "em_opens",
    "em_clicks",
    "em_bounces",
    "em_optouts",
    "em_forwards",
    "p_contact_open",
    "p_contact_click",
    "p_contact_add",
    "p_contact_update",
];

impl Context<'_> {
    /// The positions of the rows of a contact; 404 if the contact is unknown.
    fn contact_rows(&mut self, id: &str) -> Result<(Arc<Index>, Vec<u32>), Response> {
        let index = self.account.index();
        let Some(at) = index.contacts.get(id) else {
            return Err(not_found());
        };
        let deleted = self.account.contacts[*at].deleted_at.is_some();
        if deleted && self.switches.deleted_contact_reports_404 {
            return Err(not_found());
        }
        let rows = index.rows_by_contact.get(id).cloned().unwrap_or_default();
        Ok((index, rows))
    }

    pub(super) fn summary(&mut self, params: Params, id: &str, path: &str) -> Answer {
        let (params, offset) = self.behind_next(params, &["start", "end"])?;
        let (start, end) = (time(&params, "start")?, time(&params, "end")?);
        let (Some(start), Some(end)) = (start, end) else {
            return Err(invalid(if start.is_none() { "start" } else { "end" }));
        };
        let too_long = self.switches.summary_max_years.is_some_and(|years| {
            let limit = start.with_year(start.year() + years);
            limit.is_none_or(|limit| end > limit)
        });
        if too_long || end < start {
            return Err(invalid("start"));
        }
        let (_, rows) = self.contact_rows(id)?;
        let rows: Vec<&Row> = rows.iter().map(|i| &self.account.activities[*i as usize]).collect();
        let found: Vec<Value> = summarise(&rows)
            .into_iter()
            .filter(|s| start <= s.start_on && s.start_on <= end)
            .map(|s| s.json(false))
            .collect();
        let (rows, next) = slice(found, |row| row, offset, 200, path, &params);
        let mut body = Map::new();
        body.insert("contact_id".into(), id.into());
        if !(rows.is_empty() && self.switches.empty_reports_lack_rows) {
            body.insert("campaign_activities".into(), rows.into());
        }
        Ok(paged(body, next))
    }

    pub(super) fn details(&mut self, params: Params, id: &str, path: &str) -> Answer {
        let (params, offset) = self.behind_next(
            params,
            &["tracking_activities_list", "tracking_activity_type", "include_campaign_activity_names", "limit"],
        )?;
        let limit = limit(&params, 100, 100)?;
        let list = words(&params, "tracking_activities_list", &DETAIL_TYPES)?;
        let repeated: Vec<&str> =
            params.iter().filter(|(k, _)| k == "tracking_activity_type").map(|(_, v)| v.as_str()).collect();
        if repeated.iter().any(|t| !DETAIL_TYPES.contains(t)) {
            return Err(invalid("tracking_activity_type"));
        }
        if list.is_empty() == repeated.is_empty() {
            return Err(invalid("tracking_activities_list"));
        }
        let names = flag(&params, "include_campaign_activity_names", true)?;
        let (index, rows) = self.contact_rows(id)?;
        let visits = index.visits_by_contact.get(id).into_iter().flatten();
        let mut rows: Vec<&Row> = rows
            .iter()
            .map(|i| &self.account.activities[*i as usize])
            .chain(visits.map(|i| &self.account.page_visits[*i as usize]))
            .filter(|r| list.contains(&r.kind.name()) || repeated.contains(&r.kind.name()))
            .collect();
        rows.sort_by_key(|r| std::cmp::Reverse(r.at));
        let make = |r: &Row| {
            let campaign = index.activities.get(&r.activity_id);
            let name = campaign.map(|(c, _)| self.account.campaigns[*c].name.as_str());
            detail_json(r, name.filter(|_| names), false)
        };
        let (rows, next) = slice(rows, make, offset, limit, path, &params);
        let mut body = Map::new();
        if !(rows.is_empty() && self.switches.empty_reports_lack_rows) {
            body.insert("tracking_activities".into(), rows.into());
        }
        Ok(paged(body, next))
    }

    pub(super) fn tracking(&mut self, params: Params, id: &str, kind: &str, path: &str) -> Answer {
        let mut known = vec!["limit"];
        match kind {
            "clicks" => known.push("url_id"),
            "bounces" => known.push("bounce_code"),
            "sends" | "opens" | "unique_opens" | "didnotopens" | "optouts" | "forwards" => {}
            _ => return Err(not_found()),
        }
        let (params, offset) = self.behind_next(params, &known)?;
        let limit = limit(&params, 500, 500)?;
        let codes: Vec<&str> = params.iter().filter(|(k, _)| k == "bounce_code").map(|(_, v)| v.as_str()).collect();
        let url = get(&params, "url_id");
        let index = self.account.index();
        let account = &*self.account;
        let known = index.activities.get(id).map(|(c, a)| &account.campaigns[*c].activities[*a]);
        // Only these two roles have reports; what other roles answer is not fully documented.
        if known.is_some_and(|a| a.reports_400) {
            return Err(invalid("campaign_activity_id"));
        }
        if known.is_none_or(|a| !["primary_email", "resend"].contains(&a.role)) {
            return Err(object_error(
                404,
                "reportingsvc.not_found.invalid_path_param.campaign_activity_id",
                "The campaign activity was not found.",
            ));
        }
        let reports = index.reports.get(id);
        let of = |kind: Kind| {
            let rows = reports.into_iter().flat_map(move |reports| &reports[kind as usize]);
            rows.map(|i| &account.activities[*i as usize])
        };
        let rows: Vec<&Row> = match kind {
            "sends" => of(Kind::Sends).collect(),
            "opens" => of(Kind::Opens).collect(),
            "unique_opens" => {
                let mut last: HashMap<&str, &Row> = HashMap::new();
                for row in of(Kind::Opens) {
                    let entry = last.entry(&row.contact_id).or_insert(row);
                    if row.at > entry.at {
                        *entry = row;
                    }
                }
                let mut rows: Vec<&Row> = last.into_values().collect();
                rows.sort_by(|a, b| (b.at, &b.contact_id).cmp(&(a.at, &a.contact_id)));
                rows
            }
            "didnotopens" => {
                let opened: HashSet<&str> = of(Kind::Opens).map(|r| &*r.contact_id).collect();
                of(Kind::Sends).filter(|r| !opened.contains(&*r.contact_id)).collect()
            }
            "clicks" => of(Kind::Clicks).filter(|r| url.is_none_or(|u| u == url_of(r).0)).collect(),
            "bounces" => of(Kind::Bounces).filter(|r| codes.is_empty() || codes.contains(&bounce_code(r))).collect(),
            "optouts" => of(Kind::Optouts).collect(),
            _ => of(Kind::Forwards).collect(),
        };
        let make = |row: &Row| {
            let contact = index.contacts.get(&row.contact_id).map(|i| &account.contacts[*i]);
            tracking_json(row, contact, kind)
        };
        let (rows, next) = slice(rows, make, offset, limit, path, &params);
        let mut body = Map::new();
        body.insert("tracking_activities".into(), rows.into());
        Ok(paged(body, next))
    }
}

/// The id and address of the link that was clicked.
pub(super) fn url_of(row: &Row) -> (String, String) {
    let n = hash(&row.activity_id) % 3 + row.at.timestamp().unsigned_abs() % 3;
    (format!("110040720417{n}"), format!("https://www.example.com/page/{n}?a=1&b=%20"))
}

pub(super) fn bounce_code(row: &Row) -> &'static str {
    let codes = ["B", "D", "F", "S", "V", "X", "Z"];
    codes[usize::try_from(hash(&row.contact_id) % 7).expect("small")]
}

fn tracking_json(row: &Row, contact: Option<&Contact>, kind: &str) -> Value {
    let mut o = Obj::new(&row.contact_id, false, true);
    let word = match kind {
        "didnotopens" => "em_didnotopens",
        _ => row.kind.name(),
    };
    o.put("contact_id", &*row.contact_id)
        .put("campaign_activity_id", &*row.activity_id)
        .put("tracking_activity_type", word);
    let address = contact.and_then(|c| c.email.as_ref()).map(|e| e.address.as_str());
    o.text("email_address", address);
    if let Some(c) = contact {
        o.text("first_name", c.first_name.as_deref()).text("last_name", c.last_name.as_deref());
    }
    match kind {
        "opens" | "unique_opens" | "clicks" => {
            let devices = ["computer", "mobile", "tablet", "other"];
            let at = usize::try_from(hash(&row.contact_id) % 4).expect("small");
            o.put("device_type", devices[at]);
        }
        "bounces" => {
            o.put("bounce_code", bounce_code(row));
            o.text("current_email_address", address);
        }
        "optouts" => {
            let email = contact.and_then(|c| c.email.as_ref());
            o.text("opt_out_reason", email.and_then(|e| e.opt_out_reason.as_deref()));
        }
        _ => {}
    }
    if kind == "clicks" {
        let (id, link) = url_of(row);
        o.put("url_id", id).put("link_url", link);
    }
    o.time("created_time", Some(row.at));
    if let Some(date) = contact.and_then(|c| c.deleted_at) {
        o.put("deleted_at", date.to_string());
    }
    o.done()
}
