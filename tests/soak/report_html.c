/*
 * report_html.c - a page with plots, for people.
 *
 * Knows:   HTML and SVG. The page is one file, needs nothing from elsewhere, runs no script,
 *          and follows the reader's preference for light or dark.
 * Ignores: how the numbers were come by.
 *
 * All plots share the axis of time, so that an accident, drawn as a band through each, shows
 * what it did everywhere.
 */
#include "soak.h"

#include <string.h>

enum { WIDTH = 940, HEIGHT = 200, LEFT = 58, RIGHT = 14, TOP = 22, BOTTOM = 24, POINTS = 600 };

static const char style[] =
    "<style>\n"
    ":root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#16202c;--soft:#5b6877;"
    "--line:#dde2e8;--a:#1f6fd1;--a-fill:#1f6fd11f;--b:#c2571a;--limit:#c62b3a;--cap:#6a4bc4;"
    "--band:#e8a33d38;--band-ink:#8a5a06;--good:#15803d;--bad:#c62b3a}\n"
    "@media(prefers-color-scheme:dark){:root{--page:#10151c;--card:#182029;--ink:#e6ebf1;"
    "--soft:#95a2b1;--line:#2b3643;--a:#62a8f5;--a-fill:#62a8f52b;--b:#f0935a;--limit:#ff6b78;"
    "--cap:#b09cf5;--band:#e8a33d33;--band-ink:#e9b765;--good:#4ade80;--bad:#ff6b78}}\n"
    "*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);"
    "font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}\n"
    "main{max-width:1020px;margin:0 auto;padding:32px 20px 56px}\n"
    "header{display:flex;gap:18px;align-items:center;flex-wrap:wrap}\n"
    "h1{font-size:26px;margin:0;letter-spacing:-.01em}h2{font-size:17px;margin:34px 0 10px}\n"
    "p{margin:6px 0;color:var(--soft)}\n"
    ".verdict{font-weight:700;padding:3px 14px;border-radius:999px;color:#fff;"
    "background:var(--good)}.verdict.bad{background:var(--bad)}\n"
    "@media(prefers-color-scheme:dark){.verdict{color:#0b1016}}\n"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;"
    "margin:22px 0 8px}\n"
    ".tile,.card{background:var(--card);border:1px solid var(--line);border-radius:10px}\n"
    ".tile{padding:12px 16px}.tile b{display:block;font-size:22px;line-height:1.25;"
    "font-variant-numeric:tabular-nums}.tile span{color:var(--soft);font-size:13px}\n"
    ".card{padding:12px 16px 8px;margin:0 0 12px;overflow-x:auto}\n"
    ".card h3{font-size:14px;margin:0;display:flex;gap:16px;flex-wrap:wrap;font-weight:600}\n"
    ".card h3 span{font-weight:400;color:var(--soft)}"
    ".card h3 i{display:inline-block;width:14px;height:3px;border-radius:2px;margin:0 6px 3px 0}\n"
    "svg{display:block;width:100%;min-width:560px;height:auto}"
    "svg text{font-size:11.5px;fill:var(--soft);font-variant-numeric:tabular-nums}\n"
    ".grid{stroke:var(--line)}.line{fill:none;stroke-width:1.6;stroke-linejoin:round}\n"
    ".a{stroke:var(--a)}.a-fill{fill:var(--a-fill)}.b{stroke:var(--b)}\n"
    ".mark{stroke-width:1.4;stroke-dasharray:6 4}.limit{stroke:var(--limit)}"
    ".cap{stroke:var(--cap)}svg .limit-t{fill:var(--limit)}svg .cap-t{fill:var(--cap)}"
    ".limit-t,.cap-t{paint-order:stroke;stroke:var(--card);stroke-width:4px}\n"
    ".band{fill:var(--band)}svg .band-t{fill:var(--band-ink);font-weight:600}\n"
    "table{width:100%;border-collapse:collapse}td,th{text-align:left;padding:6px 12px 6px 0;"
    "border-top:1px solid var(--line);vertical-align:top}tr:first-child>*{border-top:0}\n"
    "th{font-weight:600;color:var(--soft);font-size:13px}"
    ".n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}\n"
    ".ok{color:var(--good);font-weight:700}.no{color:var(--bad);font-weight:700}"
    ".soft{color:var(--soft)}\n"
    ".two{display:grid;grid-template-columns:repeat(auto-fit,minmax(340px,1fr));gap:12px}\n"
    "</style>\n";

