#!/usr/bin/env python3
"""Runs what docs/schedulers.md shows: sync.sh, ended by a signal and for two accounts, systemd's units, GitHub's commands,
Airflow and Dagster; the schedulers with each exit code that they treat differently.

Needs cargo and Python; installs the rest, in virtual environments and from Debian's packages. `.ci/schedulers.py` runs all,
`.ci/schedulers.py NAME...` only those, by the headings of the page.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True
from account import KEYS, STREAMS, Account, build
from common import ROOT, environment_with, holds, run, scratch

VERSIONS = {
    "target": "target-jsonl==0.1.4 setuptools==75.8.0",
    "Airflow": "apache-airflow==3.3.2",
    "Dagster": "dagster==1.13.28",
}
HOME = "/home/me/constant-contact"


def section(name):
    page = (ROOT / "docs/schedulers.md").read_text(encoding="utf-8")
    return re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", page, re.M | re.S)[1]


def block(name, language, has=""):
    (found,) = [b for b in re.findall(rf"^```{language}\n(.*?)^```", section(name), re.M | re.S) if has in b]
    return found


def install(folder, name):
    return environment_with(folder / name, *VERSIONS[name].split())


class Job:
    """A folder with sync.sh, its configs, and a fake account."""

    def __init__(self, programs, loader, folder):
        self.folder = folder
        folder.mkdir(parents=True)
        self.account = Account(programs, folder / "account")
        self.write({})
        (folder / "out").mkdir()
        (folder / "target.json").write_text(json.dumps({"destination_path": "out"}))
        script = (ROOT / "docs/sync.sh").read_text()
        for name, path in (("tap", programs / "tap-constant-contact"), ("target", loader / "target-jsonl")):
            script, replaced = re.subn(rf"^{name}=/.*$", f"{name}={path}", script, flags=re.M)
            assert replaced == 1, name
        (folder / "sync.sh").write_text(script)
        (folder / "sync.sh").chmod(0o755)

    def write(self, settings):
        config = {**self.account.config, "token_file": str(self.folder / "tokens.json"), **settings}
        (self.folder / "config.json").write_text(json.dumps(config))

    def start_over(self):
        (self.folder / "state.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder / "out")
        (self.folder / "out").mkdir()

    def is_loaded(self):
        """Whether the loaded files have the same keys as the account."""
        for stream in STREAMS:
            key = lambda row: tuple(row[name] for name in KEYS[stream])
            loaded = {key(json.loads(line)) for file in (self.folder / "out").glob(f"{stream}-*") for line in open(file, encoding="utf-8")}
            if loaded != {key(row) for row in self.account.truth(stream)}:
                return False
        return True

    def verdicts(self, name, schedule):
        """What the scheduler makes of each exit code. `schedule` runs it and returns its verdict."""
        self.start_over()
        self.write({"max_requests": 60})
        verdicts = {4: schedule()}
        holds(f"{name}: exit 4: {verdicts[4]}, and part of the rows", not self.is_loaded())
        self.write({})
        tokens = json.loads((self.folder / "tokens.json").read_text())
        (self.folder / "tokens.json").write_text(json.dumps({**tokens, "refresh_token": "dead", "access_token": None}))
        verdicts[3] = schedule()
        (self.folder / "tokens.json").write_text(json.dumps(tokens))
        verdicts[0] = schedule()
        holds(f"{name}: exit 0: {verdicts[0]}, and all rows", self.is_loaded())
        return verdicts


def sync(jobs, folder):
    """The script, ended by a signal."""
    job = jobs[0]
    job.write({"requests_per_second": 10})
    script = subprocess.Popen(["env", "-i", "PATH=/usr/bin:/bin", job.folder / "sync.sh"], stderr=subprocess.PIPE, text=True)
    while "contacts: reading" not in ((job.folder / "tap.log").read_text() if (job.folder / "tap.log").exists() else ""):
        assert script.poll() is None, script.communicate()
        time.sleep(0.1)
    time.sleep(1)
    script.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    log = script.communicate(timeout=60)[1]
    took = time.monotonic() - begun
    holds(f"sync.sh: SIGTERM ends it within ten seconds ({took:.1f})", took < 10 and script.returncode == 143, (script.returncode, log))
    holds("sync.sh: SIGTERM: the tap has written its last state", "stopped by SIGTERM" in (job.folder / "tap.log").read_text())
    holds("sync.sh: SIGTERM: the target has stored it", "bookmarks" in json.loads((job.folder / "state.json").read_text()) and not job.is_loaded())
    job.write({})
    run(job.folder / "sync.sh")
    holds("sync.sh: the next run loads the rest", job.is_loaded())


def systemd(jobs, folder):
    if not shutil.which("systemd-analyze"):
        run("apt-get", "install", "-y", "-qq", "systemd", stdout=subprocess.DEVNULL)
    units = re.findall(r"`/etc/systemd/system/([\w.-]+)`", section("systemd"))
    for unit, text in zip(units, re.findall(r"^```ini\n(.*?)^```", section("systemd"), re.M | re.S), strict=True):
        text = text.replace(HOME, str(jobs[0].folder)).replace("User=me", "User=root")
        (folder / unit).write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", *(folder / unit for unit in units)], capture_output=True, text=True)
    holds("systemd: systemd-analyze finds nothing wrong with the units", done.returncode == 0 and not done.stderr, done.stderr)


def airflow(jobs, folder):
    job, binaries = jobs[0], install(folder, "Airflow")
    dags = folder / "dags"
    dags.mkdir()
    text = block("Airflow", "python").replace(HOME, str(job.folder)).replace("minutes=30", "seconds=1")
    (dags / "constant_contact.py").write_text(text.replace("with DAG(", "with (dag := DAG(", 1).replace("max_active_runs=1):", "max_active_runs=1)):", 1) + (
        "\nif __name__ == '__main__':\n"
        "    run = dag.test()\n"
        "    print('verdict', [str(task.state) for task in run.get_task_instances()])\n"
    ))
    environment = {
        **os.environ, "AIRFLOW_HOME": str(folder / "airflow"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags), "PATH": f"{binaries}:{os.environ['PATH']}",
    }
    run(binaries / "airflow", "db", "migrate", env=environment, capture_output=True)

    def schedule():
        done = subprocess.run([binaries / "python", dags / "constant_contact.py"], env=environment, capture_output=True, text=True)
        found = re.search(r"verdict \['(.*)'\]", done.stdout)
        assert found, done.stdout[-3000:] + done.stderr[-3000:]
        return found[1]

    verdicts = job.verdicts("Airflow", schedule)
    holds("Airflow: it skips on 4 and does not succeed on 3", verdicts[4] == "skipped" and verdicts[3] in ("failed", "up_for_retry") and verdicts[0] == "success", verdicts)


def dagster(jobs, folder):
    job, binaries = jobs[0], install(folder, "Dagster")
    file = folder / "assets.py"
    file.write_text(block("Dagster", "python").replace(HOME, str(job.folder)).replace("delay=1800", "delay=1"))
    environment = {**os.environ, "DAGSTER_HOME": str(folder / "dagster"), "DO_NOT_TRACK": "1", "DAGSTER_DISABLE_TELEMETRY": "1"}
    (folder / "dagster").mkdir()

    def schedule():
        command = [binaries / "dagster", "asset", "materialize", "--select", "constant_contact", "-f", file]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        text = done.stdout + done.stderr
        return "failed" if done.returncode else "succeeded with a warning" if "calls are used up" in text else "succeeded"

    verdicts = job.verdicts("Dagster", schedule)
    holds("Dagster: it warns of 4 and fails on 3", verdicts == {4: "succeeded with a warning", 3: "failed", 0: "succeeded"}, verdicts)
    listed = subprocess.run([binaries / "dagster", "schedule", "list", "-f", file], env=environment, capture_output=True, text=True)
    holds("Dagster: it knows the schedule", "15 2 * * *" in listed.stdout, listed.stdout + listed.stderr)


def actions(jobs, folder):
    job = jobs[0]
    commands = re.search(r"^        run: \|\n((?: {10}.*\n)+)", block("GitHub Actions", "yaml"), re.M)[1]
    commands = re.sub(r"^ {10}", "", commands, flags=re.M)
    script = (job.folder / "sync.sh").read_text()
    programs = [re.search(rf"^{name}=(.*)$", script, re.M)[1] for name in ("tap", "target")]
    (folder / "bin").mkdir()
    for name, path in zip(("tap-constant-contact", "target-postgres"), programs):
        (folder / "bin" / name).symlink_to(path)
    environment = {**os.environ, "TARGET": json.dumps({"destination_path": "out"}), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}

    def schedule():
        settings = json.loads((job.folder / "config.json").read_text())
        given = {f"TAP_CONSTANT_CONTACT_{name.upper()}": str(value) for name, value in settings.items()}
        done = subprocess.run(["bash", "-c", commands], cwd=job.folder, env={**environment, **given}, capture_output=True, text=True)
        return f"ended with {done.returncode}"

    verdicts = job.verdicts("GitHub Actions", schedule)
    holds("GitHub Actions: it fails on 3 alone", verdicts == {4: "ended with 0", 3: "ended with 1", 0: "ended with 0"}, verdicts)


def accounts(jobs, folder):
    for job in jobs:
        job.start_over()
        job.write({})
    loop = block("Several accounts", "sh").replace(HOME, str(jobs[0].folder.parent))
    run("bash", "-c", loop)
    holds("several accounts: each has its rows", all(job.is_loaded() for job in jobs))


CHECKS = {"sync.sh": sync, "systemd": systemd, "GitHub Actions": actions, "Several accounts": accounts, "Dagster": dagster, "Airflow": airflow}


def main():
    wanted = sys.argv[1:] or CHECKS
    programs = build()
    with scratch("schedulers") as folder:
        loader = install(folder, "target")
        jobs = [Job(programs, loader, folder / "jobs" / name) for name in ("north", "south")]
        with jobs[0].account, jobs[1].account:
            for name in wanted:
                (folder / f"for {name}").mkdir()
                CHECKS[name](jobs, folder / f"for {name}")


if __name__ == "__main__":
    main()
