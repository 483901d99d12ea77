// For LD_PRELOAD: the n-th allocation from now on fails, of those in the thread that asks for it (allocations.py).
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>

static __thread long left = -1;
static __thread int failed = 0;

void fail_allocation(long n) {
  left = n;
  failed = 0;
}

int allocation_failed(void) {
  left = -1;
  return failed;
}

static int fails(void) {
  if (left < 0 || left-- > 0) return 0;
  failed = 1;
  errno = ENOMEM;
  return 1;
}

void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);

void* malloc(size_t n) { return fails() ? NULL : __libc_malloc(n); }
void* calloc(size_t n, size_t size) { return fails() ? NULL : __libc_calloc(n, size); }
void* realloc(void* at, size_t n) { return fails() ? NULL : __libc_realloc(at, n); }
