"""The command `inmail`: a table of its verbs, each loaded when it is asked for.

A verb's module is imported only to run it or to show its own help: `inmail --help` loads none of them.
"""

from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any, NamedTuple

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

__all__ = ["VERBS", "Verb", "app", "load_verb", "main"]

_HELP = """Decides, exactly once and provably, whether an InMail may be sent and what it costs.

Settings are read from INMAIL_* variables, first of all INMAIL_KAFKA_BOOTSTRAP_SERVERS and INMAIL_DATABASE_URL.
"""

_EXIT_CODES = """Exit codes:

 0 done

 1 the answer is no: the audit found something, an account or request is unknown, a line could not be published, the \
demo came out otherwise than told

 2 wrong usage or setting

 3 Kafka or Postgres cannot be reached, refused, or is not set up; the local ones could not start, or one ended

 70 a broken invariant, a worker that made no progress, found too many undecidable records, or could not stop in order
"""


class Verb(NamedTuple):
    """One verb: the section it stands in, where its function or its group of verbs is, and its help in one line."""

    section: str
    module: str
    attribute: str
    help: str


_RUN, _USE, _ASK, _REPAIR, _TRY = "Set up and run", "Send and read", "Look", "Repair and replay", "Try it"

VERBS = {
    "migrate": Verb(_RUN, "commands.migrate", "migrate_command", "Bring the database to this version."),
    "topics": Verb(_RUN, "commands.topics", "topics", "Compare topics and groups with how they should be."),
    "worker": Verb(_RUN, "worker_command", "worker_command", "Run the send, billing or expiry worker, or the ticker."),
    "console": Verb(_RUN, "commands.console", "console", "Serve a page that shows the system, and from which to act."),
    "api": Verb(_RUN, "commands.api", "api", "Serve balances and outcomes to applications, over HTTP."),
    "metrics": Verb(_RUN, "commands.metrics", "metrics", "Show or serve the metrics of the whole ledger."),
    "publish": Verb(_USE, "commands.publish", "publish_command", "Publish events from files, as a producer."),
    "results": Verb(_USE, "commands.results", "results_command", "Read the answers, as a downstream service."),
    "balance": Verb(_ASK, "commands.books", "balance", "Show what an account can spend, by lot, at an instant."),
    "statement": Verb(_ASK, "commands.books", "statement", "Show an account's balance and every line that led there."),
    "trace": Verb(_ASK, "commands.trace", "trace", "Follow a request from its record to its published answer."),
    "lag": Verb(_ASK, "commands.lag", "lag", "Show how far groups are behind, since when, and why."),
    "audit": Verb(
        _ASK, "commands.books", "audit_command", "Check that the ledger balances: every credit, row, answer."
    ),
    "dead-letters": Verb(
        _REPAIR, "commands.dead_letters", "dead_letters", "See messages that can never succeed; send them back."
    ),
    "replay": Verb(_REPAIR, "commands.replay", "replay", "Replay past decisions without moving credits again."),
    "clock": Verb(_REPAIR, "commands.clock", "clock", "Decide on times far ahead; set a clock back."),
    "operations": Verb(_REPAIR, "commands.operations", "operations", "See what operators did, and why."),
    "up": Verb(_TRY, "local.command", "up", "Run the whole system on this machine until Ctrl-C."),
    "demo": Verb(_TRY, "local.command", "demo", "Run the whole system and play a story through it."),
    "simulate": Verb(_TRY, "commands.simulate", "simulate", "Make up accounts and all that happens to them."),
}


def load_verb(name: str) -> TyperCommand | TyperGroup:
    """Import a verb and return it as a command. Raises `KeyError` of an unknown name."""
    verb = VERBS[name]
    # By the package that this is in: an installed one has another name than the repository's folder.
    found = getattr(import_module(f".{verb.module}", __package__), verb.attribute)
    if not isinstance(found, typer.Typer):
        alone = typer.Typer(add_completion=False)
        alone.command(name)(found)
        found = alone
    command: Any = typer.main.get_command(found)
    command.name, command.help = name, command.help or verb.help
    return command  # type: ignore[no-any-return] # typer tells less than it returns


class _Verbs(TyperGroup):
    """Lists the verbs from the table, and loads the one that is run."""

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401 - whatever typer passes
        super().__init__(**attributes)
        for name, verb in VERBS.items():
            self.add_command(TyperCommand(name, help=verb.help, rich_help_panel=verb.section))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:  # noqa: ANN401
        """Return the verb that the arguments name, loaded, and the arguments after it."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, load_verb(name) if name in VERBS else command, rest


app = typer.Typer(
    cls=_Verbs,
    help=_HELP,
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:  # noqa: FBT001 - typer calls it
    if asked:
        typer.echo(f"inmail {version('inmail-ledger')}")
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
    app()


if __name__ == "__main__":
    main()
