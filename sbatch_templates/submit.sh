#!/bin/bash
# Queues attempt {{attempt}} of a clipmill run: {{num_shards}} shards in {{num_arrays}} arrays of workers, then the aggregation{{then}}.
# Each array of a lane waits for the one before it, so that at most {{parallelism}} workers run at once.
# May be run again after it was stopped: what is queued already stays as it is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

run_dir={{run_dir}}
attempt_folder={{attempt_folder}}
queued=$attempt_folder/{{script_jobs}} # NAME JOBID: read by "clipmill status" and "clipmill cancel"

if [ -e "$attempt_folder/cancelled" ]; then
    printf 'this attempt was cancelled; make a new one with: clipmill resume %q\n' "$run_dir" >&2
    exit 1
fi

# queue NAME SBATCH-ARGUMENTS...: sets $job to the id of the job of that name, and queues it unless it is there
queue() {
    local name=$1
    shift
    job=$({ cat "$queued" 2>/dev/null || true; } | awk -v name="$name" '$1 == name { print $2; exit }')
    if [ -z "$job" ]; then
        job=$(squeue --noheader --states=all --user="$(id -u)" --name="$name" --format=%F | head -n 1)
        if [ -z "$job" ]; then
            job=$(sbatch --parsable --job-name="$name" "$@")
            job=${job%%;*}
        fi
        echo "$name $job" >>"$queued"
    fi
    echo "$name is job $job"
}

{{queue_lines}}

printf 'follow with: clipmill status %q --watch\n' "$run_dir"
