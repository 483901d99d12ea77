/* The yardstick of the tables: the memory traffic of AdamW with trivial arithmetic. Per element four reads (p, g, m, v)
 * and three writes (p, m, v); one parallel region for the whole list, each thread walking one contiguous range of
 * blocks, as fastupdate's plan does. It is compiled for the machine at hand and knows nothing else. */
#include <stdint.h>

enum { kBlock = 1024, kGroup = 32, kMost = 8 };

typedef struct {
  float *p, *g, *m, *v;
  int64_t n, first_block;
} Tensor;

/* With `divide` the loop takes longer over its arithmetic, which can make it faster: loads run further ahead. */
static inline float change(float g, float c, int divide) { return divide ? c / (g + 3) : c * g; }

#define EACH for (int k = 0; k < kGroup; ++k)

/* A group is read before any of it is written, else loads wait for stores to addresses that end in the same 12 bits. */
static inline void sweep(float* restrict p, const float* restrict g, float* restrict m, float* restrict v, int64_t n,
                         float c, int divide) {
  int64_t i = 0;
  for (; i + kGroup <= n; i += kGroup) {
    float x[kGroup], new_p[kGroup], new_m[kGroup], new_v[kGroup];
    EACH x[k] = change(g[i + k], c, divide);
    EACH new_p[k] = p[i + k] + x[k];
    EACH new_m[k] = m[i + k] + x[k];
    EACH new_v[k] = v[i + k] + x[k];
    EACH p[i + k] = new_p[k];
    EACH m[i + k] = new_m[k];
    EACH v[i + k] = new_v[k];
  }
  for (; i < n; ++i) {
    const float x = change(g[i], c, divide);
    p[i] += x;
    m[i] += x;
    v[i] += x;
  }
}

static void walk(const Tensor* tensors, int64_t count, int64_t first, int64_t last, float c, int divide) {
  for (const Tensor *t = tensors, *end = tensors + count; t < end && t->first_block < last; ++t) {
    const int64_t begin = first > t->first_block ? (first - t->first_block) * kBlock : 0;
    const int64_t reach = (last - t->first_block) * kBlock, stop = reach < t->n ? reach : t->n;
    if (begin >= stop) continue;
    if (divide)
      sweep(t->p + begin, t->g + begin, t->m + begin, t->v + begin, stop - begin, c, 1);
    else
      sweep(t->p + begin, t->g + begin, t->m + begin, t->v + begin, stop - begin, c, 0);
  }
}

void stream(const Tensor* tensors, int64_t count, int64_t blocks, int threads, float c, int divide) {
  if (threads == 1) {
    walk(tensors, count, 0, blocks, c, divide);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int k = 0; k < threads; ++k) walk(tensors, count, blocks * k / threads, blocks * (k + 1) / threads, c, divide);
}

/* What a lazy step moves: touched rows of p, m and v are read and written, where the rows of values that add up to each
 * of them are read. Rows that come later are fetched `ahead` of time. */
typedef struct {
  float *p, *m, *v;
  const float* values;
  const int64_t *at, *starts, *positions;  // as csrc/core/plan.h has them
  int64_t count, length;
} Rows;

static void fetch(const float* row, int64_t length) {
  for (int64_t i = 0; i < length; i += 16) __builtin_prefetch(row + i, 1);
}

static void walk_rows(const Rows* r, int64_t first, int64_t last, int64_t ahead, float c) {
  const int64_t n = r->length;
  float sum[1024];
  for (int64_t k = first; k < last; ++k) {
    if (ahead && k + ahead < last) {
      const int64_t row = r->at[k + ahead] * n;
      fetch(r->p + row, n);
      fetch(r->m + row, n);
      fetch(r->v + row, n);
      fetch(r->values + r->positions[r->starts[k + ahead]] * n, n);
    }
    const float* g = r->values + r->positions[r->starts[k]] * n;
    for (int64_t s = r->starts[k] + 1; s < r->starts[k + 1]; ++s) {
      const float* next = r->values + r->positions[s] * n;
      for (int64_t i = 0; i < n; ++i) sum[i] = g[i] + next[i];
      g = sum;
    }
    const int64_t row = r->at[k] * n;
    sweep(r->p + row, g, r->m + row, r->v + row, n, c, 0);
  }
}

void rows_stream(const Rows* rows, int threads, int64_t ahead, float c) {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int k = 0; k < threads; ++k)
    walk_rows(rows, rows->count * k / threads, rows->count * (k + 1) / threads, ahead, c);
}

/* One pass over whole arrays: all of them are read, those whose bit is set in `writes` are written too. */
static inline __attribute__((always_inline)) void pass(float* const* arrays, const int count, uint32_t writes, int64_t n,
                                                       float c, const int divide) {
  for (int64_t i = 0; i + kGroup <= n; i += kGroup) {
    float x[kGroup], old[kMost][kGroup];
    EACH x[k] = 0;
#pragma GCC unroll 8
    for (int a = 0; a < count; ++a) EACH x[k] += old[a][k] = arrays[a][i + k];
    EACH x[k] = change(x[k], c, divide);
#pragma GCC unroll 8
    for (int a = 0; a < count; ++a)
      if (writes >> a & 1) EACH arrays[a][i + k] = old[a][k] + x[k];
  }
}

static void pass_part(float* const* arrays, int count, uint32_t writes, int64_t begin, int64_t end, float c,
                      int divide) {
  float* here[kMost];
  for (int a = 0; a < count; ++a) here[a] = arrays[a] + begin;
#define CASE(count)                                                  \
  case count:                                                        \
    if (divide) return pass(here, count, writes, end - begin, c, 1); \
    return pass(here, count, writes, end - begin, c, 0);
  switch (count) {
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
  }
#undef CASE
}

/* n: whole groups. */
void pass_over(float* const* arrays, int count, uint32_t writes, int64_t n, int threads, float c, int divide) {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int k = 0; k < threads; ++k)
    pass_part(arrays, count, writes, n * k / threads / kBlock * kBlock,
              k + 1 == threads ? n : n * (k + 1) / threads / kBlock * kBlock, c, divide);
}
