//! The streams. Each has a file with its endpoint, its record and its quirks, and a [`Source`] that stands in [`ALL`].

mod campaigns;
mod contact_lists;
mod contacts;
mod definitions;
mod email_campaigns;
mod page;
mod reports;
mod seen;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::client::Client;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::quota::{DAILY_QUOTA, runs_in_words};
use crate::run::Run;
use crate::stream::{Needs, Stream};
pub(crate) use campaigns::{Summary as CampaignSummary, details as campaign_details};
pub(crate) use contact_lists::{ContactList, Lists};
pub(crate) use contacts::Contact;
pub(crate) use contacts::parse_and_write as parse_and_write_contacts;
pub(crate) use definitions::Names;
pub(crate) use email_campaigns::record::EmailCampaign;
pub(crate) use reports::{ActivityDetail, Tracked, details_path, tracking_path};

/// A stream and how it is read.
pub(crate) struct Source {
    pub(crate) stream: Stream,
    pub(crate) probe: Probe,
    /// How many calls the read will make.
    pub(crate) cost: fn(&mut Run, &mut Shared) -> Result<u64>,
    pub(crate) read: fn(&mut Run, &mut Shared) -> Result<()>,
}

/// What one stream has fetched and another can use, so that no call is made twice in a run.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) reports: reports::Fetched,
    pub(crate) lists: Lists,
    /// Which fields to deselect to save most of the planned calls, in words.
    pub(crate) how_to_save: Option<String>,
    /// What the route of the current stream needs; `None` means what the stream's row says.
    pub(crate) needs: Option<&'static Needs>,
}

/// A cheap call that shows whether this login may read a stream.
pub(crate) enum Probe {
    /// Counts the rows of the listing. The text is what they are called in the account's size.
    Listing(&'static str, fn(&Arc<Client>, &Config, &mut Probed) -> Result<Option<u64>>),
    /// Reads the first page of one contact's report.
    OfContact(fn(&Client, &Config, &str) -> Result<()>),
}

/// What the probes have found so far.
#[derive(Default)]
pub(crate) struct Probed {
    /// The id of any one contact.
    pub(crate) contact: Option<String>,
    pub(crate) can_list_contacts: bool,
    pub(crate) shared: Shared,
}

/// All streams in the order they are read.
pub(crate) static ALL: [&Source; 5] =
    [&contact_lists::SOURCE, &contacts::SOURCE, &email_campaigns::SOURCE, &reports::SUMMARY, &reports::DETAILS];

/// The stream whose rows the campaign route starts from.
pub(crate) static CAMPAIGNS: &Stream = &email_campaigns::SOURCE.stream;

/// All streams, in the same order.
pub(crate) fn all() -> impl Iterator<Item = &'static Stream> {
    ALL.iter().map(|source| &source.stream)
}

/// An example of `--select`: two streams, and a field to leave out.
pub(crate) fn example_selection() -> String {
    let (contacts, campaigns) = (contacts::SOURCE.stream.name, email_campaigns::SOURCE.stream.name);
    format!("--select {contacts},{campaigns} --select '!{contacts}.notes'")
}

/// Whether the catalog selects a contact report.
fn selects_reports(run: &Run) -> bool {
    all().any(|stream| stream.has_routes() && run.selects(stream))
}

/// What reading takes, with how it is read.
pub(crate) struct Plan {
    pub(crate) calls: u64,
    per_second: f64,
    max_requests: Option<u64>,
    /// What could be saved, and the route of the contact reports.
    notes: Vec<String>,
}

impl Plan {
    /// How long it takes at the pace.
    pub(crate) fn time(&self) -> Duration {
        reports::time(self.calls, self.per_second)
    }

    /// The days over which the quota spreads it.
    pub(crate) fn days(&self) -> u64 {
        self.calls.div_ceil(DAILY_QUOTA)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&reports::cost(self.calls, self.per_second))?;
        if let Some(most) = self.max_requests.filter(|most| *most < self.calls) {
            write!(f, ", at least {} at max_requests = {most}", runs_in_words(self.calls, most))?;
        }
        self.notes.iter().try_for_each(|note| write!(f, "; {note}"))
    }
}

