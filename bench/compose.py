"""Compare composing with mergekit, as whole processes: python -m bench.compose FOLDER [--repetitions 3].

FOLDER stores files that are made once and reused: random Llamas of 317M parameters (bench.random_llamas), a registry
with all of them, and a separate environment for mergekit. Contenders run in turn, A B C A B C, with their inputs in
the page cache. The output is Markdown with the median of each figure. For each target it prints the median, over
repetitions, of the ratio within one repetition. --forward also times the mix and its export (bench.forward).
FOLDER takes 15 GB: delete it afterwards.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.processes import Usage, folder_bytes, load_average, note, run

MERGEKIT = ("mergekit==0.1.5", "torch==2.13.0")
EXPERTS = ("one", "two", "three", "four", "five", "six")
NEXUSMIX = Path(sys.executable).with_name("nexusmix")
COPY_AND_HASH = """
import hashlib, shutil, sys
for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
    copy = shutil.copyfile(f"{sys.argv[1]}/{name}", f"{sys.argv[2]}/{name}")
    with open(copy, "rb") as file:
        hashlib.file_digest(file, "sha256").hexdigest()
"""


class Bench:
    """The benchmark folder. Each contender is a method that runs whole processes and returns their usage."""

    def __init__(self, folder: Path, embedder: str) -> None:
        self.folder, self.models, self.home = folder, folder / "models", folder / "home"
        self.mergekit = folder / "mergekit"
        self.environment = {"NEXUSMIX_HOME": str(self.home), "NEXUSMIX_EMBEDDER": embedder}
        self.written: dict[str, int] = {}
        self.manifest = ""  # digest of the newest mix of three

    def prepare(self) -> None:
        """Create the models, the environment and the registry, where missing."""
        note("models")
        run([sys.executable, "-m", "bench.random_llamas", self.models, "base", *EXPERTS])
        if not (self.mergekit / "bin" / "mergekit-moe").exists():
            note("environment of mergekit")
            venv.create(self.mergekit, with_pip=True)
            subprocess.run([self.mergekit / "bin" / "pip", "install", "-q", *MERGEKIT], check=True)
        if not self.home.exists():
            note("registry")
            self.nexusmix("seed", "add", "base", self.models / "base", "--license", "MIT")
            for name in EXPERTS:
                self.contribute(name)

    def warm(self) -> None:
        """Read all inputs into the page cache, so that no figure depends on the disk of a busy machine."""
        inputs = [self.models / name / "model.safetensors" for name in ("base", *EXPERTS[:3])]
        for path in [*inputs, *(self.home / "blobs" / "sha256").glob("??/*")]:
            with path.open("rb", buffering=0) as file:
                while file.read(2**22):
                    pass

    def nexusmix(self, *arguments: str | Path) -> Usage:
        """Run one `nexusmix` command."""
        return run([NEXUSMIX, *arguments, "--json"], self.environment)

    def contribute(self, name: str = "one") -> Usage:
        """Contribute an expert; if it is already published, contribute its next version."""
        data = self.models / f"{name}.jsonl"
        source = self.models / name
        return self.nexusmix("contribute", name, source, "--seed", "base", "--license", "MIT", "--data", data)

    def copy_and_hash(self) -> Usage:
        """The least work that any contribution needs: copying the same files and hashing them with SHA-256."""
        copy = _empty(self.folder / "copy")
        usage = run([sys.executable, "-I", "-c", COPY_AND_HASH, self.models / "one", copy])
        shutil.rmtree(copy)
        return usage

    def mergekit_moe(self) -> Usage:
        """Build mergekit's mixture of the first three experts, with the base model as shared expert."""
        recipe, out = self.folder / "mergekit.yaml", self.folder / "mergekit-out"
        models = [{"source_model": str(self.models / name)} for name in EXPERTS[:3]]
        settings = {
            "base_model": str(self.models / "base"),
            "gate_mode": "random",
            "architecture": "qwen",
            "dtype": "bfloat16",
            "experts": models,
            "shared_experts": [{"source_model": str(self.models / "base"), "positive_prompts": [""]}],
        }
        recipe.write_text(json.dumps(settings))  # JSON is YAML
        usage = run([self.mergekit / "bin" / "mergekit-moe", recipe, out])
        self.written["mergekit"] = folder_bytes(out)
        shutil.rmtree(out)
        return usage

    def compose(self, experts: int = 3, combine: str = "convex") -> Usage:
        """Compose a mix with new blobs: the random seed of its router is unused in this registry."""
        before = folder_bytes(self.home)
        usage = self.nexusmix(
            *("compose", f"mix{experts}-{combine}", "--seed", "base"),
            *("--experts", ",".join(EXPERTS[:experts]), "--combine", combine),
            *("--tokens", "0", "--no-warm-start", "--random-seed", str(_unused(self.home))),
        )
        # Merging the same trunks again replaces the blob by an equal one: count it as written.
        said = json.loads(usage.output)
        self.written[f"compose {experts}"] = max(said["bytes_written"], folder_bytes(self.home) - before)
        if experts == 3:
            self.manifest = said["manifest"]
        return usage

    def export(self, combine: str = "convex") -> Usage:
        """Export the newest mix of three as Qwen2-MoE."""
        out = self.folder / "export"
        usage = self.nexusmix("export", f"mix3-{combine}", out, "--format", "qwen2_moe")
        self.written[f"export {combine}"] = folder_bytes(out)
        shutil.rmtree(out)
        return usage

    def trunk_and_router(self) -> int:
        """Bytes of the trunk and router blobs of the newest mix of three."""
        manifest = json.loads(self._blob(self.manifest))
        return sum(len(self._blob(manifest[name])) for name in ("trunk", "router"))

    def _blob(self, digest: str) -> bytes:
        name = digest.removeprefix("sha256:")
        return (self.home / "blobs" / "sha256" / name[:2] / name).read_bytes()


