"""The command line. Each file has one command; the table lists them in the order of a first use."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from composer import resources
from ui.cli.kit.context import GlobalOptions, examples
from ui.cli.kit.failures import INTERRUPTED, report
from ui.cli.kit.group import Group
from ui.cli.kit.lazy import Commands, Row
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

COMMANDS = (
    Row("demo", "demo.demo", START),
    Row("ui", "web.ui", START),
    Row("doctor", "doctor.doctor", START),
    Row("search", "search.search", FIND),
    Row("list", "list_experts.list_experts", FIND),
    Row("show", "show.show", FIND),
    Row("seed", "seed.app", GIVE, "Add, list and show seeds."),
    Row("train-expert", "train_expert.train_expert", GIVE),
    Row("compress", "compress.compress", GIVE),
    Row("contribute", "contribute.contribute", GIVE),
    Row("copy", "copy_expert.copy", GIVE),
    Row("embed", "embed.embed", GIVE),
    Row("alias", "alias.alias", GIVE),
    Row("card", "lifecycle.card", GIVE),
    Row("publish", "lifecycle.publish", GIVE),
    Row("withdraw", "withdraw.withdraw", GIVE),
    Row("purge", "lifecycle.purge", GIVE),
    Row("compose", "compose.compose", MIX),
    Row("extend", "extend.extend", MIX),
    Row("remove", "remove.remove", MIX),
    Row("evaluate", "evaluate.evaluate", MIX),
    Row("measure", "measure.measure", MIX),
    Row("generate", "generate.generate", MIX),
    Row("chat", "chat.chat", MIX),
    Row("serve", "serve.serve", MIX),
    Row("export", "export.export", MIX),
    Row("push", "push.push", MIX),
    Row("sign", "sign.sign", MIX),
    Row("mixes", "mixes.mixes", MIX),
    Row("delete", "delete.delete", MIX),
    Row("runs", "runs.app", MIX),
    Row("worker", "worker.worker", MIX),
    Row("reproduce", "reproduce.reproduce", MIX),
    Row("verify", "verify.verify", CARE),
    Row("gc", "gc.gc", CARE),
    Row("users", "users.app", CARE),
    Row("log", "log.log", CARE),
)


class Root(Group):
    """The command `nexusmix`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings | {"commands": Commands(COMMANDS)})

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands without importing them."""
        return list(self.commands)


SHARED = ("compose", "extend", "remove")  # commands that several processes can run together

app = typer.Typer(
    cls=Root,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
