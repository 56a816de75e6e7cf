"""Names that users write: those that are unknown are told with the nearest that is known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["check_known", "nearest"]


def check_known(name: object, known: Iterable[str], kind: str) -> None:
    """Raise `ValueError` if a name of this kind is not among the known."""
    known = list(known)
    if name not in known:
        told = ", ".join(known) or "none"
        raise ValueError(f"{kind} {name!r} is unknown{nearest(name, known)}; known: {told}")


def nearest(name: object, known: Iterable[str]) -> str:
    """Suggest the nearest of the known, whatever its case, as a remark in brackets; or say nothing.

    Example: nearest("lpt", ["ltp", "dense"]) is " (did you mean 'ltp'?)".
    """
    by_lower = {one.lower(): one for one in known}
    near = get_close_matches(str(name).lower(), by_lower, n=1)
    return f" (did you mean {by_lower[near[0]]!r}?)" if near else ""