def measure(bench: Bench, repetitions: int) -> dict[str, list[Usage]]:
    """Run every contender in turn, `repetitions` times."""
    contenders: Mapping[str, Callable[[], Usage]] = {
        "mergekit-moe": bench.mergekit_moe,
        "compose": bench.compose,
        "export convex": bench.export,
        "compose additive": lambda: bench.compose(combine="additive"),
        "export additive": lambda: bench.export("additive"),
        "compose 6": lambda: bench.compose(experts=6),
        "copy and sha256": bench.copy_and_hash,
        "contribute": bench.contribute,
    }
    taken: dict[str, list[Usage]] = {name: [] for name in contenders}
    for repetition in range(repetitions):
        for name, contender in contenders.items():
            bench.warm()
            taken[name].append(contender())
            latest = taken[name][-1]
            note(f"{repetition + 1}/{repetitions} {name}: {latest.wall:.1f} s, {latest.total:.0f} MB")
    return taken


def report(bench: Bench, taken: Mapping[str, list[Usage]]) -> str:
    """Return Markdown with a table of medians and a table of targets."""
    lines = [
        "| process | wall s (range) | CPU s | peak RSS MB | peak anonymous MB |",
        "|---|---|---|---|---|",
    ]
    for name, usages in taken.items():
        walls = [usage.wall for usage in usages]
        middle = [
            statistics.median(getattr(usage, field) for usage in usages)
            for field in ("wall", "cpu", "total", "anonymous")
        ]
        lines.append(
            f"| {name} | {middle[0]:.2f} ({min(walls):.2f}–{max(walls):.2f}) | {middle[1]:.2f} | "
            f"{middle[2]:.0f} | {middle[3]:.0f} |"
        )

    def bar(what: str, ours: list[str], theirs: str, field: str, bound: float) -> None:
        """Add a row: the median ratio of `ours` to `theirs` within one repetition.

        The field is summed over `ours`; for memory, the largest value counts.
        """
        combined = sum if field in ("wall", "cpu") else max
        ratio = statistics.median(
            combined(getattr(taken[name][i], field) for name in ours) / getattr(other, field)
            for i, other in enumerate(taken[theirs])
        )
        lines.append(f"| {what} | {ratio:.3f} | ≤ {bound} | {'met' if ratio <= bound else '**missed**'} |")

    lines += ["", "| target | ratio | bound | |", "|---|---|---|---|"]
    bar("compose / mergekit: wall", ["compose"], "mergekit-moe", "wall", 0.25)
    bar("compose / mergekit: CPU (no target)", ["compose"], "mergekit-moe", "cpu", 0.25)
    bar("compose / mergekit: peak RSS", ["compose"], "mergekit-moe", "total", 0.25)
    bar("compose / mergekit: peak anonymous", ["compose"], "mergekit-moe", "anonymous", 0.25)
    written = bench.written["compose 3"] / bench.trunk_and_router()
    lines.append(f"| bytes written / (trunk + router) | {written:.4f} | ≤ 1.05 | |")
    for combine, first in (("convex", "compose"), ("additive", "compose additive")):
        both = [first, f"export {combine}"]
        bar(f"compose + export qwen2_moe, {combine} / mergekit: wall", both, "mergekit-moe", "wall", 1)
        bar(
            f"compose + export qwen2_moe, {combine} / mergekit: peak RSS",
            both,
            "mergekit-moe",
            "total",
            0.333,
        )
    bar("compose of 6 / of 3: peak RSS", ["compose 6"], "compose", "total", 1.1)
    bar("contribute / copy and sha256: wall", ["contribute"], "copy and sha256", "wall", 2)
    sizes = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in bench.written.items())
    return "\n".join([*lines, "", f"Written: {sizes}. Load average at the end: {load_average():.1f}."])


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _unused(home: Path) -> int:
    """A random seed that no mix of this registry used: the number of its blobs."""
    return sum(1 for _ in (home / "blobs" / "sha256").glob("??/*"))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--embedder", default="hashing:16", help="value of NEXUSMIX_EMBEDDER")
    parser.add_argument("--forward", nargs="*", help="also run bench.forward, with these options")
    options = parser.parse_args()
    bench = Bench(options.folder.absolute(), options.embedder)
    bench.prepare()
    started = load_average()
    print(report(bench, measure(bench, options.repetitions)) + f" At the start: {started:.1f}.", flush=True)
    if options.forward is not None:
        for combine in ("additive", "convex"):
            out = bench.folder / f"export-{combine}"
            if not out.exists():
                bench.nexusmix("export", f"mix3-{combine}", out, "--format", "qwen2_moe")
            command = [sys.executable, "-m", "bench.forward", bench.home, f"mix3-{combine}", out]
            print(f"\n{combine}\n{run([*command, *options.forward], bench.environment).output}", flush=True)


if __name__ == "__main__":
    main()
