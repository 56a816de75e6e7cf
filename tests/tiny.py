"""Tiny random models of every supported architecture, ragged batches, and a tokenizer of words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from torch import Tensor

LENGTHS = (1, 12, 2, 7, 5)
VOCABULARY = 60
SEPARATOR = 3
SPREAD = 0.3  # of the random weights: attention is far from uniform, answers far apart


@dataclass(frozen=True)
class Family:
    """How one architecture is called, and which of its linear maps see which rows."""

    prefix: str  # of the class names
    sizes: dict[str, str]  # our name -> the config's
    extra: dict[str, Any]
    key: str = "attention.self.key"
    output: str = "attention.output.dense"
    ffn: str = "intermediate.dense"

    def sized(self, **sizes: int) -> dict[str, int]:
        return {self.sizes.get(name, name): size for name, size in sizes.items()}


_BERT = {
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "width": "hidden_size",
    "inner": "intermediate_size",
}
_DISTIL = {"layers": "n_layers", "heads": "n_heads", "width": "dim", "inner": "hidden_dim"}
_ALBERT = {"key": "attention.key", "output": "attention.dense", "ffn": "ffn"}
_MODERN = {"key": "attn.Wqkv", "output": "attn.Wo", "ffn": "mlp.Wi"}
_WINDOWS = {
    "local_attention": 4,
    "global_attn_every_n_layers": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

_DISENTANGLED = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 16,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
}
_EVERY_DISTANCE = {
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "norm_rel_ebd": "layer_norm",
    "type_vocab_size": 2,
}

_MPNET = {"key": "attention.attn.k", "output": "attention.attn.o"}

_ROTARY = {"key": "self_attn.k_proj", "output": "self_attn.o_proj", "ffn": "mlp.gate_proj"}
_GATED = {"initializer_range": 0.2}  # gated blocks enlarge rounding
_GROUPED = _GATED | {
    "num_key_value_heads": 1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "mask_token_id": 4,
    "classifier_pooling": "bos",  # others sum over the padded length: not the same bits
}
_NARROW = {
    "input_embedding_size": 6,
    "output_embedding_size": 6,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

_ALL_FAMILIES = {
    "bert": Family("Bert", _BERT, {}),
    "roberta": Family("Roberta", _BERT, {}),
    "xlm-roberta": Family("XLMRoberta", _BERT, {}),
    "camembert": Family("Camembert", _BERT, {}),
    "electra": Family("Electra", _BERT, {"embedding_size": 6}),
    "distilbert": Family(
        "DistilBert", _DISTIL, {}, "attention.k_lin", "attention.out_lin", "ffn.lin1"
    ),
    "albert": Family("Albert", _BERT, {"embedding_size": 6, "num_hidden_groups": 2}, **_ALBERT),
    "albert-inner": Family("Albert", _BERT, {"embedding_size": 6, "inner_group_num": 2}, **_ALBERT),
    "longformer": Family("Longformer", _BERT, {"attention_window": 4}),
    "big-bird": Family("BigBird", _BERT, {"block_size": 2, "num_random_blocks": 1}),
    "modernbert": Family("ModernBert", _BERT, _WINDOWS, **_MODERN),
    "deberta-v2": Family("DebertaV2", _BERT, _EVERY_DISTANCE, key="attention.self.key_proj"),
    "mpnet": Family("MPNet", _BERT, {}, **_MPNET),
    "data2vec-text": Family("Data2VecText", _BERT, {}),
    "ernie": Family("Ernie", _BERT, {"use_task_id": True}),
    "deberta-v3": Family("DebertaV2", _BERT, _DISENTANGLED, key="attention.self.key_proj"),
    "nomic-bert": Family("NomicBert", _BERT, _GATED, **_ROTARY),
    "eurobert": Family("EuroBert", _BERT, _GROUPED, **_ROTARY),
    "gte": Family("Gte", _BERT, _GATED | {"type_vocab_size": 2}, **_ROTARY),
    "jina-v3": Family("JinaEmbeddingsV3", _BERT, {}, **_ROTARY | {"ffn": "mlp.fc1"}),
    "xlm-roberta-xl": Family("XLMRobertaXL", _BERT, {}),
    "roberta-prelayernorm": Family("RobertaPreLayerNorm", _BERT, {}),
    "megatron-bert": Family("MegatronBert", _BERT, {}),
    "rembert": Family("RemBert", _BERT, _NARROW),
    "roformer": Family("RoFormer", _BERT, {"embedding_size": 6, "rotary_value": True}),
}
FAMILIES = {  # of the installed transformers; those that an older version lacks are not tested
    name: family for name, family in _ALL_FAMILIES.items() if hasattr(hf, family.prefix + "Config")
}
COMPUTED = tuple(  # families without a table of positions
    name
    for name in ("modernbert", "deberta-v3", "nomic-bert", "eurobert", "gte", "jina-v3")
    if name in FAMILIES
)
SHARING = (  # families whose layers are made of parts that others have, for laws that run over few
    "nomic-bert",
    "eurobert",
    "gte",
    "jina-v3",
    "xlm-roberta-xl",
    "roberta-prelayernorm",
    "megatron-bert",
    "rembert",
    "roformer",
)


def has_task(name: str, task: str) -> bool:
    """Return whether transformers has a head of this task for a family."""
    return hasattr(hf, f"{FAMILIES[name].prefix}For{task}")


def tiny(
    name: str = "bert",
    task: str = "SequenceClassification",
    *,
    layers: int = 3,
    heads: int = 2,
    width: int = 16,
    seed: int = 0,
    **settings: Any,
) -> Any:
    """Build a model in eval mode; the same arguments give the same weights.

    Skips the test if transformers answers no questions with this family.
    """
    family = FAMILIES[name]
    if task == "QuestionAnswering":
        if not has_task(name, task):
            pytest.skip(f"transformers has no {family.prefix}For{task}")
        settings = {"num_labels": 2} | settings  # start and end
    sizes = family.sized(layers=layers, heads=heads, width=width, inner=2 * width)
    common = {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 40,
        "num_labels": 3,
        "initializer_range": SPREAD,
    }
    config = getattr(hf, family.prefix + "Config")(**common | sizes | family.extra | settings)
    torch.manual_seed(seed)
    kind = "Model" if task == "Model" else f"For{task}"
    model = getattr(hf, family.prefix + kind)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases start at 0 and norms at 1: a lost one would not show
                parameter.add_(SPREAD * torch.randn_like(parameter))
    return model.eval()


def ragged(
    model: Any, lengths: Sequence[int] = LENGTHS, columns: int | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """Draw a padded batch of texts, pairs where the model answers questions; segments too."""
    generator = torch.Generator().manual_seed(seed)
    config, shape = model.config, (len(lengths), columns or max(lengths))
    column = torch.arange(shape[1])
    length = torch.tensor(lengths)[:, None]
    mask = column < length
    ids = torch.stack(  # row by row, so that a text does not depend on the padding
        [torch.randint(5, VOCABULARY, (40,), generator=generator)[: shape[1]] for _ in lengths]
    )
    answers = type(model).__name__.endswith("QuestionAnswering")
    if answers:
        ids[(column == length // 3) | (column == length - 1)] = SEPARATOR
    batch = {
        "input_ids": ids.masked_fill(~mask, config.pad_token_id),
        "attention_mask": mask.long(),
    }
    if config.model_type == "longformer":  # its heads make one up else, and not all the same
        question = column <= length // 3 if answers else column == 0
        batch["global_attention_mask"] = (question & mask).long()
    if getattr(config, "type_vocab_size", 0) == 2 and config.model_type != "modernbert":
        batch["token_type_ids"] = (mask & (column > length // (3 if answers else 2))).long()
    return batch


def text(batch: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """Take one text out of a batch, without its padding."""
    length = int(batch["attention_mask"][row].sum())
    return {name: values[row : row + 1, :length] for name, values in batch.items()}


def logits(output: Any) -> Tensor:
    """Read the logits of any head; of starts and ends side by side."""
    if "start_logits" in output:
        return torch.stack((output.start_logits, output.end_logits), -1)
    return output.logits


def real(values: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Take what belongs to tokens: all of `(B, C)`, the real rows of `(B, N, C)`."""
    return values if values.ndim == 2 else values[batch["attention_mask"].bool()]


def word_tokenizer(model_max_length: int = 40) -> Any:
    """Build a tokenizer of the words w0 ... w49, with [CLS] and [SEP] around a text."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {
        word: number for number, word in enumerate([*special, *(f"w{n}" for n in range(50))])
    }
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=model_max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
