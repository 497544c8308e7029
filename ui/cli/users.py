"""`nexusmix users`: the accounts of a registry that several people share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ui.cli.kit.context import Json, examples, open_registry, paragraphs
from ui.cli.kit.group import Group, Verb
from ui.cli.kit.output import Column, note, print_json, print_table, print_text

if TYPE_CHECKING:
    from registry.accounts import NewAccount

EXAMPLES = examples(
    "nexusmix users add alice --role maintainer",
    "NEXUSMIX_TOKEN=nxm.1.… nexusmix users add bob --role contributor",
    "nexusmix users token bob",
)

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="Manage the accounts of a shared registry. Without an account, a registry has one user: you.",
    epilog=EXAMPLES,
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the account.")]
RoleOption = Annotated[
    str,
    typer.Option(
        metavar="ROLE",
        help="reader; contributor, who also publishes and queues runs; or maintainer, who also withdraws, deletes, "
        "collects garbage, starts workers and manages accounts.",
    ),
]


def add(
    ctx: typer.Context,
    name: Name,
    role: RoleOption = "contributor",
    email: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Address of the user at your OpenID Connect provider."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Add an account and print its token.

    The token is shown once: the registry stores only its hash. Its owner sets NEXUSMIX_TOKEN, or pastes it into the
    login of the web app.
    """
    from registry.accounts import add_account

    with open_registry(ctx) as registry:
        _print_token(add_account(registry, name, role, email=email), as_json)  # type: ignore[arg-type]


def renew(ctx: typer.Context, name: Name, as_json: Json = False) -> None:
    """Print a new token of an account. The old token stops working."""
    from registry.accounts import renew_token

    with open_registry(ctx) as registry:
        _print_token(renew_token(registry, name), as_json)


def set_role(
    ctx: typer.Context,
    name: Name,
    role: Annotated[str, typer.Argument(metavar="ROLE", help="reader, contributor or maintainer.")],
    as_json: Json = False,
) -> None:
    """Give an account another role."""
    from registry.accounts import set_role as change

    with open_registry(ctx) as registry:
        account = change(registry, name, role)  # type: ignore[arg-type]
    if as_json:
        print_json({"name": account.name, "role": account.role})
    else:
        note(f"{account.name} is a {account.role}")


def remove(ctx: typer.Context, name: Name, as_json: Json = False) -> None:
    """Remove an account. The event log keeps its name, and its queued runs fail."""
    from registry.accounts import remove_account

    with open_registry(ctx) as registry:
        remove_account(registry, name)
    if as_json:
        print_json({"removed": name})
    else:
        note(f"{name} is removed")


def list_users(ctx: typer.Context, as_json: Json = False) -> None:
    """List the accounts."""
    from registry.accounts import list_accounts

    with open_registry(ctx) as registry:
        rows = [
            {
                "name": account.name,
                "role": account.role,
                "email": account.email,
                "created_at": account.created_at.isoformat(),
            }
            for account in list_accounts(registry)
        ]
        me = registry.actor
    if as_json:
        print_json(rows)
        return
    columns = [
        Column("name", "Name", style="bold"),
        Column("role", "Role"),
        Column("email", "E-mail"),
        Column("created_at", "Added"),
    ]
    print_table(rows, columns, empty="no accounts: the registry has one user")
    note(f"you are {me.name}, a {me.role}")


def _print_token(made: NewAccount, as_json: bool) -> None:
    if as_json:
        print_json({"name": made.account.name, "role": made.account.role, "token": made.token})
        return
    note(f"{made.account.name} is a {made.account.role}; this token is not shown again:")
    print_text(made.token)


for _name, _function in (
    ("add", add),
    ("list", list_users),
    ("role", set_role),
    ("token", renew),
    ("remove", remove),
):
    app.command(_name, cls=Verb, help=paragraphs(_function))(_function)
