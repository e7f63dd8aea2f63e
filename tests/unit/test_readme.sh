#!/usr/bin/env bash
#
# test_readme.sh - does README show what is there? Its first program is the second example, word for
# word; what it links to exists; the files, options and commands it tells of do, too.
#
# usage: test_readme.sh TREE WEIR-SOAK

set -euo pipefail

tree=$1
soak=$2
readme=$tree/README.md
bad=0

complain()
{
    printf '%s\n' "$*"
    bad=$((bad + 1))
}

shown=$(awk '/^```$/ && on { exit } on { print } /^```c$/ { on = 1 }' "$readme")
cut=$(sed -n '/^static weir_status ask/,$p' "$tree/examples/02_share_a_pool.c")
[[ -n $shown && $shown == "$cut" ]] ||
    complain "the first program is not that of examples/02_share_a_pool.c: $(
        diff <(echo "$shown") <(echo "$cut"))"

links=0
while IFS= read -r target; do
    links=$((links + 1))
    case $target in
    http*) ;;
    '#'*) # as GitHub names a heading
        # Not -q, which may end tr by SIGPIPE.
        sed -n 's/^#* //p' "$readme" | tr 'A-Z ' 'a-z-' | grep -x -- "${target#\#}" >/dev/null ||
            complain "there is no heading for $target"
        ;;
    *) [[ -e $tree/$target ]] || complain "there is no $target" ;;
    esac
done < <(grep -o ']([^)]*)' "$readme" | sed 's/^](//; s/)$//')
((links > 10)) || complain "README has hardly any links: is it read rightly?"

grep -q '^## What weir changes in your process$' "$readme" ||
    complain "the section on what weir changes in a process is missing"

# The commands and weir-soak's options that are shown.
for command in soak test matrix bench; do
    grep -q "script/$command" "$readme" || complain "README does not tell of script/$command"
    [[ -x $tree/script/$command ]] || complain "there is no script/$command"
done
help=$("$soak" --help)
while IFS= read -r option; do
    grep -q -- "^  $option " <<<"$help" || complain "weir-soak does not know $option"
done < <(grep -o 'script/soak --[^#]*' "$readme" | grep -o -- '--[a-z-]*' | grep -v -x -e --help |
    sort -u)
((bad == 0))
