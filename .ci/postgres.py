"""A PostgreSQL of its own for a check, from Debian's packages."""

import glob
import json
import os
import pathlib
import shutil
import socket
import subprocess


def run(*command, **options):
    return subprocess.run([str(part) for part in command], check=True, **options)


class Postgres:
    """A server of its own, on a free port of the loopback."""

    def __init__(self, folder):
        if not glob.glob("/usr/lib/postgresql/*/bin/initdb"):
            run("apt-get", "update", "-qq")
            run("apt-get", "install", "-y", "-qq", "postgresql", stdout=subprocess.DEVNULL)
        self.bin = pathlib.Path(sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1])
        self.data = folder / "postgres"
        self.database = "postgres"
        self.data.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        # The server refuses to run as root.
        self.prefix = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self.prefix:
            shutil.chown(self.data, "postgres", "postgres")
        self.call("initdb", "-D", self.data, "-U", "tap", "-A", "trust", "-E", "UTF8", stdout=subprocess.DEVNULL)
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.data}"
        self.call("pg_ctl", "-D", self.data, "-w", "-o", options, "-l", self.data / "log", "start", stdout=subprocess.DEVNULL)

    def call(self, program, *arguments, **options):
        return run(*self.prefix, self.bin / program, *arguments, cwd="/", **options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.call("pg_ctl", "-D", self.data, "-m", "immediate", "stop", stdout=subprocess.DEVNULL)

    def psql(self, *arguments, schema="public"):
        """What psql says to these, with names without a schema meant in this one."""
        command = [self.bin / "psql", "-h", "127.0.0.1", "-p", self.port, "-U", "tap", "-d", self.database]
        environment = {**os.environ, "PGOPTIONS": f"-c search_path={schema}"}
        command += ["-q", "-v", "ON_ERROR_STOP=1", *arguments]
        return run(*command, env=environment, stdout=subprocess.PIPE, text=True).stdout

    def ask(self, query, schema="public"):
        """The answer to a query, a list of values for each row."""
        wrapped = f"SELECT (SELECT json_agg(value) FROM json_each(row_to_json(answer))) FROM ({query}) AS answer"
        # A newline within a value is escaped in JSON.
        return [json.loads(line) for line in self.psql("-At", "-c", wrapped, schema=schema).split("\n") if line]

    def rows(self, schema, table):
        return [row for (row,) in self.ask(f'SELECT row_to_json(t) FROM "{table}" t', schema)]

    def settings(self):
        return {"host": "127.0.0.1", "port": self.port, "user": "tap", "password": "unused"}
