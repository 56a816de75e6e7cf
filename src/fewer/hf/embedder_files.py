"""The files by which sentence-transformers describes a model, beside those of transformers.

`modules.json` lists what follows the transformer: pooling, normalisation, ...; each has a folder.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, get_args

from fewer._files.disk import read_json, read_json_list, write_json, writing
from fewer.tasks.embedding import EmbeddingConfig, Pooling, check_pooling

__all__ = [
    "check_modules",
    "copy_modules",
    "is_embedder",
    "read_embedding_config",
    "read_max_length",
]

MODULES = "modules.json"
CONFIG = "config_sentence_transformers.json"
POOLING, NORMALIZE = "Pooling", "Normalize"
_FLAGS = {  # of releases before 6
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}


def is_embedder(folder: Path) -> bool:
    """Return whether a folder is that of a `SentenceTransformer`, which pools an encoder."""
    return (folder / MODULES).is_file() and POOLING in _kinds(folder)


def check_modules(folder: Path) -> None:
    """Raise `ValueError` for a module whose class is not of sentence-transformers."""
    if not (folder / MODULES).is_file():
        return
    for entry in _modules(folder):
        if not entry["type"].startswith("sentence_transformers."):
            raise ValueError(
                f"{folder / MODULES} must name classes of sentence-transformers; got "
                f"{entry['type']!r:.80}, whose code fewer does not run. Load it by its own library "
                "and give the object to fewer.attach."
            )


def read_embedding_config(folder: Path) -> EmbeddingConfig:
    """Read how the vectors of a folder's model are made; a plain encoder has the defaults.

    Raises `ValueError` for modules and kinds of pooling that `fewer.embed` does not have, which
    only the object of sentence-transformers computes.
    """
    if not (folder / MODULES).is_file():
        return EmbeddingConfig()
    kinds = _kinds(folder)
    if kinds[1:] not in ([POOLING], [POOLING, NORMALIZE]):
        raise ValueError(
            f"{folder / MODULES} must list a transformer, a pooling and at most a normalisation; "
            f"got {', '.join(kinds)}. Evaluate it by sentence-transformers: "
            "fewer.load(folder, SentenceTransformer) is attached."
        )
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    similarity: Any = config.get("similarity_fn_name") or "cosine"
    if similarity not in ("cosine", "dot"):
        raise ValueError(
            f"{folder / CONFIG}: similarity_fn_name must be cosine or dot; got {similarity!r}. "
            "Evaluate it by sentence-transformers."
        )
    return EmbeddingConfig(
        pooling=_read_pooling(folder),
        similarity=similarity,
        prompts=_read_prompts(config, folder / CONFIG),
        lower_case=_read_lower_case(folder),
    )


def _read_lower_case(folder: Path) -> bool:
    """Return whether texts are made lower-case before a tokenizer that may not do so."""
    files = folder.glob("sentence_*_config.json")
    return any(read_json(file).get("do_lower_case") is True for file in files)


def read_max_length(folder: Path) -> int | None:
    """Return the limit in tokens that old releases save; since 6 it is that of the tokenizer."""
    for file in sorted(folder.glob("sentence_*_config.json")):
        length = read_json(file).get("max_seq_length")
        if isinstance(length, int) and length > 0:
            return length
    return None


def copy_modules(source: Path, target: Path, *, limit: bool = True) -> None:
    """Copy these files to the folder of a model made of that in `source`, if it has any.

    Without `limit` the longest text that old releases wrote there is left out.
    """
    if not (source / MODULES).is_file():
        return
    with writing(target):
        for name in (MODULES, CONFIG, *(file.name for file in source.glob("sentence_*.json"))):
            if (source / name).is_file():
                shutil.copyfile(source / name, target / name)
        for file in [] if limit else target.glob("sentence_*_config.json"):
            content = read_json(file)
            content.pop("max_seq_length", None)
            write_json(content, file)
        for path in _paths(source):
            if path and (source / path).is_dir():  # packages leave out the empty one of Normalize
                shutil.copytree(source / path, target / path, dirs_exist_ok=True)


def _modules(folder: Path) -> list[dict[str, Any]]:
    """Return the entries of modules.json; their folders lie in the model's."""
    file = folder / MODULES
    entries = read_json_list(file)
    for entry in entries:
        path = entry.get("path") if isinstance(entry, dict) else None
        is_inside = isinstance(path, str) and Path(path).name == path
        if not is_inside or not isinstance(entry.get("type"), str):
            raise ValueError(
                f"{file} must list modules, each with its type and a folder beside it; got "
                f"{entry!r:.80}. Save the model again."
            )
    return entries


def _kinds(folder: Path) -> list[str]:
    return [entry["type"].rpartition(".")[2] for entry in _modules(folder)]


def _paths(folder: Path) -> list[str]:
    return [entry["path"] for entry in _modules(folder)]


def _read_pooling(folder: Path) -> Pooling:
    """Return the pooling of the second module."""
    file = folder / _paths(folder)[1] / "config.json"
    config = read_json(file)
    mode = config.get("pooling_mode")
    if mode is None:
        modes = [name for flag, name in _FLAGS.items() if config.get(flag)]
        mode = modes[0] if len(modes) == 1 else modes
    mode = "last" if mode == "lasttoken" else mode
    poolings = get_args(Pooling)
    if mode not in poolings or not config.get("include_prompt", True):
        excluded = "" if mode not in poolings else " without the tokens of the prompt"
        raise ValueError(
            f"{file}: the pooling must be one of {', '.join(poolings)} over all tokens; got "
            f"{mode!r}{excluded}. Evaluate it by sentence-transformers: "
            "fewer.load(folder, SentenceTransformer) is attached."
        )
    return check_pooling(str(mode))


def _read_prompts(config: dict[str, Any], file: Path) -> dict[str, str]:
    """Return the prompts of queries, of documents, and of other texts, as release 6 takes them."""
    prompts, default = config.get("prompts") or {}, config.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(p, str) for p in prompts.values()):
        raise ValueError(f"{file}: prompts must map names to texts; got {prompts!r:.80}.")
    names = {"query": "query", "document": "document", "default": default}
    return {kind: prompts[name] for kind, name in names.items() if prompts.get(name)}
