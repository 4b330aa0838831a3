"""Datasets and sources on S3: the same rows, bytes and digests as in a folder, whatever the network does meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dataset_toy as toy
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from interrupt import Killed, count, stop, stopping
from law_model import EXHAUSTIVE, check_idle, check_whole, contents, make, stored
from s3_server import FAULTS, Proxy

from infra.errors import LikenessError, StorageError
from infra.storage import copies, object_requests, open_dataset
from infra.storage.objects import ObjectPath
from pipelines.dataset.build import build
from pipelines.dataset.collect import collect
from pipelines.dataset.request import Request, load_request, updated
from pipelines.dataset.select import select
from pipelines.dataset.takedown import find_impact, take_down
from pipelines.dataset.verify import verify

FIELDS = ("after", "fragile")
CHANGES = ("put_object", "delete_object", "create_multipart_upload", "upload_part", "complete_multipart_upload")
NEW = {"speaker0/Clip 2.mp4": "9 9 9\n13", "speaker1/new.mp4": "4 5"}


def put_folder(folder: Path, to: ObjectPath) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            (to / path.relative_to(folder).as_posix()).write_bytes(path.read_bytes())


def get_folder(folder: ObjectPath, to: Path) -> None:
    for path in folder.files():
        file = to / path.relative_to(folder).as_posix()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.read_bytes())


def texts(source: Path) -> dict[str, str]:
    return {f"clips/{path.relative_to(source)}": path.read_text() for path in source.rglob("*.mp4")}


def tags(root: ObjectPath) -> dict[str, str]:
    return {str(path): entry.etag for path, entry in (root / "columns").files().items()}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Sources and an unbroken dataset in folders."""
    folder = tmp_path_factory.mktemp("here")
    toy.write_sources(folder / "clips", 3)
    make(folder / "set", folder / "clips", FIELDS)
    return folder / "clips", folder / "set"


