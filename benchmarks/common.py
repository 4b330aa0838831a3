"""What the benchmarks share: runs in processes of their own, input files, stored values, numbers as text."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.dataset.threads import ONE_THREAD

LABEL = "clips"  # of the input folder, in rows' keys
Members = dict[tuple[str, str], bytes]  # (row key, field) -> stored bytes
Facts = dict[str, Any]


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder for the time of a benchmark; what builds note about this machine goes there too."""
    with tempfile.TemporaryDirectory(prefix="likeness-benchmark-") as folder:
        os.environ["LIKENESS_CACHE"] = str(Path(folder) / "cache")
        yield Path(folder)


def start(script: str, run: str, out: Path, *arguments: object) -> subprocess.Popen[str]:
    """`python SCRIPT --run RUN --out OUT ARGUMENTS`, one thread per numeric library; what it finds it leaves in OUT/run.json."""
    out.mkdir(exist_ok=True)
    settings = os.environ | ONE_THREAD | {"LIKENESS_CACHE": str(out / "cache")}
    settings.pop("RAY_ADDRESS", None)
    command = [sys.executable, script, "--run", run, "--out", str(out), *map(str, arguments)]
    with open(out / "log", "w") as log:
        return subprocess.Popen(command, env=settings, stdout=log, stderr=subprocess.STDOUT, text=True)


def finished(process: subprocess.Popen[str], run: str, out: Path) -> Facts:
    """Wait for a run; what it left.

    Raises:
        SystemExit: it failed.
    """
    if process.wait():
        raise SystemExit(f"{run} failed:\n{(out / 'log').read_text()[-6000:]}")
    return json.loads((out / "run.json").read_text())


def measured(script: str, run: str, out: Path, *arguments: object) -> Facts:
    """One run; its facts, and `whole_s` from starting the process to its end."""
    os.sync()  # what earlier runs wrote is not written during this one
    begun = time.monotonic()
    facts = finished(start(script, run, out, *arguments), run, out)
    return facts | {"whole_s": time.monotonic() - begun}


def leave(out: Path, **facts: Any) -> None:
    """End of a run: its facts for `finished`."""
    (out / "run.json").write_text(json.dumps(facts))


def copied(folder: Path, out: Path, copies: int) -> Path:
    """The files of a folder, `copies` times; names begin with the copy's number, so that every block of files is a mix."""
    out.mkdir()
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            for copy in range(copies):
                shutil.copyfile(path, out / f"{copy:03d}-{path.name}")
    return out


def stored(root: Path, fields: Iterable[str] = ()) -> Members:
    """What a dataset holds, of these fields or of all."""
    from infra.storage import open_dataset

    dataset = open_dataset(root)
    names = list(fields) or list(dataset.fields)
    return {(row.key, name): dataset.read(row, name) for row in dataset.rows() for name in names if dataset.has(row, name)}


def compare(ours: Members, theirs: Members, unhashed: str = "") -> None:
    """Values of both sides must be equal bytes; of the JSON field `unhashed` all but its checksum.

    Raises:
        SystemExit: something is missing or differs.
    """
    if odd := ours.keys() ^ theirs.keys():
        raise SystemExit(f"{len(odd)} values only on one side, of {len(ours)} and {len(theirs)}: {sorted(odd)[:5]}")
    differ = [name for name, data in ours.items() if data != theirs[name] and name[1] != unhashed]
    for key, field in ours:
        if field == unhashed:
            one, other = (json.loads(side[key, field]) | {"sha256": ""} for side in (ours, theirs))
            differ += [(key, field)] if one != other else []
    if differ:
        raise SystemExit(f"{len(differ)} of {len(ours)} values differ: {sorted(differ)[:5]}")


def minutes(members: Mapping[tuple[str, str], bytes]) -> float:
    """Length of all clips together, by their SOURCE records."""
    records = [json.loads(data) for (_, field), data in members.items() if field == "source"]
    return sum(record["n_frames"] / int(record["fps"].partition("/")[0]) for record in records) / 60


def spread(values: Iterable[float], form: str) -> str:
    """Median (least..most)."""
    found = list(values)
    return f"{statistics.median(found):{form}} ({min(found):{form}}..{max(found):{form}})"
