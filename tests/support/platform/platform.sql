-- The platform's schema as the other team would write it: protocol.md §2, with columns of later versions.
-- The tables named function_app_* are the stand-in's own memory; no worker knows of them.

create schema app;

create type app.job_status as enum
    ('queued', 'processing', 'completed', 'failed', 'completed_with_errors');
create type app.task_status as enum
    ('queued', 'processing', 'completed', 'failed', 'retrying', 'pending_retry', 'cancelled');

create table app.jobs (
    job_id varchar(64) primary key check (job_id ~ '^[0-9a-f]{64}$'),
    job_type varchar(100) not null,
    etl_version varchar(20) default '0.7',
    parameters jsonb not null default '{}',
    status app.job_status not null default 'queued',
    stage integer not null default 1 check (stage >= 1),
    total_stages integer not null default 1,
    resubmissions integer not null default 0,
    stage_results jsonb not null default '{}',
    metadata jsonb not null default '{}',
    result_data jsonb,
    error_details varchar,
    created_at timestamp without time zone not null default timezone('utc', now()),
    updated_at timestamp without time zone not null default timezone('utc', now())
);

create table app.tasks (
    checkpoint_phase integer,
    checkpoint_data jsonb,
    checkpoint_updated_at timestamp without time zone,
    last_pulse timestamp without time zone,
    claimed_by varchar(100),
    task_id varchar(100) primary key,
    parent_job_id varchar(64) not null references app.jobs (job_id) on delete cascade,
    job_type varchar(100) not null,
    task_type varchar(100) not null,
    stage integer not null,
    task_index varchar(50) not null default '0',
    parameters jsonb not null default '{}',
    metadata jsonb not null default '{}',
    status app.task_status not null default 'queued',
    result_data jsonb,
    next_stage_params jsonb,
    error_details varchar,
    retry_count integer not null default 0 check (retry_count >= 0),
    heartbeat timestamp without time zone,
    execution_started_at timestamp without time zone,
    target_queue varchar(100),
    executed_by_app varchar(100),
    created_at timestamp without time zone not null default timezone('utc', now()),
    updated_at timestamp without time zone not null default timezone('utc', now())
);

create index idx_tasks_parent_job_id on app.tasks (parent_job_id);
create index idx_tasks_status on app.tasks (status);
create index idx_tasks_job_stage on app.tasks (parent_job_id, stage);
create index idx_tasks_job_stage_status on app.tasks (parent_job_id, stage, status);
create index idx_tasks_heartbeat on app.tasks (heartbeat) where heartbeat is not null;

create function app.touch_updated_at() returns trigger language plpgsql as $$
begin
    new.updated_at := timezone('utc', clock_timestamp());
    return new;
end $$;

create trigger jobs_touch before update on app.jobs
    for each row execute function app.touch_updated_at();
create trigger tasks_touch before update on app.tasks
    for each row execute function app.touch_updated_at();

create function app.complete_task_and_check_stage(
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
) language plpgsql as $$
declare
    v_remaining integer;
begin
    update app.tasks t
    set status = case when p_error_details is null then 'completed' else 'failed' end::app.task_status,
        result_data = p_result_data,
        error_details = p_error_details
    where t.task_id = p_task_id and t.parent_job_id = p_job_id and t.stage = p_stage
        and t.status = 'processing';
    if not found then
        return query select false, false, null::varchar(64), null::integer, 0;
        return;
    end if;
    perform pg_advisory_xact_lock(hashtext(p_job_id || ':stage:' || p_stage));
    select count(*)::integer into v_remaining
    from app.tasks t
    where t.parent_job_id = p_job_id and t.stage = p_stage and t.status not in ('completed', 'failed');
    return query select true, v_remaining = 0, p_job_id, p_stage, v_remaining;
end $$;

create function app.advance_job_stage(
    p_job_id varchar(64),
    p_current_stage integer,
    p_stage_results jsonb default null
) returns table (job_updated boolean, new_stage integer, is_final_stage boolean) language plpgsql as $$
begin
    return query
    update app.jobs j
    set stage = j.stage + 1,
        stage_results = j.stage_results
            || case when p_stage_results is null then '{}'::jsonb
                    else jsonb_build_object(p_current_stage::text, p_stage_results) end
    where j.job_id = p_job_id and j.stage = p_current_stage
    returning true, j.stage, j.stage > j.total_stages;
    if not found then
        return query select false, null::integer, null::boolean;
    end if;
end $$;

create function app.check_job_completion(p_job_id varchar(64)) returns table (
    job_complete boolean,
    final_stage integer,
    total_tasks integer,
    completed_tasks integer,
    task_results jsonb
) language plpgsql as $$
declare
    v_stage integer;
begin
    select j.stage into v_stage from app.jobs j where j.job_id = p_job_id for update;
    return query
    select found and count(*) > 0 and count(*) = count(*) filter (where t.status = 'completed'),
        v_stage,
        count(*)::integer,
        (count(*) filter (where t.status = 'completed'))::integer,
        coalesce(jsonb_agg(jsonb_build_object(
            'task_id', t.task_id, 'task_type', t.task_type, 'stage', t.stage,
            'status', t.status, 'result_data', t.result_data)), '[]'::jsonb)
    from app.tasks t
    where t.parent_job_id = p_job_id;
end $$;

create function app.increment_task_retry_count(p_task_id varchar(100))
returns table (new_retry_count integer) language sql as $$
    update app.tasks set retry_count = retry_count + 1, status = 'queued'
    where task_id = p_task_id
    returning retry_count
$$;

-- Messages whose rows are committed and which are not known to have been sent.
create table app.function_app_unsent (
    id bigint generated always as identity primary key,
    job_id varchar(64) not null,
    queue varchar(100) not null,
    body text not null,
    message_id varchar(128) not null
);

-- Every message of the jobs queue that has been handled, so that its redelivery is not taken for another.
create table app.function_app_handled (
    identity varchar(100) primary key,
    job_id varchar(64), -- of a well-formed stage_complete
    completed_stage integer,
    handled_at timestamp without time zone not null default timezone('utc', now())
);
