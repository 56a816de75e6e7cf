"""Which words a model read how far: one text, word by word, and the page that shows it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewer.core.trace import Trace, record
from fewer.hf.attach import attachment, evaluating, longest
from fewer.inference.answer import STRIDE, answer
from fewer.tasks.texts import clean, kept_tokens, shorten
from fewer.tasks.windows import plain_text_tokenizer, tokenise_pairs

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

    from fewer.tasks.spans import Span

__all__ = ["Explanation", "Passage", "Prediction", "Word", "explain", "write_explanation"]


@dataclass(frozen=True)
class Word:
    """A word of the text as it was written."""

    before: str  # what stands between the word before and this one: white space, dropped characters
    text: str
    layers_read: int | None  # the most of its pieces, 0..L; None where truncation cut it off


@dataclass(frozen=True)
class Passage:
    """One text: its words in order, and what stands after the last. Together they are the text."""

    words: tuple[Word, ...]
    rest: str

    @property
    def text(self) -> str:
        """The text as it was given, lone surrogates replaced by U+FFFD."""
        return "".join(word.before + word.text for word in self.words) + self.rest


@dataclass(frozen=True)
class Prediction:
    """What the model answers; empty for a model without a head for whole texts or answers."""

    label: str | None = None  # the most probable; None for regression
    probabilities: Mapping[str, float] = field(default_factory=dict)  # of each label
    value: float | None = None  # of regression
    answer: Span | None = None  # to the first text, a question, in the second


@dataclass(frozen=True)
class Explanation:
    """What a model made of one text, or of a pair."""

    passages: tuple[Passage, ...]  # one, or the two of a pair
    prediction: Prediction
    num_layers: int
    tokens_per_layer: tuple[int, ...]  # of all windows, special tokens too; 0 after an exit
    flops_share: float  # of the FLOPs that the same tokens take when each reads every layer

    @property
    def words(self) -> tuple[Word, ...]:
        """All words in order, of both texts of a pair."""
        return tuple(word for passage in self.passages for word in passage.words)


def explain(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    text_pair: str | None = None,
    max_length: int | None = None,
) -> Explanation:
    """Run an attached model on one text and say of each word how many layers read it.

    `max_length` is in tokens, by default the longest that model and tokenizer take. A model of
    question answering takes a question and its context, and reads a long one in windows. Raises
    `ValueError` for a model with nothing attached, and for a tokenizer that cannot say where a
    token stands in the text.

    >>> explain(model, tokenizer, "a fine film").words[2].layers_read  # doctest: +SKIP
    6
    """
    own = attachment(model)
    texts = [text] if text_pair is None else [text, text_pair]
    _check(tokenizer, texts, max_length)
    limit = longest(model, max_length, tokenizer.model_max_length)
    context = text_pair if own.shape.answers == "span" else None  # of a question
    read = (_Encoded.read if context is None else _Encoded.windows)(tokenizer, texts, limit)
    with evaluating(model) as reader:
        passes = [_run(reader, inputs) for inputs in read.inputs(tokenizer, model.device)]
    if context is None:
        prediction = _prediction(model.config, passes[0][0])
    else:
        found = answer(model, tokenizer, [text], [context], max_length=limit, progress=False)
        prediction = Prediction(answer=found[0])
    traces = [trace for _, trace in passes]
    depths: dict[int, int] = {}
    for kept, trace in zip(read.rows, traces, strict=True):
        for token, depth in zip(kept, trace.layers_read[0].tolist(), strict=True):
            depths[token] = max(depth, depths.get(token, 0))
    dense = [own.shape.dense_flops_of(trace) for trace in traces]
    return Explanation(
        passages=tuple(
            _passage(one, read.words(side, depths), len(short))
            for side, (one, short) in enumerate(zip(read.texts, read.shortened, strict=True))
        ),
        prediction=prediction,
        num_layers=own.shape.num_layers,
        tokens_per_layer=_tokens(traces, own.shape.num_layers),
        flops_share=float(sum(map(own.shape.flops, traces)) / sum(dense)),
    )


def write_explanation(explanation: Explanation, path: str | Path) -> Path:
    """Write a page that needs nothing but itself: each word shaded by how far it was read.

    Makes the folder where it is missing; returns the path.
    """
    from fewer.report.html import write_page

    layers, words = explanation.num_layers, explanation.words
    return write_page(
        path,
        "explain.html",
        explanation=explanation,
        passages=[list(_runs(passage, layers)) for passage in explanation.passages],
        depths=range(layers, -1, -1),
        opacity=[round(0.04 + 0.5 * (depth / layers) ** 1.5, 3) for depth in range(layers + 1)],
        said={depth: _said(depth, layers) for depth in [*range(layers + 1), None]},
        by_depth={
            depth: [word.text for word in words if word.layers_read == depth]
            for depth in [*range(layers, -1, -1), None]
        },
        most=max(explanation.tokens_per_layer),
        others=sorted(explanation.prediction.probabilities.items(), key=lambda one: -one[1])[1:6],
    )


# Where a word stands in its text: start, end, layers read.
Place = tuple[int, int, "int | None"]


@dataclass(frozen=True)
class _Encoded:
    """Texts as tokens with their places, and which of the tokens the model gets in each pass."""

    texts: Sequence[str]  # cleaned
    shortened: Sequence[str]  # what was tokenised: a million characters take seconds
    encoding: BatchEncoding
    rows: Sequence[Sequence[int]]  # one, or one a window

    @classmethod
    def read(
        cls, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
    ) -> _Encoded:
        """Encode as `encode_texts` does: the same ids."""
        cleaned = [clean(one) for one in texts]
        shortened = [shorten(one, tokenizer, max_length) for one in cleaned]
        encoding = _tokenised(tokenizer, shortened)
        kept = list(range(len(encoding["input_ids"])))
        if len(kept) > max_length:
            owners = encoding.sequence_ids()
            kept = kept_tokens(owners, max_length, tokenizer.truncation_side)
        return cls(cleaned, shortened, encoding, [kept])

    @classmethod
    def windows(
        cls, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
    ) -> _Encoded:
        """Encode a question and its context as `encode_questions` does: the same windows."""
        cleaned = [clean(one) for one in texts]
        question, context = cleaned
        shortened = [shorten(question, tokenizer, max_length), context]
        (pair,) = tokenise_pairs(
            [question], [context], tokenizer, max_length=max_length, stride=STRIDE
        )
        rows = [window.tolist() for window in pair.windows]
        reader = plain_text_tokenizer(tokenizer, shortened)
        return cls(cleaned, shortened, _tokenised(reader, shortened), rows)

    def inputs(
        self, tokenizer: PreTrainedTokenizerBase, device: torch.device
    ) -> Iterator[dict[str, Tensor]]:
        """Build the model's inputs, a batch of one for each pass."""
        names = {*tokenizer.model_input_names, "attention_mask"}
        columns = {name: self.encoding[name] for name in names if name in self.encoding}
        for row in self.rows:
            yield {
                name: torch.tensor([[column[token] for token in row]], device=device)
                for name, column in columns.items()
            }

    def words(self, side: int, depths: Mapping[int, int]) -> list[Place]:
        """Gather the pieces of each word of one text; its depth is the most of theirs.

        Words that share a character (a sign that a normaliser spells out) are one.
        """
        text, last = self.texts[side], None
        spans: list[Place] = []
        owners, numbers = self.encoding.sequence_ids(), self.encoding.word_ids()
        for token, (first, end) in enumerate(self.encoding["offset_mapping"]):
            start = end - len(text[first:end].lstrip())  # a byte-level token may be " film"
            if owners[token] != side or start >= end:
                continue
            known = {depths[token]} if token in depths else set()
            if spans and (numbers[token] == last or start < spans[-1][1]):
                start, before, deepest = spans.pop()
                end = max(before, end)
                known |= set() if deepest is None else {deepest}
            spans.append((start, end, max(known) if known else None))
            last = numbers[token]
        return spans


