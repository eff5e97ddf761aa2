-- What must hold of the books: one query each, which returns where it does not. The line above a query gives its
-- name and what it promises; `workers/ops/audit.py` takes the file apart by it.
--
-- A query returns an account's number or null, the place, and what was found there. None of them trusts a CHECK or a
-- key of the tables: the audit is for the day on which one was missing.

-- lot_is_its_journal: what remains of a lot is the sum of its journal rows
with j as (
    select
        account,
        lot,
        sum(amount) as total
    from journal
    where lot is not null
    group by account, lot
)

select
    x.account,
    'lot ' || x.lot as place,
    x.remaining || ' remain, the journal says ' || coalesce(j.total, 0) as found
from lots as x
left join j on x.account = j.account and x.lot = j.lot
where x.remaining <> coalesce(j.total, 0);

-- lot_is_granted_once: a lot was opened by exactly one grant, of as many credits
with g as (
    select
        account,
        lot,
        count(*) as n,
        sum(amount) as total
    from journal
    where code = 'granted'
    group by account, lot
)

select
    x.account,
    'lot ' || x.lot as place,
    x.granted || ' granted, by ' || coalesce(g.n, 0) || ' rows of ' || coalesce(g.total, 0) as found
from lots as x
left join g on x.account = g.account and x.lot = g.lot
where coalesce(g.n, 0) <> 1 or g.total <> x.granted;

-- lot_conserves: granted = remaining + debited + expired, of each lot
with j as (
    select
        account,
        lot,
        coalesce(-sum(amount) filter (where code = 'charged'), 0) as debited,
        coalesce(-sum(amount) filter (where code = 'expired'), 0) as expired
    from journal
    where lot is not null
    group by account, lot
)

select
    x.account,
    'lot ' || x.lot as place,
    x.granted || ' granted, ' || x.remaining || ' remain, ' || coalesce(j.debited, 0) || ' debited, '
    || coalesce(j.expired, 0) || ' expired' as found
from lots as x
left join j on x.account = j.account and x.lot = j.lot
where x.granted <> x.remaining + coalesce(j.debited, 0) + coalesce(j.expired, 0);

-- lot_in_range: a lot holds between none and all of its credits, and ends no earlier than it starts
select
    x.account,
    'lot ' || x.lot as place,
    x.remaining || ' of ' || x.granted || ', ' || x.granted_at || ' to ' || x.expires_at as found
from lots as x
where
    x.remaining < 0 or x.remaining > x.granted
    or x.granted_at > x.expires_at or x.expires_at > x.full_expires_at;

-- closed_lot_is_empty: a lot whose end is booked holds nothing
select
    x.account,
    'lot ' || x.lot as place,
    x.remaining || ' remain' as found
from lots as x
where not x.open and x.remaining <> 0;

-- lots_are_numbered: an account's lots are 1 to its newest
with l as (
    select
        account,
        count(*) as n,
        min(lot) as low,
        max(lot) as high
    from lots
    group by account
)

select
    x.account,
    'newest lot ' || x.newest_lot as place,
    coalesce(l.n, 0) || ' lots, ' || coalesce(l.low, 0) || ' to ' || coalesce(l.high, 0) as found
from accounts as x
left join l on x.account = l.account
where
    coalesce(l.n, 0) <> x.newest_lot or coalesce(l.high, 0) <> x.newest_lot
    or coalesce(l.low, 1) <> 1;

-- sequence_is_gap_free: an account's journal rows are 1 to its sequence
with j as (
    select
        account,
        count(*) as n,
        min(sequence) as low,
        max(sequence) as high
    from journal
    group by account
)

select
    x.account,
    'sequence ' || x.sequence as place,
    coalesce(j.n, 0) || ' rows, ' || coalesce(j.low, 0) || ' to ' || coalesce(j.high, 0) as found
from accounts as x
left join j on x.account = j.account
where coalesce(j.n, 0) <> x.sequence or coalesce(j.high, 0) <> x.sequence or coalesce(j.low, 1) <> 1;

-- row_has_its_account: every journal row belongs to an account
select
    x.account,
    'sequence ' || min(x.sequence) as place,
    count(*) || ' rows' as found
from journal as x
where
    not exists (
        select from accounts as a
        where a.account = x.account
    )
group by x.account;

-- row_has_its_lot: every journal row that moves credits names a lot that exists
select
    x.account,
    'sequence ' || x.sequence as place,
    coalesce('lot ' || x.lot, 'no lot') as found
