-- The worker's statements on the tables of platform.sql and worker.sql, by name.
-- @schema@ is replaced by the quoted schema name. All times come from the database's clock, in UTC.

-- name: clock
-- The time that leases are measured by.
select timezone('utc', clock_timestamp()) as now

-- name: read_job
-- One job.
select job_id, job_type, parameters, status::text as status, stage, total_stages, stage_results, metadata,
       result_data, error_details, created_at, updated_at
from @schema@.jobs where job_id = %(job_id)s

-- name: read_task
-- One task.
select task_id, parent_job_id, job_type, task_type, stage, task_index, parameters, metadata,
       status::text as status, result_data, error_details, retry_count, heartbeat, execution_started_at,
       target_queue, executed_by_app, created_at, updated_at
from @schema@.tasks where task_id = %(task_id)s

-- name: read_tasks
-- The tasks of a job, or of one stage if `stage` is not null, ordered by stage.
select task_id, parent_job_id, job_type, task_type, stage, task_index, parameters, metadata,
       status::text as status, result_data, error_details, retry_count, heartbeat, execution_started_at,
       target_queue, executed_by_app, created_at, updated_at
from @schema@.tasks
where parent_job_id = %(job_id)s and (%(stage)s::integer is null or stage = %(stage)s)
order by stage, length(task_index), task_index, task_id

-- name: lock_task
-- Lock a task's row until the end of the transaction. A heartbeat later than the row's last update comes from
-- a wrong clock and does not make the row look alive.
select task_id, parent_job_id, job_type, task_type, stage, task_index, parameters, metadata,
       status::text as status, result_data, error_details, retry_count, heartbeat, execution_started_at,
       target_queue, executed_by_app, created_at, updated_at,
       extract(epoch from timezone('utc', clock_timestamp()) - least(heartbeat, updated_at))::float8
           as idle_seconds
from @schema@.tasks where task_id = %(task_id)s for update

-- name: job_status
-- The current status of a job.
select status::text as status from @schema@.jobs where job_id = %(job_id)s

-- name: read_claim
-- The claim of a task. Only after lock_task.
select task_id, task_created_at, token, claimed_by, takeovers, deaths, queue, body, correlation_id, outcome,
       stage_ended, remaining, dead_letter_reason
from @schema@.worker_claims where task_id = %(task_id)s

-- name: start_task
-- queued → processing, or take over a dead worker's processing row. Only after lock_task.
update @schema@.tasks
set status = 'processing', heartbeat = timezone('utc', clock_timestamp()),
    execution_started_at = timezone('utc', clock_timestamp()), executed_by_app = %(worker)s,
    updated_at = timezone('utc', clock_timestamp())
where task_id = %(task_id)s and status in ('queued', 'processing')

-- name: write_claim
-- Write a new claim; take-overs and deaths are counted as long as the task's row is the same. Only after
-- lock_task.
insert into @schema@.worker_claims as c
    (task_id, task_created_at, token, claimed_by, claimed_at, takeovers, queue, body, correlation_id)
values (%(task_id)s, %(created_at)s, %(token)s, %(worker)s, timezone('utc', clock_timestamp()), %(takeovers)s,
        %(queue)s, %(body)s, %(correlation_id)s)
on conflict (task_id) do update
set task_created_at = excluded.task_created_at, token = excluded.token, claimed_by = excluded.claimed_by,
    claimed_at = excluded.claimed_at, queue = excluded.queue, body = excluded.body,
    correlation_id = excluded.correlation_id, outcome = null, stage_ended = false, remaining = 0,
    dead_letter_reason = null,
    takeovers = excluded.takeovers
        + case when c.task_created_at = excluded.task_created_at then c.takeovers else 0 end,
    deaths = case when c.task_created_at = excluded.task_created_at then c.deaths else 0 end
returning c.takeovers, c.deaths

