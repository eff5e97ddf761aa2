-- What the audit of what is new asks first: the accounts on which something may be wrong. Each is then audited
-- whole, by the checks of the whole audit; so an account too many costs time, and one too few would be a fault passed
-- over. The line above a query gives the check of the whole audit that it stands for.
--
-- `changed` are the accounts with rows after the mark, with what the mark knows of them (`base_...`); `fresh` are
-- these rows; `their_lots` and `their_subscriptions` are of these accounts, `base_lots` their open lots at the mark,
-- and `base_ends` the announced ends of these. `audit_new.py` makes them, and asks the checks that need no history of
-- `fresh` as they are. `audit_lookups.sql` asks what needs older rows.

-- sequence_is_gap_free: rows after the mark are numbered on from it, up to the account's own sequence
with j as (
    select
        account,
        count(*) as n,
        min(sequence) as low,
        max(sequence) as high
    from fresh
    group by account
)

select c.account
from changed as c
left join j on c.account = j.account
where
    c.sequence is null or coalesce(j.n, 0) <> c.sequence - c.base_sequence
    or coalesce(j.high, c.base_sequence) <> c.sequence or coalesce(j.low, c.base_sequence + 1) <> c.base_sequence + 1;

-- lot_is_its_journal: a lot holds what it held at the mark and what rows after it moved; one closed then stays so
with moved as (
    select
        account,
        lot,
        sum(amount) as total,
        coalesce(sum(amount) filter (where code = 'granted'), 0) as granted,
        count(*) filter (where amount <> 0) as moves, -- also of a lot that then holds what it held
        count(*) filter (where code = 'granted') as grants,
        count(*) filter (where code in ('expired', 'voided', 'forfeited')) as ends
    from fresh
    where lot is not null
    group by account, lot
)

select coalesce(l.account, m.account, b.account) as account
from their_lots as l
full join moved as m on l.account = m.account and l.lot = m.lot
full join base_lots as b on coalesce(l.account, m.account) = b.account and coalesce(l.lot, m.lot) = b.lot
left join changed as c on l.account = c.account
where
    l.account is null
    or l.remaining <> coalesce(b.remaining, 0) + coalesce(m.total, 0)
    or m.ends > 1 or (m.ends = 1 and l.open)
    or case
        when l.lot > c.base_newest_lot then coalesce(m.grants, 0) <> 1 or m.granted <> l.granted
        else
            m.grants > 0
            or (b.account is null and (l.open or l.remaining <> 0 or m.moves > 0 or m.ends > 0))
    end;

-- lot_was_never_overdrawn: at no row after the mark does a lot hold too little or too much, nor move after its end
select distinct x.account
from (
    select
        j.account,
        j.amount,
        l.granted,
        coalesce(b.remaining, 0) + sum(j.amount) over up_to as held,
        coalesce(bool_or(j.code in ('expired', 'voided', 'forfeited')) over before, false) as has_ended
    from fresh as j
    inner join their_lots as l on j.account = l.account and j.lot = l.lot
    left join base_lots as b on j.account = b.account and j.lot = b.lot
    where j.amount <> 0 or j.code = 'voided'
    window
        up_to as (partition by j.account, j.lot order by j.sequence rows unbounded preceding),
        before as (
            partition by j.account, j.lot order by j.sequence rows between unbounded preceding and 1 preceding
        )
) as x
where x.held < 0 or x.held > x.granted or (x.has_ended and x.amount <> 0);

-- lot_ends_once: a lot has the end that the row which closed it tells
select j.account
from fresh as j
inner join their_lots as l on j.account = l.account and j.lot = l.lot
where j.code in ('expired', 'voided', 'forfeited') and l.expires_at is distinct from j.lot_expires_at;

-- subscription_ends_as_told: a subscription ends as was told of it after the mark, or as it did at the mark
with told as (
    select distinct on (account, details -> 'subscription_id')
        account,
        details -> 'subscription_id' as subscription_id,
        details -> 'effective_at' as ends_at
    from fresh
    where code in ('cancelled', 'cancellation_taken_back')
    order by account asc, details -> 'subscription_id' asc, sequence desc
),

