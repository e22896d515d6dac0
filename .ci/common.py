"""What the checks beside this file share: commands, results, scratch folders, virtual environments and ports."""

import contextlib
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


def run(*command, **options):
    """Runs a command, which must succeed."""
    return subprocess.run([str(part) for part in command], check=True, **options)


def holds(what, condition, *detail):
    """Prints a line of the report. If the condition is false, prints the detail and ends the check."""
    print(f"{'ok' if condition else 'NOT'}  {what}", flush=True)
    if not condition:
        raise SystemExit("\n".join(map(str, detail)) or 1)


@contextlib.contextmanager
def scratch(name):
    """A temporary folder that other users can enter."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-")).resolve()
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def environment_with(folder, *requirements):
    """Makes a virtual environment with these packages. Returns the folder of its programs."""
    run(sys.executable, "-m", "venv", folder)
    if requirements:
        run(folder / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check", *requirements)
    return folder / "bin"


def free_port():
    """A port of the loopback interface that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
