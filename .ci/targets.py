#!/usr/bin/env python3
"""Loads the fake account into real targets, first whole, then what changed, and compares what they stored with what
the account holds. Exit codes prove nothing: some targets lose rows and end with 0.

Needs cargo and Python; installs the rest: the targets in virtual environments, PostgreSQL from Debian's packages.
`.ci/targets.py NAME...` runs some of them only.
"""

import ast
import csv
import datetime
import glob
import json
import os
import pathlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

sys.dont_write_bytecode = True
from account import KEYS, ROOT, STREAMS, Account, build, scratch
from postgres import Postgres, run

csv.field_size_limit(1 << 30)


class Target:
    """How one target is installed, configured and looked into."""

    name = requirements = program = ""
    # Whether a row that comes again takes the place of the old one.
    upserts = False
    # Whether what it wrote to stdout is the last state.
    state = True
    # What it is known to alter, and `text` how.
    note = ""

    @staticmethod
    def text(given):
        return given

    @staticmethod
    def nested(given):
        """A stored object or array as JSON has it."""
        return json.loads(given) if isinstance(given, str) else given

    def __init__(self, folder, postgres):
        self.folder, self.postgres = folder, postgres
        self.out = folder / "out"
        self.out.mkdir(parents=True)

    def install(self):
        run(sys.executable, "-m", "venv", self.folder / "venv")
        run(self.folder / "venv/bin/pip", "install", "-q", "--disable-pip-version-check", *self.requirements.split())

    def command(self):
        config = self.folder / "config.json"
        config.write_text(json.dumps(self.config()))
        return [self.folder / "venv/bin" / self.program, "--config", config]

    def load(self, messages):
        with open(messages, "rb") as stdin, open(self.folder / "log", "ab") as log:
            done = subprocess.run([str(p) for p in self.command()], stdin=stdin, stdout=subprocess.PIPE, stderr=log)
        if done.returncode:
            raise SystemExit(f"{self.name} ended with {done.returncode}:\n{(self.folder / 'log').read_text()[-4000:]}")
        return done.stdout.decode()

    def config(self):
        return {}

    def rows(self, stream):
        raise NotImplementedError


class Jsonl(Target):
    name, program = "target-jsonl", "target-jsonl"
    requirements = "target-jsonl==0.1.4 setuptools==75.8.0"

    def config(self):
        return {"destination_path": str(self.out)}

    def rows(self, stream):
        files = sorted(glob.glob(f"{self.out}/{stream}-*.jsonl"))
        return [json.loads(line) for file in files for line in open(file, encoding="utf-8")]


class Csv(Target):
    name, program = "meltanolabs-target-csv", "target-csv"
    requirements = "meltanolabs-target-csv==0.5.0"
    note = "; an empty text is an empty cell, and so is null"

    @staticmethod
    def text(given):
        return given or None

    @staticmethod
    def nested(given):
        # It writes Python's form of a value.
        return ast.literal_eval(given)

    def config(self):
        return {"output_path": str(self.out), "overwrite_behavior": "replace_file", "file_naming_scheme": self.scheme()}

    def scheme(self):
        return f"{{stream_name}}-{len(list(self.out.iterdir()))}.csv"

    def rows(self, stream):
        # An empty cell is a null.
        files = sorted(glob.glob(f"{self.out}/{stream}-*.csv"), key=os.path.getmtime)
        rows = [row for file in files for row in csv.DictReader(open(file, encoding="utf-8", newline=""))]
        return [{name: value or None for name, value in row.items()} for row in rows]


class MeltanoPostgres(Target):
    name, program, upserts = "meltanolabs-target-postgres", "target-postgres", True
    requirements = "meltanolabs-target-postgres==0.8.1"

    def config(self):
        return {**self.postgres.settings("meltano"), "database": "postgres", "default_target_schema": "meltano"}

    def rows(self, stream):
        return self.postgres.rows("meltano", stream)


class PipelinePostgres(Target):
    name, program, upserts = "pipelinewise-target-postgres", "target-postgres", True
    requirements = "pipelinewise-target-postgres==2.1.2"
    note = "; newlines and tabs become two characters, an empty text null"

    @staticmethod
    def text(given):
        return given.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") or None

    def config(self):
        return {**self.postgres.settings("pipelinewise"), "dbname": "postgres", "default_target_schema": "pipelinewise"}

    def rows(self, stream):
        return self.postgres.rows("pipelinewise", stream)


