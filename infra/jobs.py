"""Jobs on a Ray cluster: submit a command, see its state and output, stop it.

A job is a command line that Ray's head node runs as a process of its own. Stopping sends SIGTERM to it and to all
processes below it, then waits `cluster.STOP_WAIT_S` before SIGKILL, so that training has time to save.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shlex
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from infra import cluster
from infra.errors import LikenessError

T = TypeVar("T")
DASHBOARD_PORT = 8265
FINAL = ("SUCCEEDED", "FAILED", "STOPPED")
# a job sees the environment of the cluster's head, not that of who submits it
FORWARDED = ("LIKENESS_", "MLFLOW_")


@dataclass(frozen=True)
class Job:
    """One job's state: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED; times in seconds since 1970."""

    id: str
    state: str
    command: str
    message: str
    started: float | None
    ended: float | None
    exit_code: int | None

    @property
    def over(self) -> bool:
        return self.state in FINAL

    @property
    def line(self) -> str:
        began = datetime.fromtimestamp(self.started).strftime("%Y-%m-%d %H:%M:%S") if self.started else "-"
        return f"{self.id}  {self.state:<9}  {began}  {self.command}"


def likeness_program() -> str:
    """The installed console script of this interpreter. Not `python -m pipelines...`: -m puts the working directory first on
    the import path, where a `models/` of the user's would be taken for ours."""
    program = Path(sys.executable).with_name("likeness")
    if not program.exists():
        raise LikenessError(f"there is no {program}", fix=f"install the project: {sys.executable} -m pip install -e .")
    return str(program)


class Jobs:
    """The jobs of one cluster.

    Args:
        address: of its dashboard ("host:8265", "http://host:8265"); by default $RAY_API_SERVER_ADDRESS, else the local
            cluster that `cluster.start` made in `folder`.

    Raises:
        LikenessError: no cluster, nobody there, or a token is wanted.
    """

    def __init__(self, address: str | None = None, folder: Path | None = None) -> None:
        local = cluster.running(folder)
        address = address or os.environ.get("RAY_API_SERVER_ADDRESS") or (local.dashboard if local else None)
        if address is None:
            raise LikenessError("there is no cluster to run jobs on", fix="run: likeness job up; or pass --address HOST:PORT")
        url = urlsplit(address if "://" in address else f"http://{address}")
        if url.scheme not in ("http", "https") or not url.hostname:
            raise LikenessError(f"address {address!r}", allowed="HOST:PORT or http(s)://HOST:PORT of a Ray dashboard")
        port = url.port or DASHBOARD_PORT
        self.address = f"{url.scheme}://{url.hostname}:{port}"
        # jobs of our own cluster can use this interpreter and this folder; another port of this machine may be a forwarded one
        self.same_machine = bool(local and local.dashboard == self.address)
        headers = {}
        if self.same_machine:
            headers["Authorization"] = f"Bearer {Path(cluster.environment(folder)['RAY_AUTH_TOKEN_PATH']).read_text()}"
        try:  # Ray's client has no timeout of its own
            socket.create_connection((url.hostname, port), timeout=5).close()
        except OSError as error:
            reason = error.strerror or str(error)
            raise LikenessError(
                f"nobody answers at {self.address} ({reason})", fix="check --address, or start a cluster here: likeness job up"
            ) from None
        from ray.job_submission import JobSubmissionClient

        logging.getLogger("ray.dashboard").setLevel(logging.WARNING)  # it reports every closed connection
        self._client = self._ask(lambda: JobSubmissionClient(self.address, headers=headers))

    def submit(self, command: Sequence[str], folder: Path | None = None, cpus: float | None = None) -> str:
        """Run a command (program first) in a folder; gives the job's id.

        Args:
            folder: working directory, which must exist on the cluster's head; by default this one on our own cluster.
            cpus: cores set aside for the command itself; none by default, since what it starts on Ray counts for itself.
        """
        if folder is None and self.same_machine:
            folder = Path.cwd()
        entrypoint = "exec " + shlex.join(command)  # without `exec` a shell would receive the SIGTERM, too
        if folder is not None:
            entrypoint = f"cd {shlex.quote(str(folder))} && {entrypoint}"
        env = {name: value for name, value in os.environ.items() if name.startswith(FORWARDED)}
        runtime_env = {"env_vars": env | {"RAY_JOB_STOP_WAIT_TIME_S": str(cluster.STOP_WAIT_S)}}
        job = f"likeness-{datetime.now():%m%d-%H%M%S}-{secrets.token_hex(2)}"
        return self._ask(
            lambda: self._client.submit_job(
                entrypoint=entrypoint, submission_id=job, runtime_env=runtime_env, entrypoint_num_cpus=cpus
            )
        )

    def get(self, job: str) -> Job:
        """One job's state."""
        return _job(self._ask(lambda: self._client.get_job_info(job), job))

    def all(self) -> list[Job]:
        """Submitted jobs, newest first."""
        found = [_job(info) for info in self._ask(self._client.list_jobs) if info.submission_id]
        return sorted(found, key=lambda job: job.started or 0.0, reverse=True)

    def wait(self, job: str, timeout_s: float | None = None) -> Job:
        """Until the job is over, or the time is up."""
        deadline = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
        while not (state := self.get(job)).over and time.monotonic() < deadline:
            time.sleep(0.5)
        return state

    def logs(self, job: str) -> str:
        """What the job has printed so far."""
        return self._ask(lambda: self._client.get_job_logs(job), job)

    def follow(self, job: str) -> Iterator[str]:
        """What the job prints, as it prints it, until it is over."""
        self.get(job)
        with asyncio.Runner() as runner:
            pieces: AsyncIterator[str] = self._client.tail_job_logs(job)
            while True:
                try:
                    yield runner.run(_next(pieces))
                except StopAsyncIteration:
                    return

    def stop(self, job: str, wait: bool = True) -> Job:
        """Ask a job to end (SIGTERM), and wait until it has saved and ended; one that is over stays as it is."""
        if (state := self.get(job)).over:
            return state
        self._ask(lambda: self._client.stop_job(job), job)
        return self.wait(job, cluster.STOP_WAIT_S + 15) if wait else self.get(job)

    def _ask(self, question: Callable[[], T], job: str = "") -> T:
        """Ray's answer, its failures in a user's words."""
        from ray.exceptions import AuthenticationError

        try:
            return question()
        except AuthenticationError:
            raise LikenessError(
                f"{self.address} wants a token", fix="set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the cluster's token file"
            ) from None
        except (RuntimeError, ConnectionError) as error:
            if job and "404" in str(error):
                ids = ", ".join(j.id for j in self.all()[:5]) or "none: there are no jobs"
                raise LikenessError(f"unknown job {job!r} at {self.address}", allowed=ids) from None
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise LikenessError(f"{self.address}: {lines[-1] if lines else type(error).__name__}") from error


async def _next(pieces: AsyncIterator[str]) -> str:
    return await anext(pieces)


def _job(info: Any) -> Job:
    return Job(
        id=info.submission_id, state=str(info.status), command=_shown(info.entrypoint), message=info.message or "",
        started=info.start_time / 1000 if info.start_time else None, ended=info.end_time / 1000 if info.end_time else None,
        exit_code=info.driver_exit_code,
    )


def _shown(entrypoint: str) -> str:
    """The command as it was given: without the folder and the path of our own program."""
    command = entrypoint.rpartition("exec ")[2]
    program, _, rest = command.partition(" ")
    return f"likeness {rest}" if program.endswith("/likeness") else command
