"""Format `nexus`: a Hugging Face folder with its own modeling code, for every model family.

`AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)` opens it without nexusmix. The routers and
composer/model/modeling.py are bundled into one file that needs only torch and transformers.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from composer.formats.plan import Format, Plan, small_files
from composer.mix.merged_parts import TRUNK, merged_parts
from composer.mix.opening import Manifest, nexus_config, seed_config
from composer.mix.router_blob import of_layers
from composer.mix.tensor_names import PREFIX, context_name, name_in_mixture, router_name
from composer.tensors.rows import Between, Rows, Stored
from composer.tensors.stream import stored_tensors
from composer.variants import ROUTERS
from registry.blobs import BlobStore
from registry.checkpoints.families import Family, family_of

MODELING_FILE = "modeling_nexus.py"
PROJECT = "composer"
ABOUT = """\
\"\"\"NexusForCausalLM in one file, written by `nexusmix export --format nexus`.

It needs only torch and transformers 5.
\"\"\""""


def plan(blobs: BlobStore, manifest: Manifest, dtype: str) -> Plan:
    """Plan the mix's tensors under the names of NexusForCausalLM; routers stay in float32, as in an open mix."""
    family = family_of(seed_config(blobs, manifest.seed))
    if manifest.routed_trunk:
        tensors, routing = _routed(blobs, manifest, family)
    else:
        tensors, routing = _merged(blobs, manifest, family)
    return Plan(
        config=_config(blobs, manifest, dtype),
        tensors=tensors | routing,
        dtype=dtype,
        float32=frozenset(routing),
        files={**small_files(blobs, manifest), MODELING_FILE: bundle().encode()},
    )


def _routed(blobs: BlobStore, manifest: Manifest, family: Family) -> tuple[dict[str, Rows], dict[str, Rows]]:
    """The tensors of a routed mix, and of its router."""
    parts, headers = manifest.parts(), cache(partial(stored_tensors, blobs))
    seed = {**headers(manifest.seed.ffn), **headers(manifest.seed.trunk)}
    tensors: dict[str, Rows] = {}
    for name, blob, stored, strength in parts.weights(blobs, family):
        info = headers(blob)[stored]
        tensors[name] = Stored(info) if strength == 1 else Between(seed[stored], info, strength)
    for name, blob, stored, factor in parts.matrices(blobs, family):
        tensors[name] = Stored(headers(blob)[stored], factor)
    router = headers(manifest.router)
    return tensors, {context_name(name): Stored(info) for name, info in router.items()}


def _merged(blobs: BlobStore, manifest: Manifest, family: Family) -> tuple[dict[str, Rows], dict[str, Rows]]:
    """The tensors of a mix with one trunk, and of its routers."""
    tensors: dict[str, Rows] = {}
    for place, part in merged_parts(blobs, manifest).items():
        for name, tensor in part.items():
            tensors[PREFIX + name if place == TRUNK else name_in_mixture(family, place, name)] = tensor
    routing: dict[str, Rows] = {
        router_name(family, *place): Stored(info)
        for place, info in of_layers(stored_tensors(blobs, manifest.router)).items()
    }
    return tensors, routing


def _config(blobs: BlobStore, manifest: Manifest, dtype: str) -> dict[str, Any]:
    from composer.tensors.torch_blobs import TORCH_DTYPES

    config = {
        **nexus_config(blobs, manifest, TORCH_DTYPES[dtype]).to_dict(),
        "architectures": ["NexusForCausalLM"],
    }
    module = MODELING_FILE.removesuffix(".py")
    config["auto_map"] = {
        "AutoConfig": f"{module}.NexusConfig",
        "AutoModelForCausalLM": f"{module}.NexusForCausalLM",
    }
    return config


def bundle() -> str:
    """Return the source of one module that defines NexusConfig and NexusForCausalLM without project imports."""
    from composer.model import modeling  # imports the others
    from composer.model.routers.base import Router

    classes: dict[str, type[Router]] = {row.name: row.load() for row in ROUTERS.values()}
    bases = [base for router in classes.values() for base in reversed(router.__mro__)]
    names = [
        "composer.model.initial",
        "composer.model.selection",
        "composer.model.losses",
        "composer.model.routed",
        "composer.model.prefix",
        *(base.__module__ for base in bases if issubclass(base, Router)),
    ]
    modules = [sys.modules[name] for name in dict.fromkeys(names)]
    return join_modules([*modules, modeling], added=_router_table(classes))


def _router_table(classes: Mapping[str, type]) -> str:
    """Return source that replaces composer.model.routers in the bundle; the classes are defined above it."""
    rows = "".join(f'    "{name}": {router.__name__},\n' for name, router in classes.items())
    return (
        f"ROUTERS = {{\n{rows}}}\n\n\n"
        "def router_class(name: str) -> type[Router]:\n"
        '    """Return the class of a router by its name."""\n'
        "    return ROUTERS[name]\n"
    )


def join_modules(modules: Sequence[ModuleType], added: str = "") -> str:
    """Join modules into one source: imports first, without the project's; module docstrings become comments.

    `added` is inserted before the last module.
    """
    imports: set[str] = set()
    bodies, defined = [], set[str]()
    for module in modules:
        source = Path(str(module.__file__)).read_text(encoding="utf-8")
        tree = ast.parse(source)
        names = {name for node in tree.body for name in _defines(node)}
        assert not names & defined, f"{module.__name__} defines {names & defined}, which are defined already"
        defined |= names
        imports |= {ast.unparse(node) for node in tree.body if _is_foreign_import(node)}
        bodies.append(_comment(ast.get_docstring(tree) or "") + _body(source, tree))
    plain = sorted(line for line in imports if line.startswith("import "))
    named = sorted(imports - set(plain))
    head = [ABOUT, "from __future__ import annotations", "\n".join([*plain, *named])]
    return "\n\n".join([*head, *bodies[:-1], added, bodies[-1]])


def _defines(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _is_foreign_import(node: ast.stmt) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module != "__future__" and str(node.module).split(".")[0] != PROJECT
    return isinstance(node, ast.Import)


def _body(source: str, tree: ast.Module) -> str:
    """Return the source without its docstring and its imports."""
    lines = source.splitlines()
    for number, node in enumerate(tree.body):
        docstring = number == 0 and ast.get_docstring(tree) is not None
        if docstring or isinstance(node, (ast.Import, ast.ImportFrom)):
            assert node.end_lineno is not None
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    return "\n".join(lines).strip() + "\n"


def _comment(text: str) -> str:
    return "".join(f"# {line}".rstrip() + "\n" for line in text.splitlines()) + "\n\n"


FORMAT = Format(
    plan,
    loading="""\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder", trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained("path/to/this/folder", trust_remote_code=True, dtype="auto")
prompt = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=40)[0], skip_special_tokens=True))
```

Loading runs `modeling_nexus.py` of this folder: read it first if you do not trust the source. Software without
transformers needs a stock format, `--format qwen2_moe` or `--format gguf`, which only some mixes have.
""",
)
