"""`murmur`: finds the command, imports its file, and turns errors into one sentence and an exit code.

Exit codes: 0 done, 1 the work failed, 2 bad usage or an unusable broker, 3 code cannot be loaded, 70 a worker gave
up. Every option also reads `MURMUR_<OPTION>` and `murmur.toml` or `[tool.murmur]` in pyproject.toml; the command line
wins, then the environment, then the file.
"""

import importlib
import sys
from typing import Any, Final

import click

from murmur.cli.config import defaults

_COMMANDS: Final = {
    "agents": ("murmur.cli.agents", "List the agents that can be found, with what they take and return."),
    "asyncapi": ("murmur.cli.asyncapi", "Print what goes over the broker as an AsyncAPI 3 document."),
    "config": ("murmur.cli.config_show", "Show settings and where each comes from."),
    "dead": ("murmur.cli.dead", "Look at dead letters, send their tasks again, or throw them away."),
    "doctor": ("murmur.cli.doctor", "Examine a broker: what it cannot hold, and what mends it."),
    "gather": ("murmur.cli.gather", "Run many tasks from a JSONL file and write results to one."),
    "run": ("murmur.cli.run", "Run one task and print its output as JSON."),
    "top": ("murmur.cli.top", "Watch workers, their load and the mailboxes they serve."),
    "tree": ("murmur.cli.tree", "Draw the supervision trees of workers."),
    "worker": ("murmur.cli.worker", "Serve agents from a broker; list, drain and stop those who do."),
}


class _Lazy(click.Group):
    """A group whose commands are imported when they are called; the help needs only their first lines."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  click's signature
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(_COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=_Lazy, context_settings={"auto_envvar_prefix": "MURMUR", "help_option_names": ["-h", "--help"]})
@click.option("--tb", is_flag=True, help="Show tracebacks of errors.")
@click.version_option(package_name="murmur-runtime", prog_name="murmur")
@click.pass_context
def cli(ctx: click.Context, *, tb: bool) -> None:
    """Supervised agents on the broker you already run."""
    ctx.obj = {"tb": tb}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    arguments = sys.argv[1:] if arguments is None else arguments
    sys.exit(_run(arguments))


def _run(arguments: list[str]) -> int:
    try:
        settings: dict[str, Any] = defaults()
        code = cli.main(args=arguments, standalone_mode=False, default_map=settings, prog_name="murmur")
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.Abort:
        return 1
    except click.ClickException as error:
        error.show()
        return max(error.exit_code, 2)  # what click calls a mere failure is bad usage, too
    except Exception as error:  # noqa: BLE001  the end of the program: told, and turned into its exit code
        import traceback  # noqa: PLC0415

        # --help needs none of these
        from murmur.errors import MurmurError  # noqa: PLC0415
        from murmur.redaction import one_safe_text  # noqa: PLC0415

        if "--tb" in arguments or not isinstance(error, MurmurError):
            click.echo(one_safe_text("".join(traceback.format_exception(error))), err=True, nl=False)
        else:
            notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
            click.echo(one_safe_text(f"{error.code} {error}{notes}"), err=True)
        return _code_of(error)


def _code_of(error: Exception) -> int:
    from murmur.errors import (  # noqa: PLC0415  --help needs none of these
        BadAgentName,
        BadSetting,
        BadURL,
        BrokerRefused,
        BrokerUnreachable,
        MissingExtra,
        NeedsStore,
        PayloadTooLarge,
        SpawnError,
        UnknownAgent,
        Unsafe,
        WorkerGaveUp,
        WorkerNotStarted,
    )

    match error:
        case WorkerNotStarted():
            return 3
        case WorkerGaveUp():
            return 70
        case BadAgentName() | BadURL() | BadSetting() | UnknownAgent():
            return 2
        case BrokerRefused() | BrokerUnreachable() | MissingExtra() | Unsafe():
            return 2
        case SpawnError() | PayloadTooLarge() | NeedsStore():
            return 2
        case _:
            return 1


if __name__ == "__main__":
    main()
