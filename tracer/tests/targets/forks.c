// Forks children in every way, on command, one per line.
//
//   step N     calls `tick` N times
//   storm N    N children, up to 16 at once, make 6 calls each: 3 in the child, 2 in a thread of it, and 1
//              in a child of it
//   exec N     a child executes this program again, which makes N calls
//   vfork N    the same with `vfork`; the child makes 1 call more before it executes
//   spawn N    the same with `posix_spawn`, without that call
//   child      starts a child that waits; prints its process id and the addresses of `tick` and `padded`
//   let N      that child calls `tick` and `padded` N times and ends
//   leave      ends; the child that waits calls `tick` 5 times half a second later, and ends
//
// All others print `done`. `forks tick N` calls `tick` N times and ends. First prints `ready`. Aborts if a
// function returns a wrong value, or a child does not end well.
#define _GNU_SOURCE
#include <pthread.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { AT_ONCE = 16 };

extern char **environ;
static int to_child[2], from_child[2];

__attribute__((noinline)) uint64_t tick(uint64_t value) {
    __asm__ volatile("" : : "r"(value) : "memory");
    return value + 1;
}

// Its first instruction is a nop of 5 bytes, which some kernels replace by a call.
__attribute__((noinline)) uint64_t padded(uint64_t value);
#ifdef __x86_64__
__asm__(
    ".globl padded\n.type padded, @function\n.balign 32\npadded:\n"
    ".byte 0x0f, 0x1f, 0x44, 0, 0\nlea 1(%rdi), %rax\nret\n.size padded, . - padded\n");
#else
uint64_t padded(uint64_t value) {
    __asm__ volatile("nop" : : "r"(value) : "memory");
    return value + 1;
}
#endif

static void *calls(void *number) {
    for (uint64_t i = 0; i < (uint64_t)number; i++) {
        if (tick(i) != i + 1) abort();
    }
    return NULL;
}

// Any child if it is -1.
static void wait_for(pid_t child) {
    int status;
    if (waitpid(child, &status, 0) < 0 || status != 0) abort();
}

static void work(void) {
    pthread_t thread;
    calls((void *)3);
    if (pthread_create(&thread, NULL, calls, (void *)2) != 0) abort();
    pthread_join(thread, NULL);
    pid_t child = fork();
    if (child == 0) {
        calls((void *)1);
        _exit(0);
    }
    wait_for(child);
    _exit(0);
}

static void storm(unsigned long number) {
    unsigned long running = 0;
    for (unsigned long i = 0; i < number; i++) {
        if (running == AT_ONCE) {
            wait_for(-1);
            running--;
        }
        pid_t child = fork();
        if (child < 0) abort();
        if (child == 0) work();
        running++;
    }
    int status;
    while (wait(&status) > 0) {
        if (status != 0) abort();
    }
}

static void wait_and_call(void) {
    uint64_t number;
    close(to_child[1]);
    if (read(to_child[0], &number, sizeof number) != sizeof number) {
        usleep(500000);
        calls((void *)5);
        _exit(0);
    }
    calls((void *)number);
    for (uint64_t i = 0; i < number; i++) {
        if (padded(i) != i + 1) abort();
    }
    if (write(from_child[1], "", 1) != 1) _exit(1);
    _exit(0);
}

int main(int argc, char **argv) {
    char line[256], word[16], rest[64];
    if (argc == 3 && !strcmp(argv[1], "tick")) {
        calls((void *)strtoul(argv[2], NULL, 10));
        return 0;
    }
    if (pipe(to_child) != 0 || pipe(from_child) != 0) abort();
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        rest[0] = 0;
        if (sscanf(line, "%15s %63s", word, rest) < 1) continue;
        unsigned long number = strtoul(rest, NULL, 10);
        char *again[] = {argv[0], "tick", rest, NULL};
        if (!strcmp(word, "step")) {
            calls((void *)number);
        } else if (!strcmp(word, "storm")) {
            storm(number);
        } else if (!strcmp(word, "exec")) {
            pid_t child = fork();
            if (child == 0) {
                execv("/proc/self/exe", again);
                _exit(1);
            }
            wait_for(child);
        } else if (!strcmp(word, "vfork")) {
            pid_t child = vfork();
            if (child == 0) {
                if (tick(1) != 2) _exit(1);
                execv("/proc/self/exe", again);
                _exit(1);
            }
            wait_for(child);
        } else if (!strcmp(word, "spawn")) {
            pid_t child;
            if (posix_spawn(&child, argv[0], NULL, NULL, again, environ) != 0) abort();
            wait_for(child);
        } else if (!strcmp(word, "child")) {
            pid_t child = fork();
            if (child == 0) wait_and_call();
            printf("%d %lu %lu\n", child, (unsigned long)tick, (unsigned long)padded);
            fflush(stdout);
            continue;
        } else if (!strcmp(word, "let")) {
            uint64_t all = number;
            char byte;
            if (write(to_child[1], &all, sizeof all) != sizeof all) abort();
            if (read(from_child[0], &byte, 1) != 1) abort();
            wait_for(-1);
        } else if (!strcmp(word, "leave")) {
            return 0;
        } else {
            abort();
        }
        puts("done");
        fflush(stdout);
    }
    return 0;
}
