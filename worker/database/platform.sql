-- The platform's part of the schema (protocol.md §2), for databases where the platform has not created it.
--
-- Each "-- object: KIND NAME" section runs only if that object does not exist, so the platform's own tables,
-- enums and functions stay unchanged. @schema@ is replaced by the quoted schema name.

-- object: type job_status
create type @schema@.job_status as enum
    ('queued', 'processing', 'completed', 'failed', 'completed_with_errors');

-- object: type task_status
create type @schema@.task_status as enum
    ('queued', 'processing', 'completed', 'failed', 'retrying', 'pending_retry', 'cancelled');

-- object: function update_updated_at_column
create function @schema@.update_updated_at_column() returns trigger
language plpgsql as $function$
begin
    new.updated_at = now();
    return new;
end
$function$;

-- object: table jobs
create table @schema@.jobs (
    job_id varchar(64) primary key,
    job_type varchar(100) not null,
    parameters jsonb not null default '{}',
    status @schema@.job_status not null default 'queued',
    stage integer not null default 1,
    total_stages integer not null default 1,
    stage_results jsonb not null default '{}',
    metadata jsonb not null default '{}',
    result_data jsonb,
    error_details varchar,
    created_at timestamp without time zone not null default now(),
    updated_at timestamp without time zone not null default now()
);
create trigger update_jobs_updated_at before update on @schema@.jobs
    for each row execute function @schema@.update_updated_at_column();

-- object: table tasks
create table @schema@.tasks (
    task_id varchar(100) primary key,
    parent_job_id varchar(64) not null references @schema@.jobs (job_id) on delete cascade,
    job_type varchar(100) not null,
    task_type varchar(100) not null,
    stage integer not null,
    task_index varchar(50) not null default '0',
    parameters jsonb not null default '{}',
    metadata jsonb not null default '{}',
    status @schema@.task_status not null default 'queued',
    result_data jsonb,
    next_stage_params jsonb,
    error_details varchar,
    retry_count integer not null default 0,
    heartbeat timestamp without time zone,
    execution_started_at timestamp without time zone,
    target_queue varchar,
    executed_by_app varchar,
    created_at timestamp without time zone not null default now(),
    updated_at timestamp without time zone not null default now()
);
create index idx_tasks_parent_job_id on @schema@.tasks (parent_job_id);
create index idx_tasks_status on @schema@.tasks (status);
create index idx_tasks_job_stage on @schema@.tasks (parent_job_id, stage);
create index idx_tasks_job_stage_status on @schema@.tasks (parent_job_id, stage, status);
create index idx_tasks_heartbeat on @schema@.tasks (heartbeat) where heartbeat is not null;
create trigger update_tasks_updated_at before update on @schema@.tasks
    for each row execute function @schema@.update_updated_at_column();

-- object: function complete_task_and_check_stage
-- Correct only under READ COMMITTED: the count must see what the previous holder of the lock has committed.
create function @schema@.complete_task_and_check_stage(
    p_task_id varchar(100),
    p_job_id varchar(64),
    p_stage integer,
    p_result_data jsonb default null,
    p_error_details text default null
) returns table (
    task_updated boolean,
    is_last_task_in_stage boolean,
    job_id varchar(64),
    stage_number integer,
    remaining_tasks integer
)
language plpgsql as $function$
#variable_conflict use_column
declare
    v_remaining integer;
begin
    update @schema@.tasks t
    set status = case when p_error_details is null then 'completed' else 'failed' end::@schema@.task_status,
        result_data = p_result_data,
        error_details = p_error_details,
        updated_at = now()
    where t.task_id = p_task_id
      and t.parent_job_id = p_job_id
      and t.stage = p_stage
      and t.status = 'processing';
    if not found then
        return query select false, false, null::varchar(64), null::integer, 0;
        return;
    end if;

    perform pg_advisory_xact_lock(hashtext(p_job_id || ':stage:' || p_stage::text));

    select count(*)::integer into v_remaining
    from @schema@.tasks t
    where t.parent_job_id = p_job_id
      and t.stage = p_stage
      and t.status not in ('completed', 'failed');
    return query select true, v_remaining = 0, p_job_id, p_stage, v_remaining;
end
$function$;

-- object: function advance_job_stage
create function @schema@.advance_job_stage(
    p_job_id varchar(64),
    p_current_stage integer,
    p_stage_results jsonb default null
) returns table (job_updated boolean, new_stage integer, is_final_stage boolean)
language plpgsql as $function$
declare
    v_new_stage integer;
    v_total_stages integer;
begin
    update @schema@.jobs j
    set stage = j.stage + 1,
        stage_results = case
            when p_stage_results is null then j.stage_results
            else j.stage_results || jsonb_build_object(p_current_stage::text, p_stage_results)
        end,
        status = case when j.stage + 1 > j.total_stages then 'completed' else 'processing' end::@schema@.job_status,
        updated_at = now()
    where j.job_id = p_job_id and j.stage = p_current_stage
    returning j.stage, j.total_stages into v_new_stage, v_total_stages;
    if not found then
        return query select false, null::integer, null::boolean;
        return;
    end if;
    return query select true, v_new_stage, v_new_stage > v_total_stages;
end
$function$;

-- object: function check_job_completion
create function @schema@.check_job_completion(p_job_id varchar(64))
returns table (
    job_complete boolean,
    final_stage integer,
    total_tasks bigint,
    completed_tasks bigint,
    task_results jsonb
)
language plpgsql as $function$
#variable_conflict use_column
declare
    v_stage integer;
    v_total_stages integer;
begin
    select j.stage, j.total_stages into v_stage, v_total_stages
    from @schema@.jobs j
    where j.job_id = p_job_id
    for update;
    if not found then
        return query select false, 0, 0::bigint, 0::bigint, '[]'::jsonb;
        return;
    end if;
    return query
        select count(*) > 0
                   and count(*) = count(*) filter (where t.status in ('completed', 'failed'))
                   and v_stage >= v_total_stages,
               v_stage,
               count(*),
               count(*) filter (where t.status = 'completed'),
               coalesce(
                   jsonb_agg(jsonb_build_object(
                       'task_id', t.task_id,
                       'task_type', t.task_type,
                       'stage', t.stage,
                       'task_index', t.task_index,
                       'status', t.status::text,
                       'result_data', t.result_data,
                       'error_details', t.error_details
                   )) filter (where t.result_data is not null or t.error_details is not null),
                   '[]'::jsonb
               )
        from @schema@.tasks t
        where t.parent_job_id = p_job_id;
end
$function$;

-- object: function increment_task_retry_count
create function @schema@.increment_task_retry_count(p_task_id varchar(100))
returns table (new_retry_count integer)
language plpgsql as $function$
begin
    return query
        update @schema@.tasks t
        set retry_count = t.retry_count + 1, status = 'queued', updated_at = now()
        where t.task_id = p_task_id
        returning t.retry_count;
end
$function$;