class DuckDb(Target):
    name, program, upserts = "target-duckdb", "target-duckdb", True
    # Newer ones make it lose the first row of each batch, and end with 0.
    requirements = "target-duckdb==0.8.0 duckdb==1.0.0 setuptools==75.8.0"
    note = "; an empty text becomes null"

    @staticmethod
    def text(given):
        return given or None

    def config(self):
        return {"filepath": str(self.out / "db.duckdb"), "default_target_schema": "tap"}

    def rows(self, stream):
        script = (
            "import duckdb, json, sys\n"
            "cursor = duckdb.connect(sys.argv[1], read_only=True).execute(f'SELECT * FROM tap.{sys.argv[2]}')\n"
            "names = [column[0] for column in cursor.description]\n"
            "for row in cursor.fetchall(): print(json.dumps(dict(zip(names, row)), default=str))\n"
        )
        out = run(
            self.folder / "venv/bin/python", "-c", script, self.out / "db.duckdb", stream, capture_output=True, text=True
        ).stdout
        return [json.loads(line) for line in out.splitlines()]


class Stitch(Target):
    name, program, state = "target-stitch --dry-run", "target-stitch", False
    requirements = "target-stitch==4.0.3 setuptools==75.8.0"

    def config(self):
        return {"client_id": 1, "token": "none", "small_batch_url": "http://127.0.0.1:1", "big_batch_url": "http://127.0.0.1:1", "batch_size_preferences": {}, "disable_collection": True}

    def command(self):
        file = self.out / f"{len(list(self.out.iterdir()))}.jsonl"
        return [*super().command(), "--dry-run", "--output-file", file]

    def rows(self, stream):
        rows = []
        for file in sorted(glob.glob(f"{self.out}/*.jsonl")):
            for line in open(file, encoding="utf-8"):
                batch = json.loads(line)
                if batch["table_name"] == stream:
                    rows += [message["data"] for message in batch["messages"] if message["action"] == "upsert"]
        return rows


class CheckTap(Target):
    name, program, state = "singer-check-tap", "singer-check-tap", False
    requirements = "singer-tools==0.4.1 setuptools==75.8.0"

    def command(self):
        return [self.folder / "venv/bin" / self.program]

    def load(self, messages):
        text = super().load(messages)
        with open(self.out / "summary", "a", encoding="utf-8") as out:
            out.write(text)
        return text

    # It stores nothing: its count of the messages is all there is.
    rows = None

    def counts(self):
        counts = dict.fromkeys(STREAMS, 0)
        for line in (self.out / "summary").read_text().splitlines():
            cells = [cell.strip() for cell in line.strip("| ").split("|")]
            if cells[0] in counts and len(cells) > 1:
                counts[cells[0]] += int(cells[1])
        return counts


def value(schema, given):
    """A value as it is to be compared: targets keep moments with and without zone, and numbers as text in files."""
    types = schema.get("type", [])
    if given is None:
        return None
    if schema.get("format") == "date-time":
        text = str(given).replace(" ", "T").replace("Z", "+00:00")
        moment = datetime.datetime.fromisoformat(text)
        return moment.astimezone(datetime.timezone.utc).replace(tzinfo=None) if moment.tzinfo else moment
    if "integer" in types:
        return int(given)
    if "boolean" in types:
        return str(given).lower() == "true"
    if "object" in types or "array" in types:
        return json.dumps(given, sort_keys=True)
    return given


def compare(target, stream, schema, keys, records, truth):
    """The numbers of the table, and what is wrong."""
    wrong = []
    if target.rows is None:
        loaded = target.counts()[stream]
        if loaded != len(records):
            wrong.append(f"{loaded} messages counted, {len(records)} written")
        return loaded, len(records), "-", "-", wrong
    properties = schema["properties"]
    rows = target.rows(stream)

    def key(row):
        return tuple(str(value(properties[name], row[name])) for name in keys)

    written = {key(record): record for record in records}
    stored = {key(row): row for row in rows}
    expected_rows = len(written) if target.upserts else len(records)
    if len(rows) != expected_rows:
        wrong.append(f"{len(rows)} rows for {expected_rows}")
    if stored.keys() != {key(row) for row in truth}:
        wrong.append("not the account's rows")
    columns = {name for row in rows[:1] for name in row if not name.startswith("_sdc_")}
    if target.name == "target-jsonl" or target.name.startswith("target-stitch"):
        # They store records as they are, where an object may be left out.
        columns = {name for row in rows for name in row}
    expected_columns = {name for name in properties if any(name in record for record in records)}
    if not expected_columns <= columns:
        wrong.append(f"no column {sorted(expected_columns - columns)}")
    for at, record in written.items():
        for name in expected_columns:
            wanted, found = record.get(name), stored.get(at, {}).get(name)
            if {"object", "array"} & set(properties[name]["type"]):
                found = found if found is None else target.nested(found)
            elif isinstance(wanted, str):
                wanted = target.text(wanted)
            wanted, found = value(properties[name], wanted), value(properties[name], found)
            if wanted != found:
                wrong.append(f"{name} of {at} is {found!r}, not {wanted!r}")
                break
    return len(rows), expected_rows, len(columns), len(expected_columns), wrong[:3]


