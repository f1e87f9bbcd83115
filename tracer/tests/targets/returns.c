// Calls functions whose returns are traced, in every way that a call can end.
//
//   returns MODE [ARGUMENT]
//
// Prints `ready`, waits for a line (or the end of input), runs the mode, prints `done`, waits for
// the end of input. Checks what its functions return and aborts if that is wrong: a tracer must
// not change it.
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "returns.c:%d: wrong: %s\n", __LINE__, #condition); \
            abort(); \
        } \
    } while (0)
#define KEEP __asm__ volatile("" ::: "memory")

static const char *program;

static void say(const char *word) {
    puts(word);
    fflush(stdout);
}

static void wait_line(void) {
    char line[16];
    if (!fgets(line, sizeof line, stdin)) return;
}

// ---- values ----

int8_t get_i8(void) { KEEP; return INT8_MIN; }
uint8_t get_u8(void) { KEEP; return UINT8_MAX; }
int16_t get_i16(void) { KEEP; return INT16_MIN; }
uint16_t get_u16(void) { KEEP; return UINT16_MAX; }
int32_t get_i32(void) { KEEP; return INT32_MIN; }
uint32_t get_u32(void) { KEEP; return UINT32_MAX; }
int64_t get_i64(void) { KEEP; return INT64_MIN; }
uint64_t get_u64(void) { KEEP; return UINT64_MAX; }
uint32_t get_x32(void) { KEEP; return 0xdeadbeef; }
bool get_true(void) { KEEP; return true; }
bool get_false(void) { KEEP; return false; }
char get_char(void) { KEEP; return 'x'; }
void *get_ptr(void) { KEEP; return (void *)0x1234; }
const char *get_str(void) { KEEP; return "r\xc3\xa9sum\xc3\xa9"; }
const char *get_null(void) { KEEP; return NULL; }

// The upper bits of the register of a narrow value mean nothing, and compilers leave arbitrary
// values in them.
uint8_t get_dirty_u8(void);
int16_t get_dirty_i16(void);
bool get_dirty_bool(void);
#ifdef __x86_64__
__asm__(".text\n"
        ".globl get_dirty_u8\n.type get_dirty_u8, @function\nget_dirty_u8:\n"
        " movabs $0xdeadbeefcafe0007, %rax\n ret\n.size get_dirty_u8, . - get_dirty_u8\n"
        ".globl get_dirty_i16\n.type get_dirty_i16, @function\nget_dirty_i16:\n"
        " movabs $0xdeadbeefcafefffe, %rax\n ret\n.size get_dirty_i16, . - get_dirty_i16\n"
        ".globl get_dirty_bool\n.type get_dirty_bool, @function\nget_dirty_bool:\n"
        " movabs $0xdeadbeefcafe0000, %rax\n ret\n.size get_dirty_bool, . - get_dirty_bool\n");
#else
uint8_t get_dirty_u8(void) { KEEP; return 7; }
int16_t get_dirty_i16(void) { KEEP; return -2; }
bool get_dirty_bool(void) { KEEP; return false; }
#endif

static void values(void) {
    CHECK(get_i8() == INT8_MIN && get_u8() == UINT8_MAX);
    CHECK(get_i16() == INT16_MIN && get_u16() == UINT16_MAX);
    CHECK(get_i32() == INT32_MIN && get_u32() == UINT32_MAX && get_x32() == 0xdeadbeef);
    CHECK(get_i64() == INT64_MIN && get_u64() == UINT64_MAX);
    CHECK(get_true() && !get_false() && get_char() == 'x' && get_ptr() == (void *)0x1234);
    CHECK(strlen(get_str()) == 8 && get_null() == NULL);
    CHECK(get_dirty_u8() == 7 && get_dirty_i16() == -2 && !get_dirty_bool());
}

// ---- nesting ----

uint64_t down(uint64_t depth) {
    uint64_t below = depth <= 1 ? 0 : down(depth - 1);
    KEEP;
    return below + 1;
}

uint64_t inner(uint64_t value) { KEEP; return value * 2; }

uint64_t outer(uint64_t value) {
    uint64_t first = inner(value);
    KEEP;
    return first + inner(value + 1);
}

uint64_t plain(uint64_t value) { KEEP; return value + 1; }

// ---- calls that never return ----

static jmp_buf landing;

uint64_t jump_from(uint64_t depth) {
    if (depth <= 1) longjmp(landing, 1);
    uint64_t below = jump_from(depth - 1);
    KEEP;
    return below + 1;
}

// The same from a frame of another size, so that its calls are elsewhere on the stack.
uint64_t jump_from_deeper(uint64_t depth) {
    volatile char room[4096];
    room[0] = 1;
    uint64_t result = jump_from(depth);
    KEEP;
    return result + room[0];
}

