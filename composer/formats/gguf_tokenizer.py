"""A mix's tokenizer as llama.cpp's metadata: tokens, merges, and the pre-tokenizer that splits text equally.

For byte-level BPE, llama.cpp selects a pre-tokenizer by name; the regular expressions are part of its code. A
tokenizer that splits text differently from all of them is refused. It would run, but give the mix wrong tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from composer.errors import ExportError

Step = tuple[str, object]

GPT2: Step = ("ByteLevel", True)  # with GPT-2's own expression
BYTES: Step = ("ByteLevel", False)
DIGITS: Step = ("Digits", True)
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
MARKS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3: Step = ("Split", WORDS + r"\p{N}{1,3}" + MARKS)
QWEN2: Step = ("Split", WORDS + r"\p{N}" + MARKS)
# llama.cpp's name by (the steps in tokenizer.json, ignore_merges: whether a word that is a token is not split).
PRE_TOKENIZERS: Mapping[tuple[tuple[Step, ...], bool], str] = {
    ((GPT2,), False): "gpt-2",
    ((DIGITS, GPT2), False): "smollm",
    ((LLAMA3, BYTES), True): "llama-bpe",
    ((LLAMA3, BYTES), False): "smaug-bpe",
    ((QWEN2, BYTES), False): "qwen2",
}
# llama.cpp does not normalise text. NFC is accepted, as in llama.cpp's own converter: nearly all text is NFC already.
NORMALIZERS = (None, "NFC")
PLAIN_BPE: Mapping[str, tuple[object, ...]] = {
    "dropout": (None, 0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (None, False),
}


def add_tokenizer(writer: Any, tokenizer: Any, size: int, ends: Iterable[int]) -> None:
    """Add a transformers tokenizer to a GGUFWriter, for embeddings of `size` rows.

    `ends` are token ids that end a text, in addition to the tokenizer's own. Raises ExportError if llama.cpp would
    tokenize differently.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _refusal(f"a {type(tokenizer).__name__} has no tokenizer.json")
    parts = json.loads(backend.to_str())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(parts))
    _add_tokens(writer, parts, size)
    writer.add_token_merges(
        [pair if isinstance(pair, str) else " ".join(pair) for pair in parts["model"]["merges"]]
    )
    _add_special(writer, tokenizer, backend, size, ends)
    if template := tokenizer.chat_template:
        named = (
            template
            if isinstance(template, str)
            else [{"name": n, "template": t} for n, t in template.items()]
        )
        writer.add_chat_template(named)


def _refusal(reason: str) -> ExportError:
    return ExportError(f"llama.cpp cannot express the seed's tokenizer: {reason}; use --format qwen2_moe")


def _pre_tokenizer(parts: Mapping[str, Any]) -> str:
    """Return llama.cpp's name of the pre-tokenizer in tokenizer.json. Raises ExportError if there is none."""
    model, normalizer = parts["model"], parts["normalizer"]
    if model["type"] != "BPE":
        raise _refusal(f"its model is {model['type']}, expected byte-level BPE")
    for field, plain in PLAIN_BPE.items():
        if model.get(field) not in plain:
            raise _refusal(f"its BPE has {field} = {model[field]!r}, expected {plain[0]!r}")
    if (normalizer and normalizer["type"]) not in NORMALIZERS:
        raise _refusal(f"it normalises text ({json.dumps(normalizer)}), but llama.cpp does not")
    whole = bool(model.get("ignore_merges"))
    name = PRE_TOKENIZERS.get((_steps(parts["pre_tokenizer"]), whole))
    if name is None:
        known = ", ".join(dict.fromkeys(PRE_TOKENIZERS.values()))
        raise _refusal(
            f"its pre-tokenizer {json.dumps(parts['pre_tokenizer'])} with ignore_merges = {whole} is equal to none of "
            f"{known}"
        )
    return name


def _steps(pre: Mapping[str, Any] | None) -> tuple[Step, ...]:
    """Return a pre-tokenizer's steps, each reduced to the settings that decide where it splits."""
    if pre is None:
        return ()
    kind = pre["type"]
    if kind == "Sequence":
        return tuple(step for inner in pre["pretokenizers"] for step in _steps(inner))
    if kind == "ByteLevel" and not pre.get("add_prefix_space"):
        return ((kind, pre.get("use_regex", True)),)
    if kind == "Digits":
        return ((kind, pre["individual_digits"]),)
    # (Removed, inverted) drops unmatched text. The known expressions match every character, so nothing is dropped.
    if kind == "Split" and (pre["behavior"], pre["invert"]) in (("Isolated", False), ("Removed", True)):
        return ((kind, pre["pattern"].get("Regex")),)
    return ((json.dumps(pre), None),)


def _add_tokens(writer: Any, parts: Mapping[str, Any], size: int) -> None:
    """Add each row's token and token type; rows without a token get the type UNUSED."""
    from gguf import TokenType

    tokens = {token_id: (token, TokenType.NORMAL) for token, token_id in parts["model"]["vocab"].items()}
    if max(tokens) >= size:
        raise _refusal(f"it has ids up to {max(tokens)}, but the embeddings have {size} rows")
    for added in parts["added_tokens"]:
        if added["lstrip"] or added["rstrip"] or added["single_word"]:
            raise _refusal(
                f"token {added['content']!r} sets lstrip, rstrip or single_word, which llama.cpp does not support"
            )
        kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        # A tokenizer's class may add tokens for which the model has no embedding row. The mix cannot read them either.
        if added["id"] < size:
            tokens[added["id"]] = (added["content"], kind)
    rows = [tokens.get(i, (f"[PAD{i}]", TokenType.UNUSED)) for i in range(size)]
    writer.add_token_list([token for token, _ in rows])
    writer.add_token_types([kind for _, kind in rows])


def _add_special(writer: Any, tokenizer: Any, backend: Any, size: int, ends: Iterable[int]) -> None:
    """Add the tokens that begin and end a text, and whether encoding inserts them."""
    bos, pad = tokenizer.bos_token_id, tokenizer.pad_token_id
    end = [i for i in dict.fromkeys([tokenizer.eos_token_id, *ends]) if i is not None and i < size]
    if not end:  # llama.cpp would use token 11 instead
        raise _refusal("it has no end-of-text token, but llama.cpp needs one")
    plain = backend.encode("a", add_special_tokens=False).ids
    ids = backend.encode("a", add_special_tokens=True).ids
    start = next((i for i in range(len(ids)) if ids[i : i + len(plain)] == plain), None)
    before, after = (None, None) if start is None else (ids[:start], ids[start + len(plain) :])
    if before not in ([], [bos]) or after not in ([], end[:1]):
        raise _refusal(
            f"it encodes 'a' as {ids}, but llama.cpp adds at most the begin token before and the end token after"
        )
    writer.add_add_bos_token(bool(before))
    writer.add_add_eos_token(bool(after))
    writer.add_eos_token_id(end[0])
    if end[1:]:
        writer.add_eot_token_id(end[1])
    if bos is not None and bos < size:
        writer.add_bos_token_id(bos)
    if pad is not None and pad < size:
        writer.add_pad_token_id(pad)
