//! The stats endpoints, which take the ids of several campaigns or activities in one call.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::client::Client;
use crate::error::Result;
use crate::id::Id;

/// Reads `/reports/stats/{what}/{ids}`: the stats of those ids that the service knows. A single id that it does not accept
/// fails the whole call.
pub(super) fn stats<T: DeserializeOwned>(
    client: &Client,
    endpoint: &'static str,
    what: &str,
    ids: &[Id],
    priority: usize,
) -> Result<Vec<T>> {
    #[derive(Deserialize)]
    struct Answer<T> {
        results: Option<Vec<T>>,
    }
    let ids: Vec<String> = ids.iter().map(Id::in_path).collect();
    let path = format!("/reports/stats/{what}/{}", ids.join(","));
    Ok(client.object::<Answer<T>>(endpoint, &path, &[], priority)?.results.unwrap_or_default())
}