-- name: end_claim
-- Record the outcome of a claim and drop its message, which is no longer needed. Only after lock_task.
update @schema@.worker_claims
set outcome = %(outcome)s, stage_ended = %(stage_ended)s, remaining = %(remaining)s,
    takeovers = takeovers + %(takeovers)s, deaths = deaths + %(deaths)s,
    dead_letter_reason = %(dead_letter_reason)s, queue = null, body = null, correlation_id = null
where task_id = %(task_id)s and token = %(token)s

-- name: note_dead_letter
-- A message of the failed task has been dead-lettered with the reason.
update @schema@.worker_claims set dead_letter_reason = null where task_id = %(task_id)s

-- name: standing_claims
-- The tokens of those claims that are still valid.
select c.token
from @schema@.worker_claims c join @schema@.tasks t
    on t.task_id = c.task_id and t.created_at = c.task_created_at and t.status = 'processing'
where c.task_id = any(%(task_ids)s::varchar[]) and c.token = any(%(tokens)s::uuid[]) and c.outcome is null

-- name: stale_claims
-- Open claims on these queues without a heartbeat for `lease_seconds`. lock_task explains least(heartbeat,
-- updated_at).
select c.task_id
from @schema@.worker_claims c join @schema@.tasks t
    on t.task_id = c.task_id and t.created_at = c.task_created_at and t.status = 'processing'
where c.outcome is null and c.queue = any(%(queues)s::varchar[])
  and least(t.heartbeat, t.updated_at)
      < timezone('utc', clock_timestamp()) - %(lease_seconds)s * interval '1 second'
order by c.claimed_at limit %(limit)s

-- name: heartbeat
-- Update the heartbeat and merge the progress into the metadata. Only after lock_task.
update @schema@.tasks
set heartbeat = timezone('utc', clock_timestamp()), updated_at = timezone('utc', clock_timestamp()),
    metadata = case when %(progress)s::jsonb is null then metadata else
        case jsonb_typeof(metadata) when 'object' then metadata else '{}' end || jsonb_build_object(
            'progress',
            case jsonb_typeof(metadata -> 'progress') when 'object' then metadata -> 'progress' else '{}' end
                || %(progress)s::jsonb)
        end
where task_id = %(task_id)s and status = 'processing'

-- name: note_measured
-- Store the measured usage and the estimate in the metadata. Only after lock_task.
update @schema@.tasks
set metadata = case jsonb_typeof(metadata) when 'object' then metadata else '{}' end
    || jsonb_build_object('measured', %(measured)s::jsonb)
where task_id = %(task_id)s and status = 'processing'

-- name: measured_tasks
-- The newest completed tasks with measured usage, for calibration with production data.
select task_id, task_type, metadata -> 'measured' as measured, updated_at
from @schema@.tasks
where status = 'completed' and jsonb_typeof(metadata -> 'measured') = 'object'
order by updated_at desc limit %(limit)s

-- name: complete_task
-- Call the platform's function by the names of its arguments.
select task_updated, is_last_task_in_stage, remaining_tasks
from @schema@.complete_task_and_check_stage(
    p_task_id => %(task_id)s, p_job_id => %(job_id)s, p_stage => %(stage)s,
    p_result_data => %(result)s::jsonb, p_error_details => %(error_details)s::text)

-- name: retry_task
-- Call the platform's function: processing → queued, with one more retry.
select new_retry_count from @schema@.increment_task_retry_count(p_task_id => %(task_id)s)

-- name: note_retry
-- Clear the heartbeat, and store the reason for the retry in the metadata.
update @schema@.tasks
set heartbeat = null, updated_at = timezone('utc', clock_timestamp()),
    metadata = case jsonb_typeof(metadata) when 'object' then metadata else '{}' end
        || jsonb_build_object('last_error', %(error)s::text)
where task_id = %(task_id)s

-- name: release_task
-- processing → queued, without counting a retry. Only after lock_task.
update @schema@.tasks
set status = 'queued', heartbeat = null, updated_at = timezone('utc', clock_timestamp())
where task_id = %(task_id)s and status = 'processing'

