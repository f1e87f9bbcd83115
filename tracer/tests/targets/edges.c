// Passes strings, ranges and numbers at the edges of what can be read. Each call has a name.
//
//   edges FILE
//
// FILE is written and mapped, for memory that is cold: on disk, and in no page table.
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { PAGE = 4096, COLD_PAGES = 64 };

// `noipa`: the compiler must not notice that the arguments are unused.
#define FUNCTION(name, ...) \
    __attribute__((noipa)) void name(__VA_ARGS__) { __asm__ volatile("" : : : "memory"); }
#pragma GCC diagnostic ignored "-Wunused-parameter"

FUNCTION(take_str, const char *name, const char *text)
FUNCTION(take_path, const char *name, const char *text)
FUNCTION(take_u64, const char *name, const void *bytes, uint64_t length)
FUNCTION(take_i32, const char *name, const void *bytes, int32_t length)
FUNCTION(take_i64, const char *name, const void *bytes, int64_t length)
FUNCTION(take_u8, const char *name, const void *bytes, uint64_t length)
FUNCTION(take_first, const char *name, uint32_t length, const void *bytes)
FUNCTION(take_fixed, const char *name, const void *bytes)
FUNCTION(take_sizes, const char *name, const char *a, const char *b, const char *c, const void *d)
FUNCTION(take_huge, const char *name, const char *huge, const char *large)
FUNCTION(take_block, const char *name, const void *bytes)
FUNCTION(take_registers, int8_t a, int16_t b, int32_t c, int64_t d, uint8_t e, uint16_t f)
FUNCTION(take_more, uint32_t a, uint64_t b, uint8_t c, bool d, char e, const void *f)
FUNCTION(take_sixteen, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f,
         int8_t g, int16_t h, int32_t i, uint64_t j, bool k, char l, const void *m, const char *n,
         const void *o, uint16_t p)

__attribute__((noipa)) const char *give_str(const char *text) { return text; }

static int file;
static char *cold;

static void check(int ok, const char *what) {
    if (ok) return;
    perror(what);
    exit(1);
}

