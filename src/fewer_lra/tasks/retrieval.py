"""Retrieval: whether two texts belong together; each is encoded separately, byte by byte.

The published pairs, papers of the ACL Anthology Network that cite each other or not, are no longer
available. Any labelled pairs of texts can be used; a result row names their source.
"""

from __future__ import annotations

from typing import ClassVar

from fewer._validation.settings import settings
from fewer._validation.types import Count
from fewer_lra.tasks.byte_text import ByteText

__all__ = ["Retrieval"]


@settings
class Retrieval(ByteText):
    """Any labelled pairs; `max_length` is that of each text."""

    name: ClassVar[str] = "retrieval"
    columns: ClassVar[tuple[str, ...]] = ("text", "text_b")
    expected_files: ClassVar[str] = (
        "train.jsonl and test.jsonl (.gz, .csv ...) of columns text, text_b, label"
    )

    max_length: Count = 4000
    dev: Count = 2_500
