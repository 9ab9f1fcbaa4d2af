# Shared by up and down; sourced, not run.

set -euo pipefail

say() { printf '%s: %s\n' "$SCRIPT" "$*"; }
fail() {
    say "error: $*" >&2
    exit 1
}

# The value of key $2 in node $1's record; every record is a file of key=value lines.
node_value() { sed -n "s/^$2=//p" "$DIR/nodes/$1"; }

# True while the process of node $1 is the one that was started.
node_runs() {
    local pid start
    pid=$(node_value "$1" pid)
    start=$(node_value "$1" pid_start)
    [ -n "$pid" ] && [ -n "$start" ] && [ "$(process_start "$pid")" = "$start" ]
}

# Start time of a process in clock ticks: with the pid it names one process for ever.
# Nothing for one that has ended and only waits to be reaped; while it has threads left it
# still holds its ports and locks.
process_start() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
    stat=${stat##*) }
    case "$stat" in
        [ZX]*) [ "$(ls "/proc/$1/task" 2>/dev/null | wc -l)" -gt 1 ] || return 0 ;;
    esac
    printf '%s' "$stat" | cut -d' ' -f20
}

# Asks node $1 to stop and waits; kills it after 15 s.
stop_node() {
    local pid
    node_runs "$1" || return 0
    pid=$(node_value "$1" pid)
    kill -TERM "$pid" 2>/dev/null || return 0
    for _ in $(seq 150); do
        node_runs "$1" || return 0
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
}
