"""A PostgreSQL server for one check, from Debian's packages."""

import glob
import json
import os
import pathlib
import shutil
import subprocess

from common import free_port, run


class Postgres:
    """A server on a free port of the loopback interface, with its data in `folder`."""

    def __init__(self, folder):
        if not glob.glob("/usr/lib/postgresql/*/bin/initdb"):
            run("apt-get", "update", "-qq")
            run("apt-get", "install", "-y", "-qq", "postgresql", stdout=subprocess.DEVNULL)
        self.bin = pathlib.Path(sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1])
        self.data = folder / "postgres"
        self.database = "postgres"
        self.data.mkdir()
        self.port = free_port()
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
        """The output of psql. Names without a schema are looked up in `schema`."""
        command = [self.bin / "psql", "-h", "127.0.0.1", "-p", self.port, "-U", "tap", "-d", self.database]
        environment = {**os.environ, "PGOPTIONS": f"-c search_path={schema}"}
        command += ["-q", "-v", "ON_ERROR_STOP=1", *arguments]
        return run(*command, env=environment, stdout=subprocess.PIPE, text=True).stdout

    def ask(self, query, schema="public"):
        """The rows of a query, each a list of values."""
        wrapped = f"SELECT (SELECT json_agg(value) FROM json_each(row_to_json(answer))) FROM ({query}) AS answer"
        # JSON escapes newlines in values, so a row is a line.
        return [json.loads(line) for line in self.psql("-At", "-c", wrapped, schema=schema).split("\n") if line]

    def rows(self, schema, table):
        return [row for (row,) in self.ask(f'SELECT row_to_json(t) FROM "{table}" t', schema)]

    def settings(self):
        return {"host": "127.0.0.1", "port": self.port, "user": "tap", "password": "unused"}
