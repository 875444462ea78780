"""The ``mltoolbox`` command: a table of commands, each loaded only when it is called, and the one place errors end."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from ml_toolbox.base.errors import ToolboxError

# name -> (module below cli/, attribute, one line for --help). Kept as data so that `mltoolbox --help` imports none of them.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "init": ("setup", "init", "Create the home folder and write a commented settings file."),
    "doctor": ("setup", "doctor", "Check this machine and installation; says what to do about each finding."),
    "backends": ("backends", "backends", "Where jobs and endpoints can run, and what each place cannot do."),
    "plan": ("train", "plan", "Show what would happen and cost. Launches nothing, needs no credentials."),
    "train": ("train", "train", "Run a training script as a job; register the model it writes."),
    "jobs": ("jobs", "jobs", "List, follow, stop and delete training jobs."),
    "budgets": ("budgets", "budgets", "Limits on money and numbers: list, set, show, remove."),
    "costs": ("costs", "costs", "Show what was spent and is held, by job, user, project, backend or month."),
    "events": ("events", "events", "Print what happened to jobs and endpoints, as it happens."),
    "agent": ("agent", "agent", "Drive what is due, enforce budgets and collect strays, until told to stop."),
    "data": ("data", "data", "Store, list, check and export versioned datasets."),
    "models": ("models", "models", "The model registry: versions, stages, aliases, comparison."),
    "deploy": ("serving", "deploy", "Serve a model at an endpoint, beside what is already there."),
    "endpoints": ("serving", "endpoints", "List, inspect, scale and delete endpoints; shift traffic."),
    "predict": ("serving", "predict", "Send rows to an endpoint and print its answers."),
    "serve": ("serving", "serve", "Serve a model in the foreground, until Ctrl-C."),
    "completion": ("completion", "completion", "Print the completion script for bash, zsh or fish."),
}

EPILOG = """Start here: mltoolbox train train.py --input training=data.csv --register churn

Every listing takes --json. Exit codes: 0 done, 1 failed, 2 wrong input."""


class LazyGroup(click.Group):
    """Loads a command's module when it is called, and only then."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        from importlib import import_module

        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f"ml_toolbox.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write("\n" + EPILOG + "\n")

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else " See mltoolbox --help."
            raise click.UsageError(f"no command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from ml_toolbox import __version__

        click.echo(f"mltoolbox {__version__}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Print the version."
)
def cli() -> None:
    """Train, register, deploy, roll out and watch models: on this machine, and with the same commands on any cloud."""


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit code. Errors end here: one message, never a stack trace."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        result = cli.main(args=argv, prog_name="mltoolbox", standalone_mode=False)
        # Buffered output meets a closed pipe here, where it can be handled, and not at interpreter exit.
        sys.stdout.flush()
        sys.exit(result if isinstance(result, int) else 0)
    except click.exceptions.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader (`| head`) has what it wanted. Point stdout elsewhere so that Python's own flush at exit is silent.
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ToolboxError as error:
        from ml_toolbox.cli.output import print_error

        print_error(error, as_json="--json" in arguments)
        sys.exit(error.exit_code)
    except OSError as error:
        # Full disks, missing permissions, files that vanished: the user's to mend, so no stack trace.
        what = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        click.echo(f"Error: {what}", err=True)
        sys.exit(1)
    except Exception as error:
        # The edge of the process: whatever is not an error of the tree above is ours to mend, and told as that.
        import os

        if os.environ.get("MLTOOLBOX_DEBUG"):
            raise
        click.echo(f"Error: unexpected {type(error).__name__}: {error}", err=True)
        click.echo("Hint:  this is a bug in mltoolbox; MLTOOLBOX_DEBUG=1 shows where, for the report", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
