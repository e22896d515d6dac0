#!/usr/bin/env python3
"""Loads the fake account into real targets, first all of it, then what changed, and compares the stored rows with the
account, since some targets lose rows and exit with 0. Also checks the views of docs/sql on the stored tables. Configs and
install lines are those of docs/targets.md; `UPDATE=1 .ci/targets.py` rewrites its table.

Needs cargo and Python; installs the rest: the targets in virtual environments, PostgreSQL from Debian's packages.
`.ci/targets.py NAME...` runs only those targets.
"""

import ast
import csv
import datetime
import glob
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

sys.dont_write_bytecode = True
from account import KEYS, STREAMS, Account, build
from common import ROOT, environment_with, run, scratch
from postgres import Postgres

csv.field_size_limit(1 << 30)


PAGE = ROOT / "docs/targets.md"
# Columns of contacts that are an object, a list of objects, a list of strings, and a time.
COLUMNS = ("email_address", "custom_fields", "list_memberships", "created_at")


def shown(has, **reader):
    """The config on the page that has this setting, with these values in place of those of the example."""
    configs = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", PAGE.read_text(), re.M | re.S)]
    (config,) = [config for config in configs if has in config]
    assert reader.keys() <= config.keys(), reader.keys() - config.keys()
    return {**config, **reader}


class Target:
    """How to install and configure a target, and how to read what it stored."""

    name = requirements = program = ""
    # Whether a repeated row replaces the old one. `again` replaces the words for it in the table.
    upserts = False
    again = ""
    # Whether it writes the last state to stdout.
    state = True
    # The types that it gives to an object, a list of objects, a list of strings, and a timestamp.
    kinds = ("JSON", "JSON", "JSON", "as written")
    # What it changes in values; `text` does the same to a string.
    alters = "nothing"

    @staticmethod
    def text(given):
        return given

    @staticmethod
    def nested(given):
        """A stored object or list, as JSON."""
        return json.loads(given) if isinstance(given, str) else given

    def __init__(self, folder, postgres):
        self.folder, self.postgres = folder, postgres
        self.out = folder / "out"
        self.out.mkdir(parents=True)
        # Targets with the same requirements share a virtual environment.
        self.venv = folder.parent / f"venv of {self.requirements.split()[0]}"

    def install(self):
        environment_with(self.venv, *self.requirements.split())

    def command(self):
        config = self.folder / "config.json"
        config.write_text(json.dumps(self.config()))
        return [self.venv / "bin/python", self.venv / "bin" / self.program, "--config", config]

    @staticmethod
    def shape(properties, records):
        """The columns and rows that it makes of a stream's properties and records."""
        return properties, records

    def kinds_found(self):
        """`kinds`, as read from its database."""
        return self.kinds

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
        return shown("destination_path", destination_path=str(self.out))

    def rows(self, stream):
        files = sorted(glob.glob(f"{self.out}/{stream}-*.jsonl"))
        return [json.loads(line) for file in files for line in open(file, encoding="utf-8")]


class Csv(Target):
    name, program = "meltanolabs-target-csv", "target-csv"
    requirements = "meltanolabs-target-csv==0.5.0"
    kinds = ("Python's form of a value", "Python's form of a value", "Python's form of a value", "as written")
    alters = "an empty string and null are both an empty cell"

    @staticmethod
    def text(given):
        return given or None

    @staticmethod
    def nested(given):
        # It writes Python's form of a value.
        return ast.literal_eval(given)

    def config(self):
        return shown("output_path", output_path=str(self.out))

    def rows(self, stream):
        # An empty cell is a null.
        files = sorted(glob.glob(f"{self.out}/{stream}-*.csv"), key=os.path.getmtime)
        rows = [row for file in files for row in csv.DictReader(open(file, encoding="utf-8", newline=""))]
        return [{name: value or None for name, value in row.items()} for row in rows]


