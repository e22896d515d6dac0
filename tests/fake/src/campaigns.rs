//! E-mail campaigns: their data, their endpoints, and the counts that the service keeps for those that were sent.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Duration, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use super::account::{Account, Id, Kind, Row, hash};
use super::api::{
    Answer, Context, Params, array_error, behind_offset, get, invalid, limit, not_found, paged, single, slice, stars,
    time, words,
};
use super::generate::{pick, uuid};
use super::rows::{Obj, canonical};

/// One activity of a campaign.
#[derive(Clone, Debug)]
pub struct CampaignActivity {
    pub id: Id,
    /// `primary_email`, `permalink`, `resend`, or a role that is not documented.
    pub role: &'static str,
    /// When sending began.
    pub sent_at: Option<DateTime<Utc>>,
    /// How long sending took.
    pub sending_takes: Duration,
    pub email: Email,
    /// `GET /emails/activities/{id}` answers 404, although the campaign names it.
    pub email_404: bool,
    /// Its tracking reports answer 400 and not 404.
    pub reports_400: bool,
}

/// What an activity sends, and to whom.
#[derive(Clone, Debug, Default)]
pub struct Email {
    pub subject: String,
    pub preheader: Option<String>,
    pub from_name: String,
    pub from_email: String,
    pub reply_to_email: String,
    pub contact_list_ids: Vec<Id>,
    pub segment_ids: Vec<u32>,
}

/// An e-mail campaign.
#[derive(Clone, Debug)]
pub struct Campaign {
    pub id: Id,
    pub name: String,
    /// As the listing writes it: `Draft`, `Scheduled`, `Done`, `Removed`.
    pub status: &'static str,
    pub kind: &'static str,
    pub type_code: u32,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub activities: Vec<CampaignActivity>,
    /// The listing has it a second time at its end.
    pub listed_twice: bool,
    /// `GET /emails/{id}` answers 404.
    pub detail_404: bool,
    /// Its detail has the first activity a second time at the end.
    pub activity_named_twice: bool,
    /// The listing omits it, as it may omit automations; the service still counts it and answers for its id.
    pub unlisted: bool,
}

impl Campaign {
    /// When it was last sent.
    pub fn last_sent(&self) -> Option<DateTime<Utc>> {
        self.activities.iter().filter_map(|activity| activity.sent_at).max()
    }

    fn primary(&self) -> Option<&CampaignActivity> {
        self.activities.iter().find(|activity| activity.role == "primary_email")
    }
}

/// The contacts that have a row of each kind.
type Unique<'a> = HashMap<Kind, HashSet<&'a str>>;

impl CampaignActivity {
    fn new(id: Id, role: &'static str, sent_at: Option<DateTime<Utc>>, email: Email) -> CampaignActivity {
        CampaignActivity {
            id,
            role,
            sent_at,
            sending_takes: Duration::zero(),
            email,
            email_404: false,
            reports_400: false,
        }
    }
}

impl Account {
    pub(super) fn add_campaigns(&mut self, count: usize, base: DateTime<Utc>) {
        for i in 0..count {
            let created_at = self.past(base, 1000).min(base - Duration::days(3));
            let status = match i % 10 {
                3 => "Draft",
                5 => "Removed",
                7 => "Scheduled",
                _ => "Done",
            };
            let sent_at = match status {
                "Done" => Some(created_at + Duration::days(1)),
                // A campaign that was removed after it was sent keeps its activity.
                "Removed" if i % 20 == 15 => Some(created_at + Duration::days(1)),
                _ => None,
            };
            let email = self.email(i);
            let mut activities = vec![
                CampaignActivity::new(uuid(&mut self.rng), "primary_email", sent_at, email.clone()),
                CampaignActivity::new(uuid(&mut self.rng), "permalink", None, Email::default()),
            ];
            activities[0].email_404 = i % 10 == 6;
            if i % 10 == 8 {
                activities[0].sending_takes = Duration::hours(7);
            }
            if i % 8 == 1 && sent_at.is_some() {
                let again = sent_at.map(|at| at + Duration::days(1));
                activities.push(CampaignActivity::new(uuid(&mut self.rng), "resend", again, email));
            }
            self.campaigns.push(Campaign {
                id: uuid(&mut self.rng),
                name: match i {
                    0 => "A \"quoted\" name, with a comma,\na newline and 📬".into(),
                    1 => format!("Long {}", "name of a campaign ".repeat(8)),
                    _ => format!("Campaign {i}"),
                },
                status,
                kind: pick(&mut self.rng, &["NEWSLETTER", "CUSTOM_CODE_EMAIL"]),
                type_code: if i % 6 == 2 { 57 } else { 10 },
                created_at,
                updated_at: sent_at.unwrap_or(created_at),
                activities,
                listed_twice: i == 2,
                detail_404: status == "Removed" && sent_at.is_none(),
                activity_named_twice: i % 10 == 4,
                unlisted: false,
            });
        }
    }

