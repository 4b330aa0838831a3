"""A Ray cluster on this machine for jobs, and connecting to Ray such that workers import our packages.

`start` runs Ray's own head node (`ray start --head --block`) in a session of its own, on free ports, the dashboard on the
loopback interface only, everything behind a token (Ray's inner ports listen on all interfaces, whatever one asks for).
`stop` ends that session only, never other Ray processes of the machine. A cluster's folder holds `cluster.json`, the token,
and the head's output.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from infra.cache import cache_folder
from infra.errors import LikenessError

VARIABLE = "LIKENESS_CLUSTER"
LOOPBACK = "127.0.0.1"
# Ray kills a stopped job after 3 s unless told otherwise; training saves on SIGTERM.
STOP_WAIT_S = 60
START_TIMEOUT_S = 90
OF_NEW_CLUSTERS = ("num_cpus", "num_gpus", "resources", "object_store_memory", "include_dashboard")


@dataclass(frozen=True)
class Cluster:
    """A running local cluster.

    Attributes:
        address: of the head node, for `ray.init`.
        dashboard: http address, for jobs and for a browser.
        pid, born: the process that holds the cluster, and when it started (process numbers come round again).
        scratch: Ray's session files; short, since socket paths may have 107 characters only.
    """

    address: str
    dashboard: str
    pid: int
    born: float
    scratch: str

    @property
    def alive(self) -> bool:
        try:
            return _birth(self.pid) == self.born and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def default_folder() -> Path:
    """$LIKENESS_CLUSTER, else `cluster` in the cache folder."""
    return Path(os.environ.get(VARIABLE) or cache_folder() / "cluster")


def running(folder: Path | None = None) -> Cluster | None:
    """The cluster of a folder, if it is alive."""
    try:
        cluster = Cluster(**json.loads(((folder or default_folder()) / "cluster.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return cluster if cluster.alive else None


def environment(folder: Path | None = None) -> dict[str, str]:
    """What a process needs to talk to the cluster of a folder."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str((folder or default_folder()).resolve() / "token")}


def start(folder: Path | None = None, cpus: int | None = None, object_store_mb: int | None = None) -> Cluster:
    """The cluster of `folder`: the one that runs, or a new one.

    Raises:
        LikenessError: Ray did not come up; the message shows where its output is.
    """
    folder = (folder or default_folder()).resolve()
    if cluster := running(folder):
        return cluster
    _create_token(folder)
    binaries = Path(sys.executable).parent
    scratch = tempfile.mkdtemp(prefix="likeness-ray-", dir="/tmp")
    ports = _free_ports(7)
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port",
             "metrics-export-port", "ray-client-server-port")
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats", "--log-style=record",
        f"--node-ip-address={LOOPBACK}", "--include-dashboard=true", f"--dashboard-host={LOOPBACK}", f"--temp-dir={scratch}",
        "--min-worker-port=0", "--max-worker-port=0", *(f"--{name}={port}" for name, port in zip(names, ports, strict=True)),
    ]
    if cpus is not None:
        command.append(f"--num-cpus={cpus}")
    if object_store_mb is not None:
        command.append(f"--object-store-memory={object_store_mb << 20}")
    settings = os.environ | environment(folder) | {
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
        "PATH": os.pathsep.join([str(binaries), os.environ.get("PATH", os.defpath)]),  # DeepSpeed looks for ninja there
    }
    settings.pop("RAY_ADDRESS", None)
    with open(folder / "head.log", "wb") as log:
        head = subprocess.Popen(
            command, env=settings, cwd=package_root(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    cluster = Cluster(
        address=f"{LOOPBACK}:{ports[0]}", dashboard=f"http://{LOOPBACK}:{ports[1]}", pid=head.pid,
        born=_birth(head.pid), scratch=scratch,
    )
    (folder / "cluster.json").write_text(json.dumps(asdict(cluster), indent=1))
    deadline = time.monotonic() + START_TIMEOUT_S
    own_address = Path(scratch) / "ray_current_cluster"  # Ray exchanges 127.0.0.1 for the machine's own address
    while not (own_address.exists() and _accepts_jobs(cluster, folder)):
        if head.poll() is not None or time.monotonic() > deadline:
            stop(folder)
            raise LikenessError("the local Ray cluster did not come up", fix=f"its output is in {folder / 'head.log'}")
        time.sleep(0.3)
    cluster = replace(cluster, address=own_address.read_text().strip())
    (folder / "cluster.json").write_text(json.dumps(asdict(cluster), indent=1))
    return cluster


def stop(folder: Path | None = None) -> bool:
    """End the cluster of a folder, and only that; whether there was one. Jobs still running are killed."""
    folder = (folder or default_folder()).resolve()
    try:
        cluster = Cluster(**json.loads((folder / "cluster.json").read_text()))
    except (OSError, ValueError, TypeError):
        return False
    was_alive = cluster.alive
    processes = _processes(cluster) if was_alive else []
    with contextlib.suppress(psutil.NoSuchProcess):
        if was_alive:
            psutil.Process(cluster.pid).send_signal(signal.SIGTERM)  # the head ends its servers in an order that works
    _, left = psutil.wait_procs(processes, timeout=15)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=5)
    shutil.rmtree(cluster.scratch, ignore_errors=True)
    (folder / "cluster.json").unlink(missing_ok=True)
    return was_alive


def package_root() -> Path:
    """The folder that our five packages are in."""
    return Path(__file__).resolve().parents[1]


def connect(**options: Any) -> Any:
    """`ray.init(**options)` such that workers import our packages; on $RAY_ADDRESS, else on a new local cluster.

    Ray puts the driver's working directory first on its workers' import path. Run from a folder with a `models/` of its
    own, workers would import that one: while Ray starts, the working directory is therefore the folder of our packages.
    Hand absolute paths to tasks.
    """
    import ray

    # "local": without it Ray joins any cluster that somebody started on this machine
    if options.setdefault("address", os.environ.get("RAY_ADDRESS", "local")) == "local":
        options.setdefault("include_dashboard", False)
        # Ray turns its token on by itself, with a warning; setting RAY_AUTH_MODE here would come too late for its C++ part
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    else:
        options = {name: value for name, value in options.items() if name not in OF_NEW_CLUSTERS}
    with contextlib.chdir(package_root()):
        return ray.init(**options)


def _birth(pid: int) -> float:
    """When a process began: in ticks since the machine's start; elsewhere than on Linux in seconds since 1970.

    Where the clock is set, psutil finds another time of day for the same process, and the cluster would be taken for gone.
    """
    try:
        return float(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return psutil.Process(pid).create_time()


def _processes(cluster: Cluster) -> list[psutil.Process]:
    """The head with all below it (jobs, too), and orphans of its session."""
    head = psutil.Process(cluster.pid)
    found = {p.pid: p for p in [head, *head.children(recursive=True)]}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == cluster.pid:
                found.setdefault(process.pid, process)
    return list(found.values())


def _create_token(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "token"
    if not file.exists():
        from secrets import token_hex

        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            out.write(token_hex(32))


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind((LOOPBACK, 0))
        return [s.getsockname()[1] for s in sockets]


def _accepts_jobs(cluster: Cluster, folder: Path) -> bool:
    """Asks the head for its list of jobs: answered only when the servers behind it are up, too."""
    from urllib.request import Request, urlopen

    request = Request(cluster.dashboard + "/api/jobs/", headers={"Authorization": f"Bearer {(folder / 'token').read_text()}"})
    try:
        with urlopen(request, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False
