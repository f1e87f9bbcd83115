// Passes strings from pages of a file that another thread keeps evicting.
//
//   evicted FILE CALLS
//
// One string lies within a page, one across two. The memory after the last page cannot be read.
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, MAPPED = 3 * PAGE };

static atomic_int stop;
static char *pages;

__attribute__((noinline)) void within(const char *text) { __asm__ volatile("" : : "r"(text) : "memory"); }
__attribute__((noinline)) void across(const char *text) { __asm__ volatile("" : : "r"(text) : "memory"); }

static void check(int ok, const char *what) {
    if (ok) return;
    perror(what);
    exit(1);
}

static void *evict(void *unused) {
    (void)unused;
    while (!atomic_load(&stop)) madvise(pages, MAPPED, MADV_DONTNEED);
    return NULL;
}

int main(int argc, char **argv) {
    check(argc == 3, "evicted FILE CALLS");
    int file = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
    check(file >= 0, "open");
    char contents[MAPPED] = {0};
    const char *far = "a string across two pages", *near = "a string within a page";
    strcpy(contents + PAGE - 5, far);
    strcpy(contents + MAPPED - 40, near);
    check(write(file, contents, sizeof contents) == sizeof contents, "write");
    check(fsync(file) == 0, "fsync");
    // The last page cannot be read.
    pages = mmap(NULL, MAPPED + PAGE, PROT_READ, MAP_SHARED, file, 0);
    check(pages != MAP_FAILED, "mmap");
    check(mprotect(pages + MAPPED, PAGE, PROT_NONE) == 0, "mprotect");
    pthread_t evictor;
    check(pthread_create(&evictor, NULL, evict, NULL) == 0, "pthread_create");
    int calls = atoi(argv[2]);
    for (int i = 0; i < calls; i++) {
        within(pages + MAPPED - 40);
        across(pages + PAGE - 5);
    }
    atomic_store(&stop, 1);
    pthread_join(evictor, NULL);
    return 0;
}
