//! The report of `--test`: what a person reads, and the same for programs.

use std::fmt::Write;

use schemars::JsonSchema;
use serde::Serialize;

/// What `--test` found out about a login: what it may read, what not and why, and what a full sync costs.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Report {
    /// Version of the tap that wrote it.
    pub(super) version: &'static str,
    pub(super) login: Login,
    pub(super) account: Account,
    /// The selected streams, in the order in which a sync reads them.
    pub(super) streams: Vec<StreamReport>,
    /// What a full sync of the streams that can be read costs; null where none can be read.
    pub(super) full_sync: Option<FullSync>,
}

/// What the login is, and what it was granted.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Login {
    /// Whether it was renewed. False for an access token alone, which ends within a day.
    pub(super) is_renewed: bool,
    /// The scopes that were granted; null where the authorization server did not name them.
    pub(super) scopes: Option<Vec<String>>,
    /// The privileges of the user who logged in; null where the service refuses to name them.
    pub(super) privileges: Option<Vec<String>>,
}

/// Which account it is, and how large.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Account {
    /// Only with the scope `account_read`, which `login` does not ask for.
    pub(super) organization_name: Option<String>,
    /// Only with the scope `account_read`.
    pub(super) encoded_account_id: Option<String>,
    pub(super) sizes: Vec<Size>,
}

/// How many rows a listing has.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Size {
    /// What the rows are called.
    pub(super) rows: &'static str,
    /// Null where the service does not say, or refuses the listing.
    pub(super) count: Option<u64>,
}

/// Whether a stream can be read.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct StreamReport {
    pub(super) stream: &'static str,
    pub(super) verdict: Verdict,
    /// Why it is refused, or why some fields are null, and what to do.
    pub(super) why: Option<String>,
    /// Selected fields that this login cannot fill.
    pub(super) null_fields: Vec<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    MayBeRead,
    /// There is no contact to try it on.
    Untried,
    Refused,
}

/// What a full sync costs: one that starts without a state.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct FullSync {
    /// API calls.
    pub(super) calls: u64,
    /// How long they take at `requests_per_second`.
    pub(super) seconds: u64,
    /// On how many days, as `daily_quota` allows.
    pub(super) days: u64,
    /// The calls that a day allows the application, over all its accounts.
    pub(super) daily_quota: u64,
    /// The same in words, with the route of the contact reports.
    pub(super) text: String,
}

impl Report {
    pub(super) fn json(&self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        format!("{value:#}\n")
    }

    pub(super) fn text(&self) -> String {
        let login = if self.login.is_renewed {
            "works, and was renewed"
        } else {
            "works until the access token ends; there is no refresh token"
        };
        let scopes = self.login.scopes.as_ref().map_or("unknown".to_owned(), |scopes| scopes.join(", "));
        let mut out = format!("Login:   {login}\nScopes:  {scopes}\nAccount: {}\nStreams:", self.account.text());
        for stream in &self.streams {
            let _ = write!(out, "\n    {:<26}{}", stream.stream, stream.text());
        }
        if let Some(full_sync) = &self.full_sync {
            let _ = write!(out, "\nEstimated full sync: {}", full_sync.text);
        }
        out
    }

    pub(super) fn refused(&self) -> Vec<&'static str> {
        let refused = self.streams.iter().filter(|stream| stream.verdict == Verdict::Refused);
        refused.map(|stream| stream.stream).collect()
    }
}

impl Account {
    fn text(&self) -> String {
        let name = match (&self.organization_name, &self.encoded_account_id) {
            (Some(name), Some(id)) => format!("{name} ({id}); "),
            (Some(one), None) | (None, Some(one)) => format!("{one}; "),
            (None, None) => String::new(),
        };
        let counts = self.sizes.iter().map(|size| match size.count {
            Some(count) => format!("{count} {}", size.rows),
            None => format!("{} unknown", size.rows),
        });
        let counts: Vec<String> = counts.collect();
        name + &counts.join(", ")
    }
}

impl StreamReport {
    fn text(&self) -> String {
        let why = self.why.as_deref().unwrap_or_default();
        match self.verdict {
            Verdict::Refused => format!("refused: {why}"),
            Verdict::Untried => "may be read, probably: there is no contact to try it on".into(),
            Verdict::MayBeRead if self.null_fields.is_empty() => "may be read".into(),
            Verdict::MayBeRead => {
                let are = if self.null_fields.len() == 1 { "is" } else { "are" };
                format!("may be read, but {} {are} null: {why}", self.null_fields.join(", "))
            }
        }
    }
}
