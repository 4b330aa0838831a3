"""Finding a row's source file again: a report shows pictures from it where it still lies, unchanged, where the build found it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.errors import LikenessError
from infra.storage import Dataset, Row
from infra.storage.objects import is_object
from pipelines.dataset.expand import child_sources
from pipelines.dataset.request import load_request
from pipelines.dataset.sources import Source, find_sources
from pipelines.dataset.worker import own_file


class Originals:
    """The sources of a dataset on this machine; `scratch` is a folder for copies out of tars."""

    def __init__(self, dataset: Dataset, scratch: Path) -> None:
        self.scratch = scratch
        self.sources: dict[str, Source] = {}
        try:
            request = load_request(dataset.root)
            if request is not None:
                found = child_sources(request) if request.parent else find_sources(dataset.root, request, dataset.manifest.sources)
                self.sources = {source.path: source for source in found}
        except (LikenessError, OSError):
            pass  # folders moved or unmounted: the report does without

    @contextmanager
    def file(self, row: Row) -> Iterator[Path | None]:
        """The row's source as a file of its own, None where it is gone or has another size than the one ingested."""
        source = self.sources.get(str(row.source.get("path")))
        if source is None or source.bytes < 0 or source.bytes != row.source.get("bytes", source.bytes):
            yield None
        elif source.part is None and not is_object(source.file):
            yield source.file
        else:
            copy = own_file(source, self.scratch)
            try:
                yield copy
            finally:
                copy.unlink(missing_ok=True)
