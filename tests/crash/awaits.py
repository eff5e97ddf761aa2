"""The awaits of the lane's protocol, by module: the point that stands for each, or why it needs none.

`test_awaits.py` compares this with the code. An await that is added has to be thought about: what a fault there could
break that the points around it do not show.
"""

__all__ = ["AWAITS", "OUTSIDE", "WITHOUT_AWAIT"]

_INNER = "its own awaits are below, in this table"
_TASKS = "waits for tasks of its own, which have their points"
_IDLE = "waits for something to do, and holds nothing meanwhile"
_READ = "reads what operators have written: between `number` and `topic`, with nothing else in between"
_OPERATOR = "only after what an operator has to decide: tests/workers make that happen"
_ENDED = "only where a topic was created again: tests/workers/lane make that happen"
_SEARCHING = "a question of the search, which is cancelled as a whole or read again as a whole: `search` and `scan`"

# Modules of the folder whose awaits are no part of the protocol.
OUTSIDE = {
    "worker": "starts and ends the process, before the first lane and after the last",
    "server_checks": "looks at servers beside the lanes, and tells what it finds",
    "lock_watch": "asks Postgres who holds a lock, for an operator",
}

# Points that no await of ours names.
WITHOUT_AWAIT = {
    "take": "no await: the whole process stands there",
    "decode": "no await: the whole process stands there",
    "seek": "no await: the whole process stands there",
    "assign": "aiokafka's own task awaits it",
    "revoke": "aiokafka's own task awaits it",
    "commit": "the end of the block that `begin` begins",
}

