"""Token ids of texts: cleaning, encoding, truncating. Every `str` has a result.

| the text | the result |
|---|---|
| empty or blank | only the special tokens, `[CLS] [SEP]` |
| a lone surrogate | U+FFFD (fast tokenizers raise `TypeError` on a surrogate) |
| NUL, control and right-to-left marks | the tokenizer's: BERT's drops them, a byte-level one not |
| only unknown tokens | `[CLS] [UNK] ... [SEP]` |
| a million characters | the same ids as without the limit on characters, see `shorten` |
| more than `max_length` tokens | truncated with one `TruncationWarning`, or `OverlongError` |
| not a `str` | `TypeError` with the row |
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from fewer._validation.types import check_length

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

Overlong = Literal["truncate", "error"]
Item = TypeVar("Item")

BATCH_TEXTS = 1000
# Characters of a text that are tokenised first (English reviews have 4 to 5 per token).
_CHARS_PER_TOKEN = 32
_MIN_CHARS = 8192
# A cut inside a word can change its pieces (WordPiece: at most 100), but no earlier ones.
_SPARE_TOKENS = 256


class TruncationWarning(UserWarning):
    """Some texts are longer than `max_length` tokens and lost their end."""


class OverlongError(ValueError):
    """A text is longer than `max_length` tokens, and truncation is off."""


def clean(text: str) -> str:
    r"""Replace lone surrogates by U+FFFD and join surrogate pairs.

    Tokenizers and files accept only text that UTF-8 can encode.

    >>> clean("lone \ud83d, pair \ud83d\ude00") == "lone \ufffd, pair \U0001f600"
    True
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def encode_texts(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    pairs: Sequence[str] | None = None,
    max_length: int,
    overlong: Overlong = "truncate",
) -> Dataset:
    """Encode texts, or pairs of texts, without padding: one row per text, in the same order.

    Columns: input_ids, attention_mask, token_type_ids (if the tokenizer has them), length. In an
    overlong pair the longer text is truncated first. `max_length` includes the special tokens and
    must not exceed the model's maximum.
    """
    return as_dataset(_encode_batches(texts, tokenizer, pairs, max_length, overlong))


def encode_rows(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    pairs: Sequence[str] | None = None,
    max_length: int,
    overlong: Overlong = "truncate",
) -> Dataset | EncodedRows:
    """Encode as `encode_texts`; up to `BATCH_TEXTS` texts without the cost of a `Dataset`."""
    batches = _encode_batches(texts, tokenizer, pairs, max_length, overlong)
    return as_dataset(batches) if len(texts) > BATCH_TEXTS else EncodedRows(*batches)


@dataclass(frozen=True)
class EncodedRows:
    """Encoded rows in plain lists, as even a small `Dataset` takes milliseconds to create."""

    columns: Mapping[str, list[Any]]

    @property
    def column_names(self) -> list[str]:
        """Name the columns."""
        return list(self.columns)

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.columns["input_ids"])

    def __getitem__(self, name: str) -> list[Any]:
        """Return a column."""
        return self.columns[name]


def as_dataset(batches: Iterable[dict[str, list[Any]]]) -> Dataset:
    """Concatenate the columns of one or more batches into a `Dataset`."""
    from datasets import Dataset, concatenate_datasets

    parts = list(map(Dataset.from_dict, batches))
    return parts[0] if len(parts) == 1 else concatenate_datasets(parts)


def _encode_batches(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[str] | None,
    max_length: int,
    overlong: Overlong,
) -> Iterator[dict[str, list[Any]]]:
    """Yield the columns of batches of `BATCH_TEXTS` texts, at least one batch."""
    _check_arguments(texts, pairs, tokenizer, max_length, overlong)
    lengths: dict[int, int] = {}  # row -> tokens before truncation
    for start in with_progress(range(0, max(len(texts), 1), BATCH_TEXTS)):
        stop = start + BATCH_TEXTS
        columns, batch_lengths = _encode_batch(
            texts[start:stop],
            pairs[start:stop] if pairs is not None else None,
            tokenizer,
            max_length,
        )
        lengths |= {start + row: tokens for row, tokens in batch_lengths.items()}
        yield columns
    if lengths:
        _report_truncation(lengths, len(texts), max_length, overlong)


