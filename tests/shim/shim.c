/*
 * Stands between a program and its files (LD_PRELOAD): writes down every change of a file below a folder, in order, so that what a
 * disk may hold after a loss of power can be computed; or makes a call fail.
 *
 *   SHIM_FOLDER   the folder
 *   SHIM_LOG      where the changes are written down (see `struct record`); none if it is not set
 *   SHIM_SYNC_US  how long a sync takes at least, in microseconds
 *   SHIM_FAIL     CALL:ERRNO:COUNT - from the CALLth change or sync of this process on, counted from 1, COUNT of them fail;
 *                 with ERRNO 0 the process is killed in place of that call
 *
 * One lock makes the order in the log that of the effects. A sync is two records, because it covers what was written before it
 * began, and holds from when it ended. Programs started by this one are not watched.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind {
    OPEN = 1,     /* file: inode, offset: 1 if it was made; data: path */
    WRITE = 2,    /* offset; data; `synced` if it holds from its END on */
    END = 3,      /* of the last synced write of this thread */
    SYNC = 4,     /* a sync of a file or folder begins */
    SYNCED = 5,   /* and has ended */
    TRUNCATE = 6, /* offset: the new length */
    RENAME = 7,   /* data: from, zero byte, to */
    UNLINK = 8,   /* data: path; also of a folder */
    MKDIR = 9,    /* data: path */
    MSYNC = 10,   /* nothing maps files to write them; if this occurs, the images are wrong */
    FAILED = 11,  /* a call was made to fail; offset: its number */
};

struct record {
    uint32_t kind;
    uint32_t synced;
    uint64_t thread;
    uint64_t file;
    uint64_t offset;
    uint64_t length; /* of the data that follows */
};

#define FDS 65536

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char folder[PATH_MAX];
static size_t folder_length;
static int log_fd = -1;
static long sync_us;
static long fail_from, fail_errno, fail_count, calls;
/* The inode of each descriptor that is watched, and whether its writes are synced. */
static uint64_t inodes[FDS];
static unsigned char synced[FDS];

static void *real(const char *name) {
    void *function = dlsym(RTLD_NEXT, name);
    if (!function) abort();
    return function;
}
#define REAL(type, name, ...) ((type(*)(__VA_ARGS__))real(name))