def demo(programs, target):
    """Pipes the demonstration into a target, and compares the rows with the messages."""
    messages = target.out / "messages.jsonl"
    with open(messages, "wb") as out:
        run(programs / "fake-account", stdout=out, stderr=subprocess.DEVNULL)
    target.load(messages)
    keys = {stream: set() for stream in STREAMS}
    for line in open(messages, encoding="utf-8"):
        message = json.loads(line)
        if message["type"] == "RECORD":
            keys[message["stream"]].add(tuple(message["record"][key] for key in KEYS[message["stream"]]))
    wanted = {stream: len(rows) for stream, rows in keys.items()}
    loaded = {stream: len(target.rows(stream)) for stream in STREAMS}
    print(f"the demonstration into {target.name}: {loaded}")
    if loaded != wanted or not all(wanted.values()):
        raise SystemExit(f"{target.name} holds {loaded} rows of the demonstration's {wanted}")


def sync(programs, account, state, out):
    """One run of the tap; gives its messages and the value of its last STATE."""
    command = [programs / "tap-constant-contact", "--config", account.folder / "config.json"]
    if state is not None:
        (account.folder / "state.json").write_text(json.dumps(state))
        command += ["--state", account.folder / "state.json"]
    with open(out, "wb") as stdout, open(account.folder / "tap.log", "ab") as log:
        run(*command, stdout=stdout, stderr=log)
    messages = [json.loads(line) for line in open(out, encoding="utf-8")]
    return messages, messages[-1]["value"]


def main():
    wanted = sys.argv[1:]
    programs = build()
    with scratch("targets") as folder, Postgres(folder) as postgres, Account(programs, folder / "account") as account:
        kinds = [Jsonl, Csv, MeltanoPostgres, PipelinePostgres, DuckDb, Stitch, CheckTap]
        targets = [
            kind(folder / kind.__name__, postgres) for kind in kinds if not wanted or kind.name in wanted
        ]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda target: target.install(), targets))
        first, state = sync(programs, account, None, folder / "first.jsonl")
        assert account.tell("change") == "changed"
        second, last = sync(programs, account, state, folder / "second.jsonl")
        schemas = {m["stream"]: m for m in first if m["type"] == "SCHEMA"}
        records = {s: [m["record"] for m in first + second if m["type"] == "RECORD" and m["stream"] == s] for s in STREAMS}
        again = sum(m["type"] == "RECORD" for m in second)
        assert 0 < again < sum(m["type"] == "RECORD" for m in first), again
        print(f"{'target':<30}{'stream':<26}{'rows':>6}{'expected':>10}{'columns':>9}{'expected':>10}")
        failed = False
        for target in targets:
            for messages, expected in (("first.jsonl", state), ("second.jsonl", last)):
                told = target.load(folder / messages).strip().splitlines()
                if target.state and json.loads(told[-1]) != expected:
                    failed = True
                    print(f"{target.name} ended with another state than the tap: {told[-1]}")
            for stream in STREAMS:
                schema = schemas[stream]
                rows, expected, columns, columns_expected, wrong = compare(
                    target, stream, schema["schema"], schema["key_properties"], records[stream], account.truth(stream)
                )
                failed |= bool(wrong)
                told = "; ".join(wrong) or "ok" + target.note
                print(f"{target.name:<30}{stream:<26}{rows:>6}{expected:>10}{columns:>9}{columns_expected:>10}  {told}")
        for target in targets:
            if isinstance(target, Jsonl):
                # Into a folder where nothing is yet.
                target.out = folder / "demo"
                target.out.mkdir()
                demo(programs, target)
        if failed:
            raise SystemExit("a target does not hold what the account holds")


if __name__ == "__main__":
    main()
