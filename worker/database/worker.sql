-- The worker's part of the schema, in addition to the platform's tables. It refers to those by value and
-- never by foreign key, so that the platform can drop and recreate them. The sections are as in platform.sql.

-- object: table worker_claims
-- Which worker may write a task's outcome: one row per task id. A row is written only while the task's own
-- row is locked; that lock makes a claim, and every write under it, exclusive.
create table @schema@.worker_claims (
    task_id varchar(100) primary key,
    -- The platform deletes and recreates rows with the same task_id; this column distinguishes them.
    task_created_at timestamp without time zone not null,
    token uuid not null,
    claimed_by varchar not null,
    claimed_at timestamp without time zone not null,
    -- How often a dead worker's run of this row was taken over; releases and retries do not count.
    takeovers integer not null default 0,
    -- How often the task's own process died while its worker survived.
    deaths integer not null default 0,
    -- The message that requested the run, kept while the run lasts. If its worker dies, another worker sends
    -- it again, without waiting for the broker's lock and independently of the queue's delivery count.
    queue varchar,
    body text,
    correlation_id varchar(128),
    -- The claim's outcome: completed, failed, retried, released or rescued. A repeated call returns its
    -- answer from here.
    outcome varchar,
    stage_ended boolean not null default false,
    remaining integer not null default 0,
    -- The reason of a failed task, until one of its messages has been dead-lettered with it.
    dead_letter_reason varchar
);
create index idx_worker_claims_open on @schema@.worker_claims (task_id) where outcome is null;

-- object: table worker_outbox
-- Messages that a committed transaction owes to a queue. The worker that gets a row's lock sends it.
create table @schema@.worker_outbox (
    id bigint generated always as identity primary key,
    job_id varchar(64),
    -- Distinguishes jobs with the same id: unsent messages of one run must not be sent in the next run.
    job_created_at timestamp without time zone,
    queue varchar not null,
    message_id varchar(128) not null,
    -- The number of this message among those with its id, from 1: a job that runs anew signals its stages
    -- again, and the broker's duplicate detection must not drop those messages.
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
