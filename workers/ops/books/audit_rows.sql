-- What must hold of the journal, and of ticks and lanes beside it. `audit_lots.sql` says how these files are read.
--
-- Codes that move nothing are not listed, so that a new refusal needs no line here.
--
-- Rows are never edited. What those of an account up to `earlier_rows` say in an earlier meaning is checked in that one
-- (migration 0012).

-- sequence_is_gap_free: an account's journal rows are 1 to its sequence; the first that is not as it should be
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
    'sequence ' || coalesce(
        (
            select min(r.number)
            from (
                select
                    journal.sequence,
                    row_number() over (order by journal.sequence) as number
                from journal
                where journal.account = x.account
            ) as r
            where r.sequence <> r.number
        ), least(x.sequence, coalesce(j.n, 0)) + 1
    ) as place,
    coalesce(j.n, 0) || ' rows, ' || coalesce(j.low, 0) || ' to ' || coalesce(j.high, 0) || ', of ' || x.sequence
        as found
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

-- row_has_its_lot: every journal row that names a lot or moves credits has a lot that exists
select
    x.account,
    'sequence ' || x.sequence as place,
    coalesce('lot ' || x.lot, 'no lot') as found
from journal as x
where (x.lot is not null or x.amount <> 0) and not exists (
    select from lots as l
    where l.account = x.account and l.lot = x.lot
);

-- charge_takes_one_credit: a charged send took one credit of a lot, and says whom it was for
select
    x.account,
    'sequence ' || x.sequence as place,
    'amount ' || x.amount || ', ' || coalesce('lot ' || x.lot, 'no lot') || ', '
    || coalesce('to ' || x.recipient_id, 'to nobody') as found
from journal as x
where x.code = 'charged' and (x.lot is null or x.amount <> -1 or x.recipient_id is null);

-- row_moves_as_its_code: no outcome is without its entry, nor an entry without: what gives, takes, names a lot, or not
select
    x.account,
    'sequence ' || x.sequence as place,
    x.code || ' ' || x.amount || coalesce(' of lot ' || x.lot, '') as found
from journal as x
where
    not case
        when x.code = 'granted' then x.amount > 0
        when x.code = 'reversed' then x.amount = 1
        when x.code in ('charged', 'expired', 'adjusted', 'forfeited', 'cap_forfeited') then x.amount < 0
        when x.code = 'voided' then x.amount <= 0
        else x.amount = 0
    end
    or (x.lot is not null) <> (
        x.code in (
            'granted', 'reversed', 'charged', 'expired', 'adjusted', 'forfeited', 'cap_forfeited', 'voided',
            'lot_ended', 'expiring_soon'
        )
    );

-- row_answers_as_its_code: expiries, forfeits and notices are no answers, ticks book nothing else, all else answers
select
    x.account,
    'sequence ' || x.sequence as place,
    x.code || ' by ' || x.worker || case when x.is_answer then ' as an answer' else ' as no answer' end as found
from journal as x
where
    case
        when x.code in ('granted', 'voided', 'adjusted') then false
        else x.is_answer = (
            x.code in ('expired', 'forfeited', 'cap_forfeited', 'low', 'exhausted', 'expiring_soon')
        )
    end
    or (x.worker <> 'expiry' and x.code in ('expired', 'expiring_soon'))
    or (x.worker = 'expiry' and x.code not in ('expired', 'expiring_soon', 'cap_forfeited', 'low', 'exhausted'));

-- row_is_within_its_lot: a lot pays and gets back only while it lives, is closed before its end, and expires after it
with at as (
    select
        j.account,
        j.sequence,
        j.code,
        j.lot,
        j.lot_expires_at,
        -- What a tick does, it does by its horizon; of a tick that another server has, nobody knows that here.
        case when j.worker = 'expiry' then t.horizon else j.as_of end as moment
    from journal as j
    left join ticks as t
        on
            j.worker = 'expiry' and j.source_partition = t.partition
            and j.request_id = t.request_id and j.fingerprint = t.fingerprint
    where j.lot is not null
)

select
    x.account,
    'sequence ' || x.sequence as place,
    x.code || coalesce(' by ' || x.moment, '') || ', lot ' || x.lot || ' from ' || l.granted_at || ' to '
    || x.lot_expires_at || ' or at most ' || l.full_expires_at as found