def listed(values: Iterable[Item], name: str, *, item: str = "text") -> list[Item]:
    """List the items of the argument `name`.

    Raises `TypeError` for a value without items or order, and for one that iterates over keys,
    column names or rows (a mapping, a DataFrame, a Dataset).
    """
    if isinstance(values, str | bytes):
        fix = "Wrap it in a list: [text]." if item == "text" else "Split it: [['its', 'words']]."
        kind = "one string" if isinstance(values, str) else "bytes"
    elif isinstance(values, Set):
        kind, fix = f"a {type(values).__name__}, which has no order", "Use sorted(...)."
    elif isinstance(values, Mapping) or _has_columns(values):
        kind, fix = f"a {type(values).__name__}", f"Give one column: {name}=rows['text']."
    elif not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0:
        kind, fix = f"{values!r} ({type(values).__name__})", "Wrap it in a list."
    else:
        return list(values)
    raise TypeError(f"{name} must be a list with one {item} per row; got {kind}. {fix}")


def _has_columns(values: object) -> bool:
    """Check for a table: DataFrames have `columns`, tables of Arrow `column_names`."""
    return hasattr(values, "columns") or hasattr(values, "column_names")


def check_strings(texts: Sequence[object], name: str, pairs: str = "") -> None:
    """Raise `TypeError` for the first value that is not a string; `name` is their argument.

    `pairs` is the name of the option for second texts, if there is one.
    """
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            fix = "Remove the row or give it a text; it may be empty."
            if isinstance(text, Mapping):
                fix = "Give the texts alone: [row['text'] for row in rows]."
            elif isinstance(text, bytes):
                fix = "Decode it: .decode('utf-8')."
            elif pairs and hasattr(text, "__len__") and len(text) == 2:
                fix = f"Give the first texts here, and the second ones as {pairs}=[...]."
            raise TypeError(
                f"{name}, row {row} (the first is 0), must be a string; got {text!r:.80} "
                f"({type(text).__name__}). {fix}"
            )


def _check_arguments(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    overlong: str,
) -> None:
    """Raise for arguments that cannot be encoded."""
    if isinstance(texts, str) or isinstance(pairs, str):
        raise TypeError("texts must be a list; got one string. Wrap it in a list: [text].")
    if overlong not in ("truncate", "error"):
        raise ValueError(f"overlong must be 'truncate' or 'error'; got {overlong!r}.")
    check_strings(texts, "texts", pairs="text_pairs")
    if pairs is not None:
        check_strings(pairs, "pairs")
        if len(pairs) != len(texts):
            raise ValueError(
                f"texts and pairs must be of one length; got {len(texts)} texts and {len(pairs)} "
                "pairs."
            )
    check_tokenizer(tokenizer, max_length, pair=pairs is not None)


def check_tokenizer(
    tokenizer: PreTrainedTokenizerBase, max_length: int, *, pair: bool = False
) -> None:
    """Raise for a tokenizer that cannot encode every text, or a `max_length` that is too small."""
    if not tokenizer.is_fast:
        raise TypeError(
            "tokenizer must be a fast tokenizer (one of the `tokenizers` library); got a "
            f"{type(tokenizer).__name__}. Load it with AutoTokenizer.from_pretrained(...)."
        )
    check_length(max_length)
    special = int(tokenizer.num_special_tokens_to_add(pair=pair))
    if special == 0:
        raise ValueError(
            "tokenizer must add special tokens, or an empty text has no token; got a "
            f"{type(tokenizer).__name__}. Use the tokenizer of an encoder (BERT, RoBERTa, ...)."
        )
    if max_length <= special:
        raise ValueError(
            f"max_length must be above the number of special tokens, {special}; got {max_length}."
        )