class MeltanoPostgres(Target):
    name, program, upserts = "meltanolabs-target-postgres", "target-postgres", True
    requirements = "meltanolabs-target-postgres==0.8.1"
    kinds = ("`jsonb`", "`jsonb[]`", "`text[]`", "`timestamp`, UTC")
    schema, has = "meltano", "database"

    def config(self):
        return shown(self.has, **self.postgres.settings(), default_target_schema=self.schema, **{self.has: "postgres"})

    def rows(self, stream):
        return self.postgres.rows(self.schema, stream)

    def kinds_found(self):
        types = dict(self.postgres.ask(
            "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute "
            f"WHERE attrelid = '{self.schema}.contacts'::regclass AND attnum > 0"
        ))
        names = [next(name for name in types if name.startswith(column)) for column in COLUMNS]
        return tuple(f"`{types[name]}`".replace("timestamp without time zone`", "timestamp`, UTC") for name in names)


class FlatPostgres(MeltanoPostgres):
    name, schema = "meltanolabs-target-postgres, flattened", "flattened"
    kinds = ("a column for each field", "JSON as `text`", "JSON as `text`", "`timestamp`, UTC")
    alters = "an absent object becomes nulls"

    def config(self):
        flattening = {name: value for name, value in shown("flattening_enabled").items() if name.startswith("flattening")}
        return {**super().config(), **flattening}

    @staticmethod
    def shape(properties, records):
        fields = {name: of["properties"] for name, of in properties.items() if of.get("properties")}
        flat = {name: of for name, of in properties.items() if name not in fields}
        flat |= {f"{name}__{inner}": of for name, inners in fields.items() for inner, of in inners.items()}
        rows = []
        for record in records:
            row = {name: of for name, of in record.items() if name not in fields}
            row |= {f"{name}__{inner}": (record.get(name) or {}).get(inner) for name, inners in fields.items() for inner in inners}
            rows.append(row)
        return flat, rows

    def kinds_found(self):
        found = super().kinds_found()
        return (self.kinds[0], *(f"JSON as {of}" if of == "`text`" else of for of in found[1:3]), found[3])


class PipelinePostgres(MeltanoPostgres):
    name = "pipelinewise-target-postgres"
    requirements = "pipelinewise-target-postgres==2.1.2"
    kinds = ("`jsonb`", "`jsonb`", "`jsonb`", "`timestamp`, UTC")
    alters = "newlines and tabs become two characters, an empty string null"
    schema, has = "pipelinewise", "dbname"

    @staticmethod
    def text(given):
        return given.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") or None


class DuckDb(Target):
    name, program, upserts = "target-duckdb", "target-duckdb", True
    # With a newer duckdb it loses the first row of each batch and exits with 0.
    requirements = "target-duckdb==0.8.0 duckdb==1.0.0 setuptools==75.8.0"
    kinds = ("`JSON`", "`JSON`", "`JSON`", "`TIMESTAMP`, UTC")
    alters = "an empty string becomes null"

    @staticmethod
    def text(given):
        return given or None

    def config(self):
        return shown("filepath", filepath=str(self.out / "db.duckdb"), default_target_schema="tap")

    def ask(self, sql, file=None):
        """The rows of the last of these statements."""
        script = (
            "import duckdb, json, sys\n"
            "cursor = duckdb.connect(sys.argv[1]).execute(sys.argv[2])\n"
            "names = [column[0] for column in cursor.description]\n"
            "plain = lambda value: float(value) if type(value).__name__ == 'Decimal' else str(value)\n"
            "for row in cursor.fetchall(): print(json.dumps(dict(zip(names, row)), default=plain))\n"
        )
        out = run(
            self.venv / "bin/python", "-c", script, file or self.out / "db.duckdb", sql, capture_output=True, text=True
        ).stdout
        return [json.loads(line) for line in out.splitlines()]

    def rows(self, stream):
        return self.ask(f"SELECT * FROM tap.{stream}")

    def kinds_found(self):
        types = {row["column_name"]: row["column_type"] for row in self.ask("DESCRIBE tap.contacts")}
        found = [types[name] for name in COLUMNS]
        return (*(f"`{of}`" for of in found[:3]), f"`{found[3]}`, UTC")


