"""Examples of each command, for its help: lines to copy, and what each is for."""

from typing import Final

__all__ = ["EXAMPLES"]

_ID: Final = "0b5d6f0e-6d5c-4b1f-9a51-3f0f4c8f7a11"

# By command: pairs of a line and its purpose.
EXAMPLES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "migrate": (("inmail migrate", "before the workers of a new version start"),),
    "topics": (("inmail topics plan", "what is missing or different"), ("inmail topics apply --yes", "mend it")),
    "topics plan": (("inmail topics plan", "nothing is changed"),),
    "topics apply": (("inmail topics apply --yes", "in a deployment"),),
    "transactions": (("inmail transactions list", "what no coordinator will end"),),
    "transactions list": (("inmail transactions list --json", "for programs"),),
    "transactions end": (
        ('inmail transactions end --because "KAFKA-20734" --yes', "of result topics and dead letters"),
    ),
    "worker": (("inmail worker send", "one of four: send, billing, expiry, ticker"),),
    "console": (("inmail console --port 8500", "in place of INMAIL_CONSOLE_PORT"),),
    "api": (
        ("inmail api", "on INMAIL_API_ADDRESS and INMAIL_API_PORT"),
        ("inmail api --new-token --name billing", "a token, and its line for the settings"),
    ),
    "metrics": (("inmail metrics", "once"), ("inmail metrics --serve", "for Prometheus")),
    "publish": (
        ("inmail publish events.ndjson", "one event a line"),
        ("jq -c . event.json | inmail publish -", "an event that has several lines"),
        ("inmail publish --summary events.ndjson", "counts only"),
        ("inmail publish --anyway mistakes.ndjson", "dead letters, to try them"),
    ),
    "results": (
        ("inmail results --account alice --last 20", "the newest 20"),
        ("inmail results --follow", "until Ctrl-C"),
        (f"inmail results --request {_ID}", "one answer"),
        ("inmail results --json | jq .data.code", "the events as they are"),
    ),
    "balance": (
        ("inmail balance alice", "now"),
        ("inmail balance alice --as-of -1d", "this time yesterday"),
        ("inmail balance alice --as-of +30d", "if nothing happens until then"),
    ),
    "statement": (
        ("inmail statement alice", "every line"),
        ("inmail statement alice --as-of 2026-01-31 --csv > alice.csv", "for a spreadsheet"),
    ),
    "trace": (
        (f"inmail trace {_ID}", "a request, a result or a dead letter"),
        ("inmail trace --account alice --last 3", "the newest three requests"),
    ),
    "lag": (
        ("inmail lag", "once"),
        ("inmail lag --watch", "until Ctrl-C"),
        ("inmail lag --fail-on STALLED --fail-on 60s", "exit 1 for a job that alarms"),
        ("inmail lag --all --json", "every group of the cluster"),
    ),
    "doctor": (
        ("inmail doctor", "a running system"),
        ("inmail doctor --before-start", "before the workers start"),
    ),
    "audit": (
        ("inmail audit", "the whole ledger"),
        ("inmail audit --mark", "the same, and what comes after it is new"),
        ("inmail audit --new", "every night: what is new"),
        ("inmail audit --json | jq .passed", "for a job"),
    ),
    "dead-letters": (
        ("inmail dead-letters list --after -2h", "the last two hours"),
        ("inmail dead-letters show 3/17", "one, whole"),
    ),
    "dead-letters list": (
        ("inmail dead-letters list --after -2h", "the last two hours"),
        ("inmail dead-letters list --account dora", "by key or by subject"),
        ("inmail dead-letters list --count", "by topic and reason"),
    ),
    "dead-letters show": (("inmail dead-letters show 3/17", "partition 3, offset 17"),),
    "dead-letters redrive": (
        ("inmail dead-letters redrive --reason unknown_plan --dry-run", "the plan"),
        ('inmail dead-letters redrive --account dora --because "plan added"', "asks before it sends"),
        ('inmail dead-letters redrive --at 3/17 --because "plan added"', "one, by its place as listed"),
    ),
    "replay": (("inmail replay reemit --account alice --dry-run", "each verb has a dry run"),),
    "replay rewind": (("inmail replay rewind send --to-time -2h --dry-run", "the plan"),),
    "replay skip": (("inmail replay skip send --dry-run", "what is lost"),),
    "prune": (("inmail prune --dry-run", "how many answers to ticks may go"),),
    "replay balances": (("inmail replay balances --all --dry-run", "how many accounts"),),
    "replay reemit": (("inmail replay reemit --account alice --after -1d --dry-run", "the plan"),),
    "replay rebuild": (("inmail replay rebuild --schema rebuilt --dry-run", "the plan"),),
    "replay shadow": (
        ("inmail replay shadow --schema trial --set plans.basic.credits=6 --dry-run", "a rule on trial"),
    ),
    "clock": (("inmail clock show", "each lane's clock"),),
    "clock show": (("inmail clock show", "each lane's clock, and what it holds"),),
    "clock accept": (('inmail clock accept send 3 --because "was right"', "decide the held record"),),
    "clock set-aside": (('inmail clock set-aside send 3 --because "wrong clock"', "into the dead letters"),),
    "clock set-back": (("inmail clock set-back --to -1h --dry-run", "the plan"),),
    "shards": (("inmail shards list", "which server holds what"),),
    "shards list": (("inmail shards list", "which server holds what, and moves under way"),),
    "shards add": (("inmail shards add --to postgresql://db-b/inmail --dry-run", "the plan"),),
    "shards move": (
        ("inmail shards move 6-11 --to postgresql://db-b/inmail --dry-run", "the plan"),
        ('inmail shards move 6-11 --to 1 --because "db-a is full"', "to the server with ordinal 1"),
    ),
    "operations": (("inmail operations list", "who did what, and why"),),
    "operations list": (("inmail operations list --last 10", "the newest ten"),),
    "operations show": (("inmail operations show 12", "plan and result"),),
    "up": (
        ("inmail up", "in this folder"),
        ("source .inmail/env", "in another terminal: every command works"),
        ("inmail up --data cluster --brokers 3 --workers 2", "three brokers, and two of each worker"),
    ),
    "workers": (("inmail workers list", "which run"), ("inmail workers restart send", "one of them")),
    "workers list": (("inmail workers list", "which run, and where their logs are"),),
    "workers stop": (("inmail workers stop send", "its records wait"),),
    "workers start": (("inmail workers start send", "its records are decided"),),
    "workers restart": (("inmail workers restart send", "after a change of the plans file"),),
    "demo": (("inmail demo", "20 s, 3 min the first time; nothing is left"),),
    "simulate": (
        ("inmail simulate --accounts 1000 --days 30 -o events.ndjson", "a file"),
        ("inmail simulate --start -7d --days 7 --publish", "the last week, into Kafka"),
    ),
}
