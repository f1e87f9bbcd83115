// Passes a string from each of 64 pages of a file that are not resident.
//
//   cold_pages FILE
//
// Writes FILE, drops it from the page cache and maps it. Just before each call it makes sure that
// the page is still cold, and gives up if it is not. Prints `cold 64`.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGES = 64, PAGE = 4096 };

__attribute__((noinline)) void take(const char *text) { __asm__ volatile("" : : "r"(text) : "memory"); }

static void check(int ok, const char *what) {
    if (ok) return;
    perror(what);
    exit(1);
}

int main(int argc, char **argv) {
    check(argc == 2, "cold_pages FILE");
    int file = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
    check(file >= 0, "open");
    for (int i = 0; i < PAGES; i++) {
        char page[PAGE] = {0};
        snprintf(page, sizeof page, "the string of page %d", i);
        check(write(file, page, sizeof page) == sizeof page, "write");
    }
    check(fsync(file) == 0, "fsync");
    check(posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) == 0, "posix_fadvise");
    char *pages = mmap(NULL, PAGES * PAGE, PROT_READ, MAP_SHARED, file, 0);
    check(pages != MAP_FAILED, "mmap");
    // No readahead: each page stays cold until it is needed itself.
    check(madvise(pages, PAGES * PAGE, MADV_RANDOM) == 0, "madvise");
    int cold = 0;
    for (int i = 0; i < PAGES; i++) {
        unsigned char resident = 1;
        check(mincore(pages + i * PAGE, PAGE, &resident) == 0, "mincore");
        check((resident & 1) == 0, "a page is resident");
        cold++;
        take(pages + i * PAGE);
    }
    printf("cold %d\n", cold);
    return 0;
}