from at as x
inner join lots as l on x.account = l.account and x.lot = l.lot
where
    x.lot_expires_at < l.granted_at or x.lot_expires_at > l.full_expires_at
    or case
        when x.code = 'expired' then x.moment < x.lot_expires_at
        -- A cap is applied as of its own lot's date, when this one lived, by whatever comes first from then on.
        when x.code = 'cap_forfeited' then x.moment < l.granted_at
        when x.code in ('charged', 'adjusted', 'expiring_soon')
            then x.moment < l.granted_at or x.moment >= x.lot_expires_at
        when x.code in ('reversed', 'voided', 'forfeited') then x.moment >= x.lot_expires_at
        when x.code = 'lot_ended' then l.open and x.moment < x.lot_expires_at
        else false
    end;

-- balance_adds_up: a row changes what can be spent at its instant by what it moves, if its lot can be spent then
select
    x.account,
    'sequence ' || x.sequence as place,
    x.code || ' ' || x.amount || ', balance ' || x.balance_before || ' to ' || x.balance_after as found
from journal as x
left join lots as l on x.account = l.account and x.lot = l.lot
left join earlier_rows as e on x.account = e.account and x.sequence <= e.sequence
where not case
    when x.code = 'cancelled' then x.balance_after <= x.balance_before
    when x.code = 'cancellation_taken_back' then x.balance_after >= x.balance_before
    when x.code = 'expired' and e.account is not null -- told as if its lot had lived until then
        then x.balance_after - x.balance_before = x.amount
    else x.balance_after - x.balance_before = case
        when l.granted_at <= x.as_of and x.as_of < x.lot_expires_at then x.amount
        else 0
    end
end;

-- refused_send_had_nothing: a send is refused for good for want of credit only where the balance is 0
select
    x.account,
    'sequence ' || x.sequence as place,
    x.code || ', balance ' || x.balance_before || ' to ' || x.balance_after as found
from journal as x
where x.code = 'insufficient_credits' and (x.balance_before <> 0 or x.balance_after <> 0);

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
        as_of,
        balance_before,
        lag(balance_after) over rows_ as carried,
        lag(as_of) over rows_ as as_of_before
    from journal
    window rows_ as (partition by account order by sequence)
) as x
left join earlier_rows as e on x.account = e.account and x.sequence <= e.sequence
where
    x.as_of = x.as_of_before
    and case
        -- It counts what its tick's step takes, which the balance before it no longer did.
        when x.code = 'expired' and e.account is not null then x.balance_before < x.carried
        else x.balance_before <> x.carried
    end;

-- balance_is_its_lots: the balance that an account's newest row left is what its lots hold for that instant
select
    x.account,
    'sequence ' || x.sequence as place,
    'balance ' || x.balance_after || ' at ' || x.as_of || ', the lots hold ' || coalesce(sum(l.remaining), 0) as found
from accounts as a
inner join journal as x on a.account = x.account and a.sequence = x.sequence
left join lots as l on a.account = l.account and x.as_of >= l.granted_at and x.as_of < l.expires_at
group by x.account, x.sequence, x.balance_after, x.as_of
having x.balance_after <> coalesce(sum(l.remaining), 0);

-- request_has_one_outcome: a request id has one answer that is final and no conflict, and no conflict without it
select
    x.account,
    'request ' || x.request_id as place,
    x.answers || ' answers, the last by sequence ' || x.sequence as found
from (
    select
        account,
        request_id,
        count(*) filter (where code not in ('key_conflict', 'balance_not_current')) as answers,
        count(*) filter (where code = 'key_conflict') as conflicts,
        max(sequence) as sequence
    from journal
    where is_answer
    group by account, request_id
) as x
where x.answers > 1 or (x.answers = 0 and x.conflicts > 0);

-- refusal_knew_its_grants: no send was refused for good for want of credit that an older grant gave, read only after it
-- (but for one that was refused as of a time far ahead, before an operator set the clock back)
select
    x.account,
    'sequence ' || x.sequence as place,
    'refused as of ' || x.as_of || ', but the grant of sequence ' || min(g.sequence) || ' is as of ' || min(g.as_of)
        as found
from journal as x
inner join journal as g on x.account = g.account and x.sequence < g.sequence and x.as_of > g.as_of
inner join lots as l on g.account = l.account and g.lot = l.lot
where
    x.code = 'insufficient_credits' and g.code = 'granted'
    and l.granted_at <= x.as_of and x.as_of < g.lot_expires_at
    and not exists (
        select from clock_set_backs as s
        where
            s.consumer_group = 'inmail-send' and s.partition = x.source_partition and x.source_offset < s.next_offset
            and s.set_back_to < x.as_of and x.as_of <= s.as_of
    )
group by x.account, x.sequence, x.as_of;

-- record_has_one_answer: an input record was answered at most once
select
    min(x.account) as one_account,
    x.worker || ' ' || x.source_partition || '/' || x.source_offset as place,
    count(*) || ' answers' as found
