//! The authorization server: refresh tokens, authorization codes with PKCE, and device codes.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chrono::{DateTime, Duration, Utc};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::http::{Request, Response, decode_query, encode};
use super::{AUTH_PATH, Switches};

/// An authorization code.
#[derive(Clone, Debug)]
struct Code {
    redirect_uri: String,
    scopes: Vec<String>,
    challenge: Option<String>,
    at: DateTime<Utc>,
}

/// The state of the authorization server.
#[derive(Clone, Debug)]
pub struct AuthServer {
    pub client_id: String,
    /// `None` for a public client (PKCE or device).
    pub client_secret: Option<String>,
    pub redirect_uris: Vec<String>,
    /// The scopes of the grant.
    pub granted_scopes: Vec<String>,
    /// The privileges of the user who granted it.
    pub privileges: Vec<String>,
    /// The refresh token that works now.
    pub refresh_token: String,
    /// Whether the grant is still valid.
    pub grant_alive: bool,
    /// How many refreshes have succeeded.
    pub refreshes: u32,
    /// How many times the client sent a refresh token that it had already used.
    pub reuses: u32,
    /// How many more times to answer `authorization_pending`.
    pub device_pending: u32,
    /// How many times to answer `slow_down` after that.
    pub device_slow_down: u32,
    /// The user denies consent, in the browser or on the device.
    pub deny_consent: bool,
    /// The consent page redirects with this error and description.
    pub refuse_consent: Option<(String, String)>,
    /// Scopes that are not granted even if they are requested.
    pub withheld: Vec<String>,
    /// The polling interval of the device flow, in seconds.
    pub device_interval: u64,
    access: HashMap<String, DateTime<Utc>>,
    spent: HashMap<String, Instant>,
    codes: HashMap<String, Code>,
    devices: HashMap<String, (DateTime<Utc>, Vec<String>)>,
    last_use: Option<DateTime<Utc>>,
    issued: u32,
    /// Every secret that was issued or received.
    secrets: BTreeSet<String>,
}

impl Default for AuthServer {
    fn default() -> Self {
        let words = |w: &[&str]| w.iter().map(|w| (*w).to_owned()).collect();
        AuthServer {
            client_id: "client-0".into(),
            client_secret: Some("secret-0".into()),
            redirect_uris: words(&["http://localhost:8910/callback"]),
            granted_scopes: words(&["contact_data", "campaign_data", "offline_access"]),
            privileges: words(&[
                "account:read",
                "contacts:read",
                "contacts:write",
                "contacts:lists:read",
                "campaign:read",
                "campaign:create",
                "ui:campaign:metrics",
            ]),
            refresh_token: "refresh-0".into(),
            grant_alive: true,
            refreshes: 0,
            reuses: 0,
            device_pending: 0,
            device_slow_down: 0,
            deny_consent: false,
            refuse_consent: None,
            withheld: Vec::new(),
            device_interval: 0,
            access: HashMap::new(),
            spent: HashMap::new(),
            codes: HashMap::new(),
            devices: HashMap::new(),
            last_use: None,
            issued: 0,
            secrets: BTreeSet::new(),
        }
    }
}

fn error(status: u16, error: &str, text: &str) -> Response {
    Response::json(status, &json!({"error": error, "error_description": text}))
}

impl AuthServer {
    /// Invalidates every access token, as a changed client secret does: the next API call gets 401.
    pub fn revoke_access_tokens(&mut self) {
        self.access.clear();
    }

    /// Revokes the grant, and with it every refresh token and access token.
    pub fn revoke_grant(&mut self) {
        self.grant_alive = false;
        self.access.clear();
    }

    /// Every token, code, verifier and client secret so far.
    pub fn secrets(&self) -> BTreeSet<String> {
        let mut all = self.secrets.clone();
        all.extend(self.client_secret.clone());
        all.insert(self.refresh_token.clone());
        all
    }

    /// Whether this access token is valid at this time.
    pub(super) fn accepts(&self, token: &str, now: DateTime<Utc>) -> bool {
        self.access.get(token).is_some_and(|until| now < *until)
    }

    /// Whether the string is one of the server's secrets.
    pub(super) fn is_secret(&self, text: &str) -> bool {
        text == self.refresh_token || self.secrets.contains(text) || self.client_secret.as_deref() == Some(text)
    }

    /// Answers a request below `AUTH_PATH`.
    pub(super) fn serve(&mut self, req: &Request, switches: &Switches, now: DateTime<Utc>, base: &str) -> Response {
        match (req.method.as_str(), &req.path[AUTH_PATH.len()..]) {
            ("POST", "/token") => self.token(req, switches, now),
            ("GET", "/authorize") => self.authorize(req, now),
            ("POST", "/device/authorize") => self.device(req, now, base),
            _ => Response::html(404, "<html><body>Page Not Found</body></html>"),
        }
    }

