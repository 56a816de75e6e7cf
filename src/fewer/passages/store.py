"""Storage of passages: shards of tensors and a directory of the rows of each passage.

On disk a shard is a safetensors file with its part of the directory; `passages.json`, written last,
holds the full directory, so a folder without it is an interrupted index. Every file has a checksum;
a damaged file is refused when it is first read.
"""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from fewer._validation.names import check_known
from fewer.version import __version__

__all__ = [
    "MANIFEST",
    "Contents",
    "FileShard",
    "MemoryShard",
    "Place",
    "Precision",
    "Store",
    "Window",
    "check_precision",
    "file_checksum",
    "join",
    "quantise",
    "read_contents",
    "read_places",
    "write_contents",
    "write_shard",
]

Precision = Literal["fp32", "fp16", "int8"]
SCHEMA = 2  # 1 had no checksums
MANIFEST = "passages.json"
_REMAINING = ("places", "states", "scales")  # one row per remaining token; others: per token
_TEXT = "text"  # UTF-8
_METADATA = "fewer"  # one entry, since the order of several is not fixed


@dataclass(frozen=True)
class Window:
    """A window of a passage: its tokens, and the states of the tokens remaining above.

    `tokens`: the tokenizer's columns, and "starts" and "ends", the characters of each token in the
    passage, -1 for special tokens. `remaining`: "places", the indices of the remaining tokens,
    "states" as stored, and their "scales" for int8.
    """

    tokens: Mapping[str, Tensor]
    remaining: Mapping[str, Tensor]

    @property
    def hidden(self) -> Float[Tensor, "n D"]:
        """The states in fp32."""
        states, scales = self.remaining["states"].float(), self.remaining.get("scales")
        return states if scales is None else states * scales[:, None]

    @property
    def bytes(self) -> int:
        """Memory of its tensors."""
        tensors = (*self.tokens.values(), *self.remaining.values())
        return sum(tensor.nbytes for tensor in tensors)


@dataclass(frozen=True)
class Place:
    """Location of a passage; each range is a first row and a number of rows."""

    shard: int
    text: tuple[int, int]
    windows: tuple[tuple[int, int, int, int], ...]  # ranges of tokens and of states


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The directory of an index and the settings that it was built with."""

    fingerprint: str  # of the model's lower layers, its method and the tokenizer
    lower: int  # layers
    precision: Precision
    max_length: int  # of question and window together, in tokens
    files: list[tuple[str, int, str]] = field(default_factory=list)  # name, bytes, checksum
    places: dict[str, Place] = field(default_factory=dict)


class Shard(Protocol):
    """Named tensors with access to ranges of rows."""

    @property
    def names(self) -> Sequence[str]:
        """Names of the tensors."""
        ...

    @property
    def bytes(self) -> int:
        """Size in memory or on disk."""
        ...

    def rows(self, name: str, first: int, count: int) -> Tensor:
        """Return a range of rows of a tensor."""
        ...


@dataclass(frozen=True)
class MemoryShard:
    """Tensors in memory; their rows are views."""

    tensors: dict[str, Tensor]

    @property
    def names(self) -> Sequence[str]:
        """Names of the tensors."""
        return list(self.tensors)

    @property
    def bytes(self) -> int:
        """Memory of the tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def rows(self, name: str, first: int, count: int) -> Tensor:
        """Return a view of a range of rows of a tensor."""
        return self.tensors[name][first : first + count]


