#!/usr/bin/env python3
"""Loads the fake account into Postgres and DuckDB, before and after a change, runs every query of docs/queries.md there, and
compares the answers with the account.

Needs cargo and Python; installs the targets and PostgreSQL as targets.py does.
"""

import collections
import datetime
import decimal
import re
import sys

sys.dont_write_bytecode = True
from account import Account, build
from common import ROOT, scratch
from postgres import Postgres
from targets import DuckDb, MeltanoPostgres, sync

LONGEST = 15
# The first line of a statement that runs after every load and has no answer.
EVERY_LOAD = "-- Postgres and DuckDB, after every load"


def blocks():
    """The statements of the page: question, first line, and SQL."""
    page = (ROOT / "docs/queries.md").read_text(encoding="utf-8")
    for section in re.split(r"^## ", page, flags=re.M)[1:]:
        question = section.split("\n", 1)[0]
        for block in re.findall(r"^```sql\n(.*?)^```$", section, flags=re.M | re.S):
            first, sql = block.split("\n", 1)
            if sql.count("\n") > LONGEST:
                raise SystemExit(f"{question}: more than {LONGEST} lines")
            yield question, first, sql.strip().removesuffix(";")


def moment(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).replace(tzinfo=None)


class Truth:
    """The rows of the account, and the right answer to each question."""

    def __init__(self, account, before):
        self.before = before
        self.contacts = account.truth("contacts")
        self.lists = account.truth("contact_lists")
        self.campaigns = account.truth("email_campaigns")
        self.summary = account.truth("contact_action_summary")
        self.details = account.truth("contact_activity_details")
        self.bounces, self.clicks = account.truth("bounces"), account.truth("clicks")
        self.by_id = {contact["contact_id"]: contact for contact in self.contacts}

    def today(self):
        """A day in the month after the last campaign was sent, which the queries use as `current_date`."""
        last = max(moment(campaign["last_sent_date"]) for campaign in self.campaigns if "last_sent_date" in campaign).date()
        return (last.replace(day=1) + datetime.timedelta(days=32)).replace(day=5)

    def active(self):
        return {contact["contact_id"] for contact in self.contacts if contact["status"] == "active"}

    def present(self):
        return [contact for contact in self.contacts if contact["status"] != "deleted"]

    def answers(self):
        return {
            "Active contacts per list": self.active_per_list,
            "Open, click and bounce rate per campaign": self.rates,
            "Unsubscribes per week, and why": self.unsubscribes,
            "Contacts by a custom field": self.by_field,
            "Contacts by tag": self.by_tag,
            "Most engaged contacts": self.most_engaged,
            "Bounced addresses": self.bounced,
            "Growth per month": self.growth,
            "Contacts who never opened": self.never_opened,
            "Campaigns by list sent to": self.by_list,
            "Who opened last month's newsletters": self.opened_last_month,
            "Which links were clicked, and by whom": self.clicked_links,
            "Which lists grew": self.grown,
        }

    def active_per_list(self):
        active = [contact for contact in self.contacts if contact["status"] == "active"]
        return collections.Counter(name for contact in active for name in contact["list_names"]).items()

    def rates(self):
        for campaign in self.campaigns:
            if "last_sent_date" not in campaign:
                continue
            sends, bounces = campaign["unique_sends"], campaign["unique_bounces"]

            def percent(part, whole):
                exact = decimal.Decimal(100 * part) / whole if whole else None
                return exact and exact.quantize(decimal.Decimal("0.1"), decimal.ROUND_HALF_UP)

            yield (
                campaign["name"], campaign.get("subject"), moment(campaign["last_sent_date"]),
                percent(campaign["unique_opens"], sends - bounces),
                percent(campaign["unique_clicks"], sends - bounces),
                percent(bounces, sends),
            )

    @staticmethod
    def opt_out(contact):
        text = (contact.get("email_address") or {}).get("opt_out_date")
        return text and moment(text)

    def unsubscribes(self):
        counts = collections.Counter()
        for contact in self.contacts:
            if at := self.opt_out(contact):
                monday = at.date() - datetime.timedelta(days=at.weekday())
                counts[monday, contact["email_address"].get("opt_out_reason") or "not given"] += 1
        return [(week, reason, count) for (week, reason), count in counts.items()]

    def by_field(self):
        values = [contact["custom_field_values"].get("What_they_like") for contact in self.present()]
        return collections.Counter(value for value in values if value is not None).items()

    def by_tag(self):
        return collections.Counter(name for contact in self.present() for name in contact["tag_names"]).items()

    def most_engaged(self):
        since = datetime.datetime.combine(self.today() - datetime.timedelta(days=90), datetime.time())
        counts = collections.defaultdict(collections.Counter)
        for row in self.details:
            if moment(row["created_time"]) >= since and row["tracking_activity_type"] in ("em_clicks", "em_opens"):
                counts[row["contact_id"]][row["tracking_activity_type"]] += 1
        rows = []
        for contact_id in self.active() & counts.keys():
            contact, counted = self.by_id[contact_id], counts[contact_id]
            names = [contact.get(name) for name in ("email", "first_name", "last_name")]
            rows.append((*names, counted["em_clicks"], counted["em_opens"]))
        return sorted(rows, key=lambda row: (-row[3], -row[4], row[0]))[:20]

    def bounced(self):
        found = collections.defaultdict(list)
        for row in self.bounces:
            if row["bounce_code"] != "V":
                found[row["email_address"], row["bounce_code"]].append(moment(row["created_time"]))
        return [(address, code, len(times), max(times)) for (address, code), times in found.items()]

    def growth(self):
        counts = collections.defaultdict(collections.Counter)
        for contact in self.contacts:
            changes = {
                "joined": moment(contact["created_at"]),
                "unsubscribed": self.opt_out(contact),
                "deleted": contact.get("deleted_at") and moment(contact["deleted_at"]),
            }
            for change, at in changes.items():
                if at:
                    counts[at.date().replace(day=1)][change] += 1
        return [(month, c["joined"], c["unsubscribed"], c["deleted"]) for month, c in counts.items()]

    def never_opened(self):
        rows = collections.defaultdict(list)
        for row in self.summary:
            rows[row["contact_id"]].append(row)
        for contact_id in self.active() & rows.keys():
            sends = sum(row["em_sends"] for row in rows[contact_id])
            if sends and not any(row["em_opens"] for row in rows[contact_id]):
                yield self.by_id[contact_id]["email"], sends, max(moment(row["start_on"]) for row in rows[contact_id])

    def by_list(self):
        names = {row["list_id"]: row["name"] for row in self.lists}
        sent = collections.defaultdict(list)
        for campaign in self.campaigns:
            for list_id in campaign.get("contact_list_ids", []) if "last_sent_date" in campaign else []:
                sent[list_id].append(moment(campaign["last_sent_date"]))
        return [(names[list_id], len(times), max(times)) for list_id, times in sent.items()]

    def opened_last_month(self):
        end = self.today().replace(day=1)
        sent = {
            campaign["campaign_id"]: campaign["name"] for campaign in self.campaigns
            if "last_sent_date" in campaign and moment(campaign["last_sent_date"]).date().replace(day=1) == (end - datetime.timedelta(days=1)).replace(day=1)
        }
        opens = collections.defaultdict(list)
        for row in self.details:
            if row["tracking_activity_type"] == "em_opens" and row.get("campaign_id") in sent:
                opens[row["campaign_id"], row["contact_id"]].append(moment(row["created_time"]))
        for (campaign_id, contact_id), times in opens.items():
            contact = self.by_id[contact_id]
            names = [contact.get(name) for name in ("email", "first_name", "last_name")]
            yield sent[campaign_id], *names, min(times)

    def clicked_links(self):
        names = {campaign["campaign_id"]: campaign["name"] for campaign in self.campaigns}
        return [
            (names[campaign_id], link, self.by_id[contact_id].get("email"), count)
            for (campaign_id, link, contact_id), count in collections.Counter(
                (row["campaign_id"], row["link_url"], row["contact_id"]) for row in self.clicks if row["campaign_id"] in names
            ).items()
        ]

    def grown(self):
        before = {row["list_id"]: row.get("membership_count") for row in self.before}
        rows = []
        for row in self.lists:
            if row["list_id"] in before:
                then, now = before[row["list_id"]], row.get("membership_count")
                rows.append((row["name"], None if None in (then, now) else now - then, now))
        assert any(growth for _, growth, _ in rows), rows
        return rows


