// Two builds of one library, and a program that loads both: compiled with `-shared -DBUILD=N`, or without.
#ifdef BUILD
int answer(int n) { return n + BUILD; }
#else
#include <dlfcn.h>
#include <stdio.h>

// Loads the libraries that its arguments name. For each line of its input it calls the first 3 times, the
// second 5 times.
int main(int argc, char **argv) {
    int (*answer[2])(int);
    for (int library = 0; library < 2; library++) {
        void *handle = argc == 3 ? dlopen(argv[1 + library], RTLD_NOW | RTLD_LOCAL) : NULL;
        answer[library] = handle ? (int (*)(int))dlsym(handle, "answer") : NULL;
        if (!answer[library])
            return 1;
    }
    char line[16];
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        int sum = 0;
        for (int library = 0; library < 2; library++)
            for (int call = 0; call < 3 + 2 * library; call++)
                sum += answer[library](call);
        printf("%d\n", sum);
        fflush(stdout);
    }
    return 0;
}
#endif
