"""Routers: how a block scores the routed experts for a token. One file each, one row each here."""

from composer.routers.base import Router
from composer.routers.linear import LinearRouter
from composer.routers.nexus import NexusRouter
from composer.routers.random import RandomRouter
from composer.routers.recurrent import RecurrentRouter

ROUTERS: dict[str, type[Router]] = {
    "nexus": NexusRouter,
    "linear": LinearRouter,
    "recurrent": RecurrentRouter,
    "random": RandomRouter,
}
