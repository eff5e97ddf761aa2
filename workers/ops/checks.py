"""What must hold of the books, each as one query that returns where it does not.

A query returns account (the id as text, or #n for a number without account), place and found. None of them
trusts a CHECK or a key of the tables: the audit is for the day on which one was missing.
"""

from typing import Final, NamedTuple

__all__ = ["CHECKS", "TOTALS", "Check"]


class Check(NamedTuple):
    """One thing that must hold."""

    name: str
    promise: str
    sql: str


_ACCOUNT = "coalesce((select a.account_id from accounts as a where a.account = x.account), '#' || x.account)"

CHECKS: Final = (
    Check(
        "lot_is_its_journal",
        "what remains of a lot is the sum of its journal rows",
        f"""
        select {_ACCOUNT} as account, 'lot ' || x.lot as place,
            x.remaining || ' remain, the journal says ' || coalesce(j.total, 0) as found
        from lots as x
        left join (
            select account, lot, sum(amount) as total from journal where lot is not null group by account, lot
        ) as j using (account, lot)
        where x.remaining <> coalesce(j.total, 0)
        """,
    ),
    Check(
        "lot_is_granted_once",
        "a lot was opened by exactly one grant, of as many credits",
        f"""
        select {_ACCOUNT} as account, 'lot ' || x.lot as place,
            x.granted || ' granted, by ' || coalesce(g.rows, 0) || ' rows of ' || coalesce(g.total, 0) as found
        from lots as x
        left join (
            select account, lot, count(*) as rows, sum(amount) as total
            from journal where code = 'granted' group by account, lot
        ) as g using (account, lot)
        where coalesce(g.rows, 0) <> 1 or g.total <> x.granted
        """,
    ),
    Check(
        "lot_conserves",
        "granted = remaining + debited + expired, of each lot",
        f"""
        select {_ACCOUNT} as account, 'lot ' || x.lot as place,
            x.granted || ' granted, ' || x.remaining || ' remain, ' || coalesce(j.debited, 0) || ' debited, '
            || coalesce(j.expired, 0) || ' expired' as found
        from lots as x
        left join (
            select account, lot,
                coalesce(-sum(amount) filter (where code = 'charged'), 0) as debited,
                coalesce(-sum(amount) filter (where code = 'expired'), 0) as expired
            from journal where lot is not null group by account, lot
        ) as j using (account, lot)
        where x.granted <> x.remaining + coalesce(j.debited, 0) + coalesce(j.expired, 0)
        """,
    ),
    Check(
        "lot_in_range",
        "a lot holds between none and all of its credits, and ends no earlier than it starts",
        f"""
        select {_ACCOUNT} as account, 'lot ' || x.lot as place,
            x.remaining || ' of ' || x.granted || ', ' || x.granted_at || ' to ' || x.expires_at as found
        from lots as x
        where x.remaining < 0 or x.remaining > x.granted
            or x.granted_at > x.expires_at or x.expires_at > x.full_expires_at
        """,
    ),
    Check(
        "closed_lot_is_empty",
        "a lot whose end is booked holds nothing",
        f"""
        select {_ACCOUNT} as account, 'lot ' || x.lot as place, x.remaining || ' remain' as found
        from lots as x
        where not x.open and x.remaining <> 0
        """,
    ),
    Check(
        "lots_are_numbered",
        "an account's lots are 1 to its newest",
        """
        select x.account_id as account, 'newest lot ' || x.newest_lot as place,
            coalesce(l.rows, 0) || ' lots, ' || coalesce(l.low, 0) || ' to ' || coalesce(l.high, 0) as found
        from accounts as x
        left join (
            select account, count(*) as rows, min(lot) as low, max(lot) as high from lots group by account
        ) as l using (account)
        where coalesce(l.rows, 0) <> x.newest_lot or coalesce(l.high, 0) <> x.newest_lot
            or coalesce(l.low, 1) <> 1
        """,
    ),
    Check(
        "sequence_is_gap_free",
        "an account's journal rows are 1 to its sequence",
        """
        select x.account_id as account, 'sequence ' || x.sequence as place,
            coalesce(j.rows, 0) || ' rows, ' || coalesce(j.low, 0) || ' to ' || coalesce(j.high, 0) as found
        from accounts as x
        left join (
            select account, count(*) as rows, min(sequence) as low, max(sequence) as high
            from journal group by account
        ) as j using (account)
        where coalesce(j.rows, 0) <> x.sequence or coalesce(j.high, 0) <> x.sequence or coalesce(j.low, 1) <> 1
        """,
    ),
    Check(
        "row_has_its_account",
        "every journal row belongs to an account",
        """
        select '#' || x.account as account, 'sequence ' || min(x.sequence) as place, count(*) || ' rows' as found
        from journal as x
        where not exists (select from accounts as a where a.account = x.account)
        group by x.account
        """,
    ),
    Check(
        "row_has_its_lot",
        "every journal row that moves credits names a lot that exists",
        f"""
        select {_ACCOUNT} as account, 'sequence ' || x.sequence as place,
            coalesce('lot ' || x.lot, 'no lot') as found
        from journal as x
        where x.amount <> 0 and not exists (select from lots as l where l.account = x.account and l.lot = x.lot)
        """,
    ),
    Check(
        "charge_takes_one_credit",
        "a charged send took one credit of a lot",
        f"""
        select {_ACCOUNT} as account, 'sequence ' || x.sequence as place,
            'amount ' || x.amount || ', ' || coalesce('lot ' || x.lot, 'no lot') as found
        from journal as x
        where x.code = 'charged' and (x.lot is null or x.amount <> -1)
        """,
    ),
    Check(
        "row_moves_as_its_code",
        "only a grant gives, only charges and expiry take, and only expiry is no answer",
        f"""
        select {_ACCOUNT} as account, 'sequence ' || x.sequence as place, x.code || ' ' || x.amount as found
        from journal as x
        where sign(x.amount) <> case x.code when 'granted' then 1 when 'charged' then -1 when 'expired' then -1 else 0 end
            or x.is_answer = (x.code = 'expired')
        """,
    ),
    Check(
        "row_is_within_its_lot",
        "a lot pays only between its start and its end, and expires only after it",
        f"""
        select {_ACCOUNT} as account, 'sequence ' || x.sequence as place,
            x.code || ' at ' || x.as_of || ', lot ' || x.lot || ' from ' || l.granted_at
            || ' to ' || x.lot_expires_at as found
        from journal as x
        inner join lots as l using (account, lot)
        where (x.code = 'charged' and (x.as_of < l.granted_at or x.as_of >= x.lot_expires_at))
            or (x.code = 'expired' and x.as_of < x.lot_expires_at)
        """,
    ),
    Check(
        "balance_adds_up",
        "a row changes the balance by what it moves",
        f"""
        select {_ACCOUNT} as account, 'sequence ' || x.sequence as place,
            x.code || ' ' || x.amount || ', balance ' || x.balance_before || ' to ' || x.balance_after as found
        from journal as x
        where not case x.code
            -- A grant for another time than now gives nothing to spend yet, or any more.
            when 'granted' then x.balance_after - x.balance_before in (0, x.amount)
            when 'cancelled' then x.balance_after <= x.balance_before
            else x.balance_after - x.balance_before = x.amount
        end
        """,
    ),
    Check(
        "balance_is_carried",
        "at one instant, a row's balance is the one that the row before it left",
        f"""
        select {_ACCOUNT} as account, 'sequence ' || x.sequence as place,
            'balance ' || x.balance_before || ' after ' || x.carried as found
        from (
            select account, sequence, code, request_id, as_of, balance_before,
                lag(balance_after) over rows_ as carried,
                lag(as_of) over rows_ as as_of_before,
                lag(request_id) over rows_ as request_before
            from journal
            window rows_ as (partition by account order by sequence)
        ) as x
        where x.as_of = x.as_of_before and x.balance_before <> x.carried
            -- A tick's first line takes what the balance no longer counted.
            and (x.code <> 'expired' or x.request_id = x.request_before)
        """,
    ),
    Check(
        "request_has_one_outcome",
        "a request id has one answer that is not a conflict, and no conflict without it",
        f"""
        select {_ACCOUNT} as account, 'request ' || x.request_id as place, x.answers || ' answers' as found
        from (
            select account, request_id, count(*) filter (where code <> 'key_conflict') as answers
            from journal where is_answer group by account, request_id
        ) as x
        where x.answers <> 1
        """,
    ),
    Check(
        "record_has_one_answer",
        "an input record was answered at most once",
        f"""
        select min({_ACCOUNT}) as account,
            x.worker || ' ' || x.source_partition || '/' || x.source_offset as place, count(*) || ' answers' as found
        from journal as x
        where x.is_answer
        group by x.worker, x.source_partition, x.source_offset
        having count(*) > 1
        """,
    ),
    Check(
        "tick_is_its_lines",
        "a tick booked as many credits as its journal rows say",
        """
        select '' as account, 'tick ' || x.partition || '/' || x.source_offset as place,
            x.credits || ' credits, the journal says ' || coalesce(j.total, 0) as found
        from ticks as x
        left join (
            select source_partition, source_offset, -sum(amount) as total
            from journal where worker = 'expiry' group by source_partition, source_offset
        ) as j on x.partition = j.source_partition and x.source_offset = j.source_offset
        where x.credits <> coalesce(j.total, 0)
        """,
    ),
    Check(
        "row_was_read",
        "no row answers a record that its lane has not read",
        """
        select '' as account, x.worker || ' ' || x.source_partition as place,
            'rows up to offset ' || x.newest || ', the lane stands at ' || coalesce(l.next_offset, 0) as found
        from (
            select worker, source_partition, max(source_offset) as newest
            from journal group by worker, source_partition
        ) as x
        left join lanes as l on l.consumer_group = 'inmail-' || x.worker and l.partition = x.source_partition
        where x.newest >= coalesce(l.next_offset, 0)
        """,
    ),
)

# The whole book. Its own line of the audit, since it is what an accountant asks for first.
TOTALS: Final = """
select
    (select count(*) from accounts) as accounts,
    l.lots,
    j.rows,
    l.granted,
    j.spent,
    j.expired,
    l.remaining
from (
    select count(*) as lots, coalesce(sum(granted), 0)::bigint as granted,
        coalesce(sum(remaining), 0)::bigint as remaining
    from lots
) as l
cross join (
    select
        count(*) as rows,
        coalesce(-sum(amount) filter (where code = 'charged'), 0)::bigint as spent,
        coalesce(-sum(amount) filter (where code = 'expired'), 0)::bigint as expired
    from journal
) as j
"""
