-- What the audit of what is new asks of older rows, by their keys: as `audit_screen.sql` otherwise.

-- row_has_its_account: what follows an account's newest row, in the journal's order, is the next account's first row
-- One look into the key an account, and no row is missed for its time: a lane's clock may have been set back.
select j.account
from (
    select
        x.account,
        x.sequence,
        lead(x.account) over (order by x.account) as next_account
    from (
        select
            a.account,
            a.sequence
        from accounts as a
        union all
        select
            -9223372036854775808 as account,
            0 as sequence
    ) as x
) as a
cross join
    lateral (
        select y.account from journal as y
        where (y.account, y.sequence) > (a.account, a.sequence)
        order by y.account asc, y.sequence asc
        limit 1
    ) as j
where j.account < a.next_account or a.next_account is null;

-- paid_sends_are_counted: of accounts with a paid send after the mark
select x.account
from (
    select
        a.account,
        a.paid,
        a.paid_before,
        (
            select count(*) from journal as j
            where
                j.account = a.account and j.code = 'charged'
                and j.as_of >= a.paid_from and j.as_of < a.paid_from + interval '24 hours'
        ) as n,
        (
            select count(*) from journal as j
            where
                j.account = a.account and j.code = 'charged'
                and j.as_of < a.paid_from and j.as_of >= a.paid_from - interval '24 hours'
        ) as n_before,
        (
            select count(*) from journal as j
            where
                j.account = a.account and j.code = 'charged'
                and j.as_of >= a.paid_from + interval '24 hours'
        ) as n_later
    from (
        select distinct fresh.account from fresh
        where fresh.code = 'charged'
    ) as p
    inner join accounts as a on p.account = a.account
) as x
where x.paid < x.n or x.paid + x.paid_before < x.n + x.n_before or x.n_later > 0;

-- request_has_one_outcome: an answer after the mark is the only one to its request, and a conflict has one beside it
-- By request id and account, as in stored_answers: rows are compared; the order and the limit say that there are few.
select r.account
from fresh as r
where r.is_answer and r.code <> 'balance_not_current' and 1 <> (
    select count(*) from (
        select j.account from journal as j
        where
            (j.request_id, j.account) >= (r.request_id, r.account)
            and (j.request_id, j.account) <= (r.request_id, r.account)
            and j.is_answer and j.code <> 'key_conflict' and j.code <> 'balance_not_current'
        order by j.request_id, j.account
        limit 2
    ) as x
);

-- record_has_one_answer: a record was answered once only; the accounts of both answers, of one topic as it was
select o.account
from fresh as r
cross join
    lateral (
        select
            j.account,
            count(*) over () as n
        from journal as j
        where
            j.source_partition = r.source_partition and j.source_offset = r.source_offset and j.worker = r.worker
            and j.is_answer and j.as_of > coalesce((
                select max(e.as_of) from ended_topics as e
                where
                    e.consumer_group = 'inmail-' || r.worker and e.partition = r.source_partition
                    and e.as_of < r.as_of
            ), '-infinity')
        offset 0 -- noqa: AM09
    ) as o
where r.is_answer and o.n > 1;

-- balance_is_carried: the first row after the mark goes on from the row at the mark
select x.account
from fresh as x
inner join changed as c on x.account = c.account and x.sequence = c.base_sequence + 1
cross join
    lateral (
        select
            j.as_of,
            j.balance_after
        from journal as j
        where j.account = x.account and j.sequence = c.base_sequence
        offset 0 -- noqa: AM09
    ) as j
where x.as_of = j.as_of and x.balance_before <> j.balance_after;

-- reversal_is_of_its_send: a reversal names an earlier charged send, which no other names
select x.account
from fresh as x
left join lateral (
    select j.* from journal as j
    where j.account = x.account and j.sequence = x.reverses
    offset 0 -- noqa: AM09
) as s on true
where (x.reverses is not null or x.code in ('reversed', 'lot_ended')) and (
    x.code not in ('reversed', 'lot_ended')
    or x.amount <> (x.code = 'reversed')::integer
    or s.code is distinct from 'charged'
    or s.lot is distinct from x.lot
    or s.sequence >= x.sequence
    or to_jsonb(s.request_id) is distinct from x.details -> 'send_id'
    or 1 <> (
        select count(*) from journal as j
        where j.account = x.account and j.reverses = x.reverses and j.reverses is not null
    )
);
