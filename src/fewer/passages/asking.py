"""Answer questions from indexed passages: the lower layers encode only the question."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from fewer._validation.names import nearest
from fewer.core.cached_states import CachedStates
from fewer.core.trace import record
from fewer.hf.attach import attachment, evaluating
from fewer.hf.cached_states import with_cached_states
from fewer.inference.batching import token_budget_batches
from fewer.inference.predict import TOKEN_BUDGET
from fewer.passages.lower import fingerprint, lower_layers
from fewer.passages.pairs import OFFSETS, encode_questions, join_pair, pad_pairs
from fewer.passages.store import Contents, FileShard, Store, Window, read_contents
from fewer.tasks.spans import WindowLogits, best_spans
from fewer.tasks.texts import TruncationWarning

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["MEMORY_BYTES", "Answer", "Flops", "PassageIndex"]

MEMORY_BYTES = 2**30


@dataclass(frozen=True)
class Answer:
    """Characters [start, end) of a passage; `score`: the probability, 0..1.

    The text is "" at [0, 0) where the method pruned all tokens of the passage.
    """

    passage: str  # its id
    text: str
    score: float
    start: int
    end: int


@dataclass(frozen=True)
class Flops:
    """Mean FLOPs per question (multiply-add = 2), over all windows of its passage."""

    indexed: float  # with the indexed states of the passage
    full: float  # with the passage encoded again


@dataclass(frozen=True)
class _Pair:
    """A question with a window of its passage."""

    question: int  # its index
    row: dict[str, list[int]]
    window: Window


class PassageIndex:
    """Passages encoded by the lower layers of a model; built by `index`, or opened."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        contents: Contents,
        store: Store,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.contents = contents
        self.store = store

    @classmethod
    def open(
        cls,
        folder: str | Path,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        memory_bytes: int = MEMORY_BYTES,
    ) -> PassageIndex:
        """Open an index written by `index`; passages are read on demand.

        The last used passages stay in memory, up to `memory_bytes`. Raises `FileNotFoundError` for
        a folder without a complete index and `ValueError` for an index of another model, method or
        tokenizer, of an unknown schema, with a changed directory, or with a missing or truncated
        shard. A shard is checked for damage at its first use. Threads may share the index.
        """
        contents = read_contents(Path(folder))
        if fingerprint(model, tokenizer, lower_layers(model)) != contents.fingerprint:
            raise ValueError(
                f"{folder} must be built by this {type(model).__name__} with "
                f"{attachment(model).method}; got an index of another model, method or tokenizer. "
                "Index the passages again."
            )
        shards = [FileShard(Path(folder) / name, checksum) for name, _, checksum in contents.files]
        return cls(model, tokenizer, contents, Store(contents.places, shards, memory_bytes))

    def __len__(self) -> int:
        """Return the number of passages."""
        return len(self.contents.places)

    @property
    def ids(self) -> list[str]:
        """Ids of the passages, in the order of indexing."""
        return list(self.contents.places)

    @property
    def tokens(self) -> int:
        """Number of tokens of all passages; tokens in two windows count twice."""
        return sum(
            tokens for place in self.contents.places.values() for _, tokens, _, _ in place.windows
        )

    @property
    def states(self) -> int:
        """Number of tokens that remain after the lower layers."""
        return sum(
            states for place in self.contents.places.values() for _, _, _, states in place.windows
        )

    @property
    def bytes(self) -> int:
        """Size of all shards, on disk or in memory."""
        return sum(shard.bytes for shard in self.store.shards)

    @property
    def bytes_per_passage(self) -> float:
        """Mean size of a passage in the shards."""
        return self.bytes / len(self)

    def ask(
        self, questions: Sequence[str], ids: Sequence[str], *, token_budget: int = TOKEN_BUDGET
    ) -> list[Answer]:
        """Answer each question from the passage of the same position, one answer per question.

        A question that leaves no room for a window is truncated, with one `TruncationWarning`.
        Raises `ValueError` for an id that is not in the index.
        """
        return self._answer(questions, ids, token_budget, use_cache=True)

    def read(
        self, questions: Sequence[str], ids: Sequence[str], *, token_budget: int = TOKEN_BUDGET
    ) -> list[Answer]:
        """Answer as `ask` does, without indexed states: the model encodes the passages again."""
        return self._answer(questions, ids, token_budget, use_cache=False)

    def flops(self, questions: Sequence[str], ids: Sequence[str]) -> Flops:
        """Count the FLOPs of `ask` and `read` from their traces."""
        spec = attachment(self.model).spec
        totals = []
        for use_cache in (True, False):
            with record() as traces:
                self._answer(questions, ids, TOKEN_BUDGET, use_cache=use_cache)
            totals.append(sum(float(spec.flops(trace).sum()) for trace in traces))
        return Flops(*(flops / len(questions) for flops in totals))

    def find(
        self,
        question: str,
        ids: Sequence[str] | None = None,
        *,
        count: int = 1,
        token_budget: int = TOKEN_BUDGET,
    ) -> list[Answer]:
        """Find the `count` best answers to one question in several passages, best first.

        The default is all passages. The scores sum to 1 over the spans of all passages. Answers are
        as comparable as the model's logits of different texts.
        """
        names = self.ids if ids is None else list(ids)
        windows = self._compute_logits([question] * len(names), names, token_budget, use_cache=True)
        texts = [self.store.text(name) for name in names]
        begins = np.cumsum([0, *(len(text) + 1 for text in texts)])
        shifted = [
            _shift_offsets(window, int(begin))
            for passage_windows, begin in zip(windows, begins[:-1], strict=True)
            for window in passage_windows
        ]
        answers = []
        for span in best_spans(shifted, "\n".join(texts), count=count) if shifted else []:
            number = int(np.searchsorted(begins, span.start, side="right")) - 1
            start, end = span.start - int(begins[number]), span.end - int(begins[number])
            answers.append(Answer(names[number], span.text, span.score, start, end))
        return answers

    def _answer(
        self, questions: Sequence[str], ids: Sequence[str], token_budget: int, *, use_cache: bool
    ) -> list[Answer]:
        answers = []
        logits = self._compute_logits(questions, ids, token_budget, use_cache=use_cache)
        for name, windows in zip(ids, logits, strict=True):
            spans = best_spans(windows, self.store.text(name))
            best = [Answer(name, span.text, span.score, span.start, span.end) for span in spans]
            answers += best or [Answer(name, "", 0.0, 0, 0)]
        return answers

    def _compute_logits(
        self, questions: Sequence[str], ids: Sequence[str], token_budget: int, *, use_cache: bool
    ) -> list[list[WindowLogits]]:
        """Compute the logits of all windows of the passages, grouped by question."""
        pairs = self._pair_windows(questions, ids)
        logits: dict[int, WindowLogits] = {}
        lengths = [len(pair.row["input_ids"]) for pair in pairs]
        with evaluating(self.model) as reader, torch.inference_mode():
            for numbers in token_budget_batches(lengths, token_budget):
                batch = [pairs[number] for number in numbers]
                logits.update(zip(numbers, self._run_batch(reader, batch, use_cache), strict=True))
        by_question: list[list[WindowLogits]] = [[] for _ in ids]
        for number, pair in enumerate(pairs):
            by_question[pair.question].append(logits[number])
        return by_question

    def _pair_windows(self, questions: Sequence[str], ids: Sequence[str]) -> list[_Pair]:
        """Pair questions with the windows of their passages."""
        if isinstance(questions, str) or isinstance(ids, str):
            raise TypeError(
                "questions and ids must be lists of strings; got one string. Pass [text]."
            )
        if len(questions) != len(ids):
            raise ValueError(
                f"ids must be as many as questions; got {len(questions)} questions and {len(ids)} "
                "ids. Pass one id per question."
            )
        if unknown := [name for name in ids if name not in self.contents.places]:
            raise ValueError(
                "ids must name indexed passages; got no passage "
                f"{unknown[0]!r} in the index{nearest(unknown[0], self.ids)}. See PassageIndex.ids."
            )
        max_length = self.contents.max_length
        pairs, truncated = [], set()
        columns = encode_questions(questions, self.tokenizer, max_length) if questions else []
        for number, (question, name) in enumerate(zip(columns, ids, strict=True)):
            for window in self.store.windows(name):
                row, excess = join_pair(question, window.tokens, max_length)
                pairs.append(_Pair(number, row, window))
                if excess:
                    truncated.add(number)
        if truncated:
            warnings.warn(
                f"{len(truncated)} of {len(questions)} questions leave no room for a passage in "
                f"max_length={max_length} tokens and are truncated; the first is question "
                f"{min(truncated)}, from 0.",
                TruncationWarning,
                stacklevel=5,
            )
        return pairs

    def _run_batch(
        self, reader: PreTrainedModel, batch: Sequence[_Pair], use_cache: bool
    ) -> Iterator[WindowLogits]:
        """Yield the logits of the windows of one batch."""
        states = [pair.window.hidden for pair in batch]
        places = [pair.window.remaining["places"].long() for pair in batch]
        cached = CachedStates(self.contents.lower, states, places)
        inputs = pad_pairs([pair.row for pair in batch], self.tokenizer)
        with with_cached_states(cached) if use_cache else nullcontext():
            output = reader(**{name: values.to(reader.device) for name, values in inputs.items()})
        starts, ends = (
            logits.float().cpu().numpy() for logits in (output.start_logits, output.end_logits)
        )
        for start_logits, end_logits, pair in zip(starts, ends, batch, strict=True):
            size = len(pair.row["input_ids"])
            question_offsets = np.full(size - len(pair.window.tokens["starts"]), -1)
            offsets = [
                np.concatenate((question_offsets, pair.window.tokens[name].numpy()))
                for name in OFFSETS
            ]
            yield WindowLogits(start_logits[:size], end_logits[:size], *offsets)


def _shift_offsets(window: WindowLogits, shift: int) -> WindowLogits:
    """Add `shift` to a window's character offsets, except those of special tokens."""
    starts, ends = (
        np.where(offsets < 0, offsets, offsets + shift) for offsets in (window.starts, window.ends)
    )
    return replace(window, starts=starts, ends=ends)