__attribute__((constructor)) static void begin(void) {
    const char *value = getenv("SHIM_FOLDER");
    if (value && realpath(value, folder)) folder_length = strlen(folder);
    if ((value = getenv("SHIM_LOG"))) {
        int fd = REAL(int, "open", const char *, int, ...)(value, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        /* Out of the way of programs that count descriptors. */
        log_fd = fcntl(fd, F_DUPFD_CLOEXEC, 900);
        REAL(int, "close", int)(fd);
    }
    if ((value = getenv("SHIM_SYNC_US"))) sync_us = atol(value);
    if ((value = getenv("SHIM_FAIL"))) sscanf(value, "%ld:%ld:%ld", &fail_from, &fail_errno, &fail_count);
    unsetenv("LD_PRELOAD");
}

static int below(const char *path) {
    return folder_length && !strncmp(path, folder, folder_length) && (path[folder_length] == '/' || !path[folder_length]);
}

/* The absolute path of a name in a folder that is open. */
static int whole(int at, const char *name, char *path) {
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
    } else {
        char link[64], base[PATH_MAX];
        snprintf(link, sizeof link, at == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", at);
        ssize_t length = readlink(link, base, sizeof base - 1);
        if (length < 0) return 0;
        base[length] = 0;
        if ((size_t)snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX) return 0;
    }
    return below(path);
}

static int watched(int fd) { return fd >= 0 && fd < FDS && inodes[fd]; }

/* With the lock held. */
static void note(enum kind kind, int fd, uint64_t offset, const void *data, size_t length) {
    if (log_fd < 0) return;
    struct record record = {kind, fd >= 0 && synced[fd], (uint64_t)syscall(SYS_gettid), fd >= 0 ? inodes[fd] : 0, offset, length};
    struct iovec parts[2] = {{&record, sizeof record}, {(void *)data, length}};
    ssize_t done = REAL(ssize_t, "writev", int, const struct iovec *, int)(log_fd, parts, 2);
    if (done != (ssize_t)(sizeof record + length)) abort();
}

/* Whether this call is to fail; then errno is set. With the lock held. */
static int fails(void) {
    calls++;
    if (!fail_from || calls < fail_from || calls >= fail_from + fail_count) return 0;
    note(FAILED, -1, calls, NULL, 0);
    if (!fail_errno) kill(getpid(), SIGKILL);
    errno = fail_errno;
    return 1;
}

static int opened(int at, const char *name, int flags, mode_t mode, const char *symbol) {
    char path[PATH_MAX];
    int ours = whole(at, name, path), created = 0;
    struct stat stat;
    if (!ours) return REAL(int, symbol, int, const char *, int, ...)(at, name, flags, mode);
    pthread_mutex_lock(&lock);
    if (flags & O_CREAT) created = lstat(path, &stat) != 0;
    int fd = -1;
    if (!(created && fails())) fd = REAL(int, symbol, int, const char *, int, ...)(at, name, flags, mode);
    if (fd >= 0 && fd < FDS && !fstat(fd, &stat) && (S_ISREG(stat.st_mode) || S_ISDIR(stat.st_mode))) {
        inodes[fd] = stat.st_ino;
        synced[fd] = (flags & O_DSYNC) != 0;
        note(OPEN, fd, created, path, strlen(path));
        if (flags & O_TRUNC) note(TRUNCATE, fd, 0, NULL, 0);
    }
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return fd;
}

#define OPENER(name, symbol)                                                  \
    int name(const char *path, int flags, ...) {                              \
        va_list rest;                                                         \
        va_start(rest, flags);                                                \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, int) : 0; \
        va_end(rest);                                                         \
        return opened(AT_FDCWD, path, flags, mode, symbol);                   \
    }
OPENER(open, "openat")
OPENER(open64, "openat64")
#define OPENER_AT(name, symbol)                                               \
    int name(int at, const char *path, int flags, ...) {                      \
        va_list rest;                                                         \
        va_start(rest, flags);                                                \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, int) : 0; \
        va_end(rest);                                                         \
        return opened(at, path, flags, mode, symbol);                         \
    }
OPENER_AT(openat, "openat")
OPENER_AT(openat64, "openat64")

int close(int fd) {
    if (watched(fd)) {
        pthread_mutex_lock(&lock);
        inodes[fd] = 0;
        pthread_mutex_unlock(&lock);
    }
    return REAL(int, "close", int)(fd);
}

static ssize_t written(int fd, const struct iovec *parts, int count, off_t offset, int positioned) {
    size_t length = 0;
    for (int i = 0; i < count; i++) length += parts[i].iov_len;
    char *data = malloc(length ? length : 1), *to = data;
    if (!data) abort();
    for (int i = 0; i < count; i++) to = mempcpy(to, parts[i].iov_base, parts[i].iov_len);
    pthread_mutex_lock(&lock);
    ssize_t done = -1;
    if (!fails()) {
        if (!positioned) {
            int appends = fcntl(fd, F_GETFL) & O_APPEND;
            offset = lseek(fd, 0, appends ? SEEK_END : SEEK_CUR);
        }
        /* Before it is done, because the disk may have it from then on. */
        note(WRITE, fd, offset, data, length);
        done = positioned ? REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t)(fd, data, length, offset)
                          : REAL(ssize_t, "write", int, const void *, size_t)(fd, data, length);
        if (done == (ssize_t)length && synced[fd]) note(END, fd, 0, NULL, 0);
    }
    int error = errno;
    pthread_mutex_unlock(&lock);
    free(data);
    errno = error;
    return done;
}

