// Calls functions without pause, or so and so often, and knows how often it has.
//
//   load THREADS one|push|many [CALLS_A_MS]
//
//   one    calls `hot`, whose first instruction is the cheapest to probe
//   push   calls `warm`, whose first instruction is emulated
//   many   calls fn_0000 … fn_9999 in turn
//   with CALLS_A_MS each thread makes so many calls, sleeps for the rest of the millisecond, and
//   catches up if it has slept too long
//
// Prints `ready`. `go` starts the threads, `mark` prints the calls and the CPU nanoseconds of all
// threads so far, `stop` ends them (`many` after a whole round) and prints the same. `call N` makes
// N calls more and prints `called`. Calls add up over all that is told.
//
// `slices` prints how many calls were made since it was last told in slices of 10,000, their CPU
// nanoseconds, and the median of a slice: a tracer that is there now and then does not change that.
#define _GNU_SOURCE
#define main functions_main
#include "functions.c"
#undef main
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#define MAX_THREADS 64
#define MAX_SLICES 65536
#define SLICE 10000
#define FUNCTIONS (sizeof functions / sizeof *functions)

void hot(void);
void warm(void);
#ifdef __x86_64__
__asm__(".text\n.globl hot\n.type hot, @function\nhot:\n"
        ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00\n ret\n.size hot, . - hot\n"
        ".globl warm\n.type warm, @function\nwarm:\n push %rbx\n pop %rbx\n ret\n.size warm, . - warm\n");
#else
__attribute__((noinline)) void hot(void) { __asm__ volatile("nop" ::: "memory"); }
__attribute__((noinline)) void warm(void) { __asm__ volatile("nop" ::: "memory"); }
#endif

struct thread {
    pthread_t id;
    clockid_t clock;
    _Atomic uint64_t calls;
    _Atomic uint64_t cpu_ns;
    // What the last slices took: written by the thread, read when it is asked.
    _Atomic uint64_t slices;
    _Atomic uint32_t slice_ns[MAX_SLICES];
} __attribute__((aligned(128)));

static struct thread threads[MAX_THREADS];
static atomic_bool stopping;
static const char *mode;
static uint64_t calls_a_ms;

static uint64_t ns_of(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

// One call, or the next one of a round.
static void call(uint64_t number) {
    switch (mode[0]) {
    case 'o': hot(); break;
    case 'p': warm(); break;
    default: functions[number % FUNCTIONS]((int)number); break;
    }
}

static void *work(void *of) {
    struct thread *self = of;
    uint64_t calls = atomic_load(&self->calls), first = calls, began = ns_of(CLOCK_MONOTONIC);
    uint64_t slice = ns_of(CLOCK_THREAD_CPUTIME_ID);
    while (!atomic_load_explicit(&stopping, memory_order_relaxed) ||
           (mode[0] == 'm' && calls % FUNCTIONS != 0)) {
        if (calls_a_ms) {
            uint64_t due = (ns_of(CLOCK_MONOTONIC) - began) / 1000000 * calls_a_ms;
            if (calls - first >= due && !atomic_load(&stopping)) {
                struct timespec ms = {0, 500000};
                nanosleep(&ms, NULL);
                continue;
            }
        }
        call(calls++);
        atomic_store_explicit(&self->calls, calls, memory_order_relaxed);
        if (calls % SLICE == 0) {
            uint64_t now = ns_of(CLOCK_THREAD_CPUTIME_ID), index = atomic_load(&self->slices);
            atomic_store(&self->slice_ns[index % MAX_SLICES], (uint32_t)(now - slice));
            atomic_store(&self->slices, index + 1);
            slice = now;
        }
    }
    atomic_store(&self->cpu_ns, ns_of(CLOCK_THREAD_CPUTIME_ID));
    return NULL;
}

static int compare(const void *a, const void *b) {
    uint32_t one = *(const uint32_t *)a, other = *(const uint32_t *)b;
    return one < other ? -1 : one > other;
}

// Each median is of a second or so: what the machine gives changes from second to second.
static void slices(int count) {
    static uint64_t told[MAX_THREADS];
    static uint32_t some[MAX_SLICES];
    double cpu_ns = 0, base_ns = 0;
    uint64_t calls = 0;
    for (int i = 0; i < count; i++) {
        uint64_t end = atomic_load(&threads[i].slices), begin = told[i];
        told[i] = end;
        if (end - begin > MAX_SLICES / 2) begin = end - MAX_SLICES / 2;
        while (begin < end) {
            uint64_t n = 0, sum = 0;
            for (; begin < end && sum < 1000000000; begin++, n++) {
                some[n] = atomic_load(&threads[i].slice_ns[begin % MAX_SLICES]);
                sum += some[n];
            }
            qsort(some, n, sizeof *some, compare);
            cpu_ns += sum;
            base_ns += (double)some[n / 2] * n;
            calls += n * SLICE;
        }
    }
    printf("%lu %.0f %.0f\n", calls, cpu_ns, base_ns);
    fflush(stdout);
}

int main(int argc, char **argv) {
    int count = argc > 1 ? atoi(argv[1]) : 1;
    mode = argc > 2 ? argv[2] : "one";
    calls_a_ms = argc > 3 ? strtoull(argv[3], NULL, 10) : 0;
    char line[64];
    uint64_t more = 0;
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        if (!strncmp(line, "go", 2)) {
            atomic_store(&stopping, 0);
            for (int i = 0; i < count; i++) {
                pthread_create(&threads[i].id, NULL, work, &threads[i]);
                pthread_getcpuclockid(threads[i].id, &threads[i].clock);
            }
            continue;
        }
        if (!strncmp(line, "call ", 5)) {
            for (uint64_t left = strtoull(line + 5, NULL, 10); left; left--) call(more++);
            puts("called");
            fflush(stdout);
            continue;
        }
        if (!strncmp(line, "slices", 6)) {
            slices(count);
            continue;
        }
        int stop = !strncmp(line, "stop", 4);
        if (stop) {
            atomic_store(&stopping, 1);
            for (int i = 0; i < count; i++) pthread_join(threads[i].id, NULL);
        }
        uint64_t calls = more, cpu_ns = 0;
        for (int i = 0; i < count; i++) {
            calls += atomic_load(&threads[i].calls);
            cpu_ns += stop ? atomic_load(&threads[i].cpu_ns) : ns_of(threads[i].clock);
        }
        printf("%lu %lu\n", calls, cpu_ns);
        fflush(stdout);
    }
    return 0;
}
