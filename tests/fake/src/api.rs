//! The endpoints of the API.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Datelike as _, NaiveDate, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use super::account::{
    Account, Contact, Index, Kind, Obj, Row, contact_json, detail_json, field_json, hash, list_json, summarise,
    tag_json,
};
use super::http::{Request, Response, decode_query, decode_segment, encode};
use super::{Order, Switches};

/// What an endpoint works with.
pub(super) struct Context<'a> {
    pub account: &'a mut Account,
    pub switches: &'a Switches,
    pub scopes: &'a [String],
    pub privileges: &'a [String],
    /// Every next link handed out so far.
    pub issued: &'a HashSet<String>,
    pub violations: Vec<String>,
}

/// A successful answer: the body and, when there is more, the next link.
pub(super) struct Page {
    pub body: Value,
    pub next: Option<String>,
    /// Whether the answer carries `_links` at all.
    pub paged: bool,
}

pub(super) type Answer = Result<Page, Response>;
pub(super) type Params = Vec<(String, String)>;

pub(super) fn array_error(status: u16, key: &str, message: &str) -> Response {
    Response::json(status, &json!([{"error_key": key, "error_message": message}]))
}

/// An error in the object form.
pub(super) fn object_error(status: u16, key: &str, message: &str) -> Response {
    Response::json(status, &json!({"error_key": key, "error_message": message}))
}

pub(super) fn invalid(param: &str) -> Response {
    let message = format!("{param} does not have a valid value");
    array_error(400, "contacts.api.validation.error", &message)
}

pub(super) fn not_found() -> Response {
    array_error(404, "contacts.api.not_found", "The requested resource was not found.")
}

pub(super) fn get<'a>(params: &'a Params, key: &str) -> Option<&'a str> {
    params.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
}

pub(super) fn limit(params: &Params, default: usize, max: usize) -> Result<usize, Response> {
    match get(params, "limit") {
        None => Ok(default),
        Some(text) => match text.parse::<usize>() {
            Ok(n) if (1..=max).contains(&n) => Ok(n),
            _ => Err(invalid("limit")),
        },
    }
}

pub(super) fn time(params: &Params, key: &str) -> Result<Option<DateTime<Utc>>, Response> {
    let Some(text) = get(params, key) else {
        return Ok(None);
    };
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(Some(at.to_utc()));
    }
    if let Ok(at) = DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%z") {
        return Ok(Some(at.to_utc()));
    }
    match text.parse::<NaiveDate>() {
        Ok(date) => Ok(date.and_hms_opt(0, 0, 0).map(|t| t.and_utc())),
        Err(_) => Err(invalid(key)),
    }
}

fn flag(params: &Params, key: &str, default: bool) -> Result<bool, Response> {
    match get(params, key) {
        None => Ok(default),
        Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(_) => Err(invalid(key)),
    }
}

/// A comma-separated parameter, each value one of those allowed.
pub(super) fn words<'a>(params: &'a Params, key: &str, allowed: &[&str]) -> Result<Vec<&'a str>, Response> {
    let array_key = format!("{key}[]");
    let values: Vec<&str> =
        params.iter().filter(|(k, _)| k == key || *k == array_key).flat_map(|(_, v)| v.split(',')).collect();
    if values.iter().any(|v| !allowed.contains(v)) {
        return Err(invalid(key));
    }
    Ok(values)
}

/// Base64 with the padding written as asterisks.
pub(super) fn stars(text: &str) -> String {
    STANDARD.encode(text).replace('=', "*")
}

/// The offset behind the `next` of a listing that shows it in clear.
pub(super) fn behind_offset(next: &str) -> Option<usize> {
    unstars(next)?.parse().ok()
}

fn unstars(text: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(text.replace('*', "=")).ok()?).ok()
}

/// Invented, in the vendor's schema.
fn account_summary() -> Value {
    json!({
        "contact_email": "owner@example.com",
        "contact_phone": "5550100",
        "country_code": "US",
        "encoded_account_id": "a07e1l8cdif9dl",
        "first_name": "Ada",
        "last_name": "Owner",
        "organization_name": "Example Bakery",
        "organization_phone": "5550101",
        "state_code": "MA",
        "time_zone_id": "US/Eastern",
        "website": "https://www.example.com",
    })
}

