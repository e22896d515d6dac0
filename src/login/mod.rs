//! `login`: asks a person for consent, in a browser here or on another device, and stores the tokens that come of it.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use oauth2::basic::{BasicErrorResponse, BasicTokenResponse};
use oauth2::{
    AuthorizationCode, CsrfToken, DeviceCodeErrorResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, Scope,
    StandardDeviceAuthorizationResponse, TokenResponse,
};
use url::{Url, form_urlencoded};

mod callback;
mod questions;

use crate::auth::Lock;
use crate::auth::server::{AuthServer, GrantType, ProtocolClient, Refusal};
use crate::auth::store::{TokenStore, Tokens};
use crate::cli::Login;
use crate::client::Client;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::logger::say;
use crate::messages::Messages;
use crate::shown::shown;
use crate::signals::{Ending, end_on_signals};
use crate::streams;
use callback::{Callback, listen, read_pasted};
pub(crate) use questions::complete;

const SCOPES: [&str; 3] = ["contact_data", "campaign_data", "offline_access"];

/// Gets consent from a person and stores the tokens where a sync will find them.
///
/// # Errors
/// `Usage` when the tokens would replace something else, `Credentials` when the consent or its code is refused, `Failed`
/// when nobody answers.
pub(crate) fn login(
    config: &Config,
    config_file: Option<PathBuf>,
    options: &Login,
    messages: &Arc<Messages>,
) -> Result<()> {
    let store = TokenStore::new(config, config_file.clone());
    let Some(path) = store.path().map(|path| path.display().to_string()) else {
        return Err(Error::Usage("login needs --config FILE or the setting token_file, to store the tokens in".into()));
    };
    if options.device && config.client_secret.is_some() {
        return Err(Error::Usage(
            "login --device is for applications of the device type, which have no client_secret: remove client_secret \
             from the config, or log in without --device"
                .into(),
        ));
    }
    // Checked first, so that nobody gives consent for tokens that cannot be stored.
    store.check_writable()?;
    if !options.yes && still_works(config, config_file, messages)? && !may_replace(&path)? {
        say("The stored login was kept.");
        return Ok(());
    }
    let timeout = Duration::from_secs(options.timeout);
    let flow = Flow { server: AuthServer::new(config)?, store, config, timeout };
    if options.device { flow.on_a_device() } else { flow.in_a_browser() }?;
    let test = config.login_command().replacen(" login", "", 1);
    say(&format!("Logged in. The tokens are in {path}. Next, see what this login may read:\n\n    {test} --test\n"));
    Ok(())
}

/// Whether the stored login can be renewed, and the API accepts it.
fn still_works(config: &Config, config_file: Option<PathBuf>, messages: &Arc<Messages>) -> Result<bool> {
    // Trying it may renew it, and an impatient Ctrl-C must not lose the new tokens.
    let tried = Client::new(config, config_file).map(Arc::new).and_then(|client| {
        let renewing = Arc::clone(&client);
        end_on_signals(Ending::new(messages, move || renewing.auth.is_renewing()))?;
        // An access token that is good for some hours says nothing about what comes then.
        if client.auth.prove()?.is_none() {
            return Ok(false);
        }
        client.privileges().map(|_| true)
    });
    match tried {
        Ok(works) => Ok(works),
        Err(Error::Forbidden(_) | Error::Quota(_)) => Ok(true),
        // No tokens, an empty token file, or a login that has ended: a new login is the cure.
        Err(Error::Usage(_) | Error::Credentials(_)) => Ok(false),
        Err(e) => Err(e.context("the stored login could not be tried (--yes replaces it untried)")),
    }
}

fn may_replace(path: &str) -> Result<bool> {
    if !io::stdin().is_terminal() {
        return Err(Error::Usage(format!("the login stored in {path} still works; pass --yes to replace it")));
    }
    say(&format!("The login stored in {path} still works. Replace it? [y/N] "));
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(|e| Error::Failed(format!("cannot read the answer: {e}")))?;
    Ok(["y", "yes"].contains(&line.trim().to_ascii_lowercase().as_str()))
}

/// One login, from the consent to the stored tokens.
struct Flow<'a> {
    server: AuthServer,
    store: TokenStore,
    config: &'a Config,
    timeout: Duration,
}

