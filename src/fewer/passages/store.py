"""What is kept of passages: rows of tensors in shards, and a directory that says which are whose.

On disk a shard is a safetensors file that carries its part of the directory; `passages.json`, which
is written last, holds all of it. So a folder without that file is an index that was interrupted.
Every file has a checksum, and one that was damaged is refused when it is first read.
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
    "quantised",
    "read_contents",
    "write_contents",
    "write_shard",
    "written_places",
]

Precision = Literal["fp32", "fp16", "int8"]
SCHEMA = 2  # 1 had no checksums
MANIFEST = "passages.json"
_LEFT = ("places", "states", "scales")  # a row a token that is left; others have a row a token
_TEXT = "text"  # UTF-8
_OWN = "fewer"  # one entry: several would stand in any order


@dataclass(frozen=True)
class Window:
    """A piece of a passage: its tokens, and what is left of them after the lower layers.

    `tokens`: the tokenizer's columns, and "starts" and "ends", the characters of the passage that
    each token stands for, -1 for special ones. `left`: "places" among these tokens, "states" as
    stored, and their "scales" where they are int8.
    """

    tokens: Mapping[str, Tensor]
    left: Mapping[str, Tensor]

    @property
    def hidden(self) -> Float[Tensor, "n D"]:
        """The states in fp32."""
        states = self.left["states"].float()
        return states * self.left["scales"][:, None] if "scales" in self.left else states

    @property
    def bytes(self) -> int:
        """Memory of its tensors."""
        return sum(rows.nbytes for rows in (*self.tokens.values(), *self.left.values()))


@dataclass(frozen=True)
class Place:
    """Where a passage is: each range is the first row and how many there are."""

    shard: int
    text: tuple[int, int]
    windows: tuple[tuple[int, int, int, int], ...]  # the range of its tokens, that of its states


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The directory of an index, and how it was made."""

    fingerprint: str  # of the model's lower layers, its method and the tokenizer
    lower: int  # layers
    precision: Precision
    max_length: int  # of question and window together, in tokens
    files: list[tuple[str, int, str]] = field(default_factory=list)  # name, bytes, checksum
    places: dict[str, Place] = field(default_factory=dict)


class Shard(Protocol):
    """Named tensors of which rows can be taken."""

    @property
    def names(self) -> Sequence[str]:
        """Of the tensors."""
        ...

    @property
    def bytes(self) -> int:
        """How much it takes, where it is."""
        ...

    def rows(self, name: str, first: int, count: int) -> Tensor:
        """Take some rows of a tensor."""
        ...


@dataclass(frozen=True)
class MemoryShard:
    """Tensors in memory; their rows are views."""

    tensors: dict[str, Tensor]

    @property
    def names(self) -> Sequence[str]:
        """Of the tensors."""
        return list(self.tensors)

    @property
    def bytes(self) -> int:
        """Memory of the tensors."""
        return sum(rows.nbytes for rows in self.tensors.values())

    def rows(self, name: str, first: int, count: int) -> Tensor:
        """View some rows of a tensor."""
        return self.tensors[name][first : first + count]


