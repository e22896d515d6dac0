//! `login`: a person's consent, in a browser here or on another device, turned into stored tokens.

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

use crate::auth::server::{self, Endpoint, OAuth, Refusal, Step};
use crate::auth::store::{Store, Turn};
use crate::cli::Login;
use crate::client::Client;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::logger::say;
use crate::messages::Messages;
use crate::signals::{Ending, end_on_signals};
use callback::{Answer, listen, read_pasted};

const SCOPES: [&str; 3] = ["contact_data", "campaign_data", "offline_access"];

/// Gets a grant from a person and stores its tokens where a sync will find them.
///
/// # Errors
/// `Credentials` when the consent or its code is refused, `Failed` when nobody answers.
pub(crate) fn login(
    config: &Config,
    config_file: Option<PathBuf>,
    options: &Login,
    messages: &Arc<Messages>,
) -> Result<()> {
    let store = Store::new(config, config_file.clone());
    let Some(place) = store.path().map(|path| path.display().to_string()) else {
        return Err(Error::Usage("login needs --config FILE or the setting token_file, to store the tokens in".into()));
    };
    if options.device && config.client_secret.is_some() {
        return Err(Error::Usage(
            "login --device is for applications of the device type, which have no client_secret: remove it from the \
             config, or log in without --device"
                .into(),
        ));
    }
    // Consent is not asked for before it is known that its fruit can be kept.
    store.writable().map_err(|why| Error::Failed(format!("the tokens could not be stored: {why}")))?;
    if !options.yes && still_works(config, config_file, messages)? && !may_replace(&place)? {
        say("The stored login was kept.");
        return Ok(());
    }
    let login = Grant { endpoint: Endpoint::new(config), store, config, timeout: Duration::from_secs(options.timeout) };
    let outcome = if options.device { login.on_a_device() } else { login.in_a_browser() };
    outcome?;
    say(&format!(
        "Logged in; the tokens are in {place}. Next, see what this login may read:\n\n    \
         tap-constant-contact --config FILE --test\n"
    ));
    Ok(())
}

/// Whether the tokens at hand open the API.
fn still_works(config: &Config, config_file: Option<PathBuf>, messages: &Arc<Messages>) -> Result<bool> {
    // A login that is renewed to try it must not be lost to an impatient Ctrl-C.
    let tried = Client::new(config, config_file).map(Arc::new).and_then(|client| {
        let renewing = Arc::clone(&client);
        end_on_signals(Ending::new(messages, move || renewing.is_renewing()))?;
        client.privileges()
    });
    match tried {
        Ok(_) | Err(Error::Forbidden(_) | Error::Quota(_)) => Ok(true),
        // No tokens, a token file that cannot be read, or a grant that has ended: that is what a login is for.
        Err(Error::Usage(_) | Error::Credentials(_)) => Ok(false),
        Err(e) => Err(e.context("the stored login could not be tried (--yes replaces it untried)")),
    }
}

fn may_replace(place: &str) -> Result<bool> {
    if !io::stdin().is_terminal() {
        return Err(Error::Usage(format!("the login stored in {place} still works: pass --yes to replace it")));
    }
    say(&format!("The login stored in {place} still works. Replace it? [y/N] "));
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(|e| Error::Failed(format!("cannot read the answer: {e}")))?;
    Ok(["y", "yes"].contains(&line.trim().to_ascii_lowercase().as_str()))
}

struct Grant<'a> {
    endpoint: Endpoint,
    store: Store,
    config: &'a Config,
    timeout: Duration,
}