/// What reading these streams costs. A stream that the service refuses costs nothing.
///
/// # Errors
/// Any other error, with its stream.
pub(crate) fn plan(
    run: &mut Run,
    shared: &mut Shared,
    sources: &[&'static Source],
) -> Result<Plan, (&'static Source, Error)> {
    // Every run begins with one call for the account's lists.
    let mut calls = 1;
    for source in sources {
        match (source.cost)(run, shared) {
            Ok(cost) => calls += cost,
            Err(Error::Forbidden(_)) => {}
            Err(e) => return Err((source, e.context(source.stream.name))),
        }
    }
    let route = shared.reports.route_in_words().map(str::to_owned);
    let notes = [shared.how_to_save.take(), route].into_iter().flatten().collect();
    Ok(Plan { calls, per_second: run.config.requests_per_second, max_requests: run.config.max_requests, notes })
}

/// What reading one stream costs, in words; `None` if the service does not say how much there is.
///
/// # Errors
/// Any error but a refusal, since it would end the read as well.
pub(crate) fn cost_of(run: &mut Run, shared: &mut Shared, source: &Source) -> Result<Option<String>> {
    match (source.cost)(run, shared) {
        Ok(calls) => Ok((calls > 0).then(|| reports::cost(calls, run.config.requests_per_second))),
        Err(e) if e.is_refusal() => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;
    use serde::Serialize;
    use serde_json::{Value, json};

    use super::*;
    use crate::client::{self, Row};
    use crate::field::{Key, KeyInteger};
    use crate::schema;
    use reports::ActionSummary;

    #[test]
    fn absent_scalars_are_null_and_absent_objects_and_arrays_left_out() {
        let contact: Contact = serde_json::from_str(
            r#"{"contact_id":"c1","notes":null,"email_address":{},"taggings":["t1",null,7],"phone_numbers":[null,{"kind":"home"}]}"#,
        )
        .unwrap();
        let out = serde_json::to_value(&contact).unwrap();
        assert_eq!(out["first_name"], Value::Null);
        assert_eq!(out["taggings"], json!(["t1", "7"]));
        assert_eq!(out["phone_numbers"].as_array().unwrap().len(), 1);
        assert_eq!(out["email_address"]["opt_out_date"], Value::Null);
        assert!(out["email_address"].as_object().unwrap().contains_key("opt_out_date"));
        for absent in ["notes", "sms_channel", "custom_fields", "list_memberships"] {
            assert!(out.get(absent).is_none(), "{absent}");
        }
    }

    #[test]
    fn a_row_without_its_key_is_an_error() {
        for row in ["{}", r#"{"contact_id":null}"#, r#"{"contact_id":""}"#] {
            assert!(serde_json::from_str::<Contact>(row).is_err());
        }
    }

    #[test]
    fn the_keys_of_the_reports_can_be_filled_in_after_parsing() {
        let mut row: ActionSummary =
            serde_json::from_str(r#"{"campaign_activity_id":"a","em_opens":"2","start_on":"2026-01-02"}"#).unwrap();
        row.contact_id = Key::from("c");
        let out = serde_json::to_string(&row).unwrap();
        assert!(out.starts_with(
            r#"{"contact_id":"c","campaign_activity_id":"a","campaign_id":null,"start_on":"2026-01-02T00:00:00Z""#
        ));
        assert!(out.contains(r#""em_opens":2"#));

        let mut row: ActivityDetail = serde_json::from_str(
            r#"{"contact_id":"c","campaign_activity_id":"a","created_time":"2026-01-02T03:04:05.000Z",
                "tracking_activity_type":"em_opens"}"#,
        )
        .unwrap();
        row.occurrence = KeyInteger(1);
        let out = serde_json::to_value(&row).unwrap();
        assert_eq!((&out["created_time"], &out["occurrence"]), (&json!("2026-01-02T03:04:05Z"), &json!(1)));
        assert_eq!(out["url_id"], Value::Null);
    }

    fn any_json() -> BoxedStrategy<Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
            Just("2026-02-30T25:00:00+14:00".into()),
        ];
        let nested = leaf.prop_recursive(2, 8, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-z_]{1,8}", inner, 0..3)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        });
        nested.boxed()
    }

    /// Something like what a schema describes: now and then a field is missing, null or of another kind.
    fn like(schema: &Value) -> BoxedStrategy<Value> {
        let kind = schema["type"].as_array().and_then(|types| types.last()).unwrap_or(&schema["type"]);
        let good = match kind.as_str() {
            // An object without properties holds what the account defines.
            Some("object") if schema["properties"].is_null() => Just(json!({})).boxed(),
            Some("object") => {
                let fields = schema["properties"].as_object().unwrap();
                // A row without a key is left out, so the test would see less of the others.
                let there = |field: &Value| if field["type"][0] == "null" { 0.9 } else { 0.99 };
                let (names, fields): (Vec<String>, Vec<_>) = fields
                    .iter()
                    .map(|(name, field)| (name.clone(), prop::option::weighted(there(field), like(field))))
                    .unzip();
                let object = move |values: Vec<Option<Value>>| {
                    names.iter().cloned().zip(values).filter_map(|(name, value)| Some((name, value?))).collect()
                };
                fields.prop_map(object).prop_map(Value::Object).boxed()
            }
            Some("array") => prop::collection::vec(like(&schema["items"]), 0..3).prop_map(Value::from).boxed(),
            Some("integer") => prop_oneof![any::<i64>().prop_map(Value::from), "[0-9]{1,4}".prop_map(Value::from)].boxed(),
            Some("boolean") => any::<bool>().prop_map(Value::from).boxed(),
            _ if schema["format"] == "date-time" => {
                "20[0-9]{2}-(0[1-9]|1[0-2])-[012][1-8]T[01][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-][01][0-9]:[0-5][0-9])"
                    .prop_map(Value::from)
                    .boxed()
            }
            _ => prop_oneof![20 => ".{1,12}", 1 => Just(String::new())].prop_map(Value::from).boxed(),
        };
        prop_oneof![150 => good, 1 => Just(Value::Null), 1 => any_json()].boxed()
    }

    /// Whatever comes is refused, or written as its schema says.
    fn any_row_fits_its_schema<T: Row + Serialize>() {
        let schema = &schema::of::<T>();
        let validator = jsonschema::options().should_validate_formats(true).build(schema).unwrap();
        let config = ProptestConfig { failure_persistence: None, cases: 200, ..ProptestConfig::default() };
        let written = Cell::new(0);
        TestRunner::new(config)
            .run(&like(schema), |row| {
                if let Some(record) = record_of::<T>(&row) {
                    written.set(written.get() + 1);
                    prop_assert!(validator.is_valid(&record), "{record}");
                }
                Ok(())
            })
            .unwrap();
        assert!(written.get() > 50, "{} of 200 rows were written", written.get());
    }

    /// The record of a row, as a page with it is read.
    fn record_of<T: Row + Serialize>(row: &Value) -> Option<Value> {
        let page = json!({T::ROWS: [row]}).to_string();
        let rows = client::read_rows::<T>(&page);
        rows.into_iter().next().map(|row| serde_json::to_value(row).unwrap())
    }

    #[test]
    fn every_stream_writes_what_its_schema_says() {
        any_row_fits_its_schema::<Contact>();
        any_row_fits_its_schema::<ContactList>();
        any_row_fits_its_schema::<EmailCampaign>();
        any_row_fits_its_schema::<ActionSummary>();
        any_row_fits_its_schema::<ActivityDetail>();
    }
}
