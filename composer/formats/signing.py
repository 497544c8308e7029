"""Signatures of exported folders, in the format of OpenSSF Model Signing: `model.sig`, made with an EC key, offline.

Any software that supports this format can verify the folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from composer.errors import RecipeError, SignatureError
from composer.extras import require
from composer.formats.folder import fsync
from registry.errors import NotFoundError
from registry.paths import PathLike, as_path

FILE = "model.sig"
UNFINISHED = f"{FILE}.partial"
# Records of `hf download --local-dir`, which are no part of the model.
IGNORED = (FILE, UNFINISHED, ".cache/huggingface")


def sign(folder: PathLike, key: PathLike, *, password: str | None = None) -> Path:
    """Hash every file of a folder and write the signature of the hashes to its `model.sig`. Returns that file.

    `key` is a private EC key (P-256, P-384 or P-521) in PEM; `password` decrypts it. An earlier signature is replaced.
    Raises MissingExtraError, NotFoundError, RecipeError (the key), SignatureError (the folder cannot be signed).
    """
    _require()
    from model_signing import hashing, signing

    folder = _folder(folder)
    with _key_errors(key, "private"):
        config = signing.Config().use_elliptic_key_signer(
            private_key=as_path(key),
            # model-signing declares a string, but passes it on to a function that takes bytes.
            password=None if password is None else password.encode(),  # type: ignore[arg-type]
        )
    hashed = hashing.Config().set_ignored_paths(paths=IGNORED)
    try:
        config.set_hashing_config(hashed).sign(folder, folder / UNFINISHED)
    except ValueError as error:
        raise SignatureError(f"{folder} cannot be signed: {error}") from error
    fsync(folder / UNFINISHED)
    (folder / UNFINISHED).replace(folder / FILE)
    fsync(folder)
    return folder / FILE


def verify(folder: PathLike, key: PathLike) -> None:
    """Check that a folder has the files that were signed with the private key of `key`, unchanged, and no others.

    `key` is the signer's public key in PEM. Raises MissingExtraError, NotFoundError, RecipeError (the key),
    SignatureError.
    """
    _require()
    from model_signing import verifying

    folder = _folder(folder)
    signature = folder / FILE
    with _key_errors(key, "public"):
        config = verifying.Config().use_elliptic_key_verifier(public_key=as_path(key))
    if not signature.is_file():
        raise SignatureError(f"{folder} has no {FILE}: sign it with `nexusmix sign {folder} --key KEY`")
    try:
        config.verify(folder, signature)
    except Exception as error:  # a damaged file raises errors of JSON, of the parser or of the cryptography
        raise SignatureError(
            f"{folder} is not what was signed with this key: {str(error).strip() or 'invalid signature'}; "
            "get the folder again from its source, or ask its owner for the key"
        ) from error


def _require() -> None:
    for package in (
        "model_signing",
        "OpenSSL",
    ):  # model-signing 1.1 imports pyOpenSSL but does not declare it
        require(package, "sign")


def _folder(path: PathLike) -> Path:
    folder = as_path(path)
    if not folder.is_dir():
        raise NotFoundError(f"no folder {folder}: give the folder that `nexusmix export` wrote")
    return folder


@contextmanager
def _key_errors(key: PathLike, kind: str) -> Iterator[None]:
    """Turn the errors of reading a key into NotFoundError and RecipeError."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFoundError(f"no file {key}: give a {kind} key in PEM") from error
    except (ValueError, TypeError, AttributeError) as error:
        # model-signing raises AttributeError for a key that is not of an elliptic curve.
        found = "it is of another type" if isinstance(error, AttributeError) else str(error).split("\n")[0]
        raise RecipeError(
            f"{key} is not a usable {kind} key: {found.rstrip('. ')}; "
            "expected an EC key (P-256, P-384 or P-521) in PEM, and its password if it is encrypted"
        ) from error
