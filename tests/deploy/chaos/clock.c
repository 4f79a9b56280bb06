/* A wall clock of its own for a program and what it starts: LD_PRELOAD, with TRITIUM_TEST_CLOCK
 * naming a file of eight bytes, the seconds by which the clock is off. They may change at any
 * time. The monotonic clock stays as it is, as when somebody sets a machine's clock.
 *
 * Whoever waits until a time of the wall clock is told the true time to wait for: the kernel's clock
 * does not jump. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const int64_t zero;
static const volatile int64_t *off = &zero;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("TRITIUM_TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *place = mmap(NULL, sizeof *off, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (place != MAP_FAILED) off = place;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int clock_gettime(clockid_t clock, struct timespec *now) {
    int status = NEXT(clock_gettime)(clock, now);
    if (!status && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *off;
    return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int status = NEXT(gettimeofday)(now, zone);
    if (!status) now->tv_sec += *off;
    return status;
}

time_t time(time_t *place) {
    time_t now = NEXT(time)(NULL) + *off;
    if (place) *place = now;
    return now;
}

/* A time of the wall clock is long after 1970; one of the monotonic clock is short after the start. */
static struct timespec true_time(const struct timespec *when) {
    struct timespec own = *when;
    if (own.tv_sec > 500000000) own.tv_sec -= *off;
    return own;
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict when) {
    struct timespec own = true_time(when);
    return NEXT(pthread_cond_timedwait)(condition, mutex, &own);
}

int pthread_cond_clockwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           clockid_t clock, const struct timespec *restrict when) {
    struct timespec own = true_time(when);
    return NEXT(pthread_cond_clockwait)(condition, mutex, clock, &own);
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict when) {
    struct timespec own = true_time(when);
    return NEXT(pthread_mutex_timedlock)(mutex, &own);
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict when) {
    struct timespec own = true_time(when);
    return NEXT(sem_timedwait)(semaphore, &own);
}

/* Abseil, which gRPC waits with, asks the kernel itself. */
long syscall(long number, ...) {
    long given[6];
    va_list rest;
    va_start(rest, number);
    for (int place = 0; place < 6; place++) given[place] = va_arg(rest, long);
    va_end(rest);
    struct timespec own;
    if (number == SYS_futex && (given[1] & FUTEX_CLOCK_REALTIME) && given[3]) {
        own = true_time((const struct timespec *)given[3]);
        given[3] = (long)&own;
    }
    return NEXT(syscall)(number, given[0], given[1], given[2], given[3], given[4], given[5]);
}
