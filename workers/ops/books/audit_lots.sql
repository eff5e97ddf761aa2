-- What must hold of accounts, subscriptions and lots: one query each, which returns where it does not. The line above a
-- query gives its name and what it promises; `audit.py` takes the file apart by it. `audit_rows.sql` goes on with the
-- journal.
--
-- A query returns an account's number or null, the place, and what was found there. None of them trusts a CHECK or a
-- key of the tables: the audit is for the day on which one was missing. Each reads whole tables and joins them, so that
-- a million rows are read and not looked up. What is kept in `details` is compared as JSON, which no corruption can
-- make unreadable.

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

-- lot_is_as_granted: a lot is still what its grant says: of which request, origin, subscription, plan, period and start
with l as (
    select
        account,
        lot,
        request_id,
        jsonb_strip_nulls(jsonb_build_object(
            'origin', origin, 'subscription_id', subscription_id, 'plan', plan, 'period_start', period_start,
            'granted_at', granted_at, 'tops_up', tops_up
        )) as facts
    from lots
)

select
    x.account,
    'lot ' || x.lot as place,
    'request ' || x.request_id || ', ' || x.facts || ', granted by ' || j.request_id || ' as '
    || coalesce(j.details::text, 'nothing') as found
from l as x
inner join journal as j on x.account = j.account and x.lot = j.lot and j.code = 'granted'
where x.request_id <> j.request_id or x.facts is distinct from j.details - 'source_id' - 'actor' - 'reason';

-- lot_lives_as_granted: a lot's full life is as its grant told, or longer where the subscription was cancelled before
with x as (
    select
        l.account,
        l.lot,
        l.full_expires_at,
        g.sequence,
        g.lot_expires_at,
        to_jsonb(l.subscription_id) as subscription_id
    from lots as l
    inner join journal as g on l.account = g.account and l.lot = g.lot
    where g.code = 'granted' and g.lot_expires_at <> l.full_expires_at
),

c as (
    select distinct on (x.account, x.lot, x.sequence)
        x.account,
        x.lot,
        x.sequence,
        j.code
    from x
    inner join journal as j on x.account = j.account and x.subscription_id = j.details -> 'subscription_id'
    where j.code in ('cancelled', 'cancellation_taken_back') and j.sequence < x.sequence
    order by x.account asc, x.lot asc, x.sequence asc, j.sequence desc
)

select
    x.account,
    'lot ' || x.lot as place,
    'ends in full ' || x.full_expires_at || ', granted by sequence ' || x.sequence || ' until ' || x.lot_expires_at
    || case when c.code = 'cancelled' then ', its subscription was cancelled' else '' end as found
from x
left join c on x.account = c.account and x.lot = c.lot and x.sequence = c.sequence
where x.lot_expires_at > x.full_expires_at or c.code is distinct from 'cancelled';

-- lot_conserves: granted = remaining + debited - reversed + expired + voided + forfeited, of each lot
with j as (
    select
        account,
        lot,
        -coalesce(sum(amount) filter (where code = 'charged'), 0) as debited,
        coalesce(sum(amount) filter (where code = 'reversed'), 0) as reversed,
        -coalesce(sum(amount) filter (where code = 'expired'), 0) as expired,
        -coalesce(sum(amount) filter (where code in ('voided', 'adjusted')), 0) as voided,
        -coalesce(sum(amount) filter (where code in ('forfeited', 'cap_forfeited')), 0) as forfeited
    from journal
    where lot is not null
    group by account, lot
)

select
    x.account,
    'lot ' || x.lot as place,
    x.granted || ' granted, ' || x.remaining || ' remain, ' || coalesce(j.debited, 0) || ' debited, '
    || coalesce(j.reversed, 0) || ' reversed, ' || coalesce(j.expired, 0) || ' expired, ' || coalesce(j.voided, 0)
    || ' voided, ' || coalesce(j.forfeited, 0) || ' forfeited' as found
from lots as x
left join j on x.account = j.account and x.lot = j.lot
where x.granted <> x.remaining + coalesce(j.debited - j.reversed + j.expired + j.voided + j.forfeited, 0);

-- account_conserves: granted = remaining + debited - reversed + expired + voided + forfeited, of each account
with j as (
    select
        account,
        -sum(amount) filter (where code <> 'granted') as gone
    from journal
    where amount <> 0
    group by account
),

l as (
    select
        account,
        count(*) as n,
        sum(granted) as granted,
        sum(remaining) as remaining
    from lots
    group by account
)

select
    coalesce(l.account, j.account) as owner,
    'all ' || coalesce(l.n, 0) || ' lots' as place,
    coalesce(l.granted, 0) || ' granted, ' || coalesce(l.remaining, 0) || ' remain, ' || coalesce(j.gone, 0)
    || ' gone' as found
