"""The fake account as a process, with what builds it and the list of streams, for the checks beside this file."""

import contextlib
import json
import pathlib
import shutil
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
CATALOG = json.loads((ROOT / "catalog.example.json").read_text(encoding="utf-8"))["streams"]
STREAMS = [entry["tap_stream_id"] for entry in CATALOG]
KEYS = {entry["tap_stream_id"]: entry["metadata"][0]["metadata"]["table-key-properties"] for entry in CATALOG}


def build(release=True):
    """Builds the tap and the fake account; gives the folder of both programs."""
    profile = ["--release"] if release else []
    subprocess.run(["cargo", "build", "--quiet", "--locked", "--bins", *profile], cwd=ROOT, check=True)
    fake = ["--package", "fake-constant-contact", "--features", "cli"]
    subprocess.run(["cargo", "build", "--quiet", "--locked", "--bins", *fake, *profile], cwd=ROOT, check=True)
    return ROOT / "target" / ("release" if release else "debug")


@contextlib.contextmanager
def scratch(name):
    """A folder that is removed in the end, and that other users can enter."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-")).resolve()
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Account:
    """A fake account that serves until it is stopped. `folder` gets its configs and what it holds."""

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
        kept = self.stop()
        if not failure and not kept:
            raise SystemExit("the tap broke a rule of the service")

    def tell(self, word):
        """Says a word to it, such as `change`, and gives the line that it answers."""
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def truth(self, stream):
        """The rows that a full read of a stream must give."""
        return json.loads((self.folder / "truth" / f"{stream}.json").read_text(encoding="utf-8"))

    def stop(self):
        """Ends it; true where the tap kept to the service's rules."""
        self.process.stdin.close()
        return self.process.wait(60) == 0
