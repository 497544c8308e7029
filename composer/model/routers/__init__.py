"""Routers, which score the routed experts of a block for each token.

Each router has one file here and one row in composer/variants.py.
"""

from composer.model.routers.base import Router
from composer.variants import ROUTERS


def router_class(name: str) -> type[Router]:
    """Return the class of the router with this name."""
    loaded: type[Router] = ROUTERS[name].load()
    return loaded
