"""The commands that compare topics and groups with the settings, and apply the changes."""

import typer

from infra.kafka.broker_versions import fetch_version_concerns
from infra.terminal import console
from workers.commands.options import JsonOption, YesOption, confirm, write_json
from workers.commands.running import run_command
from workers.commands.views.topics import show_broken_promises, show_topic_changes, show_warnings
from workers.ops.topics.plan import apply_topics, plan_topics
from workers.ops.topics.promises import check_topics

__all__ = ["topics"]

topics = typer.Typer(no_args_is_help=True, add_completion=False)


@topics.command("plan")
def topics_plan(*, json: JsonOption = False) -> None:
    """Show the steps of `apply`, and the settings that conflict with a guarantee."""
    concerns = run_command(fetch_version_concerns)
    broken = run_command(check_topics)
    if not json:
        show_warnings(concerns)
        show_broken_promises(broken)
    changes = run_command(plan_topics)
    if json:
        write_json({"changes": changes, "broken_promises": [each._asdict() for each in broken], "warnings": concerns})
    else:
        show_topic_changes(changes)


@topics.command("apply")
def topics_apply(
    *,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Create and change topics, start groups that have no offset, and continue with topics that were created again."""
    changes = run_command(plan_topics)
    if not json:
        show_topic_changes(changes)
    if changes:
        confirm(f"Carry out these {len(changes)} steps?", yes=yes)
        run_command(lambda settings: apply_topics(settings, changes))
    if json:
        write_json(changes)
    elif changes:
        console().print(f"{len(changes)} steps done")