static bool is_the_soak(void)
{
    return strcmp(soak.mode, "soak") == 0;
}

static void text(FILE *f, const char *s)
{
    for (; *s; s++) {
        if (*s == '<')
            fputs("&lt;", f);
        else if (*s == '>')
            fputs("&gt;", f);
        else if (*s == '&')
            fputs("&amp;", f);
        else
            fputc(*s, f);
    }
}

/* ---- a plot ------------------------------------------------------------------------- */

struct axis {
    double top;
    double bottom; /* of a logarithmic one; 0 else */
    double seconds;
    void (*label)(char *buf, size_t size, double value);
};

struct series {
    const char *name;
    const char *css;
    bool        filled;
    double (*value)(const struct sample *sample, double seconds); /* below 0: nothing there */
};

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/*
 * The decimal logarithm, for values from 1, to three digits: all that a picture shows, and
 * then the program needs no mathematics library. Squaring a number doubles its logarithm,
 * which so gives up one binary digit after the other.
 */
static double decades(double value)
{
    double log = 0, digit = 1;

    for (; value >= 10; value /= 10)
        log += 1;
    for (unsigned i = 0; i < 12; i++) {
        value *= value;
        digit /= 2;
        if (value >= 10) {
            value /= 10;
            log += digit;
        }
    }
    return log;
}

static double x_of(const struct axis *axis, double seconds)
{
    return LEFT + (WIDTH - LEFT - RIGHT) * (axis->seconds > 0 ? seconds / axis->seconds : 0);
}

static double y_of(const struct axis *axis, double value)
{
    double part = axis->top > 0 ? value / axis->top : 0;

    if (axis->bottom > 0)
        part = value > axis->bottom
                   ? decades(value / axis->bottom) / decades(axis->top / axis->bottom)
                   : 0;
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (part < 1 ? part : 1));
}

/* 1, 2 or 5 times a power of ten, for about `count` steps. */
static double step_for(double range, unsigned count)
{
    static const double times[] = { 1, 2, 5 };
    double              power = 1e-6;

    for (; power < 1e12; power *= 10)
        for (unsigned i = 0; i < 3; i++)
            if (times[i] * power * count >= range)
                return times[i] * power;
    return power;
}

static void draw_grid_line(FILE *f, const struct axis *axis, double value)
{
    char label[32];

    axis->label(label, sizeof label, value);
    fprintf(f, "<line class='grid' x1='%d' x2='%d' y1='%.1f' y2='%.1f'/>"
            "<text x='%d' y='%.1f' text-anchor='end'>%s</text>\n", LEFT, WIDTH - RIGHT,
            y_of(axis, value), y_of(axis, value), LEFT - 8, y_of(axis, value) + 4, label);
}

static void draw_axes(FILE *f, const struct axis *axis)
{
    double step = step_for(axis->top, 4);
    double second = step_for(axis->seconds, 9);

    if (axis->bottom > 0)
        for (double v = axis->bottom; v < axis->top * 1.01; v *= 10)
            draw_grid_line(f, axis, v);
    else
        for (double v = 0; v <= axis->top * 1.001; v += step)
            draw_grid_line(f, axis, v);
    for (double s = 0; s <= axis->seconds && second > 0; s += second)
        fprintf(f, "<text x='%.1f' y='%d' text-anchor='middle'>%g s</text>\n", x_of(axis, s),
                HEIGHT - 6, s);
}

