/* Fails, tears or kills at the n-th I/O call on files below a folder.
 *
 * Preloaded into a process and armed from it: `inject_arm`. Calls are counted from 1, only those that
 * change something below the folder: opening for writing, writing, syncing, locking, renaming,
 * making and removing. Nothing else is touched. Linux, glibc.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { COUNT, ERRNO, ERRNO_STICKY, KILL, TORN, SHORT };

static struct { int mode, number, error, seen; char folder[4096]; size_t length; } plan;

void inject_arm(int mode, int number, int error, const char *folder) {
  plan.mode = mode;
  plan.number = number;
  plan.error = error;
  plan.seen = 0;
  plan.length = strlen(folder);
  strncpy(plan.folder, folder, sizeof plan.folder - 1);
}

int inject_seen(void) { return plan.seen; }

static int below(const char *path) {
  return plan.length && path && !strncmp(path, plan.folder, plan.length);
}

static int fd_below(int fd) {
  char link[64], path[4096];
  if (!plan.length) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  if (n <= 0) return 0;
  path[n] = 0;
  return below(path);
}

/* A path relative to an open folder counts where the folder does. */
static int at_below(int fd, const char *path) {
  return path && path[0] == '/' ? below(path) : fd == AT_FDCWD ? 0 : fd_below(fd);
}

static void die(void) {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

/* What is to happen at this call: 0 nothing, else the plan's mode. */
static int turn(void) {
  int seen = __sync_add_and_fetch(&plan.seen, 1);
  int now = seen == plan.number || (plan.mode == ERRNO_STICKY && seen > plan.number);
  if (!now || plan.mode == COUNT) return 0;
  if (plan.mode == KILL) die();
  return plan.mode;
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = dlsym(RTLD_NEXT, #name)

/* A call that either happens or does not: torn means killed just after it. */
#define WHOLE(counts, call)                                              \
  do {                                                                   \
    int what = (counts) ? turn() : 0;                                    \
    if (what == ERRNO || what == ERRNO_STICKY) { errno = plan.error; return -1; } \
    int result = (call);                                                 \
    if (what == TORN) die();                                             \
    return result;                                                       \
  } while (0)

ssize_t write(int fd, const void *data, size_t size) {
  REAL(write);
  int what = fd > 2 && fd_below(fd) ? turn() : 0;
  if (what == ERRNO || what == ERRNO_STICKY) { errno = plan.error; return -1; }
  if (what == TORN) { real(fd, data, size / 2); die(); }
  if (what == SHORT && size > 1) return real(fd, data, size / 2);
  return real(fd, data, size);
}

int fsync(int fd) { REAL(fsync); WHOLE(fd_below(fd), real(fd)); }
int fdatasync(int fd) { REAL(fdatasync); WHOLE(fd_below(fd), real(fd)); }
int flock(int fd, int how) { REAL(flock); WHOLE(fd_below(fd), real(fd, how)); }
int ftruncate64(int fd, off64_t size) { REAL(ftruncate64); WHOLE(fd_below(fd), real(fd, size)); }
int rename(const char *a, const char *b) { REAL(rename); WHOLE(below(a) || below(b), real(a, b)); }
int link(const char *a, const char *b) { REAL(link); WHOLE(below(a) || below(b), real(a, b)); }
int mkdir(const char *path, mode_t mode) { REAL(mkdir); WHOLE(below(path), real(path, mode)); }
int rmdir(const char *path) { REAL(rmdir); WHOLE(below(path), real(path)); }
int unlink(const char *path) { REAL(unlink); WHOLE(below(path), real(path)); }
int renameat(int f, const char *a, int t, const char *b) {
  REAL(renameat);
  WHOLE(at_below(f, a) || at_below(t, b), real(f, a, t, b));
}
int mkdirat(int fd, const char *path, mode_t mode) {
  REAL(mkdirat);
  WHOLE(at_below(fd, path), real(fd, path, mode));
}
int unlinkat(int fd, const char *path, int flags) {
  REAL(unlinkat);
  WHOLE(at_below(fd, path), real(fd, path, flags));
}

/* Opening to read changes nothing, but a folder that is opened is opened to be synced. */
static int to_change(int flags) { return flags & (O_WRONLY | O_RDWR | O_CREAT | O_DIRECTORY); }

#define MODE_OF(flags)                   \
  mode_t mode = 0;                       \
  if ((flags) & (O_CREAT | O_TMPFILE)) { \
    va_list rest;                        \
    va_start(rest, flags);               \
    mode = va_arg(rest, mode_t);         \
    va_end(rest);                        \
  }

int open(const char *path, int flags, ...) {
  REAL(open);
  MODE_OF(flags);
  WHOLE(below(path) && to_change(flags), real(path, flags, mode));
}
int open64(const char *path, int flags, ...) {
  REAL(open64);
  MODE_OF(flags);
  WHOLE(below(path) && to_change(flags), real(path, flags, mode));
}
int openat(int fd, const char *path, int flags, ...) {
  REAL(openat);
  MODE_OF(flags);
  WHOLE(at_below(fd, path) && to_change(flags), real(fd, path, flags, mode));
}
int openat64(int fd, const char *path, int flags, ...) {
  REAL(openat64);
  MODE_OF(flags);
  WHOLE(at_below(fd, path) && to_change(flags), real(fd, path, flags, mode));
}
