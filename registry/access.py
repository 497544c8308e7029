"""Access: who acts on a registry, the role that each action needs, and the record of the action.

Every function that changes the registry calls `record` in its transaction. So no change without the role commits, and
no change is missing in the log. A function with expensive work before its transaction calls `Actor.require` first.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy.orm import Session

from registry.database.schema import Event
from registry.errors import AccessError

Role = Literal["reader", "contributor", "maintainer"]
ROLES: tuple[Role, ...] = get_args(Role)  # each may do everything that the ones before it may do
LOCAL = "local:"  # prefix of users of the operating system; no account's name contains a colon

# The least role of each action. Reading needs none: who cannot read has no registry.
ACTIONS: dict[str, Role] = {
    "star": "reader",
    "publish seed": "contributor",
    "publish expert": "contributor",
    "publish draft": "contributor",
    "publish mix": "contributor",
    "describe expert": "contributor",
    "push": "contributor",
    "evaluate mix": "contributor",
    "measure expert": "contributor",
    "move alias": "contributor",
    "queue run": "contributor",
    "cancel run": "contributor",
    "retry run": "contributor",
    "withdraw expert": "maintainer",
    "purge expert": "maintainer",
    "delete mix": "maintainer",
    "delete seed": "maintainer",
    "collect garbage": "maintainer",
    "work on runs": "maintainer",
    "add user": "maintainer",
    "change user": "maintainer",
    "remove user": "maintainer",
}


@dataclass(frozen=True)
class Actor:
    """The person or program that acts: a name for the log, and a role."""

    name: str
    role: Role

    def may(self, action: str) -> bool:
        """Return whether the role is enough for the action."""
        return ROLES.index(self.role) >= ROLES.index(ACTIONS[action])

    def require(self, action: str) -> None:
        """Raise AccessError unless the role is enough for the action."""
        if not self.may(action):
            raise AccessError(
                f"{self.name} is a {self.role}, but the action '{action}' needs the role {ACTIONS[action]}: set "
                "NEXUSMIX_TOKEN to a token with this role, or ask a maintainer (`nexusmix users role NAME ROLE`)"
            )


ANONYMOUS = Actor("anonymous", "reader")


def local_actor() -> Actor:
    """Return the user of the operating system that runs this process, as a maintainer."""
    user = os.getuid()
    try:
        name = pwd.getpwuid(user).pw_name  # not from the environment, which anyone can set
    except KeyError:
        name = str(user)
    return Actor(LOCAL + name, "maintainer")


def record(
    session: Session, actor: Actor, action: str, subject: str, digest: str | None = None, **detail: Any
) -> None:
    """Check the role and add the action to the event log, in the transaction of the change.

    `digest` is that of the object which the action concerns. Raises AccessError.
    """
    actor.require(action)
    session.add(Event(actor=actor.name, action=action, subject=subject, digest=digest, detail=detail))
