// Functions as compilers make them with -fcf-protection: each begins with `endbr64; push`. Calls all of
// them, as often as it is told to.
#include <cstdio>
#include <cstdlib>
#include <utility>

#define FUNCTION __attribute__((noinline, noipa))

constexpr int FUNCTIONS = 200;

// Somewhere the compiler cannot see, so that the function's value has to be kept over the call.
FUNCTION long elsewhere(long number);

template <int N> FUNCTION long work(long number) { return elsewhere(number + N) ^ number; }

template <int... N> FUNCTION long all(long number, std::integer_sequence<int, N...>) {
    return (0L + ... + work<N>(number));
}

FUNCTION long call_all(long number);

#ifndef MAIN_ONLY
FUNCTION long elsewhere(long number) { return number * 3; }
FUNCTION long call_all(long number) {
    return all(number, std::make_integer_sequence<int, FUNCTIONS>());
}
#endif

#ifndef LIBRARY_ONLY
int main(int argc, char **argv) {
    long rounds = argc > 1 ? std::atol(argv[1]) : 1, sum = 0;
    for (long round = 0; round < rounds; round++)
        sum += call_all(round);
    std::printf("%ld\n", sum);
}
#endif