const CONTACT_INCLUDES: [&str; 6] =
    ["custom_fields", "list_memberships", "phone_numbers", "street_addresses", "taggings", "notes"];

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
    pub(super) fn violation(&mut self, text: String) {
        if self.switches.strict {
            self.violations.push(text);
        }
    }

    fn allow(&self, scope: &str, privilege: &str) -> Result<(), Response> {
        if !scope.is_empty() && !self.scopes.iter().any(|s| s == scope) {
            return Err(object_error(403, "forbidden", "The token lacks the necessary scope."));
        }
        if !privilege.is_empty() && !self.privileges.iter().any(|p| p == privilege) {
            return Err(object_error(403, "forbidden", "The user lacks the necessary privileges."));
        }
        Ok(())
    }

    /// Answers an authorized GET under `/v3`.
    pub fn serve(&mut self, req: &Request) -> Answer {
        let params = decode_query(&req.query);
        let path = req.path.strip_prefix("/v3").unwrap_or(&req.path);
        let parts: Vec<String> = path.split('/').skip(1).map(decode_segment).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let follows = params.iter().any(|(k, _)| k == "cursor" || k == "next");
        if follows && !self.issued.contains(&req.target()) {
            self.violation(format!("a next link the service never gave: {}", req.target()));
        }
        if params.len() > 1 && get(&params, "cursor").is_some() {
            self.violation(format!("parameters beside the cursor: {}", req.target()));
        }
        match parts.as_slice() {
            ["account", "summary"] => {
                self.allow("account_read", "account:read")?;
                self.known(&params, &["extra_fields"]);
                Ok(Page { body: account_summary(), next: None, paged: false })
            }
            ["contacts"] => {
                self.allow("contact_data", "contacts:read")?;
                self.contacts(params)
            }
            ["contacts", "counts"] => {
                self.allow("contact_data", "contacts:read")?;
                self.known(&params, &["include"]);
                self.counts()
            }
            ["contacts", id] => {
                self.allow("contact_data", "contacts:read")?;
                self.known(&params, &["include"]);
                self.contact(&params, id)
            }
            ["contact_custom_fields"] => {
                self.allow("contact_data", "contacts:read")?;
                self.custom_fields(params)
            }
            ["contact_tags"] => {
                self.allow("contact_data", "contacts:read")?;
                self.tags(params)
            }
            ["contact_lists"] => {
                self.allow("contact_data", "contacts:lists:read")?;
                self.lists(params)
            }
            ["emails"] => {
                self.allow("campaign_data", "campaign:read")?;
                self.emails(&params)
            }
            ["emails", id] => {
                self.allow("campaign_data", "campaign:read")?;
                self.known(&params, &[]);
                self.campaign(id)
            }
            ["emails", "activities", id] => {
                self.allow("campaign_data", "campaign:read")?;
                self.known(&params, &["include"]);
                self.email(&params, id)
            }
            ["reports", "contact_reports", id, "activity_summary"] => {
                self.allow("contact_data", "ui:campaign:metrics")?;
                self.summary(params, id, &req.path)
            }
            ["reports", "contact_reports", id, "activity_details"] => {
                self.allow("contact_data", "ui:campaign:metrics")?;
                self.details(params, id, &req.path)
            }
            ["reports", "email_reports", id, "tracking", kind] => {
                self.allow("campaign_data", "ui:campaign:metrics")?;
                self.tracking(params, id, kind, &req.path)
            }
            ["reports", "summary_reports", "email_campaign_summaries"] => {
                self.allow("campaign_data", "ui:campaign:metrics")?;
                self.campaign_summaries(params, &req.path)
            }
            ["reports", "stats", "email_campaigns", ids] => {
                self.allow("campaign_data", "ui:campaign:metrics")?;
                self.known(&params, &[]);
                self.campaign_stats(ids)
            }
            ["reports", "stats", "email_campaign_activities", ids] => {
                self.allow("campaign_data", "ui:campaign:metrics")?;
                self.known(&params, &[]);
                self.activity_stats(ids)
            }
            ["account", "user", "privileges"] => {
                self.known(&params, &[]);
                let all = self.privileges.iter().enumerate();
                let all = all.map(|(i, p)| json!({"privilege_id": i + 1, "privilege_name": p}));
                Ok(single(all.collect::<Vec<_>>().into()))
            }
            _ => Err(not_found()),
        }
    }

    pub(super) fn known(&mut self, params: &Params, known: &[&str]) {
        for (key, _) in params {
            if !known.contains(&key.as_str()) {
                self.violation(format!("unknown parameter {key}"));
            }
        }
    }

    /// The parameters behind a `cursor`, or those given, and the page number.
    fn behind_cursor(&mut self, params: Params, known: &[&str]) -> Result<(Params, usize), Response> {
        let Some(cursor) = get(&params, "cursor") else {
            self.known(&params, known);
            return Ok((params, 1));
        };
        let inside = STANDARD.decode(cursor).ok().and_then(|b| String::from_utf8(b).ok()).map(|q| decode_query(&q));
        let page = inside.as_ref().and_then(|p| get(p, "next")?.parse().ok());
        match (inside, page) {
            (Some(inside), Some(page)) if page > 0 => Ok((inside, page)),
            _ if self.switches.bad_cursor_404 => Err(not_found()),
            _ => Err(invalid("cursor")),
        }
    }

    /// The parameters behind an opaque `next`, or those given, and the offset.
    pub(super) fn behind_next(&mut self, params: Params, known: &[&str]) -> Result<(Params, usize), Response> {
        let Some(next) = get(&params, "next") else {
            self.known(&params, known);
            return Ok((params, 0));
        };
        let inside = unstars(next).map(|q| decode_query(&q));
        let offset = inside.as_ref().and_then(|p| get(p, "offset")?.parse().ok());
        match (inside, offset) {
            (Some(inside), Some(offset)) => Ok((inside, offset)),
            _ if self.switches.bad_cursor_404 => Err(not_found()),
            _ => Err(invalid("next")),
        }
    }

    fn contacts(&mut self, params: Params) -> Answer {
        let (params, page) = self.behind_cursor(
            params,
            &[
                "status",
                "email",
                "lists",
                "tags",
                "updated_after",
                "updated_before",
                "created_after",
                "created_before",
                "optout_after",
                "optout_before",
                "include",
                "sms_status",
                "include_count",
                "limit",
            ],
        )?;
        let limit = limit(&params, 50, 500)?;
        let statuses = words(
            &params,
            "status",
            &["all", "active", "deleted", "not_set", "pending_confirmation", "temp_hold", "unsubscribed"],
        )?;
        let sms =
            words(&params, "sms_status", &["all", "explicit", "unsubscribed", "pending_confirmation", "not_set"])?;
        let include = words(&params, "include", &CONTACT_INCLUDES)?;
        let with_count = flag(&params, "include_count", false)?;
        let (updated_after, updated_before) = (time(&params, "updated_after")?, time(&params, "updated_before")?);
        let (created_after, created_before) = (time(&params, "created_after")?, time(&params, "created_before")?);
        let (optout_after, optout_before) = (time(&params, "optout_after")?, time(&params, "optout_before")?);
        let lists: Option<Vec<&str>> = get(&params, "lists").map(|l| l.split(',').collect());
        let tags: Option<Vec<&str>> = get(&params, "tags").map(|l| l.split(',').collect());
        if lists.as_ref().is_some_and(|l| l.len() > 25) {
            return Err(invalid("lists"));
        }
        if tags.as_ref().is_some_and(|l| l.len() > 50) {
            return Err(invalid("tags"));
        }
        let email = get(&params, "email");
        let inclusive = self.switches.updated_after_inclusive;
        let by_optout = optout_after.is_some() || optout_before.is_some();
        let every_status = by_optout && !self.switches.optout_after_defaults_status;
        let after = |at: DateTime<Utc>, bound: Option<DateTime<Utc>>, inclusive: bool| {
            bound.is_none_or(|b| at > b || (inclusive && at == b))
        };
        let before = |at: DateTime<Utc>, bound: Option<DateTime<Utc>>| bound.is_none_or(|b| at < b);
        let matches = |c: &Contact| {
            let status = c.status();
            let status_fits = if statuses.is_empty() {
                every_status || status != "deleted"
            } else {
                statuses.contains(&"all") || statuses.contains(&status)
            };
            let sms_word = c.sms.as_ref().map_or("not_set", |s| match s.permission {
                "opt_out" => "unsubscribed",
                other => other,
            });
            status_fits
                && (sms.is_empty() || sms.contains(&"all") || sms.contains(&sms_word))
                && after(c.updated_at, updated_after, inclusive)
                && before(c.updated_at, updated_before)
                && after(c.created_at, created_after, inclusive)
                && before(c.created_at, created_before)
                && (!by_optout
                    || c.opt_out_date()
                        .is_some_and(|at| after(at, optout_after, inclusive) && before(at, optout_before)))
                && email.is_none_or(|e| c.email.as_ref().is_some_and(|b| b.address == e))
                && lists.as_ref().is_none_or(|l| c.list_memberships.iter().any(|i| l.contains(&&**i)))
                && tags.as_ref().is_none_or(|t| c.taggings.iter().any(|i| t.contains(&&**i)))
        };
        let index = self.account.index();
        let all = &self.account.contacts;
        let mut found: Vec<&Contact> =
            index.scrambled.iter().map(|i| &all[*i as usize]).filter(|c| matches(c)).collect();
        match self.switches.contacts_order {
            Order::Scrambled => {}
            Order::UpdatedDesc => found.sort_by_key(|c| std::cmp::Reverse(c.updated_at)),
            Order::CreatedDesc => found.sort_by_key(|c| std::cmp::Reverse(c.created_at)),
        }
        let total = found.len();
        let start = (page - 1).saturating_mul(limit);
        let asked = |key: &str| include.contains(&key);
        let rows: Vec<Value> =
            found.into_iter().skip(start).take(limit).map(|c| contact_json(c, &asked, false)).collect();
        let mut body = Map::new();
        body.insert("contacts".into(), rows.into());
        if with_count {
            body.insert("contacts_count".into(), (total + self.switches.contacts_counted_too_many).into());
        }
        let next = (start.saturating_add(limit) < total).then(|| cursor_link("/v3/contacts", &params, limit, page + 1));
        Ok(paged(body, next))
    }

    fn contact(&mut self, params: &Params, id: &str) -> Answer {
        let include = words(params, "include", &CONTACT_INCLUDES)?;
        let index = self.account.index();
        let Some(at) = index.contacts.get(id) else {
            let text = "contact_id is in an invalid format.";
            return Err(array_error(404, "contacts.api.not_found", text));
        };
        let asked = |key: &str| include.contains(&key);
        Ok(single(contact_json(&self.account.contacts[*at], &asked, false)))
    }

    fn counts(&mut self) -> Answer {
        let mut counts: HashMap<&str, u64> = HashMap::new();
        for contact in &self.account.contacts {
            if contact.deleted_at.is_none() {
                *counts.entry("total").or_default() += 1;
                let word = contact.email.as_ref().map_or("not_set", |e| e.permission);
                *counts.entry(word).or_default() += 1;
            }
        }
        let n = |word: &str| counts.get(word).copied().unwrap_or(0);
        Ok(single(json!({
            "total": n("total"),
            "explicit": n("explicit"),
            "implicit": n("implicit"),
            "pending": n("pending_confirmation"),
            "unsubscribed": n("unsubscribed"),
        })))
    }

    fn custom_fields(&mut self, params: Params) -> Answer {
        let (params, page) = self.behind_cursor(params, &["limit"])?;
        let limit = limit(&params, 50, 100)?;
        let mut found: Vec<_> = self.account.custom_fields.iter().filter(|field| !field.deleted).collect();
        found.sort_by_key(|field| hash(&field.id));
        let total = found.len();
        let start = (page - 1).saturating_mul(limit);
        let as_text = self.switches.choice_ids_as_text;
        let rows: Vec<Value> =
            found.into_iter().skip(start).take(limit).map(|field| field_json(field, as_text)).collect();
        let mut body = Map::new();
        body.insert("custom_fields".into(), rows.into());
        let next = (start.saturating_add(limit) < total)
            .then(|| cursor_link("/v3/contact_custom_fields", &params, limit, page + 1));
        Ok(paged(body, next))
    }

    fn tags(&mut self, params: Params) -> Answer {
        let (params, page) = self.behind_cursor(params, &["limit", "include_count"])?;
        let limit = limit(&params, 50, 500)?;
        let with_count = flag(&params, "include_count", false)?;
        let mut found: Vec<_> = self.account.tags.iter().filter(|tag| !tag.deleted).collect();
        found.sort_by_key(|tag| hash(&tag.id));
        let total = found.len();
        let start = (page - 1).saturating_mul(limit);
        let rows: Vec<Value> = found
            .into_iter()
            .skip(start)
            .take(limit)
            .map(|tag| {
                let has = |c: &&Contact| c.taggings.contains(&tag.id);
                tag_json(tag, with_count.then(|| self.account.contacts.iter().filter(has).count()))
            })
            .collect();
        let mut body = Map::new();
        body.insert("tags".into(), rows.into());
        let next =
            (start.saturating_add(limit) < total).then(|| cursor_link("/v3/contact_tags", &params, limit, page + 1));
        Ok(paged(body, next))
    }

    fn lists(&mut self, params: Params) -> Answer {
        let (params, page) = self.behind_cursor(
            params,
            &[
                "limit",
                "include_count",
                "include_membership_count",
                "name",
                "status",
                "channel_type",
                "include_sms_membership_count",
            ],
        )?;
        let max = if self.switches.lists_limit_1000_ok { 1000 } else { 500 };
        let limit = limit(&params, 50, max)?;
        let statuses = words(&params, "status", &["all", "active", "deleted"])?;
        let sms = match get(&params, "channel_type") {
            None | Some("email") => false,
            Some("sms") => true,
            Some(_) => return Err(invalid("channel_type")),
        };
        let sms_counts = flag(&params, "include_sms_membership_count", false)?;
        let counts = match get(&params, "include_membership_count") {
            // The members of an SMS list are counted by a parameter of their own.
            None | Some("all" | "active") if sms => sms_counts.then(|| self.account.membership_counts(false)),
            None => None,
            Some("all") => Some(self.account.membership_counts(false)),
            Some("active") => Some(self.account.membership_counts(true)),
            Some(_) => return Err(invalid("include_membership_count")),
        };
        let with_count = flag(&params, "include_count", false)?;
        let name = get(&params, "name");
        let mut found: Vec<_> = self
            .account
            .lists
            .iter()
            .filter(|l| {
                let status = if l.deleted_at.is_some() { "deleted" } else { "active" };
                let fits = if statuses.is_empty() {
                    status == "active"
                } else {
                    statuses.contains(&"all") || statuses.contains(&status)
                };
                l.sms == sms && fits && name.is_none_or(|n| l.name == n)
            })
            .collect();
        found.sort_by(|a, b| a.id.cmp(&b.id));
        let total = found.len();
        let start = (page - 1).saturating_mul(limit);
        let rows: Vec<Value> = found
            .into_iter()
            .skip(start)
            .take(limit)
            .map(|l| {
                let count = counts.as_ref().map(|c| c.get(&l.id).copied().unwrap_or(0));
                list_json(l, count, false)
            })
            .collect();
        let mut body = Map::new();
        body.insert("lists".into(), rows.into());
        if with_count {
            body.insert("lists_count".into(), total.into());
        }
        let next =
            (start.saturating_add(limit) < total).then(|| cursor_link("/v3/contact_lists", &params, limit, page + 1));
        Ok(paged(body, next))
    }

    /// The rows of a contact, or the refusal of its reports.
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

    fn summary(&mut self, params: Params, id: &str, path: &str) -> Answer {
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

    fn details(&mut self, params: Params, id: &str, path: &str) -> Answer {
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

    fn tracking(&mut self, params: Params, id: &str, kind: &str, path: &str) -> Answer {
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
        // Only these two roles have reports; what the others answer is not documented in full.
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

pub(super) fn single(body: Value) -> Page {
    Page { body, next: None, paged: false }
}

pub(super) fn paged(body: Map<String, Value>, next: Option<String>) -> Page {
    Page { body: Value::Object(body), next, paged: true }
}

/// A cursor: base64 of the limit, the page number and the filters.
fn cursor_link(path: &str, params: &Params, limit: usize, page: usize) -> String {
    let mut inside = format!("limit={limit}&next={page}");
    for (key, value) in params {
        match key.as_str() {
            "limit" | "next" | "cursor" => {}
            "status" => {
                for status in value.split(',') {
                    inside += &format!("&status%5B%5D={}", encode(status));
                }
            }
            "updated_after" | "updated_before" | "created_after" | "created_before" | "optout_after"
            | "optout_before" => {
                let at = time(params, key).ok().flatten().unwrap_or_default();
                let at = at.to_rfc3339_opts(SecondsFormat::AutoSi, false);
                inside += &format!("&{key}={}", encode(&at));
            }
            _ => inside += &format!("&{}={}", encode(key), encode(value)),
        }
    }
    format!("{path}?cursor={}", STANDARD.encode(inside))
}

/// One page of a report, of whose rows no others are made, and its next link.
pub(super) fn slice<T>(
    rows: Vec<T>,
    make: impl FnMut(T) -> Value,
    offset: usize,
    limit: usize,
    path: &str,
    params: &Params,
) -> (Vec<Value>, Option<String>) {
    let total = rows.len();
    let page: Vec<Value> = rows.into_iter().skip(offset).take(limit).map(make).collect();
    let end = offset.saturating_add(limit);
    let next = (end < total).then(|| {
        let mut inside = format!("offset={end}");
        for (key, value) in params.iter().filter(|(k, _)| k != "offset") {
            inside += &format!("&{}={}", encode(key), encode(value));
        }
        format!("{path}?next={}", stars(&inside))
    });
    (page, next)
}

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
