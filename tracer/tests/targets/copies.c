// Puts a copy of a page of its own code in place of it, as programs do for huge pages, and then waits for
// lines: `go N` calls the function on it N times. First prints `ready`, and answers `done SUM`.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096
#define ON_PAGE __attribute__((noinline, aligned(PAGE), section("pages")))

ON_PAGE long serve(long n) { __asm__ volatile("" : : : "memory"); return n + 1; }
ON_PAGE long other(long n) { __asm__ volatile("" : : : "memory"); return n + 2; }

int main(void) {
    char line[64];
    char *copy = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(copy, serve, PAGE);
    if (mprotect(copy, PAGE, PROT_READ | PROT_EXEC)) return 1;
    if (mremap(copy, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, serve) != (void *)serve) return 1;
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        long sum = 0, count = atol(line + 3);
        for (long i = 0; i < count; i++) sum += serve(i) + other(i);
        printf("done %ld\n", sum);
        fflush(stdout);
    }
    return 0;
}
