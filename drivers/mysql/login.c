/*
 * login.c - who a connection logs in as: whom the settings name, or a callback.
 *
 * Knows:   where a password is while it is needed, also the library's copy of it.
 * Ignores: what is asked for it (the library), where a callback has it from.
 *
 * A callback's answer lives from the first packet of a login to its end, the addresses of one host
 * tried in between. The library keeps a copy in its handle, to reconnect with, which it never
 * does here: that is wiped too, or a rotated password would stay in memory as long as its
 * connections. Where a login fails the library frees the copy as it is; but it closes the socket
 * before that, which goes through our hands (own_close() in io.c). Not through them go a connection
 * held plainly that is refused, and a session that cannot log in anew: those copies are freed as
 * they are.
 */
#include "mysql_internal.h"

#include <string.h>

weir_status my_login_begin(struct my_conn *conn, weir_error *err)
{
    const weir_mysql_opts *opts = &conn->config->opts;
    weir_error             said = { 0 };

    if (!opts->credentials)
        return WEIR_OK;
    weir_status status = weir_credentials_ask(opts->credentials, opts->credentials_arg, opts->user,
                                              conn->limit, &conn->identity, &said);
    if (status == WEIR_OK)
        return WEIR_OK;
    weir_error_set(err, status, "cannot connect to %s: %s", conn->config->target, said.message);
    if (err)
        err->outcome = WEIR_OUTCOME_NOT_SENT;
    return status;
}

const char *my_login_user(const struct my_conn *conn)
{
    return conn->identity ? conn->identity->user : conn->config->opts.user;
}

const char *my_login_password(const struct my_conn *conn)
{
    return conn->identity ? conn->identity->password : conn->config->opts.password;
}

void my_login_forget(struct my_conn *conn)
{
    if (conn->identity && conn->made && conn->my.passwd)
        explicit_bzero(conn->my.passwd, strlen(conn->my.passwd));
}

void my_login_end(struct my_conn *conn)
{
    my_login_forget(conn);
    weir_credentials_forget(conn->identity);
    conn->identity = NULL;
}
