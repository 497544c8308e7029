"""`nexusmix sign`: sign an exported folder, so that others can verify that it is complete and unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ui.cli.kit.context import Json, examples
from ui.cli.kit.output import note, print_json

EXAMPLES = examples(
    "openssl ecparam -name prime256v1 -genkey -noout -out key.pem",
    "openssl ec -in key.pem -pubout -out key.pub",
    "nexusmix sign ./team --key key.pem",
    "nexusmix verify ./team --key key.pub",
)


def sign(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that the command export wrote.")],
    key: Annotated[
        Path, typer.Option(metavar="FILE", help="Your private EC key (P-256, P-384 or P-521) in PEM.")
    ],
    password_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File with the password of an encrypted key in its first line."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Sign an exported folder: write model.sig into it.

    The format is that of OpenSSF Model Signing. Nothing is sent anywhere. Needs the extra `sign`.
    """
    from composer.formats.signing import sign as write

    password = None
    if password_file is not None:
        password = password_file.read_text(encoding="utf-8").split("\n")[0].rstrip("\r")
    written = write(folder, key, password=password)
    if as_json:
        print_json({"folder": str(folder), "signature": str(written)})
    else:
        note(f"signed: {written}")
