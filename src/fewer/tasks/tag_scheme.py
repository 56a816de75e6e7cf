"""Spellings of entity tags: `B-PER`, `b-per`, `B_PER`, `PER-B`, `B` alone.

`canonical` writes the tags of a label set as `PREFIX-TYPE` with a capital prefix, as in seqeval; a
prefix alone has the type `_`. Prefixes: B, I, O; in BIOES, BMES, BILOU and BMEWO also E, S, M, L,
U, W. Any other label set (parts of speech) has no scheme.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from fewer.tasks.columns import list_names

OUTSIDE = "O"
UNTYPED = "_"  # seqeval's type of a prefix alone

_PREFIXES = "BIESMLUW"
_USUAL = re.compile(rf"([{_PREFIXES}])-(.+)", re.DOTALL)
_SEPARATORS = "-_:/."

Parse = Callable[[str], tuple[str, str] | None]


def canonical(label_names: Iterable[str]) -> dict[str, str]:
    """Map each entity tag to `PREFIX-TYPE`, and the tag of words outside to "O".

    Tags of no entity are left out; the result is empty for a label set without a scheme. The usual
    spelling (`B-PER`) may be mixed with any other names; other spellings count only if all names
    but "O" follow them.

    >>> canonical(["o", "b_per", "i_per"])
    {'o': 'O', 'b_per': 'B-per', 'i_per': 'I-per'}
    >>> canonical(["B", "I", "O"]), canonical(["NOUN", "VERB"])
    ({'B': 'B-_', 'I': 'I-_', 'O': 'O'}, {})
    """
    return dict(_spell_tags(tuple(label_names)))


def outside(label_names: Sequence[str]) -> str:
    """Return the tag of a word in no entity: "O" or "o", else the first label."""
    return next((name for name in (OUTSIDE, "o") if name in label_names), label_names[0])


def check_spelling(label_names: Iterable[str], where: str) -> None:
    """Raise `ValueError` for a label set with two spellings of tags, or an unknown prefix."""
    names = list(label_names)
    spelled = canonical(names)
    types = {tag[2:].lower() for tag in spelled.values() if tag != OUTSIDE}
    for name in names:
        if name not in spelled and types & _guess_types(name):
            raise ValueError(
                f"{where}: tags must all be written alike, with one of the prefixes "
                f"{', '.join(_PREFIXES)}; got {name!r} among {list_names(names)}. Rename it."
            )


@lru_cache(maxsize=64)
def _spell_tags(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    tags = [name for name in dict.fromkeys(names) if name not in (OUTSIDE, "o")]
    matches = {name: match for name in tags if (match := _USUAL.fullmatch(name))}
    if len(matches) == len(tags) or any(match[1] in "BI" for match in matches.values()):
        spelled = {name: f"{match[1]}-{match[2]}" for name, match in matches.items()}
        spelled |= {tag: f"{tag}-{UNTYPED}" for tag in tags if len(tag) == 1 and tag in _PREFIXES}
    else:
        spelled = _parse_spelling(tags)
    if spelled or set(names) == {OUTSIDE}:
        spelled |= {name: OUTSIDE for name in names if name in (OUTSIDE, "o")}
    return tuple((name, spelled[name]) for name in dict.fromkeys(names) if name in spelled)


def _parse_spelling(tags: list[str]) -> dict[str, str]:
    """Parse tags by the first spelling that fits all of them, with a B or I among them."""
    for parse in _list_spellings():
        parts = [part for part in map(parse, tags) if part is not None]
        if parts and len(parts) == len(tags) and any(prefix in "BI" for prefix, _ in parts):
            return {
                tag: f"{prefix}-{type_}" for tag, (prefix, type_) in zip(tags, parts, strict=True)
            }
    return {}


def _list_spellings() -> list[Parse]:
    """List the spellings other than `B-PER`: no type, lowercase, other separators, suffixes."""
    spellings: list[Parse] = []
    for letters in (_PREFIXES, _PREFIXES.lower()):
        spellings.append(_compile_spelling(rf"(?P<prefix>[{letters}])(?P<type>)"))
        for separator in map(re.escape, _SEPARATORS):
            spellings.append(_compile_spelling(rf"(?P<prefix>[{letters}]){separator}(?P<type>.+)"))
            spellings.append(_compile_spelling(rf"(?P<type>.+){separator}(?P<prefix>[{letters}])"))
    return spellings


def _compile_spelling(pattern: str) -> Parse:
    compiled = re.compile(pattern, re.DOTALL)

    def parse(tag: str) -> tuple[str, str] | None:
        match = compiled.fullmatch(tag)
        return match and (match["prefix"].upper(), match["type"] or UNTYPED)

    return parse


def _guess_types(name: str) -> set[str]:
    """Return the possible types in a name that looks like a tag, in lowercase."""
    separators = re.escape(_SEPARATORS)
    patterns = (rf"[A-Za-z]{{1,2}}[{separators}](.+)", rf"(.+)[{separators}][A-Za-z]")
    matches = (re.fullmatch(pattern, name, re.DOTALL) for pattern in patterns)
    return {match[1].lower() for match in matches if match}