    /// The e-mail of the campaign at this position. Uses no random numbers, so that the rest of the account does not
    /// depend on it.
    fn email(&self, i: usize) -> Email {
        let lists = self.lists.iter().filter(|list| list.deleted_at.is_none() && !list.sms && !list.segment);
        let lists: Vec<&Id> = lists.map(|list| &list.id).collect();
        // One in twelve goes to a segment and not to lists.
        let to_segment = i % 12 == 11 || lists.is_empty();
        let to_lists = if to_segment { 0 } else { 1 + i % 2 };
        Email {
            subject: match i {
                0 => "News \"of\" the house, 50 % off ✨".into(),
                _ => format!("Subject {i}"),
            },
            preheader: i.is_multiple_of(3).then(|| format!("What stands in letter {i}")),
            from_name: "Example & Sons".into(),
            from_email: "news@example.com".into(),
            reply_to_email: "answers@example.com".into(),
            contact_list_ids: (0..to_lists.min(lists.len())).map(|k| lists[(i + k) % lists.len()].clone()).collect(),
            segment_ids: if to_segment { vec![u32::try_from(i).expect("a small number")] } else { Vec::new() },
        }
    }

    /// Adds a campaign that is sent now to these contacts. Returns the id of its primary activity.
    pub fn send_campaign(&mut self, name: &str, contacts: &[Id]) -> Id {
        let now = self.now();
        let activity = uuid(&mut self.rng);
        let email = Email { subject: format!("Subject of {name}"), ..self.email(self.campaigns.len()) };
        let campaign = Campaign {
            id: uuid(&mut self.rng),
            name: name.into(),
            status: "Done",
            kind: "NEWSLETTER",
            type_code: 10,
            created_at: now,
            updated_at: now,
            activities: vec![
                CampaignActivity::new(activity.clone(), "primary_email", Some(now), email),
                CampaignActivity::new(uuid(&mut self.rng), "permalink", None, Email::default()),
            ],
            listed_twice: false,
            detail_404: false,
            activity_named_twice: false,
            unlisted: false,
        };
        self.campaigns.push(campaign);
        for contact in contacts {
            self.activities.push(Row {
                contact_id: contact.clone(),
                activity_id: activity.clone(),
                kind: Kind::Sends,
                at: now,
            });
        }
        activity
    }

    /// Adds two activities with undocumented roles to the campaign at a position. Their reports answer 400 and 404.
    pub fn add_undocumented_roles(&mut self, campaign: usize) {
        for (role, reports_400) in [("social_share", true), ("rss_item", false)] {
            let activity = CampaignActivity::new(uuid(&mut self.rng), role, None, Email::default());
            self.campaigns[campaign].activities.push(CampaignActivity { reports_400, ..activity });
        }
    }

