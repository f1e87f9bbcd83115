// Calls functions a given number of times from a given number of threads, and prints how often.
//
//   calls THREADS CALLS_PER_THREAD
//
// Prints `ready`, waits for a line, makes the calls, prints `done TOTAL`, waits for the end of input.
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static atomic_ulong total;
static unsigned long per_thread;

// A 5-byte nop first, the cheapest instruction to probe on x86-64; then nothing.
void nop5_u64(uint64_t value);
#ifdef __x86_64__
__asm__(".text\n.globl nop5_u64\n.type nop5_u64, @function\nnop5_u64:\n"
        ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00\n ret\n.size nop5_u64, . - nop5_u64\n");
#else
__attribute__((noinline)) void nop5_u64(uint64_t value) {
    __asm__ volatile("nop" : : "r"(value) : "memory");
}
#endif

__attribute__((noinline)) uint64_t add_one(uint64_t value) {
    __asm__ volatile("" : : "r"(value) : "memory");
    return value + 1;
}

static void *work(void *unused) {
    (void)unused;
    for (unsigned long i = 0; i < per_thread; i++) {
        nop5_u64(i);
        if (add_one(i) != i + 1) abort();
    }
    atomic_fetch_add(&total, per_thread);
    return NULL;
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    per_thread = argc > 2 ? strtoul(argv[2], NULL, 10) : 1;
    char line[16];
    pthread_t ids[64];
    puts("ready");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin)) return 1;
    for (int i = 0; i < threads; i++) pthread_create(&ids[i], NULL, work, NULL);
    for (int i = 0; i < threads; i++) pthread_join(ids[i], NULL);
    printf("done %lu\n", atomic_load(&total));
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {}
    return 0;
}
