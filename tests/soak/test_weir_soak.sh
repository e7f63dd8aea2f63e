#!/usr/bin/env bash
#
# test_weir_soak.sh - weir-soak as its users meet it: what it says of wrong options, and short
# runs of each mode with the numbers they report.
#
# usage: test_weir_soak.sh options|runs WEIR-SOAK

set -euo pipefail

export MONGOC_DISABLE_SHM=1 # or libmongoc warns where a file of its counters was left behind

part=$1
soak=$(realpath -- "$2")
dir=$(mktemp -d)
trap 'rm -rf -- "$dir"' EXIT
bad=0

complain()
{
    printf '%s\n' "$*"
    bad=$((bad + 1))
}

# ---- wrong options ------------------------------------------------------------------------

# refused WORDS OPTION...: it ends with 2 and one line that has the words, but no password.
refused()
{
    local words=$1 status=0 said
    shift
    said=$("$soak" "$@" 2>&1 </dev/null) || status=$?
    ((status == 2)) || complain "$*: status $status, not 2"
    [[ $said == *"$words"* ]] || complain "$*: does not say \"$words\": $said"
    [[ $said != *hush* && $said != *sesame* ]] || complain "$*: tells a password: $said"
    [[ $(wc -l <<<"$said") == 1 ]] || complain "$*: says more than a line: $said"
}

refuse_options()
{
    local option

    refused "unrecognized option '--frobnicate'" --frobnicate
    refused "'surplus' is no option" surplus
    refused "--cap is a number from 1" --cap 0
    refused "--cap is a number from 1" --cap -3
    refused "--cap is a number from 1" --cap ' -3'
    refused "--seed is a number from 0" --seed ' -3'
    refused "--cap is a number from 1" --cap 24x
    refused "--nofile is a number from 32" --nofile 8
    refused "--idle-timeout-ms is a number from 1" --idle-timeout-ms 0
    refused "--coroutines is a number from" --coroutines 5
    refused "--duration-s is a number from 1" --duration-s ''
    refused "--db is mysql, mongo or both" --db postgres
    refused "--progress is auto" --progress loud
    refused "is no share" --mix lots
    refused "there is no kind 'sing'" --mix sing=1
    refused "lacks its share" --mix forget=1,nested
    refused "at least ten per cent have to behave" --mix forget=90,nested=5
    refused "is too low for --cap" --cap 24 --db mysql --concurrency 30
    refused "are two runs" --naive --unbounded
    for option in --naive --unbounded; do
        refused "add --insist" "$option" --mysql mysql://u@127.0.0.1/db
    done
    refused "could not be read" --mysql mysql://u@127.0.0.1/db --password-file "$dir/none"
    refused "no URI was given" --db mysql
    refused "--json: $dir/none/report cannot be written: No such file" --json "$dir/none/report"
    refused "--html: $dir cannot be written" --html "$dir"
    "$soak" --check-options --json "$dir/report" --html /dev/full || complain "good ones are refused"
    [[ ! -e $dir/report ]] || complain "a look at the options made a file"
}

refuse_uris()
{
    refused "mysql://user@host" --mysql postgres://u:hush@127.0.0.1/db
    refused "%40, %2F, %3F and %23" --mysql 'mysql://u:hush?sesame@127.0.0.1/db'
    refused "%40, %2F, %3F and %23" --mysql 'mysql://u:hush/sesame@127.0.0.1/db'
    refused "%40, %2F, %3F and %23" --mysql 'mysql://u:hush#sesame@127.0.0.1/db'
    refused "the password has a '%'" --mysql 'mysql://u:hush%zz@127.0.0.1/db'
    refused "the port is no number" --mysql mysql://u:hush@127.0.0.1:33o6/db
    refused "the port is no number" --mysql mysql://u:hush@127.0.0.1:/db
    refused "the port is no number" --mysql mysql://u:hush@127.0.0.1:70000/db
    refused "stands in brackets" --mysql mysql://u:hush@::1/db
    refused "is not closed" --mysql 'mysql://u:hush@[::1/db'
    refused "after the ']'" --mysql 'mysql://u:hush@[::1]x/db'
    refused "a user, a host and a database" --mysql mysql://127.0.0.1/db
    refused "a user, a host and a database" --mysql mysql://u:hush@127.0.0.1
    refused "'localhost' means a Unix socket" --mysql mysql://u:hush@localhost/db
    refused "add tls_ca=FILE" --mysql mysql://u:hush@db.example/db
    refused "off, encrypt or verify" --mysql 'mysql://u:hush@127.0.0.1/db?tls=maybe'
    refused "does not know 'colour'" --mysql 'mysql://u:hush@127.0.0.1/db?colour=red'
    refused "not option=value" --mysql 'mysql://u:hush@127.0.0.1/db?tls'
    # One that can be read, and nobody there: an error, and no soak of anything.
    refused "the server could not be used" --mysql mysql://u:hush@127.0.0.1:1/db
}