AWAITS = {
    "admission": {
        "admit: lane.guard.admit": "asks nobody unless a record's time is far ahead, which an operator decides",
        "_admit_in_order: self._order.admit": _INNER,
        "_hold: self._rows.hold": _OPERATOR,
    },
    "clock_guard": {
        "open: read_set_backs": _READ,
        "_read: read_time_policy": _READ,
        "_read: self._pool.fetch": _READ,
    },
    "deciding": {
        "_record_overtaken: connection.executemany": "inside the transaction, as `call`",
        "_finish_step: self._rows.fenced": _INNER,
        "_finish_step: step": "step",
        "_finish_step: self._rows.release_waiters": "inside the step's transaction, as `step`",
        "_store: self._rows.fenced": _INNER,
        "_store: decide": "call",
        "_store: self._rows.pause": "the worker ends anyway, and what it says there is for an operator",
    },
    "ended_topics": {
        "publish: self._pool.fetch": _READ,
        "publish: self._rows.fenced": _ENDED,
        "publish: self._job.replay_answers": _ENDED,
        "publish: publish": _ENDED,
        "publish: self._pool.execute": _ENDED,
        "_scan: scan_published": _ENDED,
    },
    "lane_rows": {
        "read: self._pool.fetch": "known",
        "acquire: self._pool.fetch": "epoch",
        "fenced: self._pool.acquire": "acquire",
        "fenced: connection.transaction": "begin",
        "fenced: connection.execute": "claim",
        "are_owned: self._pool.fetchval": "owned",
        "announce_waiting: self._pool.execute": "wait",
        "resume: self._pool.execute": "resume",
        "release: end_in_time": "release",
        "release_waiters: connection.execute": "inside the step's transaction, as `step`",
        "halt: self._pool.execute": _OPERATOR,
        "hold: self._pool.execute": _OPERATOR,
        "pause: self._pool.execute": "the worker ends anyway, and what it says there is for an operator",
    },
    "membership": {
        "run: asyncio.wait": _TASKS,
        "_end: self._owners.give_up": "drain",
        "_end: self._owners.stop": _TASKS,
        "_end: asyncio.wait": "leave",
        "_leave: asyncio.wait": "another client says what `leave` would: the group ends a session all the same",
        "_pump: starting": "join",
        "_pump: self._poller.poll": "fetch",
        "_pump: asyncio.sleep": _IDLE,
        "_deliver: self._consumer.position": "a number that the consumer has at hand, after `fetch`",
        "on_partitions_revoked: self._owners.give_up": "drain",
    },
    "neighbour": {
        "read_neighbours: pool.fetch": "look",
    },
    "numbering": {
        "agree_on_partitions: pool.fetchval": "number",
        "agree_on_partitions: pool.execute": "only the first lane of new books writes it, and any other may",
    },
    "opening": {
        "check_membership: self._consumer.is_member": "member",
        "read: self._rows.read": "known",
        "acquire: self._rows.acquire": "epoch",
        "acquire_alone: self._rows.acquire": "epoch",
        "_prepare: agree_on_partitions": "number",
        "_prepare: lane.guard.open": _READ,
        "_prepare: self._ended.publish": _INNER,
        "_find_starts: topic_ids": "topic",
        "_find_starts: committed_offsets": "committed",
        "_find_starts: self._consumer.beginning_offsets": "oldest",
        "_find_starts: self._consumer.end_offsets": "end",
        "_find_starts: self._rows.are_owned": "owned",
        "_find_starts: self._rows.resume": "resume",
        "_look_for_answers: scan_published": "search",
        "_publish_from_books: self._pool.acquire": "acquire",
        "_publish_from_books: self._job.replay_answers": "recall",
        "_publish_from_books: transact": "left",
        "_for_each: act": _INNER,
        "_fail: self._rows.halt": _OPERATOR,
    },
    "openings": {
        "_run: opening": _INNER,
        "end: asyncio.wait": "waits for openings that it has cancelled: each request of theirs is cancelled `within`",
    },
    "owners": {
        "_are_done: asyncio.wait": "drain",
        "stop: asyncio.wait": _TASKS,
        "_work_apart: asyncio.wait": _TASKS,
    },
    "partition_bounds": {
        "_answer_in_time: asyncio.wait": "ends",
        "_ask_alone: asyncio.wait": "the same question, where the brokers did not answer it for all: `ends`",
        "_learn_starts: self._ends.starts": "of a neighbour that is away for long; its answer may only let less wait",
    },
    "readback": {
        "scan_published: reader": _SEARCHING,
        "scan_published: all_partitions": _SEARCHING,
        "scan_published: all_.end_offsets": _SEARCHING,
        "scan_published: consumer.beginning_offsets": _SEARCHING,
        "scan_published: all_.offsets_for_times": _SEARCHING,
        "scan_published: aclosing": _SEARCHING,
        "scan_published: records": "scan",
        "_received_first: reader": _SEARCHING,
        "_received_first: consumer.end_offsets": _SEARCHING,
        "_received_first: consumer.beginning_offsets": _SEARCHING,
        "_received_first: aclosing": _SEARCHING,
        "_received_first: records": "scan",
    },
    "time_order": {
        "admit: asyncio.gather": "look",
        "admit: self._bounds.ask_starts": _INNER,
        "_announce: self._rows.announce_waiting": "wait",
    },
    "transactions": {
        "_publish: asyncio.timeout": "a limit, and no question",
        "_publish: producer.begin_transaction": "publish",
        "_send: producer.partitions_for": "partitions",
        "_hand_over: producer.send_batch": "delivery",
        "_publish: producer.send_offsets_to_transaction": "offsets",
        "_deliver: asyncio.wait": "what `offsets` stands before, after it",
        "_deliver: asyncio.gather": "what `offsets` stands before, after it",
        "_commit: asyncio.wait": "confirm",
        "fence_producers: asyncio.gather": "fence",
        "_start_all: asyncio.timeout": "a limit, and no question",
        "_start_all: asyncio.gather": "start",
        "_stop_all: asyncio.wait": "discard",
        "_end: asyncio.wait": "discard",
        "_end: producer.client.close": "discard",
    },
    "turn": {
        "run: run_until_first": "start",
        "run: self._openings.end": _INNER,
        "run: self._producers.discard": "discard",
        "_open: self._opening.read": "known",
        "_open: self._opening.check_membership": "member",
        "_acquire: fence_producers": "fence",
        "_acquire: self._opening.acquire": "epoch",
        "_acquire: self._opening.open": _INNER,
        "_take_turns: self._turns.finish": _TASKS,
        "_take_turns: self._turns.end": _TASKS,
        "_take_turns: self._admission.admit": _INNER,
        "_begin_turn: self._turns.begin": _TASKS,
        "_decide: self._decider.finish_steps": _INNER,
        "_decide: decide_turn": _INNER,
        "_transact: self._one_transaction": "waits for the transaction before, which has its points",
        "_transact: self._producers.publish": _INNER,
        "_wait: wait_for_event": _IDLE,
        "_let_go: self._openings.end": _INNER,
        "_let_go: self._rows.release": "release",
        "_begin_again: run_until_first": "rest",
        "_let_leave: wait_for_event": _IDLE,
    },
    "turn_queue": {
        "_work: decide": _INNER,
        "_work: asyncio.wait": "waits for the turn before, which has its points",
        "_work: publish": _INNER,
        "_gather: wait_for_event": "gather",
        "finish: asyncio.wait": _TASKS,
        "end: asyncio.wait": _TASKS,
    },
    "turn_size": {
        "decide_turn: asyncio.gather": _INNER,
    },
}
