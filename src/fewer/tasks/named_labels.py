"""Outputs of a model that are named by the labels of its task."""

from __future__ import annotations

__all__ = ["NamedLabels"]


class NamedLabels:
    """One output per label; what a Hugging Face config says of them."""

    label_names: tuple[str, ...]

    @property
    def num_labels(self) -> int:
        """Outputs of the model: one per label."""
        return len(self.label_names)

    @property
    def id2label(self) -> dict[int, str]:
        """Name of each output."""
        return dict(enumerate(self.label_names))

    @property
    def label2id(self) -> dict[str, int]:
        """Output of each name."""
        return {name: index for index, name in self.id2label.items()}