-- name: lock_stage
-- Take the lock under which complete_task_and_check_stage counts the remaining tasks of a stage, until the
-- end of the transaction. Only after lock_task.
select pg_advisory_xact_lock(hashtext(%(job_id)s || ':stage:' || %(stage)s::integer::text))

-- name: reset_task
-- failed → queued, as if it had never run. Only after lock_task and lock_stage.
update @schema@.tasks
set status = 'queued', retry_count = 0, error_details = null, result_data = null, heartbeat = null,
    updated_at = timezone('utc', clock_timestamp())
where task_id = %(task_id)s and status = 'failed'

-- name: forget_claim
-- Invalidate the task's claim and reset its counts of take-overs and deaths. Only after lock_task.
delete from @schema@.worker_claims where task_id = %(task_id)s

-- name: revive_job
-- failed → processing, at the stage where the job failed. Only after lock_stage.
update @schema@.jobs
set status = 'processing', error_details = null, updated_at = timezone('utc', clock_timestamp())
where job_id = %(job_id)s and stage = %(stage)s and status = 'failed'
returning job_id

-- name: fail_job
-- Fail a job; one that is over stays unchanged.
update @schema@.jobs
set status = 'failed', error_details = %(error_details)s, updated_at = timezone('utc', clock_timestamp())
where job_id = %(job_id)s and status in ('queued', 'processing')
returning job_id

-- name: put_in_outbox
-- Insert messages to send, passed as a JSON array of rows, in their order.
insert into @schema@.worker_outbox
    (job_id, job_created_at, queue, message_id, occurrence, body, correlation_id, scheduled_at)
select m.job_id, (select j.created_at from @schema@.jobs j where j.job_id = m.job_id), m.queue, m.message_id,
       1 + (select coalesce(max(o.occurrence), 0) from @schema@.worker_outbox o
            where o.message_id = m.message_id and o.queue = m.queue),
       m.body, m.correlation_id,
       case when m.delay_seconds > 0
            then timezone('utc', clock_timestamp()) + m.delay_seconds * interval '1 second' end
from jsonb_to_recordset(%(messages)s::jsonb) as m
    (job_id varchar, queue varchar, message_id varchar, body text, correlation_id varchar,
     delay_seconds float8, position bigint)
order by m.position
returning id

-- name: forget_stale
-- Mark the unsent messages of deleted jobs as sent, including jobs that run anew. The rows stay, because one
-- of them may have reached the broker before its sender died, and the next message with its id must differ.
update @schema@.worker_outbox set sent_at = timezone('utc', clock_timestamp()), last_error = 'job run anew'
where id in (
    select o.id from @schema@.worker_outbox o
    where o.sent_at is null and o.job_created_at is not null and not exists (
        select from @schema@.jobs j where j.job_id = o.job_id and j.created_at = o.job_created_at)
    for update of o skip locked)

-- name: lock_outbox
-- Lock unsent messages that no other caller is sending; only those in `ids`, unless it is null.
select id, job_id, queue, message_id, occurrence, body, correlation_id, scheduled_at, attempts
from @schema@.worker_outbox
where sent_at is null
  and (%(ids)s::bigint[] is null or id = any(%(ids)s::bigint[]))
  and (next_attempt_at is null or next_attempt_at <= timezone('utc', clock_timestamp())
       or %(ids)s::bigint[] is not null)
order by id limit %(limit)s for update skip locked

-- name: mark_sent
-- Record that the messages have reached the broker.
update @schema@.worker_outbox set sent_at = timezone('utc', clock_timestamp()), attempts = attempts + 1
where id = any(%(ids)s::bigint[])

-- name: mark_unsent
-- Record a failed attempt; the next one is due in 1, 2, 4, … 60 seconds, so that others are not delayed.
update @schema@.worker_outbox
set attempts = attempts + 1, last_error = %(error)s,
    next_attempt_at = timezone('utc', clock_timestamp())
        + least(60, power(2, least(attempts, 10))) * interval '1 second'
