"""The number of layers that read each word of a text, and a page that shows it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewer.core.cost import Task
from fewer.core.trace import Trace, record
from fewer.hf.attach import attachment, evaluating
from fewer.hf.label_thresholds import label_margins
from fewer.hf.max_length import resolve_max_length
from fewer.inference.answer import STRIDE, answer
from fewer.tasks.texts import clean, kept_tokens, shorten
from fewer.tasks.windows import plain_text_tokenizer, tokenise_pairs

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

    from fewer.tasks.spans import Span

__all__ = ["Explanation", "Passage", "Prediction", "Word", "explain", "write_explanation"]


@dataclass(frozen=True)
class Word:
    """A word of the text as written."""

    before: str  # text between the previous word and this one: white space, dropped characters
    text: str
    layers_read: int | None  # maximum over its pieces, 0..L; None where truncated


@dataclass(frozen=True)
class Passage:
    """One text: its words in order and the text after the last one, without loss."""

    words: tuple[Word, ...]
    rest: str

    @property
    def text(self) -> str:
        """The input text, with lone surrogates replaced by U+FFFD."""
        return "".join(word.before + word.text for word in self.words) + self.rest


@dataclass(frozen=True)
class Prediction:
    """The output of the model; empty for a model without a head for texts or answers."""

    label: str | None = None  # most probable; None for regression and several labels
    probabilities: Mapping[str, float] = field(default_factory=dict)  # by label
    value: float | None = None  # of regression
    answer: Span | None = None  # to the first text, a question, in the second
    labels: tuple[str, ...] | None = None  # of a multi-label model, above their thresholds


@dataclass(frozen=True)
class Explanation:
    """The computation of a model on one text or pair."""

    passages: tuple[Passage, ...]  # one, or the two of a pair
    prediction: Prediction
    num_layers: int
    tokens_per_layer: tuple[int, ...]  # in all windows, with special tokens; 0 after an exit
    flops_share: float  # relative to the FLOPs of all tokens in all layers

    @property
    def words(self) -> tuple[Word, ...]:
        """All words in order, for a pair of both texts."""
        return tuple(word for passage in self.passages for word in passage.words)


def explain(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    text_pair: str | None = None,
    max_length: int | None = None,
) -> Explanation:
    """Run an attached model on one text and count the layers that read each word.

    `max_length` is in tokens, by default the limit of model and tokenizer. A question answering
    model takes a question and its context, which is read in windows if it is long. Raises
    `ValueError` for a model with nothing attached, and for a tokenizer without offsets of tokens.

    >>> explain(model, tokenizer, "a fine film").words[2].layers_read  # doctest: +SKIP
    6
    """
    spec = attachment(model).spec
    texts = [text] if text_pair is None else [text, text_pair]
    _check_inputs(tokenizer, texts, max_length)
    limit = resolve_max_length(model, max_length, tokenizer.model_max_length)
    context = text_pair if spec.task is Task.SPAN else None  # of a question
    encode = _EncodedTexts.encode if context is None else _EncodedTexts.encode_windows
    encoded = encode(tokenizer, texts, limit)
    with evaluating(model) as reader:
        passes = [_trace_pass(reader, inputs) for inputs in encoded.inputs(tokenizer, model.device)]
    if context is None:
        prediction = _read_prediction(model.config, passes[0][0])
    else:
        (span,) = answer(model, tokenizer, [text], [context], max_length=limit, progress=False)
        prediction = Prediction(answer=span)
    traces = [trace for _, trace in passes]
    depths: dict[int, int] = {}
    for tokens, trace in zip(encoded.rows, traces, strict=True):
        for token, depth in zip(tokens, trace.layers_read[0].tolist(), strict=True):
            depths[token] = max(depth, depths.get(token, 0))
    dense_flops = [spec.dense_flops_of(trace) for trace in traces]
    return Explanation(
        passages=tuple(
            _split_passage(cleaned, encoded.words(side, depths), len(short))
            for side, (cleaned, short) in enumerate(
                zip(encoded.texts, encoded.shortened, strict=True)
            )
        ),
        prediction=prediction,
        num_layers=spec.num_layers,
        tokens_per_layer=_count_tokens(traces, spec.num_layers),
        flops_share=float(sum(map(spec.flops, traces)) / sum(dense_flops)),
    )


def write_explanation(explanation: Explanation, path: str | Path) -> Path:
    """Write a self-contained page with each word shaded by the number of layers that read it.

    Creates a missing folder; returns the path.
    """
    from fewer.report.html import write_page

    layers, words = explanation.num_layers, explanation.words
    return write_page(
        path,
        "explain.html",
        explanation=explanation,
        passages=[list(_merge_unread(passage, layers)) for passage in explanation.passages],
        depths=range(layers, -1, -1),
        opacity=[round(0.04 + 0.5 * (depth / layers) ** 1.5, 3) for depth in range(layers + 1)],
        descriptions={
            depth: _describe_depth(depth, layers) for depth in [*range(layers + 1), None]
        },
        by_depth={
            depth: [word.text for word in words if word.layers_read == depth]
            for depth in [*range(layers, -1, -1), None]
        },
        max_tokens=max(explanation.tokens_per_layer),
        alternatives=_list_alternatives(explanation.prediction),
    )


def _list_alternatives(prediction: Prediction) -> list[tuple[str, float]]:
    """List the five most probable labels that were not predicted."""
    predicted = {prediction.label, *(prediction.labels or ())}
    ranked = sorted(prediction.probabilities.items(), key=lambda item: -item[1])
    return [(name, value) for name, value in ranked if name not in predicted][:5]


# Position of a word in its text: start, end, layers read.
WordSpan = tuple[int, int, "int | None"]


@dataclass(frozen=True)
class _EncodedTexts:
    """Texts as tokens with their offsets, and the tokens of each pass of the model."""

    texts: Sequence[str]  # cleaned
    shortened: Sequence[str]  # tokenised prefixes: a million characters take seconds
    encoding: BatchEncoding
    rows: Sequence[Sequence[int]]  # tokens of each pass: one, or one per window

    @classmethod
    def encode(
        cls, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
    ) -> _EncodedTexts:
        """Encode as `encode_texts` does: the same ids."""
        cleaned = [clean(text) for text in texts]
        shortened = [shorten(text, tokenizer, max_length) for text in cleaned]
        encoding = _tokenise(tokenizer, shortened)
        tokens = list(range(len(encoding["input_ids"])))
        if len(tokens) > max_length:
            sides = encoding.sequence_ids()
            tokens = kept_tokens(sides, max_length, tokenizer.truncation_side)
        return cls(cleaned, shortened, encoding, [tokens])

    @classmethod
    def encode_windows(
        cls, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
    ) -> _EncodedTexts:
        """Encode a question and its context as `encode_questions` does: the same windows."""
        cleaned = [clean(text) for text in texts]
        question, context = cleaned
        shortened = [shorten(question, tokenizer, max_length), context]
        (pair,) = tokenise_pairs(
            [question], [context], tokenizer, max_length=max_length, stride=STRIDE
        )
        rows = [window.tolist() for window in pair.windows]
        plain_tokenizer = plain_text_tokenizer(tokenizer, shortened)
        return cls(cleaned, shortened, _tokenise(plain_tokenizer, shortened), rows)

    def inputs(
        self, tokenizer: PreTrainedTokenizerBase, device: torch.device
    ) -> Iterator[dict[str, Tensor]]:
        """Build the model's inputs, one batch of one text per pass."""
        names = {*tokenizer.model_input_names, "attention_mask"}
        columns = {name: self.encoding[name] for name in names if name in self.encoding}
        for row in self.rows:
            yield {
                name: torch.tensor([[column[token] for token in row]], device=device)
                for name, column in columns.items()
            }

    def words(self, side: int, depths: Mapping[int, int]) -> list[WordSpan]:
        """Merge the pieces of each word of one text; its depth is their maximum.

        Words that share a character, which a normaliser has expanded, are merged.
        """
        text, last = self.texts[side], None
        spans: list[WordSpan] = []
        sides, numbers = self.encoding.sequence_ids(), self.encoding.word_ids()
        for token, (first, end) in enumerate(self.encoding["offset_mapping"]):
            start = end - len(text[first:end].lstrip())  # a byte-level token may be " film"
            if sides[token] != side or start >= end:
                continue
            piece_depths = {depths[token]} if token in depths else set()
            if spans and (numbers[token] == last or start < spans[-1][1]):
                start, previous_end, depth = spans.pop()
                end = max(previous_end, end)
                piece_depths |= set() if depth is None else {depth}
            spans.append((start, end, max(piece_depths) if piece_depths else None))
            last = numbers[token]
        return spans