from l
full join j on l.account = j.account
where coalesce(l.granted, 0) <> coalesce(l.remaining, 0) + coalesce(j.gone, 0);

-- lot_in_range: a lot holds between none and all of its credits, and ends no earlier than it starts
select
    x.account,
    'lot ' || x.lot as place,
    x.remaining || ' of ' || x.granted || ', ' || x.granted_at || ' to ' || x.expires_at as found
from lots as x
where
    x.remaining < 0 or x.remaining > x.granted
    or x.granted_at > x.expires_at or x.expires_at > x.full_expires_at;

-- lot_was_never_overdrawn: at no row did a lot hold less than nothing or more than was granted; the first such row
select distinct on (x.account, x.lot)
    x.account,
    'sequence ' || x.sequence as place,
    x.code || ' ' || x.amount || ' leaves ' || x.held || ' in lot ' || x.lot || ' of ' || l.granted as found
from (
    select
        account,
        sequence,
        code,
        amount,
        lot,
        sum(amount) over (partition by account, lot order by sequence) as held
    from journal
    where amount <> 0
) as x
inner join lots as l on x.account = l.account and x.lot = l.lot
where x.held < 0 or x.held > l.granted
order by x.account, x.lot, x.sequence;

-- closed_lot_is_empty: a lot that is closed holds nothing, and only one with a cap waits for it
select
    x.account,
    'lot ' || x.lot as place,
    x.remaining || ' remain' || case when x.cap_pending then ', its cap is to come' else '' end as found
from lots as x
where (not x.open and x.remaining <> 0) or (x.cap_pending and x.balance_cap is null);

-- lot_ends_once: an expiry, a void or a forfeit closes its lot, once, with the end it tells, and nothing moves after it
with e as (
    select
        account,
        lot,
        count(*) as n,
        min(sequence) as sequence,
        min(lot_expires_at) as lot_expires_at
    from journal
    where code in ('expired', 'voided', 'forfeited')
    group by account, lot
),

m as (
    select
        account,
        lot,
        max(sequence) as sequence
    from journal
    where amount <> 0
    group by account, lot
)

select
    x.account,
    'lot ' || x.lot as place,
    case when x.open then 'open' else 'closed' end || ', ends ' || x.expires_at || '; ended ' || e.n
    || ' times, first by sequence ' || e.sequence || ' at ' || e.lot_expires_at || ', last moved by sequence '
    || coalesce(m.sequence, 0) as found
from e
inner join lots as x on e.account = x.account and e.lot = x.lot
left join m on e.account = m.account and e.lot = m.lot
where e.n > 1 or x.open or m.sequence > e.sequence or x.expires_at is distinct from e.lot_expires_at;

-- freed_lot_never_began: a lot whose period is free again was forfeited before it began, and one that was so is free
select
    x.account,
    'lot ' || x.lot as place,
    case when x.freed then 'free' else 'not free' end || ', begins ' || x.granted_at || ', '
    || coalesce(j.code || ' at ' || j.as_of, 'no row of its end') as found
from lots as x
left join journal as j
    on
        x.account = j.account and x.lot = j.lot
        and j.code in ('expired', 'voided', 'forfeited')
where
    (x.freed and (x.open or x.subscription_id is null or coalesce(j.code <> 'forfeited', false)))
    or (j.code = 'forfeited' and x.freed <> (j.as_of < x.granted_at));

-- period_has_one_lot: a subscription has one lot a period, but for those that a plan change freed, or tops up
select
    x.account,
    'lot ' || max(x.lot) as place,
    count(*) || ' lots of subscription ' || x.subscription_id || ' for ' || x.period_start as found
from lots as x
where x.subscription_id is not null and not x.freed and x.tops_up is null
group by x.account, x.subscription_id, x.period_start
having count(*) > 1;

-- lot_ends_with_its_subscription: an open lot ends after its full life, or with its subscription, if that is before
-- A cancel leaves the end of a lot that had ended by itself when the cancel was read.
with x as (
    select
        l.account,
        l.lot,
        l.expires_at,
        l.full_expires_at,
        l.subscription_id,
        s.ends_at,
        s.account is null as is_alone
    from lots as l
    left join subscriptions as s on l.account = s.account and l.subscription_id = s.subscription_id
    where
        l.open and (
            l.expires_at <> greatest(l.granted_at, least(l.full_expires_at, s.ends_at))
            or (l.subscription_id is not null and s.account is null)
        )
)

select
    x.account,
    'lot ' || x.lot as place,
    'ends ' || x.expires_at || ', in full ' || x.full_expires_at || ', its subscription '
    || case when x.is_alone then 'is not there' else coalesce('ends ' || x.ends_at, 'does not end') end as found
