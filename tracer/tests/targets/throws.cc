// Throws through functions whose returns are traced.
//
//   throws DEPTH ROUNDS
//
// Prints `ready`, waits for a line, throws, prints `done`, waits for the end of input.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

extern "C" {
__attribute__((noinline)) uint64_t plain(uint64_t value) {
    asm volatile("" ::: "memory");
    return value + 1;
}

__attribute__((noinline)) uint64_t thrower(uint64_t depth) {
    if (depth <= 1) throw std::runtime_error("far");
    uint64_t below = thrower(depth - 1);
    asm volatile("" ::: "memory");
    return below + 1;
}

// Catches: returns like any other.
__attribute__((noinline)) uint64_t catcher(uint64_t depth) {
    try {
        return thrower(depth);
    } catch (const std::runtime_error &) {
        return 13;
    }
}
}

int main(int argc, char **argv) {
    uint64_t depth = argc > 1 ? strtoul(argv[1], nullptr, 10) : 1;
    int rounds = argc > 2 ? atoi(argv[2]) : 1;
    char line[16];
    puts("ready");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin)) return 1;
    for (int i = 0; i < rounds; i++) {
        if (catcher(depth) != 13) abort();
        if (plain(1) != 2) abort();
    }
    puts("done");
    fflush(stdout);
    while (getchar() != EOF) {}
    return 0;
}
