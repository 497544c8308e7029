"""Name rules: which names are allowed, when two names are the same name, and how `name@version` is read."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from registry.errors import InvalidInputError

MAX_LENGTH = 100
MAX_VERSION = 2**31 - 1

# Words that select something else where a name is expected, and names that Windows cannot store as a file.
RESERVED = frozenset(
    {"all", "latest", "none", "con", "prn", "aux", "nul"}
    | {f"{device}{number}" for device in ("com", "lpt") for number in range(1, 10)}
)
_PUNCTUATION = frozenset("._-")
_VERSION = re.compile(r"[1-9][0-9]{0,9}")
_ALIAS = re.compile(r"[a-z][a-z0-9-]{0,31}")


@dataclass(frozen=True)
class Ref:
    """A parsed `name` or `name@version`; `version` is None where the newest is meant."""

    name: str
    version: int | None

    @property
    def key(self) -> str:
        """What the database compares: equal for names that differ only by case or Unicode form."""
        return name_key(self.name)

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}@{self.version}"


def check_name(text: str) -> str:
    """Return `text` in its stored form (NFKC).

    Raises InvalidInputError for an empty, overlong or reserved name, and for characters outside letters,
    digits, '.', '_' and '-' (so no path separator, white space, control or bidirectional character).
    """
    if not text:
        raise InvalidInputError("a name is empty: give letters, digits, '.', '_' or '-'")
    if len(text) > MAX_LENGTH:  # before NFKC, which can grow one character to 18
        raise _refused(text, f"has {len(text)} characters, at most {MAX_LENGTH} are allowed")
    name = unicodedata.normalize("NFKC", text)
    if len(name) > MAX_LENGTH:
        raise _refused(
            text, f"has {len(name)} characters in Unicode form NFKC, at most {MAX_LENGTH} are allowed"
        )
    wrong = next((char for char in name if not _allowed(char)), None)
    if wrong is not None:
        raise _refused(text, f"holds {wrong!a}: use letters, digits, '.', '_' and '-'")
    if name[0] in _PUNCTUATION or name[-1] == ".":
        raise _refused(text, "begins with punctuation or ends with a dot: begin with a letter or digit")
    # Windows reserves a device's name whatever the extension: "nul.txt" is the device too
    if name_key(name).split(".")[0] in RESERVED:
        raise _refused(text, "is reserved: choose another name")
    return name


def name_key(name: str) -> str:
    """The form under which names are unique: NFKC and casefold, so that 'Ｐython' is 'python'."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return unicodedata.normalize("NFKC", folded)  # casefold can leave NFKC


def parse_ref(text: str) -> Ref:
    """Read `name` or `name@version`. Raises InvalidInputError for any other form."""
    name, at, version = text.partition("@")
    if not at:
        return Ref(check_name(name), None)
    if not _VERSION.fullmatch(version) or int(version) > MAX_VERSION:
        raise InvalidInputError(
            f"{_shown(text)}: {_shown(version)} is no version: write name@N with N from 1"
        )
    return Ref(check_name(name), int(version))


def is_alias(text: str) -> bool:
    """Whether a reference has the form `name@word` rather than `name` or `name@version`."""
    return _ALIAS.fullmatch(text.partition("@")[2]) is not None


def parse_alias(text: str) -> tuple[str, str]:
    """Read `name@word` as the name's key and the word. Raises InvalidInputError for any other form."""
    name, _, alias = text.partition("@")
    if not is_alias(text):
        raise InvalidInputError(
            f"{_shown(text)} is no alias: write name@word, the word of small letters, digits and '-', as in law@stable"
        )
    return name_key(check_name(name)), alias


def parse_name(text: str) -> Ref:
    """Read a name that takes no version, such as a seed's. Raises InvalidInputError for `name@version`."""
    if "@" in text:
        raise InvalidInputError(
            f"{_shown(text)}: only a plain name fits here, seeds have no versions: leave out the '@'"
        )
    return Ref(check_name(text), None)


def _allowed(char: str) -> bool:
    return char in _PUNCTUATION or unicodedata.category(char)[0] in "LMN"


def _refused(text: str, reason: str) -> InvalidInputError:
    return InvalidInputError(f"the name {_shown(text)} {reason}")


def _shown(text: str) -> str:
    """Escaped and shortened, so that a hostile name cannot disturb a terminal."""
    return ascii(text if len(text) <= 60 else text[:57] + "...")