def _encode_batch(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> tuple[dict[str, list[Any]], dict[int, int]]:
    """Encode one batch; return its columns, and the full lengths of truncated rows."""
    names = dict.fromkeys(["input_ids", *tokenizer.model_input_names, "attention_mask"])
    if not texts:
        return {name: [] for name in [*names, "length"]}, {}
    # explicit padding and truncation: the tokenizer's file may set both
    encoded = tokenizer(
        [shorten(clean(text), tokenizer, max_length) for text in texts],
        None if pairs is None else [shorten(clean(text), tokenizer, max_length) for text in pairs],
        padding=False,
        truncation=False,
        return_attention_mask=True,
        verbose=False,
    )
    columns = {name: list(encoded[name]) for name in names}
    lengths = {
        row: len(ids) for row, ids in enumerate(columns["input_ids"]) if len(ids) > max_length
    }
    for row in lengths:
        kept_indices = kept_tokens(encoded.sequence_ids(row), max_length, tokenizer.truncation_side)
        for values in columns.values():
            values[row] = [values[row][token] for token in kept_indices]
    columns["length"] = [len(ids) for ids in columns["input_ids"]]
    return columns, lengths


def kept_tokens(sequence_ids: Sequence[int | None], max_length: int, side: str) -> list[int]:
    """Return the indices of tokens that "longest first" truncation keeps, special ones included.

    `sequence_ids` holds for each token 0 (first text), 1 (second text) or None (special). The
    tokenizer's truncation keeps the same tokens, but for a pair it also builds all combinations of
    the two remainders, which for two texts of 100,000 tokens exhausts memory.
    """
    special = [token for token, sequence in enumerate(sequence_ids) if sequence is None]
    first, second = (
        [token for token, sequence in enumerate(sequence_ids) if sequence == number]
        for number in (0, 1)
    )
    room = max_length - len(special)
    shorter = min(len(first), len(second), room // 2)
    longer = room - shorter
    sizes = (longer, shorter) if len(first) > len(second) else (shorter, longer)
    parts = [
        tokens[len(tokens) - size :] if side == "left" else tokens[:size]
        for tokens, size in zip((first, second), sizes, strict=True)
    ]
    return sorted(special + parts[0] + parts[1])


def shorten(text: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> str:
    """Drop characters beyond `max_length` tokens, as tokenising a million takes seconds.

    The ids after truncation stay the same. The head ends at white space if there is some near its
    end, and has clearly more tokens than `max_length`; if not (long runs of spaces or of dropped
    characters, words of thousands of letters), a head four times as long is tried, and so on.
    """
    chars = max(_CHARS_PER_TOKEN * max_length, _MIN_CHARS)
    while len(text) > chars and tokenizer.truncation_side == "right":
        head = text[:chars]
        words = head.rsplit(maxsplit=1)
        if len(words) == 2 and len(words[1]) < chars // 4:
            head = words[0]
        ids = tokenizer(
            head, add_special_tokens=False, padding=False, truncation=False, verbose=False
        )["input_ids"]
        if len(ids) >= max_length + _SPARE_TOKENS:
            return head
        chars *= 4
    return text


def _report_truncation(lengths: dict[int, int], rows: int, max_length: int, overlong: str) -> None:
    """Report truncated texts once, as a warning or as an error."""
    row, tokens = max(lengths.items(), key=lambda item: item[1])
    summary = (
        f"{len(lengths)} of {rows} texts are longer than max_length={max_length} tokens "
        f"(the longest is row {row}, the first is 0, with at least {tokens})"
    )
    if overlong == "error":
        raise OverlongError(
            f"{summary}. Raise max_length if the model allows it, or use overlong='truncate'."
        )
    warnings.warn(
        f"{summary}; they are truncated. overlong='error' refuses them.",
        TruncationWarning,
        stacklevel=5,  # the caller of `encode_texts`, or of `predict`
    )


def with_progress(starts: range, unit: str = "texts") -> Iterator[int]:
    """Show a progress bar on a terminal after two seconds."""
    from tqdm.auto import tqdm

    yield from tqdm(
        starts,
        desc="tokenising",
        unit_scale=BATCH_TEXTS,
        unit=f" {unit}",
        delay=2,
        leave=False,
        disable=None,
    )
