# shellcheck shell=bash
#
# mariadb.sh - what private-server needs to know about MariaDB. Sourced, never run.
#
# shellcheck disable=SC2034,SC2154  # what is set here is read by private-server, and back

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

socket_name=s.sock
certificate_names=DNS:db.weir.test
log_files=(err.log out.log)
taken_words='Bind on TCP/IP port'
as_root=() # which it refuses to run as unless told to
[[ $(id -u) != 0 ]] || as_root=(--user=root)

server_tools()
{
    need_tools 'mariadb-server, openssl' mariadbd mariadb mariadb-admin mariadb-install-db openssl
}

server_mark()
{
    printf '%s\n' "--datadir=$dir/data"
}

# The ping succeeds on "access denied" too, so it needs no password.
server_answers()
{
    [[ -s $dir/pid ]] &&
        mariadb-admin --no-defaults --socket="$dir/s.sock" --connect-timeout=2 ping \
            >/dev/null 2>&1
}

server_make_data()
{
    rm -rf -- "$dir/data"
    (
        # mariadb-install-db does not quote its paths, so it gets one without the directory's.
        cd -- "$dir"
        mariadb-install-db --no-defaults "${as_root[@]}" --datadir=./data --skip-test-db \
            --auth-root-authentication-method=socket --auth-root-socket-user="$(id -un)"
    ) >"$dir/install.log" 2>&1 ||
        die "mariadb-install-db failed: $(tail -n 5 "$dir/install.log")"
}

server_exec()
{
    local port=$1

    rm -f -- "$dir/pid"
    exec setsid mariadbd --no-defaults "${as_root[@]}" \
        --datadir="$dir/data" --socket="$dir/s.sock" --pid-file="$dir/pid" \
        --port="$port" --bind-address=127.0.0.1 --skip-name-resolve \
        --max-connections=400 --max-allowed-packet=256M --skip-log-bin \
        --innodb-buffer-pool-size=128M --innodb-log-file-size=256M \
        --loose-innodb-flush-log-at-trx-commit=2 \
        --plugin-load-add=auth_ed25519 --local-infile=1 --thread-cache-size=256 \
        --ssl-ca="$dir/ca.pem" --ssl-cert="$dir/server.pem" --ssl-key="$dir/server.key" \
        --log-error="$dir/err.log"
}

server_make_users()
{
    local password=$2

    mariadb --no-defaults --socket="$dir/s.sock" --user="$(id -un)" --batch <<SQL
DROP USER IF EXISTS ''@'localhost';
CREATE DATABASE weir_test CHARACTER SET utf8mb4;
CREATE USER weir@'%' IDENTIFIED BY '$password';
GRANT ALL ON *.* TO weir@'%' WITH GRANT OPTION;
CREATE USER weir_limited@'%' IDENTIFIED BY '$password';
GRANT ALL ON weir_test.* TO weir_limited@'%';
CREATE USER weir_ed25519@'%' IDENTIFIED VIA ed25519 USING PASSWORD('$password');
GRANT ALL ON weir_test.* TO weir_ed25519@'%';
SQL
}

server_env()
{
    local port=$1 password=$2

    printf 'WEIR_MYSQL_SOCKET=%q\n' "$dir/s.sock"
    printf 'WEIR_MYSQL_HOST=127.0.0.1\n'
    printf 'WEIR_MYSQL_PORT=%q\n' "$port"
    printf 'WEIR_MYSQL_USER=weir\n'
    printf 'WEIR_MYSQL_PASSWORD=%q\n' "$password"
    printf 'WEIR_MYSQL_DATABASE=weir_test\n'
    printf 'WEIR_MYSQL_CA=%q\n' "$dir/ca.pem"
    printf 'WEIR_MYSQL_TLS_NAME=db.weir.test\n'
    printf 'WEIR_MYSQL_PID_FILE=%q\n' "$dir/pid"
    printf 'WEIR_MYSQL_DIR=%q\n' "$dir"
}

# What a restart takes from the env file.
server_recall()
{
    port=$WEIR_MYSQL_PORT
    password=$WEIR_MYSQL_PASSWORD
}
