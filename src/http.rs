//! What the calls to both servers share: the agent, the retry schedule, and the wording of network errors.

use std::sync::mpsc;
use std::time::Duration;
use std::{fmt, io, thread};

use chrono::{DateTime, Utc};
use ureq::http::{HeaderMap, Uri};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Connector, NextTimeout, time};
use ureq::{Agent, Proxy, ProxyProtocol};
use url::Url;

use crate::config::{Config, is_loopback};
use crate::error::{Error, Result};

/// The longest wait that a server's `Retry-After` can ask for.
const LONGEST_HOLD: Duration = Duration::from_secs(300);

/// Builds the agent that calls one server, over connections from `connector`.
///
/// # Errors
/// `Usage` when the environment names a proxy that cannot be used.
pub(crate) fn agent(config: &Config, server: &Url, connector: impl Connector) -> Result<Agent> {
    let builder = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        // Both hosts have bot filters that refuse a client without a name.
        .user_agent(&config.user_agent)
        .accept("application/json")
        .timeout_global(Some(config.request_timeout))
        // Each connection has its own: by default 128 kB each, for a request of some hundred bytes.
        .input_buffer_size(32 << 10)
        .output_buffer_size(8 << 10)
        .tls_config(ureq::tls::TlsConfig::builder().root_certs(ureq::tls::RootCerts::PlatformVerifier).build());
    // A proxy would take "localhost" for its own machine, and would see the token, since http is not encrypted.
    let proxy = if is_loopback(server) { None } else { proxy_for(server)? };
    Ok(Agent::with_parts(builder.proxy(proxy).build(), connector, Lookup))
}

/// Looks up names on a thread of its own, which ends the wait for one in time. The library's way to do so panics where no
/// thread can be had; this one then waits for as long as the system does.
#[derive(Debug)]
struct Lookup;

impl Resolver for Lookup {
    fn resolve(
        &self,
        uri: &Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let (uri, config) = (uri.clone(), config.clone());
        let no_limit = NextTimeout { after: time::Duration::NotHappening, ..timeout };
        let look_up = move || DefaultResolver::default().resolve(&uri, &config, no_limit);
        let on_thread = look_up.clone();
        match thread::Builder::new().spawn(move || drop(sender.send(on_thread()))) {
            Ok(_) => receiver.recv_timeout(*timeout.after).unwrap_or(Err(ureq::Error::Timeout(timeout.reason))),
            Err(_) => look_up(),
        }
    }
}

/// The proxy that the environment names for a server.
///
/// The HTTP library skips a variable that it cannot read, and goes round a SOCKS proxy. Both would send traffic past
/// a proxy that somebody set up on purpose.
///
/// # Errors
/// `Usage` when one of the variables cannot be used and `NO_PROXY` does not exempt the server.
fn proxy_for(server: &Url) -> Result<Option<Proxy>> {
    const VARIABLES: [&str; 6] = ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"];
    let usable = |value: &str| {
        Proxy::new(value).is_ok_and(|p| matches!(p.protocol(), ProxyProtocol::Http | ProxyProtocol::Https))
    };
    if is_exempt(server) {
        return Ok(None);
    }
    for variable in VARIABLES {
        let Some(value) = std::env::var_os(variable) else { continue };
        if !value.to_str().is_some_and(usable) {
            // The value may hold a password.
            let why = if value.is_empty() { "is empty" } else { "names a proxy that the tap cannot use" };
            return Err(Error::Usage(format!(
                "the environment variable {variable} {why}; set it to http://HOST:PORT or https://HOST:PORT, unset it \
                 to connect directly, or list {} in NO_PROXY",
                server.host_str().unwrap_or_default()
            )));
        }
    }
    Ok(Proxy::try_from_env())
}

/// Whether `NO_PROXY` exempts a server.
fn is_exempt(server: &Url) -> bool {
    let Some(list) = ["NO_PROXY", "no_proxy"].into_iter().find_map(|name| std::env::var(name).ok()) else {
        return false;
    };
    let any = Proxy::builder(ProxyProtocol::Http).host("proxy");
    let any = list.split(',').map(str::trim).fold(any, ureq::ProxyBuilder::no_proxy).build();
    server.as_str().parse().is_ok_and(|uri| any.is_ok_and(|any| any.is_no_proxy(&uri)))
}

/// The retries of one call. It counts; the caller makes the call, logs and sleeps.
///
/// It displays as the retry that comes next: `retry 2 of 5`.
pub(crate) struct Retry {
    max_retries: u32,
    failures: u32,
}

impl Retry {
    pub(crate) fn new(max_retries: u32) -> Retry {
        Retry { max_retries, failures: 0 }
    }

    /// Counts a failed attempt. Returns how long to wait before the next one, or `None` if every retry has been used.
    /// `hold` is the wait that the server asked for, as [`retry_after`] reads it; without one, the wait is random and
    /// grows with every failure.
    pub(crate) fn after(&mut self, hold: Option<Duration>) -> Option<Duration> {
        self.failures += 1;
        (self.failures <= self.max_retries).then(|| hold.unwrap_or_else(|| backoff(self.failures)))
    }

    /// How many attempts have failed.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }
}

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "retry {} of {}", self.failures, self.max_retries)
    }
}

/// The wait before a retry (1, 2, …): random, and at most 1, 2, 4 … 60 seconds, so that many clients that failed
/// together do not come back together.
fn backoff(retry: u32) -> Duration {
    longest_backoff(retry).mul_f64(fastrand::f64())
}

