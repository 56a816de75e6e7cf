"""Folders of sentence-transformers: pooling, prompts and limits, of old releases and new ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fewer.hf.embedder_files import (
    check_modules,
    copy_modules,
    is_embedder,
    read_embedding_config,
    read_max_length,
)
from fewer.tasks.embedding import EmbeddingConfig

OLD = "sentence_transformers.models."


def write(
    folder: Path,
    pooling: dict[str, Any],
    kinds: tuple[str, ...] = ("Transformer", "Pooling"),
    **config: Any,
) -> Path:
    modules = [
        {"idx": place, "path": f"{place}_{kind}" if place else "", "type": OLD + kind}
        for place, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode": "mean", "include_prompt": True}, "mean"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_max_tokens": True}, "max"),
    ],
)
def test_the_pooling_of_all_releases_is_read(
    tmp_path: Path, pooling: dict[str, Any], expected: str
) -> None:
    folder = write(tmp_path, pooling, ("Transformer", "Pooling", "Normalize"))
    assert is_embedder(folder)
    assert read_embedding_config(folder).pooling == expected


@pytest.mark.parametrize(
    "pooling",
    [
        {"pooling_mode": "weightedmean"},
        {"pooling_mode": ["cls", "mean"]},
        {"pooling_mode": "mean", "include_prompt": False},
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
        {"pooling_mode_mean_sqrt_len_tokens": True},
        {},
    ],
)
def test_another_pooling_is_left_to_its_library(tmp_path: Path, pooling: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"1_Pooling.*mean, cls, last, max.*SentenceTransformer"):
        read_embedding_config(write(tmp_path, pooling))


def test_prompts_are_those_that_their_library_takes(tmp_path: Path) -> None:
    prompts = {"query": "q: ", "passage": "p: ", "s2s": "s: ", "corpus": "c: "}
    folder = write(tmp_path, {"pooling_mode": "cls"}, prompts=prompts, default_prompt_name="s2s")
    expected = {"query": "q: ", "default": "s: "}  # "document" is there, and empty, in release 6
    assert read_embedding_config(folder).prompts == expected
    folder = write(tmp_path, {"pooling_mode": "cls"}, prompts={"s2s": "s: "})
    assert read_embedding_config(folder).prompts == {}
    folder = write(tmp_path, {"pooling_mode": "cls"}, prompts={"query": 3})
    with pytest.raises(ValueError, match="prompts"):
        read_embedding_config(folder)


def test_texts_are_lower_case_where_the_folder_says_so(tmp_path: Path) -> None:
    folder = write(tmp_path, {"pooling_mode": "cls"}, prompts={"query": "Q: "})
    assert read_embedding_config(folder).prompted(["A b"], "query") == ["Q: A b"]
    (folder / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": True}))
    assert read_embedding_config(folder).prompted(["A b"], "query") == ["q: a b"]


def test_the_similarity_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path, {"pooling_mode": "cls"}, similarity_fn_name="dot")
    assert read_embedding_config(folder).similarity == "dot"
    folder = write(tmp_path, {"pooling_mode": "cls"}, similarity_fn_name="euclidean")
    with pytest.raises(ValueError, match="euclidean"):
        read_embedding_config(folder)


def test_later_modules_are_left_to_their_library(tmp_path: Path) -> None:
    folder = write(tmp_path, {"pooling_mode": "mean"}, ("Transformer", "Pooling", "Dense"))
    with pytest.raises(ValueError, match="Dense"):
        read_embedding_config(folder)
    sparse = write(tmp_path, {"pooling_mode": "max"}, ("Transformer", "SpladePooling"))
    assert not is_embedder(sparse)


def test_a_folder_without_these_files_has_the_defaults(tmp_path: Path) -> None:
    assert read_embedding_config(tmp_path) == EmbeddingConfig()
    assert not is_embedder(tmp_path)
    assert read_max_length(tmp_path) is None
    check_modules(tmp_path)
    copy_modules(tmp_path, tmp_path / "missing")


def test_the_limit_of_old_releases_is_read(tmp_path: Path) -> None:
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 256}))
    assert read_max_length(tmp_path) == 256
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": None}))
    assert read_max_length(tmp_path) is None


@pytest.mark.parametrize(
    "modules",
    ["{}", "[3]", '[{"path": "../x", "type": "a"}]', '[{"path": "/etc", "type": "a"}]', "["],
)
def test_broken_lists_of_modules_are_refused_by_name(tmp_path: Path, modules: str) -> None:
    (tmp_path / "modules.json").write_text(modules)
    with pytest.raises(ValueError, match=r"modules\.json"):
        is_embedder(tmp_path)


def test_the_old_limit_is_left_out_of_a_longer_model(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    folder = write(tmp_path / "a", {"pooling_mode": "cls"})
    limit = {"max_seq_length": 128, "do_lower_case": True}
    (folder / "sentence_bert_config.json").write_text(json.dumps(limit))
    copy_modules(folder, tmp_path / "b", limit=False)
    assert read_max_length(tmp_path / "b") is None
    assert read_embedding_config(tmp_path / "b").lower_case
    assert read_max_length(folder) == 128


def test_modules_are_copied_and_missing_folders_are_no_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    folder = write(tmp_path / "a", {"pooling_mode": "cls"}, ("Transformer", "Pooling", "Normalize"))
    copy_modules(folder, tmp_path / "b")
    assert read_embedding_config(tmp_path / "b") == read_embedding_config(folder)
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [
        "1_Pooling",
        "config_sentence_transformers.json",
        "modules.json",
    ]
