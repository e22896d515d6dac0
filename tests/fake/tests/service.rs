//! The fake as a client sees it, over a plain socket.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fake_constant_contact::account::{self, Contact, clean};
use fake_constant_contact::{Account, Case, Fake, Fault, Id, Kind, LastPage, Size, Switches, What};
use serde_json::{Value, json};
use sha2::Digest as _;

const SMALL: Size = Size { contacts: 60, lists: 12, campaigns: 24 };

const TYPES: &str = "em_sends,em_opens,em_clicks,em_bounces,em_optouts,em_forwards";

fn start() -> Fake {
    Fake::start(Account::generate(7, SMALL))
}

/// Sends one request on a new connection, without asking for compression. Returns status, head and body.
fn send(fake: &Fake, method: &str, target: &str, headers: &str, body: &str) -> (u16, String, String) {
    let host = fake.api_url();
    let host = host.trim_start_matches("http://").trim_end_matches("/v3");
    let mut stream = TcpStream::connect(host).unwrap();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: test\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = Vec::new();
    let mut chunk = [0; 8192];
    loop {
        let n = stream.read(&mut chunk).unwrap_or(0);
        text.extend_from_slice(&chunk[..n]);
        let head = text.windows(4).position(|w| w == b"\r\n\r\n");
        if let Some(end) = head {
            let head = String::from_utf8_lossy(&text[..end]).into_owned();
            let length = head.split("Content-Length: ").nth(1).unwrap();
            let length: usize = length.lines().next().unwrap().parse().unwrap();
            if n == 0 || text.len() >= end + 4 + length {
                let status = head[9..12].parse().unwrap();
                let body = String::from_utf8_lossy(&text[end + 4..]).into_owned();
                return (status, head, body);
            }
        }
        if n == 0 {
            return (0, String::new(), String::new());
        }
    }
}

fn refresh(fake: &Fake, token: &str) -> (u16, Value) {
    let basic = base64::engine::general_purpose::STANDARD.encode("client-0:secret-0");
    let (status, _, body) = send(
        fake,
        "POST",
        "/oauth2/default/v1/token",
        &format!("Authorization: Basic {basic}\r\n"),
        &format!("grant_type=refresh_token&refresh_token={token}"),
    );
    (status, serde_json::from_str(&body).unwrap())
}

fn sign_in(fake: &Fake) -> String {
    let token = fake.tokens().refresh_token.clone();
    let (status, body) = refresh(fake, &token);
    assert_eq!(status, 200);
    body["access_token"].as_str().unwrap().to_owned()
}

fn get(fake: &Fake, access: &str, target: &str) -> (u16, Value) {
    let bearer = format!("Authorization: Bearer {access}\r\n");
    let (status, _, body) = send(fake, "GET", target, &bearer, "");
    // serde_json refuses lone surrogates.
    let body = body.replace("\\ud83d", "\\ufffd").replace("\\ude00", "\\ufffd");
    (status, serde_json::from_str(&body).unwrap_or(Value::Null))
}

/// Follows the next links. Returns the rows, and the last page's `_links`.
fn read_all(fake: &Fake, access: &str, first: &str, key: &str) -> (Vec<Value>, Option<Value>) {
    let mut target = first.to_owned();
    let mut rows = Vec::new();
    loop {
        let (status, body) = get(fake, access, &target);
        assert_eq!(status, 200, "{target}: {body}");
        rows.extend(body[key].as_array().unwrap().clone());
        match body["_links"]["next"]["href"].as_str() {
            Some(href) => href.clone_into(&mut target),
            None => return (rows, body.get("_links").cloned()),
        }
    }
}

/// Removes nulls, sorts the fields, and brings every timestamp and string to its canonical form.
fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(_, v)| !v.is_null())
            .map(|(k, v)| {
                let mut v = canonical(v);
                if k == "deleted_at" && v.as_str().is_some_and(|s| s.len() == 10) {
                    v = json!(format!("{}T00:00:00Z", v.as_str().unwrap()));
                }
                (k.clone(), v)
            })
            .collect::<BTreeMap<_, _>>()
            .into_iter()
            .collect(),
        Value::Array(all) => all.iter().map(canonical).collect(),
        Value::String(s) => match chrono::DateTime::parse_from_rfc3339(s) {
            Ok(at) => account::canonical(at.to_utc()).into(),
            Err(_) => clean(s).into(),
        },
        other => other.clone(),
    }
}

