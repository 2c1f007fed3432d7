"""The command line: `swarmtui` runs a node, its subcommands do everything else.

Exit codes: 0 done, 1 failed, 2 wrong usage or something an operator can mend. Never a traceback:
an unexpected error is one sentence, its detail goes into a file.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, NoReturn

import click

from node import __version__
from node.errors import PlainError
from swarmtui.commands.options import given, node_options, settings_from

COMMANDS = {
    "rendezvous": "Run a rendezvous node: the address nodes join through.",
    "split": "Cut a GGUF model into shard files.",
    "model": "Make synthetic models.",
    "status": "Show what a running node sees.",
    "send": "Send a command or a message through a running node.",
    "torrent": "List, download, verify and publish shard files.",
    "attach": "Open the console of a running node.",
    "bundle": "Write a bug report of a running node.",
    "lab": "Run a whole swarm on this machine.",
}

EPILOG = (
    "LLAMA_TOTAL_LAYERS, LLAMA_QUANTIZATION and LLAMA_MODEL_PARAMS_B are not needed: the shard "
    "file tells. LLAMA_GGUF_PATH is the model `swarmtui split` cuts where none is named."
)


class LazyGroup(click.Group):
    """A group that imports a subcommand's module only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"swarmtui.commands.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # The short helps are here so that listing them imports nothing.
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="swarmtui")
@node_options("node")
@click.pass_context
def cli(ctx: click.Context, **options: Any) -> None:
    """Run a GGUF model across machines that could not hold it alone.

    Without a command this runs a node: with its console where standard output is a terminal, else
    (or with --no-ui) with log lines on standard output.
    """
    if ctx.invoked_subcommand is not None:
        if given(options.values()):
            raise click.UsageError(
                f"options of the node go after the command: "
                f"swarmtui {ctx.invoked_subcommand} --help shows which it takes."
            )
        return
    from swarmtui.commands.run import run_node

    ctx.exit(run_node(settings_from(options)))


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    code = run(argv)
    if "node.runtime" in sys.modules:
        _leave_at_once(code)
    sys.exit(code)


def run(argv: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    try:
        code = cli.main(args=argv, prog_name="swarmtui", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except PlainError as error:
        _say(f"swarmtui: {error.sentence}")
        if error.next_step:
            _say(f"  {error.next_step}")
        return 2
    except click.exceptions.NoArgsIsHelpError as error:
        _say(error.format_message())
        return 2
    except click.ClickException as error:
        _say(f"swarmtui: {_sentence(error.format_message())}")
        _say("  `swarmtui --help` shows the commands and options.")
        return 2
    except (KeyboardInterrupt, click.Abort):
        return 130
    except BrokenPipeError:
        _give_up_stdout()
        return 0
    except Exception as error:
        from swarmtui.crash import write_crash

        where = write_crash(error)
        _say(f"swarmtui: something unexpected went wrong ({type(error).__name__}).")
        _say(f"  The detail is in {where}." if where else "  The detail could not be written.")
        return 1


def _leave_at_once(code: int) -> NoReturn:
    """Exit as the interpreter does, but do not take apart the network library's modules.

    That alone takes a second, and a node has three to be gone.
    """
    import atexit
    import os

    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            continue  # there is none, it is closed, or its reader is gone
    os._exit(code)


def _sentence(text: str) -> str:
    from node.clean import clean

    text = clean(text, 600)
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _say(text: str) -> None:
    # Standard error may be gone with the terminal; the exit code still tells.
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        return


def _give_up_stdout() -> None:
    """Let the interpreter's last flush of a closed pipe go nowhere instead of complaining."""
    import os

    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
