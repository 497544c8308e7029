"""Comparison of the tokenizers of two Hugging Face folders, from their JSON files alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from registry.checkpoints.configs import differences, shown
from registry.checkpoints.safe_files import parse_json, printable
from registry.errors import UnsafeFileError

# Parts that convert text to tokens and back; `truncation` and `padding` are leftovers of a training run.
_PIPELINE = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
# The pad token is not compared: padding does not affect the function, and tuning tools often change it.
_SPECIAL = ("bos_token", "eos_token", "unk_token", "cls_token", "sep_token", "mask_token")
# Tokens that tunes change to those of a chat. They mark the ends of a text and do not change the function, if the seed
# knows them too.
_ENDS = ("bos_token", "eos_token")
# Switches that are compared only if both files set them: their default depends on the tokenizer's class.
_SWITCHES = ("add_bos_token", "add_eos_token", "add_prefix_space")

MAX_TEMPLATE_BYTES = 256 * 2**10


def tokenizer_mismatches(seed: Mapping[str, bytes], expert: Mapping[str, bytes]) -> list[str]:
    """Return the first difference of each part of two folders' tokenizers; [] if they are equal.

    Both arguments map names of small files to their contents. Raises UnsafeFileError for malformed JSON.
    """
    if "tokenizer.json" not in expert:
        return [
            "tokenizer.json: the expert has none; copy the seed's if the expert was trained with it, or save it "
            "with `tokenizer.save_pretrained(folder)`"
        ]
    mismatches = []
    if seed["tokenizer.json"] != expert["tokenizer.json"]:
        mismatches += _json_mismatches(_load(seed, "tokenizer.json"), _load(expert, "tokenizer.json"))
    return mismatches + _special_mismatches(_special_tokens(seed), _special_tokens(expert), token_ids(seed))


def token_ids(files: Mapping[str, bytes]) -> dict[str, int]:
    """Return the ids of all tokens of a tokenizer, those of its vocabulary and the added ones.

    Raises UnsafeFileError for malformed JSON. Ids that are no integers are left out.
    """
    tokenizer = _load(files, "tokenizer.json")
    vocabulary = _part(tokenizer, "model").get("vocab")
    pairs: list[tuple[Any, Any]] = list(vocabulary.items()) if isinstance(vocabulary, dict) else []
    if isinstance(vocabulary, list):  # of pairs of a token and its score
        pairs = [(each[0], place) for place, each in enumerate(vocabulary) if isinstance(each, list) and each]
    pairs += [(token.get("content"), token.get("id")) for token in _listed(tokenizer)]
    return {token: place for token, place in pairs if isinstance(token, str) and type(place) is int}


def new_tokens(seed: Mapping[str, bytes], expert: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Return the added tokens of an expert's tokenizer that its seed's lacks, in the order of their ids."""
    known = token_ids(seed)
    added = [
        token
        for token in _listed(_load(expert, "tokenizer.json"))
        if isinstance(token.get("content"), str) and token["content"] not in known
    ]
    return sorted(added, key=lambda token: token["id"] if type(token.get("id")) is int else -1)


def _listed(tokenizer: dict[str, Any]) -> list[dict[str, Any]]:
    added = tokenizer.get("added_tokens")
    return [token for token in added if isinstance(token, dict)] if isinstance(added, list) else []


