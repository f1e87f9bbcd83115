/* Calls that conditions choose from. Modes:
 *   numbers          each value to a function per integer type
 *   texts            strings of many lengths, ranges, pointers that cannot be read
 *   calls            calls of known results and durations
 *   work N T         T threads, named worker0…, each calling work(0…N-1, thread); waits for a line
 *   spin             one thread calls work without pause until it is killed
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define KEEP __attribute__((noinline, noclone))
#define EACH(F) F(i8) F(u8) F(i16) F(u16) F(i32) F(u32) F(i64) F(u64)

/* The upper bits of the register are those of the value. */
#define NUMBER(type) KEEP long num_##type(long v) { __asm__ volatile("" ::: "memory"); return v; }
EACH(NUMBER)

KEEP long text(const char *s) { __asm__ volatile("" ::: "memory"); return (long)s; }
KEEP const char *gives(const char *s) { __asm__ volatile("" ::: "memory"); return s; }
KEEP long range(const char *p, int n) { __asm__ volatile("" ::: "memory"); return (long)p + n; }
KEEP long seventh(long a, long b, long c, long d, long e, long f, long g) {
    __asm__ volatile("" ::: "memory");
    return a + b + c + d + e + f + g;
}
KEEP long work(long i, long thread) { __asm__ volatile("" ::: "memory"); return i - thread; }
KEEP long down(long depth) {
    __asm__ volatile("" ::: "memory");
    return depth == 1 ? 1 : down(depth - 1) + 1;
}
KEEP long takes(long ms, long result) {
    usleep((useconds_t)ms * 1000);
    return result;
}

static void numbers(void) {
    static const long values[] = {
        0, 1, -1, 7, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2147483647L, 2147483648L,
        4294967295L, 4294967296L, 0x7fffffffffffffffL, (long)0x8000000000000000UL,
        0x1234567800000007L,
    };
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
#define CALL(type) num_##type(values[i]);
        EACH(CALL)
    }
}

static void texts(void) {
    static const int lengths[] = {
        0, 1, 62, 63, 64, 65, 126, 127, 128, 129, 191, 192, 193, 200, 254, 255, 256, 257, 300, 5000,
    };
    static char s[8192];
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        memset(s, 'a', (size_t)lengths[i]);
        s[lengths[i]] = 0;
        text(s);
        gives(s);
        range(s, lengths[i]);
    }
    /* Ends with the last byte of its page, the next one is not mapped. */
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(page + 4096, 4096);
    strcpy(page + 4096 - 4, "end");
    text(page + 4096 - 4);
    range(page + 4096 - 4, 4);
    range(page + 4096 - 4, 5);
    text(NULL);
    text((const char *)8);
    text((const char *)0x4141414141414141UL);
    range(NULL, 2);
    range("x\0y", 3);
    range("ab", -1);
}

static void calls(void) {
    takes(0, 5);
    takes(0, -5);
    takes(400, 5);
    takes(400, -5);
    down(50);
    for (long i = 0; i < 10; i++) seventh(1, 2, 3, 4, 5, 6, i - 5);
}

static long count;

static void *worker(void *arg) {
    long thread = (long)arg;
    char name[16];
    snprintf(name, sizeof name, "worker%ld", thread);
    pthread_setname_np(pthread_self(), name);
    for (long i = 0; i < count; i++) work(i, thread);
    return NULL;
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    if (!strcmp(mode, "numbers")) {
        numbers();
    } else if (!strcmp(mode, "texts")) {
        texts();
    } else if (!strcmp(mode, "calls")) {
        calls();
    } else if (!strcmp(mode, "spin")) {
        puts("ready");
        fflush(stdout);
        getchar();
        for (long i = 0;; i++) work(i, 0);
    } else if (!strcmp(mode, "work") && argc == 4) {
        pthread_t threads[64];
        count = atol(argv[2]);
        long all = atol(argv[3]);
        puts("ready");
        fflush(stdout);
        getchar();
        for (long i = 0; i < all; i++) pthread_create(&threads[i], NULL, worker, (void *)i);
        for (long i = 0; i < all; i++) pthread_join(threads[i], NULL);
        puts("done");
        fflush(stdout);
        while (getchar() != EOF) {}
    } else {
        return 2;
    }
    return 0;
}