from x
where
    coalesce(x.expires_at <= x.ends_at, true)
    or not exists (
        select from journal as j
        where
            j.account = x.account and j.code = 'cancelled'
            and j.details -> 'subscription_id' = to_jsonb(x.subscription_id) and j.as_of >= x.expires_at
    );

-- subscription_ends_as_told: a subscription ends when its newest cancel says, or not at all if that was taken back
with told as (
    select distinct on (account, details -> 'subscription_id')
        account,
        sequence,
        details -> 'subscription_id' as subscription_id,
        details -> 'effective_at' as ends_at
    from journal
    where code in ('cancelled', 'cancellation_taken_back')
    order by account asc, details -> 'subscription_id' asc, sequence desc
)

select
    coalesce(x.account, s.account) as owner,
    'subscription ' || coalesce(s.subscription_id, x.subscription_id #>> '{}') as place,
    'ends ' || coalesce(s.ends_at::text, 'never') || ', '
    || coalesce('sequence ' || x.sequence || ' says ' || coalesce(x.ends_at #>> '{}', 'never'), 'nobody says so')
        as found
from told as x
full join subscriptions as s on x.account = s.account and x.subscription_id = to_jsonb(s.subscription_id)
where x.ends_at is distinct from to_jsonb(s.ends_at);

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

-- lot_has_its_account: a lot belongs to an account, and ticks find it in that account's partition
select
    x.account,
    'lot ' || x.lot as place,
    'partition ' || x.partition || ', the account''s is ' || coalesce(a.partition::text, 'not there') as found
from lots as x
left join accounts as a on x.account = a.account
where x.partition is distinct from a.partition;

-- account_has_its_number: an account's number follows from its id, whoever sent its first record
select
    x.account,
    'partition ' || x.partition as place,
    'its number is ' || account_number(x.account_id, p.partitions) as found
from accounts as x
cross join partitioning as p
where x.partition <> account_number(x.account_id, p.partitions);

-- level_is_its_balance: what a holder was last told fits the balance that the newest row to look at it left
with s as (
    select
        j.account,
        max(j.sequence) as sequence
    from journal as j
    left join earlier_rows as e on j.account = e.account and j.sequence <= e.sequence
    where
        j.code in (
            'charged', 'insufficient_credits', 'reversed', 'lot_ended', 'granted', 'no_credits_in_plan', 'plan_changed',
            'cancelled',
            'cancellation_taken_back', 'voided', 'adjusted', 'erased', 'forfeited', 'cap_forfeited', 'expired', 'low',
            'exhausted'
        )
        -- Who is told what a lot holds knows that there is something; earlier ones (migration 0012) noted nothing.
        or (j.code = 'expiring_soon' and j.balance_after > 0 and e.account is null)
    group by j.account
)

select
    x.account,
    'level ' || x.level as place,
    coalesce(j.code || ' left ' || j.balance_after || ' at sequence ' || j.sequence, 'nothing happened') as found
from accounts as x
left join s on x.account = s.account
left join journal as j on s.account = j.account and s.sequence = j.sequence
-- Whether a balance above nothing is low is the catalogue's word, of that day; a notice repeats it.
where (x.level = 2) <> (coalesce(j.balance_after, 0) = 0) or (j.code = 'low' and x.level <> 1);

-- paid_sends_are_counted: the counts that a limit goes by are no less than what the journal says
with j as (
    select
        x.account,
        count(*) filter (where j.as_of >= x.paid_from and j.as_of < x.paid_from + interval '24 hours') as paid,
        count(*) filter (where j.as_of < x.paid_from and j.as_of >= x.paid_from - interval '24 hours') as paid_before,
        count(*) filter (where j.as_of >= x.paid_from + interval '24 hours') as later
    from accounts as x
    inner join journal as j on x.account = j.account
    where j.code = 'charged'
    group by x.account
)

select
    x.account,
    'paid from ' || x.paid_from as place,
    x.paid || ' and ' || x.paid_before || ' before, the journal says ' || j.paid || ' and ' || j.paid_before
    || case when j.later > 0 then ', and ' || j.later || ' later' else '' end as found
from accounts as x
inner join j on x.account = j.account
-- What a lane that was behind paid for is counted as of later. `paid_from` only moves on, as where a clock is set back.
where x.paid < j.paid or x.paid + x.paid_before < j.paid + j.paid_before or j.later > 0;

-- erased_account_holds_nothing: an erased account has no lot that could be spent from then on
select
    x.account,
    'lot ' || x.lot as place,
    x.remaining || ' remain until ' || x.expires_at || ', erased at ' || a.erased_at as found
from accounts as a
inner join lots as x on a.account = x.account
where a.erased_at < x.expires_at and (x.open or x.remaining <> 0);
