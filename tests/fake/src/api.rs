//! The endpoints of the API.

use std::collections::{HashMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use super::account::{Account, Contact, hash};
use super::http::{Request, Response, decode_query, decode_segment, encode};
use super::rows::{contact_json, field_json, list_json, tag_json};
use super::{Order, Switches};

/// What an endpoint reads and reports to.
pub(super) struct Context<'a> {
    pub account: &'a mut Account,
    pub switches: &'a Switches,
    pub scopes: &'a [String],
    pub privileges: &'a [String],
    /// Every next link handed out so far.
    pub issued: &'a HashSet<String>,
    pub violations: Vec<String>,
}

/// A successful answer: the body and, if there is another page, its link.
pub(super) struct Page {
    pub body: Value,
    pub next: Option<String>,
    /// Whether the answer has `_links` at all.
    pub paged: bool,
}

pub(super) type Answer = Result<Page, Response>;
pub(super) type Params = Vec<(String, String)>;

/// An error as a list of one object; most endpoints answer so.
pub(super) fn array_error(status: u16, key: &str, message: &str) -> Response {
    Response::json(status, &json!([{"error_key": key, "error_message": message}]))
}

/// An error as an object; some endpoints answer so.
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

pub(super) fn flag(params: &Params, key: &str, default: bool) -> Result<bool, Response> {
    match get(params, key) {
        None => Ok(default),
        Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(_) => Err(invalid(key)),
    }
}

/// The values of a comma-separated or repeated parameter; 400 if one is not allowed.
pub(super) fn words<'a>(params: &'a Params, key: &str, allowed: &[&str]) -> Result<Vec<&'a str>, Response> {
    let array_key = format!("{key}[]");
    let values: Vec<&str> =
        params.iter().filter(|(k, _)| k == key || *k == array_key).flat_map(|(_, v)| v.split(',')).collect();
    if values.iter().any(|v| !allowed.contains(v)) {
        return Err(invalid(key));
    }
    Ok(values)
}

/// Base64 with asterisks for the padding, as the service writes it.
pub(super) fn stars(text: &str) -> String {
    STANDARD.encode(text).replace('=', "*")
}

/// The offset in the `next` of a listing that encodes nothing else.
pub(super) fn behind_offset(next: &str) -> Option<usize> {
    unstars(next)?.parse().ok()
}

fn unstars(text: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(text.replace('*', "=")).ok()?).ok()
}

/// Invented values in the documented schema.
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

impl Context<'_> {
    pub(super) fn violation(&mut self, text: String) {
        if self.switches.strict {
            self.violations.push(text);
        }
    }

    /// 403 unless the login has this scope and privilege.
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
            self.violation(format!("a next link that the service never gave: {}", req.target()));
        }
        if params.len() > 1 && get(&params, "cursor").is_some() {
            self.violation(format!("parameters beside the cursor: {}", req.target()));
        }
        match parts.as_slice() {
            ["account", "summary"] => {
                self.allow("account_read", "account:read")?;
                self.check_known(&params, &["extra_fields"]);
                Ok(Page { body: account_summary(), next: None, paged: false })
            }
            ["contacts"] => {
                self.allow("contact_data", "contacts:read")?;
                self.contacts(params)
            }
            ["contacts", "counts"] => {
                self.allow("contact_data", "contacts:read")?;
                self.check_known(&params, &["include"]);
                self.counts()
            }
            ["contacts", id] => {
                self.allow("contact_data", "contacts:read")?;
                self.check_known(&params, &["include"]);
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
                self.check_known(&params, &[]);
                self.campaign(id)
            }
            ["emails", "activities", id] => {
                self.allow("campaign_data", "campaign:read")?;
                self.check_known(&params, &["include"]);
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
                self.check_known(&params, &[]);
                self.campaign_stats(ids)
            }
            ["reports", "stats", "email_campaign_activities", ids] => {
                self.allow("campaign_data", "ui:campaign:metrics")?;
                self.check_known(&params, &[]);
                self.activity_stats(ids)
            }
            ["account", "user", "privileges"] => {
                self.check_known(&params, &[]);
                let all = self.privileges.iter().enumerate();
                let all = all.map(|(i, p)| json!({"privilege_id": i + 1, "privilege_name": p}));
                Ok(single(all.collect::<Vec<_>>().into()))
            }
            _ => Err(not_found()),
        }
    }

    /// Reports parameters that the endpoint does not have.
    pub(super) fn check_known(&mut self, params: &Params, known: &[&str]) {
        for (key, _) in params {
            if !known.contains(&key.as_str()) {
                self.violation(format!("unknown parameter {key}"));
            }
        }
    }

    /// The parameters in a `cursor`, or else those given, and the page number.
    fn behind_cursor(&mut self, params: Params, known: &[&str]) -> Result<(Params, usize), Response> {
        let Some(cursor) = get(&params, "cursor") else {
            self.check_known(&params, known);
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

    /// The parameters in an encoded `next`, or else those given, and the offset.
    pub(super) fn behind_next(&mut self, params: Params, known: &[&str]) -> Result<(Params, usize), Response> {
        let Some(next) = get(&params, "next") else {
            self.check_known(&params, known);
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
            // The number of members of an SMS list has a parameter of its own.
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

/// One page of a report and its next link. `make` is called only for the rows of the page.
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