def largest_id(files: Mapping[str, bytes]) -> int:
    """Return the largest token id that a tokenizer can produce, from its vocabulary and added tokens; -1 if empty.

    A special token counts if it has a role or appears in the chat template. Other special tokens occur only if a
    text contains their exact name. Some text models list image tokens that way, with ids beyond their embedding.

    Raises UnsafeFileError for malformed JSON and for ids that are not integers.
    """
    tokenizer = _load(files, "tokenizer.json")
    vocabulary = _part(tokenizer, "model").get("vocab")
    ids: list[Any] = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    if isinstance(vocabulary, list):
        ids.append(len(vocabulary) - 1)
    roles = [token for token in _special_tokens(files).values() if isinstance(token, str)]
    template = str(_load(files, "tokenizer_config.json").get("chat_template"))
    template += files.get("chat_template.jinja", b"").decode("utf-8", "replace")
    added = tokenizer.get("added_tokens")
    for token in added if isinstance(added, list) else []:
        content = token.get("content") if isinstance(token, dict) else None
        named = isinstance(content, str) and (content in roles or content in template)
        if isinstance(token, dict) and (token.get("special") is not True or named):
            ids.append(token.get("id"))
    for each in ids:
        if type(each) is not int:
            raise UnsafeFileError(f"tokenizer.json: expected integers as token ids, got {printable(each)}")
    return max(ids, default=-1)