impl Flow<'_> {
    fn in_a_browser(&self) -> Result<()> {
        let bad = |e| Error::Usage(format!("redirect_uri: {e}"));
        let redirect = Url::parse(&self.config.redirect_uri).map_err(bad)?;
        let client =
            self.server.protocol()?.set_redirect_uri(RedirectUrl::new(self.config.redirect_uri.clone()).map_err(bad)?);
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let (url, state) = client
            .authorize_url(CsrfToken::new_random)
            .add_scopes(SCOPES.map(|s| Scope::new(s.into())))
            .set_pkce_challenge(challenge)
            .url();
        let (to, answers) = mpsc::channel();
        match listen(&redirect, &to) {
            Ok(()) => say(&format!(
                "Log in to Constant Contact and allow the access:\n\n    {url}\n\nIf your browser is on another machine, \
                 paste the address that it ends on here (it begins with {redirect}), and press Enter."
            )),
            Err(why) => say(&format!(
                "Log in to Constant Contact and allow the access:\n\n    {url}\n\nThen paste the address that the browser \
                 ends on here (it begins with {redirect}), and press Enter. It cannot be received by itself: {why}."
            )),
        }
        open_browser(url.as_str());
        read_pasted(to);
        let deadline = Instant::now() + self.timeout;
        loop {
            let answer = match answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(answer) => answer,
                Err(RecvTimeoutError::Timeout) => return Err(Error::Failed(self.silence())),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::Failed(
                        "stdin has ended, and the browser's answer cannot be received by itself: run login where you can \
                         paste the address, or use a redirect_uri of this machine with a free port"
                            .into(),
                    ));
                }
            };
            let get = |key: &str| {
                form_urlencoded::parse(answer.query.as_bytes()).find(|(k, _)| k == key).map(|(_, v)| v.into_owned())
            };
            if answer.browser.is_none() && get("state").is_none() {
                log::warn!(
                    "this is not the whole address that the browser ended on: it begins with {redirect} and has state= in \
                     it; paste it again"
                );
                continue;
            }
            if get("state").as_deref() != Some(state.secret()) {
                log::warn!("ignored an answer that belongs to another login; still waiting");
                show(
                    answer,
                    false,
                    "This answer belongs to another login. Start again from the address that the tap shows.",
                );
                continue;
            }
            let outcome = match (get("code"), get("error")) {
                (Some(code), None) => self.redeem(&client, code, verifier),
                (_, error) => {
                    let (error, why) = (error.unwrap_or_default(), get("error_description").unwrap_or_default());
                    Err(self.server.refused(GrantType::AuthorizationCode, &Refusal::new(&error, &why, &[])))
                }
            };
            match &outcome {
                Ok(()) => show(answer, true, "tap-constant-contact has stored its tokens. You may close this window."),
                Err(e) => show(answer, false, &format!("{}. You may close this window.", sentence(&e.to_string()))),
            }
            return outcome;
        }
    }

    /// Exchanges the code for tokens, and stores them under the same lock.
    fn redeem(&self, client: &ProtocolClient, code: String, verifier: PkceCodeVerifier) -> Result<()> {
        let lock = self.store.lock()?;
        let code = client.exchange_code(AuthorizationCode::new(code)).set_pkce_verifier(verifier);
        let answer =
            self.server.ask::<_, BasicErrorResponse>(GrantType::AuthorizationCode, &|| Ok(lock.clone()), |http| {
                code.request(&http)
            })?;
        self.save(lock.as_ref(), &answer)
    }

    fn on_a_device(&self) -> Result<()> {
        let client = self.server.protocol()?;
        let lock = || self.store.lock();
        let start = client
            .exchange_device_code()
            .add_scopes(SCOPES.map(|s| Scope::new(s.into())))
            // The vendor asks for these beyond the protocol.
            .add_extra_param("response_type", "code")
            .add_extra_param("state", CsrfToken::new_random().secret().to_owned());
        let device: StandardDeviceAuthorizationResponse =
            self.server.ask::<_, BasicErrorResponse>(GrantType::DeviceCode, &lock, |http| start.request(&http))?;
        let with_code = device.verification_uri_complete().map_or_else(String::new, |uri| {
            format!("\nor open this address, which includes the code:\n\n    {}\n", shown(uri.secret()))
        });
        say(&format!(
            "On any device, open\n\n    {}\n\nand enter the code {}\n{with_code}\nWaiting until it is confirmed.",
            shown(device.verification_uri().as_str()),
            shown(device.user_code().secret()),
        ));
        let time = device.expires_in().min(self.timeout);
        // Each call takes the lock for itself, so that a sync can use the old login until the new one is stored.
        let answer = self.server.ask::<_, DeviceCodeErrorResponse>(GrantType::DeviceCode, &lock, |http| {
            client.exchange_device_access_token(&device).request(&http, thread::sleep, Some(time))
        })?;
        self.save(self.store.lock()?.as_ref(), &answer)
    }

    /// Stores the tokens and warns of scopes that were not granted.
    fn save(&self, lock: Option<&Lock>, answer: &BasicTokenResponse) -> Result<()> {
        if answer.refresh_token().is_none() {
            return Err(Error::Credentials(
                "the server sent no refresh token (scope offline_access), so this login would end within a day; it was not \
                 stored. Allow offline_access in the application's settings, and log in again"
                    .into(),
            ));
        }
        self.store.save(lock, &Tokens::from_answer(answer, None)).map_err(|why| {
            Error::Failed(format!("the tokens could not be stored and are lost ({why}); log in again"))
        })?;
        // An answer without scopes means that all the requested ones were granted.
        if let Some(granted) = answer.scopes() {
            for scope in SCOPES.iter().filter(|scope| !granted.iter().any(|g| g.as_str() == **scope)) {
                let needing = streams::all().filter(|stream| stream.needs.scopes.contains(scope));
                let lost: Vec<&str> = needing.map(|stream| stream.name).collect();
                let lost = if lost.is_empty() { "anything once a day has passed".into() } else { lost.join(", ") };
                log::warn!("the scope {scope} was not granted, so this login may not read {lost}");
            }
        }
        Ok(())
    }

    /// What may have gone wrong when no answer came. The consent page shows such errors to the browser only.
    fn silence(&self) -> String {
        format!(
            "no answer came within {} s (--timeout). If the browser shows an error about the redirect URI, register \
             exactly {} for the application. If it is about the client, check client_id. If it is about the user or the \
             access, the application may be private (since July 2026 new ones are), and only the user who created it can \
             log in. If it is about the grant or response type, the application is of the wrong type",
            self.timeout.as_secs(),
            self.config.redirect_uri
        )
    }
}

fn show(answer: Callback, good: bool, text: &str) {
    if let Some(browser) = answer.browser {
        browser.show(good, text);
    }
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Opens the consent page if there is a screen. Without one, a text browser would take over the terminal.
fn open_browser(url: &str) {
    let screen =
        ["BROWSER", "DISPLAY", "WAYLAND_DISPLAY"].iter().any(|v| std::env::var_os(v).is_some_and(|v| !v.is_empty()));
    if (screen || cfg!(any(windows, target_os = "macos")))
        && let Err(e) = webbrowser::open(url)
    {
        log::debug!("no browser could be opened: {e}");
    }
}
