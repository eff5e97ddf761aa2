-- Credits that an account can spend at an instant: the predicate of availability, half-open. Closed lots hold none and
-- are not read, since their number grows for ever (the index lots_open has the others). As a table of one row, which a
-- statement over many accounts takes in as if it were written there.
create or replace function spendable(p_account bigint, p_as_of timestamptz)
returns table (credits bigint)
language sql stable
as $$
    select coalesce(sum(l.remaining), 0)
    from lots as l
    where l.account = p_account and l.open and l.granted_at <= p_as_of and p_as_of < l.expires_at;
$$;

create or replace function available(p_account bigint, p_as_of timestamptz)
returns bigint
language sql stable
as $$
    select s.credits from spendable(p_account, p_as_of) as s;
$$;

-- The same before each of some requests.
create or replace function available_before(p_requests request[])
returns bigint[]
language sql stable
as $$
    select array_agg(s.credits order by r.position)
    from unnest(p_requests) with ordinality as r (
        account, request_id, fingerprint, worker, as_of, source_partition, source_offset, position
    )
    cross join lateral spendable(r.account, r.as_of) as s;
$$;