def plain(value):
    """A value in a form that can be compared: timestamps in one format, every number a float, and an empty string as null,
    which target-duckdb makes of it."""
    if value == "":
        return None
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?", value):
        value = moment(value.replace(" ", "T"))
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, (int, float, decimal.Decimal)):
        return float(value)
    return value


def sorted_rows(rows):
    return sorted(([plain(value) for value in row] for row in rows), key=repr)


def main():
    programs = build(release=False)
    with scratch("queries") as folder, Postgres(folder) as postgres, Account(programs, folder / "account") as account:
        meltano, duckdb = MeltanoPostgres(folder / "postgres-target", postgres), DuckDb(folder / "duckdb", postgres)
        databases = {
            "Postgres": lambda sql: postgres.ask(sql, meltano.schema),
            "DuckDB": lambda sql: [list(row.values()) for row in duckdb.ask(f"USE tap; {sql}")],
        }
        state, today = None, datetime.date.today()
        for target in (meltano, duckdb):
            target.install()
        for day in ("first", "second"):
            before = account.truth("contact_lists")
            if day == "second":
                assert account.tell("change") == "changed"
            _, state = sync(programs, account, state, folder / "messages.jsonl")
            for target in (meltano, duckdb):
                target.load(folder / "messages.jsonl")
            truth = Truth(account, before)
            today = truth.today() - datetime.timedelta(days=day == "first")
            for _, first, sql in blocks():
                if first == EVERY_LOAD:
                    sql = sql.replace("current_date", f"DATE '{today}'")
                    postgres.psql("-c", sql, schema=meltano.schema)
                    duckdb.ask(f"USE tap; {sql}; SELECT 1 AS one")
        asked, wrong = collections.Counter(), 0
        for question, first, sql in blocks():
            if first == EVERY_LOAD:
                continue
            expected = sorted_rows(truth.answers()[question]())
            if not expected:
                raise SystemExit(f"{question}: the right answer has no rows, so nothing would be checked")
            for database in first.removeprefix("-- ").split(" and "):
                found = sorted_rows(databases[database](sql.replace("current_date", f"DATE '{today}'")))
                asked[question] += 1
                same = found == expected
                wrong += not same
                print(f"{question:<45}{database:<10}{len(found):>5} rows  {'ok' if same else 'WRONG'}")
                if not same:
                    print("  not in the account:", [row for row in found if row not in expected][:3])
                    print("  not in the answer: ", [row for row in expected if row not in found][:3])
        if set(asked.values()) != {len(databases)} or len(asked) != len(truth.answers()):
            raise SystemExit(f"not {len(truth.answers())} questions to {len(databases)} databases: {dict(asked)}")
        if wrong:
            raise SystemExit("a query gives a wrong answer")


if __name__ == "__main__":
    main()