static void draw_accidents(FILE *f, const struct axis *axis, bool with_names)
{
    for (unsigned i = 0; i < soak.accidents.count; i++) {
        const struct accident *a = &soak.accidents.one[i];
        double                 until = a->answered_s > a->until_s ? a->answered_s : a->until_s;
        double                 from = x_of(axis, a->at_s);
        fprintf(f, "<rect class='band' x='%.1f' y='%d' width='%.1f' height='%d'><title>%s"
                "</title></rect>\n", from, TOP, larger(x_of(axis, until) - from, 2),
                HEIGHT - TOP - BOTTOM, accident_words(a));
        if (with_names)
            fprintf(f, "<text class='band-t' x='%.1f' y='%d'>%s%s%s</text>\n", from, TOP - 6,
                    a->db && soak.databases > 1 ? a->db->dialect->title : "",
                    a->db && soak.databases > 1 ? " " : "", accident_name(a));
    }
}

/* Of `stride` samples the largest value, so that no peak is lost. */
static double value_at(const struct series *series, unsigned first, unsigned stride)
{
    const struct watch *w = &soak.watch;
    double              largest = -1;

    for (unsigned i = first; i < first + stride && i < w->count; i++) {
        double before = i ? w->sample[i - 1].at_s : 0;
        double value = series->value(&w->sample[i], w->sample[i].at_s - before);
        largest = larger(largest, value);
    }
    return largest;
}

static void draw_line(FILE *f, const struct axis *axis, const struct series *series)
{
    const struct watch *w = &soak.watch;
    unsigned            stride = 1 + w->count / POINTS;
    bool                down = false;

    fprintf(f, "<path class='line %s' d='", series->css);
    for (unsigned i = 0; i < w->count; i += stride) {
        double value = value_at(series, i, stride);
        if (value >= 0)
            fprintf(f, "%c%.1f %.1f", down ? 'L' : 'M', x_of(axis, w->sample[i].at_s),
                    y_of(axis, value));
        down = value >= 0;
    }
    fputs("'/>\n", f);
}

static void draw_area(FILE *f, const struct axis *axis, const struct series *series)
{
    const struct watch *w = &soak.watch;
    unsigned            stride = 1 + w->count / POINTS;
    unsigned            last = 0;

    if (!w->count)
        return;
    fprintf(f, "<path class='%s-fill' d='M%.1f %.1f", series->css, x_of(axis, w->sample[0].at_s),
            y_of(axis, 0));
    for (unsigned i = 0; i < w->count; i += stride) {
        fprintf(f, "L%.1f %.1f", x_of(axis, w->sample[i].at_s),
                y_of(axis, larger(value_at(series, i, stride), 0)));
        last = i;
    }
    fprintf(f, "L%.1f %.1fZ'/>\n", x_of(axis, w->sample[last].at_s), y_of(axis, 0));
}

static void draw_mark(FILE *f, const struct axis *axis, double value, const char *css,
                      const char *words)
{
    double y = y_of(axis, value);

    fprintf(f, "<line class='mark %s' x1='%d' x2='%d' y1='%.1f' y2='%.1f'/>"
            "<text class='%s-t' x='%d' y='%.1f'>%s</text>\n", css, LEFT, WIDTH - RIGHT, y, y, css,
            LEFT + 6, y - 5, words);
}

static void begin_plot(FILE *f, const struct axis *axis, const char *title,
                       const struct series *series, unsigned count, bool first)
{
    fputs("<div class='card'><h3>", f);
    text(f, title);
    for (unsigned i = 0; i < count && count > 1; i++)
        fprintf(f, "<span><i style='background:var(--%s)'></i>%s</span>", series[i].css,
                series[i].name);
    fprintf(f, "</h3>\n<svg viewBox='0 0 %d %d' role='img' aria-label='%s over time'>\n", WIDTH,
            HEIGHT, title);
    draw_axes(f, axis);
    draw_accidents(f, axis, first); /* named in the first plot, above it */
    for (unsigned i = 0; i < count; i++) {
        if (series[i].filled)
            draw_area(f, axis, &series[i]);
        draw_line(f, axis, &series[i]);
    }
}

static void end_plot(FILE *f)
{
    fputs("</svg></div>\n", f);
}

/* ---- which plots -------------------------------------------------------------------- */

static double fds_value(const struct sample *s, double seconds)
{
    (void)seconds;
    return s->fds;
}

