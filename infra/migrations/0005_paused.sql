-- What a lane's worker ended of, so that who looks from outside can tell a pause from a stop.
alter table lanes add column paused text;

comment on column lanes.paused is
'Why the breaker ended its worker, with a batch of this lane held; null again once the lane stores a batch.';
