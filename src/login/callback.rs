//! Receives the answer of the consent page: on the redirect URI, where the browser brings it, or pasted into stdin.

use std::io::{self, BufRead, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use url::{Host, Url};

/// How long a connection may take to send its request. Browsers open some in advance and send nothing.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest request read.
const LONGEST_REQUEST: u64 = 32 << 10;

/// An answer of the consent page.
pub(super) struct Callback {
    /// The query of the address that the browser was sent to.
    pub(super) query: String,
    /// The browser that waits for a page; `None` for an answer that was pasted.
    pub(super) browser: Option<Browser>,
}

/// A browser that waits for its page.
pub(super) struct Browser(TcpStream);

impl Browser {
    /// Shows how it went, in the tap's own words. What the server said of an error is shown escaped and without secrets.
    pub(super) fn show(self, good: bool, text: &str) {
        let title = if good { "You are logged in" } else { "The login did not work" };
        page(self.0, if good { "200 OK" } else { "400 Bad Request" }, title, text);
    }
}

/// Listens on the redirect URI, if it is on this machine, and sends answers to `to`.
///
/// # Errors
/// Why it cannot listen, so that the answer must be pasted.
pub(super) fn listen(uri: &Url, to: &Sender<Callback>) -> Result<(), String> {
    if uri.scheme() != "http" {
        return Err(format!("{uri} is not an http address of this machine"));
    }
    let port = uri.port().unwrap_or(80);
    let addresses: Vec<SocketAddr> = match uri.host() {
        // A browser may take localhost for either.
        Some(Host::Domain(_)) => vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()],
        Some(Host::Ipv4(ip)) => vec![(ip, port).into()],
        Some(Host::Ipv6(ip)) => vec![(ip, port).into()],
        None => Vec::new(),
    };
    let mut listeners = Vec::new();
    let mut failure = None;
    for address in addresses {
        match TcpListener::bind(address) {
            Ok(listener) => listeners.push(listener),
            // The other program would get the browser's answer.
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                return Err(format!("port {port} is in use by another program"));
            }
            Err(e) => failure = Some(format!("cannot listen on {address}: {e}")),
        }
    }
    if listeners.is_empty() {
        return Err(failure.unwrap_or_else(|| format!("{uri} names no host")));
    }
    for listener in listeners {
        let (path, to) = (uri.path().to_owned(), to.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (path, to) = (path.clone(), to.clone());
                thread::spawn(move || serve(stream, &path, &to));
            }
        });
    }
    Ok(())
}

/// Reads pasted answers from stdin, one a line, until it ends.
pub(super) fn read_pasted(to: Sender<Callback>) {
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            let line = line.trim();
            let query = line.split_once('?').map_or(line, |(_, query)| query);
            let query = query.split('#').next().unwrap_or_default().to_owned();
            if !query.is_empty() && to.send(Callback { query, browser: None }).is_err() {
                break;
            }
        }
    });
}

fn serve(mut stream: TcpStream, path: &str, to: &Sender<Callback>) {
    let Some(target) = target(&mut stream) else { return };
    let (asked, query) = target.split_once('?').unwrap_or((&target, ""));
    if asked == path && !query.is_empty() {
        let _ = to.send(Callback { query: query.to_owned(), browser: Some(Browser(stream)) });
    } else {
        // Browsers ask for an icon, and other programs may come by mistake.
        page(stream, "404 Not Found", "Nothing here", "This address only takes the answer to a login.");
    }
}

/// Reads a GET request and returns its path and query.
fn target(stream: &mut TcpStream) -> Option<String> {
    stream.set_read_timeout(Some(REQUEST_TIMEOUT)).ok()?;
    let mut stream = stream.take(LONGEST_REQUEST);
    let (mut read, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 100];
        let mut request = httparse::Request::new(&mut headers);
        if request.parse(&read).ok()?.is_complete() {
            return request.path.filter(|_| request.method == Some("GET")).map(str::to_owned);
        }
        match stream.read(&mut chunk).ok()? {
            0 => return None,
            n => read.extend_from_slice(&chunk[..n]),
        }
    }
}

/// Makes the page readable on a screen of any size.
const STYLE: &str =
    "body { font: 1.1rem/1.5 system-ui, sans-serif; max-width: 36rem; margin: 15vh auto; padding: 0 1.5rem }";

/// Sends a page that runs no script, loads nothing, not even an icon, and that no cache keeps.
fn page(mut stream: TcpStream, status: &str, title: &str, text: &str) {
    let body = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><meta name=\"color-scheme\" content=\"light dark\">\
         <meta name=\"viewport\" content=\"width=device-width\"><link rel=\"icon\" href=\"data:,\"><title>{title}</title>\
         <style>{STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n<p>{}</p>\n</body>\n</html>\n",
        text.replace('&', "&amp;").replace('<', "&lt;")
    );
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\
         Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nX-Content-Type-Options: nosniff\r\n\
         Content-Security-Policy: default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'\r\n\r\n",
        body.len()
    );
    // A browser that was closed needs no page.
    let _ = stream.write_all((head + &body).as_bytes()).and_then(|()| stream.shutdown(Shutdown::Write));
    // The process may end after this, which would discard what has not been sent yet.
    let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
    let _ = stream.read(&mut [0; 1024]);
}
