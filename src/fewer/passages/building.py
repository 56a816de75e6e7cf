"""Build an index: windows of passages, encoded by the lower layers, shard by shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fewer._files.locking import lock_folder
from fewer._progress import track
from fewer.hf.attach import attachment
from fewer.hf.max_length import resolve_max_length
from fewer.inference.batching import token_budget_batches
from fewer.inference.predict import TOKEN_BUDGET
from fewer.passages.asking import MEMORY_BYTES, PassageIndex
from fewer.passages.lower import (
    RemainingStates,
    check_independence,
    fingerprint,
    lower_layers,
    read_lower,
)
from fewer.passages.pairs import (
    Columns,
    encode_passages,
    encode_questions,
    join_pair,
    pad_pairs,
)
from fewer.passages.store import (
    MANIFEST,
    Contents,
    FileShard,
    MemoryShard,
    Place,
    Precision,
    Shard,
    Store,
    Window,
    check_precision,
    file_checksum,
    join,
    quantise,
    read_places,
    write_contents,
    write_shard,
)
from fewer.tasks.texts import check_strings, clean

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["index"]

SHARD_CHARS = 2**18  # characters per shard; about 90 MB of states of width 768 in fp16
_CHECKED_WINDOWS = 32  # encoded with a second question, to check that states do not change


def index(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    passages: Mapping[str, str] | Iterable[tuple[str, str]],
    folder: str | Path | None,
    *,
    precision: Precision = "fp16",
    token_budget: int = TOKEN_BUDGET,
    max_length: int | None = None,
    progress: bool = True,
) -> PassageIndex:
    """Encode passages, by their ids, by a model's lower layers, and store the states.

    The model is a span model with `DeFormer`, alone or in a stack; tokens pruned in the lower
    layers are not stored. `folder` is created; `None` stores the index in memory. Called again
    after a kill, with the same passages, it continues with the missing shards. A passage beyond
    `max_length` tokens (default: the limit of tokenizer and model), less the room for a question,
    is split into overlapping windows. int8 has one scale per token.

    Raises `ValueError` for a model whose states of a passage depend on the question, a repeated id,
    no passages, and a folder with a complete index or with a second writer.

    >>> index(model, tokenizer, {"p1": "The Nile is ..."}, "runs/nile").ask(
    ...     ["How long is it?"], ["p1"]
    ... )  # doctest: +SKIP
    """
    check_precision(precision)
    lower = lower_layers(model)
    contents = Contents(
        fingerprint=fingerprint(model, tokenizer, lower),
        lower=lower,
        precision=precision,
        max_length=resolve_max_length(model, max_length, tokenizer.model_max_length),
    )
    reader = _Reader(model, tokenizer, contents, token_budget)
    chunks = _split_into_shards(_track_passages(passages, progress))
    if folder is None:
        return _build_index(reader, chunks, None)
    target = Path(folder)
    _check_unwritten(target)
    with lock_folder(target):
        _check_unwritten(target)  # an earlier holder of the lock may have written it
        return _build_index(reader, chunks, target)


def _build_index(
    reader: _Reader, chunks: Iterable[dict[str, str]], target: Path | None
) -> PassageIndex:
    """Encode passages shard by shard; write the directory of the folder last."""
    contents = reader.contents
    shards: list[Shard] = []
    for chunk in chunks:
        shard, places = _build_shard(reader, chunk, len(shards), target)
        shards.append(shard)
        contents.places.update(places)
    if not shards:
        raise ValueError("passages must hold at least one passage; got no passages. Pass some.")
    if target is not None:
        files = []
        for number, shard in enumerate(shards):
            checksum = file_checksum(target / _shard_name(number))
            files.append((_shard_name(number), shard.bytes, checksum))
        contents = replace(contents, files=files)
        _remove_stale_files(target, {name for name, _, _ in files})
        write_contents(contents, target)
    store = Store(contents.places, shards, MEMORY_BYTES)
    return PassageIndex(reader.model, reader.tokenizer, contents, store)


@dataclass(frozen=True)
class _Reader:
    """Encode passages by the lower layers of one model."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    contents: Contents
    token_budget: int

    def windows(self, texts: Mapping[str, str]) -> dict[str, list[Window]]:
        """Encode texts with an empty question, since their states do not depend on it."""
        columns = dict(zip(texts, self._encode_windows(texts), strict=True))
        all_windows = [window for windows in columns.values() for window in windows]
        (question,) = encode_questions([""], self.tokenizer, self.contents.max_length)
        remaining = iter(self._read_states(question, all_windows))
        precision = self.contents.precision
        return {
            name: [
                Window(window, {"places": places.int(), **quantise(states, precision)})
                for window, (places, states) in zip(windows, remaining, strict=False)
            ]
            for name, windows in columns.items()
        }

    def check(self, texts: Mapping[str, str]) -> None:
        """Raise `ValueError` for a method that prunes other tokens for another question."""
        all_windows = [window for windows in self._encode_windows(texts) for window in windows]
        # the second question may be any text that is not empty, here the first passage
        questions = ["", next(iter(texts.values()))]
        states = [
            self._read_states(question, all_windows[:_CHECKED_WINDOWS])
            for question in encode_questions(questions, self.tokenizer, self.contents.max_length)
        ]
        check_independence(attachment(self.model).method, *states)

    def _encode_windows(self, texts: Mapping[str, str]) -> Iterator[list[Columns]]:
        return encode_passages(list(texts.values()), self.tokenizer, self.contents.max_length)

    def _read_states(self, question: Columns, windows: Sequence[Columns]) -> list[RemainingStates]:
        """Encode windows with a question, batch by batch; return their states in order."""
        rows = [join_pair(question, window, self.contents.max_length)[0] for window in windows]
        lengths = [len(row["input_ids"]) for row in rows]
        remaining: dict[int, RemainingStates] = {}
        for numbers in token_budget_batches(lengths, self.token_budget):
            batch = pad_pairs([rows[number] for number in numbers], self.tokenizer)
            inputs = {name: values.to(self.model.device) for name, values in batch.items()}
            states = read_lower(self.model, inputs, self.contents.lower)
            remaining.update(zip(numbers, states, strict=True))
        return [remaining[number] for number in range(len(rows))]


