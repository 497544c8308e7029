"""Quantisation of a GGUF file to types that only llama.cpp writes, through its own tool `llama-quantize`."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from composer.errors import ExportError, RecipeError

TOOL = "llama-quantize"


@dataclass(frozen=True)
class Quantizer:
    """llama.cpp's tool at `tool`, for the quantised type `kind`, such as Q4_K_M."""

    tool: str
    kind: str

    @classmethod
    def find(cls, kind: str) -> Quantizer:
        """Find the tool on PATH. Raises RecipeError for a malformed type, ExportError if the tool is not installed."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]*", kind):
            raise RecipeError(f"the quantised type must be a name such as Q4_K_M, got {kind!r}")
        tool = shutil.which(TOOL)
        if tool is None:
            raise ExportError(
                f"quantising to {kind} needs llama.cpp's {TOOL}, which is not on PATH: install llama.cpp, or use "
                "--dtype q8_0, which needs no tool"
            )
        return cls(tool, kind)

    def run(self, folder: Path) -> int:
        """Replace the GGUF file in a folder by its quantised form. Returns its size in bytes. Raises ExportError."""
        (file,) = folder.glob("*.gguf")
        quantised = file.with_name(f"{file.stem}-{self.kind}{file.suffix}")
        ran = subprocess.run([self.tool, file, quantised, self.kind], capture_output=True, text=True)
        if ran.returncode or not quantised.exists():
            quantised.unlink(missing_ok=True)
            said = " ".join((ran.stderr or ran.stdout).split())[-300:]
            raise ExportError(
                f"{TOOL} did not quantise to {self.kind} (exit code {ran.returncode}): {said or 'no message'}; "
                f"{TOOL} --help lists its types"
            )
        quantised.replace(file)
        return file.stat().st_size