from (
    select
        account,
        worker,
        source_partition,
        source_offset,
        -- A topic that was created again has other records at the same offsets, decided under a later watermark.
        case
            when exists (select from ended_topics)
                then (
                    select count(*)
                    from ended_topics as e
                    where
                        e.consumer_group = 'inmail-' || journal.worker and e.partition = journal.source_partition
                        and e.as_of < journal.as_of
                )
            else 0
        end as topics_before
    from journal
    -- Where a clock was set back, the time does not tell which of two topics a row is of.
    where is_answer and not (
        exists (select from clock_set_backs) and exists (select from ended_topics) and exists (
            select from clock_set_backs as s
            where
                s.consumer_group = 'inmail-' || journal.worker and s.partition = journal.source_partition
                and s.set_back_to < journal.as_of and journal.as_of <= s.as_of
        )
    )
) as x
group by x.worker, x.source_partition, x.source_offset, x.topics_before
-- Of a lane that another server has, nobody knows here which topics were before.
having count(*) > 1 and holds_number(x.source_partition);

-- movement_has_its_cause: a row that is no answer names the answer that caused it, or the tick, read from one record
select
    x.account,
    'sequence ' || x.sequence as place,
    x.code || ' names request ' || x.request_id || ' of ' || x.worker || ' ' || x.source_partition || '/'
    || x.source_offset || ', there is '
    || coalesce(c.code || ' at sequence ' || c.sequence, 'a tick at ' || t.source_offset, 'none') as found
from journal as x
left join journal as c
    on
        x.worker <> 'expiry' and c.is_answer and x.account = c.account
        and x.request_id = c.request_id and x.fingerprint = c.fingerprint and x.source_offset = c.source_offset
left join ticks as t
    on
        x.worker = 'expiry' and x.source_partition = t.partition
        and x.request_id = t.request_id and x.fingerprint = t.fingerprint
-- The tick of an account that was numbered anew since may be on another server.
where not x.is_answer and (x.worker <> 'expiry' or t.partition is not null or holds_number(x.source_partition)) and (
    (x.source_offset, x.as_of) is distinct from (coalesce(c.source_offset, t.source_offset), coalesce(c.as_of, t.as_of))
    or (c.worker, c.source_partition) <> (x.worker, x.source_partition)
    or t.code = 'key_conflict'
    or not case x.code
        when 'granted' then c.code in ('granted', 'plan_changed')
        when 'adjusted' then c.code = 'adjusted'
        when 'voided' then c.code in ('voided', 'erased')
        when 'forfeited' then c.code in ('granted', 'no_credits_in_plan', 'plan_changed')
        else true
    end
);

-- reversal_is_of_its_send: a reversal names an earlier charged send of its account, and gives one credit to its lot
select
    x.account,
    'sequence ' || x.sequence as place,
    x.code || ' ' || x.amount || coalesce(' onto lot ' || x.lot, '') || ' names sequence '
    || coalesce(x.reverses::text, 'none') || ', there is '
    || coalesce(s.code || ' of lot ' || coalesce(s.lot::text, 'none') || ', request ' || s.request_id, 'none') as found
from journal as x
left join journal as s on x.account = s.account and x.reverses = s.sequence
where (x.reverses is not null or x.code in ('reversed', 'lot_ended')) and (
    x.code not in ('reversed', 'lot_ended')
    or x.amount <> (x.code = 'reversed')::integer
    or s.code is distinct from 'charged'
    or s.lot is distinct from x.lot
    or s.sequence >= x.sequence
    or to_jsonb(s.request_id) is distinct from x.details -> 'send_id'
);

-- send_is_reversed_once: a send was taken back at most once, whatever the cause
select
    x.account,
    'sequence ' || x.reverses as place,
    count(*) || ' reversals, the last by sequence ' || max(x.sequence) as found
from journal as x
where x.reverses is not null
group by x.account, x.reverses
having count(*) > 1;

-- notice_is_given_once: each end of a lot was announced once at most, and the lot knows which ends were
with j as (
    select
        x.account,
        x.lot,
        x.lot_expires_at,
        max(x.sequence) as sequence,
        count(*) as n,
        count(*) filter (where e.account is null) as n_now
    from journal as x
    left join earlier_rows as e on x.account = e.account and x.sequence <= e.sequence
    where x.code = 'expiring_soon'
    group by x.account, x.lot, x.lot_expires_at
),

k as (
    select
        account,
        lot,
        expires_at,
        warned,
        unnest(announced_ends) as known_end
    from lots
)

