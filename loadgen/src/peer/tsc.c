/* Prints the rate of this host's time-stamp counter in kHz. The emulated machine's counter runs at the same rate. Linux
 * would measure it at its start against the machine's timer, and comes to a stop if the host is too busy for that. */
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

/* How long is measured, in nanoseconds. */
enum { SPAN = 200000000 };

static long long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* The counter and the time of one moment: of several looks at both the one that took least. */
static void look(unsigned long long *ticks, long long *ns)
{
    long long least = -1;
    for (int i = 0; i < 50; i++) {
        long long before = now_ns();
        unsigned long long count = __rdtsc();
        long long took = now_ns() - before;
        if (least < 0 || took < least) {
            least = took;
            *ticks = count;
            *ns = before + took / 2;
        }
    }
}

int main(void)
{
    unsigned long long first_ticks, last_ticks;
    long long first_ns, last_ns;
    struct timespec span = {.tv_nsec = SPAN};
    look(&first_ticks, &first_ns);
    nanosleep(&span, NULL);
    look(&last_ticks, &last_ns);
    printf("%.0f\n", (double)(last_ticks - first_ticks) * 1e6 / (double)(last_ns - first_ns));
    return 0;
}