fn set(rows: &[Value]) -> BTreeSet<String> {
    rows.iter().map(|r| canonical(r).to_string()).collect()
}

fn without(value: &mut Value, fields: &[&str]) {
    value.as_object_mut().unwrap().retain(|name, _| !fields.contains(&&**name));
}

/// The contacts without what the service does not send with them.
fn sent(account: &Account) -> Vec<Value> {
    let mut contacts = account.truth("contacts");
    for contact in &mut contacts {
        without(contact, &["email", "status", "custom_field_values", "tag_names", "list_names"]);
        for field in contact["custom_fields"].as_array_mut().unwrap() {
            without(field, &["name", "label", "type", "choice_labels"]);
        }
    }
    contacts
}

#[test]
fn definitions_are_served_strictly() {
    let fake = start();
    let access = sign_in(&fake);
    let fields = read_all(&fake, &access, "/v3/contact_custom_fields?limit=2", "custom_fields").0;
    // A deleted one is not listed.
    assert_eq!(fields.len(), fake.account().custom_fields.len() - 1);
    let colours = fields.iter().find(|field| field["name"] == "Colours").unwrap();
    assert_eq!(colours["choices"][0]["choice_id"], 1);
    assert!(colours["choices"][1]["deleted_at"].is_string());
    fake.switches().choice_ids_as_text = true;
    let fields = read_all(&fake, &access, "/v3/contact_custom_fields", "custom_fields").0;
    let colours = fields.iter().find(|field| field["name"] == "Colours").unwrap();
    assert_eq!(colours["choices"][0]["choice_id"], "000001");
    let tags = read_all(&fake, &access, "/v3/contact_tags?limit=3&include_count=true", "tags").0;
    assert_eq!(tags.len(), fake.account().tags.iter().filter(|tag| !tag.deleted).count());
    assert!(tags.iter().all(|tag| tag["contacts_count"].is_u64()));
    for path in ["/v3/contact_custom_fields?limit=101", "/v3/contact_tags?limit=501", "/v3/contact_tags?limit=0"] {
        assert_eq!(get(&fake, &access, path).0, 400, "{path}");
    }
    assert!(fake.violations().is_empty());
    get(&fake, &access, "/v3/contact_tags?status=all");
    assert_eq!(fake.violations(), ["unknown parameter status"]);
    fake.tokens().privileges.retain(|privilege| privilege != "contacts:read");
    for path in ["/v3/contact_custom_fields", "/v3/contact_tags"] {
        assert_eq!(get(&fake, &access, path).0, 403, "{path}");
    }
}

#[test]
fn pages_add_up_to_the_account_for_every_form_of_last_page() {
    let fake = start();
    let access = sign_in(&fake);
    let include = "custom_fields,list_memberships,phone_numbers,street_addresses,taggings,notes";
    let first = format!("/v3/contacts?status=all&limit=7&include={include}");
    for (form, ends) in [
        (LastPage::NoLinks, None),
        (LastPage::EmptyLinks, Some(json!({}))),
        (LastPage::NullLinks, Some(Value::Null)),
        (LastPage::NullHref, Some(json!({"next": {"href": null}}))),
    ] {
        fake.switches().last_page = Some(form);
        let (rows, last) = read_all(&fake, &access, &first, "contacts");
        assert_eq!(last, ends);
        assert_eq!(rows.len(), 60);
        assert_eq!(set(&rows), set(&sent(&fake.account())));
    }
}

#[test]
fn lists_give_the_truth() {
    let fake = start();
    let access = sign_in(&fake);
    let mut lists = Vec::new();
    for (channel, count) in [("email", "include_membership_count=all"), ("sms", "include_sms_membership_count=true")] {
        let first = format!("/v3/contact_lists?status=all&channel_type={channel}&{count}&limit=3");
        for mut list in read_all(&fake, &access, &first, "lists").0 {
            list["channel_type"] = json!(channel);
            lists.push(list);
        }
    }
    assert_eq!(set(&lists), set(&fake.account().truth("contact_lists")));
}

/// The ids and roles of a campaign's activities. The service may name one of them twice.
fn activities(fake: &Fake, access: &str, campaign: &str) -> Vec<Value> {
    let (status, detail) = get(fake, access, &format!("/v3/emails/{campaign}"));
    let gone = fake.account().campaigns.iter().any(|c| *c.id == *campaign && c.detail_404);
    assert_eq!(status == 404, gone);
    let mut activities = Vec::new();
    for activity in detail["campaign_activities"].as_array().into_iter().flatten() {
        if !activities.contains(activity) {
            activities.push(activity.clone());
        }
    }
    activities
}