b as (
    select
        z.account,
        e.value as ends_at,
        to_jsonb(e.key) as subscription_id
    from changed as z
    cross join jsonb_each(z.base_ends) as e
)

select coalesce(s.account, x.account, b.account) as account
from told as x
full join their_subscriptions as s on x.account = s.account and x.subscription_id = to_jsonb(s.subscription_id)
full join b
    on
        coalesce(x.account, s.account) = b.account
        and coalesce(x.subscription_id, to_jsonb(s.subscription_id)) = b.subscription_id
where case when x.account is null then b.ends_at else x.ends_at end is distinct from to_jsonb(s.ends_at);

-- level_is_its_balance: what a holder was told fits the newest row after the mark that looked at it
with s as (
    select
        account,
        max(sequence) as sequence
    from fresh
    where
        code in (
            'charged', 'insufficient_credits', 'reversed', 'lot_ended', 'granted', 'no_credits_in_plan', 'plan_changed',
            'cancelled',
            'cancellation_taken_back', 'voided', 'adjusted', 'erased', 'forfeited', 'cap_forfeited', 'expired', 'low',
            'exhausted'
        )
        or (code = 'expiring_soon' and balance_after > 0)
    group by account
)

select x.account
from accounts as x
inner join changed as c on x.account = c.account
left join s on x.account = s.account
left join fresh as j on s.account = j.account and s.sequence = j.sequence
where
    (s.account is not null or c.is_new)
    and ((x.level = 2) <> (coalesce(j.balance_after, 0) = 0) or (j.code = 'low' and x.level <> 1));

-- request_has_one_outcome: no request has two answers after the mark
select account
from fresh
where is_answer and code not in ('key_conflict', 'balance_not_current')
group by account, request_id
having count(*) > 1;

-- notice_is_given_once: a lot knows the ends that the mark knew and those announced after it, each once
with n as (
    select
        account,
        lot,
        array_agg(told order by told) as told
    from (
        select
            account,
            lot,
            lot_expires_at as told
        from fresh
        where code = 'expiring_soon'
        union all
        select
            account,
            lot,
            told
        from base_ends
    ) as x
    group by account, lot
)

select coalesce(l.account, n.account) as account
from their_lots as l
full join n on l.account = n.account and l.lot = n.lot
left join base_lots as b on l.account = b.account and l.lot = b.lot
left join changed as c on l.account = c.account
where
    l.account is null
    or (l.expires_at = any(l.announced_ends) and not l.warned)
    or case
        -- Closed at the mark, which then has no ends of it; and a closed lot is announced no more.
        when b.account is null and l.lot <= c.base_newest_lot then n.account is not null
        else coalesce(n.told, '{}') <> array(
            select distinct e.known_end
            from unnest(l.announced_ends) as e (known_end)
            order by e.known_end
        )
    end;

-- erasure_is_told: an account is erased as the mark knows or as one row after it says
with e as (
    select
        account,
        count(*) as n,
        min(as_of) as as_of
    from fresh
    where code = 'erased'
    group by account
)

select c.account
from changed as c
left join e on c.account = e.account
where
    c.erased_at is distinct from coalesce(c.base_erased_at, e.as_of)
    or e.n > 1 or (e.n > 0 and c.base_erased_at is not null);

-- erased_account_is_still: once erased, at the mark or after it, an account gets and spends nothing
select x.account
from fresh as x
inner join changed as c on x.account = c.account
left join fresh as e on x.account = e.account and e.code = 'erased'
where
    (c.base_erased_at is not null or e.sequence < x.sequence)
    and (
        (x.is_answer and (x.worker = 'billing' or x.recipient_id is not null) and x.code not in (
            'account_erased', 'key_conflict'
        ))
        or x.code in ('granted', 'charged', 'adjusted', 'forfeited')
        or (x.code = 'voided' and x.request_id is distinct from e.request_id)
    );

-- refusal_knew_its_grants: no grant after the mark is older than a refusal before it
select j.account
from fresh as j
inner join changed as c on j.account = c.account
where j.code = 'granted' and j.as_of < c.base_refused_as_of;