from journal as x
where x.amount <> 0 and not exists (
    select from lots as l
    where l.account = x.account and l.lot = x.lot
);

-- charge_takes_one_credit: a charged send took one credit of a lot
select
    x.account,
    'sequence ' || x.sequence as place,
    'amount ' || x.amount || ', ' || coalesce('lot ' || x.lot, 'no lot') as found
from journal as x
where x.code = 'charged' and (x.lot is null or x.amount <> -1);

-- row_moves_as_its_code: only a grant gives, only charges and expiry take, and only expiry is no answer
select
    x.account,
    'sequence ' || x.sequence as place,
    x.code || ' ' || x.amount as found
from journal as x
where
    sign(x.amount) <> case x.code when 'granted' then 1 when 'charged' then -1 when 'expired' then -1 else 0 end
    or x.is_answer = (x.code = 'expired');

-- row_is_within_its_lot: a lot pays only between its start and its end, and expires only after it
select
    x.account,
    'sequence ' || x.sequence as place,
    x.code || ' at ' || x.as_of || ', lot ' || x.lot || ' from ' || l.granted_at
    || ' to ' || x.lot_expires_at as found
from journal as x
inner join lots as l on x.account = l.account and x.lot = l.lot
where
    (x.code = 'charged' and (x.as_of < l.granted_at or x.as_of >= x.lot_expires_at))
    or (x.code = 'expired' and x.as_of < x.lot_expires_at);

-- balance_adds_up: a row changes the balance by what it moves
select
    x.account,
    'sequence ' || x.sequence as place,
    x.code || ' ' || x.amount || ', balance ' || x.balance_before || ' to ' || x.balance_after as found
from journal as x
where not case x.code -- a grant for another time than now gives nothing to spend yet, or any more
    when 'granted' then x.balance_after - x.balance_before in (0, x.amount)
    when 'cancelled' then x.balance_after <= x.balance_before
    else x.balance_after - x.balance_before = x.amount
end;

-- balance_is_carried: at one instant, a row's balance is the one that the row before it left
select
    x.account,
    'sequence ' || x.sequence as place,
    'balance ' || x.balance_before || ' after ' || x.carried as found
from (
    select
        account,
        sequence,
        code,
        request_id,
        as_of,
        balance_before,
        lag(balance_after) over rows_ as carried,
        lag(as_of) over rows_ as as_of_before,
        lag(request_id) over rows_ as request_before
    from journal
    window rows_ as (partition by account order by sequence)
) as x
where
    x.as_of = x.as_of_before and x.balance_before <> x.carried
    -- A tick's first line takes what the balance no longer counted.
    and (x.code <> 'expired' or x.request_id = x.request_before);

-- request_has_one_outcome: a request id has one answer that is not a conflict, and no conflict without it
select
    x.account,
    'request ' || x.request_id as place,
    x.answers || ' answers' as found
from (
    select
        account,
        request_id,
        count(*) filter (where code <> 'key_conflict') as answers
    from journal
    where is_answer
    group by account, request_id
) as x
where x.answers <> 1;

-- record_has_one_answer: an input record was answered at most once
select
    min(x.account) as one_account,
    x.worker || ' ' || x.source_partition || '/' || x.source_offset as place,
    count(*) || ' answers' as found
from journal as x
where x.is_answer
group by x.worker, x.source_partition, x.source_offset
having count(*) > 1;

-- tick_is_its_lines: a tick booked as many credits as its journal rows say
with j as (
    select
        source_partition,
        source_offset,
        -sum(amount) as total
    from journal
    where worker = 'expiry'
    group by source_partition, source_offset
)

select
    null::bigint as no_account,
    'tick ' || x.partition || '/' || x.source_offset as place,
    x.credits || ' credits, the journal says ' || coalesce(j.total, 0) as found
from ticks as x
left join j on x.partition = j.source_partition and x.source_offset = j.source_offset
where x.credits <> coalesce(j.total, 0);

-- row_was_read: no row answers a record that its lane has not read
select
    null::bigint as no_account,
    x.worker || ' ' || x.source_partition as place,
    'rows up to offset ' || x.newest || ', the lane stands at ' || coalesce(l.next_offset, 0) as found
from (
    select
        worker,
        source_partition,
        max(source_offset) as newest
    from journal
    group by worker, source_partition
) as x
left join lanes as l on l.consumer_group = 'inmail-' || x.worker and x.source_partition = l.partition
where x.newest >= coalesce(l.next_offset, 0);
