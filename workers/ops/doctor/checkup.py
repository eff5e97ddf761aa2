"""Runs all questions of a check-up."""

from collections.abc import Callable
from functools import partial

from infra.kafka.cluster_queries import ClusterQueries, open_cluster_queries
from infra.postgres import database_address, open_database
from infra.settings import Settings
from infra.shards import settings_of_shards
from workers.ledger.plans import CatalogueError, load_catalogue
from workers.ops.books.shards import has_one_server, server_name
from workers.ops.doctor import kafka_checks, lane_checks, postgres_checks
from workers.ops.doctor.model import CheckResult, CheckupReport, ok, wrong
from workers.ops.doctor.postgres_checks import ServerConnection
from workers.ops.doctor.questions import ANSWER_SECONDS, Questions
from workers.ops.doctor.shard_checks import check_shards

__all__ = ["run_checkup"]


def _silent(_: object) -> None:
    """Tell nobody."""


async def run_checkup(
    settings: Settings,
    *,
    before_start: bool = False,
    tell: Callable[[CheckResult], None] = _silent,
    say: Callable[[str], None] = _silent,
) -> CheckupReport:
    """Look once at everything that the guarantees rest on, and return what was found. Nothing is changed.

    Args:
        settings: the workers' settings.
        before_start: whether the workers are about to be started: that none runs is no finding then.
        tell: is given each result as it is found.
        say: is told what is being waited for. No question waits for longer than 5 s.

    """
    quick = settings.model_copy(update={"database_timeout_seconds": ANSWER_SECONDS})
    questions = Questions(tell, say)
    questions.add([_catalogue(settings)])
    answered = [await _ask_server(questions, each, before_start=before_start) for each in settings_of_shards(quick)]
    if len(answered) > 1:
        await questions.ask("servers", "numbers", lambda: check_shards(quick))
    async with questions.server("Kafka", settings.kafka_bootstrap_servers, open_cluster_queries(settings)) as cluster:
        complete = cluster is not None and await _ask_kafka(questions, cluster, settings)
    if all(answered) and complete:
        await questions.ask("topics", "plan", lambda: kafka_checks.check_plan(quick))
        await questions.ask("lanes", "offsets", lambda: lane_checks.check_offsets(quick, before_start=before_start))
    return CheckupReport(questions.results)


async def _ask_server(questions: Questions, settings: Settings, *, before_start: bool) -> bool:
    """Ask a Postgres server; tell whether it answers."""
    several = not has_one_server(settings)
    questions.server_name = server_name(settings) if several else ""
    async with questions.server("Postgres", database_address(settings), open_database(settings)) as connection:
        if connection is not None:
            await _ask_postgres(questions, connection, before_start=before_start, several=several)
    questions.server_name = ""
    return connection is not None


def _catalogue(settings: Settings) -> CheckResult:
    try:
        plans = load_catalogue(settings.plans_file)
    except (CatalogueError, OSError) as error:
        return wrong("settings", "plan catalogue", str(error), "mend INMAIL_PLANS_FILE")
    return ok("settings", "plan catalogue", f"{len(plans.plans)} plans")


async def _ask_postgres(
    questions: Questions, connection: ServerConnection, *, before_start: bool, several: bool
) -> None:
    ask = partial(questions.ask, "Postgres")
    await ask("server", lambda: postgres_checks.check_server(connection))
    await ask("session", lambda: postgres_checks.check_session(connection))
    await ask("locks", lambda: postgres_checks.check_locks(connection))
    await questions.ask("clocks", "Postgres", lambda: postgres_checks.check_clock(connection))
    if await ask("search_path", lambda: postgres_checks.check_schemas(connection)):
        migrated = await ask("tables and functions", lambda: postgres_checks.check_tables(connection))
        await questions.ask("rights", "Postgres", lambda: postgres_checks.check_rights(connection))
        if migrated:
            await questions.ask(
                "lanes", "rows", lambda: lane_checks.check_lanes(connection, before_start=before_start, several=several)
            )


async def _ask_kafka(questions: Questions, cluster: ClusterQueries, settings: Settings) -> bool:
    """Ask Kafka; tell whether all topics can be worked with, so that more can be asked of them."""
    await questions.ask("Kafka", "versions", lambda: kafka_checks.check_brokers(cluster))
    nodes = sorted(cluster.brokers())
    await questions.ask("Kafka", "limits", lambda: kafka_checks.check_broker_limits(settings, nodes))
    await questions.ask("rights", "Kafka", lambda: kafka_checks.check_rights(cluster, settings))
    if not await questions.ask("topics", "replicas", lambda: kafka_checks.check_replicas(cluster, settings)):
        return False
    await questions.ask("topics", "transactions", lambda: kafka_checks.check_hanging(cluster, settings))
    await questions.ask("topics", "settings", lambda: kafka_checks.check_settings(settings))
    await questions.ask("clocks", "Kafka", lambda: kafka_checks.check_clock(cluster, settings))
    return True
