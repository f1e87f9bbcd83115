// A master that starts workers soon after its own start, as servers do.
//
//   workers fork|double|exec COUNT FIRST_MS EVERY_MS
//
//   fork     each worker is a child
//   double   each is a grandchild, and its parent ends at once
//   exec     the master first executes itself again, and forks then
//
// Forks the first worker FIRST_MS after its start and the others EVERY_MS after each other, prints
// `ready`, and then their process ids in a line. At `go` each worker calls `tick` 50 times, and ends; the
// master does the same, and prints `done`.
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_WORKERS = 64, CALLS = 50 };

__attribute__((noinline)) uint64_t tick(uint64_t value) {
    __asm__ volatile("" : : "r"(value) : "memory");
    return value + 1;
}

static void call(void) {
    for (uint64_t i = 0; i < CALLS; i++) {
        if (tick(i) != i + 1) abort();
    }
}

// Waits for a byte, and calls; without a master there is none.
static void work(const int *begin) {
    char byte;
    close(begin[1]);
    if (read(begin[0], &byte, 1) == 1) call();
    _exit(0);
}

static pid_t start(const int *begin, int is_double) {
    pid_t pids[2];
    int tell[2];
    if (!is_double) {
        pid_t child = fork();
        if (child == 0) work(begin);
        return child;
    }
    if (pipe(tell) != 0) abort();
    pid_t middle = fork();
    if (middle == 0) {
        pid_t worker = fork();
        if (worker == 0) work(begin);
        pids[0] = worker;
        if (write(tell[1], pids, sizeof *pids) != sizeof *pids) abort();
        _exit(0);
    }
    if (read(tell[0], pids, sizeof *pids) != sizeof *pids) abort();
    close(tell[0]);
    close(tell[1]);
    if (waitpid(middle, NULL, 0) != middle) abort();
    return pids[0];
}

int main(int argc, char **argv) {
    int begin[2], count = argc > 4 ? atoi(argv[2]) : 0;
    if (count <= 0 || count > MAX_WORKERS) return 2;
    if (strcmp(argv[1], "exec") == 0) {
        argv[1] = "fork";
        execv("/proc/self/exe", argv);
        return 1;
    }
    pid_t workers[MAX_WORKERS];
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    if (pipe(begin) != 0) abort();
    usleep(atoi(argv[3]) * 1000);
    for (int i = 0; i < count; i++) {
        workers[i] = start(begin, strcmp(argv[1], "double") == 0);
        usleep(atoi(argv[4]) * 1000);
    }
    puts("ready");
    for (int i = 0; i < count; i++) printf("%d%c", workers[i], i + 1 < count ? ' ' : '\n');
    fflush(stdout);
    char line[16];
    while (fgets(line, sizeof line, stdin)) {
        char bytes[MAX_WORKERS] = {0};
        if (write(begin[1], bytes, count) != count) abort();
        call();
        while (wait(NULL) > 0) {}
        puts("done");
        fflush(stdout);
    }
    return 0;
}