def _build_shard(
    reader: _Reader, texts: Mapping[str, str], number: int, folder: Path | None
) -> tuple[Shard, dict[str, Place]]:
    """Build a shard of passages, or reuse the file of an interrupted run."""
    settings = asdict(replace(reader.contents, places={}))
    source = json.dumps([settings, number, list(texts.items())])
    digest = hashlib.sha256(source.encode()).hexdigest()
    path = None if folder is None else folder / _shard_name(number)
    if path is not None and path.exists():
        places = read_places(path, digest)
        if places is not None:
            return FileShard(path), places
    if number == 0:
        reader.check(texts)
    tensors, places = join(texts, reader.windows(texts), number)
    if path is None:
        return MemoryShard(tensors), places
    write_shard(path, tensors, places, digest)
    return FileShard(path), places


def _split_into_shards(passages: Iterable[tuple[str, str]]) -> Iterator[dict[str, str]]:
    """Group cleaned passages into shards of about `SHARD_CHARS` characters."""
    chunk: dict[str, str] = {}
    seen: set[str] = set()
    chars = 0
    for name, text in passages:
        check_strings([name], "ids")
        check_strings([text], f"passage {name!r}")
        if name in seen:
            raise ValueError(f"ids must be unique; got {name!r} twice. Rename one of the passages.")
        seen.add(name)
        chunk[name] = clean(text)
        chars += len(text)
        if chars >= SHARD_CHARS:
            yield chunk
            chunk, chars = {}, 0
    if chunk:
        yield chunk


def _track_passages(
    passages: Mapping[str, str] | Iterable[tuple[str, str]], progress: bool
) -> Iterable[tuple[str, str]]:
    pairs = list(passages.items()) if isinstance(passages, Mapping) else passages
    return track(pairs, "index", shown=progress)


def _check_unwritten(folder: Path) -> None:
    """Raise `ValueError` for a folder with a complete index."""
    if (folder / MANIFEST).exists():
        raise ValueError(
            f"{folder} must hold no index; got {MANIFEST}. Open it by "
            "fewer.passages.PassageIndex.open, or choose another folder."
        )


def _remove_stale_files(folder: Path, names: set[str]) -> None:
    """Remove the files of interrupted runs: partial files and shards of other passages.

    safetensors first writes a file of its own (`.tmp` and six characters), which a kill leaves.
    """
    stale = [*folder.glob("passages-*.safetensors*"), *folder.glob(".tmp??????")]
    for path in stale:
        if path.name not in names:
            path.unlink()


def _shard_name(number: int) -> str:
    return f"passages-{number:05d}.safetensors"
