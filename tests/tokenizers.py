"""Tokenizers of every published kind, trained on a few sentences in milliseconds."""

from __future__ import annotations

from functools import cache
from typing import Any

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

SENTENCES = [
    "Ada came late to the café in Zürich.",
    "Who came? The engineer Ada Lovelace came, he said.",
    "Naïve users type odd words; the model reads them all the same.",
    "Paris is the capital of France, and Bern that of Switzerland.",
]
BERT = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
ROBERTA = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "mask_token": "<mask>",
}
KINDS = ("wordpiece", "cased", "byte-level", "untrimmed", "metaspace", "albert", "composed")


def trained(kind: str, model_max_length: int = 128) -> Any:
    """Build a tokenizer of a kind: BERT's, RoBERTa's, ModernBERT's, XLM-R's, ALBERT's."""
    names = ROBERTA if kind in ("byte-level", "metaspace", "composed") else BERT
    inputs = ["input_ids", "attention_mask"]
    if names is BERT and kind != "untrimmed":
        inputs.insert(1, "token_type_ids")
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_rules(kind)),
        model_max_length=model_max_length,
        model_input_names=inputs,
        **names,
    )


@cache  # a second training may break ties another way
def _rules(kind: str) -> str:
    """Train a tokenizer, and write it as JSON."""
    names = ROBERTA if kind in ("byte-level", "metaspace", "composed") else BERT
    tokenizer, trainer = _parts(kind, list(names.values()))
    tokenizer.train_from_iterator(SENTENCES, trainer)
    first, last = names["cls_token"], names["sep_token"]
    ids = [(name, tokenizer.token_to_id(name)) for name in (first, last)]
    if kind == "byte-level":
        tokenizer.post_processor = processors.RobertaProcessing(
            ids[1], ids[0], trim_offsets=True, add_prefix_space=False
        )
    else:
        double = f"{last} " * (1 + (names is ROBERTA))
        second = 0 if names is ROBERTA else 1
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}",
            pair=f"{first} $A {double}$B:{second} {last}:{second}",
            special_tokens=ids,
        )
    return tokenizer.to_str()


def _parts(kind: str, special: list[str]) -> tuple[Tokenizer, Any]:
    """Build the untrained tokenizer of a kind, and its trainer."""
    if kind in ("wordpiece", "cased"):
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=kind == "wordpiece")
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return tokenizer, trainers.WordPieceTrainer(
            vocab_size=150, special_tokens=special, show_progress=False
        )
    if kind in ("byte-level", "untrimmed"):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        if kind == "untrimmed":  # as ModernBERT
            tokenizer.normalizer = normalizers.NFC()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        return tokenizer, trainers.BpeTrainer(
            vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.decoder = decoders.Metaspace()
    if kind == "albert":
        rules = [
            normalizers.Replace("``", '"'),
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
        ]
        tokenizer.normalizer = normalizers.Sequence(rules)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
        )
    else:
        rules = [normalizers.Replace(Regex(" {2,}"), " ")]
        if kind == "composed":
            rules.insert(0, normalizers.NFKC())
        tokenizer.normalizer = normalizers.Sequence(rules)
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    unknown = special[1]
    return tokenizer, trainers.UnigramTrainer(
        vocab_size=130, special_tokens=special, unk_token=unknown, show_progress=False
    )
