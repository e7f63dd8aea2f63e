#!/usr/bin/env bash
#
# test_gdb_coroutines.sh - weir-gdb.py on a live process, and on a core of it.
#
# usage: test_gdb_coroutines.sh PROGRAM WEIR-GDB.PY

set -euo pipefail

program=$(realpath -- "$1")
script=$(realpath -- "$2")

command -v gdb >/dev/null || { echo "skipped: there is no gdb"; exit 77; }
gdb -q -nx -batch -ex 'python pass' 2>/dev/null || {
    echo "skipped: gdb has no Python"
    exit 77
}
gdb -q -nx -batch -ex 'ptype struct weir_hub' "$program" 2>&1 | grep -q running || {
    echo "skipped: weir was built without debug information (such as CMAKE_BUILD_TYPE=Release)"
    exit 77
}

dir=$(mktemp -d)
trap 'rm -rf -- "$dir"' EXIT

# The same questions to both.
cat >"$dir/ask" <<'GDB'
echo \n== coroutines\n
weir coroutines
echo == bt 2\n
weir bt 1/2
echo == bt 4\n
weir bt 1/4
echo == bt other\n
weir bt 2/1
echo == bt main\n
weir bt 1/1
echo == frame\n
bt 6
echo == bt wrong\n
python
try:
    gdb.execute("weir bt 99")
except gdb.error as error:
    print(error)
end
GDB

gdb_batch()
{
    DEBUGINFOD_URLS='' timeout 100 gdb -q -nx -batch -ex 'set debuginfod enabled off' \
        -ex 'set height 0' -ex 'set width 0' -ex "source $script" "$@" 2>&1 || true
}

gdb_batch -ex run -x "$dir/ask" "$program" >"$dir/live"
if grep -qE 'ptrace: Operation not permitted|Could not trace the inferior' "$dir/live"; then
    echo "skipped: no process may be traced here"
    exit 77
fi

# The kernel's own core: gdb's (gcore) leaves out every megabyte in which it meets a guard.
asked=(live)
{ (cd "$dir" && ulimit -c unlimited && "$program"); } >/dev/null 2>&1 || true
core=$(find "$dir" -name 'core*' -print -quit)
if [[ -n $core ]]; then
    asked+=(dead)
    gdb_batch -x "$dir/ask" "$program" "$core" >"$dir/dead"
else
    echo "cores go elsewhere here (kernel.core_pattern): only a live process is looked at"
fi

bad=0
# The lines between "== PART" and the next, of FILE.
part()
{
    sed -n "/^== $2\$/,/^== /p" "$1"
}
must_say()
{
    if ! part "$dir/$1" "$2" | grep -qE -- "$3"; then
        echo "$1, $2: nothing says '$3'"
        bad=1
    fi
}
must_not_say()
{
    if part "$dir/$1" "$2" | grep -qE -- "$3"; then
        echo "$1, $2: something says '$3'"
        bad=1
    fi
}

for where in "${asked[@]}"; do
    must_say "$where" coroutines '^1/1 main: running; spawned at '
    must_say "$where" coroutines '^1/2 waiter: waits for an event; spawned at '
    must_say "$where" coroutines '/gdb_coroutines\.c:[0-9]+$'
    must_say "$where" coroutines '^1/3 waiter: '
    must_say "$where" coroutines '^1/4 doomed: ready, cancelled; '
    must_say "$where" coroutines '^2/1 main: waits for '
    must_say "$where" coroutines '^5 coroutines$'
    must_say "$where" 'bt 2' 'weir_event_wait '
    must_say "$where" 'bt 2' 'in wait_down_here .*depth=.*2\)'
    must_say "$where" 'bt 2' 'in wait_for_nothing '
    must_not_say "$where" 'bt 2' 'die_here|^#0 '
    must_say "$where" 'bt 4' 'in wait_down_here '
    must_say "$where" 'bt other' 'in sleep_long '
    must_not_say "$where" 'bt other' 'wait_down_here|corrupt'
    must_say "$where" 'bt main' 'in die_here '
    must_say "$where" frame 'in die_here ' # the thread's own frames are as they were
    must_not_say "$where" frame 'wait_down_here'
    must_say "$where" 'bt wrong' 'no coroutine 99 is alive'
done
if ((bad)); then
    for where in "${asked[@]}"; do
        echo "---- $where"
        cat "$dir/$where"
    done
fi
exit "$bad"
