#!/usr/bin/env bash
#
# test_weir_bench.sh - are the entries there that README and others count on, and can a program
# read what is measured? It judges no figure.
#
# usage: test_weir_bench.sh WEIR-BENCH

set -euo pipefail

bench=$1
dir=$(mktemp -d)
trap 'rm -rf -- "$dir"' EXIT
bad=0

complain()
{
    printf '%s\n' "$*"
    bad=$((bad + 1))
}

names=(coro/yield coro/spawn-join coro/socketpair pool/acquire-release pool/handover-1000x8)
for way in unix tcp; do
    names+=("mysql/select-$way" "mysql/select-$way"-{held,syscalls,vs-threads})
done
"$bench" --list >"$dir/list"
for name in "${names[@]}"; do
    grep -q "^$name, " "$dir/list" || complain "there is no entry $name"
done
[[ $(grep -c '^[a-z]' "$dir/list") == $(grep -c '^    beside: .' "$dir/list") ]] ||
    complain "an entry has no baseline"

"$bench" coro/yield pool/acquire-release --rounds 1 --json "$dir/json" >"$dir/said" 2>&1 ||
    complain "two short entries were not measured: $(cat "$dir/said")"
[[ $(head -n 1 "$dir/json") == '[' && $(tail -n 1 "$dir/json") == ']' ]] ||
    complain "the report is no array"
number='[0-9]+(\.[0-9]+)?'
[[ $(grep -cE "^  \{\"name\": \"(coro/yield|pool/acquire-release)\", \"unit\": \"ns\", \
\"median\": $number, \"min\": $number, \"max\": $number, \"rounds\": 1, \"baseline\": \"[^\"]+\", \
\"baseline_median\": $number, \"ratio\": $number\},?$" "$dir/json") == 2 ]] ||
    complain "the report is not as it was: $(cat "$dir/json")"

for wrong in 'no/such-entry' '--rounds 0' '--frobnicate' '--json'; do
    status=0
    # shellcheck disable=SC2086 # an option and its value
    "$bench" $wrong >"$dir/said" 2>&1 || status=$?
    ((status == 2)) || complain "$wrong: status $status"
done
((bad == 0))
