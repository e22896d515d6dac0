#!/usr/bin/env python3
"""Logs in with a real browser: the fake account's consent page sends headless Chromium to the tap's own page, which must
say how it went, load nothing else, and leave tokens that a sync works with.

Needs cargo and Python; installs Debian's Chromium where there is none (`CHROMIUM` names another).
`.ci/browser.py FOLDER` also keeps a picture of each page there.
"""

import atexit
import html
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.parse

sys.dont_write_bytecode = True
from account import ROOT, Account, build

TAP = ROOT / "target/debug/tap-constant-contact"
PATIENCE = 60


def chromium():
    for name in filter(None, [os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome"]):
        if path := shutil.which(name):
            return path
    subprocess.run(["apt-get", "update", "-qq"], check=True)
    subprocess.run(["apt-get", "install", "-y", "-qq", "chromium"], check=True, stdout=subprocess.DEVNULL)
    return shutil.which("chromium")


def check(holds, what, *shown):
    print(("ok    " if holds else "FALSE ") + what)
    if not holds:
        print(*shown, sep="\n", file=sys.stderr)
        sys.exit(1)


def browse(url, folder, *arguments):
    """What Chromium prints of a page, and the addresses that it asked for."""
    log, profile = folder / "net.json", folder / "profile"
    shutil.rmtree(profile, ignore_errors=True)
    out = subprocess.run(
        [
            chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            # Nor does it leave this machine for it.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
            f"--user-data-dir={profile}", f"--log-net-log={log}", *arguments, url,
        ],
        check=True, capture_output=True, text=True, timeout=PATIENCE,
    ).stdout
    text = log.read_text()
    try:
        events = json.loads(text)
    except json.JSONDecodeError:
        # The last lines are missing when the browser ends in a hurry.
        events = json.loads(text.rstrip().rstrip(",") + "]}")
    kind = events["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    starts = [event["params"] for event in events["events"] if event["type"] == kind and "url" in event.get("params", {})]
    # Chromium has business of its own, which no page began.
    local = ("http://localhost:", "http://127.0.0.1:")
    asked = [start["url"] for start in starts if start["url"].startswith(local) or start["initiator"].startswith("http")]
    return out, asked


class Login:
    """A login under way: `url` is what it tells its user to open."""

    def __init__(self, config, *arguments):
        environment = {name: value for name, value in os.environ.items() if name not in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")}
        command = [TAP, "login", "--config", config, "--timeout", str(PATIENCE), *arguments]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen([str(part) for part in command], text=True, env=environment, **pipes)
        atexit.register(self.process.kill)
        self.said, self.url = "", ""
        for line in self.process.stderr:
            self.said += line
            if line.strip().startswith("http"):
                self.url = line.strip()
                break
        check(self.url, "login prints the address to open", self.said)

    def end(self):
        self.said += self.process.stderr.read()
        return self.process.wait(PATIENCE)


def text(page):
    """What a reader sees of a page."""
    body = re.sub(r"(?s)<(style|head).*?</\1>", " ", page)
    return html.unescape(re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", body))).strip()


def main(pictures):
    programs = build(release=False)
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        redirect = f"http://localhost:{free.getsockname()[1]}/callback"
        free.close()
        folder = pathlib.Path(folder)
        account = Account(programs, folder / "account", "--contacts", 20, "--redirect-uri", redirect)
        try:
            walk(account, folder, redirect, pictures)
        finally:
            check(account.stop(), "the tap kept to the service's rules")


def walk(account, folder, redirect, pictures):
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
    check("You are logged in" in text(page) and "close this window" in text(page), "the page says that it worked", page)
    check("<script" not in page and "http" not in page, "the page holds no script and no address", page)
    expected = [urllib.parse.urlsplit(address)._replace(query="").geturl() for address in asked]
    authorize = settings["auth_url"] + "/authorize"
    check(expected == [authorize, redirect], "the browser asked for the two pages and nothing else", *asked)
    check(login.end() == 0, "login exits 0", login.said)
    stored = json.loads(tokens.read_text())
    check(stored["access_token"] and stored["refresh_token"], "the tokens are stored", stored.keys())
    secrets = [stored["access_token"], stored["refresh_token"], settings["client_secret"]]
    check(not any(secret in login.said + page + "".join(asked) for secret in secrets), "no token was shown", login.said)

    # The access token that came along is not used: the refresh token is what lasts.
    tokens.write_text(json.dumps(stored | {"access_token": None}))
    sync = subprocess.run([TAP, "--config", config], capture_output=True, text=True, timeout=PATIENCE)
    contacts = sum(line.startswith('{"type":"RECORD","stream":"contacts"') for line in sync.stdout.splitlines())
    truth = len(account.truth("contacts"))
    check(sync.returncode == 0 and contacts == truth, f"a sync reads all {truth} contacts with them", sync.stderr)

    login = Login(config, "--yes")
    stray, _ = browse(f"{redirect}?code=forged&state=guessed", folder, "--dump-dom")
    check("another login" in text(stray), "an answer with another state is told to be another login's", stray)
    picture(login.url, "logged-in.png") if pictures else browse(login.url, folder, "--dump-dom")
    check(login.end() == 0, "and the login goes on to its end", login.said)

    print("The user denies it:")
    account.tell("deny")
    before = tokens.read_text()
    login = Login(config, "--yes")
    page, _ = browse(login.url, folder, "--dump-dom")
    check("did not work" in text(page) and "onsent was denied" in text(page), "the page says that and why it did not work", page)
    code = login.end()
    told = [line for line in login.said.splitlines() if line.startswith("CRITICAL ")]
    check(code == 3 and len(told) == 1 and "consent was denied" in told[0], "login exits 3 and says the same", login.said)
    check(tokens.read_text() == before, "the stored tokens stay")
    if pictures:
        login = Login(config, "--yes")
        picture(login.url, "denied.png")
        login.end()


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None)