    /// The contacts with a row of each kind, for each campaign.
    fn unique(&self) -> HashMap<&Id, Unique<'_>> {
        let of = self.campaigns.iter().flat_map(|c| c.activities.iter().map(move |a| (&a.id, &c.id)));
        let of: HashMap<&Id, &Id> = of.collect();
        let mut unique: HashMap<&Id, Unique> = HashMap::new();
        for row in &self.activities {
            if let Some(campaign) = of.get(&row.activity_id) {
                unique.entry(*campaign).or_default().entry(row.kind).or_default().insert(&row.contact_id);
            }
        }
        unique
    }

    /// The records that the tap must write for `email_campaigns`.
    pub(super) fn campaign_truth(&self) -> Vec<Value> {
        let unique = self.unique();
        let truth = self.campaigns.iter().map(|campaign| {
            let mut truth = campaign_json(campaign, true);
            let last = campaign.last_sent();
            if let (Some(at), Some(map)) = (last, truth.as_object_mut()) {
                map.insert("last_sent_date".into(), canonical(at).into());
                for (kind, count) in counts(unique.get(&campaign.id)) {
                    map.insert(format!("unique_{kind}"), count.into());
                }
            }
            // The tap requests nothing more for a campaign that was removed before it was sent.
            if campaign.detail_404 || (campaign.status == "Removed" && last.is_none()) {
                return truth;
            }
            truth["campaign_activities"] = campaign.activities.iter().map(reference).collect();
            let email = campaign.primary().filter(|activity| self.email_404(campaign, activity).is_none());
            if let (Some(activity), Value::Object(map)) = (email, &mut truth) {
                map.extend(email_json(activity, true));
            }
            truth
        });
        truth.collect()
    }

    /// The message of the 404 for the e-mail of an activity; `None` if it can be read.
    fn email_404(&self, campaign: &Campaign, activity: &CampaignActivity) -> Option<&'static str> {
        match campaign.status {
            "Removed" if !self.removed_emails_readable => Some("The campaign activity was removed."),
            _ if activity.email_404 => Some("The requested resource was not found."),
            _ => None,
        }
    }
}