impl Grant<'_> {
    fn in_a_browser(&self) -> Result<()> {
        let bad = |e| Error::Usage(format!("redirect_uri: {e}"));
        let redirect = Url::parse(&self.config.redirect_uri).map_err(bad)?;
        let client =
            self.endpoint.oauth()?.set_redirect_uri(RedirectUrl::new(self.config.redirect_uri.clone()).map_err(bad)?);
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let (url, state) = client
            .authorize_url(CsrfToken::new_random)
            .add_scopes(SCOPES.map(|s| Scope::new(s.into())))
            .set_pkce_challenge(challenge)
            .url();
        let (to, answers) = mpsc::channel();
        match listen(&redirect, &to) {
            Ok(()) => say(&format!(
                "Log in to Constant Contact and allow the access:\n\n    {url}\n\nIn a browser on another machine: paste \
                 here the address that it ends on (it begins with {redirect}), and press Enter."
            )),
            Err(why) => say(&format!(
                "Log in to Constant Contact and allow the access:\n\n    {url}\n\nThen paste here the address that the \
                 browser ends on (it begins with {redirect}), and press Enter; {why}."
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
                        "stdin has ended, and the browser's answer cannot be listened for: run login where the address \
                         can be pasted, or use a redirect_uri of this machine with a free port"
                            .into(),
                    ));
                }
            };
            let get = |key: &str| {
                form_urlencoded::parse(answer.query.as_bytes()).find(|(k, _)| k == key).map(|(_, v)| v.into_owned())
            };
            if get("state").as_deref() != Some(state.secret()) {
                log::warn!("an answer that is not this login's was ignored; still waiting");
                show(
                    answer,
                    false,
                    "This answer belongs to another login. Start over from the address that the tap shows.",
                );
                continue;
            }
            let outcome = match (get("code"), get("error")) {
                (Some(code), None) => self.redeem(&client, code, verifier),
                (_, error) => {
                    let (error, why) = (error.unwrap_or_default(), get("error_description").unwrap_or_default());
                    Err(self.endpoint.refused(Step::Code, &Refusal::new(&error, &why, &[])))
                }
            };
            match &outcome {
                Ok(()) => show(answer, true, "tap-constant-contact has stored its tokens. You may close this window."),
                Err(e) => show(answer, false, &format!("{}. You may close this window.", sentence(&e.to_string()))),
            }
            return outcome;
        }
    }

    /// The code for tokens. The turn is kept until they are stored.
    fn redeem(&self, client: &OAuth, code: String, verifier: PkceCodeVerifier) -> Result<()> {
        let turn = self.store.turn()?;
        let code = client.exchange_code(AuthorizationCode::new(code)).set_pkce_verifier(verifier);
        let answer =
            self.endpoint.ask::<_, BasicErrorResponse>(Step::Code, &|| Ok(turn.clone()), |http| code.request(&http))?;
        self.keep(&turn, &answer)
    }

    fn on_a_device(&self) -> Result<()> {
        let client = self.endpoint.oauth()?;
        let turn = || self.store.turn();
        let start = client
            .exchange_device_code()
            .add_scopes(SCOPES.map(|s| Scope::new(s.into())))
            // The vendor's additions to the protocol.
            .add_extra_param("response_type", "code")
            .add_extra_param("state", CsrfToken::new_random().secret().to_owned());
        let device: StandardDeviceAuthorizationResponse =
            self.endpoint.ask::<_, BasicErrorResponse>(Step::Device, &turn, |http| start.request(&http))?;
        let whole = device.verification_uri_complete().map_or_else(String::new, |uri| {
            format!("\nor open this, which brings the code along:\n\n    {}\n", uri.secret())
        });
        say(&format!(
            "On any device, open\n\n    {}\n\nand enter the code {}\n{whole}\nWaiting until it is confirmed.",
            device.verification_uri().as_str(),
            device.user_code().secret(),
        ));
        let time = device.expires_in().min(self.timeout);
        // Between two calls the turn is free: a sync may run on the old login until the new one is there.
        let answer = self.endpoint.ask::<_, DeviceCodeErrorResponse>(Step::Device, &turn, |http| {
            client.exchange_device_access_token(&device).request(&http, thread::sleep, Some(time))
        })?;
        self.keep(&self.store.turn()?, &answer)
    }

    /// Stores what the consent brought, and says what it lacks.
    fn keep(&self, turn: &Turn, answer: &BasicTokenResponse) -> Result<()> {
        if answer.refresh_token().is_none() {
            return Err(Error::Credentials(
                "the grant came without a refresh token (scope offline_access), so it would end within a day; it was not \
                 stored. Allow offline_access in the application's settings, and log in again"
                    .into(),
            ));
        }
        self.store.save(turn, &server::tokens(answer, None)).map_err(|why| {
            Error::Failed(format!("the tokens could not be stored, and are lost: {why}; log in again"))
        })?;
        // Not told, they are the ones asked for.
        if let Some(granted) = answer.scopes() {
            for scope in SCOPES.iter().filter(|scope| !granted.iter().any(|g| g.as_str() == **scope)) {
                let lost = match *scope {
                    "contact_data" => "contact_lists, contacts and the contact reports",
                    "campaign_data" => "email_campaigns",
                    _ => "a refresh token that lasts",
                };
                log::warn!("the scope {scope} was not granted: this login may not read {lost}");
            }
        }
        Ok(())
    }

    /// What may have happened when no answer came. The consent page shows such errors, and tells nobody else.
    fn silence(&self) -> String {
        format!(
            "no answer came back within {} s (--timeout). If the browser shows an error: about the redirect URI, register \
             {} for the application, letter by letter the same; about the client, check client_id; about the user or \
             the access, the application may be private (since July 2026 new ones are), and only the user who created \
             it can log in; about the grant or response type, the application is of the wrong type",
            self.timeout.as_secs(),
            self.config.redirect_uri
        )
    }
}

fn show(answer: Answer, good: bool, text: &str) {
    if let Some(browser) = answer.browser {
        browser.show(good, text);
    }
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Opens the consent page where a browser has a screen to show it on; in a bare terminal it would be a text browser
/// that takes the terminal over.
fn open_browser(url: &str) {
    let screen =
        ["BROWSER", "DISPLAY", "WAYLAND_DISPLAY"].iter().any(|v| std::env::var_os(v).is_some_and(|v| !v.is_empty()));
    if (screen || cfg!(any(windows, target_os = "macos")))
        && let Err(e) = webbrowser::open(url)
    {
        log::debug!("no browser could be opened: {e}");
    }
}
