//! The report: what a person reads, and what is pasted into an issue.

use std::fmt::Write;

use schemars::JsonSchema;
use serde::Serialize;

/// What `doctor` found out about the service on one account. It holds nothing personal: counts, days and forms of
/// answers, and ids of the service only with --show-ids.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Report {
    /// Version of the tap that wrote it.
    pub(super) version: &'static str,
    /// The day on which the account was examined, in UTC.
    pub(super) day: String,
    /// How many API calls it took.
    pub(super) calls: u64,
    pub(super) findings: Vec<Finding>,
}

/// The answer to one question.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Finding {
    /// Name of the question, the same in every version.
    pub(super) id: &'static str,
    /// The sentence that is confirmed or refuted.
    pub(super) statement: &'static str,
    pub(super) verdict: Verdict,
    /// The numbers behind the verdict.
    pub(super) evidence: String,
    /// What the tap does about it.
    pub(super) consequence: &'static str,
    /// Which setting to change and how, if any.
    pub(super) setting: Option<String>,
    /// Whether the current settings lose data.
    pub(super) loses_data: bool,
    /// Ids to look at; only with --show-ids.
    pub(super) ids: Vec<String>,
}

/// Whether a statement holds on this account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Confirmed,
    Refuted,
    /// This account has no data to decide it.
    #[default]
    CannotTell,
}

/// A verdict and the evidence for it.
pub(super) type Answer = (Verdict, String);

impl Finding {
    /// A finding that loses no data and needs no other setting.
    pub(super) fn new(
        id: &'static str,
        statement: &'static str,
        (verdict, evidence): Answer,
        consequence: &'static str,
    ) -> Finding {
        Finding { id, statement, verdict, evidence, consequence, setting: None, loses_data: false, ids: Vec::new() }
    }

    /// Adds whether the current settings lose data, and which setting helps.
    pub(super) fn losing_data(self, loses: bool, setting: &str) -> Finding {
        Finding { loses_data: loses, setting: loses.then(|| setting.to_owned()), ..self }
    }

    pub(super) fn with_ids(self, ids: Vec<String>) -> Finding {
        Finding { ids, ..self }
    }
}

impl Report {
    pub(super) fn loses_data(&self) -> bool {
        self.findings.iter().any(|finding| finding.loses_data)
    }

    pub(super) fn json(&self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        format!("{value:#}\n")
    }

    pub(super) fn text(&self) -> String {
        let mut out = format!(
            "tap-constant-contact {} examined this account on {} with {} calls.\n",
            self.version, self.day, self.calls
        );
        for finding in &self.findings {
            let verdict = match finding.verdict {
                Verdict::Confirmed => "yes",
                Verdict::Refuted => "no",
                Verdict::CannotTell => "cannot tell here",
            };
            let loses = if finding.loses_data { ": DATA ARE LOST under the present settings" } else { "" };
            let _ = writeln!(out, "\n{}: {verdict}{loses}", finding.statement);
            let _ = writeln!(out, "    {}", finding.evidence);
            let _ = writeln!(out, "    {}", finding.consequence);
            if let Some(setting) = &finding.setting {
                let _ = writeln!(out, "    Change: {setting}");
            }
            if !finding.ids.is_empty() {
                let _ = writeln!(out, "    Ids: {}", finding.ids.join(", "));
            }
        }
        out + "\n" + &self.conclusion() + "\n"
    }

    /// What the findings come to.
    fn conclusion(&self) -> String {
        let losing: Vec<&str> = self.findings.iter().filter(|finding| finding.loses_data).map(|f| f.id).collect();
        if !losing.is_empty() {
            return format!(
                "Result: data are lost under the present settings ({}); see Change above.",
                losing.join(", ")
            );
        }
        match self.findings.iter().filter(|finding| finding.verdict == Verdict::CannotTell).count() {
            0 => "Result: no data are lost under the present settings.".into(),
            1 => "Result: no loss of data was found under the present settings; one question stays open.".into(),
            n => format!("Result: no loss of data was found under the present settings; {n} questions stay open."),
        }
    }
}
