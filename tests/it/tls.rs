//! TLS and proxies: which certificates the tap trusts, and which calls go through a proxy.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fake::account::Size;
use fake::{Account, Fake, Switches};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::tap::{Ran, command, file, only};

/// A host that does not exist, so that only a proxy can reach it.
const HOST: &str = "api.example.test";

/// A private certificate authority, and a server configuration with a certificate that it signed.
struct Authority {
    pem: String,
    server: Arc<ServerConfig>,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = ["localhost", "127.0.0.1", HOST].map(str::to_owned);
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .unwrap();
        Authority { pem: authority.pem(), server: Arc::new(server) }
    }
}

fn serve(serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Reads one HTTP message: its head, and a body of its `Content-Length`.
fn message(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let (mut read, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or("0", str::trim);
            if read.len() >= end + 4 + length.parse::<usize>().unwrap() {
                return Ok(read);
            }
        }
        match from.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => read.extend_from_slice(&chunk[..n]),
        }
    }
}

/// Puts TLS in front of the fake account.
fn with_tls(fake: &Fake, authority: &Authority) -> SocketAddr {
    with_slow_tls(fake, authority, Duration::ZERO)
}

/// The same, where opening a connection takes a while.
fn with_slow_tls(fake: &Fake, authority: &Authority, opening: Duration) -> SocketAddr {
    let config = Arc::clone(&authority.server);
    let behind = fake.api_url().trim_start_matches("http://").trim_end_matches("/v3").to_owned();
    serve(move |stream| {
        thread::sleep(opening);
        let mut client = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream);
        let mut server = TcpStream::connect(&behind)?;
        loop {
            let request = message(&mut client)?;
            server.write_all(&request)?;
            client.write_all(&message(&mut server)?)?;
            client.flush()?;
        }
    })
}

/// What went through a proxy.
#[derive(Default)]
struct Seen {
    heads: Vec<String>,
    bytes: Vec<u8>,
}

/// A proxy that connects to one server, whatever host is requested.
fn proxy(to: SocketAddr) -> (String, Arc<Mutex<Seen>>) {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let noted = Arc::clone(&seen);
    let address = serve(move |mut client| {
        let head = message(&mut client)?;
        noted.lock().unwrap().heads.push(String::from_utf8_lossy(&head).into_owned());
        let mut server = TcpStream::connect(to)?;
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
        let (mut back, mut answers) = (client.try_clone()?, server.try_clone()?);
        thread::spawn(move || io::copy(&mut answers, &mut back).and_then(|_| back.shutdown(Shutdown::Both)));
        let mut chunk = [0; 4096];
        loop {
            match client.read(&mut chunk)? {
                0 => return server.shutdown(Shutdown::Write),
                n => {
                    noted.lock().unwrap().bytes.extend_from_slice(&chunk[..n]);
                    server.write_all(&chunk[..n])?;
                }
            }
        }
    });
    (format!("http://{address}"), seen)
}

fn fake() -> Fake {
    Fake::start(Account::generate(3, Size { contacts: 3, lists: 2, campaigns: 1 }))
}

/// A sync of the lists, with both servers at `base`.
fn run(fake: &Fake, base: &str, more: &Value, environment: &[(&str, &str)]) -> Ran {
    run_streams(fake, base, more, environment, &["contact_lists"])
}

fn run_streams(fake: &Fake, base: &str, more: &Value, environment: &[(&str, &str)], streams: &[&str]) -> Ran {
    let mut config = fake.config();
    config["api_url"] = json!(format!("{base}/v3"));
    config["auth_url"] = json!(format!("{base}/oauth2/default/v1"));
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let (config, catalog) = (file(&config), file(&only(streams)));
    let mut command = command();
    for name in ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command.env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR").envs(environment.iter().copied());
    Ran::of(&command.arg("--config").arg(config.path()).arg("--catalog").arg(catalog.path()).output().unwrap())
}

fn critical(ran: &Ran) -> &str {
    ran.stderr.lines().find_map(|line| line.strip_prefix("CRITICAL ")).unwrap_or_else(|| panic!("{}", ran.stderr))
}

