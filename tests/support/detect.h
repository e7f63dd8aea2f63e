/*
 * detect.h - the two detectors every integration test runs under.
 *
 * Knows:   how long the hub stood still, and which blocking call a coroutine made.
 * Ignores: what the test is about, and what its verdict does with the findings.
 */
#ifndef DETECT_H
#define DETECT_H

struct detect_findings {
    double   gap_ms;         /* longest silence of a 10 ms ticker, less the time the thread was
                                ready and another had its CPU */
    double   gap_at_ms;      /* when that silence ended, counted from detect_start() */
    unsigned blocked;        /* blocking calls made by coroutines */
    char     first_call[200]; /* the first of them: what, by whom */
};

/* Begin watching this thread's hub. Call in a coroutine; opens no descriptor. */
void detect_start(void);

/* Stop watching, and tell. Call in a coroutine of the same hub. */
void detect_stop(struct detect_findings *out);

/* For how long so far this thread was ready while another had its CPU: what a test that measures
   itself may take off. While watching. */
double detect_off_cpu_ms(void);

/* The longest gap a test may show, 0 where timing means nothing (valgrind). */
double detect_gap_limit_ms(void);

/* How much longer things may take than in a plain build: 1, with AddressSanitizer 3, under
   valgrind 20. */
double detect_slowness(void);

#endif