def _check(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[object], max_length: int | None
) -> None:
    for name, text in zip(("text", "text_pair"), texts, strict=False):
        if not isinstance(text, str):
            raise TypeError(f"{name} is a {type(text).__name__}, wanted a string (it may be empty)")
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} cannot say where a token stands in the text; wanted a "
            "fast tokenizer: load it with AutoTokenizer.from_pretrained(...)"
        )
    special = tokenizer.num_special_tokens_to_add(pair=len(texts) > 1)
    if max_length is not None and max_length <= special:
        raise ValueError(
            f"max_length={max_length} leaves no room: {special} of the tokens are special tokens"
        )


def _tokenised(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> BatchEncoding:
    encoding: BatchEncoding = tokenizer(
        *texts,
        padding=False,
        truncation=False,
        return_attention_mask=True,
        return_offsets_mapping=True,
        verbose=False,
    )
    return encoding


def _tokens(traces: Sequence[Trace], num_layers: int) -> tuple[int, ...]:
    """Count the tokens of all passes that each layer read; a pass may stop early."""
    counts = [0] * num_layers
    for trace in traces:
        for number, layer in enumerate(trace.layers):
            counts[number] += int(layer.read.sum())
    return tuple(counts)


def _run(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> tuple[Tensor | None, Trace]:
    with torch.inference_mode(), record() as traces:
        output = model(**inputs, return_dict=True)
    return output.get("logits"), traces[-1]


def _prediction(config: Any, logits: Tensor | None) -> Prediction:
    """Read logits of classes or of regression; those of tokens say nothing of the whole text."""
    if logits is None or logits.ndim != 2:
        return Prediction()
    row = logits[0].float()
    if config.problem_type == "regression" or len(row) == 1:
        return Prediction(value=float(row[0])) if len(row) == 1 else Prediction()
    several = config.problem_type == "multi_label_classification"
    chances = (row.sigmoid() if several else row.softmax(-1)).tolist()
    probabilities = {str(config.id2label[index]): chance for index, chance in enumerate(chances)}
    return Prediction(max(probabilities, key=probabilities.__getitem__), probabilities)


def _passage(text: str, spans: Iterable[Place], tokenised: int) -> Passage:
    """Cut a text into words; what was never tokenised is cut at white space, and was not read."""
    beyond = [
        (tokenised + found.start(), tokenised + found.end(), None)
        for found in re.finditer(r"\S+", text[tokenised:])
    ]
    words, place = [], 0
    for start, end, depth in [*spans, *beyond]:
        words.append(Word(text[place:start], text[start:end], depth))
        place = end
    return Passage(tuple(words), text[place:])


def _runs(passage: Passage, layers: int) -> Iterator[tuple[str, str, int | None]]:
    """Yield what to write: (before, text, depth); words that were not read in one piece."""
    unread: list[str] = []
    before = ""
    for word in passage.words:
        if word.layers_read is None:
            before = before if unread else word.before
            unread += [word.before, word.text] if unread else [word.text]
            continue
        if unread:
            yield before, "".join(unread), None
            unread = []
        yield word.before, word.text, word.layers_read
    if unread:
        yield before, "".join(unread), None
    yield passage.rest, "", layers


def _said(depth: int | None, layers: int) -> str:
    if depth is None:
        return "not read: beyond the longest text"
    if depth == layers:
        return f"read to the end, by all {layers} layers"
    return f"dropped after layer {depth}" if depth else "dropped in layer 1"
