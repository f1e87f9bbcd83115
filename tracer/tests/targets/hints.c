// Functions whose calls happen somewhere else than at their symbol.
//
//   hints N      calls each function N times, or as often as it says, and ends
//   hints N wait the same after a line on its standard input

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

int never(int n) { __asm__ volatile(""); return n; }
int once(int n) { __asm__ volatile(""); return n; }

int main(int argc, char **argv) {
    int number = argc > 1 ? atoi(argv[1]) : 1;
    int sum = once(number);
    if (argc > 2 && strcmp(argv[2], "wait") == 0) {
        puts("ready");
        fflush(stdout);
        getchar();
    }
    for (int i = 0; i < number; i++)
        sum += tax_de(i) + tax_fr(i) + shared(i) + shared(i + 1) + step_copy(i);
    sum += step(number, 2);
    if (number < 0)
        sum += never(number);
    printf("%d\n", sum);
    return 0;
}