@pytest.fixture(scope="module")
def later(here: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same after two sources and a setting."""
    folder = tmp_path_factory.mktemp("later")
    shutil.copytree(here[0], folder / "clips")
    shutil.copytree(here[1], folder / "set")
    for name, text in NEW.items():
        (folder / "clips" / name).write_text(text)
    make(folder / "set", folder / "clips", FIELDS, 2)
    return folder / "clips", folder / "set"


def test_a_build_gives_the_bytes_of_a_local_one_and_a_second_run_nothing(
    here: tuple[Path, Path], later: tuple[Path, Path], bucket: ObjectPath
) -> None:
    root = bucket / "some" / "set"
    assert make(root, here[0], FIELDS).digest == open_dataset(here[1]).digest
    assert contents(root) == contents(here[1])
    check_whole(root, texts(here[0]))
    check_idle(root, here[0], FIELDS)
    before = tags(root)
    make(root, later[0], FIELDS, 2)
    assert contents(root) == contents(later[1])
    assert tags(root).items() >= before.items()  # law 3
    assert verify(root).problems == []
    assert not (root / "lock").exists()
    assert not copies.scratch_folder(root).exists()


def test_sources_lie_on_s3_as_well(here: tuple[Path, Path], later: tuple[Path, Path], bucket: ObjectPath, proxy: Proxy) -> None:
    put_folder(here[0], bucket / "raw" / "clips")
    request = updated(None, sources=[str(bucket / "raw" / "clips")], fields=list(FIELDS))
    root = bucket / "set"
    build(root, request, toy.TOOLBOX, runner="serial")
    assert contents(root) == contents(here[1])
    asked = len(proxy.requests)
    again = build(root, load_request(root) or request, toy.TOOLBOX, runner="serial")
    assert (again.changed, again.units) == (False, 0)
    assert not [path for method, path in proxy.requests[asked:] if method == "GET" and ".mp4" in path]
    for name, text in NEW.items():
        (bucket / "raw" / "clips" / name).write_text(text)
    (bucket / "raw" / "clips" / "speaker0" / "Clip 0.mp4").unlink()
    report = build(root, request.model_copy(update={"operators": {"shift": {"by": 2}}}), toy.TOOLBOX, runner="serial")
    assert open_dataset(root).digest == open_dataset(later[1]).digest  # what is gone keeps its rows
    assert any("Clip 0.mp4" in notice for notice in report.notices)
    get_folder(root, here[0].parent / "fetched")
    gone = request.model_copy(update={"roots": {"clips": str(bucket / "nowhere")}, "fields": [*FIELDS, "summed"]})
    with pytest.raises(LikenessError, match=r"source clips: s3://.*/nowhere is gone, and sum reads its files"):
        build(here[0].parent / "fetched", gone, toy.TOOLBOX, runner="serial")


def test_tars_sidecars_and_lists_of_sources_on_s3(tmp_path: Path, bucket: ObjectPath) -> None:
    clips = tmp_path / "clips"
    toy.write_sources(clips, 3)
    (clips / "speaker0" / "Clip 0.txt").write_text("a caption")
    (clips / "speaker0" / "Clip 2.json").write_text('{"licence": "CC0"}')
    with tarfile.open(clips / "more.tar", "w") as tar:
        for name in ("empty.mp4", "speaker1/Clip 1.mp4"):
            tar.add(clips / name, name)
    lines = ["path\tperson\tsplit", "clips/speaker0/Clip 0.mp4\tanna\tval", "clips/more.tar/speaker1/Clip 1.mp4\tbert\ttrain",
             "clips/speaker0/Clip 2.mp4\tcarl\ttrain"]  # fmt: skip
    (clips / "list.tsv").write_text("\n".join(lines))
    put_folder(clips, bucket / "clips")
    built = {}
    for name, root, source in (("here", tmp_path / "set", clips), ("s3", bucket / "set", bucket / "clips")):
        request = updated(None, sources=[str(source)], source_list=str(source / "list.tsv"), fields=["summed"])
        build(root, request, toy.TOOLBOX, runner="serial")
        built[name] = open_dataset(root)
    assert built["here"].digest == built["s3"].digest
    assert len(built["s3"].rows()) == 4
    assert {row.source["person"] for row in built["s3"].rows()} == {"anna", "bert", "carl"}


def test_copied_either_way_it_is_the_same_dataset(here: tuple[Path, Path], bucket: ObjectPath, tmp_path: Path) -> None:
    put_folder(here[1], bucket / "copied")
    assert open_dataset(bucket / "copied").digest == open_dataset(here[1]).digest
    assert stored(open_dataset(bucket / "copied")) == stored(open_dataset(here[1]))
    assert verify(bucket / "copied").problems == []
    make(bucket / "copied", here[0], FIELDS)  # removes the folder's lock file, which came with it
    check_idle(bucket / "copied", here[0], FIELDS)
    get_folder(bucket / "copied", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(here[1])
    assert verify(tmp_path / "back").problems == []


@pytest.mark.parametrize("fault", ["all of them", *(pytest.param(fault, marks=EXHAUSTIVE) for fault in FAULTS)])
def test_faults_between_cost_nothing_but_time(
    here: tuple[Path, Path], bucket: ObjectPath, proxy: Proxy, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault in ("late", "all of them"):
        monkeypatch.setenv("LIKENESS_S3_TIMEOUT_S", "1.0")
        proxy.late_s = 1.3
    every = 25 if fault == "late" else 5
    kinds = FAULTS if fault == "all of them" else (fault,)
    proxy.fault = lambda number, method, path: kinds[number // every % len(kinds)] if number % every == 0 else ""
    put_folder(here[0], bucket / "clips")
    root = bucket / "set"
    build(root, updated(None, sources=[str(bucket / "clips")], fields=list(FIELDS)), toy.TOOLBOX, runner="serial")
    copies.drop_all()
    data, want = open_dataset(root), open_dataset(here[1])
    assert [row.key for row in data.rows()] == [row.key for row in want.rows()]
    assert stored(data) == stored(want)
    assert verify(root).problems == []
    assert all(proxy.met[kind] >= 5 for kind in kinds)
    proxy.fault = lambda number, method, path: ""
    assert contents(root) == contents(here[1])


def test_storage_that_stays_away_stops_the_build_and_quarantines_nothing(
    here: tuple[Path, Path], bucket: ObjectPath, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIKENESS_S3_TRIES", "2")
    put_folder(here[0], bucket / "clips")
    request = updated(None, sources=[str(bucket / "clips")], fields=list(FIELDS))
    proxy.fault = lambda number, method, path: "busy" if "Clip%201" in path and method == "GET" else ""
    with pytest.raises(StorageError, match=r"Clip 1.mp4: get_object failed 2 times.*run again: what was finished is kept"):
        build(bucket / "set", request, toy.TOOLBOX, runner="serial")
    proxy.fault = lambda number, method, path: ""
    build(bucket / "set", request, toy.TOOLBOX, runner="serial")
    assert contents(bucket / "set") == contents(here[1])


# killed


class Requests:
    """Stops this process before, or right after, its n-th request that changes the storage; dead from then on."""

    def __init__(self, at: int = 0, after: bool = False) -> None:
        self.at, self.after, self.done, self.dead = at, after, 0, False

    @contextmanager
    def counting(self) -> Iterator[Requests]:
        plain = object_requests.call

        def call(path: ObjectPath, method: str, **words: Any) -> Any:
            if self.dead:
                raise Killed
            self.done += method in CHANGES
            if method in CHANGES and self.done == self.at:
                self.dead = True
                if self.after:
                    plain(path, method, **words)
                raise Killed
            return plain(path, method, **words)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(object_requests, "call", call)
            patch.setattr("infra.storage.object_lock._held", {})  # of another process than the next one
            yield self


def killed_at_points(run: Callable[[], Any], before: Callable[[], None], check: Callable[[], None], examples: int) -> None:
    before()
    with Requests().counting() as all_of_them:
        run()

    def one(part: float, after: bool) -> None:
        before()
        with Requests(1 + int(part * (all_of_them.done - 1)), after).counting(), pytest.raises(Killed):
            run()
        check()

    chosen = settings(max_examples=examples, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
    chosen(given(part=st.floats(0, 1), after=st.booleans())(one))()


def clear(root: ObjectPath) -> None:
    for path in root.files():
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("examples", [4, pytest.param(40, marks=EXHAUSTIVE)], ids=["some", "many"])
def test_a_first_build_killed_at_any_request(here: tuple[Path, Path], bucket: ObjectPath, examples: int) -> None:
    root = bucket / "set"

    def check() -> None:
        make(root, here[0], FIELDS)
        assert contents(root) == contents(here[1])
        assert (verify(root).problems, verify(root).others) == ([], (0, 0))
        assert not (root / "lock").exists()

    killed_at_points(lambda: make(root, here[0], FIELDS), lambda: clear(root), check, examples)


@pytest.mark.parametrize("examples", [3, pytest.param(40, marks=EXHAUSTIVE)], ids=["some", "many"])
def test_a_later_build_killed_at_any_request(
    here: tuple[Path, Path], later: tuple[Path, Path], bucket: ObjectPath, examples: int
) -> None:
    root = bucket / "set"
    old, new = (open_dataset(place[1]) for place in (here, later))
    values = {data.digest: stored(data) for data in (old, new)}

    def before() -> None:
        clear(root)
        put_folder(here[1], root)

    def check() -> None:
        data = open_dataset(root)
        assert stored(data) == values[data.digest]  # readers see the one or the other, whole
        make(root, later[0], FIELDS, 2)
        assert contents(root) == contents(later[1])
        assert verify(root).problems == []

    killed_at_points(lambda: make(root, later[0], FIELDS, 2), before, check, examples)


@pytest.mark.parametrize("at", [12, pytest.param(3, marks=EXHAUSTIVE), pytest.param(25, marks=EXHAUSTIVE)])
def test_a_process_killed_in_the_middle_of_an_upload(here: tuple[Path, Path], bucket: ObjectPath, proxy: Proxy, at: int) -> None:
    root = bucket / "set"
    command = [sys.executable, toy.__file__, str(root), str(here[0]), "--fields", *FIELDS]
    puts = 0

    def halfway(path: str) -> None:
        nonlocal puts
        puts += 1
        if puts == at:
            os.kill(process.pid, signal.SIGKILL)

    proxy.halfway = halfway
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, errors
    proxy.halfway = lambda path: None
    report = make(root, here[0], FIELDS)
    assert any("took over the lock of a build that died" in notice for notice in report.notices)
    assert contents(root) == contents(here[1])
    assert verify(root).others == (0, 0)
    check_idle(root, here[0], FIELDS)


def test_a_full_local_disk_is_told_and_mends_after(here: tuple[Path, Path], bucket: ObjectPath) -> None:
    root = bucket / "set"
    steps = count(lambda: make(bucket / "counted", here[0], FIELDS))
    for at in range(1, steps, max(1, steps // 3)):
        clear(root)
        copies.drop_all()
        assert stop(lambda: make(root, here[0], FIELDS), at, "full").stopped
        with stopping():
            make(root, here[0], FIELDS)
        assert contents(root) == contents(here[1])
        assert verify(root).problems == []


def test_what_killed_builds_leave_is_collected(here: tuple[Path, Path], later: tuple[Path, Path], bucket: ObjectPath) -> None:
    root = bucket / "set"
    make(root, here[0], FIELDS)
    with Requests(20).counting(), pytest.raises(Killed):
        make(root, later[0], FIELDS, 2)
    left = verify(root).others[0]
    assert left > 0
    assert len(collect(root, dry_run=True).files) == left
    collect(root)
    assert verify(root).others == (0, 0)
    assert contents(root) == contents(here[1])


# readers


def test_a_reader_fetches_whole_shards_and_none_twice(here: tuple[Path, Path], bucket: ObjectPath, proxy: Proxy) -> None:
    put_folder(here[1], bucket / "set")
    for _ in range(2):
        data = open_dataset(bucket / "set")
        for row in reversed(data.rows()):
            data.read(row, "doubled") if data.has(row, "doubled") else None
    tars = [path for method, path in proxy.requests if method == "GET" and path.endswith(".tar")]
    assert len(tars) == len(set(tars)) == sum(shard.rows > 0 for shard in data.manifest.shards)
    assert all("/double/" in path for path in tars)


def test_damage_is_never_read(here: tuple[Path, Path], bucket: ObjectPath) -> None:
    put_folder(here[1], bucket / "set")
    data = open_dataset(bucket / "set")
    row = next(row for row in data.rows() if data.has(row, "doubled"))
    tar = data.open_member(row, "doubled")[0]
    whole = tar.read_bytes()
    tar.write_bytes(whole[:700] + b"?" + whole[701:])
    with pytest.raises(LikenessError, match=r"\.tar bytes changed.*find all damage with: likeness data verify s3://"):
        data.read(row, "doubled")
    (problem,) = verify(bucket / "set").problems
    assert (problem.path, problem.what.partition(":")[0]) == (tar.relative_to(bucket / "set").as_posix(), "bytes changed")
    tar.write_bytes(whole[:1000])
    with pytest.raises(LikenessError, match="bytes changed"):
        data.read(row, "doubled")
    tar.unlink()
    with pytest.raises(LikenessError, match="can't be opened: No such file"):
        data.read(row, "doubled")
    make(bucket / "set", here[0], FIELDS)
    assert contents(bucket / "set") == contents(here[1])


def test_a_cache_smaller_than_the_dataset_gives_the_same(
    here: tuple[Path, Path], bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_folder(here[1], bucket / "set")
    monkeypatch.setenv("LIKENESS_S3_CACHE_GB", "0.00003")
    assert stored(open_dataset(bucket / "set")) == stored(open_dataset(here[1]))
    room = sum(path.stat().st_size for path in (copies.objects_folder() / "content").rglob("*") if path.is_file())
    assert room <= 30_000


# the other verbs


def test_selections_takedown_and_purge(here: tuple[Path, Path], bucket: ObjectPath, tmp_path: Path) -> None:
    roots = (tmp_path / "set", bucket / "set")
    shutil.copytree(here[1], roots[0])
    put_folder(here[1], roots[1])
    seen = []
    for root in roots:
        chosen = select(root, "large", ["after.both >= 20"])
        rows = [row.key for row in open_dataset(f"{root}:large").rows()]
        assert len(rows) == chosen.kept
        impact = find_impact(root, people=["clips/speaker0"])
        take_down(root, impact)
        hidden = open_dataset(root).taken_down
        purged = take_down(root, find_impact(root), purged=True)
        assert purged
        assert verify(root).problems == []
        seen.append((rows, impact.rows, impact.files, impact.manifests, hidden, purged, contents(root)))
        if isinstance(root, ObjectPath):  # nothing is left of them, nor of any copy here
            names = [path.read_bytes() for path in root.files() if path.name != "request.json"]
            assert not [data for data in names if b"speaker0/Clip" in data]
            assert not any(p.is_file() and b"speaker0/Clip" in p.read_bytes() for p in copies.objects_folder().rglob("*"))
    first, second = seen
    assert first[:5] == second[:5]
    assert (first[5].rows, first[5].files, first[5].manifests) == (second[5].rows, second[5].files, second[5].manifests)
    assert first[6] == second[6]


def test_old_manifests_are_collected(here: tuple[Path, Path], later: tuple[Path, Path], bucket: ObjectPath, tmp_path: Path) -> None:
    made = []
    for root in (tmp_path / "set", bucket / "set"):
        make(root, here[0], FIELDS)
        make(root, later[0], FIELDS, 2)
        garbage = collect(root, keep=1)
        made.append((garbage.kept, garbage.manifests, garbage.files, contents(root)))
        assert verify(root).others == (0, 0)
    assert made[0] == made[1]


@pytest.mark.long
def test_several_workers(here: tuple[Path, Path], bucket: ObjectPath) -> None:
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "LIKENESS_CACHE")
    assert all(os.environ[name] for name in names)
    put_folder(here[0], bucket / "clips")
    request = Request(roots={"clips": str(bucket / "clips")}, fields=list(FIELDS))
    script = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); import dataset_toy as toy; from infra.storage.objects import as_path;"
        "from pipelines.dataset.build import build; from pipelines.dataset.request import Request;"
        "from infra.cluster import connect;"
        "here = {'env_vars': {'PYTHONPATH': sys.argv[1]}};"
        "connect(num_cpus=2, object_store_memory=2**27, log_to_driver=False, runtime_env=here);"
        "print(build(as_path(sys.argv[2]), Request(**json.loads(sys.argv[3])), toy.TOOLBOX, runner='ray', workers=2).digest)"
    )
    tests = str(Path(toy.__file__).parent)
    done = subprocess.run([sys.executable, "-c", script, tests, str(bucket / "set"), json.dumps(request.model_dump())],
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert contents(bucket / "set") == contents(here[1])