    fn token(&mut self, req: &Request, switches: &Switches, now: DateTime<Utc>) -> Response {
        let mut form = decode_query(&req.body_text());
        form.extend(decode_query(&req.query));
        let get = |key: &str| form.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        self.secrets.extend(get("code_verifier").map(str::to_owned));
        if let Err(refusal) = self.check_client(req, get("client_id")) {
            return refusal;
        }
        match get("grant_type") {
            Some("refresh_token") => {
                let Some(token) = get("refresh_token") else {
                    return error(400, "invalid_request", "The token is missing.");
                };
                self.refresh(token, switches, now)
            }
            Some("authorization_code") => {
                self.redeem_code(get("code"), get("redirect_uri"), get("code_verifier"), switches, now)
            }
            Some("urn:ietf:params:oauth:grant-type:device_code") => {
                self.redeem_device(get("device_code"), switches, now)
            }
            Some(_) => error(400, "unsupported_grant_type", "The grant type is not supported."),
            None => error(400, "invalid_request", "The grant type is missing."),
        }
    }

    fn check_client(&self, req: &Request, id_in_body: Option<&str>) -> Result<(), Response> {
        let basic = req
            .header("authorization")
            .and_then(|h| h.strip_prefix("Basic "))
            .and_then(|b| STANDARD.decode(b.trim()).ok())
            .and_then(|b| String::from_utf8(b).ok());
        let good = match (&self.client_secret, basic) {
            (Some(secret), Some(pair)) => pair.split_once(':').is_some_and(|(id, s)| {
                (id == self.client_id || super::http::decode(id) == self.client_id)
                    && (s == secret || super::http::decode(s) == *secret)
            }),
            (None, None) => id_in_body == Some(self.client_id.as_str()),
            _ => false,
        };
        if good {
            return Ok(());
        }
        Err(error(401, "invalid_client", "Invalid value for 'client_id' or 'client_secret'."))
    }

    fn refresh(&mut self, token: &str, switches: &Switches, now: DateTime<Utc>) -> Response {
        let stale = || error(400, "invalid_grant", "The refresh token is invalid or expired.");
        if let Some(at) = self.spent.get(token) {
            if self.grant_alive && at.elapsed() < switches.refresh_grace {
                self.refreshes += 1;
                return self.answer(switches, now);
            }
            self.reuses += 1;
            if switches.reuse_kills_grant {
                self.grant_alive = false;
            }
            return stale();
        }
        let idle = self.last_use.is_some_and(|at| now - at > Duration::days(180));
        if !self.grant_alive || idle || token != self.refresh_token {
            return stale();
        }
        self.refreshes += 1;
        self.last_use = Some(now);
        if switches.rotating {
            self.rotate();
        }
        self.answer(switches, now)
    }

    fn rotate(&mut self) {
        self.issued += 1;
        let new = format!("refresh-{}", self.issued);
        self.secrets.insert(new.clone());
        let old = std::mem::replace(&mut self.refresh_token, new);
        self.secrets.insert(old.clone());
        self.spent.insert(old, Instant::now());
    }

    fn answer(&mut self, switches: &Switches, now: DateTime<Utc>) -> Response {
        self.issued += 1;
        let access = format!("access-{}-{}", self.issued, "x".repeat(40));
        let until = now + Duration::seconds(switches.expires_in);
        self.access.insert(access.clone(), until);
        self.secrets.insert(access.clone());
        let mut body = json!({
            "token_type": "Bearer",
            "expires_in": switches.expires_in,
            "access_token": access,
            "scope": self.granted_scopes.join(" "),
        });
        if self.granted_scopes.iter().any(|s| s == "offline_access") {
            body["refresh_token"] = json!(self.refresh_token);
        }
        Response::json(200, &body)
    }

    fn start_grant(&mut self, scopes: Vec<String>, switches: &Switches, now: DateTime<Utc>) -> Response {
        self.granted_scopes = scopes;
        self.granted_scopes.retain(|s| !self.withheld.contains(s));
        self.grant_alive = true;
        self.last_use = Some(now);
        self.rotate();
        self.answer(switches, now)
    }