#[test]
fn campaigns_with_their_counts_and_emails_give_the_truth() {
    let fake = start();
    let access = sign_in(&fake);
    let (mut rows, _) = read_all(&fake, &access, "/v3/emails?limit=5", "campaigns");
    assert_eq!(rows.len(), 25, "one campaign is listed twice");
    let first = "/v3/reports/summary_reports/email_campaign_summaries?limit=5";
    let (counted, _) = read_all(&fake, &access, first, "bulk_email_campaign_summaries");
    for row in &mut rows {
        let id = row["campaign_id"].as_str().unwrap().to_owned();
        if let Some(summary) = counted.iter().find(|summary| summary["campaign_id"] == *id) {
            row["last_sent_date"] = summary["last_sent_date"].clone();
            for (kind, count) in summary["unique_counts"].as_object().unwrap() {
                row[format!("unique_{kind}")] = count.clone();
            }
        }
        let activities = activities(&fake, &access, &id);
        if let Some(primary) = activities.iter().find(|activity| activity["role"] == "primary_email") {
            let activity_id = primary["campaign_activity_id"].as_str().unwrap();
            let (status, mut email) = get(&fake, &access, &format!("/v3/emails/activities/{activity_id}"));
            if status == 200 {
                without(&mut email, &["campaign_activity_id", "campaign_id", "role", "current_status", "format_type"]);
                row.as_object_mut().unwrap().extend(email.as_object().unwrap().clone());
            }
            row["campaign_activities"] = activities.into();
        }
    }
    assert_eq!(set(&rows), set(&fake.account().truth("email_campaigns")));
}

#[test]
fn contact_reports_give_the_truth() {
    let fake = start();
    let access = sign_in(&fake);
    let ids: Vec<_> = fake.account().contacts.iter().map(|c| c.id.clone()).collect();
    let (mut details, mut sums) = (0, Vec::new());
    for id in ids {
        let base = format!("/v3/reports/contact_reports/{id}");
        let first = format!("{base}/activity_details?tracking_activities_list={TYPES}");
        details += read_all(&fake, &access, &first, "tracking_activities").0.len();
        let first = format!("{base}/activity_summary?start=2010-01-01T00:00:00Z&end=2040-01-01T00:00:00Z");
        for mut row in read_all(&fake, &access, &first, "campaign_activities").0 {
            row["contact_id"] = json!(&*id);
            sums.push(row);
        }
    }
    assert_eq!(details, fake.account().truth("contact_activity_details").len());
    // Whose campaign an activity is, these reports do not say.
    let mut truth = fake.account().truth("contact_action_summary");
    for row in &mut truth {
        without(row, &["campaign_id"]);
    }
    assert_eq!(sums.len(), truth.len());
    assert_eq!(set(&sums), set(&truth));
}

#[test]
fn campaign_reports_hold_the_same_rows() {
    let fake = start();
    let access = sign_in(&fake);
    let ids: Vec<_> = fake.account().campaigns.iter().map(|c| c.id.clone()).collect();
    let mut rows = 0;
    for id in ids {
        for activity in activities(&fake, &access, &id) {
            let activity_id = activity["campaign_activity_id"].as_str().unwrap();
            for kind in ["sends", "opens", "clicks", "bounces", "optouts", "forwards"] {
                let first = format!("/v3/reports/email_reports/{activity_id}/tracking/{kind}?limit=9");
                if activity["role"] == "permalink" {
                    assert_eq!(get(&fake, &access, &first).0, 404);
                } else {
                    rows += read_all(&fake, &access, &first, "tracking_activities").0.len();
                }
            }
        }
    }
    assert_eq!(rows, fake.account().activities.len());
}

#[test]
fn reuse_kills_the_grant() {
    let fake = start();
    assert_eq!(refresh(&fake, "refresh-0").0, 200);
    let (status, body) = refresh(&fake, "refresh-0");
    assert_eq!(status, 400);
    assert_eq!(body["error"], "invalid_grant");
    let current = fake.tokens().refresh_token.clone();
    assert_eq!(refresh(&fake, &current).0, 400);
    assert_eq!(fake.tokens().reuses, 1);
}

