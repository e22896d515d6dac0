#!/usr/bin/env python3
"""Follows the README from a checkout to rows in Postgres, and then loads changes under cron.

The commands are read from the README; only names, passwords and paths are replaced. A client plays the browser of the
login.
"""

import json
import os
import re
import subprocess
import sys
import urllib.request

sys.dont_write_bytecode = True
from account import KEYS, STREAMS, Account, build
from common import ROOT, run, scratch
from postgres import Postgres

# The README does not name a version; pinned, so that a new release does not break this check.
PINNED = "meltanolabs-target-postgres==0.8.1\n"


class Readme:
    def __init__(self):
        self.text = (ROOT / "README.md").read_text()

    def block(self, language, has):
        """The block of code that contains this."""
        found = [b for b in re.findall(rf"^```{language}\n(.*?)^```", self.text, re.M | re.S) if has in b]
        assert len(found) == 1, f"{len(found)} blocks of {language} have {has!r}"
        return found[0]

    def command(self, command):
        assert f"`{command}`" in self.text, command
        return command

    def settings(self, has, **reader):
        """A block of JSON, with these values in place of those of the example."""
        shown = json.loads(self.block("json", has))
        assert reader.keys() <= shown.keys(), reader.keys() - shown.keys()
        return {**shown, **reader}


class Playground:
    """The fake account that the README starts in another terminal."""

    def __init__(self, command, folder, environment):
        print(f"$ {command}", flush=True)
        self.process = subprocess.Popen(
            command.split(), cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self):
        said = next((line for line in self.process.stdout if line.startswith("ready")), None)
        assert said, "the fake account has ended"

    def __exit__(self, failure, *_):
        self.process.stdin.close()
        assert self.process.wait(60) == 0 or failure, "the tap broke a rule of the service"


class Shell:
    """A shell that runs commands one after the other."""

    def __init__(self, folder, environment):
        self.process = subprocess.Popen(
            ["bash"], cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )

    def type(self, commands):
        print("\n".join("$ " + line for line in commands.strip().splitlines()), flush=True)
        self.process.stdin.write(f"{commands.strip()}\necho \"<end $?>\"\n")
        self.process.stdin.flush()
        said = ""
        for line in self.process.stdout:
            end = re.fullmatch(r"(.*)<end (\d+)>\n", line)
            said += end[1] if end else line
            if end:
                assert end[2] == "0", f"ended with {end[2]}:\n{said}"
                return said
            if line.strip().startswith("http") and "/authorize?" in line:
                # The consent page of the fake account redirects at once.
                page = urllib.request.urlopen(line.strip()).read().decode()
                assert "You are logged in" in page, page
        raise SystemExit(f"the shell has ended:\n{said}")