class FileShard:
    """A safetensors file, opened and checked at its first use.

    Threads may share it. Without a `checksum` it is not checked.
    """

    def __init__(self, path: Path, checksum: str | None = None) -> None:
        self.path = path
        self.checksum = checksum
        self._handle: Any = None
        self._lock = threading.Lock()

    @property
    def names(self) -> Sequence[str]:
        """Names of the tensors."""
        return list(self._file.keys())

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return self.path.stat().st_size

    @property
    def metadata(self) -> str:
        """Metadata written by `write_shard`; "" for files of other writers."""
        return str((self._file.metadata() or {}).get(_METADATA, ""))

    def tensors(self) -> dict[str, Tensor]:
        """Read all tensors."""
        return {name: self._file.get_tensor(name) for name in self.names}

    def rows(self, name: str, first: int, count: int) -> Tensor:
        """Read a range of rows of a tensor."""
        rows: Tensor = self._file.get_slice(name)[first : first + count]
        return rows

    @property
    def _file(self) -> Any:
        with self._lock:
            if self._handle is None:
                self._handle = self._open()
            return self._handle

    def _open(self) -> Any:
        from safetensors import SafetensorError, safe_open

        try:
            if self.checksum is not None and file_checksum(self.path) != self.checksum:
                raise ValueError(f"{self.path} cannot be read (it was damaged). {_COPY_AGAIN}")
            return safe_open(self.path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{self.path} cannot be read ({error}). {_COPY_AGAIN}") from error


_COPY_AGAIN = "Copy the folder again, or index the passages again."
_BLOCK_BYTES = 2**22


def file_checksum(path: Path) -> str:
    """Hash a file by xxh3-128, in hex digits; as fast as the disk, but not cryptographic."""
    import xxhash

    digest = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return str(digest.hexdigest())


def _text_checksum(text: str) -> str:
    import xxhash

    return str(xxhash.xxh3_128_hexdigest(text.encode()))


class Store:
    """Passages by name, read on demand through an LRU cache.

    Threads may share it.
    """

    def __init__(
        self, places: Mapping[str, Place], shards: Sequence[Shard], memory_bytes: int
    ) -> None:
        if memory_bytes < 0:
            raise ValueError(
                f"memory_bytes must be 0 or more; got {memory_bytes}. Use 0 for no cache."
            )
        self.places = places
        self.shards = shards
        self.memory_bytes = memory_bytes
        self.cached_bytes = 0
        self._cache: OrderedDict[str, list[Window]] = OrderedDict()
        self._lock = threading.Lock()  # of the cache and its size

    def windows(self, name: str) -> list[Window]:
        """Return the windows of a passage."""
        with self._lock:
            return self._read_windows(name)

    def _read_windows(self, name: str) -> list[Window]:
        if name in self._cache:
            self._cache.move_to_end(name)
            return self._cache[name]
        place = self.places[name]
        shard = self.shards[place.shard]
        windows = [_read_window(shard, ranges) for ranges in place.windows]
        size = _count_bytes(windows)
        if size <= self.memory_bytes:
            self._cache[name] = windows
            self.cached_bytes += size
        while self.cached_bytes > self.memory_bytes:
            _, evicted = self._cache.popitem(last=False)
            self.cached_bytes -= _count_bytes(evicted)
        return windows

    def text(self, name: str) -> str:
        """Read the text of a passage."""
        place = self.places[name]
        return bytes(self.shards[place.shard].rows(_TEXT, *place.text).tolist()).decode("utf-8")


def _read_window(shard: Shard, ranges: tuple[int, int, int, int]) -> Window:
    token_range, state_range = ranges[:2], ranges[2:]
    names = [name for name in shard.names if name != _TEXT]
    return Window(
        {name: shard.rows(name, *token_range) for name in names if name not in _REMAINING},
        {name: shard.rows(name, *state_range) for name in names if name in _REMAINING},
    )


def _count_bytes(windows: Sequence[Window]) -> int:
    return sum(window.bytes for window in windows)


def join(
    texts: Mapping[str, str], windows: Mapping[str, Sequence[Window]], shard: int
) -> tuple[dict[str, Tensor], dict[str, Place]]:
    """Join passages to the tensors of shard number `shard`; also return their places."""
    encoded = {name: text.encode("utf-8") for name, text in texts.items()}
    places, first_byte, first_token, first_state = {}, 0, 0, 0
    for name, content in encoded.items():
        ranges = []
        for window in windows[name]:
            tokens, states = len(window.tokens["starts"]), len(window.remaining["places"])
            ranges.append((first_token, tokens, first_state, states))
            first_token, first_state = first_token + tokens, first_state + states
        places[name] = Place(shard, (first_byte, len(content)), tuple(ranges))
        first_byte += len(content)
    all_windows = [window for name in texts for window in windows[name]]
    tensors = {
        name: torch.cat([{**window.tokens, **window.remaining}[name] for window in all_windows])
        for name in (*all_windows[0].tokens, *all_windows[0].remaining)
    }
    tensors[_TEXT] = torch.tensor(list(b"".join(encoded.values())), dtype=torch.uint8)
    return tensors, places


def check_precision(precision: str) -> None:
    """Raise `ValueError` for an unknown precision."""
    check_known(precision, get_args(Precision), "precision")


def quantise(states: Float[Tensor, "n D"], precision: Precision) -> dict[str, Tensor]:
    """Convert states to their stored form; int8 has one scale per row, its maximum / 127.

    Raises `ValueError` for states beyond the range of fp16.
    """
    states = states.float()
    if precision == "fp32":
        return {"states": states.clone()}
    if precision == "fp16":
        half = states.half()
        if not bool(half.isfinite().all()):
            raise ValueError(
                "precision must be fp32 for this model; got states too large for fp16. Pass "
                "precision='fp32'."
            )
        return {"states": half}
    largest = states.abs().amax(1) if len(states) else states.new_zeros(0)
    scales = (largest / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return {"states": (states / scales[:, None]).round().to(torch.int8), "scales": scales}


def write_shard(
    path: Path, tensors: dict[str, Tensor], places: Mapping[str, Place], digest: str
) -> None:
    """Write a shard atomically; `digest` identifies the passages and settings it is built from."""
    from safetensors.torch import save_file

    content = {"digest": digest, "places": {name: asdict(place) for name, place in places.items()}}
    metadata = {**content, "checksum": _content_checksum(content, tensors)}
    temporary = path.with_name(path.name + ".tmp")
    save_file(tensors, temporary, metadata={_METADATA: json.dumps(metadata)})
    _replace(temporary, path)


def _content_checksum(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Hash the tensors of a shard and its part of the directory."""
    import xxhash

    digest = xxhash.xxh3_128(json.dumps(content, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return str(digest.hexdigest())


def _read_place(content: Mapping[str, Any]) -> Place:
    """Rebuild a `Place` from its `dataclasses.asdict`."""
    text, windows = content["text"], content["windows"]
    first, count = (int(number) for number in text)
    ranges = [tuple(int(number) for number in window) for window in windows]
    return Place(
        int(content["shard"]), (first, count), tuple((a, b, c, d) for a, b, c, d in ranges)
    )


def write_contents(contents: Contents, folder: Path) -> None:
    """Write the directory, which completes the index."""
    content = {"schema": SCHEMA, "version": __version__, **asdict(contents)}
    checksum = _text_checksum(json.dumps(content, sort_keys=True))
    temporary = folder / (MANIFEST + ".tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump({**content, "checksum": checksum}, stream)
    _replace(temporary, folder / MANIFEST)


def read_contents(folder: Path) -> Contents:
    """Read the directory of a folder and check that its shards exist.

    Raises `FileNotFoundError` for a folder without an index, and `ValueError` for an unknown
    schema, a broken or changed directory, and a shard that is missing or of another size.
    """
    path = folder / MANIFEST
    if not path.exists():
        is_begun = any(folder.glob("passages-*.safetensors"))
        reason = "its index was not finished" if is_begun else "it holds no index"
        raise FileNotFoundError(
            f"{path} is missing: {reason}. Run fewer.passages.index, or the command fewer index."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        checksum = content.pop("checksum", None)
        canonical = json.dumps(content, sort_keys=True)
        schema, version = content.pop("schema"), content.pop("version")
        if schema != SCHEMA:
            raise ValueError(
                f"its schema must be {SCHEMA} for fewer {__version__}; got schema {schema!r}, "
                f"written by fewer {version}"
            )
        if _text_checksum(canonical) != checksum:
            raise ValueError("its checksum differs: it was changed or damaged")
        files = [(str(name), int(size), str(digest)) for name, size, digest in content.pop("files")]
        places = {name: _read_place(place) for name, place in content.pop("places").items()}
        contents = Contents(**content, files=files, places=places)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} cannot be read ({reason}). {_COPY_AGAIN}") from error
    for name, size, _ in files:
        shard = folder / name
        if not shard.exists():
            raise ValueError(f"{shard} is missing. {_COPY_AGAIN}")
        if (actual := shard.stat().st_size) != size:
            raise ValueError(f"{shard} must have {size} bytes; got {actual}. {_COPY_AGAIN}")
    return contents


def read_places(path: Path, digest: str) -> dict[str, Place] | None:
    """Read the places of a shard; `None` if its digest differs or it is damaged."""
    from safetensors import SafetensorError

    shard = FileShard(path)
    try:
        metadata = json.loads(shard.metadata)
        content = {name: metadata[name] for name in ("digest", "places")}
        if content["digest"] != digest:
            return None
        if _content_checksum(content, shard.tensors()) != metadata["checksum"]:
            return None
        return {name: _read_place(place) for name, place in content["places"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        return None


def _replace(temporary: Path, path: Path) -> None:
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(path)
