"""The command line. Each file has one command; they are registered here in the order of a first use."""

from __future__ import annotations

import gc as garbage
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from composer import resources
from ui.cli import (
    alias,
    chat,
    compose,
    compress,
    contribute,
    copy_expert,
    delete,
    demo,
    doctor,
    embed,
    evaluate,
    export,
    extend,
    gc,
    generate,
    lifecycle,
    list_experts,
    log,
    measure,
    mixes,
    push,
    remove,
    reproduce,
    runs,
    search,
    seed,
    serve,
    show,
    sign,
    train_expert,
    users,
    verify,
    web,
    withdraw,
    worker,
)
from ui.cli.kit.context import GlobalOptions, examples, paragraphs
from ui.cli.kit.failures import INTERRUPTED, report
from ui.cli.kit.group import Group, Verb
from ui.wording.failures import describe

START = "Start here"
FIND = "Find experts"
GIVE = "Publish experts"
MIX = "Compose mixes"
CARE = "Maintain the registry"

ABOUT = """\
A registry of contributed language-model experts, and a composer that combines experts of one seed into one \
Nexus mixture-of-experts.

Results go to standard output (JSON with --json), progress to standard error. \
Exit codes: 0 success, 1 failure, 2 wrong usage, 3 not found, 4 incompatible or damaged, 5 conflict, \
130 interrupted."""
EXAMPLES = examples(
    "nexusmix demo",
    'nexusmix --home .demo search "linear algebra"',
    "nexusmix compose team --seed smol --experts python,law,math",
)

SHARED = ("compose", "extend", "remove")  # commands that several processes can run together

app = typer.Typer(
    cls=Group,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _add(name: str, function: Callable[..., None], panel: str, epilog: str = "") -> None:
    app.command(name, cls=Verb, rich_help_panel=panel, help=paragraphs(function), epilog=epilog or None)(
        function
    )


_add("demo", demo.demo, START, demo.EXAMPLES)
_add("ui", web.ui, START, web.EXAMPLES)
_add("doctor", doctor.doctor, START)
_add("search", search.search, FIND, search.EXAMPLES)
_add("list", list_experts.list_experts, FIND, list_experts.EXAMPLES)
_add("show", show.show, FIND, show.EXAMPLES)
app.add_typer(seed.app, name="seed", rich_help_panel=GIVE, help="Add, list and show seeds.")
_add("train-expert", train_expert.train_expert, GIVE, train_expert.EXAMPLES)
_add("compress", compress.compress, GIVE, compress.EXAMPLES)
_add("contribute", contribute.contribute, GIVE, contribute.EXAMPLES)
_add("copy", copy_expert.copy, GIVE, copy_expert.EXAMPLES)
_add("embed", embed.embed, GIVE, embed.EXAMPLES)
_add("alias", alias.alias, GIVE, alias.EXAMPLES)
_add("card", lifecycle.card, GIVE, lifecycle.CARD_EXAMPLES)
_add("publish", lifecycle.publish, GIVE, lifecycle.PUBLISH_EXAMPLES)
_add("withdraw", withdraw.withdraw, GIVE, withdraw.EXAMPLES)
_add("purge", lifecycle.purge, GIVE, lifecycle.PURGE_EXAMPLES)
_add("compose", compose.compose, MIX, compose.EXAMPLES)
_add("extend", extend.extend, MIX, extend.EXAMPLES)
_add("remove", remove.remove, MIX, remove.EXAMPLES)
_add("evaluate", evaluate.evaluate, MIX, evaluate.EXAMPLES)
_add("measure", measure.measure, MIX, measure.EXAMPLES)
_add("generate", generate.generate, MIX, generate.EXAMPLES)
_add("chat", chat.chat, MIX, chat.EXAMPLES)
_add("serve", serve.serve, MIX, serve.EXAMPLES)
_add("export", export.export, MIX, export.EXAMPLES)
_add("push", push.push, MIX, push.EXAMPLES)
_add("sign", sign.sign, MIX, sign.EXAMPLES)
_add("mixes", mixes.mixes, MIX, mixes.EXAMPLES)
_add("delete", delete.delete, MIX, delete.EXAMPLES)
app.add_typer(runs.app, name="runs", rich_help_panel=MIX)
_add("worker", worker.worker, MIX, worker.EXAMPLES)
_add("reproduce", reproduce.reproduce, MIX, reproduce.EXAMPLES)
_add("verify", verify.verify, CARE, verify.EXAMPLES)
_add("gc", gc.gc, CARE, gc.EXAMPLES)
app.add_typer(users.app, name="users", rich_help_panel=CARE)
_add("log", log.log, CARE, log.EXAMPLES)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"nexusmix {version('nexusmix')}")
        raise typer.Exit