#[test]
fn tokens_expire_and_can_be_revoked() {
    let fake = start();
    let access = sign_in(&fake);
    assert_eq!(get(&fake, &access, "/v3/contacts").0, 200);
    fake.switches().clock_skew = chrono::Duration::hours(25);
    let (status, body) = get(&fake, &access, "/v3/contacts");
    assert_eq!((status, &body["error_key"]), (401, &json!("unauthorized")));
    let access = sign_in(&fake);
    fake.tokens().revoke_access_tokens();
    assert_eq!(get(&fake, &access, "/v3/contacts").0, 401);
}

#[test]
fn broken_rules_are_recorded() {
    let fake = start();
    let access = sign_in(&fake);
    assert_eq!(get(&fake, &access, "/v3/contacts?updated_since=2020-01-01").0, 200);
    assert_eq!(fake.violations(), ["unknown parameter updated_since"]);
    let (status, body) = get(&fake, &access, "/v3/contacts?limit=501");
    assert_eq!(status, 400);
    assert!(body.is_array());
    assert!(fake.violations().is_empty());
    assert_eq!(get(&fake, &access, "/v3/contacts?cursor=bGltaXQ9MSZuZXh0PTI=").0, 200);
    assert_eq!(fake.violations().len(), 1, "a cursor never handed out");
    get(&fake, &access, &format!("/v3/contacts?x={access}"));
    assert_eq!(fake.violations().len(), 2, "a token in the address, an unknown parameter");
}

#[test]
fn unsubscribing_moves_only_the_email_block() {
    let fake = start();
    let access = sign_in(&fake);
    let before = fake.account().now() - chrono::Duration::seconds(5);
    let before = before.format("%Y-%m-%dT%H:%M:%SZ");
    let id = fake.account().contacts[0].id.clone();
    fake.account().unsubscribe(&id);
    let (_, body) = get(&fake, &access, &format!("/v3/contacts?status=all&updated_after={before}"));
    assert_eq!(body["contacts"], json!([]));
    let (_, body) = get(&fake, &access, &format!("/v3/contacts?optout_after={before}"));
    assert_eq!(body["contacts"][0]["contact_id"], json!(&*id));
    fake.account().rename(&id, "Renée");
    let (_, body) = get(&fake, &access, &format!("/v3/contacts?updated_after={before}"));
    assert_eq!(body["contacts"][0]["first_name"], "Renée");
}

#[test]
fn limits_and_faults() {
    let switches = Switches { per_second: 2, per_day: 4, ..Switches::default() };
    let fake = Fake::start_with(Account::generate(7, SMALL), switches);
    let access = sign_in(&fake);
    let path = "/v3/account/user/privileges";
    let statuses: Vec<u16> = (0..5).map(|_| get(&fake, &access, path).0).collect();
    assert_eq!(statuses, [200, 200, 429, 429, 429]);
    assert_eq!(get(&fake, &access, path).1["error_key"], "quota_exceeded");
    fake.set_calls_today(0);
    fake.switches().per_second = 1000;
    fake.fault(Fault::once("/contacts?", What::Status(503, "<html>".into(), "text/html")));
    assert_eq!(get(&fake, &access, path).0, 200);
    assert_eq!(get(&fake, &access, "/v3/contacts?limit=1").0, 503);
    fake.fault(Fault::once("/contacts?", What::Refuse));
    assert_eq!(get(&fake, &access, "/v3/contacts?limit=1").0, 0);
    fake.fault(Fault::once("/contacts?", What::LoopingLink));
    let (_, body) = get(&fake, &access, "/v3/contacts?limit=1");
    assert_eq!(body["_links"]["next"]["href"], "/v3/contacts?limit=1");
    assert_eq!(get(&fake, &access, "/elsewhere").1, json!({"message": "Forbidden"}));
}

