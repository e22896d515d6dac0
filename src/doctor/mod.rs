//! `doctor`: tests on the user's own account what the service's documentation does not say, with reads only.
//!
//! `observe` makes the calls, `findings` draws the conclusions, `report` prints them. The report holds nothing
//! personal.

mod findings;
mod observe;
mod report;

use std::sync::Arc;

use crate::cli::{Doctor, ReportFormat};
use crate::client::Client;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::logger::say;
use crate::messages::Messages;
use chrono::Utc;
use report::Report;

/// The most calls that an examination makes.
pub(crate) const MOST_CALLS: u64 = 200;

/// Examines the account and writes the report to stdout.
///
/// # Errors
/// `LosesData` if a finding says that the current settings lose data; otherwise what ended the examination.
pub(crate) fn examine(config: &Config, client: &Arc<Client>, options: &Doctor, messages: &Messages) -> Result<()> {
    say(&format!("Examining the account: up to {MOST_CALLS} API calls, reads only."));
    let seen = observe::observe(config, client)?;
    let mut findings = findings::findings(&seen, config);
    if !options.show_ids {
        for finding in &mut findings {
            finding.ids.clear();
        }
    }
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        day: Utc::now().format("%Y-%m-%d").to_string(),
        calls: client.calls(),
        findings,
    };
    let text = match options.format {
        ReportFormat::Text => report.text(),
        ReportFormat::Json => report.json(),
    };
    messages.answer(text.as_bytes())?;
    if report.loses_data() {
        return Err(Error::LosesData(
            "the current settings lose data; the report says which, and what to change".into(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn the_schema_checked_in_is_that_of_the_report() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/doctor.json");
        let schema = format!("{:#}\n", schemars::schema_for!(Report).to_value());
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, &schema).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), schema, "schemas/doctor.json is stale: run with UPDATE=1");
    }
}
