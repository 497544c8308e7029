"""Routers: how a block scores the routed experts for a token. One file each, one row each in composer/variants.py."""

from composer.model.routers.base import Router
from composer.variants import ROUTERS


def router_class(name: str) -> type[Router]:
    """The class of a router's row."""
    loaded: type[Router] = ROUTERS[name].load()
    return loaded
