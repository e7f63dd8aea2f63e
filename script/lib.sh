# shellcheck shell=bash
#
# lib.sh - what the scripts share: Debian packages, builds, the private servers, running a
# program to its end. Sourced, never run.
#
# Everything here talks on standard error, so that a program's own output stays alone on
# standard output.

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

# Where builds go; WEIR_BUILD_DIR is for trees that cannot be written to.
build_root=${WEIR_BUILD_DIR:-$root/build}
jobs=${WEIR_JOBS:-2}

say()
{
    printf '%s\n' "$*" >&2
}

die()
{
    say "${0##*/}: $*"
    exit 1
}

# ---- packages -----------------------------------------------------------------------------

# shellcheck disable=SC2034  # read by the scripts
packages_build=(gcc g++ cmake ninja-build pkg-config libev-dev libboost-context-dev
    libmariadb-dev libmongoc-dev libbson-dev libssl-dev libcmocka-dev)
# shellcheck disable=SC2034
packages_server=(mariadb-server mariadb-client openssl)
# For the tests only: somebody else's client library, which is patched, and its server.
# shellcheck disable=SC2034
packages_patch=(libhiredis-dev redis-server)
# Debian has no MongoDB server: see can_have_mongo().

as_root()
{
    if [[ $(id -u) == 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -- "$@"
    else
        die "not root, and there is no sudo; run as root: $*"
    fi
}

is_installed()
{
    [[ $(dpkg-query -W -f '${db:Status-Status}' -- "$1" 2>/dev/null) == installed ]]
}

apt()
{
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -y -q "$@" >&2
}

# Debian starts a server as soon as its package is installed, and at every boot from then on.
# Ours is private, so one that comes in on our account is told to stay down; one that was
# there before is left as it is.
install_quietly()
{
    local policy=/usr/sbin/policy-rc.d ours=no status=0 services=()

    [[ " $* " != *' mariadb-server '* ]] || services+=(mariadb.service)
    [[ " $* " != *' redis-server '* ]] || services+=(redis-server.service)
    if ((${#services[@]})) && [[ ! -e $policy ]]; then
        ours=yes
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
    apt install --no-install-recommends "$@" || status=$?
    if [[ $ours == yes ]]; then
        as_root rm -f "$policy"
        if command -v systemctl >/dev/null; then
            as_root systemctl disable "${services[@]}" >&2 || true
        fi
    fi
    return "$status"
}

# need_packages yes|no NAME...   "no" only looks, and says what is missing.
need_packages()
{
    local may_install=$1 name missing=()
    shift

    if ! command -v dpkg-query >/dev/null; then
        say "this is no Debian system; needed are what Debian calls: $*"
        return 0
    fi
    for name in "$@"; do
        is_installed "$name" || missing+=("$name")
    done
    ((${#missing[@]})) || return 0
    if [[ $may_install != yes ]]; then
        die "missing packages; install them with: apt-get install --no-install-recommends" \
            "${missing[*]}"
    fi
    say "installing packages: ${missing[*]}"
    apt update || say "apt-get update failed; trying with the lists that are there"
    install_quietly "${missing[@]}" || die "could not install: ${missing[*]}"
}

# ---- builds -------------------------------------------------------------------------------

# build_preset PRESET [TARGET...]: configure and build; quiet unless it fails.
build_preset()
{
    local preset=$1 dir=$build_root/$1 log targets=()
    shift

    mkdir -p -- "$dir"
    log=$dir/weir-build.log
    (($# == 0)) || targets=(--target "$@")
    say "building $preset in $dir"
    if ! { (cd -- "$root" && cmake --preset "$preset" -B "$dir") &&
        cmake --build "$dir" -j "$jobs" "${targets[@]}"; } >"$log" 2>&1; then
        tail -n 60 -- "$log" >&2
        say "building $preset failed; all of it is in $log"
        return 1
    fi
}

# ---- the private servers, and everything temporary ----------------------------------------

scratch=
servers=() # the kinds that we have started; each is in the folder of scratch that has its name

make_scratch()
{
    [[ -z $scratch ]] || return 0
    scratch=$(mktemp -d "${TMPDIR:-/tmp}/weir.XXXXXX")
    # A Unix socket's address holds 107 bytes, too few for some temporary directories.
    if ((${#scratch} > 80)); then
        rmdir -- "$scratch"
        scratch=$(mktemp -d /tmp/weir.XXXXXX)
    fi
    scratch=$(cd -- "$scratch" && pwd -P)
    trap clean_up EXIT
    exit_on_signals
}

exit_on_signals()
{
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

clean_up()
{
    local status=$? kind

    trap '' HUP INT TERM # a second interrupt must not leave a server behind
    for kind in "${servers[@]}"; do
        "$root/script/private-server" "$kind" stop "$scratch/$kind" || true
    done
    [[ -z $scratch ]] || rm -rf -- "$scratch"
    exit "$status"
}

# start_server [KIND]: start a server (mariadb unless told) and put the WEIR_MYSQL_* or
# WEIR_MONGO_* settings of it into our environment.
start_server()
{
    local kind=${1:-mariadb}

    make_scratch
    servers+=("$kind")
    say "starting a private server: $kind"
    "$root/script/private-server" "$kind" start "$scratch/$kind" >&2
    set -a
    # shellcheck disable=SC1090
    . "$scratch/$kind/env"
    set +a
}

# can_have_mongo yes|no: is there a MongoDB server to start? Status 1, and why not, if there is
# none. Where there is no mongod, FerretDB is built; "no" installs no packages for that.
can_have_mongo()
{
    local options=()

    [[ $1 == yes ]] || options=(--no-install)
    if [[ -z ${MONGOD:-} ]] && ! command -v mongod >/dev/null &&
        ! "$root/script/ferretdb" "${options[@]}" >/dev/null; then
        say "no MongoDB server: there is no mongod, and FerretDB could not be built (see above)"
        return 1
    fi
}

# ---- running a program to its end ---------------------------------------------------------

# Run it as if in the foreground, give back its exit status, and say in `interrupted` whether a
# signal came meanwhile. It is in the background in truth: bash acts on a TERM only when the
# foreground program has ended, and this one may take minutes. An interrupt at the terminal
# reaches it by itself.
run_to_end()
{
    local child status again

    # shellcheck disable=SC2034  # read by the scripts
    interrupted=no
    env --default-signal=INT,QUIT -- "$@" <&0 &
    child=$!
    trap 'again=yes; interrupted=yes; kill -TERM "$child" 2>/dev/null || true' TERM HUP
    trap 'again=yes; interrupted=yes' INT
    while :; do
        again=no
        status=0
        wait "$child" || status=$?
        [[ $again == yes ]] || break
    done
    exit_on_signals
    return "$status"
}