# ---- short runs ---------------------------------------------------------------------------

# The value of a name in the report's outermost object: two blanks before it, as all the rest has,
# but the databases' own come later.
value()
{
    sed -n "/^  \"$1\": /{s/^[^:]*: \(.*[^,]\),\{0,1\}$/\1/p;q}" "$dir/json"
}

# run STATUS OPTION...: a soak of MySQL on the private server.
run()
{
    local wanted=$1 status=0
    shift
    "$soak" --db mysql --progress none --seed 7 --json "$dir/json" --html "$dir/html" "$@" \
        >"$dir/said" 2>&1 || status=$?
    ((status == wanted)) || {
        complain "$*: status $status, not $wanted"
        cat "$dir/said"
    }
}

# has NAME VALUE
has()
{
    [[ $(value "$1") == "$2" ]] || complain "$1 is $(value "$1"), not $2"
}

# What programs that read the report rely on.
has_all_names()
{
    local name
    for name in lives misbehaved accidents emfile_surfaced fds_start fds_end fds_peak nofile cap \
        server_connections_start server_connections_end acknowledged acknowledged_missing \
        duplicated rss_mid_kb rss_end_kb hub_stall_max_ms wait_p50_us wait_p99_us \
        closed_by_reason verdict; do
        [[ -n $(value "$name") ]] || complain "the report has no $name"
    done
    grep -q '</html>' "$dir/html" || complain "the page is cut off"
    # It must show everything without a network.
    ! grep -Eq '(src|href)="?https?:' "$dir/html" || complain "the page loads something"
}

soak_shortly()
{
    run 0 --coroutines 6000
    has_all_names
    has verdict '"PASS"'
    has nofile 96
    has cap 24
    has seed 7
    has emfile_surfaced 0
    has acknowledged_missing 0
    has duplicated 0
    has server_connections_end "$(value server_connections_start)"
    has fds_end "$(value fds_start)"
    (($(value lives) >= 6000)) || complain "only $(value lives) lives"
    (($(value acknowledged) > 0)) || complain "nothing was written"
    [[ $(value misbehaved) == *'"forget": '[1-9]* ]] || complain "nobody forgot"
    [[ $(value closed_by_reason) == *'"leaked": '[1-9]* ]] || complain "no leak was closed"
    [[ $(grep -c '"kind": "\(kill\|stall\|refuse\)"' "$dir/json") == 3 ]] ||
        complain "there were other accidents than three"
}

# What must not be silently another run.
soak_with_options()
{
    run 0 --coroutines 2000 --no-accidents --tls --cap 6 --nofile 64 --idle-timeout-ms 50 \
        --concurrency 60 --mix forget=2,half_read=1
    has tls true
    has cap 6
    has nofile 64
    has idle_timeout_ms 50
    has concurrency 60
    has verdict '"PASS"'
    [[ $(value misbehaved) == *'"forget": 40,'*'"nested": 0,'* ]] ||
        complain "the mix is another: $(value misbehaved)"
    (($(value fds_peak) <= 64)) || complain "$(value fds_peak) descriptors"
}

# A mode that must end in EMFILE: it says so, when, and fails.
runs_out()
{
    run 1 "$1"
    has verdict '"FAIL"'
    has emfile_surfaced 1
    (($(value ended_after_coroutines) > 60)) ||
        complain "$1: only $(value ended_after_coroutines) coroutines with 96 descriptors"
    grep -q 'EMFILE when [0-9]' "$dir/said" || complain "$1 does not say so: $(cat "$dir/said")"
}

case $part in
options)
    unset WEIR_MYSQL_PORT WEIR_MONGO_PORT WEIR_SOAK_PASSWORD # a server would be soaked
    refuse_options
    refuse_uris
    ;;
runs)
    if [[ -z ${WEIR_MYSQL_PORT:-} ]]; then
        echo "skipped: no server (script/private-server starts one)"
        exit 77
    fi
    soak_shortly
    soak_with_options
    runs_out --naive
    runs_out --unbounded
    ;;
esac
((bad == 0))
