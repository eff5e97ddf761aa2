"""The command `inmail`: a table of its verbs, each imported when it is used.

A verb's module is imported only to run the verb or to show its help: `inmail --help` imports none of them.
"""

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from infra.output import UnwritableOutputError, end_quietly_without_reader, note_json, writes_json
from workers.commands.help import explain_plainly

__all__ = ["VERBS", "Verb", "app", "load_verb", "main"]

_HELP = """Decides, exactly once and provably, whether an InMail may be sent and what it costs.

Settings are read from INMAIL_* variables, first of all INMAIL_KAFKA_BOOTSTRAP_SERVERS and INMAIL_DATABASE_URL.
"""

_EPILOG = """Examples, on a system that runs (inmail up starts one):
  inmail publish events.ndjson
  inmail results --account alice --follow
  inmail statement alice
  inmail doctor

Times are written like -2h, +1d12h, 2026-01-31 (its start in UTC) or 2026-01-31T09:30:00Z.
With --json, an error is a JSON object with code, message and hint, the last line of standard error.

Exit codes:
0 success
1 a negative result: the audit, the doctor, a rebuild or lag --fail-on found something, an account or request is \
unknown, an operation was refused, a line could not be published, the demo had an unexpected result
2 wrong usage, a wrong setting, or a file or output that cannot be read or written
3 Kafka or Postgres is unreachable, refuses access or is not set up, or the local stack failed
65 the circuit breaker ended the worker: too many of the last records cannot be decided
70 a defect: an invariant is broken, or a worker made no progress or could not stop
75 another audit that moves the mark, or a move of a partition number, is under way: try again later
130 interrupted by Ctrl-C or stopped before the end
"""


_UsageError: Any = typer.BadParameter.__base__  # typer has no name for it


class Verb(NamedTuple):
    """One verb: its section in the help, its function or group of verbs, and its help in one line."""

    section: str
    module: str
    attribute: str
    help: str


_RUN, _USE, _ASK, _REPAIR, _TRY = "Set up and run", "Send and read", "Inspect", "Repair and replay", "Try it"

VERBS = {
    "migrate": Verb(_RUN, "commands.migrate", "migrate_command", "Update the database to this version."),
    "topics": Verb(_RUN, "commands.topics", "topics", "Compare topics and groups with the settings; apply changes."),
    "worker": Verb(_RUN, "worker_command", "worker_command", "Run the send, billing or expiry worker, or the ticker."),
    "console": Verb(_RUN, "commands.console", "console", "Serve a web page that shows the system and runs operations."),
    "api": Verb(_RUN, "commands.api", "api", "Serve balances and outcomes to applications, over HTTP."),
    "metrics": Verb(_RUN, "commands.metrics", "metrics", "Show or serve the metrics of the whole ledger."),
    "prune": Verb(
        _RUN, "commands.prune", "prune_command", "Delete answers to ticks that nothing can ask for any more."
    ),
    "publish": Verb(_USE, "commands.publish", "publish_command", "Publish events from files, as a producer does."),
    "results": Verb(_USE, "commands.results", "results_command", "Read the answers, as a downstream service does."),
    "balance": Verb(_ASK, "commands.books", "balance", "Show the credits an account can spend, by lot, at a time."),
    "statement": Verb(_ASK, "commands.books", "statement", "Show an account's balance and every line of its history."),
    "trace": Verb(_ASK, "commands.trace", "trace", "Follow a request from its record to its published answer."),
    "lag": Verb(_ASK, "commands.lag", "lag", "Show how far groups are behind, since when, and why."),
    "doctor": Verb(_ASK, "commands.doctor", "doctor", "Check everything that the guarantees rest on."),
    "audit": Verb(
        _ASK, "commands.books", "audit_command", "Check that the ledger balances: every credit, row, answer."
    ),
    "dead-letters": Verb(
        _REPAIR, "commands.dead_letters", "dead_letters", "Show messages that can never succeed; send them back."
    ),
    "replay": Verb(_REPAIR, "commands.replay", "replay", "Replay past decisions without moving credits again."),
    "clock": Verb(_REPAIR, "commands.clock", "clock", "Decide about records with future times; set a clock back."),
    "shards": Verb(_REPAIR, "commands.shards", "shards", "Show which server holds what; move partitions to another."),
    "transactions": Verb(
        _REPAIR, "commands.transactions", "transactions", "List and end transactions that no coordinator will end."
    ),
    "operations": Verb(_REPAIR, "commands.operations", "operations", "Show what operators did, and why."),
    "up": Verb(_TRY, "local.command", "up", "Run the whole system on this machine until Ctrl-C."),
    "workers": Verb(_TRY, "local.workers_command", "workers", "List, stop and start what inmail up runs."),
    "demo": Verb(_TRY, "local.command", "demo", "Run the whole system and play a story through it."),
    "simulate": Verb(_TRY, "commands.simulate", "simulate", "Generate accounts and their events."),
}


def load_verb(name: str) -> TyperCommand | TyperGroup:
    """Import a verb and return its command. Raises `KeyError` for an unknown name."""
    verb = VERBS[name]
    # By the package that this is in: an installed one has another name than the repository's folder.
    found = getattr(import_module(f".{verb.module}", __package__), verb.attribute)
    if not isinstance(found, typer.Typer):
        single = typer.Typer(add_completion=False)
        single.command(name)(found)
        found = single
    command: Any = typer.main.get_command(found)
    command.name, command.help = name, command.help or verb.help
    explain_plainly(command, name)
    return command  # type: ignore[no-any-return] # typer's return type is too wide


class _Verbs(TyperGroup):
    """Lists the verbs of the table, and imports the verb that is run."""

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401 - typer's arguments
        super().__init__(**attributes)
        for name, verb in VERBS.items():
            self.add_command(TyperCommand(name, help=verb.help, rich_help_panel=verb.section))
        explain_plainly(self, "")

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:  # noqa: ANN401
        """Return the verb that the arguments name, its command, and the arguments after it."""
        note_json(asked="--json" in args[: args.index("--")] if "--" in args else "--json" in args)
        name, command, rest = super().resolve_command(ctx, args)
        return name, load_verb(name) if name in VERBS else command, rest

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - typer's
        """Run the verb. With --json, wrong usage is told in JSON like any other error."""
        try:
            return super().invoke(ctx)
        except _UsageError as error:
            if not writes_json():
                raise
            from workers.commands.running import Exit, fail  # noqa: PLC0415 - the help of all verbs needs no client

            command = error.ctx.command_path if error.ctx is not None else "inmail"
            raise fail(error.format_message(), Exit.WRONG_USAGE, "usage", f"{command} --help") from None


app = typer.Typer(
    cls=_Verbs,
    help=_HELP,
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version() -> str:
    """Return the version of the installed package; where the code is run from its folder, that of pyproject.toml."""
    try:
        return version("inmail-ledger")
    except PackageNotFoundError:
        import tomllib  # noqa: PLC0415 - only here, and in the image

        project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
        return str(project["project"]["version"])


def _show_version(requested: bool) -> None:  # noqa: FBT001 - typer calls it
    if requested:
        typer.echo(f"inmail {_version()}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line."""
    end_quietly_without_reader()
    try:
        app()
    except UnwritableOutputError as error:  # of the help, or of an answer that is shown
        from workers.commands.running import tell_error  # noqa: PLC0415 - as above

        sys.exit(tell_error(error))


if __name__ == "__main__":
    main()