static double in_use_value(const struct sample *s, double seconds)
{
    (void)seconds;
    return s->in_use;
}

static double waiting_value(const struct sample *s, double seconds)
{
    (void)seconds;
    return s->waiting;
}

static double p50_value(const struct sample *s, double seconds)
{
    (void)seconds;
    return s->queries ? (double)s->p50_us : -1;
}

static double p99_value(const struct sample *s, double seconds)
{
    (void)seconds;
    return s->queries ? (double)s->p99_us : -1;
}

static double rate_value(const struct sample *s, double seconds)
{
    return seconds > 0.005 ? s->queries / seconds : -1;
}

static double rss_value(const struct sample *s, double seconds)
{
    (void)seconds;
    return s->rss_kb / 1024.0;
}

static void plain_label(char *buf, size_t size, double value)
{
    char number[28];

    if (value == (double)(uint64_t)value)
        snprintf(buf, size, "%s", grouped((uint64_t)value, number));
    else
        snprintf(buf, size, "%g", value);
}

static void time_label(char *buf, size_t size, double us)
{
    if (us < 1000)
        snprintf(buf, size, "%g µs", us);
    else if (us < 1e6)
        snprintf(buf, size, "%g ms", us / 1000);
    else
        snprintf(buf, size, "%g s", us / 1e6);
}

static void mib_label(char *buf, size_t size, double mib)
{
    snprintf(buf, size, "%g MiB", mib);
}

static double largest(const struct series *series)
{
    double most = 1;

    for (unsigned i = 0; i < soak.watch.count; i++)
        most = larger(most, value_at(series, i, 1));
    return most;
}

static struct axis axis_for(double top, void (*label)(char *, size_t, double))
{
    const struct watch *w = &soak.watch;
    struct axis         axis = { .top = top * 1.12, .label = label };

    axis.seconds = w->count ? w->sample[w->count - 1].at_s : 1;
    return axis;
}

static double first_value(const struct sample *s, double seconds)
{
    (void)seconds;
    return s->held[0];
}

static double second_value(const struct sample *s, double seconds)
{
    (void)seconds;
    return s->held[1];
}

/* Who had how many connections, a descriptor each, of those that all of them share. */
static void plot_sharing(FILE *f)
{
    struct series     series[] = { { soak.database[0].dialect->title, "a", false, first_value },
                                   { "", "b", false, second_value } };
    weir_budget_stats budget;
    struct axis       axis;
    char              words[80];

    if (soak.databases < 2)
        return;
    series[1].name = soak.database[1].dialect->title;
    weir_budget_read(&budget);
    axis = axis_for(budget.limit, plain_label);
    begin_plot(f, &axis, "Descriptors of each database", series, 2, false);
    snprintf(words, sizeof words, "all they share: %u (their caps: %u and %u)", budget.limit,
             soak.options.cap, soak.options.cap);
    draw_mark(f, &axis, budget.limit, "cap", words);
    end_plot(f);
}

static void plot_descriptors(FILE *f)
{
    struct series series = { "descriptors", "a", true, fds_value };
    struct axis   axis = axis_for(larger(soak.options.nofile, largest(&series)), plain_label);
    unsigned      cap = soak.watch.fds_base + soak.options.cap;
    char          words[80];

    begin_plot(f, &axis, "Open descriptors", &series, 1, true);
    snprintf(words, sizeof words, "RLIMIT_NOFILE %u", soak.options.nofile);
    draw_mark(f, &axis, soak.options.nofile, "limit", words);
    snprintf(words, sizeof words, "cap: %u connections, and %u other descriptors",
             soak.options.cap, soak.watch.fds_base);
    if (is_the_soak() && soak.databases == 1)
        draw_mark(f, &axis, cap, "cap", words);
    end_plot(f);
}

static void plot_one(FILE *f, const char *title, double (*value)(const struct sample *, double),
                     void (*label)(char *, size_t, double), double mark, const char *words)
{
    struct series series = { title, "a", true, value };
    struct axis   axis = axis_for(larger(mark, largest(&series)), label);

    begin_plot(f, &axis, title, &series, 1, false);
    if (mark > 0)
        draw_mark(f, &axis, mark, "cap", words);
    end_plot(f);
}