where id = %(id)s

-- name: count_outbox
-- The number of unsent messages, and the age of the oldest in seconds.
select count(*)::integer as unsent,
       coalesce(extract(epoch from timezone('utc', clock_timestamp()) - min(created_at)), 0)::float8
           as oldest_seconds
from @schema@.worker_outbox where sent_at is null

-- name: count_waiting
-- The number of queued tasks by target queue.
select target_queue as queue, count(*)::integer as tasks
from @schema@.tasks where status = 'queued' and target_queue is not null group by target_queue

-- name: purge_outbox
-- Delete messages sent more than `days` ago.
delete from @schema@.worker_outbox
where sent_at < timezone('utc', clock_timestamp()) - %(days)s * interval '1 day'

-- name: purge_claims
-- Delete claims older than `days` whose tasks are gone.
delete from @schema@.worker_claims c
where c.claimed_at < timezone('utc', clock_timestamp()) - %(days)s * interval '1 day'
  and not exists (select from @schema@.tasks t where t.task_id = c.task_id)

-- name: insert_job
-- Insert a job, unless one with this id exists.
insert into @schema@.jobs (job_id, job_type, parameters, status, stage, total_stages, metadata)
values (%(job_id)s, %(job_type)s, %(parameters)s::jsonb, 'queued', 1, %(total_stages)s, %(metadata)s::jsonb)
on conflict (job_id) do nothing
returning job_id

-- name: lock_job
-- Lock a job's row until the end of the transaction.
select job_id, status::text as status, stage, total_stages
from @schema@.jobs where job_id = %(job_id)s for update

-- name: lock_tasks_of_job
-- Lock a job's tasks, always before the job itself: the same order as completions.
select task_id from @schema@.tasks where parent_job_id = %(job_id)s order by task_id for update

-- name: delete_job
-- Delete a job and, by the platform's cascade, its tasks.
delete from @schema@.jobs where job_id = %(job_id)s

-- name: begin_job
-- queued → processing.
update @schema@.jobs set status = 'processing', updated_at = timezone('utc', clock_timestamp())
where job_id = %(job_id)s and status = 'queued'

-- name: insert_tasks
-- Insert tasks, passed as a JSON array of rows; existing tasks stay unchanged.
insert into @schema@.tasks
    (task_id, parent_job_id, job_type, task_type, stage, task_index, parameters, status, target_queue)
select t.task_id, t.parent_job_id, t.job_type, t.task_type, t.stage, t.task_index, t.parameters, 'queued',
       t.target_queue
from jsonb_to_recordset(%(tasks)s::jsonb) as t
    (task_id varchar, parent_job_id varchar, job_type varchar, task_type varchar, stage integer,
     task_index varchar, parameters jsonb, target_queue varchar)
on conflict (task_id) do nothing
returning task_id

-- name: count_own_tasks
-- The number of these ids that are tasks of this job and stage.
select count(*)::integer as tasks from @schema@.tasks
where parent_job_id = %(job_id)s and stage = %(stage)s and task_id = any(%(task_ids)s::varchar[])

-- name: advance_job
-- Call the platform's function: compare-and-set on the stage.
select job_updated, new_stage, is_final_stage
from @schema@.advance_job_stage(
    p_job_id => %(job_id)s, p_current_stage => %(stage)s, p_stage_results => %(results)s::jsonb)

-- name: finish_job
-- processing → completed, at the job's last stage and only once.
update @schema@.jobs
set status = 'completed', result_data = %(result)s::jsonb, updated_at = timezone('utc', clock_timestamp()),
    stage_results = stage_results || jsonb_build_object(%(stage)s::integer::text, %(results)s::jsonb)
where job_id = %(job_id)s and stage = %(stage)s and status in ('queued', 'processing')
returning job_id

