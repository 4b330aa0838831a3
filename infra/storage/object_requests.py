"""Requests to object storage, on s3fs.

Every request is tried again, with growing pauses, when the network or the storage fails in a way that passes: timeouts,
connections refused or reset, bodies that end too early, 5xx, 429, SlowDown. What does not pass (credentials, rights, no such
bucket), or does not pass in time, is a `StorageError`. s3fs is imported at the first request: local datasets never pay for it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import time
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from infra.errors import StorageError

if TYPE_CHECKING:
    from infra.storage.objects import ObjectPath

TRIES_VARIABLE, TIMEOUT_VARIABLE = "LIKENESS_S3_TRIES", "LIKENESS_S3_TIMEOUT_S"
TRIES, TIMEOUT_S = 8, 60.0
PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0  # before the second try, doubled each time, give or take a half
_PASSING_CODES = {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling", "ThrottlingException",
                  "RequestLimitExceeded", "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"}  # fmt: skip
_PASSING_ERRNO = {errno.EBUSY, errno.EREMOTEIO, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED, errno.EPIPE}


def age_s(answer: Any) -> float:
    """Seconds since the object of an answer was written, by the storage's clock; -1 where it does not tell."""
    now = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return (parsedate_to_datetime(now) - answer["LastModified"]).total_seconds() if now else -1.0


def endpoint() -> str:
    """Where requests go, in words, with the setting that says so."""
    url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return f"the endpoint (AWS_ENDPOINT_URL_S3{'=' + url if url else ' is not set: Amazon'})"


def positive_setting(variable: str, default: float) -> float:
    """The number in an environment variable.

    Raises:
        StorageError: it is none above 0.
    """
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
    return _s3fs(os.getpid(), positive_setting(TIMEOUT_VARIABLE, TIMEOUT_S), tuple(map(os.environ.get, names)))


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


def call(path: ObjectPath, method: str, **arguments: Any) -> Any:
    """One request, tried again where that may help.

    Raises:
        FileNotFoundError: no such object (or bucket).
        OSError: with HTTP status 409 or 412, a condition that does not hold.
        StorageError: everything else.
    """
    from fsspec.asyn import sync

    client, timeout_s = _client(), positive_setting(TIMEOUT_VARIABLE, TIMEOUT_S)
    tries = int(positive_setting(TRIES_VARIABLE, TRIES))
    start = time.monotonic()
    for attempt in range(1, tries + 1):
        try:
            return sync(client.loop, _ask, client, method, timeout_s, arguments)
        except Exception as error:
            if method == "get_object" and status(error) == 416:  # an empty object has no first byte
                return _empty(client, timeout_s, arguments)
            if isinstance(error, FileNotFoundError):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error.__cause__
            if status(error) in (409, 412):
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


def status(error: BaseException) -> int:
    """HTTP status behind an error of `call`, 0 for none."""
    return int(_response(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code(error: BaseException) -> str:
    """S3's word for an error of `call`, "" for none."""
    return str(_response(error).get("Error", {}).get("Code", ""))


def _passes(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    from aiohttp import ClientError as NetworkError
    from botocore.exceptions import ConnectionError as NoConnection
    from botocore.exceptions import HTTPClientError

    if status(error):
        return status(error) >= 500 or status(error) in (408, 425, 429) or code(error) in _PASSING_CODES
    network = (NetworkError, HTTPClientError, NoConnection, ConnectionError, TimeoutError, asyncio.TimeoutError, EOFError)
    return any(isinstance(part, network) or (isinstance(part, OSError) and part.errno in _PASSING_ERRNO)
               for part in (error, error.__cause__) if part)  # fmt: skip


def _refused(path: ObjectPath, method: str, error: BaseException) -> StorageError:
    from botocore.exceptions import NoCredentialsError, PartialCredentialsError

    said = _said(error)
    if any(isinstance(part, (NoCredentialsError, PartialCredentialsError)) for part in (error, error.__cause__)):
        return StorageError(f"{path}: no credentials for object storage", fix="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                            "AWS_PROFILE, or run where a role gives them")  # fmt: skip
    if isinstance(error, PermissionError) or status(error) in (401, 403):
        return StorageError(f"{path}: {method} is refused: {said}", fix="check the credentials (AWS_ACCESS_KEY_ID, "
                            f"AWS_SECRET_ACCESS_KEY, AWS_PROFILE), their rights on {path.bucket}, and {endpoint()}")  # fmt: skip
    return StorageError(f"{path}: {method} fails: {said}", fix=f"check {endpoint()}")


def _unreachable(path: ObjectPath, method: str, tries: int, took_s: float, error: BaseException) -> StorageError:
    return StorageError(f"{path}: {method} failed {tries} times in {took_s:.0f} s, the last time with: {_said(error)}",
                        fix=f"check the network and {endpoint()}, then run again: what was finished is kept")  # fmt: skip


def _said(error: BaseException) -> str:
    text = (str(error) or str(error.__cause__ or "")).strip() or type(error).__name__
    return text.splitlines()[0][:300]