fn longest_backoff(retry: u32) -> Duration {
    Duration::from_secs(1_u64.checked_shl(retry - 1).map_or(60, |seconds| seconds.min(60)))
}

/// How long an answer's `Retry-After` asks to wait, in seconds or as a date, cut to 300 seconds. `None` when there is
/// none, or when it asks for no wait at all: then the usual backoff is kinder to the server.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let asked = text("retry-after").filter(|asked| !asked.is_empty())?;
    let hold = if asked.bytes().all(|b| b.is_ascii_digit()) {
        // Digits that do not fit are a very long time.
        Duration::from_secs(asked.parse().unwrap_or(u64::MAX))
    } else {
        let date = |text: &str| DateTime::parse_from_rfc2822(text).ok();
        // By the server's own clock, since this machine's may be wrong.
        let now = text("date").and_then(date).map_or_else(Utc::now, |date| date.to_utc());
        (date(asked)?.to_utc() - now).to_std().ok()?
    };
    (!hold.is_zero()).then(|| hold.min(LONGEST_HOLD))
}

/// Whether the server's certificate was refused, which no retry changes.
pub(crate) fn is_untrusted(e: &ureq::Error) -> bool {
    let of_tls = match e {
        ureq::Error::Io(e) => e.kind() == io::ErrorKind::InvalidData,
        other => matches!(other, ureq::Error::Rustls(_)),
    };
    of_tls && e.to_string().contains("certificate")
}

/// Whether a call failed before there was a connection that could take its request, so that the server has not seen it.
/// `e` is what came instead of an answer, not an error in its body.
pub(crate) fn is_unsent(e: &ureq::Error) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, Interrupted, InvalidData, Other, TimedOut, UnexpectedEof,
        WouldBlock, WriteZero,
    };
    match e {
        ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::ConnectProxyFailed(_)
        // The request could not even be made.
        | ureq::Error::Http(_)
        | ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => true,
        // These come from an existing connection. All others, such as a failed name lookup, prevent one.
        ureq::Error::Io(io) => {
            let ended = [
                BrokenPipe, ConnectionAborted, ConnectionReset, Interrupted, InvalidData, Other, TimedOut, UnexpectedEof,
                WouldBlock, WriteZero,
            ];
            is_untrusted(e) || !ended.contains(&io.kind())
        }
        e => is_untrusted(e),
    }
}

/// Says that a certificate was refused and what to do.
pub(crate) fn untrusted_text(server: &str, e: &ureq::Error) -> String {
    format!(
        "the certificate of {server} could not be verified ({e}). If a proxy or a private authority signs it, set \
         SSL_CERT_FILE to a PEM file with that authority's certificate. If this machine has no CA certificates at all, \
         install its ca-certificates package"
    )
}

/// A network error in words, without the URL of the call.
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
    fn the_backoff_doubles_up_to_a_minute() {
        let longest: Vec<u64> = (1..=9).map(|retry| longest_backoff(retry).as_secs()).collect();
        assert_eq!(longest, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(longest_backoff(u32::MAX).as_secs(), 60);
        for retry in 1..=9 {
            assert!((0..50).all(|_| backoff(retry) <= longest_backoff(retry)));
        }
    }

    #[test]
    fn it_gives_up_after_the_last_retry() {
        let mut retry = Retry::new(2);
        assert!(retry.after(None).unwrap() <= Duration::from_secs(1));
        assert_eq!(retry.to_string(), "retry 1 of 2");
        assert!(retry.after(None).unwrap() <= Duration::from_secs(2));
        assert_eq!(retry.to_string(), "retry 2 of 2");
        assert_eq!(retry.after(None), None);
        assert_eq!(retry.failures(), 3);
        assert_eq!(Retry::new(0).after(Some(Duration::from_secs(1))), None);
        assert_eq!(Retry::new(1).after(Some(Duration::from_secs(300))), Some(Duration::from_secs(300)));
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        for (asked, seconds) in [
            ("7", Some(7)),
            (" 7 ", Some(7)),
            ("900", Some(300)),
            ("", None),
            ("18446744073709551616", Some(300)),
            ("0", None),
            ("-1", None),
            ("soon", None),
            ("Mon, 23 Nov 2026 10:00:07 GMT", Some(7)),
            ("Tue, 24 Nov 2026 10:00:00 GMT", Some(300)),
            ("Mon, 23 Nov 2026 09:00:00 GMT", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("date", "Mon, 23 Nov 2026 10:00:00 GMT".parse().unwrap());
            headers.insert("retry-after", asked.parse().unwrap());
            assert_eq!(retry_after(&headers), seconds.map(Duration::from_secs), "{asked}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn a_call_that_may_have_arrived_counts_as_sent() {
        let io = |kind| ureq::Error::Io(io::Error::from(kind));
        let request = ureq::http::Request::builder().uri("https://example.com/a b").body(());
        for unsent in [
            // Too many open files.
            ureq::Error::Io(io::Error::from_raw_os_error(24)),
            io(io::ErrorKind::ConnectionRefused),
            ureq::Error::HostNotFound,
            ureq::Error::Http(request.unwrap_err()),
            ureq::Error::Timeout(ureq::Timeout::Connect),
        ] {
            assert!(is_unsent(&unsent), "{unsent:?}");
        }
        for sent in [
            io(io::ErrorKind::ConnectionReset),
            io(io::ErrorKind::UnexpectedEof),
            // As rustls reports a broken record.
            io(io::ErrorKind::InvalidData),
            ureq::Error::Timeout(ureq::Timeout::Global),
        ] {
            assert!(!is_unsent(&sent), "{sent:?}");
        }
    }
}
