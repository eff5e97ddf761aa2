-- What the workers may do: they take on this role as they connect (infra/postgres.py), whatever user they come as.
--
-- Nothing of the journal can be edited or deleted by them, no account, subscription or lot can go, and what a lot was
-- opened with stays. Functions run with the rights of their caller. All databases of a server share the role, and so
-- may other migrations at this moment: whoever comes second finds it made.
do $$
declare
    me text := quote_ident(current_user);
    -- What it takes to `set role`, as this server's version words it.
    may_take_on text := case when current_setting('server_version_num')::integer < 160000 then 'member' else 'set' end;
    grant_it text := format('grant inmail_worker to %s', me)
    || case when current_setting('server_version_num')::integer < 160000 then '' else ' with set true' end;
begin
    if not exists (select from pg_roles where rolname = 'inmail_worker') then
        begin
            create role inmail_worker nologin;
        exception
            when duplicate_object or unique_violation then null;
            when insufficient_privilege then
                raise exception using
                    errcode = 'insufficient_privilege',
                    message = format(
                        '%s may not create roles; a database administrator has to run once on this server:'
                        ' create role inmail_worker nologin; %s;', me, grant_it
                    );
        end;
    end if;

    if not pg_has_role(current_user, 'inmail_worker', may_take_on) then
        begin
            execute grant_it;
        exception
            when unique_violation then null;
            when insufficient_privilege then
                raise exception using
                    errcode = 'insufficient_privilege',
                    message = format(
                        '%s is not a member of the role inmail_worker; a database administrator has to run once: %s;',
                        me, grant_it
                    );
        end;
    end if;

    if not has_schema_privilege('inmail_worker', current_schema(), 'usage') then
        execute format('grant usage on schema %I to inmail_worker', current_schema());
    end if;
end;
$$;

-- Anew each time, so that this file is all there is to know.
revoke all on accounts, subscriptions, lots, journal, ticks, lanes, migrations, earlier_rows from inmail_worker;
revoke all on partitioning, decided_ahead, misplaced_records, original_ids from inmail_worker;
revoke all on shard, shard_numbers from inmail_worker;
revoke all on operations, redriven, clock_decisions, clock_set_backs, ended_topics from inmail_worker; -- the operators'

grant select, insert on accounts, subscriptions, lots, journal, ticks, lanes, partitioning, original_ids
to inmail_worker;
grant select on earlier_rows, migrations to inmail_worker; -- as the audit and the doctor do
grant select on shard, shard_numbers to inmail_worker;
grant update (
    sequence, newest_lot, level, erased_at, paid_from, paid, paid_before
) on accounts to inmail_worker;
grant update (
    plan, credits, period_start, anchor_day, changed_at, changes, change_plans, change_ends, change_credits,
    told_starts, told_plans, refused_changes, ends_at
) on subscriptions to inmail_worker;
grant update (
    remaining, expires_at, open, freed, withdrawn, cap_pending, warned, announced_ends
) on lots to inmail_worker;
grant update (
    code, lots, credits, complete, steps, ended, cut, announced
) on ticks to inmail_worker; -- of a tick that takes several steps
grant update (
    epoch, next_offset, as_of, head, awaited, paused, published, published_time, maybe_published, doubted,
    waits_for, waits_since, topic_id, halted, held, held_offset, held_time, owner, owner_epoch
) on lanes to inmail_worker;
grant select, insert, update on decided_ahead, misplaced_records to inmail_worker;
grant select on clock_decisions to inmail_worker;
grant select on clock_set_backs to inmail_worker;
grant select, update (unpublished_from) on ended_topics to inmail_worker;