static void plot_latency(FILE *f)
{
    struct series series[] = { { "median", "a", false, p50_value },
                               { "99 %", "b", false, p99_value } };
    struct axis   axis = axis_for(1, time_label);

    axis.bottom = 100;
    for (axis.top = 10000; axis.top < largest(&series[1]);)
        axis.top *= 10;
    begin_plot(f, &axis, "Time of a query (logarithmic)", series, 2, false);
    end_plot(f);
}

static void plots(FILE *f)
{
    char words[40];

    fputs("<h2>Over time</h2>\n", f);
    plot_descriptors(f);
    if (!is_the_soak())
        return;
    plot_sharing(f);
    snprintf(words, sizeof words, "cap %u", soak.options.cap * soak.databases);
    plot_one(f, "Connections in use", in_use_value, plain_label,
             soak.options.cap * soak.databases, words);
    plot_one(f, "Coroutines waiting for a connection", waiting_value, plain_label, 0, "");
    plot_latency(f);
    plot_one(f, "Queries answered a second", rate_value, plain_label, 0, "");
    plot_one(f, "Resident memory", rss_value, mib_label, 0, "");
}

/* ---- the numbers -------------------------------------------------------------------- */

static void tile(FILE *f, const char *number, const char *words)
{
    fputs("<div class='tile'><b>", f);
    text(f, number);
    fputs("</b><span>", f);
    text(f, words);
    fputs("</span></div>\n", f);
}

static void tiles(FILE *f)
{
    const struct tally *t = tally_sum();
    uint64_t            leaked = 0, missing = 0;
    char                n[64];

    EACH_DATABASE(db) {
        leaked += db->end.closed[WEIR_CLOSE_LEAKED];
        missing += db->missing;
    }
    fputs("<div class='tiles'>\n", f);
    tile(f, grouped(soak.lives, (char[28]){ 0 }), "lives lived");
    snprintf(n, sizeof n, "%u of %u", soak.watch.fds_peak, soak.options.nofile);
    tile(f, n, "descriptors at most");
    tile(f, grouped(t->emfile_surfaced, (char[28]){ 0 }), "times EMFILE surfaced");
    if (is_the_soak()) {
        grouped(soak.seconds > 0 ? (uint64_t)((double)t->queries / soak.seconds) : 0, n);
        tile(f, n, "queries a second");
        tile(f, grouped(leaked, (char[28]){ 0 }),
             "forgotten connections closed");
        tile(f, grouped(missing, (char[28]){ 0 }), "acknowledged rows lost");
    }
    fputs("</div>\n", f);
}

static void head(FILE *f)
{
    char server[600];

    fprintf(f, "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>\n"
            "<meta name='viewport' content='width=device-width,initial-scale=1'>\n"
            "<title>weir-soak: %s</title>\n%s</head><body><main>\n"
            "<header><h1>weir-soak</h1><span class='verdict%s'>%s</span></header>\n<p>",
            soak.verdict.pass ? "PASS" : "FAIL", style, soak.verdict.pass ? "" : " bad",
            soak.verdict.pass ? "PASS" : "FAIL");
    EACH_DATABASE(db) {
        target_words(db, server, sizeof server);
        text(f, db > soak.database ? "; " : "");
        text(f, db->dialect->title);
        text(f, ": ");
        text(f, server);
    }
    if (strcmp(soak.mode, "naive") == 0)
        fputs(". A connection for each coroutine, closed by nobody, ", f);
    else
        fprintf(f, ". %u coroutines at a time over a pool %s, ", soak.options.concurrency,
                is_the_soak() ? "with a limit" : "without a limit");
    fprintf(f, "%u descriptors allowed, for %.1f s. Seed %llu, weir " WEIR_VERSION ".</p>\n",
            soak.options.nofile, soak.seconds, (unsigned long long)soak.options.seed);
    if (!soak.ended_by[0])
        return;
    fprintf(f, "<p><b class='no'>Ended when %llu coroutines had got a connection:</b> ",
            (unsigned long long)soak.ended_after);
    text(f, soak.ended_by);
    fputs("</p>\n", f);
}

