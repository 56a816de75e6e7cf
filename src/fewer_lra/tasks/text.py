"""Text: the sentiment of a film review, byte by byte (IMDB).

Long Range Arena evaluates dev on its test rows; here dev is held out of train.
"""

from __future__ import annotations

from typing import ClassVar

from fewer._validation.settings import settings
from fewer._validation.types import Count
from fewer_lra.tasks.byte_text import ByteText

__all__ = ["Text"]


@settings
class Text(ByteText):
    """Any labelled texts; the defaults are those of IMDB."""

    name: ClassVar[str] = "text"
    columns: ClassVar[tuple[str, ...]] = ("text",)
    expected_files: ClassVar[str] = (
        "train.jsonl and test.jsonl (.gz, .csv ...) of columns text, label"
    )

    max_length: Count = 1000
    dev: Count = 2_500