class Newest(Csv):
    """Not a target: the views of docs/sql/newest_rows.sql, over the files of one that appends."""

    name, upserts = "newest_rows.sql over CSV", True

    def __init__(self, appended, duckdb):
        self.appended, self.duckdb = appended, duckdb

    def rows(self, stream):
        views = (ROOT / "docs/sql/newest_rows.sql").read_text(encoding="utf-8")
        (table,) = re.findall(r"^CREATE VIEW contacts .*;$", PAGE.read_text(encoding="utf-8"), re.M)
        tables = [table.replace("contacts", stream).replace("out/", f"{self.appended.out}/") for stream in STREAMS]
        return self.duckdb.ask(f"{' '.join(tables)} {views} SELECT * EXCLUDE (newest) FROM {stream}_now", ":memory:")


class Stitch(Target):
    name, program, state, again = "target-stitch --dry-run", "target-stitch", False, "decided by Stitch"
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
    kinds, alters, again = ("–", "–", "–", "–"), "stores nothing, counts", "counts"

    def command(self):
        return super().command()[:2]

    def load(self, messages):
        text = super().load(messages)
        with open(self.out / "summary", "a", encoding="utf-8") as out:
            out.write(text)
        return text

    # It stores nothing and only counts the messages.
    rows = None

    def counts(self):
        counts = dict.fromkeys(STREAMS, 0)
        for line in (self.out / "summary").read_text().splitlines():
            cells = [cell.strip() for cell in line.strip("| ").split("|")]
            if cells[0] in counts and len(cells) > 1:
                counts[cells[0]] += int(cells[1])
        return counts


def value(schema, given):
    """A value in a form that can be compared: targets store timestamps with and without a zone, and files have numbers as
    text."""
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
    """Compares what a target stored of one stream. Returns the numbers for the report, and what is wrong."""
    wrong = []
    if target.rows is None:
        loaded = target.counts()[stream]
        if loaded != len(records):
            wrong.append(f"{loaded} messages counted, {len(records)} written")
        return loaded, len(records), "-", "-", wrong
    properties, records = target.shape(schema["properties"], records)
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
        # They store records unchanged, and a record may leave out an object.
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


def table(kinds):
    """The table of the page."""
    lines = ["| target | install line as tested | a row that comes again | an object | a list of objects | a list of strings "
             "| times | what it alters |", "|---|---|---|---|---|---|---|---|"]
    for kind in kinds:
        again = kind.again or ("replaces the old one" if kind.upserts else "is one row more")
        bold = "**" if kind is DuckDb else ""
        lines.append(f"| {kind.name} | {bold}`pip install {kind.requirements}`{bold} | {again} | {' | '.join(kind.kinds)} | {kind.alters} |")
    return "\n".join(lines)