def special_tokens(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the special tokens by role that a folder's small files name. Raises UnsafeFileError for malformed JSON."""
    named = _special_tokens(files)
    pad = {**_load(files, "special_tokens_map.json"), **_load(files, "tokenizer_config.json")}.get(
        "pad_token"
    )
    named["pad_token"] = pad.get("content") if isinstance(pad, dict) else pad
    return {role: token for role, token in named.items() if isinstance(token, str)}


def chat_template(files: Mapping[str, bytes]) -> str | None:
    """Return the chat template in a folder's small files: chat_template.jinja, or a field of tokenizer_config.json.

    Of several named templates, the one named "default" is returned, else the first. None if there is none.
    Raises UnsafeFileError for one that is too large or not UTF-8, and for malformed JSON.
    """
    if "chat_template.jinja" in files:
        try:
            template = files["chat_template.jinja"].decode("utf-8")
        except UnicodeDecodeError as error:
            raise UnsafeFileError(f"chat_template.jinja is not UTF-8: {error.reason}") from error
    else:
        given = _load(files, "tokenizer_config.json").get("chat_template")
        named = given if isinstance(given, list) else [{"name": "default", "template": given}]
        texts = {
            str(each.get("name")): each["template"]
            for each in named
            if isinstance(each, dict) and isinstance(each.get("template"), str)
        }
        template = texts.get("default", next(iter(texts.values()), ""))
    size = len(template.encode("utf-8", "surrogatepass"))
    if size > MAX_TEMPLATE_BYTES:
        raise UnsafeFileError(
            f"the chat template has {size:,} bytes; at most {MAX_TEMPLATE_BYTES:,} are read: remove or shorten it"
        )
    return template or None


def _json_mismatches(seed: dict[str, Any], expert: dict[str, Any]) -> list[str]:
    mine, theirs = _part(seed, "model"), _part(expert, "model")
    found = [
        _first("vocabulary", _by_id(mine.pop("vocab", {})), _by_id(theirs.pop("vocab", {}))),
        _first("merges", _merges(mine.pop("merges", [])), _merges(theirs.pop("merges", []))),
        _first("model", _pruned(mine), _pruned(theirs)),
        _added_mismatch(seed, expert),
        *(_first(part, _pruned(seed.get(part)), _pruned(expert.get(part))) for part in _PIPELINE),
    ]
    return [mismatch for mismatch in found if mismatch is not None]


def _first(part: str, seed: Any, expert: Any) -> str | None:
    """Return the first difference of one part; lists are compared in the order of token ids or merge ranks."""
    if seed == expert:
        return None
    if isinstance(seed, list) and isinstance(expert, list):
        place = next(
            (i for i, (mine, theirs) in enumerate(zip(seed, expert, strict=False)) if mine != theirs),
            min(len(seed), len(expert)),
        )
        mine, theirs = (side[place] if place < len(side) else None for side in (seed, expert))
        sizes = f" ({len(seed)} and {len(expert)} entries)" if len(seed) != len(expert) else ""
        return (
            f"tokenizer {part}, first at {place}: seed has {shown(mine)}, expert has {shown(theirs)}{sizes}"
        )
    path, mine, theirs = differences(seed, expert)[0]
    where = f"{part}.{path}" if path else part
    return f"tokenizer {where}: seed has {shown(mine)}, expert has {shown(theirs)}"


def _by_id(vocabulary: Any) -> list[Any]:
    """Return tokens sorted by id; a Unigram vocabulary is already such a list."""
    if not isinstance(vocabulary, dict):
        return list(vocabulary) if isinstance(vocabulary, list) else [vocabulary]
    return sorted(([str(index), token] for token, index in vocabulary.items()), key=lambda e: (len(e[0]), e))


def _merges(merges: Any) -> list[Any]:
    """Return merges as pairs; older files write "a b" for ["a", "b"]."""
    if not isinstance(merges, list):
        return [merges]
    return [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in merges]


def _added_tokens(tokenizer: dict[str, Any]) -> list[Any]:
    tokens = tokenizer.get("added_tokens") or []
    if not isinstance(tokens, list):
        return [tokens]
    return sorted((_pruned(token) for token in tokens), key=lambda token: str(token))


def _added_mismatch(seed: dict[str, Any], expert: dict[str, Any]) -> str | None:
    """Return the reason why two lists of added tokens differ; their ids may, and the expert's may lack special ones."""
    mine, theirs = (
        {str(token.get("content")): {k: v for k, v in _pruned(token).items() if k != "id"} for token in each}
        for each in (_listed(seed), _listed(expert))
    )
    if any(not isinstance(side.get("added_tokens") or [], list) for side in (seed, expert)):
        return _first("added tokens", _added_tokens(seed), _added_tokens(expert))
    known = _part(seed, "model").get("vocab")
    new = [
        token for token in theirs if token not in mine and not (isinstance(known, dict) and token in known)
    ]
    if new:
        names = ", ".join(shown(token) for token in new[:3]) + (
            f" and {len(new) - 3} more" if new[3:] else ""
        )
        return (
            f"tokenizer added tokens: the seed lacks {names}: extend it by them with `nexusmix seed extend NEW --seed "
            "SEED --tokens FOLDER`, and contribute to NEW"
        )
    kept = {
        token: value for token, value in mine.items() if token in theirs or value.get("special") is not True
    }
    shared = {token: value for token, value in theirs.items() if token in mine}
    if kept == shared:
        return None
    path, one, other = differences(kept, shared)[0]
    return f"tokenizer added tokens.{printable(path)}: seed has {shown(one)}, expert has {shown(other)}"


def _pruned(value: Any) -> Any:
    """Return a value without default entries, which older versions of the format omit."""
    if isinstance(value, dict):
        return {
            key: _pruned(item)
            for key, item in value.items()
            if item is not None and item is not False and not (key == "use_regex" and item is True)
        }
    return [_pruned(item) for item in value] if isinstance(value, list) else value


def _special_tokens(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return special tokens by role and the switches that add them; tokenizer_config.json has priority."""
    settings = {**_load(files, "special_tokens_map.json"), **_load(files, "tokenizer_config.json")}
    tokens = {
        role: value.get("content") if isinstance(value := settings.get(role), dict) else value
        for role in _SPECIAL
    }
    return tokens | {switch: settings.get(switch) for switch in _SWITCHES}


def _special_mismatches(seed: dict[str, Any], expert: dict[str, Any], known: Mapping[str, int]) -> list[str]:
    mismatches = []
    for role, mine in seed.items():
        theirs = expert[role]
        optional = role in _SWITCHES and (mine is None or theirs is None)
        is_known_end = role in _ENDS and (theirs is None or (isinstance(theirs, str) and theirs in known))
        if mine != theirs and not optional and not is_known_end:
            mismatches.append(f"special tokens: {role}: seed has {shown(mine)}, expert has {shown(theirs)}")
    return mismatches


def _load(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    content = parse_json(files[name], name) if name in files else {}
    return content if isinstance(content, dict) else {}


def _part(tokenizer: dict[str, Any], name: str) -> dict[str, Any]:
    part = tokenizer.get(name)
    return dict(part) if isinstance(part, dict) else {}
