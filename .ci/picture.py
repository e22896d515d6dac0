#!/usr/bin/env python3
"""Draws docs/demo.svg, a picture of `cargo demo` on a terminal, from its real output. A test compares the rows of the
picture with the fake account, and fails when the picture is stale.
"""

import html
import os
import pty
import re
import subprocess
import sys

sys.dont_write_bytecode = True
from account import build
from common import ROOT

COLUMNS, WIDTH, LINE = 104, 8.4, 20


def shown(program):
    """What the program writes to stdout when that is a terminal."""
    controller, terminal = pty.openpty()
    child = subprocess.Popen([program], stdout=terminal, stderr=subprocess.DEVNULL)
    os.close(terminal)
    text = b""
    while True:
        try:
            chunk = os.read(controller, 65536)
        except OSError:
            break
        if not chunk:
            break
        text += chunk
    assert child.wait() == 0
    # The path of the messages differs from run to run.
    return re.sub(r"are in /\S*/", "are in ", text.decode().replace("\r\n", "\n"))


def main():
    lines = ["$ cargo demo", *shown(build(release=False) / "fake-account").strip("\n").split("\n")]
    lines = [line[:COLUMNS] for line in lines]
    width, height = COLUMNS * WIDTH + 40, len(lines) * LINE + 44
    rows = "\n".join(
        f'<text x="20" y="{36 + LINE * at}" xml:space="preserve">{html.escape(line)}</text>' for at, line in enumerate(lines)
    )
    (ROOT / "docs/demo.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" viewBox="0 0 {width:.0f} {height}">\n'
        f'<title>What cargo demo shows</title>\n<rect width="100%" height="100%" rx="8" fill="#1e1e2e"/>\n'
        f'<g fill="#cdd6f4" font-family="ui-monospace, Menlo, Consolas, monospace" font-size="14">\n{rows}\n</g>\n</svg>\n',
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
