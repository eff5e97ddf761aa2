"""The command `lag`: shows the lag of groups once, repeatedly or over HTTP."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Annotated

import typer
from pydantic_core import to_json
from rich.live import Live

from infra.output import continue_without_reader
from infra.retry import wait_for_server
from infra.settings import Settings
from infra.terminal import console, error_console
from workers.commands.lag_limits import LagLimit, parse_limit
from workers.commands.options import JsonOption, write_json
from workers.commands.running import Exit, fail, run_command, say_waiting
from workers.commands.views.lag import render_lag_page, show_lag
from workers.ops.lag import GroupLag, LagObserver, StatusLimits, observer
from workers.rights import check_rights

__all__ = ["lag"]


def lag(  # noqa: PLR0913 - one parameter an option
    *,
    group: Annotated[
        list[str] | None,
        typer.Option(help="Only this group, of a worker or any other (exit code 1 if there is none); repeatable."),
    ] = None,
    every_group: Annotated[bool, typer.Option("--all", help="All groups of the cluster.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Repeat until Ctrl-C.")] = False,
    serve: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Serve /lag and /metrics; a port without a host is on loopback."),
    ] = None,
    every: Annotated[float, typer.Option(min=0.5, max=3600, help="Seconds between two samples.")] = 5.0,
    window: Annotated[
        float, typer.Option(min=1, max=3600, help="Seconds without a commit after which a consumer is stalled.")
    ] = 30.0,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STATUS|RECORDS|SECONDSs",
            help="Exit with 1 if a partition has this status or a worse one (STALLED), so many unread records (1000),"
            " or an unread record so old (60s); with 3 if the ledger's database does not tell; repeatable.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show how far groups are behind their input, in records and in seconds, with a status and its reason.

    Shows the workers' groups by default. The commits of the last minutes are read from Kafka, so the first sample is as
    complete as the tenth.
    """
    limits = [parse_limit(each) for each in fail_on or ()]
    if limits and (watch or serve is not None):
        raise typer.BadParameter("needs a single sample: leave out --watch and --serve", param_hint="--fail-on")
    watched = partial(observer, groups=group or None, every=every_group, limits=StatusLimits(window_seconds=window))
    ours = not group and not every_group  # of other groups the rights are their owners' matter
    if not watch and serve is None:
        _show_once(watched, limits, named=bool(group), ours=ours, json=json)
        return
    opening = partial(_check_first, watched) if ours and serve is not None else watched
    run_command(
        lambda settings: _repeat(partial(opening, settings), serve, every, json=json, silent=not watch),
        following=True,
        checks=ours and serve is None,
    )


def _show_once(
    opening: Callable[[Settings], AbstractAsyncContextManager[LagObserver]],
    limits: Sequence[LagLimit],
    *,
    named: bool,
    ours: bool,
    json: bool,
) -> None:
    """Show a single sample, and end with 1 where a group was named and Kafka does not know it, or as the limits say."""
    continue_without_reader()
    groups, trouble = run_command(lambda settings: _once(opening(settings)), checks=ours)
    write_json([each.summary() for each in groups]) if json else show_lag(groups)
    if trouble is not None:
        error_console().print(trouble, soft_wrap=True)
    if named and any(each.is_unknown for each in groups):  # misspelt, it would be without lag for ever
        raise typer.Exit(Exit.NO)
    _judge(limits, groups, trouble)


def _judge(limits: Sequence[LagLimit], groups: Sequence[GroupLag], trouble: str | None) -> None:
    """End with 1 where a limit is exceeded, and with 3 where that is not known."""
    if any(limit.exceeded(group) for limit in limits for group in groups):
        raise typer.Exit(Exit.NO)
    if limits and trouble is not None and any(each.is_ours for each in groups):
        raise fail("so whether a worker's group is within the limits is not known", Exit.UNREACHABLE, "postgres")


async def _once(opening: AbstractAsyncContextManager[LagObserver]) -> tuple[Sequence[GroupLag], str | None]:
    async with opening as found:
        await found.refresh()
        return found.groups, found.trouble


@asynccontextmanager
async def _check_first(
    opening: Callable[[Settings], AbstractAsyncContextManager[LagObserver]], settings: Settings
) -> AsyncIterator[LagObserver]:
    """Open an observer once the user's rights are checked: what serves already waits for both."""
    await check_rights(settings, "lag")
    async with opening(settings) as found:
        yield found


async def _serve(
    opening: Callable[[], AbstractAsyncContextManager[LagObserver]], serve: str, every: float, stack: AsyncExitStack
) -> LagObserver:
    """Serve from now on, and return the observer once Kafka is reached; until then the pages say what is waited for."""
    from workers.ops.lag.server import ServedLag, serve_lag  # noqa: PLC0415 - a single sample needs no web server

    served = ServedLag()
    place = await stack.enter_async_context(serve_lag(served, serve, every))
    error_console().print(f"lag is served at {place}/lag and {place}/metrics", soft_wrap=True)
    found = await wait_for_server(lambda: stack.enter_async_context(opening()), say_waiting, served.wait)
    served.show(found)
    return found


async def _repeat(
    opening: Callable[[], AbstractAsyncContextManager[LagObserver]],
    serve: str | None,
    every: float,
    *,
    json: bool,
    silent: bool,
) -> None:
    """Take samples until cancelled: draw each one, write it as a line, or only serve it.

    Who serves waits for Kafka, as each process does that nobody looks at; who looks is told at once that it is away.
    """
    out = console()
    async with AsyncExitStack() as stack:
        if serve is None:
            found = await stack.enter_async_context(opening())
        else:
            found = await _serve(opening, serve, every, stack)
        if silent:
            await found.run(every)
        elif json:
            await found.run(every, lambda: _write_line(found))
        elif out.is_terminal:
            live = stack.enter_context(Live(console=out, auto_refresh=False, vertical_overflow="crop"))
            await found.run(every, lambda: live.update(render_lag_page(found), refresh=True))
        else:
            await found.run(every, lambda: out.print(render_lag_page(found)))


def _write_line(found: LagObserver) -> None:
    """Write a sample as a line, and on standard error what went wrong: what was seen before is no new sample."""
    if found.kafka_trouble is None:
        typer.echo(to_json([each.summary() for each in found.groups]))
    if found.trouble is not None:
        error_console().print(found.trouble, soft_wrap=True)
