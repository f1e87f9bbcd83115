// Functions whose calls happen somewhere else than at their symbol.
//
//   hints N      calls each function N times, or as often as it says, and ends
//   hints N wait the same after a line on its standard input
//   hints N move the same, but puts a copy of `moved` in place of its code first

#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

// One body with two names, as identical functions have after the linker folded them.
int tax_de(int n) { __asm__ volatile(""); return n * 19 / 100; }
int tax_fr(int n) __attribute__((alias("tax_de")));

// Kept for other files, and inlined in this one.
__attribute__((always_inline)) inline int shared(int n) { __asm__ volatile(""); return n + 5; }
extern int shared(int n);

// The compiler's copy of `step`, which takes most of its calls.
int step(int n, int mode) { __asm__ volatile(""); return n * mode; }
int step_copy(int n) __asm__("step.constprop.0");
__attribute__((used)) int step_copy(int n) { __asm__ volatile(""); return n * 3; }

__attribute__((aligned(4096), section("moved_code"))) int moved(int n) { __asm__ volatile(""); return n; }

// In memory, so that nobody can tell from the code which page is moved.
static void *volatile page = (void *)moved;

static void move(void) {
    char *copy = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED) exit(1);
    memcpy(copy, page, 4096);
    mprotect(copy, 4096, PROT_READ | PROT_EXEC);
    if (mremap(copy, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, page) == MAP_FAILED) exit(1);
}

int never(int n) { __asm__ volatile(""); return n; }
int once(int n) { __asm__ volatile(""); return n; }

int main(int argc, char **argv) {
    int number = argc > 1 ? atoi(argv[1]) : 1;
    int sum = once(number);
    if (argc > 2) {
        puts("ready");
        fflush(stdout);
        getchar();
        if (strcmp(argv[2], "move") == 0) {
            move();
            puts("moved");
            fflush(stdout);
            getchar();
        }
    }
    for (int i = 0; i < number; i++)
        sum += tax_de(i) + tax_fr(i) + shared(i) + shared(i + 1) + step_copy(i);
    sum += step(number, 2);
    if (number < 0)
        sum += never(number);
    printf("%d\n", sum);
    return 0;
}
