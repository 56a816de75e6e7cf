"""The table of methods: adding one is adding a row."""

from __future__ import annotations

from fewer.core.policy import Dense, Method
from fewer.pruning.ltp import LTP

__all__ = ["METHODS"]

METHODS: dict[str, type[Method]] = {
    "dense": Dense,
    "ltp": LTP,
}