    fn redeem_code(
        &mut self,
        code: Option<&str>,
        redirect_uri: Option<&str>,
        verifier: Option<&str>,
        switches: &Switches,
        now: DateTime<Utc>,
    ) -> Response {
        let known = code.and_then(|c| self.codes.remove(c));
        let Some(known) = known.filter(|c| now - c.at <= Duration::seconds(300)) else {
            return error(400, "invalid_grant", "The authorization code is invalid or has expired.");
        };
        if redirect_uri != Some(known.redirect_uri.as_str()) {
            return error(
                400,
                "invalid_grant",
                "The 'redirect_uri' does not match the redirection URI used in the authorization request.",
            );
        }
        let proven = match (&known.challenge, verifier) {
            (Some(challenge), Some(verifier)) => {
                URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes())) == *challenge
            }
            (None, None) => self.client_secret.is_some(),
            _ => false,
        };
        if !proven {
            return error(400, "invalid_grant", "PKCE verification failed.");
        }
        self.start_grant(known.scopes, switches, now)
    }

    fn redeem_device(&mut self, code: Option<&str>, switches: &Switches, now: DateTime<Utc>) -> Response {
        let Some((at, scopes)) = code.and_then(|c| self.devices.get(c)).cloned() else {
            return error(400, "invalid_grant", "The device code is invalid or has expired.");
        };
        if now - at > Duration::seconds(600) {
            return error(400, "expired_token", "The device code is expired.");
        }
        if self.device_pending > 0 {
            self.device_pending -= 1;
            let text = "The device authorization is pending. Please try again later.";
            return error(400, "authorization_pending", text);
        }
        if self.device_slow_down > 0 {
            self.device_slow_down -= 1;
            return error(400, "slow_down", "The client is polling too fast.");
        }
        self.devices.retain(|c, _| Some(c.as_str()) != code);
        if self.deny_consent {
            return error(400, "access_denied", "The user denied the request.");
        }
        self.start_grant(scopes, switches, now)
    }

    fn device(&mut self, req: &Request, now: DateTime<Utc>, base: &str) -> Response {
        let mut form = decode_query(&req.body_text());
        form.extend(decode_query(&req.query));
        let get = |key: &str| form.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        if get("client_id") != Some(self.client_id.as_str()) {
            return error(401, "invalid_client", "Invalid value for 'client_id' parameter.");
        }
        let scopes = get("scope").unwrap_or_default().split_whitespace();
        let scopes: Vec<String> = scopes.map(str::to_owned).collect();
        self.issued += 1;
        let code = format!("device-{}", self.issued);
        self.devices.insert(code.clone(), (now, scopes));
        self.secrets.insert(code.clone());
        Response::json(
            200,
            &json!({
                "device_code": code,
                "user_code": "ABCDEFGH",
                "verification_uri": format!("{base}/activate"),
                "verification_uri_complete": format!("{base}/activate?user_code=ABCDEFGH"),
                "expires_in": 600,
                "interval": self.device_interval,
            }),
        )
    }

    fn authorize(&mut self, req: &Request, now: DateTime<Utc>) -> Response {
        let query = decode_query(&req.query);
        let get = |key: &str| query.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        let bad = |what: &str| Response::html(400, &format!("<html><body>400 Bad Request: {what}</body></html>"));
        if get("client_id") != Some(self.client_id.as_str()) {
            return bad("invalid client_id");
        }
        let Some(redirect) = get("redirect_uri").filter(|r| self.redirect_uris.iter().any(|u| u == r)) else {
            return bad("the redirect_uri is not registered");
        };
        let Some(state) = get("state").filter(|s| !s.is_empty()) else {
            return bad("state is missing");
        };
        let back = |answer: String| {
            let glue = if redirect.contains('?') { '&' } else { '?' };
            Response::redirect(&format!("{redirect}{glue}{answer}&state={}", encode(state)))
        };
        let scope = get("scope").unwrap_or_default();
        let method = get("code_challenge_method");
        let challenge = get("code_challenge").map(str::to_owned);
        if get("response_type") != Some("code") {
            return back("error=unsupported_response_type".into());
        }
        if scope.is_empty() || scope.contains('+') {
            return back("error=invalid_scope".into());
        }
        if (challenge.is_some() && method != Some("S256")) || (challenge.is_none() && self.client_secret.is_none()) {
            return back("error=invalid_request".into());
        }
        if self.deny_consent {
            return back("error=access_denied".into());
        }
        if let Some((error, text)) = &self.refuse_consent {
            return back(format!("error={}&error_description={}", encode(error), encode(text)));
        }
        self.issued += 1;
        let code = format!("code-{}", self.issued);
        self.secrets.insert(code.clone());
        self.codes.insert(
            code.clone(),
            Code {
                redirect_uri: redirect.to_owned(),
                scopes: scope.split_whitespace().map(str::to_owned).collect(),
                challenge,
                at: now,
            },
        );
        back(format!("code={code}"))
    }
}