@app.callback(help=ABOUT, epilog=EXAMPLES, invoke_without_command=True)
def global_options(
    ctx: typer.Context,
    home: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the registry.",
            show_default="$NEXUSMIX_HOME, else ~/.local/share/nexusmix",
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory for models, such as 6GiB. Half of it is for weights that must be computed; a model that "
            "needs more computes them layer by layer. Mapped files do not count.",
            show_default="$NEXUSMIX_MEMORY, else what is available",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(resources.DEVICES),
            help="Device of the models. auto: a GPU if there is one.",
            show_default="$NEXUSMIX_DEVICE, else auto",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(resources.DTYPES),
            help="Dtype to compute in. auto: the seed's where the device is fast in it, else float32; for training "
            "on CUDA, products in bfloat16. Warm starts always use float32, or tf32.",
            show_default="$NEXUSMIX_DTYPE, else auto",
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Store the global options for the command. Without a command, print the help."""
    ctx.obj = GlobalOptions(home=home)
    if _is_launched() and ctx.invoked_subcommand not in SHARED:
        raise typer.BadParameter(
            f"torchrun and accelerate launch are for {', '.join(SHARED)}: start {ctx.invoked_subcommand} without them"
        )
    if memory is not None:
        resources.parse_memory(memory)
        os.environ[resources.VARIABLE] = memory  # for the processes that a command starts, too
    if device is not None:
        os.environ[resources.DEVICE_VARIABLE] = resources.check("device", device)
    if dtype is not None:
        os.environ[resources.DTYPE_VARIABLE] = resources.check("dtype", dtype)
    if ctx.invoked_subcommand is None:
        ctx.get_help()
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Every error is reported here, in one line."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    # Imports create many objects but no garbage. Python's default collection frequency costs 10 % of their time.
    garbage.set_threshold(50_000)
    # Only our own progress is shown: the progress bars of libraries would disrupt it.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    if _is_launched() and int(os.environ.get("RANK", 0)):
        return _follow(arguments)
    interrupted = _watch_for_interrupts()
    try:
        code = app(args=list(arguments), prog_name="nexusmix", standalone_mode=False) or 0
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader closed the pipe (`nexusmix list | head -1`): exit silently, even when Python flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except BaseException as error:
        # A panic in compiled Rust code is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if not interrupted.is_set():
            return report(error, debug="--debug" in arguments)
        # Ctrl-C during the import of a compiled library can raise any exception: report the interrupt instead.
        code = INTERRUPTED
    if code == INTERRUPTED:
        sys.stderr.write(f"\n{describe(KeyboardInterrupt())[0]}\n")
    return code


def _is_launched() -> bool:
    """Return whether torchrun or accelerate started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def _follow(arguments: Sequence[str]) -> int:
    """Run the command as one of the processes that the first one leads. Only errors of its own are reported."""
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            return app(args=list(arguments), prog_name="nexusmix", standalone_mode=False) or 0
    except Exception as error:
        return 1 if getattr(error, "of_leader", False) else report(error, debug="--debug" in arguments)


def _watch_for_interrupts() -> threading.Event:
    """Return an event that is set by Ctrl-C. Ctrl-C still raises KeyboardInterrupt."""
    came = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        came.set()
        signal.default_int_handler(number, frame)

    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    ):
        signal.signal(signal.SIGINT, handle)
    return came