#[test]
fn codes_need_their_verifier() {
    let fake = start();
    fake.tokens().client_secret = None;
    let challenge = URL_SAFE_NO_PAD.encode(sha2::Sha256::digest(b"verifier"));
    let redirect = "http%3A%2F%2Flocalhost%3A8910%2Fcallback";
    let ask = |redirect: &str| {
        let target = format!(
            "/oauth2/default/v1/authorize?client_id=client-0&redirect_uri={redirect}&response_type=code\
             &scope=contact_data%20offline_access&state=s1&code_challenge={challenge}&code_challenge_method=S256"
        );
        send(&fake, "GET", &target, "", "")
    };
    assert_eq!(ask("http%3A%2F%2Flocalhost%3A1%2F").0, 400);
    let redeem = |verifier: &str| {
        let (status, head, _) = ask(redirect);
        assert_eq!(status, 302);
        assert!(head.contains("state=s1"));
        let code = head.split("code=").nth(1).unwrap().split('&').next().unwrap();
        let form = format!(
            "client_id=client-0&grant_type=authorization_code&code={code}&redirect_uri={redirect}&code_verifier={verifier}"
        );
        send(&fake, "POST", "/oauth2/default/v1/token", "", &form)
    };
    assert_eq!(redeem("wrong").0, 400);
    let (status, _, body) = redeem("verifier");
    assert_eq!(status, 200);
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["scope"], "contact_data offline_access");
    assert_eq!(body["refresh_token"], json!(fake.tokens().refresh_token));
    let access = body["access_token"].as_str().unwrap();
    assert_eq!(get(&fake, access, "/v3/emails").0, 403);
}

#[test]
fn every_awkward_case_is_there() {
    let account = Account::generate(3, Size { contacts: Case::EARLY, lists: 4, campaigns: 4 });
    let is_defined = |id: &Id| account.custom_fields.iter().any(|field| field.id == *id && !field.deleted);
    let rows = account.truth("contact_activity_details");
    for case in Case::ALL {
        let contact = &account.contacts[account.case(case)];
        let email = contact.email.as_ref();
        let permission = email.map(|email| email.permission);
        let name = contact.first_name.as_deref().unwrap_or_default();
        let last_name = contact.last_name.as_deref().unwrap_or_default();
        let fields = &contact.custom_fields;
        let is_so = match case {
            Case::Ordinary => unreachable!("it is no awkward case"),
            Case::SharedAddress => {
                let address = |contact: &Contact| contact.email.as_ref().map(|email| email.address.clone());
                account.contacts.iter().filter(|other| address(other) == address(contact)).count() == 2
            }
            Case::EqualOpens => rows.iter().any(|row| row["contact_id"] == *contact.id && row["occurrence"] == 2),
            Case::LongHistory => rows.iter().filter(|row| row["contact_id"] == *contact.id).count() > 100,
            Case::UnsubscribedAfterUpdate => contact.opt_out_date().is_some_and(|at| at > contact.updated_at),
            Case::Unconfirmed => permission == Some("pending_confirmation"),
            Case::OnHold => permission == Some("temp_hold"),
            Case::PermissionNotSet => permission == Some("not_set"),
            Case::Sms => email.is_some() && contact.sms.is_some(),
            Case::SmsOnly => email.is_none() && contact.sms.is_some(),
            Case::Deleted => contact.deleted_at.is_some() && rows.iter().any(|row| row["contact_id"] == *contact.id),
            Case::DeletedUnsubscribed => contact.deleted_at.is_some() && permission == Some("unsubscribed"),
            Case::NoChannel => email.is_none() && contact.sms.is_none(),
            Case::QuotedName => name.contains('"'),
            Case::LineBreakInName => name.contains("\r\n"),
            Case::NulInName => name.contains('\0'),
            Case::LoneSurrogateAtEnd => name.ends_with(account::lone(0xD83D)),
            Case::LoneSurrogateAtStart => last_name.starts_with(account::lone(0xDE00)),
            Case::MarkupInName => last_name.contains("<b>"),
            Case::LongName => last_name.len() == 50,
            Case::BlankNames => contact.first_name.as_deref() == Some("") && last_name == " ",
            Case::CustomFields => fields.len() == 3 && fields.iter().all(|field| is_defined(&field.id)),
            Case::DeletedField => fields.iter().any(|field| field.value.is_some() && !is_defined(&field.id)),
            Case::DeletedFieldChoice => fields.iter().any(|field| field.value.is_none() && !is_defined(&field.id)),
            Case::PhonesAndStreets => !contact.phone_numbers.is_empty() && !contact.street_addresses.is_empty(),
            Case::Notes => !contact.notes.is_empty(),
            Case::UnknownChoice => fields.iter().any(|field| field.choice_ids == ["000007"]),
        };
        assert!(is_so, "{case:?}: {contact:?}");
    }
    assert_eq!(account.custom_fields.iter().filter(|field| field.name.eq_ignore_ascii_case("size")).count(), 2);
    assert!(Kind::ALL.iter().all(|kind| rows.iter().any(|row| row["tracking_activity_type"] == kind.name())));
    assert!(account.campaigns.iter().any(|campaign| campaign.name.len() > 80));
}
