"""The program: finds the command, and turns whatever goes wrong into one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from keyword import iskeyword
from typing import Any, NoReturn

import click

from mpsim import interrupts
from mpsim.errors import MpsimError, did_you_mean, printable

__all__ = ["cli", "main"]

# name → what it does; the function of that name in the module of that name. None is imported before it is called.
COMMANDS = {
    "demo": "Do all of it once: trace a small model here, sweep it over eight devices, draw the outcome.",
    "trace": "Measure a PyTorch model's training step, layer by layer, into a workload file.",
    "show": "Show a workload, topology, plan or result, a model of the zoo, or the catalog.",
    "best": "Find the fastest way of splitting a model over a cluster, and prove it.",
    "simulate": "Predict one way of splitting a workload over a topology.",
    "explain": "Say where a plan's step goes, what it waits for, and what would make it shorter.",
    "goodput": "Predict how much of a run's time is useful where devices fail, and how often to save it.",
    "jobs": "Predict several jobs that train at once and share a cluster's links.",
    "emulate": "Run one way of splitting for real: a process a device, every byte sent.",
    "sweep": "Predict every way of splitting, and rank them.",
    "validate": "Hold predictions against real runs.",
    "plot": "Draw results, sweeps and topologies.",
    "report": "Write a page about a study: plans, ranked, and what the best one does.",
    "topology": "Write a topology file from a builder.",
    "calibrate": "Fit what collectives cost, or how fast devices are, to what was measured.",
    "import": "Read what other tools wrote: Chakra, ASTRA-sim, torch.profiler.",
    "export": "Write a plan's program for other tools: Chakra.",
}


class Commands(click.Group):
    """A group whose commands are imported when they are called, and whose errors are one line and exit code 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which they are used."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        if cmd_name not in COMMANDS:
            return None
        # No module can be called as a word of the language.
        name = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        command: click.Command = getattr(import_module(f"mpsim.cli.{name}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Refuse an unknown command with the nearest one."""
        if not args[0].startswith("-") and args[0] not in COMMANDS:
            raise MpsimError(f"no command {args[0]!r}{did_you_mean(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run the command line and exit."""
        self._main_shell_completion({}, "mpsim")
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # a terminal without × or ─ gets a question mark, no traceback
        try:
            code = self._run(list(sys.argv[1:] if args is None else args))
            if sys.stdout is not None:  # closed by whoever started this
                sys.stdout.flush()
        except BrokenPipeError:
            # Whoever read the output has left: there is nobody to tell. The rest goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 141
        sys.exit(code)

    def _run(self, args: list[str]) -> int:
        try:
            with self.make_context("mpsim", args) as context:
                self.invoke(context)
        except click.exceptions.Exit as stop:
            return stop.exit_code
        except click.ClickException as error:
            return _complain(_message(error))
        except MpsimError as error:
            code = _complain(str(error))
            for note in getattr(error, "__notes__", ()):
                print(printable(note), file=sys.stderr)
            return code
        except BrokenPipeError:
            raise
        except OSError as error:
            return _complain(f"{error.filename or 'cannot go on'}: {error.strerror}")
        except MemoryError:
            return _complain("out of memory: simulate fewer devices, micro-batches or trials")
        except (KeyboardInterrupt, click.Abort, EOFError):
            return _complain(interrupts.words(), interrupts.exit_code())
        return 0


def _complain(message: str, code: int = 2) -> int:
    if interrupts.stopped():  # amid whatever then failed
        message, code = interrupts.words(), interrupts.exit_code()
    print("mpsim: error:", MpsimError(message), file=sys.stderr)
    return code


def _message(error: click.ClickException) -> str:
    """Return what click complains of in mpsim's words: what is wrong, and what to do about it."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "mpsim"
    if isinstance(error, click.NoSuchOption):
        # With nothing near, all the options there are would not be a line.
        near = did_you_mean(error.option_name, error.possibilities) if error.possibilities else ""
        return f"no option {error.option_name!r}{near or f': {path} --help lists them'}"
    if isinstance(error, click.MissingParameter) and error.param is not None:
        words = error.param.opts if isinstance(error.param, click.Option) else [error.param.metavar, error.param.name]
        name = next(word for word in words if word).removesuffix("...")
        return f"{name.upper() if name[0] != '-' else name} is missing: see {path} --help"
    text = error.format_message().rstrip(".")
    return f"{text[:1].lower()}{text[1:]}: see {path} --help"


def _version(context: click.Context, option: click.Parameter, asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version

        from mpsim import __version__

        try:
            torch = f"torch {version('torch')}"
        except PackageNotFoundError:
            torch = "no torch: stored workloads alone are replayed"
        click.echo(f"mpsim {__version__}, {torch}")
        context.exit()


@click.group(cls=Commands, invoke_without_command=True, context_settings={"max_content_width": 110})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@click.pass_context
def cli(context: click.Context) -> None:
    """Which way of splitting a model over devices is fastest, does it fit, and how much of the time is communication?

    Sizes, bandwidths and times are written with their units: 25 MiB, 50 GB/s, 10 us.

    \b
      mpsim trace mnist-mlp --batch 1024,2048,4096,8192 -o mlp.json
      mpsim sweep mlp.json switch:8,link=eth_10g,memory=4GiB --batch 8192
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> NoReturn:
    """Run the command line with the process's arguments."""
    interrupts.heed()
    try:
        cli.main()
    except Exception:
        if not interrupts.stopped():
            raise
        sys.exit(_complain(""))
    finally:
        interrupts.leave_alone()
