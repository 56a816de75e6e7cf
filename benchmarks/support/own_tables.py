"""Files of rows whose newest row is a table with notes of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.support.backbones import backbones_table
from benchmarks.support.busy_core import busy_core_table
from benchmarks.support.deberta import deberta_table
from benchmarks.support.embedding import (
    embedding_memory_table,
    embedding_pruning_table,
    embedding_table,
)
from benchmarks.support.gliner import gliner_table
from benchmarks.support.int8 import int8_table
from benchmarks.support.ltp_limits import ltp_limits_table
from benchmarks.support.oracle import oracle_table
from benchmarks.support.reranking import reranking_table

__all__ = ["OWN_TABLES"]

OWN_TABLES: dict[str, Callable[[dict[str, Any], str], str]] = {
    "backbones": backbones_table,
    "busy_core": busy_core_table,
    "deberta": deberta_table,
    "embedding": embedding_table,
    "embedding_amx": embedding_table,
    "embedding_base": embedding_table,
    "embedding_memory": embedding_memory_table,
    "embedding_pruning": embedding_pruning_table,
    "gliner": gliner_table,
    "int8": int8_table,
    "int8_amx": int8_table,
    "int8_base": int8_table,
    "int8_base_amx": int8_table,
    "ltp_limits": ltp_limits_table,
    "reranking": reranking_table,
    "skim_oracle": oracle_table,
}
