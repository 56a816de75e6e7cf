"""Questions about passages that are kept: only the question is read through the lower layers."""

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
from fewer.core.cached_states import CachedStates, knowing
from fewer.core.trace import record
from fewer.hf.attach import attachment, evaluating
from fewer.inference.batching import token_budget_batches
from fewer.inference.predict import TOKEN_BUDGET
from fewer.passages.lower import fingerprint, lower_layers
from fewer.passages.pairs import OFFSETS, heads, padded, paired
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

    No text at [0, 0) where the method dropped every token of the passage.
    """

    passage: str  # its id
    text: str
    score: float
    start: int
    end: int


@dataclass(frozen=True)
class Flops:
    """Mean FLOPs of a question (a multiply-add is 2), over all windows of its passage."""

    kept: float  # with the passage's states from the index
    whole: float  # with all of it read


@dataclass(frozen=True)
class _Asked:
    """A question with a window."""

    number: int  # of the question
    row: dict[str, list[int]]
    window: Window


class PassageIndex:
    """Passages that a model has read through its lower layers; made by `index`, or opened."""

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
        """Open what `index` wrote; passages are read when they are asked about.

        Those asked about last stay in memory, up to `memory_bytes`. Raises `FileNotFoundError` for
        a folder without a whole index and `ValueError` for one made with another model, method or
        tokenizer, of an unknown schema, with a changed directory, or with a shard missing or cut. A
        shard is checked for damage when a passage in it is first asked about. Threads may share
        the index.
        """
        contents = read_contents(Path(folder))
        if fingerprint(model, tokenizer, lower_layers(model)) != contents.fingerprint:
            raise ValueError(
                f"{folder} was made with another model, method or tokenizer: their embeddings, "
                f"lower layers or rules differ from those of this {type(model).__name__} with "
                f"{attachment(model).method}; index the passages again"
            )
        shards = [FileShard(Path(folder) / name, checksum) for name, _, checksum in contents.files]
        return cls(model, tokenizer, contents, Store(contents.places, shards, memory_bytes))

    def __len__(self) -> int:
        """How many passages there are."""
        return len(self.contents.places)

    @property
    def ids(self) -> list[str]:
        """Of the passages, in the order they were given."""
        return list(self.contents.places)

    @property
    def tokens(self) -> int:
        """Tokens of all passages, those in two windows counted twice."""
        return sum(
            tokens for place in self.contents.places.values() for _, tokens, _, _ in place.windows
        )

    @property
    def states(self) -> int:
        """How many of the tokens are left after the lower layers."""
        return sum(
            left for place in self.contents.places.values() for _, _, _, left in place.windows
        )

    @property
    def bytes(self) -> int:
        """Size of all shards, on disk or in memory."""
        return sum(shard.bytes for shard in self.store.shards)

    @property
    def bytes_per_passage(self) -> float:
        """The mean of the shards' size over the passages."""
        return self.bytes / len(self)

    def ask(
        self, questions: Sequence[str], ids: Sequence[str], *, token_budget: int = TOKEN_BUDGET
    ) -> list[Answer]:
        """Answer each question from the passage of the same number: one answer each, in order.

        A question loses its end, with one `TruncationWarning`, where it leaves no room for a
        window. Raises `ValueError` for an id that is not in the index.
        """
        return self._answers(questions, ids, token_budget, kept=True)

    def read(
        self, questions: Sequence[str], ids: Sequence[str], *, token_budget: int = TOKEN_BUDGET
    ) -> list[Answer]:
        """Do what `ask` does with the passages' states forgotten: the model reads them again."""
        return self._answers(questions, ids, token_budget, kept=False)

    def flops(self, questions: Sequence[str], ids: Sequence[str]) -> Flops:
        """Count what `ask` and `read` take, from the traces of both."""
        shape = attachment(self.model).shape
        taken = []
        for kept in (True, False):
            with record() as traces:
                self._answers(questions, ids, TOKEN_BUDGET, kept=kept)
            taken.append(sum(float(shape.flops(trace).sum()) for trace in traces))
        return Flops(*(flops / len(questions) for flops in taken))

    def find(
        self,
        question: str,
        ids: Sequence[str] | None = None,
        *,
        count: int = 1,
        token_budget: int = TOKEN_BUDGET,
    ) -> list[Answer]:
        """Find the `count` best answers to one question in several passages, the best first.

        All passages by default. The scores add up to 1 over the spans of all of them. Answers are
        as comparable as the model's logits of different texts are.
        """
        names = self.ids if ids is None else list(ids)
        windows = self._windows([question] * len(names), names, token_budget, kept=True)
        texts = [self.store.text(name) for name in names]
        begins = np.cumsum([0, *(len(text) + 1 for text in texts)])
        moved = [
            _moved(window, int(begin))
            for own, begin in zip(windows, begins[:-1], strict=True)
            for window in own
        ]
        found = []
        for span in best_spans(moved, "\n".join(texts), count=count) if moved else []:
            number = int(np.searchsorted(begins, span.start, side="right")) - 1
            start, end = span.start - int(begins[number]), span.end - int(begins[number])
            found.append(Answer(names[number], span.text, span.score, start, end))
        return found

    def _answers(
        self, questions: Sequence[str], ids: Sequence[str], token_budget: int, *, kept: bool
    ) -> list[Answer]:
        found = []
        for name, windows in zip(
            ids, self._windows(questions, ids, token_budget, kept=kept), strict=True
        ):
            spans = best_spans(windows, self.store.text(name))
            best = [Answer(name, one.text, one.score, one.start, one.end) for one in spans]
            found += best or [Answer(name, "", 0.0, 0, 0)]
        return found

    def _windows(
        self, questions: Sequence[str], ids: Sequence[str], token_budget: int, *, kept: bool
    ) -> list[list[WindowLogits]]:
        """Ask about all windows of the passages; what is said of them, question by question."""
        asked = self._asked(questions, ids)
        said: dict[int, WindowLogits] = {}
        lengths = [len(one.row["input_ids"]) for one in asked]
        with evaluating(self.model) as reader, torch.inference_mode():
            for numbers in token_budget_batches(lengths, token_budget):
                batch = [asked[number] for number in numbers]
                said.update(zip(numbers, self._pass(reader, batch, kept), strict=True))
        found: list[list[WindowLogits]] = [[] for _ in ids]
        for number, one in enumerate(asked):
            found[one.number].append(said[number])
        return found

    def _asked(self, questions: Sequence[str], ids: Sequence[str]) -> list[_Asked]:
        """Pair questions with the windows of their passages."""
        if isinstance(questions, str) or isinstance(ids, str):
            raise TypeError("wanted lists of questions and ids, got one string: wrap it in a list")
        if len(questions) != len(ids):
            raise ValueError(
                f"as many questions as ids are wanted, got {len(questions)} and {len(ids)}"
            )
        if unknown := [name for name in ids if name not in self.contents.places]:
            raise ValueError(
                f"there is no passage {unknown[0]!r} in the index{nearest(unknown[0], self.ids)}"
            )
        most = self.contents.max_length
        found, cut = [], set()
        asking = heads(questions, self.tokenizer, most) if questions else []
        for number, (head, name) in enumerate(zip(asking, ids, strict=True)):
            for window in self.store.windows(name):
                row, lost = paired(head, window.tokens, most)
                found.append(_Asked(number, row, window))
                if lost:
                    cut.add(number)
        if cut:
            warnings.warn(
                f"{len(cut)} of {len(questions)} questions leave no room for a passage in "
                f"max_length={most} tokens; they lose their end (the first is question {min(cut)}, "
                "from 0)",
                TruncationWarning,
                stacklevel=5,
            )
        return found

    def _pass(
        self, reader: PreTrainedModel, batch: Sequence[_Asked], kept: bool
    ) -> Iterator[WindowLogits]:
        """Read one batch."""
        states = [one.window.hidden for one in batch]
        places = [one.window.left["places"].long() for one in batch]
        known = CachedStates(self.contents.lower, states, places)
        inputs = padded([one.row for one in batch], self.tokenizer)
        with knowing(known) if kept else nullcontext():
            output = reader(**{name: values.to(reader.device) for name, values in inputs.items()})
        starts, ends = (
            logits.float().cpu().numpy() for logits in (output.start_logits, output.end_logits)
        )
        for own_starts, own_ends, one in zip(starts, ends, batch, strict=True):
            size = len(one.row["input_ids"])
            before = np.full(size - len(one.window.tokens["starts"]), -1)
            offsets = [
                np.concatenate((before, one.window.tokens[name].numpy())) for name in OFFSETS
            ]
            yield WindowLogits(own_starts[:size], own_ends[:size], *offsets)


def _moved(window: WindowLogits, by: int) -> WindowLogits:
    """Move a window's characters to where its passage begins."""
    starts, ends = (np.where(own < 0, own, own + by) for own in (window.starts, window.ends))
    return replace(window, starts=starts, ends=ends)