select
    coalesce(j.account, k.account) as owner,
    'lot ' || coalesce(j.lot, k.lot) as place,
    coalesce(
        'its end at ' || j.lot_expires_at || ' was announced ' || j.n || ' times, the last by sequence ' || j.sequence,
        'its end at ' || k.known_end || ' was announced by nobody'
    ) || case
        when k.account is null then ', the lot knows of none'
        when not k.warned then ', the lot awaits another'
        else ''
    end as found
from j
full join k on j.account = k.account and j.lot = k.lot and j.lot_expires_at = k.known_end
where
    (j.n > 1 and j.n_now > 0) or j.account is null or k.account is null
    or (k.known_end = k.expires_at and not k.warned);

-- erasure_is_told: an account is erased when and only when one row says so
with e as (
    select
        account,
        count(*) as n,
        min(sequence) as sequence,
        min(as_of) as as_of
    from journal
    where code = 'erased'
    group by account
)

select
    coalesce(x.account, e.account) as owner,
    'sequence ' || coalesce(e.sequence, 0) as place,
    'erased at ' || coalesce(x.erased_at::text, 'no time') || ', ' || coalesce(e.n, 0) || ' rows say so, of '
    || coalesce(e.as_of::text, 'no time') as found
from accounts as x
full join e on x.account = e.account
where x.erased_at is distinct from e.as_of or e.n > 1;

-- erased_account_is_still: once erased, an account gets and spends nothing: reports and expiry alone go on
with e as (
    select
        account,
        request_id,
        min(sequence) as sequence
    from journal
    where code = 'erased'
    group by account, request_id
)

select
    x.account,
    'sequence ' || x.sequence as place,
    x.code || ' ' || x.amount || ' after the erasure at sequence ' || e.sequence as found
from e
inner join journal as x on e.account = x.account and e.sequence < x.sequence
where
    (x.is_answer and (x.worker = 'billing' or x.recipient_id is not null) and x.code not in (
        'account_erased', 'key_conflict'
    ))
    or x.code in ('granted', 'charged', 'adjusted', 'forfeited')
    or (x.code = 'voided' and x.request_id <> e.request_id);

-- tick_is_its_lines: a tick booked as many credits, of no fewer lots, as its journal rows say
with j as (
    select
        source_partition,
        source_offset,
        request_id,
        count(*) as n,
        -sum(amount) as total
    from journal
    where code = 'expired'
    group by source_partition, source_offset, request_id
)

select
    null::bigint as no_account,
    'tick ' || x.partition || '/' || x.source_offset as place,
    x.credits || ' credits of ' || x.lots || ' lots, the journal says ' || coalesce(j.total, 0) || ' of '
    || coalesce(j.n, 0) as found
from ticks as x
left join j
    on x.partition = j.source_partition and x.source_offset = j.source_offset and x.request_id = j.request_id
where
    x.credits < coalesce(j.total, 0) or x.lots < coalesce(j.n, 0)
    -- Some of its lines may be of accounts that were numbered anew since, and that another server has.
    or (x.credits > coalesce(j.total, 0) and not exists (
        select from shard as s
        left join shard_numbers as n on true
        where not s.holds_all or n.state in ('arriving', 'left')
    ));

-- row_was_read: no row answers a record that its lane has not read
select
    null::bigint as no_account,
    x.worker || ' ' || x.source_partition as place,
    'rows up to offset ' || x.newest || ', the lane stands at ' || coalesce(l.next_offset, 0) as found
from (
    select
        r.worker,
        r.source_partition,
        max(r.source_offset) as newest
    from journal as r
    left join lanes as o on o.consumer_group = 'inmail-' || r.worker and r.source_partition = o.partition
    where
        r.as_of > coalesce(o.topic_since, '-infinity') -- of the topic as it is
        -- Where a clock was set back, the time does not tell which of two topics a row is of.
        and not (
            exists (select from clock_set_backs) and exists (select from ended_topics) and exists (
                select from clock_set_backs as s
                where
                    s.consumer_group = 'inmail-' || r.worker and s.partition = r.source_partition
                    and s.set_back_to < r.as_of and r.as_of <= s.as_of
            )
        )
        -- A tick's lines are booked step by step, before its lane has read it: they answer nothing.
        and (r.worker <> 'expiry' or o.partition is null)
    group by r.worker, r.source_partition
) as x
left join lanes as l on l.consumer_group = 'inmail-' || x.worker and x.source_partition = l.partition
where
    x.newest >= coalesce(l.next_offset, 0)
    -- A record on another partition than its account's may have been read by a lane that another server has since.
    and coalesce(
        (
            select n.state in ('held', 'leaving')
            from shard_numbers as n
            where n.number = x.source_partition
        ),
        (select s.holds_all from shard as s)
    );
