# shellcheck shell=bash
#
# mongo.sh - what private-server needs to know about servers that speak MongoDB's protocol.
# Sourced, never run.
#
# Knows:   two of them: mongod ($MONGOD, else the one on PATH) and, where there is none,
#          FerretDB (script/ferretdb); the few commands that make a user and ask for life.
# Ignores: mongosh and its kin, which a machine may not have: the commands are put together
#          here, as bytes (server/opmsg.sh).
#
# mongod runs as a replica set of one, since only a replica set has transactions and change
# streams, and with its test commands on (configureFailPoint). It speaks TLS and plain text on
# one port; FerretDB takes a port for each.
#
# shellcheck disable=SC2034,SC2154  # what is set here is read by private-server, and back

# shellcheck source-path=SCRIPTDIR source=opmsg.sh
. "$here/server/opmsg.sh"

# Programs connect by address and by name, and both must verify.
certificate_names=DNS:db.weir.test,IP:127.0.0.1
log_files=(out.log)
taken_words='[Aa]ddress already in use'

program=
flavour=
on_admin=$(element_text "\$db" admin)

server_tools()
{
    need_tools openssl openssl od
    # One that was started is started again, whatever has been installed meanwhile.
    if [[ -r $dir/env ]]; then
        # shellcheck disable=SC1091
        program=$(. "$dir/env" && printf '%s' "$WEIR_MONGO_PROGRAM")
    elif [[ $verb == start ]]; then
        program=${MONGOD:-$(command -v mongod || "$here/ferretdb" --no-install)} ||
            die "there is no MongoDB server: set MONGOD, install mongod, or see script/ferretdb"
        program=$(command -v -- "$program") || die "MONGOD is $MONGOD, which is no program"
    fi
    case ${program##*/} in
    ferretdb*) flavour=ferretdb socket_name=s.sock ;;
    *) flavour=mongod socket_name='mongodb-PORT.sock' ;; # so named by mongod, for its port
    esac
    [[ $verb != start ]] || printf 'the MongoDB server is %s\n' "$program" >&2
}

server_mark()
{
    printf '%s\n' "--state-dir=$dir/data" "--dbpath=$dir/data"
}

server_socket()
{
    printf '%s/%s' "$dir" "${socket_name/PORT/$1}"
}

server_answers()
{
    ask "$port" "$(element_int32 ping 1)$on_admin" >/dev/null
}

server_make_data()
{
    rm -rf -- "$dir/data"
    mkdir -p -- "$dir/data/sqlite"
    openssl rand -base64 96 | tr -d '\n' >"$dir/members.key" # what members know each other by
    chmod 600 "$dir/members.key"
    (umask 077 && cat -- "$dir/server.pem" "$dir/server.key" >"$dir/server.both")
}

# The password goes by the environment: a command line can be read by everybody.
server_exec()
{
    local port=$1 first=()

    printf '%s\n' "$BASHPID" >"$dir/pid"
    if [[ $flavour == mongod ]]; then
        exec setsid "$program" --dbpath="$dir/data" --port "$port" --bind_ip 127.0.0.1 \
            --unixSocketPrefix "$dir" --replSet weir --oplogSize 64 \
            --auth --keyFile "$dir/members.key" --wiredTigerCacheSizeGB 0.25 \
            --tlsMode preferTLS --tlsCertificateKeyFile "$dir/server.both" \
            --tlsCAFile "$dir/ca.pem" --tlsAllowConnectionsWithoutCertificates \
            --setParameter enableTestCommands=1
    fi
    export DO_NOT_TRACK=1
    if [[ ! -r $dir/env ]]; then # it makes its first user itself, and only once
        export FERRETDB_SETUP_PASSWORD=$password
        first=(--setup-username=weir --setup-database=admin)
    fi
    exec setsid "$program" --handler=sqlite --sqlite-url="file:$dir/data/sqlite/" \
        --state-dir="$dir/data" --listen-addr="127.0.0.1:$port" --listen-unix="$dir/s.sock" \
        --listen-tls="127.0.0.1:$((port + 1))" --listen-tls-cert-file="$dir/server.pem" \
        --listen-tls-key-file="$dir/server.key" --debug-addr=- --telemetry=disable \
        --log-level=WARN --test-enable-new-auth "${first[@]}"
}

# ---- the first user -----------------------------------------------------------------------

# Until there is a user, mongod lets whoever comes over loopback make a set and the first one.
server_make_users()
{
    local port=$1 password=$2 member

    [[ $flavour == mongod ]] || return 0
    member="$(element_int32 _id 0)$(element_text host "127.0.0.1:$port")"
    member=$(element_array members "$(element_document 0 "$member")")
    ask "$port" "$(element_document replSetInitiate "$(element_text _id weir)$member"
    )$on_admin" || return 1
    wait_for_primary "$port" || return 1
    ask "$port" "$(element_text createUser weir)$(element_text pwd "$password"
    )$(element_array roles "$(element_text 0 root)")$on_admin"
}

wait_for_primary()
{
    local give_up=$((SECONDS + 30)) primary
    primary=08$(hex isWritablePrimary)0001

    while ((SECONDS < give_up)); do
        [[ $(ask "$1" "$(element_int32 hello 1)$on_admin") != *"$primary"* ]] ||
            return 0
        sleep 0.1
    done
    return 1
}

# ---- what others are told -----------------------------------------------------------------

server_env()
{
    local port=$1 password=$2 tls_port=$1
    [[ $flavour == mongod ]] || tls_port=$((port + 1))

    printf 'WEIR_MONGO_KIND=%q\n' "$flavour"
    printf 'WEIR_MONGO_PROGRAM=%q\n' "$program"
    printf 'WEIR_MONGO_SOCKET=%q\n' "$(server_socket "$port")"
    printf 'WEIR_MONGO_HOST=127.0.0.1\n'
    printf 'WEIR_MONGO_PORT=%q\n' "$port"
    printf 'WEIR_MONGO_TLS_PORT=%q\n' "$tls_port"
    printf 'WEIR_MONGO_USER=weir\n'
    printf 'WEIR_MONGO_PASSWORD=%q\n' "$password"
    printf 'WEIR_MONGO_DATABASE=weir_test\n'
    printf 'WEIR_MONGO_AUTH_SOURCE=admin\n'
    printf 'WEIR_MONGO_CA=%q\n' "$dir/ca.pem"
    printf 'WEIR_MONGO_TLS_NAME=db.weir.test\n'
    printf 'WEIR_MONGO_PID_FILE=%q\n' "$dir/pid"
    printf 'WEIR_MONGO_DIR=%q\n' "$dir"
    printf 'WEIR_MONGO_URI=%q\n' \
        "mongodb://weir:$password@127.0.0.1:$port/weir_test?authSource=admin"
}

server_recall()
{
    port=$WEIR_MONGO_PORT
    password=$WEIR_MONGO_PASSWORD
}
