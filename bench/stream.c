/* The yardstick of the tables: the memory traffic of AdamW with next to no arithmetic. Per element four reads
 * (p, g, m, v) and three writes (p, m, v); one parallel region for the whole list, each thread walking one contiguous
 * range of blocks, as fastupdate's plan does. It is compiled for the machine at hand and knows nothing else. */
#include <stdint.h>

enum { kBlock = 1024 };

typedef struct {
  float *p, *g, *m, *v;
  int64_t n, first_block;
} Tensor;

static void sweep(float* restrict p, const float* restrict g, float* restrict m, float* restrict v, int64_t n,
                  float c) {
  for (int64_t i = 0; i < n; ++i) {
    const float x = c * g[i];
    p[i] += x;
    m[i] += x;
    v[i] += x;
  }
}

static void walk(const Tensor* tensors, int64_t count, int64_t first, int64_t last, float c) {
  for (const Tensor *t = tensors, *end = tensors + count; t < end && t->first_block < last; ++t) {
    const int64_t begin = first > t->first_block ? (first - t->first_block) * kBlock : 0;
    const int64_t reach = (last - t->first_block) * kBlock, stop = reach < t->n ? reach : t->n;
    if (begin < stop) sweep(t->p + begin, t->g + begin, t->m + begin, t->v + begin, stop - begin, c);
  }
}

void stream(const Tensor* tensors, int64_t count, int64_t blocks, int threads, float c) {
  if (threads == 1) {
    walk(tensors, count, 0, blocks, c);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int k = 0; k < threads; ++k) walk(tensors, count, blocks * k / threads, blocks * (k + 1) / threads, c);
}