uint64_t land(uint64_t depth, bool deeper) {
    if (setjmp(landing) == 0) return deeper ? jump_from_deeper(depth) : jump_from(depth);
    KEEP;
    return 77;
}

// ---- calls that take a while ----

uint64_t hold(void) {
    say("inside");
    wait_line();
    KEEP;
    return 5;
}

uint64_t nap(uint64_t ms) {
    struct timespec time = {ms / 1000, (long)(ms % 1000) * 1000000};
    nanosleep(&time, NULL);
    return ms;
}

// ---- threads and processes ----

uint64_t leave_thread(uint64_t value) {
    if (value) pthread_exit((void *)value);
    KEEP;
    return value;
}

uint64_t leave_through(uint64_t value) {
    uint64_t result = leave_thread(value);
    KEEP;
    return result + 1;
}

static void *leaver(void *unused) {
    (void)unused;
    CHECK(plain(1) == 2);
    leave_through(9);
    abort();
}

uint64_t replace(const char *mode) {
    execl(program, program, mode, (char *)NULL);
    abort();
}

// Replaces the program over and over: each one calls `plain` once.
static void replace_again(void) {
    CHECK(plain(1) == 2);
    replace("again");
}

static void *replacer(void *unused) {
    (void)unused;
    replace("replaced");
    return NULL;
}

static void *holder(void *unused) {
    (void)unused;
    hold();
    return NULL;
}

pid_t split(void) {
    pid_t child = fork();
    KEEP;
    return child;
}

static void *worker(void *rounds) {
    for (uint64_t i = 0; i < (uint64_t)rounds; i++) {
        CHECK(outer(i) == i * 4 + 2);
        CHECK(down(3) == 3);
    }
    return NULL;
}

static void in_threads(int count, void *(*work)(void *), void *argument) {
    pthread_t ids[64];
    for (int i = 0; i < count; i++) CHECK(pthread_create(&ids[i], NULL, work, argument) == 0);
    for (int i = 0; i < count; i++) CHECK(pthread_join(ids[i], NULL) == 0);
}

static void run(const char *mode, uint64_t number) {
    if (!strcmp(mode, "values")) {
        values();
    } else if (!strcmp(mode, "recursion")) {
        CHECK(down(number) == number);
        CHECK(plain(1) == 2);
    } else if (!strcmp(mode, "nesting")) {
        CHECK(outer(10) == 42);
    } else if (!strcmp(mode, "longjmp")) {
        // Jumped over and over at one place, then elsewhere, and ordinary calls after each.
        for (int i = 0; i < 10; i++) CHECK(land(number, false) == 77);
        CHECK(plain(1) == 2);
        CHECK(land(number, true) == 77);
        CHECK(land(number, false) == 77);
        CHECK(plain(2) == 3);
    } else if (!strcmp(mode, "hold")) {
        for (uint64_t i = 0; i < number; i++) CHECK(hold() == 5);
    } else if (!strcmp(mode, "nap")) {
        CHECK(nap(number) == number);
    } else if (!strcmp(mode, "leave")) {
        in_threads((int)number, leaver, NULL);
    } else if (!strcmp(mode, "replace")) {
        replace("replaced");
    } else if (!strcmp(mode, "replace-from-thread")) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, holder, NULL) == 0);
        while (getchar() != '\n') {}
        CHECK(pthread_create(&thread, NULL, replacer, NULL) == 0);
        nap(1000000);
    } else if (!strcmp(mode, "split")) {
        pid_t child = split();
        if (child == 0) {
            // The child returns from a call that its parent made.
            CHECK(plain(3) == 4);
            _exit(23);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 23);
        CHECK(plain(1) == 2);
    } else if (!strcmp(mode, "threads")) {
        in_threads(8, worker, (void *)number);
    } else if (!strcmp(mode, "plain")) {
        for (uint64_t i = 0; i < number; i++) CHECK(plain(i) == i + 1);
    } else {
        abort();
    }
}

int main(int argc, char **argv) {
    program = "/proc/self/exe";
    const char *mode = argc > 1 ? argv[1] : "plain";
    if (!strcmp(mode, "again")) {
        replace_again();
    } else if (!strcmp(mode, "replaced")) {
        for (uint64_t i = 0; i < 3; i++) CHECK(plain(i) == i + 1);
    } else {
        say("ready");
        wait_line();
        run(mode, argc > 2 ? strtoul(argv[2], NULL, 10) : 1);
    }
    say("done");
    while (getchar() != EOF) {}
    return 0;
}