/// The counts of a campaign, under the service's names.
fn counts(unique: Option<&Unique>) -> [(&'static str, usize); 8] {
    let n = |kind: Kind| unique.and_then(|unique| unique.get(&kind)).map_or(0, HashSet::len);
    let not_opened = n(Kind::Sends).saturating_sub(n(Kind::Opens));
    [
        ("sends", n(Kind::Sends)),
        ("opens", n(Kind::Opens)),
        ("clicks", n(Kind::Clicks)),
        ("forwards", n(Kind::Forwards)),
        ("optouts", n(Kind::Optouts)),
        ("abuse", 0),
        ("bounces", n(Kind::Bounces)),
        ("not_opened", not_opened),
    ]
}

/// A campaign, as the listing shows it.
fn campaign_json(c: &Campaign, truth: bool) -> Value {
    let mut o = Obj::new(&c.id, truth, true);
    o.put("campaign_id", &*c.id)
        .time("created_at", Some(c.created_at))
        .put("current_status", c.status)
        .text("name", Some(&c.name))
        .put("type", c.kind)
        .put("type_code", c.type_code)
        .time("updated_at", Some(c.updated_at));
    o.done()
}

fn reference(activity: &CampaignActivity) -> Value {
    json!({"campaign_activity_id": &*activity.id, "role": activity.role})
}

/// The e-mail of an activity.
fn email_json(activity: &CampaignActivity, truth: bool) -> Map<String, Value> {
    let email = &activity.email;
    let mut o = Obj::new(&activity.id, truth, true);
    o.text("subject", Some(&email.subject))
        .text("preheader", email.preheader.as_deref())
        .text("from_name", Some(&email.from_name))
        .text("from_email", Some(&email.from_email))
        .text("reply_to_email", Some(&email.reply_to_email))
        .put("contact_list_ids", email.contact_list_ids.iter().map(|id| Value::from(&**id)).collect::<Vec<_>>());
    if !email.segment_ids.is_empty() {
        o.put("segment_ids", email.segment_ids.clone());
    }
    match o.done() {
        Value::Object(map) => map,
        _ => unreachable!("an object was built"),
    }
}

impl Context<'_> {
    pub(super) fn emails(&mut self, params: &Params) -> Answer {
        self.check_known(params, &["limit", "next", "after_date", "before_date"]);
        let limit = limit(params, 50, 500)?;
        let (after, before) = (time(params, "after_date")?, time(params, "before_date")?);
        let offset = match get(params, "next") {
            None => 0,
            Some(next) => behind_offset(next).ok_or_else(|| match self.switches.bad_cursor_404 {
                true => not_found(),
                false => invalid("next"),
            })?,
        };
        let inclusive = self.switches.updated_after_inclusive;
        let mut found: Vec<_> = self
            .account
            .campaigns
            .iter()
            .filter(|c| !c.unlisted)
            .filter(|c| after.is_none_or(|b| c.updated_at > b || (inclusive && c.updated_at == b)))
            .filter(|c| before.is_none_or(|b| c.updated_at < b))
            .collect();
        found.sort_by_key(|c| hash(&c.id));
        let again: Vec<_> = found.iter().copied().filter(|c| c.listed_twice).collect();
        found.extend(again);
        let total = found.len();
        let rows: Vec<Value> = found.into_iter().skip(offset).take(limit).map(|c| campaign_json(c, false)).collect();
        let next = (offset.saturating_add(limit) < total).then(|| {
            let offset = (offset + limit).to_string();
            let mut href = format!("/v3/emails?limit={limit}&next={}", stars(&offset));
            for (key, bound) in [("after_date", after), ("before_date", before)] {
                if let Some(at) = bound {
                    let at = at.to_rfc3339_opts(SecondsFormat::Secs, true);
                    href += &format!("&{key}={at}");
                }
            }
            href
        });
        let mut body = Map::new();
        body.insert("campaigns".into(), rows.into());
        Ok(paged(body, next))
    }

    pub(super) fn campaign(&mut self, id: &str) -> Answer {
        let found = self.account.campaigns.iter().find(|c| *c.id == *id && !c.detail_404).ok_or_else(not_found)?;
        let mut body = campaign_json(found, false);
        // The detail writes the status in capitals, the listing does not.
        body["current_status"] = found.status.to_uppercase().into();
        let again = found.activities.first().filter(|_| found.activity_named_twice);
        body["campaign_activities"] = found.activities.iter().chain(again).map(reference).collect();
        Ok(single(body))
    }

    /// The e-mail of one activity.
    pub(super) fn email(&mut self, params: &Params, id: &str) -> Answer {
        words(
            params,
            "include",
            &["physical_address_in_footer", "permalink_url", "html_content", "document_properties"],
        )?;
        let index = self.account.index();
        let (campaign, at) = index.activities.get(id).ok_or_else(not_found)?;
        let campaign = &self.account.campaigns[*campaign];
        let activity = &campaign.activities[*at];
        if activity.role == "permalink" {
            return Err(not_found());
        }
        if let Some(why) = self.account.email_404(campaign, activity) {
            return Err(array_error(404, "emails.api.not_found", why));
        }
        let mut body = email_json(activity, false);
        body.insert("campaign_activity_id".into(), (&*activity.id).into());
        body.insert("campaign_id".into(), (&*campaign.id).into());
        body.insert("role".into(), activity.role.into());
        body.insert("current_status".into(), campaign.status.to_uppercase().into());
        body.insert("format_type".into(), 5.into());
        Ok(single(body.into()))
    }

    pub(super) fn campaign_summaries(&mut self, params: Params, path: &str) -> Answer {
        let (params, offset) = self.behind_next(params, &["limit"])?;
        let limit = limit(&params, 50, 500)?;
        let account = &*self.account;
        let mut sent: Vec<_> = account.campaigns.iter().filter_map(|c| Some((c.last_sent()?, c))).collect();
        sent.sort_by(|a, b| (b.0, &b.1.id).cmp(&(a.0, &a.1.id)));
        let unique = account.unique();
        let make = |(last, campaign): (DateTime<Utc>, &Campaign)| {
            let counts = counts(unique.get(&campaign.id)).into_iter().map(|(kind, n)| (kind.to_owned(), n.into()));
            let mut o = Obj::new(&campaign.id, false, true);
            o.put("campaign_id", &*campaign.id)
                .put("campaign_type", campaign.kind)
                .time("last_sent_date", Some(last))
                .put("unique_counts", counts.collect::<Map<_, _>>());
            o.done()
        };
        let (rows, next) = slice(sent, make, offset, limit, path, &params);
        let mut body = Map::new();
        body.insert("bulk_email_campaign_summaries".into(), rows.into());
        body.insert(
            "aggregate_percents".into(),
            json!({"click": 0, "open": 0, "did_not_open": 0, "bounce": 0, "unsubscribe": 0}),
        );
        Ok(paged(body, next))
    }
}
