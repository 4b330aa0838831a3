"""Paths on object storage: `s3://BUCKET/KEY`, on s3fs.

An `ObjectPath` is a `pathlib.Path` whose files are objects, so that what reads and writes datasets need not know where they lie.
What differs from a folder:

- an object appears whole, when its last byte has arrived, or not at all; there is no rename, no append, no `fsync`;
- there are no folders but the slashes in the names;
- what wants a file of its own (tar, Parquet, a decoder) gets a whole copy on this machine: `infra.storage.copies`. Handing an
  `ObjectPath` itself to `open` or `os` fails with one clear line.

Every request is tried again, with growing pauses, when the network or the storage fails in a way that passes: timeouts,
connections refused or reset, bodies that end too early, 5xx, 429, SlowDown. What does not pass (credentials, rights, no such
bucket), or does not pass in time, is a `StorageError`. s3fs is imported at the first request: local datasets never pay for it.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PosixPath
from typing import Any

from infra.errors import StorageError

SCHEME = "s3:"
TRIES_VARIABLE, TIMEOUT_VARIABLE = "LIKENESS_S3_TRIES", "LIKENESS_S3_TIMEOUT_S"
TRIES, TIMEOUT_S = 8, 60.0
PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0  # before the second try, doubled each time, give or take a half
PART_BYTES = 32 << 20  # of one request; larger objects go and come in parts, each tried again alone
_PASSING_CODES = {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling", "ThrottlingException",
                  "RequestLimitExceeded", "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"}  # fmt: skip
_PASSING_ERRNO = {errno.EBUSY, errno.EREMOTEIO, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED, errno.EPIPE}


@dataclass(frozen=True)
class Entry:
    """An object as its storage tells of it: `etag` changes with the bytes, `age_s` is by the storage's clock (-1: not known)."""

    bytes: int
    etag: str
    age_s: float = -1.0


class _Stat:
    """What callers ask of `stat()`; the time of change stands for the ETag, which is surer: equal where nothing has changed."""

    st_nlink = 1

    def __init__(self, entry: Entry) -> None:
        self.st_size = entry.bytes
        self.st_mtime_ns = int.from_bytes(hashlib.blake2b(entry.etag.encode(), digest_size=7).digest(), "big")


