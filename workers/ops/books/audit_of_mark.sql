-- What only a mark can show: rows that are gone, and their account as if they had never been. The whole audit finds
-- nothing wrong with what is left.

-- account_reaches_its_mark: no account is gone that an audit has seen, nor has it fewer rows than it had then
select
    x.account,
    'sequence ' || coalesce(x.sequence, 0) as place,
    case when x.sequence is null then 'no account' else x.sequence || ' rows' end || ', the last audit saw '
    || x.base_sequence as found
from changed as x
where x.sequence is null or x.sequence < x.base_sequence;