ssize_t write(int fd, const void *data, size_t length) {
    struct iovec part = {(void *)data, length};
    return watched(fd) ? written(fd, &part, 1, 0, 0) : REAL(ssize_t, "write", int, const void *, size_t)(fd, data, length);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    return watched(fd) ? written(fd, parts, count, 0, 0)
                       : REAL(ssize_t, "writev", int, const struct iovec *, int)(fd, parts, count);
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    struct iovec part = {(void *)data, length};
    return watched(fd) ? written(fd, &part, 1, offset, 1)
                       : REAL(ssize_t, "pwrite", int, const void *, size_t, off_t)(fd, data, length, offset);
}
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    struct iovec part = {(void *)data, length};
    return watched(fd) ? written(fd, &part, 1, offset, 1)
                       : REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t)(fd, data, length, offset);
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    return watched(fd) ? written(fd, parts, count, offset, 1)
                       : REAL(ssize_t, "pwritev", int, const struct iovec *, int, off_t)(fd, parts, count, offset);
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
    return watched(fd) ? written(fd, parts, count, offset, 1)
                       : REAL(ssize_t, "pwritev64", int, const struct iovec *, int, off64_t)(fd, parts, count, offset);
}

static int synchronised(int fd, const char *symbol) {
    if (!watched(fd)) return REAL(int, symbol, int)(fd);
    pthread_mutex_lock(&lock);
    int failed = fails();
    if (!failed) note(SYNC, fd, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    if (failed) return -1;
    if (sync_us) usleep(sync_us);
    int done = REAL(int, symbol, int)(fd);
    pthread_mutex_lock(&lock);
    if (!done) note(SYNCED, fd, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int fsync(int fd) { return synchronised(fd, "fsync"); }
int fdatasync(int fd) { return synchronised(fd, "fdatasync"); }

static int resized(int fd, off64_t length, const char *symbol) {
    if (!watched(fd)) return REAL(int, symbol, int, off64_t)(fd, length);
    pthread_mutex_lock(&lock);
    int done = fails() ? -1 : REAL(int, symbol, int, off64_t)(fd, length), error = errno;
    if (!done) note(TRUNCATE, fd, length, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
int ftruncate(int fd, off_t length) { return resized(fd, length, "ftruncate"); }
int ftruncate64(int fd, off64_t length) { return resized(fd, length, "ftruncate64"); }

/* Nobody needs room set aside: that it cannot be is a proper answer. */
int fallocate64(int fd, int mode, off64_t offset, off64_t length) {
    if (watched(fd)) return errno = EOPNOTSUPP, -1;
    return REAL(int, "fallocate64", int, int, off64_t, off64_t)(fd, mode, offset, length);
}
int fallocate(int fd, int mode, off_t offset, off_t length) { return fallocate64(fd, mode, offset, length); }

int msync(void *start, size_t length, int flags) {
    pthread_mutex_lock(&lock);
    note(MSYNC, -1, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    return REAL(int, "msync", void *, size_t, int)(start, length, flags);
}

int rename(const char *from, const char *to) {
    char both[2 * PATH_MAX];
    if (!whole(AT_FDCWD, from, both)) return REAL(int, "rename", const char *, const char *)(from, to);
    size_t length = strlen(both) + 1;
    whole(AT_FDCWD, to, both + length);
    pthread_mutex_lock(&lock);
    int done = fails() ? -1 : REAL(int, "rename", const char *, const char *)(from, to), error = errno;
    if (!done) note(RENAME, -1, 0, both, length + strlen(both + length));
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

int unlinkat(int at, const char *name, int flags) {
    char path[PATH_MAX];
    if (!whole(at, name, path)) return REAL(int, "unlinkat", int, const char *, int)(at, name, flags);
    pthread_mutex_lock(&lock);
    int done = REAL(int, "unlinkat", int, const char *, int)(at, name, flags), error = errno;
    if (!done) note(UNLINK, -1, 0, path, strlen(path));
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdir(const char *name, mode_t mode) {
    char path[PATH_MAX];
    if (!whole(AT_FDCWD, name, path)) return REAL(int, "mkdir", const char *, mode_t)(name, mode);
    pthread_mutex_lock(&lock);
    int done = REAL(int, "mkdir", const char *, mode_t)(name, mode), error = errno;
    if (!done) note(MKDIR, -1, 0, path, strlen(path));
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