-- name: limit_statements
-- Limit the duration of this transaction's statements.
select set_config('statement_timeout', %(milliseconds)s, true)

-- name: overview_running
-- Running tasks, oldest first. Texts are truncated, because a row's contents are not validated.
select t.task_id, t.parent_job_id as job_id, t.task_type, t.stage, t.target_queue as queue,
       left(t.executed_by_app, 100) as worker, t.execution_started_at as began,
       extract(epoch from timezone('utc', clock_timestamp()) - least(t.heartbeat, t.updated_at))::float8
           as idle_seconds,
       left(t.metadata #>> '{progress,unit}', 20) as unit,
       left(t.metadata #>> '{progress,done}', 20) as done, left(t.metadata #>> '{progress,total}', 20) as total,
       left(j.parameters ->> 'blob_name', 200) as blob
from (select * from @schema@.tasks where status = 'processing'
      order by execution_started_at, task_id limit %(limit)s) t
    left join @schema@.jobs j on j.job_id = t.parent_job_id
order by t.execution_started_at, t.task_id

-- name: overview_waiting
-- Queued tasks by job, stage and queue, oldest first; reads at most `limit` rows.
select g.*, left(j.parameters ->> 'blob_name', 200) as blob
from (select t.parent_job_id as job_id, t.stage, min(t.task_type) as task_type, t.target_queue as queue,
             count(*)::integer as tasks, count(*) filter (where t.retry_count > 0)::integer as retried,
             min(t.created_at) as since, max(left(t.metadata ->> 'last_error', 500)) as last_error
      from (select * from @schema@.tasks where status = 'queued' limit %(limit)s) t
      group by t.parent_job_id, t.stage, t.target_queue) g
    left join @schema@.jobs j on j.job_id = g.job_id
order by g.since, g.job_id, g.stage, g.queue

-- name: overview_failed
-- The tasks that failed last.
select t.task_id, t.parent_job_id as job_id, t.task_type, t.stage, t.target_queue as queue,
       left(t.executed_by_app, 100) as worker, t.retry_count as retries, left(t.error_details, 2000) as error,
       t.updated_at as ended, left(j.parameters ->> 'blob_name', 200) as blob
from (select * from @schema@.tasks where status = 'failed' order by updated_at desc, task_id limit %(limit)s) t
    left join @schema@.jobs j on j.job_id = t.parent_job_id
order by t.updated_at desc, t.task_id

-- name: overview_failed_count
-- The number of failed tasks, at most `limit`.
select count(*)::integer as tasks
from (select from @schema@.tasks where status = 'failed' limit %(limit)s) t

-- name: overview_jobs
-- The newest jobs, without their long columns.
select j.job_id, j.job_type, j.status::text as status, j.stage, j.total_stages,
       left(j.error_details, 2000) as error, j.created_at as created, j.updated_at as updated,
       left(j.parameters ->> 'blob_name', 200) as blob
from (select * from @schema@.jobs order by created_at desc, job_id limit %(limit)s) j
order by j.created_at desc, j.job_id

-- name: overview_stages
-- Task counts by job, stage and queue, with the first start and the last end.
select parent_job_id as job_id, stage, min(task_type) as task_type, coalesce(target_queue, '') as queue,
       count(*)::integer as tasks, count(*) filter (where status = 'completed')::integer as done,
       count(*) filter (where status = 'failed')::integer as failed,
       count(*) filter (where status = 'processing')::integer as running,
       min(execution_started_at) as began, max(updated_at) filter (where status in ('completed', 'failed')) as ended
from @schema@.tasks where parent_job_id = any(%(job_ids)s::varchar[])
group by parent_job_id, stage, target_queue order by parent_job_id, stage, target_queue

-- name: overview_outbox
-- The oldest unsent messages in the outbox.
select queue, attempts, left(last_error, 500) as last_error, created_at as since
from @schema@.worker_outbox where sent_at is null order by id limit 5