fn pem(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_private_authority_is_trusted_when_ssl_cert_file_names_it() {
    let (fake, authority, folder) = (fake(), Authority::new(), tempfile::tempdir().unwrap());
    let address = with_tls(&fake, &authority);
    let known = pem(folder.path(), "known.pem", &authority.pem);
    for host in ["localhost", "127.0.0.1"] {
        let base = format!("https://{host}:{}", address.port());
        let ran = run(&fake, &base, &json!({}), &[("SSL_CERT_FILE", &known)]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert_eq!(ran.records("contact_lists").len(), fake.account().truth("contact_lists").len());
    }
}

#[test]
fn a_call_that_opens_a_connection_keeps_the_pace() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let known = pem(folder.path(), "known.pem", &authority.pem);
    let measure = || {
        let latency = Duration::from_millis(400);
        let fake = Fake::start_with(
            Account::generate(3, Size { contacts: 12, lists: 2, campaigns: 1 }),
            Switches { latency, max_pace: Some(4), ..Switches::default() },
        );
        let address = with_slow_tls(&fake, &authority, Duration::from_millis(300));
        let more = json!({"requests_per_second": 4, "activity_route": "contacts"});
        let base = format!("https://localhost:{}", address.port());
        let ran = run_streams(&fake, &base, &more, &[("SSL_CERT_FILE", &known)], &["contact_activity_details"]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(fake.api_calls().len() > 12);
        fake.violations()
    };
    // Other tests may keep a call from being sent or received in time: that is measured again.
    let measured: Vec<_> = (0..3).map(|_| measure()).take_while(|violations| !violations.is_empty()).collect();
    assert!(measured.len() < 3, "{measured:?}");
}

#[test]
fn an_unknown_certificate_ends_the_run_at_once_and_uses_no_token() {
    let (fake, authority, folder) = (fake(), Authority::new(), tempfile::tempdir().unwrap());
    let address = with_tls(&fake, &authority);
    let base = format!("https://localhost:{}", address.port());
    let other = pem(folder.path(), "other.pem", &Authority::new().pem);
    let empty = pem(folder.path(), "empty.pem", "");
    for (what, more, environment) in [
        ("the system's authorities", json!({}), vec![]),
        ("another authority", json!({}), vec![("SSL_CERT_FILE", other.as_str())]),
        ("no authority", json!({}), vec![("SSL_CERT_FILE", empty.as_str())]),
        // The same for the certificate of the API.
        ("the API's", json!({"access_token": "access-0"}), vec![]),
    ] {
        let begun = Instant::now();
        let ran = run(&fake, &base, &more, &environment);
        assert_eq!(ran.code, Some(1), "{what}: {}", ran.stderr);
        let line = critical(&ran);
        assert!(line.contains("certificate of https://localhost") && line.contains("SSL_CERT_FILE"), "{what}: {line}");
        assert!(begun.elapsed() < Duration::from_secs(4), "{what}: tried again");
    }
    assert!(fake.calls().is_empty());
}

#[test]
fn a_certificate_of_another_host_is_refused() {
    let (fake, authority, folder) = (fake(), Authority::new(), tempfile::tempdir().unwrap());
    let (proxy, _) = proxy(with_tls(&fake, &authority));
    let known = pem(folder.path(), "known.pem", &authority.pem);
    let environment = [("SSL_CERT_FILE", known.as_str()), ("HTTPS_PROXY", &proxy)];
    let ran = run(&fake, "https://other.example.test", &json!({}), &environment);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(critical(&ran).contains("certificate of https://other.example.test"), "{}", ran.stderr);
    assert!(fake.calls().is_empty());
}

#[test]
fn a_proxy_sees_the_host_and_no_token() {
    let (fake, authority, folder) = (fake(), Authority::new(), tempfile::tempdir().unwrap());
    let known = pem(folder.path(), "known.pem", &authority.pem);
    let (url, seen) = proxy(with_tls(&fake, &authority));
    let base = format!("https://{HOST}");
    for name in ["HTTPS_PROXY", "https_proxy"] {
        let ran = run(&fake, &base, &json!({}), &[("SSL_CERT_FILE", &known), (name, &url)]);
        assert_eq!(ran.code, Some(0), "{name}: {}", ran.stderr);
        let mut seen = seen.lock().unwrap();
        assert!(!seen.heads.is_empty());
        assert!(seen.heads.iter().all(|head| head.starts_with(&format!("CONNECT {HOST}:443 "))), "{:?}", seen.heads);
        let shown = seen.heads.concat() + &String::from_utf8_lossy(&seen.bytes);
        assert!(!fake.tokens().secrets().iter().any(|secret| shown.contains(secret)), "{shown}");
        seen.heads.clear();
    }
    // Without the proxy the host is unknown.
    let environment = [("SSL_CERT_FILE", known.as_str()), ("HTTPS_PROXY", &url), ("NO_PROXY", HOST)];
    let ran = run(&fake, &base, &json!({"max_retries": 0}), &environment);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(seen.lock().unwrap().heads.is_empty());
}

#[test]
fn calls_to_this_machine_never_go_through_a_proxy() {
    let (fake, authority, folder) = (fake(), Authority::new(), tempfile::tempdir().unwrap());
    let address = with_tls(&fake, &authority);
    let known = pem(folder.path(), "known.pem", &authority.pem);
    let (url, seen) = proxy(address);
    let plain = fake.api_url().trim_end_matches("/v3").to_owned();
    for base in [plain, format!("https://localhost:{}", address.port())] {
        let names = ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"].map(|name| (name, url.as_str()));
        let ran = run(&fake, &base, &json!({}), &[&names[..], &[("SSL_CERT_FILE", known.as_str())]].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    }
    assert!(seen.lock().unwrap().heads.is_empty());
}

#[test]
fn a_proxy_that_refuses_is_named_without_its_password() {
    let fake = fake();
    let address = serve(|mut client| {
        message(&mut client)?;
        client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
    });
    let url = format!("http://user:pass-word@{address}");
    let base = format!("https://{HOST}");
    let ran = run(&fake, &base, &json!({"max_retries": 0}), &[("HTTPS_PROXY", &url), ("LOGLEVEL", "DEBUG")]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(critical(&ran).contains("407"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("pass-word"), "{}", ran.stderr);
}