def check_page(kinds):
    """The page has the table; `UPDATE=1` writes it there."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, after = re.fullmatch(r"(.*<!-- table[^\n]* -->\n)(.*)(\n<!-- end of table -->.*)", page, re.S).groups()
    right = f"{before}\n{table(kinds)}\n{after}"
    if os.environ.get("UPDATE"):
        PAGE.write_text(right, encoding="utf-8")
    elif page != right:
        raise SystemExit(f"the table of {PAGE} is not this script's: `UPDATE=1 {sys.argv[0]}` rewrites it")


def views(account):
    """The rows that each view of docs/sql/postgres_views.sql must have."""
    contacts, campaigns = account.truth("contacts"), account.truth("email_campaigns")
    lists = {one["list_id"]: one["name"] for one in account.truth("contact_lists")}

    def each(rows, key, field):
        return [{key: row[key], **inner} for row in rows for inner in row.get(field) or []]

    def pairs(ids, names, id_name, name_name):
        return [{"contact_id": contact["contact_id"], id_name: one, name_name: name}
                for contact in contacts for one, name in zip(contact[ids], contact[names], strict=True)]

    def rate(part, whole):
        return round(100 * part / whole + 1e-9, 1) if whole else None

    def values(field):
        return field.get("choice_labels") or [field.get("value")]

    def flat(contact):
        address, sms = contact.get("email_address") or {}, contact.get("sms_channel") or {}
        fields = ["permission_to_send", "confirm_status", *(f"opt_{way}_{what}" for way in ("in", "out") for what in ("date", "source"))]
        row = {name: of for name, of in contact.items() if not isinstance(of, (dict, list))}
        row |= {name: address.get(name) for name in [*fields, "opt_out_reason"]}
        row |= {name: sms.get(name.removeprefix("sms_")) for name in ("sms_dial_code", "sms_country_code")}
        return {**row, "sms_address": sms.get("sms_address")}

    def counted(campaign):
        row = {name: of for name, of in campaign.items() if not isinstance(of, (dict, list)) and name != "type_code"}
        if "unique_sends" in row:
            sends, bounces = row["unique_sends"], row["unique_bounces"]
            row |= {"open_rate": rate(row["unique_opens"], sends - bounces), "click_rate": rate(row["unique_clicks"], sends - bounces),
                    "bounce_rate": rate(bounces, sends)}
        return row

    clicks = {}
    of_link = ("campaign_id", "campaign_activity_id", "link_url", "contact_id")
    for click in account.truth("clicks"):
        clicks.setdefault(tuple(click[name] for name in of_link), []).append(click["created_time"])
    return {
        "contacts_flat": map(flat, contacts),
        "contact_custom_fields": [
            {**{name: field.get(name) for name in ("contact_id", "custom_field_id", "name", "label", "type")}, "value": value}
            for field in each(contacts, "contact_id", "custom_fields") for value in values(field)
        ],
        "contact_phone_numbers": each(contacts, "contact_id", "phone_numbers"),
        "contact_street_addresses": each(contacts, "contact_id", "street_addresses"),
        "contact_notes": each(contacts, "contact_id", "notes"),
        "contact_sms_consents": [
            {"contact_id": contact["contact_id"], **consent}
            for contact in contacts for consent in (contact.get("sms_channel") or {}).get("sms_channel_consents") or []
        ],
        "contact_list_memberships": pairs("list_memberships", "list_names", "list_id", "list_name"),
        "contact_tags": pairs("taggings", "tag_names", "tag_id", "tag_name"),
        "email_campaigns_flat": map(counted, campaigns),
        "email_campaign_activities": each(campaigns, "campaign_id", "campaign_activities"),
        "email_campaign_lists": [
            {"campaign_id": campaign["campaign_id"], "list_id": one, "list_name": lists.get(one)}
            for campaign in campaigns for one in campaign.get("contact_list_ids") or []
        ],
        "clicked_links": [
            {**dict(zip(of_link, key)), "clicks": len(times), "first_click": min(times), "last_click": max(times)}
            for key, times in clicks.items()
        ],
    }


def compare_views(postgres, account):
    """Prints a line for each view. Returns whether one is wrong."""
    moment = {"type": [], "format": "date-time"}

    def plain(row):
        def is_time(name, of):
            return isinstance(of, str) and name.endswith(("_at", "_date", "_click"))
        return sorted((name, str(value(moment, of) if is_time(name, of) else of)) for name, of in row.items() if of is not None)

    failed = False
    made = re.findall(r"CREATE OR REPLACE VIEW (\w+)", (ROOT / "docs/sql/postgres_views.sql").read_text())
    wanted = views(account)
    assert made == list(wanted), (made, list(wanted))
    for view, rows in wanted.items():
        expected, found = sorted(map(plain, rows)), sorted(map(plain, postgres.rows(MeltanoPostgres.schema, view)))
        verdict = "ok"
        if found != expected or not expected:
            failed = True
            verdict = f"{[row for row in found if row not in expected][:1]} instead of {[row for row in expected if row not in found][:1]}"
        print(f"{'a view':<40}{view:<26}{len(found):>6}{len(expected):>10}  {verdict}")
    return failed


def demo(programs, target):
    """Pipes `cargo demo` into a target, and compares the rows with the messages."""
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
    """Runs the tap. Returns its messages and the value of its last STATE."""
    command = [programs / "tap-constant-contact", "--config", account.folder / "config.json"]
    if state is not None:
        (account.folder / "state.json").write_text(json.dumps(state))
        command += ["--state", account.folder / "state.json"]
    with open(out, "wb") as stdout, open(account.folder / "tap.log", "ab") as log:
        run(*command, stdout=stdout, stderr=log)
    messages = [json.loads(line) for line in open(out, encoding="utf-8")]
    return messages, messages[-1]["value"]


KINDS = [MeltanoPostgres, FlatPostgres, PipelinePostgres, DuckDb, Csv, Jsonl, Stitch, CheckTap]


def main():
    check_page(KINDS)
    wanted = sys.argv[1:]
    programs = build()
    with scratch("targets") as folder, Postgres(folder) as postgres, Account(programs, folder / "account") as account:
        targets = {
            kind: kind(folder / kind.__name__, postgres) for kind in KINDS if not wanted or kind.name in wanted
        }
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda target: target.install(), {target.venv: target for target in targets.values()}.values()))
        first, state = sync(programs, account, None, folder / "first.jsonl")
        assert account.tell("change") == "changed"
        second, last = sync(programs, account, state, folder / "second.jsonl")
        schemas = {m["stream"]: m for m in first if m["type"] == "SCHEMA"}
        records = {s: [m["record"] for m in first + second if m["type"] == "RECORD" and m["stream"] == s] for s in STREAMS}
        again = sum(m["type"] == "RECORD" for m in second)
        assert 0 < again < sum(m["type"] == "RECORD" for m in first), again
        print(f"{'target':<40}{'stream':<26}{'rows':>6}{'expected':>10}{'columns':>9}{'expected':>10}")
        failed = False
        for kind, target in targets.items():
            for messages, expected in (("first.jsonl", state), ("second.jsonl", last)):
                told = target.load(folder / messages).strip().splitlines()
                if target.state and json.loads(told[-1]) != expected:
                    failed = True
                    print(f"{target.name} ended with another state than the tap: {told[-1]}")
                if kind is MeltanoPostgres:
                    # Before the second load too, which must work with the views there.
                    postgres.psql("-f", ROOT / "docs/sql/postgres_views.sql", schema=target.schema)
            if target.kinds_found() != target.kinds:
                failed = True
                print(f"{target.name} has {target.kinds_found()}, not {target.kinds}")
        if Csv in targets and DuckDb in targets:
            targets[Newest] = Newest(targets[Csv], targets[DuckDb])
        for target in targets.values():
            for stream in STREAMS:
                schema = schemas[stream]
                rows, expected, columns, columns_expected, wrong = compare(
                    target, stream, schema["schema"], schema["key_properties"], records[stream], account.truth(stream)
                )
                failed |= bool(wrong)
                told = "; ".join(wrong) or f"ok; {target.alters}"
                print(f"{target.name:<40}{stream:<26}{rows:>6}{expected:>10}{columns:>9}{columns_expected:>10}  {told}")
        if MeltanoPostgres in targets:
            failed |= compare_views(postgres, account)
        if Jsonl in targets:
            # Into an empty folder.
            targets[Jsonl].out = folder / "demo"
            targets[Jsonl].out.mkdir()
            demo(programs, targets[Jsonl])
        if failed:
            raise SystemExit("a target and the account differ")


if __name__ == "__main__":
    main()