static void table_of_checks(FILE *f)
{
    const struct verdict *v = &soak.verdict;

    if (!v->count)
        return;
    fputs("<h2>Checks</h2><div class='card'><table>\n", f);
    for (unsigned i = 0; i < v->count; i++) {
        fprintf(f, "<tr><td class='%s'>%s</td><td>", v->check[i].ok ? "ok" : "no",
                v->check[i].ok ? "✓" : "✗");
        text(f, v->check[i].name);
        fputs("</td><td class='soft'>", f);
        text(f, v->check[i].found);
        fputs("</td></tr>\n", f);
    }
    fputs("</table></div>\n", f);
}

static void table_of_accidents(FILE *f)
{
    if (!soak.accidents.count)
        return;
    fputs("<h2>Accidents</h2><div class='card'><table><tr><th>What</th><th class='n'>At</th>"
          "<th class='n'>For</th><th class='n'>Answers after</th><th class='n'>Connects failed</th>"
          "<th class='n'>Calls failed</th></tr>\n", f);
    for (unsigned i = 0; i < soak.accidents.count; i++) {
        const struct accident *a = &soak.accidents.one[i];
        fprintf(f, "<tr><td>%s</td><td class='n'>%.1f s</td><td class='n'>%.1f s</td>"
                "<td class='n'>%.0f ms</td><td class='n'>%llu</td><td class='n'>%llu</td></tr>\n",
                accident_words(a), a->at_s, a->until_s - a->at_s,
                (a->answered_s - a->until_s) * 1000, (unsigned long long)a->failed_connects,
                (unsigned long long)a->failed_calls);
    }
    fputs("</table></div>\n", f);
}

static void row(FILE *f, const char *what, uint64_t number)
{
    char digits[28];

    fprintf(f, "<tr><td>%s</td><td class='n'>%s</td></tr>\n", what, grouped(number, digits));
}

static void begin_table(FILE *f, const char *title)
{
    fprintf(f, "<h2>%s</h2><div class='card'><table>\n", title);
}

static void end_table(FILE *f)
{
    fputs("</table></div>\n", f);
}

static void kinds_of(FILE *f, const struct database *db)
{
    begin_table(f, "What lives did");
    row(f, kind_words(WELL_BEHAVED), db->tally.well_ended);
    for (unsigned kind = 1; kind < KINDS; kind++)
        if (db->share[kind])
            row(f, kind_words(kind), db->tally.happened[kind]);
    end_table(f);
}

static void ends_of(FILE *f, const struct database *db)
{
    begin_table(f, "Why connections were closed");
    for (unsigned i = 0; i < WEIR_CLOSE_REASONS; i++)
        row(f, weir_close_reason_name(i), db->end.closed[i]);
    end_table(f);
    begin_table(f, "Calls that failed by accident");
    for (unsigned i = 1; i <= WEIR_FAILED; i++)
        if (db->tally.unexpected[i])
            row(f, weir_status_name(i), db->tally.unexpected[i]);
    row(f, "tried again", db->tally.retries);
    end_table(f);
}

static void tables_of_counts(FILE *f)
{
    if (!is_the_soak())
        return;
    EACH_DATABASE(db) {
        if (soak.databases > 1)
            fprintf(f, "<h2>%s</h2>\n", db->dialect->title);
        fputs("<div class='two'><div>", f);
        kinds_of(f, db);
        fputs("</div><div>", f);
        ends_of(f, db);
        fputs("</div></div>\n", f);
    }
}

bool report_html(const char *path)
{
    FILE *f = fopen(path, "we");

    if (!f)
        return false;
    head(f);
    tiles(f);
    plots(f);
    table_of_checks(f);
    table_of_accidents(f);
    tables_of_counts(f);
    fputs("</main></body></html>\n", f);
    if (ferror(f)) {
        fclose(f);
        return false;
    }
    return fclose(f) == 0;
}
