"""Images on object stores, read through pyarrow's file systems, where a run lets rows name them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

SCHEMES = ("s3://", "gs://")


class Remote(str):
    """The address of an image on an object store, such as s3://bucket/a.jpg."""

    __slots__ = ()


def is_remote(name: object) -> bool:
    return isinstance(name, str) and name.startswith(SCHEMES)


@lru_cache(maxsize=64)  # finding the region of a bucket takes a request
def file_system(bucket: str) -> Any:
    """pyarrow's file system for `s3://bucket`; keys and endpoint are the environment's."""
    from pyarrow import fs

    return fs.FileSystem.from_uri(bucket)[0]


def opened(name: Remote) -> Any:
    """The image as an open file of pyarrow. Raises OSError, as FileNotFoundError for none."""
    scheme, _, path = name.partition("://")
    return file_system(f"{scheme}://{path.partition('/')[0]}").open_input_file(path)
