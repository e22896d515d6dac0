#!/usr/bin/env python3
"""Logs in with a real browser. The consent page of the fake account redirects headless Chromium to the tap's own page,
which must say whether the login worked and load nothing else. A sync must work with the stored tokens.

Needs cargo and Python; installs Debian's Chromium if there is none (`CHROMIUM` names another).
`.ci/browser.py FOLDER` also saves a picture of each page there.
"""

import atexit
import html
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse

sys.dont_write_bytecode = True
from account import Account, build
from common import ROOT, free_port, holds, run

TAP = ROOT / "target/debug/tap-constant-contact"
TIMEOUT = 60


def chromium():
    for name in filter(None, [os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome"]):
        if path := shutil.which(name):
            return path
    run("apt-get", "update", "-qq")
    run("apt-get", "install", "-y", "-qq", "chromium", stdout=subprocess.DEVNULL)
    return shutil.which("chromium")


def browse(url, folder, *arguments):
    """Opens a page. Returns what Chromium prints, and the addresses that the page requested."""
    log, profile = folder / "net.json", folder / "profile"
    shutil.rmtree(profile, ignore_errors=True)
    out = subprocess.run(
        [
            chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            # No request leaves this machine.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
            f"--user-data-dir={profile}", f"--log-net-log={log}", *arguments, url,
        ],
        check=True, capture_output=True, text=True, timeout=TIMEOUT,
    ).stdout
    text = log.read_text()
    try:
        events = json.loads(text)
    except json.JSONDecodeError:
        # A browser that ends early leaves out the last lines.
        events = json.loads(text.rstrip().rstrip(",") + "]}")
    kind = events["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    starts = [event["params"] for event in events["events"] if event["type"] == kind and "url" in event.get("params", {})]
    # Leaves out Chromium's own requests, which no page started.
    local = ("http://localhost:", "http://127.0.0.1:")
    asked = [start["url"] for start in starts if start["url"].startswith(local) or start["initiator"].startswith("http")]
    return out, asked


class Login:
    """A running login; `url` is the address that it asks the user to open."""

    def __init__(self, config, *arguments):
        environment = {name: value for name, value in os.environ.items() if name not in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")}
        command = [TAP, "login", "--config", config, "--timeout", str(TIMEOUT), *arguments]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen([str(part) for part in command], text=True, env=environment, **pipes)
        atexit.register(self.process.kill)
        self.said, self.url = "", ""
        for line in self.process.stderr:
            self.said += line
            if line.strip().startswith("http"):
                self.url = line.strip()
                break
        holds("login prints the address to open", self.url, self.said)

    def end(self):
        self.said += self.process.stderr.read()
        return self.process.wait(TIMEOUT)


def text(page):
    """The visible text of a page."""
    body = re.sub(r"(?s)<(style|head).*?</\1>", " ", page)
    return html.unescape(re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", body))).strip()


def main(pictures):
    programs = build(release=False)
    with tempfile.TemporaryDirectory() as folder:
        redirect = f"http://localhost:{free_port()}/callback"
        folder = pathlib.Path(folder)
        account = Account(programs, folder / "account", "--contacts", 20, "--redirect-uri", redirect)
        try:
            check_logins(account, folder, redirect, pictures)
        finally:
            holds("the tap kept to the service's rules", account.stop())


def check_logins(account, folder, redirect, pictures):
    def picture(url, name):
        if pictures:
            browse(url, folder, f"--screenshot={pictures / name}", "--window-size=900,500", "--hide-scrollbars")

    config, tokens = folder / "config.json", folder / "tokens.json"
    settings = dict(account.config)
    del settings["refresh_token"]
    config.write_text(json.dumps(settings | {"redirect_uri": redirect, "token_file": str(tokens)}))

    print("The user allows it:")
    login = Login(config)
    page, asked = browse(login.url, folder, "--dump-dom")
    holds("the page says that it worked", "You are logged in" in text(page) and "close this window" in text(page), page)
    holds("the page holds no script and no address", "<script" not in page and "http" not in page, page)
    expected = [urllib.parse.urlsplit(address)._replace(query="").geturl() for address in asked]
    authorize = settings["auth_url"] + "/authorize"
    holds("the browser asked for the two pages and nothing else", expected == [authorize, redirect], *asked)
    holds("login exits 0", login.end() == 0, login.said)
    stored = json.loads(tokens.read_text())
    holds("the tokens are stored", stored["access_token"] and stored["refresh_token"], stored.keys())
    secrets = [stored["access_token"], stored["refresh_token"], settings["client_secret"]]
    holds("no token was shown", not any(secret in login.said + page + "".join(asked) for secret in secrets), login.said)

    # Without the access token of the login, the sync has to use the refresh token.
    tokens.write_text(json.dumps(stored | {"access_token": None}))
    sync = subprocess.run([TAP, "--config", config], capture_output=True, text=True, timeout=TIMEOUT)
    contacts = sum(line.startswith('{"type":"RECORD","stream":"contacts"') for line in sync.stdout.splitlines())
    truth = len(account.truth("contacts"))
    holds(f"a sync reads all {truth} contacts with them", sync.returncode == 0 and contacts == truth, sync.stderr)

    login = Login(config, "--yes")
    stray, _ = browse(f"{redirect}?code=forged&state=guessed", folder, "--dump-dom")
    holds("the page says that an answer with another state belongs to another login", "another login" in text(stray), stray)
    picture(login.url, "logged-in.png") if pictures else browse(login.url, folder, "--dump-dom")
    holds("the login continues and succeeds", login.end() == 0, login.said)

    print("The user denies it:")
    account.tell("deny")
    before = tokens.read_text()
    login = Login(config, "--yes")
    page, _ = browse(login.url, folder, "--dump-dom")
    holds("the page says that it did not work, and why", "did not work" in text(page) and "onsent was denied" in text(page), page)
    code = login.end()
    told = [line for line in login.said.splitlines() if line.startswith("CRITICAL ")]
    holds("login exits 3 and says the same", code == 3 and len(told) == 1 and "consent was denied" in told[0], login.said)
    holds("the stored tokens stay", tokens.read_text() == before)
    if pictures:
        login = Login(config, "--yes")
        picture(login.url, "denied.png")
        login.end()


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None)
