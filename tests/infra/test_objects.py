"""Paths on object storage, copies of what lies there, and the lock, against an S3 server."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from s3_server import FAULTS, Proxy

from infra import digest
from infra.errors import LikenessError, StorageError
from infra.storage import copies, object_lock, object_requests, object_transfers
from infra.storage.copies import Changed, local, local_all, open_local
from infra.storage.lock import build_lock
from infra.storage.manifest import Manifest, commit_manifest
from infra.storage.object_transfers import upload
from infra.storage.objects import ObjectPath, as_local_path, as_path, listed


def test_what_users_name_becomes_a_path() -> None:
    path = as_path("s3://bucket/talks/")
    assert isinstance(path, ObjectPath)
    assert (str(path), path.bucket, path.object_key) == ("s3://bucket/talks", "bucket", "talks")
    assert as_path(Path("s3://bucket/talks")) == path  # as command lines make it
    assert pickle.loads(pickle.dumps(path / "a")) == path / "a"
    assert (path / "a" / "b.tar").relative_to(path).as_posix() == "a/b.tar"
    assert (path.absolute(), path.resolve(), path.parent.name) == (path, path, "bucket")
    assert type(as_path("a/b")) is type(as_path("/s3:/b")) is type(Path())
    for wrong in ("gs://bucket/x", "s3://", "http://host/x"):
        with pytest.raises(StorageError, match="allowed: a local path, or s3://BUCKET/FOLDER"):
            as_path(wrong)


def test_what_wants_a_folder_of_this_machine_is_refused_in_words() -> None:
    path = as_path("s3://bucket/x")
    for use in (lambda: open(path).close(), lambda: os.listdir(path), lambda: path.open("w"), lambda: as_local_path(path)):
        with pytest.raises(StorageError, match="s3://bucket/x"):
            use()


def test_objects_behave_as_files(bucket: ObjectPath) -> None:
    root = bucket / "talks"
    assert not root.exists()
    for name in ("HEAD", "manifests/a.json", "manifests/b.json", "columns/op/12/0.tar", "columns/op/12/0.idx"):
        (root / name).write_bytes(name.encode())
    assert (bucket / "talksy").exists() is False
    assert (root.exists(), root.is_dir(), root.is_file(), (root / "HEAD").is_file(), (root / "HEAD").is_dir()) == (
        True, True, False, True, False)  # fmt: skip
    for _ in range(2):
        assert [p.name for p in root.iterdir()] == ["HEAD", "columns", "manifests"]
        assert [p.stem for p in (root / "manifests").glob("*.json")] == ["a", "b"]
        assert [str(p.relative_to(root)) for p in (root / "columns").glob("*/*")] == ["columns/op/12"]
        assert [p.name for p in root.rglob("*.tar")] == ["0.tar"]
        assert sum(p.is_file() for p in root.rglob("*")) == 5
    assert (root / "HEAD").read_text() == "HEAD"
    assert (root / "HEAD").stat().st_size == 4
    before = (root / "HEAD").stat().st_mtime_ns
    (root / "HEAD").write_text("DAEH")
    assert (root / "HEAD").stat().st_mtime_ns != before
    (root / "HEAD").unlink()
    (root / "HEAD").unlink(missing_ok=True)
    for gone in (lambda: (root / "HEAD").unlink(), lambda: (root / "HEAD").read_bytes(), lambda: (root / "HEAD").stat()):
        with pytest.raises(FileNotFoundError):
            gone()
    assert not (root / "HEAD").exists()


def test_a_list_taken_once_answers_without_requests(bucket: ObjectPath, proxy: Proxy) -> None:
    for n in range(4):
        (bucket / "set" / f"{n}.tar").write_bytes(bytes(n))
    with listed(bucket / "set"):
        asked = len(proxy.requests)
        assert [(bucket / "set" / f"{n}.tar").exists() for n in range(6)] == [True] * 4 + [False] * 2
        assert (bucket / "set" / "3.tar").stat().st_size == 3
        assert len(proxy.requests) == asked
    (bucket / "set" / "5.tar").write_bytes(b"")
    assert (bucket / "set" / "5.tar").exists()


def test_large_files_go_and_come_in_parts(bucket: ObjectPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = 5 << 20  # the least that S3 takes
    monkeypatch.setattr(object_transfers, "PART_BYTES", part)
    data = os.urandom(2 * part + 77)
    (tmp_path / "a").write_bytes(data)
    upload(tmp_path / "a", bucket / "a")
    assert (bucket / "a").read_bytes() == data
    copy = local(bucket / "a")
    assert copy.read_bytes() == data
    assert copy.name == digest.of_bytes(data) == digest.of_file(bucket / "a")
    (bucket / "empty").write_bytes(b"")
    assert (bucket / "empty").read_bytes() == local(bucket / "empty").read_bytes() == b""


def test_an_upload_that_fails_leaves_no_parts_and_one_that_is_killed_is_swept(bucket: ObjectPath, tmp_path: Path) -> None:
    number = object_requests.call(bucket, "create_multipart_upload", Bucket=bucket.bucket, Key="set/x.tar")["UploadId"]
    object_requests.call(bucket, "upload_part", Bucket=bucket.bucket, Key="set/x.tar", UploadId=number, PartNumber=1, Body=b"1")
    other = object_requests.call(bucket, "create_multipart_upload", Bucket=bucket.bucket, Key="setting/x.tar")["UploadId"]
    object_transfers.drop_unfinished_uploads(bucket / "set")
    left = object_requests.call(bucket, "list_multipart_uploads", Bucket=bucket.bucket)["Uploads"]
    assert [line["UploadId"] for line in left] == [other]  # a neighbour's is none of ours


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_that_pass_are_waited_out(bucket: ObjectPath, proxy: Proxy, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIKENESS_S3_TIMEOUT_S", "0.5")
    proxy.late_s = 1.0
    data = os.urandom(20_000)
    proxy.fault = lambda number, method, path: fault if number % 2 else ""
    (bucket / "a").write_bytes(data)
    assert (bucket / "a").read_bytes() == data
    assert local(bucket / "a").read_bytes() == data
    assert [path.name for path in bucket.iterdir()] == ["a"]
    (bucket / "a").unlink()
    assert not (bucket / "a").exists()
    assert proxy.met[fault] >= 6


def test_faults_that_stay_are_told_with_the_setting(bucket: ObjectPath, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIKENESS_S3_TRIES", "3")
    proxy.fault = lambda number, method, path: "busy"
    with pytest.raises(StorageError, match=r"put_object failed 3 times in .* reduce your request rate.*AWS_ENDPOINT_URL_S3=http"):
        (bucket / "a").write_bytes(b"1")
    assert proxy.met["busy"] == 3
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=r"head_object failed 3 times.*connect.*check the network and the endpoint"):
        (bucket / "a").exists()


def test_no_credentials_no_rights_no_bucket(bucket: ObjectPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match="there is no bucket missing-bucket"):
        as_path("s3://missing-bucket/x").write_bytes(b"1")
    with pytest.raises(StorageError, match="there is no bucket missing-bucket"), build_lock(as_path("s3://missing-bucket/set")):
        pass
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": str(tmp_path / "none"),
                        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none")}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match="no credentials for object storage; set AWS_ACCESS_KEY_ID"):
        (bucket / "a").write_bytes(b"1")


def test_s3fs_is_imported_by_the_first_request_only() -> None:
    code = "import sys, pipelines.cli.data, infra.storage; assert not {'s3fs', 'botocore', 'aiobotocore'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_forked_process_has_a_client_of_its_own(bucket: ObjectPath) -> None:
    (bucket / "a").write_bytes(b"1")
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        assert pool.map(ObjectPath.read_bytes, [bucket / "a"] * 4) == [b"1"] * 4
    assert (bucket / "a").read_bytes() == b"1"


# copies


def test_copies_are_named_by_their_bytes_and_follow_the_object(bucket: ObjectPath, proxy: Proxy) -> None:
    (bucket / "a").write_bytes(b"one")
    first = local(bucket / "a")
    gets = sum(method == "GET" for method, _ in proxy.requests)
    assert local(bucket / "a") == first
    assert local(bucket / "b", digest.of_bytes(b"one")) == first  # the same bytes elsewhere: no request at all
    assert sum(method == "GET" for method, _ in proxy.requests) == gets
    (bucket / "a").write_bytes(b"two")
    assert local(bucket / "a").read_bytes() == b"two"
    with pytest.raises(FileNotFoundError):
        local(bucket / "none")


def test_other_bytes_than_asked_for_are_never_used(bucket: ObjectPath) -> None:
    (bucket / "a").write_bytes(b"damaged")
    with pytest.raises(Changed, match=r"s3://.*/a: bytes changed"):
        local(bucket / "a", digest.of_bytes(b"whole"))
    left = [p for p in (copies.objects_folder() / "content").rglob("*") if p.is_file()]
    assert left == []


def test_copies_take_no_more_room_than_allowed(bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIKENESS_S3_CACHE_GB", "0.00035")  # three of them
    datas = [bytes([n]) * 100_000 for n in range(6)]
    for n, data in enumerate(datas):
        (bucket / str(n)).write_bytes(data)
    handle = open_local(bucket / "0")
    most = 0
    for n in (1, 2, 1, 3, 4, 1, 5):
        assert local(bucket / str(n)).read_bytes() == datas[n]
        time.sleep(0.01)
        there = [p for p in (copies.objects_folder() / "content").rglob("*") if p.is_file()]
        most = max(most, sum(p.stat().st_size for p in there))
    assert most <= 350_000
    assert {p.read_bytes() for p in there} == {datas[n] for n in (1, 4, 5)}  # used last
    assert os.pread(handle, 100_000, 0) == datas[0]  # open ones stay good
    os.close(handle)
    monkeypatch.setenv("LIKENESS_S3_CACHE_GB", "none")
    with pytest.raises(StorageError, match="LIKENESS_S3_CACHE_GB=none; allowed: a number above 0"):
        local(bucket / "2")


def test_many_at_once_fetch_an_object_once(bucket: ObjectPath, proxy: Proxy) -> None:
    data = os.urandom(50_000)
    (bucket / "a").write_bytes(data)
    found = local_all([(bucket / "a", digest.of_bytes(data))] * 20)
    assert {path.read_bytes() for path in found} == {data}
    assert sum(method == "GET" for method, _ in proxy.requests) == 1


# the lock


def test_one_build_at_a_time(bucket: ObjectPath, proxy: Proxy) -> None:
    root = bucket / "set"
    with build_lock(root) as notice:
        assert notice == ""
        told = []

        def second() -> None:
            try:
                with build_lock(root):
                    told.append("held twice")
            except LikenessError as error:
                told.append(str(error))

        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        assert f"another build of {root} is running (process {os.getpid()} on" in told[0]
    assert not (root / "lock").exists()
    proxy.fault = lambda number, method, path: "lost answer" if method == "PUT" and proxy.met["lost answer"] < 1 else ""
    with build_lock(root):  # written, but the answer never came: it is ours all the same
        assert proxy.met["lost answer"] == 1


def left_lock(root: ObjectPath, **other: object) -> None:
    lock = object_lock._Lock(root)
    (root / "lock").write_bytes(json.dumps(json.loads(lock._text()) | {"token": "another", **other}).encode())


def test_a_lock_of_the_dead_is_taken_over(bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    root = bucket / "set"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left_lock(root, pid=dead.pid)
    with build_lock(root) as notice:
        assert notice == f"took over the lock of a build that died (process {dead.pid} on {object_lock.socket.gethostname()})"
    left_lock(root, pid=os.getpid(), started=1.0)  # the number was given anew
    with build_lock(root) as notice:
        assert notice
    left_lock(root, machine="elsewhere", host="elsewhere", pid=1)
    with pytest.raises(LikenessError, match=r"running \(process 1 on elsewhere\).*killed on another machine the lock is free 90 s"):
        build_lock(root).__enter__()
    monkeypatch.setattr(object_lock, "LEASE_S", -1.0)
    with build_lock(root) as notice:
        assert "process 1 on elsewhere" in notice


def test_a_lock_is_renewed_while_it_is_held(bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_lock, "RENEW_S", 0.05)
    with build_lock(bucket / "set"):
        tags = set()
        for _ in range(20):
            tags.add((bucket / "set" / "lock").entry().etag)  # type: ignore[union-attr]
            time.sleep(0.05)
        assert len(tags) > 3
    time.sleep(0.1)
    assert not (bucket / "set" / "lock").exists()


def test_who_lost_the_lock_moves_no_head(bucket: ObjectPath) -> None:
    root = bucket / "set"
    manifest = Manifest(shard_sources=1, wanted=(), ingest="ingest/0", sources=(), shards=(), fields={}, columns={})
    with build_lock(root):
        left_lock(root, machine="elsewhere", host="elsewhere", pid=1)
        with pytest.raises(LikenessError, match=r"build lock was lost to another build \(process 1 on elsewhere\)"):
            commit_manifest(root, manifest)
    assert not (root / "HEAD").exists()
    assert (root / "lock").exists()  # it is not ours


def test_a_storage_without_conditional_writes_is_refused(bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = object_requests.call
    forget = lambda path, method, **words: plain(path, method, **{k: v for k, v in words.items() if k != "IfNoneMatch"})
    monkeypatch.setattr(object_requests, "call", forget)
    with pytest.raises(StorageError, match="ignores the conditions of writes"), build_lock(bucket / "set"):
        pass
    assert not (bucket / "set" / "lock").exists()
