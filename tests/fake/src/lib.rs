//! A fake Constant Contact service on the loopback interface: the API, the authorization server, and one account.
//!
//! It behaves as the vendor's documentation says. Where that says nothing, a switch (`Switches`) chooses. A `Fault` makes
//! requests fail, and a hook changes the account between two requests.
//!
//! `Fake::account`, `Fake::switches` and `Fake::tokens` return lock guards. Drop them before you wait for a request, or
//! the request waits for them forever.

#![allow(missing_docs, clippy::pedantic, reason = "most names say enough")]

pub mod account;
mod api;
pub mod auth;
mod campaigns;
mod case;
mod changes;
mod fault;
mod generate;
mod http;
mod reports;
mod rows;
mod server;
mod stats;
mod switches;
mod truth;

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Instant;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

pub use account::{Account, Case, Id, Kind, Size};
pub use auth::AuthServer;
pub use fault::{Fault, What};
pub use http::Answer;
pub use switches::{LastPage, Order, Switches};

use server::{Server, lock};

const AUTH_PATH: &str = "/oauth2/default/v1";

/// A request that the fake received.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: String,
    pub path: String,
    /// The query as sent.
    pub query: String,
    /// When it came, before the jitter.
    pub came: Instant,
    /// When it came, after the jitter.
    pub at: Instant,
    /// 0 if the connection was closed without an answer.
    pub status: u16,
    /// Whether it went to the authorization server.
    pub is_token: bool,
    pub user_agent: String,
    /// The body, if the request went to the authorization server.
    pub body: String,
    number: u64,
}

/// Called with path and query before each API call is served; it may change the account.
pub type Hook = Box<dyn FnMut(&str, &mut Account) + Send>;

/// A point in a call to the authorization server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It has arrived and was not served yet.
    Arrived,
    /// The answer was sent.
    Answered,
}

/// Called twice for each POST to the authorization server.
pub type TokenHook = Box<dyn FnMut(Moment) + Send>;

/// Called with path and query before each answer is sent; it may change the answer.
pub type AnswerHook = Box<dyn FnMut(&str, &mut Answer) + Send>;

/// The running service. Dropping it stops it, and panics if the client broke a rule of the service and nobody took the
/// `violations`.
pub struct Fake {
    server: Arc<Server>,
}

impl Fake {
    /// Starts the service on a free port, with the default switches.
    pub fn start(account: Account) -> Fake {
        Fake::start_with(account, Switches::default())
    }

    /// Starts the service on a free port.
    pub fn start_with(account: Account, switches: Switches) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let server = Arc::new(Server {
            address: listener.local_addr().expect("an address"),
            stopped: AtomicBool::new(false),
            started: Instant::now(),
            number: AtomicU64::new(0),
            account: Mutex::new(account),
            switches: Mutex::new(switches),
            auth: Mutex::default(),
            calls: Mutex::default(),
            faults: Mutex::default(),
            hook: Mutex::default(),
            token_hook: Mutex::default(),
            answer_hook: Mutex::default(),
            issued: Mutex::default(),
            violations: Mutex::default(),
            meters: Mutex::default(),
            streams: Mutex::default(),
        });
        let accepting = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                if let Ok(copy) = stream.try_clone() {
                    lock(&accepting.streams).push(copy);
                }
                let serving = accepting.clone();
                thread::spawn(move || serving.serve_connection(stream));
            }
        });
        Fake { server }
    }

    fn base(&self) -> String {
        self.server.base()
    }

    /// The value for the setting `api_url`.
    pub fn api_url(&self) -> String {
        format!("{}/v3", self.base())
    }

    /// The value for the setting `auth_url`.
    pub fn auth_url(&self) -> String {
        format!("{}{AUTH_PATH}", self.base())
    }

    /// The account, to read or to change.
    pub fn account(&self) -> MutexGuard<'_, Account> {
        self.server.account(&self.server.switches())
    }

    /// The switches, to read or to change.
    pub fn switches(&self) -> MutexGuard<'_, Switches> {
        lock(&self.server.switches)
    }

    /// The state of the authorization server.
    pub fn tokens(&self) -> MutexGuard<'_, AuthServer> {
        lock(&self.server.auth)
    }

    /// The service's clock.
    pub fn now(&self) -> DateTime<Utc> {
        Utc::now() + self.switches().clock_skew
    }

    /// A config for the tap, with the current refresh token.
    pub fn config(&self) -> Value {
        let auth = self.tokens();
        let mut config = json!({"client_id": auth.client_id});
        if let Some(secret) = &auth.client_secret {
            config["client_secret"] = json!(secret);
        }
        config["refresh_token"] = json!(auth.refresh_token);
        config["api_url"] = json!(self.api_url());
        config["auth_url"] = json!(self.auth_url());
        config["requests_per_second"] = json!(1000);
        config
    }

    /// Every request so far.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.server.calls).clone()
    }

    /// The requests to the API so far.
    pub fn api_calls(&self) -> Vec<Call> {
        let mut calls = self.calls();
        calls.retain(|c| !c.is_token);
        calls
    }

    /// Clears `calls`.
    pub fn forget_calls(&self) {
        lock(&self.server.calls).clear();
    }

    /// Adds a fault. The first one that matches a request and is not used up applies.
    pub fn fault(&self, fault: Fault) {
        lock(&self.server.faults).push(fault);
    }

    /// Removes every fault and starts a new day of the quota.
    pub fn heal(&self) {
        lock(&self.server.faults).clear();
        lock(&self.server.meters).day = None;
    }

    /// Sets the hook that is called before each API call.
    pub fn before_call(&self, hook: Hook) {
        *lock(&self.server.hook) = Some(hook);
    }

    /// Sets the hook that is called for each POST to the authorization server.
    pub fn at_token(&self, hook: TokenHook) {
        *lock(&self.server.token_hook) = Some(hook);
    }

    /// Sets the hook that may change any answer of either server.
    pub fn before_answer(&self, hook: AnswerHook) {
        *lock(&self.server.answer_hook) = Some(hook);
    }

    /// The number of API calls counted against today's quota.
    pub fn calls_today(&self) -> u32 {
        lock(&self.server.meters).day.map_or(0, |(_, n)| n)
    }

    /// Sets the number of API calls counted against today's quota.
    pub fn set_calls_today(&self, count: u32) {
        let today = self.now().date_naive();
        lock(&self.server.meters).day = Some((today, count));
    }

    /// Takes the rules that the client has broken so far.
    pub fn violations(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.server.violations))
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.server.address);
        for stream in lock(&self.server.streams).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let violations = self.violations();
        if !violations.is_empty() && !thread::panicking() {
            panic!("the client broke the service's rules: {violations:#?}");
        }
    }
}