class Cron:
    """Runs the script as cron does: in the home folder, with a nearly empty environment."""

    def __init__(self, script):
        self.script = script
        self.state = script.parent / "state.json"

    def run(self):
        env = {"HOME": str(self.script.parents[1]), "PATH": "/usr/bin:/bin"}
        print(f"cron: {self.script}", flush=True)
        done = subprocess.run(
            ["env", "-i", *(f"{name}={value}" for name, value in env.items()), self.script],
            cwd=env["HOME"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        print("".join("      " + line for line in done.stderr.splitlines(True)), end="", flush=True)
        return done

    def succeeds(self):
        done = self.run()
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done

    def bookmarks(self):
        """The bookmarks. The rest of the state may change when a run is cut off."""
        return json.loads(self.state.read_text())["bookmarks"]

    def fails(self, file, wrong, code, says):
        """Runs once with this content in a file; checks exit code and message, and that the bookmarks stay."""
        right, state = file.read_text(), self.bookmarks()
        file.write_text(wrong)
        done = self.run()
        file.write_text(right)
        assert done.returncode in code, done
        assert says in done.stderr, done
        assert self.bookmarks() == state, f"{self.bookmarks()} instead of {state}"


def compare(postgres, account, when):
    failed = False
    for stream in STREAMS:
        row = lambda of: tuple(str(of[key])[:19].replace(" ", "T") for key in KEYS[stream])
        truth = account.truth(stream)
        expected, loaded = {row(one) for one in truth}, {row(one) for one in postgres.rows("constant_contact", stream)}
        verdict = "ok" if loaded == expected else f"{len(expected - loaded)} missing, {len(loaded - expected)} too many"
        failed |= loaded != expected
        print(f"{when:<24}{stream:<26}expected {len(expected):>6} loaded {len(loaded):>6}  {verdict}", flush=True)
    if failed:
        raise SystemExit("Postgres and the account differ")


def main():
    readme = Readme()
    programs = build()
    with scratch("quickstart") as folder, Postgres(folder) as postgres, Account(programs, folder / "account") as account:
        checkout, work = folder / "tap-constant-contact", folder / "constant-contact"
        (folder / "pinned.txt").write_text(PINNED)
        environment = {
            **os.environ,
            "PIP_CONSTRAINT": str(folder / "pinned.txt"),
            "PIP_QUIET": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            # Reuses what is already compiled.
            "CARGO_TARGET_DIR": str(ROOT / "target"),
            "PGHOST": "127.0.0.1",
            "PGPORT": str(postgres.port),
            "PGUSER": "tap",
            "PATH": f"{postgres.bin}:{os.environ['PATH']}",
        }
        run(postgres.bin / "createdb", "analytics", env=environment)
        postgres.database = "analytics"
        shell = Shell(folder, environment)

        # Try it without an account.
        run("git", "clone", "--quiet", ROOT, checkout)
        shell.type(f"cd {checkout}")
        with Playground(readme.command("cargo demo serve play"), checkout, environment):
            preflight = shell.type(readme.block("sh", "cargo run"))
            assert "may be read" in preflight, preflight
        for file in ("messages.jsonl", "play"):
            assert (checkout / file).exists(), file
        shell.type("rm -r messages.jsonl play")

        # Install, log in.
        version = shell.type(readme.block("sh", "pip install ."))
        assert re.search(r"tap-constant-contact \d+\.\d+\.\d+\n", version), version
        shell.type(readme.block("sh", "mkdir ../constant-contact"))
        config = readme.settings("token_file", client_id=account.config["client_id"], client_secret=account.config["client_secret"])
        config |= {key: account.config[key] for key in ("api_url", "auth_url")}
        (work / "config.json").write_text(json.dumps(config, indent=2))
        login, _, preflight = readme.block("sh", "login --config config.json").splitlines()[:3]
        # Without stdin, since login takes a line from it as a pasted address.
        assert "Logged in" in shell.type("</dev/null " + login)
        assert (work / "tokens.json").exists()
        assert "may be read" in shell.type(preflight)

        # Into Postgres.
        target = readme.settings("default_target_schema", port=postgres.port, user="tap", host="127.0.0.1")
        (work / "target.json").write_text(json.dumps(target, indent=2))
        shell.type(readme.block("sh", "python3 -m venv loader"))
        counted = shell.type(readme.block("sh", "psql analytics"))
        assert re.search(rf"^ *{len(account.truth('contacts'))}$", counted, re.M), counted
        compare(postgres, account, "after the first pipe")

        # Every day by cron.
        shell.type(readme.block("sh", "chmod 755 sync.sh"))
        script = (work / "sync.sh").read_text()
        for name, path in (("tap", checkout / ".venv/bin/tap-constant-contact"), ("target", work / "loader/bin/target-postgres")):
            script, replaced = re.subn(rf"^{name}=/.*$", f"{name}={path}", script, flags=re.M)
            assert replaced == 1, name
        (work / "sync.sh").write_text(script)
        cron = Cron(work / "sync.sh")
        for day in ("after a day", "after another day"):
            assert account.tell("change") == "changed"
            cron.succeeds()
            compare(postgres, account, day)

        # A failure is printed (so cron mails it) and keeps the state. A tap whose target has ended exits with 141.
        elsewhere = json.dumps({**target, "database": "elsewhere"})
        cron.fails(work / "target.json", elsewhere, (1, 141), 'database "elsewhere" does not exist')
        missing = script.replace("tap-constant-contact\n", "tap-elsewhere\n", 1)
        cron.fails(work / "sync.sh", missing, (127,), "tap-elsewhere: No such file or directory")
        tokens = json.loads((work / "tokens.json").read_text())
        dead = json.dumps({**tokens, "refresh_token": "dead", "access_token": None})
        cron.fails(work / "tokens.json", dead, (3,), "CRITICAL")
        cron.succeeds()

        # Nothing was written into the checkout.
        left = shell.type(f"git -C {checkout} status --porcelain --ignored").split("\n")
        assert {line for line in left if line} <= {"!! .venv/"}, left

        # Some streams only.
        log = shell.type(readme.block("sh", "--select contacts"))
        with open(work / "some.jsonl", encoding="utf-8") as messages:
            streams = {json.loads(line).get("stream") for line in messages}
        assert streams - {None} == {"contacts", "contact_lists"}, (streams, log)
        print("the README's commands load the whole account into Postgres")


if __name__ == "__main__":
    main()
