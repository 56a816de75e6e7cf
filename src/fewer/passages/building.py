"""Passages in, an index out: windows of tokens, read through the lower layers, shard by shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fewer._files.locking import lock_folder
from fewer._progress import track
from fewer.hf.attach import attachment, longest
from fewer.inference.batching import token_budget_batches
from fewer.inference.predict import TOKEN_BUDGET
from fewer.passages.asking import MEMORY_BYTES, PassageIndex
from fewer.passages.lower import Left, check_independence, fingerprint, lower_layers, read_lower
from fewer.passages.pairs import Columns, heads, padded, paired, tails
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
    quantised,
    write_contents,
    write_shard,
    written_places,
)
from fewer.tasks.texts import check_strings, clean

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["index"]

SHARD_CHARS = 2**18  # of passages; about 90 MB of states of width 768 in fp16
_CHECKED = 32  # windows read behind another question, to see that they stay the same


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
    """Read passages, by their ids, through a model's lower layers, and keep what comes out.

    The model is one of question answering with `DeFormer`, alone or in a stack; what the stack
    drops in the lower layers is not kept. `folder` is made; `None` keeps everything in memory.
    Called again after a kill, with the same passages, it goes on with the shards that are missing.
    A passage beyond `max_length` tokens (default: what tokenizer and model say), less the room for
    a question, is kept in windows that overlap. int8 has a scale for each token.

    Raises `ValueError` for a model that reads passages differently for each question, an id that
    stands twice, no passages, and a folder that holds an index already or that another process, or
    thread, is writing one into.

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
        max_length=longest(model, max_length, tokenizer.model_max_length),
    )
    reader = _Reader(model, tokenizer, contents, token_budget)
    chunks = _chunks(_tracked(passages, progress))
    if folder is None:
        return _indexed(reader, chunks, None)
    target = Path(folder)
    _check_unwritten(target)
    with lock_folder(target):
        _check_unwritten(target)  # by one that had the lock before
        return _indexed(reader, chunks, target)


def _indexed(
    reader: _Reader, chunks: Iterable[dict[str, str]], target: Path | None
) -> PassageIndex:
    """Read passages, shard by shard; the directory of the folder is written last."""
    contents = reader.contents
    shards: list[Shard] = []
    for chunk in chunks:
        shard, places = _written(reader, chunk, len(shards), target)
        shards.append(shard)
        contents.places.update(places)
    if not shards:
        raise ValueError("there are no passages to index")
    if target is not None:
        files = []
        for number, shard in enumerate(shards):
            checksum = file_checksum(target / _name(number))
            files.append((_name(number), shard.bytes, checksum))
        contents = replace(contents, files=files)
        _remove_others(target, {name for name, _, _ in files})
        write_contents(contents, target)
    store = Store(contents.places, shards, MEMORY_BYTES)
    return PassageIndex(reader.model, reader.tokenizer, contents, store)


@dataclass(frozen=True)
class _Reader:
    """Reads passages through the lower layers of one model."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    contents: Contents
    token_budget: int

    def windows(self, texts: Mapping[str, str]) -> dict[str, list[Window]]:
        """Read texts behind an empty question, as anything would do."""
        cut = dict(zip(texts, self._tails(texts), strict=True))
        every = [tail for windows in cut.values() for tail in windows]
        (empty,) = heads([""], self.tokenizer, self.contents.max_length)
        left = iter(self._left(empty, every))
        precision = self.contents.precision
        return {
            name: [
                Window(tail, {"places": places.int(), **quantised(states, precision)})
                for tail, (places, states) in zip(windows, left, strict=False)
            ]
            for name, windows in cut.items()
        }

    def check(self, texts: Mapping[str, str]) -> None:
        """Refuse a method that lets go of other tokens of a passage for another question."""
        every = [tail for windows in self._tails(texts) for tail in windows][:_CHECKED]
        # any question will do that is not empty: here the first passage
        questions = ["", next(iter(texts.values()))]
        empty, asked = (
            self._left(head, every)
            for head in heads(questions, self.tokenizer, self.contents.max_length)
        )
        check_independence(attachment(self.model).method, empty, asked)

    def _tails(self, texts: Mapping[str, str]) -> Iterator[list[Columns]]:
        return tails(list(texts.values()), self.tokenizer, self.contents.max_length)

    def _left(self, head: Columns, every: Sequence[Columns]) -> list[Left]:
        """Read windows behind a question, batch by batch: what is left of each, in order."""
        rows = [paired(head, tail, self.contents.max_length)[0] for tail in every]
        lengths = [len(row["input_ids"]) for row in rows]
        found: dict[int, Left] = {}
        for numbers in token_budget_batches(lengths, self.token_budget):
            batch = padded([rows[number] for number in numbers], self.tokenizer)
            placed = {name: values.to(self.model.device) for name, values in batch.items()}
            left = read_lower(self.model, placed, self.contents.lower)
            found.update(zip(numbers, left, strict=True))
        return [found[number] for number in range(len(rows))]


def _written(
    reader: _Reader, texts: Mapping[str, str], number: int, folder: Path | None
) -> tuple[Shard, dict[str, Place]]:
    """Make a shard of these passages, unless it was made before."""
    how = asdict(replace(reader.contents, places={}))
    made = json.dumps([how, number, list(texts.items())])
    digest = hashlib.sha256(made.encode()).hexdigest()
    path = None if folder is None else folder / _name(number)
    if path is not None and path.exists():
        places = written_places(path, digest)
        if places is not None:
            return FileShard(path), places
    if number == 0:
        reader.check(texts)
    tensors, places = join(texts, reader.windows(texts), number)
    if path is None:
        return MemoryShard(tensors), places
    write_shard(path, tensors, places, digest)
    return FileShard(path), places


def _chunks(passages: Iterable[tuple[str, str]]) -> Iterator[dict[str, str]]:
    """Take as many passages at once as go in a shard, cleaned."""
    chunk: dict[str, str] = {}
    seen: set[str] = set()
    chars = 0
    for name, text in passages:
        check_strings([name], "ids")
        check_strings([text], f"passage {name!r}")
        if name in seen:
            raise ValueError(f"the id {name!r} stands twice; every passage wants one of its own")
        seen.add(name)
        chunk[name] = clean(text)
        chars += len(text)
        if chars >= SHARD_CHARS:
            yield chunk
            chunk, chars = {}, 0
    if chunk:
        yield chunk


def _tracked(
    passages: Mapping[str, str] | Iterable[tuple[str, str]], progress: bool
) -> Iterable[tuple[str, str]]:
    pairs = list(passages.items()) if isinstance(passages, Mapping) else passages
    return track(pairs, "index", shown=progress)


def _check_unwritten(folder: Path) -> None:
    """Raise `ValueError` for a folder that holds a whole index."""
    if (folder / MANIFEST).exists():
        raise ValueError(
            f"{folder} holds an index already; open it by fewer.passages.PassageIndex.open, or "
            "choose another folder"
        )


def _remove_others(folder: Path, names: set[str]) -> None:
    """Remove what runs left that were interrupted: half-written files, shards of other passages."""
    for path in folder.glob("passages-*.safetensors*"):
        if path.name not in names:
            path.unlink()


def _name(number: int) -> str:
    return f"passages-{number:05d}.safetensors"
