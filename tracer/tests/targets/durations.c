// Calls functions that take known times, and prints how long they took as seen from inside and from
// outside. For every call, what a tracer measures must be between the two.
//
// Prints one line per function: NAME CALLS, then p50, p90, p99 and the longest of the inner durations
// in nanoseconds, then of the outer ones.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define THREADS 8
#define CALLS_A_THREAD 1000

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static void spin(uint64_t begin, uint64_t ns) {
    while (now() - begin < ns) {}
}

static void nap(long ns) {
    struct timespec time = {0, ns};
    nanosleep(&time, NULL);
}

// Each returns the nanoseconds that passed inside it.
__attribute__((noinline)) uint64_t busy_1us(void) {
    uint64_t begin = now();
    spin(begin, 1000);
    return now() - begin;
}

__attribute__((noinline)) uint64_t sleep_10ms(void) {
    uint64_t begin = now();
    nap(10000000);
    return now() - begin;
}

__attribute__((noinline)) uint64_t sleep_300ms(void) {
    uint64_t begin = now();
    nap(300000000);
    return now() - begin;
}

__attribute__((noinline)) uint64_t in_threads(void) {
    uint64_t begin = now();
    spin(begin, 500);
    return now() - begin;
}

__attribute__((noinline)) uint64_t recursive(int depth) {
    uint64_t begin = now();
    if (depth > 1) recursive(depth - 1);
    return now() - begin;
}

static int by_size(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void tell(uint64_t *ns, int count) {
    qsort(ns, count, sizeof *ns, by_size);
    int percents[] = {50, 90, 99, 100};
    for (int i = 0; i < 4; i++) {
        int rank = (count * percents[i] + 99) / 100;
        printf(" %llu", (unsigned long long)ns[(rank ? rank : 1) - 1]);
    }
}

static void measure(const char *name, uint64_t (*function)(void), int count) {
    uint64_t *inner = malloc(count * sizeof *inner), *outer = malloc(count * sizeof *outer);
    for (int i = 0; i < count; i++) {
        uint64_t begin = now();
        inner[i] = function();
        outer[i] = now() - begin;
    }
    printf("%s %d", name, count);
    tell(inner, count);
    tell(outer, count);
    puts("");
    free(inner);
    free(outer);
}

static void *thread(void *unused) {
    for (int i = 0; i < CALLS_A_THREAD; i++) in_threads();
    return unused;
}

int main(void) {
    measure("busy_1us", busy_1us, 2000);
    measure("sleep_10ms", sleep_10ms, 50);
    measure("sleep_300ms", sleep_300ms, 3);
    for (int i = 0; i < 20; i++) recursive(50);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, thread, NULL);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    return 0;
}