class ObjectPath(PosixPath):
    """See the module. Paths relative to another (`relative_to`) are plain names."""

    __slots__ = ()

    def __str__(self) -> str:
        parts = self.parts
        return f"{SCHEME}//{'/'.join(parts[1:])}" if parts and parts[0] == SCHEME else "/".join(parts) or "."

    def __fspath__(self) -> str:
        raise StorageError(f"{self} is on object storage, and what was asked for wants a folder of this machine",
                           fix="name a local path")  # fmt: skip

    @property
    def bucket(self) -> str:
        return self.parts[1]

    @property
    def object_key(self) -> str:
        return "/".join(self.parts[2:])

    # where it is: nowhere on this machine

    def absolute(self) -> ObjectPath:
        return self

    def resolve(self, strict: bool = False) -> ObjectPath:
        return self

    def expanduser(self) -> ObjectPath:
        return self

    # what is there

    def entry(self) -> Entry | None:
        """The object of this very name, None where there is none."""
        if (known := _listed(self)) is not None:
            return known.get(self)
        try:
            answer = _call(self, "head_object", Bucket=self.bucket, Key=self.object_key)
        except FileNotFoundError:
            return None
        return Entry(answer["ContentLength"], answer["ETag"].strip('"'), _age_s(answer))

    def exists(self) -> bool:
        return (bool(self.object_key) and self.entry() is not None) or self.is_dir()

    def is_file(self) -> bool:
        return bool(self.object_key) and self.entry() is not None

    def is_dir(self) -> bool:
        if (known := _listed(self)) is not None:
            return any(self in path.parents for path in known)
        try:
            answer = _call(self, "list_objects_v2", Bucket=self.bucket, Prefix=_folder(self), MaxKeys=1)
        except FileNotFoundError:
            return False
        return bool(answer.get("Contents")) or (not self.object_key)

    def is_symlink(self) -> bool:
        return False

    def stat(self, *, follow_symlinks: bool = True) -> Any:
        if (entry := self.entry()) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return _Stat(entry)

    def lstat(self) -> Any:
        return self.stat()

    def files(self) -> dict[ObjectPath, Entry]:
        """All objects below, in the order of their names."""
        if (known := _listed(self)) is not None:
            return {path: entry for path, entry in known.items() if self in path.parents}
        found: dict[ObjectPath, Entry] = {}
        more: dict[str, str] = {}
        while True:
            answer = _call(self, "list_objects_v2", Bucket=self.bucket, Prefix=_folder(self), **more)
            for line in answer.get("Contents", ()):
                if not line["Key"].endswith("/"):  # some tools mark folders with empty objects
                    found[ObjectPath(SCHEME, self.bucket, line["Key"])] = Entry(line["Size"], line["ETag"].strip('"'))
            if not answer.get("IsTruncated"):
                return found
            more = {"ContinuationToken": answer["NextContinuationToken"]}

    def _below(self) -> list[ObjectPath]:
        """Objects, and the folders that their names imply, sorted."""
        found = set(self.files())
        found |= {above for path in found for above in path.parents if self in above.parents}  # type: ignore[misc]
        return sorted(found)

    def iterdir(self) -> Iterator[ObjectPath]:  # type: ignore[override]
        yield from (path for path in self._below() if path.parent == self)

    def glob(self, pattern: str) -> Iterator[ObjectPath]:  # type: ignore[override]
        wanted = pattern.split("/")
        for path in self._below():
            parts = path.parts[len(self.parts) :]
            if len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted)):
                yield path

    def rglob(self, pattern: str) -> Iterator[ObjectPath]:  # type: ignore[override]
        yield from (path for path in self._below() if fnmatchcase(path.name, pattern))

    # its bytes

    def read_bytes(self) -> bytes:
        return b"".join(read_parts(self))

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def write_bytes(self, data: Any) -> int:
        self.put(bytes(data))
        return len(data)

    def write_text(self, data: str, encoding: str | None = None, errors: str | None = None, newline: str | None = None) -> int:
        return self.write_bytes(data.encode(encoding or "utf-8", errors or "strict"))

    def put(self, data: bytes, only_new: bool = False, only_over: str = "") -> str | None:
        """Write in one request; the new ETag, None where the condition does not hold.

        Args:
            only_new: where there is no object of this name.
            only_over: where the object has this ETag.
        """
        condition = {"IfNoneMatch": "*"} if only_new else {"IfMatch": only_over} if only_over else {}
        try:
            answer = _call(self, "put_object", Bucket=self.bucket, Key=self.object_key, Body=data, **condition)
        except (FileExistsError, FileNotFoundError, OSError) as error:
            if _status(error) in (404, 409, 412) and condition and _code(error) != "NoSuchBucket":
                return None
            if isinstance(error, FileNotFoundError):
                raise StorageError(f"{self}: there is no bucket {self.bucket}", fix=f"make it, or check {_endpoint()}") from None
            raise
        return str(answer["ETag"]).strip('"')

    def open(self, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        """For reading only: of a whole copy on this machine."""
        from infra.storage.copies import local

        if set(mode) & set("wax+"):
            raise StorageError(f"{self}: objects are written whole, not opened with mode {mode}")
        return open(local(self), mode, *args, **kwargs)

    def unlink(self, missing_ok: bool = False) -> None:
        if not missing_ok and self.entry() is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        _call(self, "delete_object", Bucket=self.bucket, Key=self.object_key)

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing to do: there are no folders."""

    def rmdir(self) -> None:
        """Nothing to do: there are no folders."""


def as_path(where: str | Path) -> Path:
    """A path as users name it: `s3://BUCKET/KEY`, else one of this machine.

    Raises:
        StorageError: storage of another kind, or no bucket named.
    """
    if isinstance(where, ObjectPath):
        return where
    text = str(where)
    scheme, colon, rest = text.partition(":/")  # a Path has one slash less
    if not colon or "/" in scheme or len(scheme) < 2:
        return Path(where)
    if scheme != "s3" or not rest.strip("/"):
        raise StorageError(f"{text}", allowed="a local path, or s3://BUCKET/FOLDER")
    return ObjectPath(SCHEME, rest.strip("/"))


def as_local_path(where: str | Path) -> Path:
    """A path of this machine, for what can't be written to object storage.

    Raises:
        StorageError: it is not.
    """
    if is_object(path := as_path(where)):
        raise StorageError(f"{path} is on object storage, and this is written to a folder of this machine",
                           fix="name a local path, and copy it afterwards")  # fmt: skip
    return path


def is_object(path: Path) -> bool:
    return isinstance(path, ObjectPath)


def read_parts(path: ObjectPath, etag: str = "") -> Iterator[bytes]:
    """The object's bytes, in parts; all of the same object, or it fails.

    Args:
        etag: of the object wanted, else the present one is taken.

    Raises:
        FileNotFoundError: no such object.
        StorageError: it was replaced while it was read.
    """
    start, total = 0, 1
    while start < total:
        wanted = {"IfMatch": etag} if etag else {}
        try:
            data, answer = _call(path, "get_object", Bucket=path.bucket, Key=path.object_key,
                                 Range=f"bytes={start}-{start + PART_BYTES - 1}", **wanted)  # fmt: skip
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise StorageError(f"{path} was replaced while it was read", fix="run again when nobody writes it") from error
        etag = answer["ETag"]
        total = int(str(answer.get("ContentRange", f"/{len(data)}")).rpartition("/")[2])
        start += len(data)
        yield data


def upload(file: Path, path: Path) -> None:
    """Store a local file; the object is there when this returns, and nothing of it before."""
    assert isinstance(path, ObjectPath)
    size = file.stat().st_size
    where = {"Bucket": path.bucket, "Key": path.object_key}
    with open(file, "rb") as data:
        if size <= 2 * PART_BYTES:
            path.put(data.read())
            return
        number = _call(path, "create_multipart_upload", **where)["UploadId"]
        try:
            parts = []
            part_bytes = max(PART_BYTES, -(-size // 9000))  # of a most 10 000 parts
            for n, part in enumerate(iter(lambda: data.read(part_bytes), b""), 1):
                answer = _call(path, "upload_part", **where, UploadId=number, PartNumber=n, Body=part)
                parts.append({"PartNumber": n, "ETag": answer["ETag"]})
            _call(path, "complete_multipart_upload", **where, UploadId=number, MultipartUpload={"Parts": parts})
        except BaseException:
            with suppress(OSError, StorageError):
                _call(path, "abort_multipart_upload", **where, UploadId=number)
            raise


def drop_unfinished_uploads(folder: ObjectPath) -> None:
    """Remove the parts that killed processes have left; nobody sees them, but they take room."""
    answer = _call(folder, "list_multipart_uploads", Bucket=folder.bucket, Prefix=_folder(folder))
    for line in answer.get("Uploads", ()):
        with suppress(FileNotFoundError):
            _call(folder, "abort_multipart_upload", Bucket=folder.bucket, Key=line["Key"], UploadId=line["UploadId"])


# lists taken once

_lists: dict[int, list[tuple[ObjectPath, dict[ObjectPath, Entry]]]] = {}  # thread -> the lists it goes by


@contextmanager
def listed(folder: Path) -> Iterator[None]:
    """Take one list of all objects below `folder`, by which this thread answers what is there while the block runs.

    A plan asks for thousands of files; nothing may be written below `folder` meanwhile. Does nothing for a local folder.
    """
    if not isinstance(folder, ObjectPath):
        yield
        return
    lists = _lists.setdefault(threading.get_ident(), [])
    lists.append((folder, folder.files()))
    try:
        yield
    finally:
        lists.pop()


def _listed(path: ObjectPath) -> dict[ObjectPath, Entry] | None:
    for folder, found in reversed(_lists.get(threading.get_ident(), ())):
        if path == folder or folder in path.parents:
            return found
    return None


# requests


def _folder(path: ObjectPath) -> str:
    return f"{path.object_key}/" if path.object_key else ""


def _age_s(answer: Any) -> float:
    now = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return (parsedate_to_datetime(now) - answer["LastModified"]).total_seconds() if now else -1.0


def _endpoint() -> str:
    url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return f"the endpoint (AWS_ENDPOINT_URL_S3{'=' + url if url else ' is not set: Amazon'})"


def _number(variable: str, default: float) -> float:
    text = os.environ.get(variable, "")
    try:
        value = float(text or default)
    except ValueError:
        value = 0.0
    if value <= 0:
        raise StorageError(f"{variable}={text}", allowed="a number above 0")
    return value


@lru_cache(maxsize=4)
def _s3fs(process: int, timeout_s: float, settings: tuple) -> Any:
    """The client of this process (it does not survive a fork) for these settings."""
    try:
        import s3fs
    except ImportError:
        raise StorageError("s3:// needs s3fs, which is not installed", fix="pip install 'likeness[s3]'") from None
    config = {"connect_timeout": min(timeout_s, 10.0), "read_timeout": timeout_s, "retries": {"total_max_attempts": 1}}
    client = s3fs.S3FileSystem(config_kwargs=config, use_listings_cache=False, skip_instance_cache=True)
    client.retries = 1  # tries are counted here, in one place
    return client


def _client() -> Any:
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_DEFAULT_REGION", "AWS_REGION")
    return _s3fs(os.getpid(), _number(TIMEOUT_VARIABLE, TIMEOUT_S), tuple(map(os.environ.get, names)))


async def _ask(client: Any, method: str, timeout_s: float, arguments: dict[str, Any]) -> Any:
    # The read timeout is for each chunk; a body that trickles must end as well: at a tenth of a megabyte per second.
    limit_s = timeout_s + len(arguments.get("Body", b"")) / 1e5 if method in ("put_object", "upload_part") else None
    answer = await asyncio.wait_for(client._call_s3(method, **arguments), limit_s)
    if method != "get_object":
        return answer
    async with answer["Body"] as body:
        data = await asyncio.wait_for(body.read(), timeout_s + answer["ContentLength"] / 1e5)
    if len(data) != answer["ContentLength"]:
        raise ConnectionResetError(errno.ECONNRESET, f"{len(data)} bytes of {answer['ContentLength']}")
    return data, answer


def _call(path: ObjectPath, method: str, **arguments: Any) -> Any:
    """One request, tried again where that may help.

    Raises:
        FileNotFoundError: no such object (or bucket).
        OSError: with HTTP status 409 or 412, a condition that does not hold.
        StorageError: everything else.
    """
    from fsspec.asyn import sync

    client, timeout_s, tries = _client(), _number(TIMEOUT_VARIABLE, TIMEOUT_S), int(_number(TRIES_VARIABLE, TRIES))
    start = time.monotonic()
    for attempt in range(1, tries + 1):
        try:
            return sync(client.loop, _ask, client, method, timeout_s, arguments)
        except Exception as error:
            if method == "get_object" and _status(error) == 416:  # an empty object has no first byte
                return _empty(client, timeout_s, arguments)
            if isinstance(error, FileNotFoundError):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error.__cause__
            if _status(error) in (409, 412):
                raise
            if not _passes(error):
                raise _refused(path, method, error) from error
            if attempt == tries:
                raise _unreachable(path, method, tries, time.monotonic() - start, error) from error
            time.sleep(min(PAUSE_S * 2 ** (attempt - 1), LONGEST_PAUSE_S) * random.uniform(0.5, 1.5))
    raise AssertionError("unreachable")


def _empty(client: Any, timeout_s: float, arguments: dict[str, Any]) -> Any:
    from fsspec.asyn import sync

    return sync(client.loop, _ask, client, "get_object", timeout_s, {k: v for k, v in arguments.items() if k != "Range"})


def _response(error: BaseException) -> dict[str, Any]:
    """botocore's answer behind an error that s3fs has translated."""
    for part in (error, error.__cause__, error.__context__):
        if isinstance(response := getattr(part, "response", None), dict):
            return response
    return {}


def _status(error: BaseException) -> int:
    return int(_response(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: BaseException) -> str:
    return str(_response(error).get("Error", {}).get("Code", ""))


def _passes(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    from aiohttp import ClientError as NetworkError
    from botocore.exceptions import ConnectionError as NoConnection
    from botocore.exceptions import HTTPClientError

    if _status(error):
        return _status(error) >= 500 or _status(error) in (408, 425, 429) or _code(error) in _PASSING_CODES
    network = (NetworkError, HTTPClientError, NoConnection, ConnectionError, TimeoutError, asyncio.TimeoutError, EOFError)
    return any(isinstance(part, network) or (isinstance(part, OSError) and part.errno in _PASSING_ERRNO)
               for part in (error, error.__cause__) if part)  # fmt: skip


def _refused(path: ObjectPath, method: str, error: BaseException) -> StorageError:
    from botocore.exceptions import NoCredentialsError, PartialCredentialsError

    said = _said(error)
    if any(isinstance(part, (NoCredentialsError, PartialCredentialsError)) for part in (error, error.__cause__)):
        return StorageError(f"{path}: no credentials for object storage", fix="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                            "AWS_PROFILE, or run where a role gives them")  # fmt: skip
    if isinstance(error, PermissionError) or _status(error) in (401, 403):
        return StorageError(f"{path}: {method} is refused: {said}", fix="check the credentials (AWS_ACCESS_KEY_ID, "
                            f"AWS_SECRET_ACCESS_KEY, AWS_PROFILE), their rights on {path.bucket}, and {_endpoint()}")  # fmt: skip
    return StorageError(f"{path}: {method} fails: {said}", fix=f"check {_endpoint()}")


def _unreachable(path: ObjectPath, method: str, tries: int, took_s: float, error: BaseException) -> StorageError:
    return StorageError(f"{path}: {method} failed {tries} times in {took_s:.0f} s, the last time with: {_said(error)}",
                        fix=f"check the network and {_endpoint()}, then run again: what was finished is kept")  # fmt: skip


def _said(error: BaseException) -> str:
    text = (str(error) or str(error.__cause__ or "")).strip() or type(error).__name__
    return text.splitlines()[0][:300]
