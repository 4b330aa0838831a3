"""Datasets on disk: columns on plain tar, ledgers, manifests, and the reader."""

from infra.storage.dataset import Dataset, Row, open_dataset
from infra.storage.manifest import FieldInfo, Manifest

__all__ = ["Dataset", "FieldInfo", "Manifest", "Row", "open_dataset"]
