// A program that changes its own code while it runs. Follows commands, one per line:
//
//   patch      writes a jump to another function over the entry of `hooked`
//   unlock     makes the page of `unlocked` writable
//   move       moves a copy of the page of `moved` over it
//   overlay    maps memory over the page of `overlaid`, and copies the code back
//   go N       calls each function N times
//
// Answers `done`, after `go` with what it computed. First prints `ready`.
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096
#define ON_PAGE __attribute__((noinline, aligned(PAGE), section("pages")))
#define KEEP __asm__ volatile("" : : : "memory")

ON_PAGE long unlocked(long n) { KEEP; return n + 1; }
ON_PAGE long moved(long n) { KEEP; return n + 2; }
ON_PAGE long overlaid(long n) { KEEP; return n + 3; }
ON_PAGE long hooked(long n) { __asm__ volatile("nop; nop; nop; nop; nop"); return n + 4; }
ON_PAGE long plain(long n) { KEEP; return n + 5; }
__attribute__((noinline)) long instead(long n) { KEEP; return n + 1000; }

// Begins with a nop of five bytes, which some kernels turn into a call.
long quick(long n);
__asm__(
    ".text\n"
    ".globl quick\n"
    ".type quick,@function\n"
    "quick:\n"
    "    nopl 0(%rax,%rax,1)\n"
    "    lea 6(%rdi), %rax\n"
    "    ret\n"
    ".size quick, .-quick\n");

static void check(int ok) {
    if (!ok) abort();
}

static void patch(void) {
    int32_t distance = (int32_t)((char *)instead - ((char *)hooked + 5));
    check(!mprotect(hooked, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC));
    *(volatile uint8_t *)hooked = 0xe9;
    memcpy((char *)hooked + 1, &distance, 4);
    check(!mprotect(hooked, PAGE, PROT_READ | PROT_EXEC));
}

static char *copy_of(const void *page) {
    char *copy = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(copy != MAP_FAILED);
    memcpy(copy, page, PAGE);
    check(!mprotect(copy, PAGE, PROT_READ | PROT_EXEC));
    return copy;
}

// In memory, so that nobody can tell from the code which pages are moved.
static void *volatile page_to_move = moved;
static void *volatile page_to_overlay = overlaid;

static void move(void) {
    void *page = page_to_move;
    check(mremap(copy_of(page), PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, page) == page);
}

static void overlay(void) {
    void *page = page_to_overlay;
    char *copy = copy_of(page);
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    check(mmap(page, PAGE, PROT_READ | PROT_WRITE, flags, -1, 0) == page);
    memcpy(page, copy, PAGE);
    check(!mprotect(page, PAGE, PROT_READ | PROT_EXEC));
}

int main(void) {
    char line[64];
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        long count, sum = 0;
        if (!strncmp(line, "patch", 5)) patch();
        if (!strncmp(line, "unlock", 6))
            check(!mprotect(unlocked, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC));
        if (!strncmp(line, "move", 4)) move();
        if (!strncmp(line, "overlay", 7)) overlay();
        if (sscanf(line, "go %ld", &count) == 1)
            for (long i = 0; i < count; i++)
                sum += unlocked(i) + moved(i) + overlaid(i) + hooked(i) + plain(i) + quick(i);
        printf("done %ld\n", sum);
        fflush(stdout);
    }
    return 0;
}
