-- murmur2 of some bytes as Java's client computes it (org.apache.kafka.common.utils.Utils), without its sign.
--
-- In SQL, so that migrations and all workers number accounts alike, and what exists can be set right where it is. It is
-- slow beside a request: it is called for accounts never seen before.
create or replace function murmur2(p_bytes bytea)
returns bigint
language plpgsql immutable strict parallel safe
as $$
declare
    m constant bigint := 1540483477; -- 0x5bd1e995
    low constant bigint := 4294967295; -- 32 bits
    size constant integer := octet_length(p_bytes);
    rest constant integer := size % 4;
    at integer := 0;
    k bigint;
    h bigint := 2538058380 # size; -- the seed: 0x9747b28c
begin
    while at + 4 <= size loop
        k := get_byte(p_bytes, at)::bigint + (get_byte(p_bytes, at + 1)::bigint << 8)
            + (get_byte(p_bytes, at + 2)::bigint << 16) + (get_byte(p_bytes, at + 3)::bigint << 24);
        k := (k * m) & low;
        k := ((k # (k >> 24)) * m) & low;
        h := ((h * m) & low) # k;
        at := at + 4;
    end loop;
    if rest > 0 then
        k := get_byte(p_bytes, at);
        if rest > 1 then
            k := k + (get_byte(p_bytes, at + 1)::bigint << 8);
        end if;
        if rest > 2 then
            k := k + (get_byte(p_bytes, at + 2)::bigint << 16);
        end if;
        h := ((h # k) * m) & low;
    end if;
    h := ((h # (h >> 13)) * m) & low;
    return (h # (h >> 15)) & 2147483647;
end;
$$;

-- The partition that Java's default partitioner gives an account's records: its number.
create or replace function account_number(p_account_id text, p_partitions integer)
returns integer
language sql immutable strict parallel safe
as $$
    select (murmur2(convert_to(p_account_id, 'UTF8')) % p_partitions)::integer;
$$;

-- Numbers all accounts, and their lots, by so many partitions. Returns how many had another number.
--
-- Nothing is decided meanwhile: a batch that opened an account by the old count would leave it there.
create or replace function number_accounts(p_partitions integer, out moved bigint)
language plpgsql volatile
as $$
begin
    lock table accounts in exclusive mode;
    insert into partitioning (partitions) values (p_partitions)
    on conflict (one) do update set partitions = excluded.partitions;

    with own as (
        select a.account, account_number(a.account_id, p_partitions) as number
        from accounts as a
    )

    update accounts as a
    set partition = own.number
    from own
    where a.account = own.account and a.partition <> own.number;
    get diagnostics moved = row_count;

    update lots as l
    set partition = a.partition
    from accounts as a
    where l.account = a.account and l.partition <> a.partition;
end;
$$;