// Pages, the last of which is followed by an unmapped one.
static char *pages_before_a_hole(size_t pages, int protection) {
    char *start = mmap(NULL, (pages + 1) * PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(start != MAP_FAILED && munmap(start + pages * PAGE, PAGE) == 0, "mmap");
    return start;
}

// The next pages of the file, cold; `offset` bytes in, they hold `length` bytes of `contents`.
static char *cold_bytes(size_t pages, size_t offset, const void *contents, size_t length) {
    static size_t used;
    char *start = cold + used * PAGE;
    check((used + pages) <= COLD_PAGES, "out of cold pages");
    check(pwrite(file, contents, length, used * PAGE + offset) == (ssize_t)length, "pwrite");
    check(fsync(file) == 0, "fsync");
    check(madvise(start, pages * PAGE, MADV_DONTNEED) == 0, "madvise");
    check(posix_fadvise(file, used * PAGE, pages * PAGE, POSIX_FADV_DONTNEED) == 0, "fadvise");
    unsigned char resident[COLD_PAGES];
    check(mincore(start, pages * PAGE, resident) == 0, "mincore");
    for (size_t i = 0; i < pages; i++) check((resident[i] & 1) == 0, "a page is resident");
    used += pages;
    return start + offset;
}

static void make_cold_file(const char *path) {
    file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    check(file >= 0 && ftruncate(file, COLD_PAGES * PAGE) == 0, "open");
    cold = mmap(NULL, COLD_PAGES * PAGE, PROT_READ, MAP_SHARED, file, 0);
    check(cold != MAP_FAILED && madvise(cold, COLD_PAGES * PAGE, MADV_RANDOM) == 0, "mmap");
}

// What the test expects in long strings: the alphabet, over and over.
static char *alphabet(size_t length) {
    char *text = malloc(length + 1);
    for (size_t i = 0; i < length; i++) text[i] = 'a' + i % 26;
    text[length] = 0;
    return text;
}

// Names are read too, so they are copied to where they are resident.
#define CALL(function, label, ...)             \
    do {                                       \
        char resident_name[32];                \
        strcpy(resident_name, label);          \
        function(resident_name, __VA_ARGS__);  \
    } while (0)

static void strings(void) {
    char *hole = pages_before_a_hole(1, PROT_READ | PROT_WRITE) + PAGE;
    char *secret = pages_before_a_hole(1, PROT_NONE);
    CALL(take_str, "empty", "");
    CALL(take_str, "short", "short");
    CALL(take_str, "at the limit", "sixteen letters!");
    CALL(take_str, "one over", "sixteen letters!?");
    CALL(take_str, "far over", alphabet(5000));
    strcpy(hole - 6, "close");
    CALL(take_str, "ends before a hole", hole - 6);
    memcpy(hole - 6, "unends", 6);
    CALL(take_str, "runs into a hole", hole - 6);
    CALL(take_str, "in a hole", hole);
    char *crossing = cold_bytes(2, PAGE - 4, "crossing", 9);
    *(volatile char *)crossing;  // the first page becomes resident, the second stays cold
    CALL(take_str, "into a cold page", crossing);
    CALL(take_str, "from cold to cold", cold_bytes(2, PAGE - 4, "crossing", 9));
    CALL(take_str, "in a cold page", cold_bytes(1, 100, "cold", 5));
    CALL(take_str, "null", NULL);
    CALL(take_str, "almost null", (char *)1);
    CALL(take_str, "wild", (char *)0x123456789000);
    CALL(take_str, "kernel", (char *)(uintptr_t)0xffffffff81000000);
    CALL(take_str, "end of addresses", (char *)UINTPTR_MAX);
    CALL(take_str, "non-canonical", (char *)(uintptr_t)0x4141414141414141);
    CALL(take_str, "forbidden", secret);
    CALL(take_str, "invalid UTF-8", "a\xff\\b\xc3");
    CALL(take_str, "escapes", "\x1b[31m\xc2\x9b" "2J\n\"\x7f");
    CALL(take_str, "a lone C1 byte", "\x9b" "31m");
    // 'é' takes bytes 15 and 16, so the limit cuts it in two.
    CALL(take_str, "cut in a letter", "fifteen letters\xc3\xa9");
    CALL(take_path, "default limit", alphabet(4096));
    CALL(take_path, "default limit, one over", alphabet(4097));
}

static void ranges(void) {
    char *hole = pages_before_a_hole(5, PROT_READ | PROT_WRITE) + 5 * PAGE;
    char *long_text = alphabet(20000);
    memcpy(hole - 8, "eight ch", 8);
    CALL(take_u64, "some", "some\0more", (uint64_t)9);
    CALL(take_u64, "zero", "some", (uint64_t)0);
    CALL(take_u64, "zero of null", NULL, (uint64_t)0);
    CALL(take_u64, "one of null", NULL, (uint64_t)1);
    CALL(take_u64, "ends before a hole", hole - 8, (uint64_t)8);
    CALL(take_u64, "runs into a hole", hole - 8, (uint64_t)9);
    CALL(take_u64, "at the limit", long_text, (uint64_t)16384);
    CALL(take_u64, "one over", long_text, (uint64_t)16385);
    CALL(take_u64, "2^63", long_text, (uint64_t)1 << 63);
    CALL(take_u64, "2^63 before a hole", hole - 8, (uint64_t)1 << 63);
    CALL(take_u64, "not text", "\xff\xfe\0\x1b[m", (uint64_t)6);
    char *crossing = cold_bytes(2, PAGE - 4, "crossing", 8);
    *(volatile char *)crossing;
    CALL(take_u64, "into a cold page", crossing, (uint64_t)8);
    CALL(take_u64, "three cold pages", cold_bytes(3, PAGE - 2, long_text, PAGE + 4), (uint64_t)(PAGE + 4));
    CALL(take_i32, "some", "some", 4);
    CALL(take_i32, "negative", "some", -1);
    CALL(take_i32, "most negative", "some", INT32_MIN);
    CALL(take_i64, "some", "some", (int64_t)4);
    CALL(take_i64, "negative", "some", (int64_t)-1);
    CALL(take_i64, "most negative", "some", INT64_MIN);
    // A u8 is the low byte of its register, whatever is above it.
    CALL(take_u8, "dirty register", "some", (uint64_t)0xffffff04);
    CALL(take_first, "length first", 4, "some");
    CALL(take_fixed, "eight", "eight ch...");
    CALL(take_fixed, "runs into a hole", hole - 7);
}

static void sizes(void) {
    CALL(take_sizes, "small", "a", "b", "c", "0123456789abcdef");
    CALL(take_sizes, "full", alphabet(300), alphabet(3000), alphabet(9000), alphabet(16));
    CALL(take_sizes, "over", alphabet(301), alphabet(3001), alphabet(9001), alphabet(16));
    CALL(take_sizes, "cold", alphabet(300), cold_bytes(2, 100, alphabet(3000), 3001),
         cold_bytes(3, 100, alphabet(9000), 9001), cold_bytes(1, 0, alphabet(16), 16));
    CALL(take_huge, "full", alphabet(32768), alphabet(3000));
    CALL(take_huge, "over", alphabet(32769), alphabet(3001));
    CALL(take_huge, "cold", cold_bytes(9, 100, alphabet(32768), 32769), alphabet(3000));
    CALL(take_block, "resident", alphabet(32768));
    CALL(take_block, "cold", cold_bytes(9, 4000, alphabet(32768), 32768));
}

static void numbers(void) {
    take_registers(INT8_MIN, INT16_MIN, INT32_MIN, INT64_MIN, 0, 0);
    take_registers(INT8_MAX, INT16_MAX, INT32_MAX, INT64_MAX, UINT8_MAX, UINT16_MAX);
    take_registers(-1, -1, -1, -1, 1, 1);
    take_more(UINT32_MAX, UINT64_MAX, 0xab, true, 'x', (void *)0x1234);
    take_more(0, 0, 0, false, '\n', NULL);
    take_more(1, 1, 1, true, (char)0xff, (void *)UINTPTR_MAX);
    char text[] = "on the stack", bytes[] = "bytes as well";
    take_sixteen(1, 2, 3, 4, 5, 6, -7, -8, -9, 10, true, 'l', (void *)0xd, text, bytes, 5);
}

int main(int argc, char **argv) {
    check(argc == 2, "edges FILE");
    // The name is an edge too: it comes with every event.
    prctl(PR_SET_NAME, "e\x1b[2Jdges");
    make_cold_file(argv[1]);
    strings();
    ranges();
    sizes();
    numbers();
    give_str(cold_bytes(1, 100, "given back", 11));
    give_str(NULL);
    return 0;
}
