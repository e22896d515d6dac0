#!/usr/bin/env python3
"""Runs the commands of docs/meltano.md with the real Meltano against the fake account, whose refresh tokens rotate, and
compares the loaded rows with the account.

Needs cargo and Python; installs Meltano in a virtual environment, and works in a copy of the checkout.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
import account as fake
from account import KEYS, STREAMS
from common import ROOT, environment_with, free_port, holds, run

MELTANO = "meltano==4.4.1"
TAP = "tap-constant-contact"
# What the check writes for the placeholders of the quick start.
REPLACED = {"pip install meltano": f"pip install -q --disable-pip-version-check {MELTANO}",
           "your API key": "client-0", "your secret": "secret-0"}
DETAILS = "contact_activity_details"
# Columns that only the campaign route fills; the expected rows leave them out.
CAMPAIGN_ROUTE = {"email_address", "device_type", "url_id", "link_url", "bounce_code", "opt_out_reason"}
# A loader that forwards each STATE at once, as some targets do at each flush.
FORWARD = """#!{python}
import json, os, pathlib, sys
folder = pathlib.Path(os.environ["FORWARD_TO"])
for message in map(json.loads, sys.stdin):
    if message["type"] == "RECORD":
        with open(folder / f"{{message['stream']}}-{{os.getpid()}}.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(message["record"]) + "\\n")
    elif message["type"] == "STATE":
        print(json.dumps(message["value"]), flush=True)
"""
LOADER = """  - name: target-forward
    namespace: target_forward
    executable: target-forward
"""


def sh_blocks(section):
    """The commands of each sh block in a section of the page."""
    page = (ROOT / "docs/meltano.md").read_text(encoding="utf-8")
    text = re.search(rf"^## {section}\n(.*?)^## ", page, re.DOTALL | re.MULTILINE).group(1)
    return [block.strip().split("\n") for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)]


class Project:
    """A folder in which Meltano runs."""

    def __init__(self, folder, environ):
        self.folder, self.environ = folder, environ

    def run(self, command, code=0, **more):
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env={**self.environ, **more}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900,
        )
        if (done.returncode == 0) != (code == 0):
            raise SystemExit(f"{command!r} ended with {done.returncode}:\n{done.stdout[-6000:]}")
        return done.stdout

    def load(self, output, code=0, target="target-jsonl", flag="", **more):
        """Loads into files in the folder `output`, with a state of its own. Returns Meltano's output, and the new rows."""
        folder = self.folder / output
        folder.mkdir(exist_ok=True)
        before = set(folder.iterdir())
        more["TARGET_JSONL_DESTINATION_PATH"] = more["FORWARD_TO"] = output
        text = self.run(f"meltano run {flag} --state-id-suffix {output} {TAP} {target}", code, **more)
        return text, rows(file for file in folder.iterdir() if file not in before)

    def state(self, output):
        text = self.run(f"meltano state get dev:{TAP}-to-target-jsonl:{output} 2> /dev/null")
        return json.loads(text).get("singer_state", {})


def rows(files):
    """The rows of each stream, in the order of the files."""
    found = {stream: [] for stream in STREAMS}
    for file in sorted(files):
        with open(file, encoding="utf-8") as lines:
            found[file.name.rsplit("-", 1)[0]] += [json.loads(line) for line in lines]
    return found


def without_nulls(value):
    """A value without nulls, which the expected rows leave out."""
    if isinstance(value, dict):
        return {name: without_nulls(of) for name, of in value.items() if of is not None}
    return [without_nulls(of) for of in value] if isinstance(value, list) else value


class Account(fake.Account):
    """The fake account, with a comparison to what was loaded."""

    def rows(self):
        return {stream: self.by_key(stream, self.truth(stream)) for stream in STREAMS}

    def by_key(self, stream, found):
        """The last of the rows for each key."""
        left_out = CAMPAIGN_ROUTE if stream == "contact_activity_details" else set()
        return {
            tuple(row[name] for name in KEYS[stream]):
                {name: value for name, value in without_nulls(row).items() if name not in left_out}
            for row in found
        }

    def compare(self, what, *loads):
        """Checks that the loads, one after the other, add up to the account."""
        truth = self.rows()
        for stream in STREAMS:
            loaded = self.by_key(stream, [row for load in loads for row in load[stream]])
            wrong = [key for key in truth[stream].keys() | loaded.keys()
                     if truth[stream].get(key) != loaded.get(key)][:1]
            detail = [(key, loaded.get(key), truth[stream].get(key)) for key in wrong]
            holds(f"{what}: {stream}: {len(loaded)} rows as in the account", truth[stream] and not wrong, detail)


def taps(project):
    """The ids of the processes that run this project's tap."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(folder / "exe").startswith(str(project.folder)):
                found.append(folder.name)
        except OSError:
            pass
    return found


def expire_access_token(file):
    """Makes the next run renew the login. Returns the refresh token."""
    tokens = json.loads(file.read_text())
    tokens["renew_at"] = "2020-01-01T00:00:00Z"
    file.write_text(json.dumps(tokens))
    return tokens["refresh_token"]


def copy_checkout(to):
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True,
        capture_output=True, text=True,
    ).stdout
    for name in filter(None, files.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def environment(folder):
    """The environment of a user who has Meltano and a browser."""
    environment_with(folder / "venv")
    browser = folder / "browser"
    browser.write_text(f"#!{sys.executable}\nimport sys, urllib.request\nurllib.request.urlopen(sys.argv[1]).read()\n")
    browser.chmod(0o755)
    loader = folder / "venv/bin/target-forward"
    loader.write_text(FORWARD.format(python=sys.executable))
    loader.chmod(0o755)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MELTANO", "TAP_", "LOGLEVEL"))}
    return {
        **environ, "PATH": f"{folder / 'venv/bin'}:{environ['PATH']}", "NO_COLOR": "1", "BROWSER": str(browser),
        # Reuses the dependencies that the tests have built; `.ci/package.sh` builds the optimised wheel.
        "CARGO_TARGET_DIR": str(ROOT / "target"), "MATURIN_PEP517_ARGS": "--profile dev",
        "TAP_CONSTANT_CONTACT_REDIRECT_URI": f"http://localhost:{free_port()}/callback",
    }


def quick_start(project, account):
    commands = sh_blocks("The project in this checkout")[0]
    for given, written in REPLACED.items():
        assert any(given in command for command in commands), given
        commands = [command.replace(given, written) for command in commands]
    output = {}
    for command in commands:
        output[command.split(f" {TAP}")[0]] = project.run(command)
        holds(command, True)
    tokens = json.loads((project.folder / "tokens.json").read_text())
    holds("login: the tokens are in tokens.json", tokens["refresh_token"] != account.config["refresh_token"], tokens)
    holds("config test: the configuration is valid", "configuration is valid" in output["meltano config test"], output)
    listed = output["meltano select"].split("Selected properties:")[1]
    listed = [line.split("]")[1].strip().split(".")[0] for line in listed.splitlines() if re.match(r"\s+\[(sel|auto)", line)]
    holds("select --list: every stream is selected", set(listed) == set(STREAMS), output["meltano select"])
    holds("select --list: nothing is excluded", "[excluded" not in output["meltano select"], output["meltano select"])
    loaded = rows((project.folder / "output").iterdir())
    account.compare("quick start", loaded)
    lines = [line for line in output["meltano run"].splitlines() if f"] {TAP} " in line]
    told = [line for line in lines if re.search(rf"\[info +\] {TAP} contacts: \d+ records in", line)]
    metrics = [line for line in lines if "metric_name=record_count" in line]
    holds("logs: Meltano shows the tap's lines with their level, and metrics with their values",
          told and len(metrics) == len(STREAMS) and not any("logger_name" in line for line in lines), lines[:9])
    git = subprocess.run(["git", "check-ignore", ".env", "tokens.json", "tokens.json.lock", "output", ".meltano"],
                         cwd=ROOT, capture_output=True, text=True).stdout
    holds("git ignores what Meltano makes in the checkout", len(git.split()) == 5, git)


def later_runs(project, account):
    _, first = project.load("later")
    before = account.rows()
    assert account.tell("change") == "changed"
    after = account.rows()
    spent = expire_access_token(project.folder / "tokens.json")
    refreshes = json.loads(account.tell("tokens"))["refreshes"]
    _, second = project.load("later")
    for stream in ["email_campaigns", "contacts", "contact_activity_details"]:
        changed = {key for key, row in after[stream].items() if before[stream].get(key) != row}
        came = set(account.by_key(stream, second[stream]))
        # The service does not date a campaign's counts, so sent campaigns come again.
        is_right = changed <= came < set(after[stream]) if stream == "email_campaigns" else came == changed
        holds(f"second run: {stream}: {len(came)} of {len(after[stream])} rows, those that changed",
              changed and is_right, (len(came), len(changed)))
    account.compare("both runs", first, second)
    now = json.loads((project.folder / "tokens.json").read_text())["refresh_token"]
    tokens = json.loads(account.tell("tokens"))
    holds("second run: the token file has the next refresh token", now != spent)
    holds("second run: one refresh, and no token came twice", tokens == {"refreshes": refreshes + 1, "reuses": 0}, tokens)


def quota(project, account):
    text, first = project.load("quota", code=1, TAP_CONSTANT_CONTACT_MAX_REQUESTS="40")
    holds("quota: Meltano shows the failure as critical", re.search(rf"\[critical +\] {TAP} .*max_requests", text), text[-3000:])
    holds("quota: the state is kept", "currently_syncing" in project.state("quota"), project.state("quota"))
    _, second = project.load("quota")
    holds("quota: the next run does not start over",
          len(second["contact_activity_details"]) < len(account.rows()["contact_activity_details"]))
    account.compare("quota, both runs", first, second)


def terminated(project, account):
    expire_access_token(project.folder / "tokens.json")
    output = project.folder / "cut"
    output.mkdir()
    process = subprocess.Popen(
        ["meltano", "run", "--state-id-suffix", "cut", TAP, "target-jsonl"], cwd=project.folder,
        env={**project.environ, "TARGET_JSONL_DESTINATION_PATH": "cut", "TAP_CONSTANT_CONTACT_REQUESTS_PER_SECOND": "10"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    try:
        for line in process.stdout:
            if "plan: about" in line:
                break
        time.sleep(2)
        under_way = process.poll() is None and taps(project)
        holds("SIGTERM: the tap is under way", under_way)
        process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        process.communicate(timeout=60)
        took = time.monotonic() - begun
    finally:
        process.kill()
    holds("SIGTERM: Meltano ends within five seconds", took < 5, took)
    holds("SIGTERM: no process of the tap is left", not taps(project), taps(project))
    first = rows(output.iterdir())
    loaded = sum(map(len, first.values()))
    whole = sum(map(len, account.rows().values()))
    holds(f"SIGTERM: {loaded} of {whole} rows were loaded", 0 < loaded < whole)
    _, second = project.load("cut")
    account.compare("SIGTERM, both runs", first, second)
    tokens = json.loads(account.tell("tokens"))
    holds("SIGTERM: no token came twice", tokens["reuses"] == 0, tokens)


def merged_states(project, account):
    """Runs whose STATEs Meltano merges into the stored state, each after new activity."""
    file = project.folder / "meltano.yml"
    file.write_text(file.read_text().replace("  loaders:\n", f"  loaders:\n{LOADER}"))
    for flag in ["--full-refresh", "--state-strategy=merge"]:
        name, later = flag.strip("-"), "" if flag == "--full-refresh" else flag
        loads, was_cut_off = [], True
        for given, limit in [("", ""), (flag, ""), (later, ""), (flag, "40"), (flag, ""), (later, "40"), (later, ""), (later, "")]:
            before = account.rows()[DETAILS].keys()
            assert account.tell("change") == "changed"
            more = {"TAP_CONSTANT_CONTACT_MAX_REQUESTS": limit} if limit else {}
            _, loaded = project.load(name, 1 if limit else 0, "target-forward", given, **more)
            loads.append(loaded)
            new, came = account.rows()[DETAILS].keys() - before, account.by_key(DETAILS, loaded[DETAILS]).keys()
            # A run that finishes an interrupted read leaves newer rows to the next run.
            if not limit and not was_cut_off:
                holds(f"{flag}: run {len(loads)} brings {len(new)} new activities", new and new <= came)
            was_cut_off = bool(limit)
        account.compare(f"{flag}: {len(loads)} runs", *loads)


def own_project(project, checkout, account):
    """A project outside of the checkout, and the types of values that Meltano writes into the config."""
    project.folder.mkdir()
    file = project.folder / "meltano.yml"
    file.write_text("default_environment: dev\nenvironments:\n- name: dev\nsend_anonymous_usage_stats: false\n")
    for command in sh_blocks("A project of your own")[0]:
        project.run(command)
        holds(f"own project: {command}", True)
    text = file.read_text()
    address = "git+https://github.com/tap-constant-contact/tap-constant-contact.git"
    assert f"pip_url: {address}\n" in text, text
    file.write_text(text.replace(address, str(checkout)))
    project.run("meltano install")
    listed = project.run(f"meltano config list --all {TAP} 2> /dev/null")
    about = run(ROOT / "target/release" / TAP, "--about", "--format", "meltano", capture_output=True, text=True).stdout
    settings = json.loads(about)["settings"]
    missing = [s["name"] for s in settings if f"{s['label']}: {s['description']}" not in listed]
    holds(f"own project: Meltano lists the {len(settings)} settings", not missing, (missing, listed))
    shutil.copy(checkout / "tokens.json", project.folder)
    contact = next(iter(account.rows()["contacts"]))[0]
    for name, given in {
        "client_id": "client-0", "client_secret": "secret-0", "start_date": "30 days ago", "updated_days_back": "3",
        "contact_ids": json.dumps([contact]), "include_subresources": "notes", "report_date": "2026-01-31",
        "tracking_activity_types": '["em_opens", "em_clicks"]', "on_quota": "wait", "requests_per_second": "12.5",
    }.items():
        project.run(f"meltano config set {TAP} {name} '{given}'")
    shown = project.run("cat .env")
    holds("own project: the secret goes to .env", "secret-0" in shown and "secret-0" not in file.read_text(), shown)
    text = project.run(f"meltano invoke {TAP} --test")
    holds("own project: the tap accepts the values that Meltano writes", "may be read" in text, text)
    project.run(f"meltano config set {TAP} on_quota later", code=1)
    holds("own project: Meltano refuses a value that is not an option", True)
    project.run(f"meltano config set {TAP} page_size 1000")
    text = project.run(f"meltano invoke {TAP} --test", code=1)
    holds("own project: the tap names a wrong value", re.search(r"\[critical +\].*page_size is 1000", text), text)


def main():
    begun = time.monotonic()
    programs = fake.build()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="meltano-")).resolve()
    account = None
    try:
        environ = environment(folder)
        account = Account(programs, folder / "account", "--redirect-uri", environ["TAP_CONSTANT_CONTACT_REDIRECT_URI"])
        for name in ["api_url", "auth_url", "requests_per_second"]:
            environ[f"TAP_CONSTANT_CONTACT_{name.upper()}"] = str(account.config[name])
        # The paths on the page lead to a folder of this name.
        checkout = Project(folder / TAP, environ)
        copy_checkout(checkout.folder)
        quick_start(checkout, account)
        later_runs(checkout, account)
        quota(checkout, account)
        terminated(checkout, account)
        merged_states(checkout, account)
        own_project(Project(folder / "own", environ), checkout.folder, account)
        print(f"Meltano: everything holds ({time.monotonic() - begun:.0f} s)")
    finally:
        if account:
            account.process.kill()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
