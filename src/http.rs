//! HTTP as both servers are spoken to: one way to build an agent, to wait between attempts, and to put a network error
//! into words. Knows neither server.

use std::io;
use std::time::Duration;

use url::Url;

use crate::config::{Config, is_loopback};

/// The HTTP of one server.
pub(crate) fn agent(config: &Config, server: &Url) -> ureq::Agent {
    let builder = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        // Bot filters before both hosts refuse a client without a name.
        .user_agent(&config.user_agent)
        .accept("application/json")
        .timeout_global(Some(config.request_timeout))
        .tls_config(ureq::tls::TlsConfig::builder().root_certs(ureq::tls::RootCerts::PlatformVerifier).build());
    // A proxy of the environment's would take "this machine" to be itself, and be shown the token in the clear.
    let builder = if is_loopback(server) { builder.proxy(None) } else { builder };
    builder.build().into()
}

/// Full-jitter backoff before try `attempt` (1, 2, …): anything up to 1, 2, 4 … 60 seconds.
pub(crate) fn backoff(attempt: u32) -> Duration {
    let ceiling = 2f64.powi(attempt.min(7).cast_signed() - 1).min(60.0);
    Duration::from_secs_f64(fastrand::f64() * ceiling)
}

/// Whether the other end could not prove who it is. Another try would not change that.
pub(crate) fn is_untrusted(e: &ureq::Error) -> bool {
    let of_tls = match e {
        ureq::Error::Io(e) => e.kind() == io::ErrorKind::InvalidData,
        other => matches!(other, ureq::Error::Rustls(_)),
    };
    of_tls && e.to_string().contains("certificate")
}

/// The same in words that say what to do.
pub(crate) fn untrusted_text(server: &str, e: &ureq::Error) -> String {
    format!(
        "the certificate of {server} could not be verified ({e}). If a proxy or a private authority signs it, set \
         SSL_CERT_FILE to a PEM file with that authority's certificate; if this machine has none at all, install its \
         package of CA certificates"
    )
}

/// A network error in words that hold no URL.
pub(crate) fn network_text(e: &ureq::Error) -> String {
    match e {
        ureq::Error::Timeout(_) => "no whole answer within request_timeout".into(),
        ureq::Error::BadUri(_) => "the address is not usable".into(),
        other => format!("network: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_a_minute_and_no_further() {
        for attempt in 1..40u32 {
            let ceiling = 2f64.powi(attempt.min(7).cast_signed() - 1).min(60.0);
            for _ in 0..50 {
                assert!(backoff(attempt).as_secs_f64() <= ceiling);
            }
        }
    }
}
