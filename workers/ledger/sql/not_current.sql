-- What an answer tells that is not final (balance_not_current): the consumer group with unread records that come before
-- the request, and after how many seconds to ask again. By then a worker that is restarted or replaced has read on.
create or replace function not_current(p_waited_for text)
returns jsonb
language sql immutable
as $$
    select jsonb_build_object('waited_for', p_waited_for, 'retry_after_seconds', 60);
$$;