def _check_inputs(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[object], max_length: int | None
) -> None:
    for name, text in zip(("text", "text_pair"), texts, strict=False):
        if not isinstance(text, str):
            raise TypeError(f"{name} must be a string; got a {type(text).__name__}.")
    if not tokenizer.is_fast:
        raise ValueError(
            f"tokenizer must be a fast tokenizer, with offsets; got {type(tokenizer).__name__}. "
            "Load it with AutoTokenizer.from_pretrained(...)."
        )
    special = tokenizer.num_special_tokens_to_add(pair=len(texts) > 1)
    if max_length is not None and max_length <= special:
        raise ValueError(
            f"max_length must be above the {special} special tokens; got max_length={max_length}."
        )


def _tokenise(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> BatchEncoding:
    encoding: BatchEncoding = tokenizer(
        *texts,
        padding=False,
        truncation=False,
        return_attention_mask=True,
        return_offsets_mapping=True,
        verbose=False,
    )
    return encoding


def _count_tokens(traces: Sequence[Trace], num_layers: int) -> tuple[int, ...]:
    """Count the tokens that each layer read in all passes; a pass may stop early."""
    counts = [0] * num_layers
    for trace in traces:
        for number, layer in enumerate(trace.layers):
            counts[number] += int(layer.read.sum())
    return tuple(counts)


def _trace_pass(
    model: PreTrainedModel, inputs: Mapping[str, Tensor]
) -> tuple[Tensor | None, Trace]:
    with torch.inference_mode(), record() as traces:
        output = model(**inputs, return_dict=True)
    return output.get("logits"), traces[-1]


def _read_prediction(config: Any, logits: Tensor | None) -> Prediction:
    """Convert the logits of classes or of regression; token logits give an empty prediction."""
    if logits is None or logits.ndim != 2:
        return Prediction()
    row = logits[0].float()
    is_multi_label = config.problem_type == "multi_label_classification"
    if not is_multi_label and (config.problem_type == "regression" or len(row) == 1):
        return Prediction(value=float(row[0])) if len(row) == 1 else Prediction()
    values = (row.sigmoid() if is_multi_label else row.softmax(-1)).tolist()
    names = [str(config.id2label[index]) for index in range(len(values))]
    probabilities = dict(zip(names, values, strict=True))
    if is_multi_label:
        applies = (label_margins(config, row[None])[0] > 0).tolist()
        labels = [name for name, is_chosen in zip(names, applies, strict=True) if is_chosen]
        labels.sort(key=lambda name: -probabilities[name])
        return Prediction(labels=tuple(labels), probabilities=probabilities)
    label = max(probabilities, key=probabilities.__getitem__)
    return Prediction(label, probabilities=probabilities)


def _split_passage(text: str, spans: Iterable[WordSpan], tokenised: int) -> Passage:
    """Split a text into words; the text after `tokenised` characters at white space, as unread."""
    unread = [
        (tokenised + match.start(), tokenised + match.end(), None)
        for match in re.finditer(r"\S+", text[tokenised:])
    ]
    words, position = [], 0
    for start, end, depth in [*spans, *unread]:
        words.append(Word(text[position:start], text[start:end], depth))
        position = end
    return Passage(tuple(words), text[position:])


def _merge_unread(passage: Passage, layers: int) -> Iterator[tuple[str, str, int | None]]:
    """Yield (before, text, depth) per word, with consecutive unread words merged."""
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


def _describe_depth(depth: int | None, layers: int) -> str:
    if depth is None:
        return "not read: beyond the longest text"
    if depth == layers:
        return f"read to the end, by all {layers} layers"
    return f"dropped after layer {depth}" if depth else "dropped in layer 1"