class FileShard:
    """A safetensors file, opened when rows of it are first wanted, and checked then.

    Threads may share it. Without a `checksum` it is taken as it is.
    """

    def __init__(self, path: Path, checksum: str | None = None) -> None:
        self.path = path
        self.checksum = checksum
        self._opened: Any = None
        self._opening = threading.Lock()

    @property
    def names(self) -> Sequence[str]:
        """Of the tensors."""
        return list(self._file.keys())

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return self.path.stat().st_size

    @property
    def metadata(self) -> str:
        """What `write_shard` wrote beside the tensors; nothing if it is another's file."""
        return str((self._file.metadata() or {}).get(_OWN, ""))

    def tensors(self) -> dict[str, Tensor]:
        """Read all tensors."""
        return {name: self._file.get_tensor(name) for name in self.names}

    def rows(self, name: str, first: int, count: int) -> Tensor:
        """Read some rows of a tensor."""
        rows: Tensor = self._file.get_slice(name)[first : first + count]
        return rows

    @property
    def _file(self) -> Any:
        with self._opening:
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    def _open(self) -> Any:
        from safetensors import SafetensorError, safe_open

        try:
            if self.checksum is not None and file_checksum(self.path) != self.checksum:
                raise ValueError(f"{self.path} cannot be read (it was damaged); {_AGAIN}")
            return safe_open(self.path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{self.path} cannot be read ({error}); {_AGAIN}") from error


_AGAIN = "copy the folder again, or index the passages again"
_READ_AT_ONCE = 2**22  # bytes


def file_checksum(path: Path) -> str:
    """Hash a file: xxh3, 128 bits, in hex digits; as fast as the disk, and not against intent."""
    import xxhash

    digest = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while part := stream.read(_READ_AT_ONCE):
            digest.update(part)
    return str(digest.hexdigest())


def _text_checksum(text: str) -> str:
    import xxhash

    return str(xxhash.xxh3_128_hexdigest(text.encode()))


class Store:
    """Passages by name, read when they are wanted; the last ones stay in memory.

    Threads may share it.
    """

    def __init__(
        self, places: Mapping[str, Place], shards: Sequence[Shard], memory_bytes: int
    ) -> None:
        if memory_bytes < 0:
            raise ValueError(f"memory_bytes is {memory_bytes}, wanted 0 or more")
        self.places = places
        self.shards = shards
        self.memory_bytes = memory_bytes
        self.held_bytes = 0
        self._held: OrderedDict[str, list[Window]] = OrderedDict()
        self._changing = threading.Lock()  # what is held, and how much

    def windows(self, name: str) -> list[Window]:
        """Take the windows of a passage."""
        with self._changing:
            return self._windows(name)

    def _windows(self, name: str) -> list[Window]:
        if name in self._held:
            self._held.move_to_end(name)
            return self._held[name]
        place = self.places[name]
        shard = self.shards[place.shard]
        windows = [_window(shard, where) for where in place.windows]
        size = _size(windows)
        if size <= self.memory_bytes:
            self._held[name] = windows
            self.held_bytes += size
        while self.held_bytes > self.memory_bytes:
            _, gone = self._held.popitem(last=False)
            self.held_bytes -= _size(gone)
        return windows

    def text(self, name: str) -> str:
        """Read the text of a passage."""
        place = self.places[name]
        return bytes(self.shards[place.shard].rows(_TEXT, *place.text).tolist()).decode("utf-8")


def _window(shard: Shard, where: tuple[int, int, int, int]) -> Window:
    tokens, left = where[:2], where[2:]
    names = [name for name in shard.names if name != _TEXT]
    return Window(
        {name: shard.rows(name, *tokens) for name in names if name not in _LEFT},
        {name: shard.rows(name, *left) for name in names if name in _LEFT},
    )


def _size(windows: Sequence[Window]) -> int:
    return sum(window.bytes for window in windows)


def join(
    texts: Mapping[str, str], windows: Mapping[str, Sequence[Window]], shard: int
) -> tuple[dict[str, Tensor], dict[str, Place]]:
    """Lay passages in the tensors of a shard of this number, and say where each of them is."""
    written = {name: text.encode("utf-8") for name, text in texts.items()}
    places, text, token, left = {}, 0, 0, 0
    for name, content in written.items():
        ranges = []
        for window in windows[name]:
            tokens, states = len(window.tokens["starts"]), len(window.left["places"])
            ranges.append((token, tokens, left, states))
            token, left = token + tokens, left + states
        places[name] = Place(shard, (text, len(content)), tuple(ranges))
        text += len(content)
    every = [window for name in texts for window in windows[name]]
    tensors = {
        name: torch.cat([{**window.tokens, **window.left}[name] for window in every])
        for name in (*every[0].tokens, *every[0].left)
    }
    tensors[_TEXT] = torch.tensor(list(b"".join(written.values())), dtype=torch.uint8)
    return tensors, places


def check_precision(precision: str) -> None:
    """Raise `ValueError` for an unknown one."""
    if precision not in get_args(Precision):
        raise ValueError(
            f"precision is {precision!r}, wanted one of {', '.join(get_args(Precision))}"
        )


def quantised(states: Float[Tensor, "n D"], precision: Precision) -> dict[str, Tensor]:
    """Write states as they are stored; int8 with a scale a row, its largest value / 127.

    Raises `ValueError` for states that fp16 cannot hold.
    """
    states = states.float()
    if precision == "fp32":
        return {"states": states.clone()}
    if precision == "fp16":
        half = states.half()
        if not bool(half.isfinite().all()):
            raise ValueError("the model's states are too large for fp16; wanted precision='fp32'")
        return {"states": half}
    largest = states.abs().amax(1) if len(states) else states.new_zeros(0)
    scales = (largest / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return {"states": (states / scales[:, None]).round().to(torch.int8), "scales": scales}


def write_shard(
    path: Path, tensors: dict[str, Tensor], places: Mapping[str, Place], digest: str
) -> None:
    """Write a shard at once or not at all; `digest` tells what it was made from."""
    from safetensors.torch import save_file

    content = {"digest": digest, "places": {name: asdict(place) for name, place in places.items()}}
    metadata = {**content, "checksum": _content_checksum(content, tensors)}
    temporary = path.with_name(path.name + ".tmp")
    save_file(tensors, temporary, metadata={_OWN: json.dumps(metadata)})
    _replace(temporary, path)


def _content_checksum(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Hash what a shard holds, its tensors and its part of the directory."""
    import xxhash

    digest = xxhash.xxh3_128(json.dumps(content, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return str(digest.hexdigest())


def _read_place(written: Mapping[str, Any]) -> Place:
    """Read what `dataclasses.asdict` made of a place."""
    text, windows = written["text"], written["windows"]
    first, count = (int(number) for number in text)
    ranges = [tuple(int(number) for number in window) for window in windows]
    return Place(
        int(written["shard"]), (first, count), tuple((a, b, c, d) for a, b, c, d in ranges)
    )


def write_contents(contents: Contents, folder: Path) -> None:
    """Write the directory: from now on the index is whole."""
    content = {"schema": SCHEMA, "version": __version__, **asdict(contents)}
    checksum = _text_checksum(json.dumps(content, sort_keys=True))
    temporary = folder / (MANIFEST + ".tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump({**content, "checksum": checksum}, stream)
    _replace(temporary, folder / MANIFEST)


def read_contents(folder: Path) -> Contents:
    """Read the directory of a folder and look for its shards.

    Raises `FileNotFoundError` for no index, `ValueError` for an unknown schema, a directory that is
    broken or was changed, a shard that is missing or of another size.
    """
    path = folder / MANIFEST
    if not path.exists():
        begun = any(folder.glob("passages-*.safetensors"))
        reason = "its index was not finished: index it again" if begun else "it holds no index"
        raise FileNotFoundError(f"{path} is missing, {reason} (fewer.passages.index)")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        checksum = content.pop("checksum", None)
        whole = json.dumps(content, sort_keys=True)
        schema, version = content.pop("schema"), content.pop("version")
        if schema != SCHEMA:
            raise ValueError(
                f"it has schema {schema!r}, written by fewer {version}; this is fewer "
                f"{__version__}, which reads schema {SCHEMA}"
            )
        if _text_checksum(whole) != checksum:
            raise ValueError("its checksum is another: it was changed or damaged")
        files = [(str(name), int(size), str(kept)) for name, size, kept in content.pop("files")]
        places = {name: _read_place(place) for name, place in content.pop("places").items()}
        contents = Contents(**content, files=files, places=places)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        told = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} cannot be read ({told}); {_AGAIN}") from error
    for name, wanted, _ in files:
        shard = folder / name
        found = shard.stat().st_size if shard.exists() else None
        if found != wanted:
            state = "is missing" if found is None else f"has {found} bytes"
            raise ValueError(f"{shard} {state}, wanted {wanted} bytes; {_AGAIN}")
    return contents


def written_places(path: Path, digest: str) -> dict[str, Place] | None:
    """Read the directory of a shard; `None` if it was made from something else, or is damaged."""
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
