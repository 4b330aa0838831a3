"""The bytes of whole objects, in parts: each part is a request of its own, tried again alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from infra.errors import StorageError
from infra.storage import object_requests
from infra.storage.objects import ObjectPath

PART_BYTES = 32 << 20  # of one request; larger objects go and come in parts


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
            data, answer = object_requests.call(path, "get_object", Bucket=path.bucket, Key=path.object_key,
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
        number = object_requests.call(path, "create_multipart_upload", **where)["UploadId"]
        try:
            parts = []
            part_bytes = max(PART_BYTES, -(-size // 9000))  # of a most 10 000 parts
            for n, part in enumerate(iter(lambda: data.read(part_bytes), b""), 1):
                answer = object_requests.call(path, "upload_part", **where, UploadId=number, PartNumber=n, Body=part)
                parts.append({"PartNumber": n, "ETag": answer["ETag"]})
            object_requests.call(path, "complete_multipart_upload", **where, UploadId=number, MultipartUpload={"Parts": parts})
        except BaseException:
            with suppress(OSError, StorageError):
                object_requests.call(path, "abort_multipart_upload", **where, UploadId=number)
            raise


def drop_unfinished_uploads(folder: ObjectPath) -> None:
    """Remove the parts that killed processes have left; nobody sees them, but they take room."""
    answer = object_requests.call(folder, "list_multipart_uploads", Bucket=folder.bucket, Prefix=folder.prefix)
    for line in answer.get("Uploads", ()):
        with suppress(FileNotFoundError):
            object_requests.call(folder, "abort_multipart_upload", Bucket=folder.bucket, Key=line["Key"], UploadId=line["UploadId"])
