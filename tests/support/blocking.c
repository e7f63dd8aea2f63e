/*
 * blocking.c - a library that knows nothing of coroutines: it blocks.
 */
#include "blocking.h"

#include <ctype.h>
#include <errno.h>
#include <time.h>

int blocking_sleep_ms(int ms)
{
    struct timespec left = { ms / 1000, ms % 1000 * 1000000L };

    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        continue;
    return ms + 1;
}

ssize_t blocking_upper_case(const void *in, size_t in_size, void *out, size_t out_room)
{
    size_t size = in_size < out_room ? in_size : out_room;

    for (size_t i = 0; i < size; i++)
        ((char *)out)[i] = (char)toupper(((const unsigned char *)in)[i]);
    return (ssize_t)size;
}
