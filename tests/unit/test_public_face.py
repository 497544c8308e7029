"""The public names of the packages: a complete list, and imports that load nothing until a name is used."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import composer
import nexusmix
import registry

COMPOSER = [
    *("ComposerError", "Recipe", "Training", "compose", "compress", "contribute", "evaluate", "export"),
    *("extend", "generate", "remove", "train_expert"),
]
REGISTRY = [
    *("Registry", "RegistryError", "add_seed", "get_expert", "get_mix", "get_seed", "list_experts"),
    *("list_mixes", "list_seeds", "open_registry", "search"),
]


def test_the_public_names_are_these() -> None:
    assert composer.__all__ == COMPOSER
    assert registry.__all__ == REGISTRY
    assert nexusmix.__all__ == sorted([*COMPOSER, *REGISTRY])


@pytest.mark.parametrize("name", nexusmix.__all__)
def test_a_public_name_is_documented_and_typed_and_no_module(name: str) -> None:
    value = getattr(nexusmix, name)
    assert not inspect.ismodule(value) and inspect.getdoc(value)
    if inspect.isfunction(value):
        parameters = inspect.signature(value).parameters.values()
        assert all(parameter.annotation is not inspect.Parameter.empty for parameter in parameters)


@pytest.mark.parametrize("package", [composer, registry, nexusmix])
def test_an_unknown_name_is_an_attribute_error(package: object) -> None:
    with pytest.raises(AttributeError, match="no attribute 'magic'"):
        package.magic  # type: ignore[attr-defined]  # noqa: B018


def test_a_function_stays_a_function_after_its_module_was_imported() -> None:
    script = (
        "import composer.composition, composer.formats, composer.extension, composer.evaluation.evaluate\n"
        "from composer import compose, evaluate, export, extend\n"
        "assert all(map(callable, (compose, evaluate, export, extend)))"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_importing_the_packages_loads_no_heavy_library() -> None:
    script = (
        "import nexusmix, sys; sys.exit(bool({'torch', 'numpy', 'sqlalchemy', 'pydantic'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
