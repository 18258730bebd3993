-- Our part of the schema: what a worker needs beyond the platform's tables. It refers to them by value, never by
-- foreign key, so that the platform may drop and recreate its own. Sections as in platform.sql.

-- object: table worker_claims
-- Who may write a task's outcome. One row a task id, for as long as the id is known. It is written only while
-- the task's own row is locked; that lock is what makes a claim and everything done under it exclusive.
create table @schema@.worker_claims (
    task_id varchar(100) primary key,
    -- The platform deletes and recreates rows under the same task_id: this tells one from the next.
    task_created_at timestamp without time zone not null,
    token uuid not null,
    claimed_by varchar not null,
    claimed_at timestamp without time zone not null,
    -- How often a dead worker's run of this very row was taken over; a hand-back or a retry does not count.
    takeovers integer not null default 0,
    -- How often the task's own process died under a worker that lived.
    deaths integer not null default 0,
    -- The message that asked for the run, for as long as the run is under way: should its worker die, another
    -- one sends it again, without waiting for the broker's lock and whatever the queue's delivery count.
    queue varchar,
    body text,
    correlation_id varchar(128),
    -- What the claim ended with: completed, failed, retried, released or rescued. A repeated call finds its
    -- answer here.
    outcome varchar,
    stage_ended boolean not null default false,
    remaining integer not null default 0,
    -- Why the task failed, until a message of it has been dead-lettered with that reason.
    dead_letter_reason varchar
);
create index idx_worker_claims_open on @schema@.worker_claims (task_id) where outcome is null;

-- object: table worker_outbox
-- Messages that a committed transaction owes to a queue. Whoever gets the row's lock sends it.
create table @schema@.worker_outbox (
    id bigint generated always as identity primary key,
    job_id varchar(64),
    -- Which job of this id it belongs to: what a run left unsaid must not be said into the next run.
    job_created_at timestamp without time zone,
    queue varchar not null,
    message_id varchar(128) not null,
    -- Which message of this id it is: a job that is run anew signals its stages again, and the broker's
    -- duplicate detection must not swallow that.
    occurrence integer not null default 1,
    body text not null,
    correlation_id varchar(128),
    scheduled_at timestamp without time zone,
    created_at timestamp without time zone not null default timezone('utc', now()),
    sent_at timestamp without time zone,
    attempts integer not null default 0,
    next_attempt_at timestamp without time zone,
    last_error varchar
);
create index idx_worker_outbox_unsent on @schema@.worker_outbox (id) where sent_at is null;
create index idx_worker_outbox_message on @schema@.worker_outbox (message_id, queue);
