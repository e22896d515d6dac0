"""The fake account as a process, and the list of streams, for the checks beside this file."""

import json
import subprocess

from common import ROOT, run

CATALOG = json.loads((ROOT / "catalog.example.json").read_text(encoding="utf-8"))["streams"]
STREAMS = [entry["tap_stream_id"] for entry in CATALOG]
KEYS = {entry["tap_stream_id"]: entry["metadata"][0]["metadata"]["table-key-properties"] for entry in CATALOG}


def build(release=True):
    """Builds the tap and the fake account. Returns the folder of both programs."""
    profile = ["--release"] if release else []
    run("cargo", "build", "--quiet", "--locked", "--bins", *profile, cwd=ROOT)
    fake = ["--package", "fake-constant-contact", "--features", "cli"]
    run("cargo", "build", "--quiet", "--locked", "--bins", *fake, *profile, cwd=ROOT)
    return ROOT / "target" / ("release" if release else "debug")


class Account:
    """A fake account that serves until it is stopped. Its configs and expected rows go to `folder`."""

    def __init__(self, programs, folder, *arguments):
        self.folder = folder
        self.process = subprocess.Popen(
            [str(programs / "fake-account"), "serve", str(folder), *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        assert self.process.stdout.readline().startswith("ready")
        self.config = json.loads((folder / "config.json").read_text(encoding="utf-8"))

    def __enter__(self):
        return self

    def __exit__(self, failure, *_):
        is_clean = self.stop()
        if not failure and not is_clean:
            raise SystemExit("the tap broke a rule of the service")

    def tell(self, word):
        """Sends a word, such as `change`. Returns the answer, a line."""
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def truth(self, stream):
        """The rows that a full read of a stream must write."""
        return json.loads((self.folder / "truth" / f"{stream}.json").read_text(encoding="utf-8"))

    def stop(self):
        """Stops the account. Returns whether the tap kept to the rules of the service."""
        self.process.stdin.close()
        return self.process.wait(60) == 0
