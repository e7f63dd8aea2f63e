/*
 * progress.c - the line on the screen.
 *
 * Knows:   terminals (one line, redrawn), everything else (a line every few seconds), and
 *          that block characters need a UTF-8 locale.
 * Ignores: where the numbers come from. Everything goes to standard error, so that the summary
 *          can be kept by redirecting standard output.
 */
#define _GNU_SOURCE
#include "soak.h"

#include <langinfo.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { REDRAW_MS = 100, PLAIN_MS = 5000, PLOT_WIDTH = 24 };

static bool line_is_drawn;

bool progress_is_utf8(void)
{
    return !strcmp(nl_langinfo(CODESET), "UTF-8");
}

const char *grouped(uint64_t number, char buf[28])
{
    char     digits[24];
    unsigned length = (unsigned)snprintf(digits, sizeof digits, "%llu",
                                         (unsigned long long)number);
    char    *to = buf;

    for (unsigned i = 0; i < length; i++) {
        if (i && (length - i) % 3 == 0)
            *to++ = ',';
        *to++ = digits[i];
    }
    *to = 0;
    return buf;
}

static enum progress_style style(void)
{
    if (soak.options.progress != PROGRESS_AUTO)
        return soak.options.progress;
    return isatty(STDERR_FILENO) ? PROGRESS_REDRAW : PROGRESS_PLAIN;
}

/* The latest descriptor counts as small columns; a full one is RLIMIT_NOFILE. */
static void plot(char *out, size_t size)
{
    static const char *const blocks[] = { "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█" };
    static const char *const ascii[] = { "_", ".", ":", "-", "=", "+", "*", "#" };
    const char *const       *levels = progress_is_utf8() ? blocks : ascii;
    const struct watch      *w = &soak.watch;
    unsigned                 first = w->count > PLOT_WIDTH ? w->count - PLOT_WIDTH : 0;
    size_t                   used = 0;

    out[0] = 0;
    for (unsigned i = first; i < w->count && used + 4 < size; i++) {
        unsigned level = w->sample[i].fds * 8 / soak.options.nofile;
        used += (size_t)snprintf(out + used, size - used, "%s", levels[level < 8 ? level : 7]);
    }
}

static void compose(char *out, size_t size)
{
    const struct watch *w = &soak.watch;
    char                lives[28], wanted[40] = "", waiting[28], rate[28];
    char                columns[PLOT_WIDTH * 3 + 4];

    unsigned            in_use = 0, waiters = 0;

    EACH_DATABASE(db) {
        in_use += db->now.in_use;
        waiters += db->now.waiting;
    }
    plot(columns, sizeof columns);
    if (!soak.options.duration_s) {
        snprintf(wanted, sizeof wanted, "/");
        grouped(soak.options.coroutines, wanted + 1);
    }
    snprintf(out, size, "%5.1f s  lives %s%s  fds %u (peak %u, limit %u)  in use %u  waiting %s  "
             "%s q/s  %s", watch_seconds(), grouped(soak.lives, lives), wanted, w->fds,
             w->fds_peak, soak.options.nofile, in_use, grouped(waiters, waiting),
             grouped((uint64_t)w->queries_per_s, rate), columns);
}

static unsigned terminal_columns(void)
{
    struct winsize size;

    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) || !size.ws_col)
        return 120;
    return size.ws_col;
}

/* A line that wraps cannot be redrawn. Cut by characters, of which some are several bytes. */
static void cut_to(char *line, unsigned columns)
{
    for (char *at = line; *at; at++) {
        if (((unsigned char)*at & 0xc0) == 0x80)
            continue;
        if (columns-- == 1) {
            *at = 0;
            return;
        }
    }
}

static void draw(void)
{
    char line[400];

    compose(line, sizeof line);
    cut_to(line, terminal_columns());
    fprintf(stderr, "\r%s\033[K", line);
    fflush(stderr);
    line_is_drawn = true;
}

void progress_clear(void)
{
    if (line_is_drawn)
        fputs("\r\033[K", stderr);
    line_is_drawn = false;
}

void progress_say(const char *fmt, ...)
{
    va_list args;

    if (style() == PROGRESS_NONE)
        return;
    progress_clear();
    fprintf(stderr, "%5.1f s  ", watch_seconds());
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
}

weir_status progress_run(void *unused)
{
    enum progress_style how = style();
    weir_status         status = WEIR_OK;
    char                line[400];

    (void)unused;
    while (how != PROGRESS_NONE && status == WEIR_OK) {
        status = weir_sleep(weir_in_ms(how == PROGRESS_REDRAW ? REDRAW_MS : PLAIN_MS));
        if (how == PROGRESS_REDRAW) {
            draw();
        } else if (status == WEIR_OK) {
            compose(line, sizeof line);
            fprintf(stderr, "%s\n", line);
        }
    }
    progress_clear();
    return WEIR_OK;
}
