#!/usr/bin/env bash
#
# test_gevent_table.sh README TESTS - are the 44 rows of the table all there, and does each test
# that it names exist?

set -euo pipefail

readme=$1
tests=$2
wrong=0

for row in $(seq 44); do
    if ! grep -q "^| $row |" "$readme"; then
        echo "row $row is missing"
        wrong=1
    fi
done

# The last column, word by word.
names=$(grep -E '^\| [0-9]+ \|' "$readme" | awk -F'|' '{ print $(NF - 1) }' |
        grep -oE '`[a-z0-9_]+`' | tr -d '`' | sort -u)
for name in $names; do
    if ! grep -rqE "[A-Z]\\($name\\)" "$tests"; then # in a program's list, by whatever macro
        echo "no test is called $name"
        wrong=1
    fi
done
echo "$(wc -w <<<"$names") tests looked for"
exit $wrong
