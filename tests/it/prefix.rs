//! A target may have stored any beginning of a run's output. From the last STATE in it, the next run reads all that is
//! missing.

use fake::account::Size;
use fake::{Account, Fake, Switches};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::tap::{Ran, common, sorted, streams, tap, without_nulls};

fn rows(messages: &[Value], stream: &str) -> Vec<Value> {
    let of = |m: &&Value| m["type"] == "RECORD" && m["stream"] == stream;
    messages.iter().filter(of).map(|m| common(without_nulls(&m["record"]))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 20, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_beginning_of_the_output_can_be_continued(
        seed in 0u64..1000, calls in 4u64..90, by_contact: bool, cut in 0.0f64..1.0, cut_again in 0.0f64..1.0,
    ) {
        let account = Account::generate(seed, Size { contacts: 14, lists: 2, campaigns: 4 }).with_all_details();
        let fake = Fake::start_with(account, Switches::long_lived());
        let route = if by_contact { "contacts" } else { "campaigns" };
        let settings = |max: u64| json!({"activity_route": route, "max_requests": max, "page_size": 5});
        let mut stored: Vec<Value> = Vec::new();
        let mut state = None;
        // Two runs of whose output only a part is stored, then a run that reads the rest.
        for (max, kept) in [(calls, cut), (calls, cut_again), (10_000, 1.0)] {
            let Ran { messages, code, stderr } = tap(&fake, &settings(max), state.as_ref());
            prop_assert!(code == Some(0) || (code == Some(4) && max < 10_000), "{:?} {}", code, stderr);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a share")]
            let kept = &messages[..(messages.len() as f64 * kept).ceil() as usize];
            if let Some(last) = kept.iter().rev().find(|m| m["type"] == "STATE") {
                state = Some(last["value"].clone());
            }
            stored.extend_from_slice(kept);
        }
        for stream in streams() {
            let mut all = sorted(rows(&stored, stream));
            all.dedup();
            let truth = sorted(fake.account().truth(stream).iter().map(without_nulls));
            prop_assert_eq!(all, truth, "{}", stream);
        }
    }
}
