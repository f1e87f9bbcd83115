// A file system in user space that answers everything up to a point, and then stops answering.
//
//   hung_fuse MOUNTPOINT lookup|open|read FILE
//
// It is mounted in a mount namespace of its own. The file system has one file, `lib.so`, whose content is
// that of FILE. A request of the kind it is named for is taken and not answered. Prints `ready`. A line on
// standard input makes it answer what it has taken, and everything from then on.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sched.h>
#include <unistd.h>

static int device, file;
static struct stat of_file;

static void reply(uint64_t unique, int error, const void *data, size_t bytes) {
    struct fuse_out_header header = {.len = sizeof header + bytes, .error = -error, .unique = unique};
    struct iovec parts[2] = {{&header, sizeof header}, {(void *)data, bytes}};
    if (writev(device, parts, bytes ? 2 : 1) < 0 && errno != ENOENT) perror("reply");
}

static struct fuse_attr attr_of(uint64_t node) {
    struct fuse_attr attr = {.ino = node, .nlink = 1, .blksize = 4096};
    if (node == 1) {
        attr.mode = S_IFDIR | 0755;
    } else {
        attr.mode = S_IFREG | 0755;
        attr.size = of_file.st_size;
        attr.mtime = of_file.st_mtime;
        attr.blocks = (of_file.st_size + 511) / 512;
    }
    return attr;
}

static uint32_t hangs_at(const char *kind) {
    return !strcmp(kind, "lookup") ? FUSE_LOOKUP : !strcmp(kind, "open") ? FUSE_OPEN : !strcmp(kind, "read") ? FUSE_READ : 0;
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    static char request[1 << 20], data[1 << 20];
    const char *mountpoint = argv[1];
    uint32_t hang = hangs_at(argv[2]);
    file = open(argv[3], O_RDONLY);
    device = open("/dev/fuse", O_RDWR);
    if (file < 0 || device < 0 || fstat(file, &of_file)) return perror("open"), 1;
    // What is stuck here must not affect anything else.
    if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL)) return perror("unshare"), 1;
    char options[100];
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", device);
    if (mount("hung", mountpoint, "fuse.hung", 0, options)) return perror("mount"), 1;
    puts("ready");
    fflush(stdout);
    int released = 0;
    char *held[64];
    size_t held_count = 0;
    for (;;) {
        struct pollfd both[2] = {{device, POLLIN, 0}, {0, POLLIN, 0}};
        if (poll(both, 2, -1) < 0) return 1;
        if (both[1].revents) {
            char line[16];
            // End of input instead of a line: the process that started us is gone.
            if (read(0, line, sizeof line) <= 0) return umount2(mountpoint, MNT_DETACH), 0;
            released = 1;
            hang = 0;
        }
        struct fuse_in_header *in;
        if (released && held_count) {
            in = (struct fuse_in_header *)held[--held_count];
        } else {
            if (!both[0].revents) continue;
            ssize_t got = read(device, request, sizeof request);
            if (got < 0) return errno == ENODEV ? 0 : 1;
            in = (struct fuse_in_header *)request;
        }
        void *body = in + 1;
        if (hang && in->opcode == hang) {
            if (held_count < 64) held[held_count++] = memcpy(malloc(in->len), in, in->len);
            continue;
        }
        switch (in->opcode) {
        case FUSE_INIT: {
            struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION, .max_readahead = 65536, .max_write = 65536};
            reply(in->unique, 0, &out, sizeof out);
            break;
        }
        case FUSE_LOOKUP: {
            if (strcmp(body, "lib.so")) { reply(in->unique, ENOENT, NULL, 0); break; }
            struct fuse_entry_out out = {.nodeid = 2, .generation = 1, .attr = attr_of(2)};
            reply(in->unique, 0, &out, sizeof out);
            break;
        }
        case FUSE_GETATTR: {
            struct fuse_attr_out out = {.attr = attr_of(in->nodeid)};
            reply(in->unique, 0, &out, sizeof out);
            break;
        }
        case FUSE_OPEN: case FUSE_OPENDIR: {
            struct fuse_open_out out = {.fh = 1};
            reply(in->unique, 0, &out, sizeof out);
            break;
        }
        case FUSE_READ: {
            struct fuse_read_in *read_in = body;
            size_t size = read_in->size < sizeof data ? read_in->size : sizeof data;
            ssize_t got = pread(file, data, size, read_in->offset);
            reply(in->unique, got < 0 ? EIO : 0, data, got < 0 ? 0 : got);
            break;
        }
        case FUSE_STATFS: {
            struct fuse_statfs_out out = {.st = {.bsize = 4096, .namelen = 255}};
            reply(in->unique, 0, &out, sizeof out);
            break;
        }
        case FUSE_RELEASE: case FUSE_RELEASEDIR: case FUSE_FLUSH: case FUSE_ACCESS: reply(in->unique, 0, NULL, 0); break;
        case FUSE_FORGET: case FUSE_BATCH_FORGET: case FUSE_INTERRUPT: break;
        default: reply(in->unique, ENOSYS, NULL, 0);
        }
    }
}
