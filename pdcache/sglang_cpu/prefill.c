/* Layers on many new tokens, by the threads that OpenMP is given (`use_threads`).

   In attention a block of queries is multiplied with one block of keys after the other, while it keeps the sums
   of a softmax that is not finished (FlashAttention's way), so that all of it stays in the caches.
   The query heads that share a KV head are rows of the same block. */

#include <math.h>
#include <omp.h>

#include "layers.h"
#include "vectors.h"

#define KEYS 64    /* of a block */
#define QUERIES 96 /* of a block, rows of all heads of a group */
#define TILE 6     /* rows whose sums are in registers at a time */
#ifdef __AVX512F__
#define WIDE 4 /* vectors of each of them */
#else
#define WIDE 1
#endif

/* How many threads the calling thread's parallel parts have from now on, torch's too. */
void use_threads(int count) { omp_set_num_threads(count); }

/* c[TILE][wide x LANES] (+)= a[TILE][inner] times b[inner][wide x LANES]. */
INLINE void tile(const float *a, long a_stride, long inner, const float *b, long b_stride,
                 float *c, long c_stride, int wide, int add) {
  floats sums[TILE][WIDE];
  for (int row = 0; row < TILE; row++)
    for (int part = 0; part < wide; part++)
      sums[row][part] = add ? load(c + row * c_stride + part * LANES) : (floats){0};
  for (long at = 0; at < inner; at++, b += b_stride) {
    floats columns[WIDE];
    for (int part = 0; part < wide; part++) columns[part] = load(b + part * LANES);
    for (int row = 0; row < TILE; row++) {
      float factor = a[row * a_stride + at];
      for (int part = 0; part < wide; part++) sums[row][part] += factor * columns[part];
    }
  }
  for (int row = 0; row < TILE; row++)
    for (int part = 0; part < wide; part++)
      *(floats *)(c + row * c_stride + part * LANES) = sums[row][part];
}

/* c[rows][columns] (+)= a[rows][inner] times b[inner][columns]; rows are computed up to whole
   TILEs, columns are whole LANES. */
INLINE void multiply(const float *a, long rows, long inner, const float *b, float *c, long columns,
                     int add) {
  for (long row = 0; row < rows; row += TILE) {
    const float *from = a + row * inner;
    float *to = c + row * columns;
    long column = 0;
    for (; column + WIDE * LANES <= columns; column += WIDE * LANES)
      tile(from, inner, inner, b + column, columns, to + column, columns, WIDE, add);
    for (; column < columns; column += LANES)
      tile(from, inner, inner, b + column, columns, to + column, columns, 1, add);
  }
}

INLINE floats larger(floats a, floats b) {
  integers chosen = a > b;
  return (floats)(((integers)a & chosen) | ((integers)b & ~chosen));
}

INLINE float largest(floats of) {
  float each[LANES];
  memcpy(each, &of, sizeof of);
  for (int half = LANES / 2; half; half /= 2)
    for (int at = 0; at < half; at++)
      each[at] = each[at] > each[at + half] ? each[at] : each[at + half];
  return each[0];
}

/* Takes a row's scores of one block of keys, of which `seen` are visible, into its softmax: they
   become weights, and what was summed before is scaled to the largest score since. */
INLINE void weigh(float *scores, long seen, float *most, float *total, float *mixed, long dim) {
  for (long at = seen > 0 ? seen : 0; at < KEYS; at++) scores[at] = -INFINITY;
  floats top = load(scores);
  for (long at = LANES; at < KEYS; at += LANES) top = larger(load(scores + at), top);
  float now = largest(top);
  if (now > *most) {
    float part = exponential((floats){0} + (*most - now))[0];
    for (long d = 0; d < dim; d += LANES) *(floats *)(mixed + d) = load(mixed + d) * part;
    *total *= part;
    *most = now;
  }
  floats sums = {0};
  for (long at = 0; at < KEYS; at += LANES) {
    floats weights = exponential(load(scores + at) - *most);
    *(floats *)(scores + at) = weights;
    sums += weights;
  }
  *total += sum(sums);
}

/* A block of one KV head's keys as [dim][KEYS], and of its values as [KEYS][dim], both in float32;
   zeros beyond the sequence. */
INLINE void pack(const void *keys, const void *values, int half, const int32_t *slots, long count,
                 long stride, long from, long dim, float *keys_to, float *values_to) {
  for (long at = 0; at < KEYS; at++, values_to += dim)
    for (long d = 0; d < dim; d += LANES) {
      floats key = {0}, value = {0};
      if (at < count) {
        long place = slots[at] * stride + from + d;
        key = load_of(keys, place, half), value = load_of(values, place, half);
      }
      for (int lane = 0; lane < LANES; lane++) keys_to[(d + lane) * KEYS + at] = key[lane];
      *(floats *)(values_to + d) = value;
    }
}

struct extend {
  const float *query; /* [new][heads][dim], tokens `apart` from each other */
  long apart;
  const void *keys, *values; /* [slots][kv_heads][dim] of float32, or of bfloat16 if `half` */
  int half, causal;
  float *out;           /* [new][heads][dim] */
  const int32_t *slots; /* [length] of the sequence, whose last tokens are the new ones */
  long length, new, heads, kv_heads, dim; /* dim in whole LANES */
  float scale;
  float *packed; /* room for [2][kv_heads][length, up to whole KEYS][dim] */
};

/* One block of new tokens, all query heads of one KV head. */
static void attend(const struct extend *of, long kv, long first, long tokens) {
  long dim = of->dim, share = of->heads / of->kv_heads, rows = tokens * share;
  long blocks = (of->length + KEYS - 1) / KEYS, before = of->length - of->new;
  float query[QUERIES * dim], mixed[QUERIES * dim], scores[QUERIES * KEYS];
  float most[QUERIES], total[QUERIES];
  for (long row = 0; row < QUERIES; row++) {
    const float *from = of->query + (first + row / share) * of->apart;
    from += (kv * share + row % share) * dim;
    for (long d = 0; d < dim; d++) query[row * dim + d] = row < rows ? from[d] * of->scale : 0;
    most[row] = -INFINITY, total[row] = 0;
  }
  memset(mixed, 0, sizeof mixed);
  const float *keys = of->packed + kv * blocks * KEYS * dim;
  const float *values = keys + of->kv_heads * blocks * KEYS * dim;
  long end = of->causal ? before + first + tokens : of->length;
  for (long at = 0; at < end; at += KEYS, keys += KEYS * dim, values += KEYS * dim) {
    multiply(query, rows, dim, keys, scores, KEYS, 0);
    for (long row = 0; row < rows; row++) {
      long sees = (of->causal ? before + first + row / share + 1 : of->length) - at;
      weigh(scores + row * KEYS, sees, most + row, total + row, mixed + row * dim, dim);
    }
    multiply(scores, rows, KEYS, values, mixed, dim, 1);
  }
  for (long row = 0; row < rows; row++) {
    float *to = of->out + ((first + row / share) * of->heads + kv * share + row % share) * dim;
    for (long d = 0; d < dim; d++) to[d] = mixed[row * dim + d] / total[row];
  }
}

/* A request's new tokens attend to its sequence; QUERIES are at least heads / kv_heads. */
void extend(const struct extend *of) {
  long dim = of->dim, kv_heads = of->kv_heads, size = KEYS * dim;
  long blocks = (of->length + KEYS - 1) / KEYS, tokens = QUERIES / (of->heads / kv_heads);
  long parts = (of->new + tokens - 1) / tokens;
#pragma omp parallel
  {
#pragma omp for
    for (long task = 0; task < kv_heads * blocks; task++) {
      long kv = task / blocks, at = task % blocks * KEYS;
      long count = of->length - at < KEYS ? of->length - at : KEYS;
      float *keys = of->packed + task * size, *values = keys + kv_heads * blocks * size;
      if (of->half)
        pack(of->keys, of->values, 1, of->slots + at, count, kv_heads * dim, kv * dim, dim, keys,
             values);
      else
        pack(of->keys, of->values, 0, of->slots + at, count, kv_heads * dim, kv * dim, dim, keys,
             values);
    }
    /* The last tokens see the most keys: theirs are begun first. */
#pragma omp for schedule(dynamic)
    for (long task = 0; task < kv_heads * parts; task++) {
      long first = (parts - 1 - task / kv_heads) * tokens;
      attend(of, task % kv_heads, first, of->new - first < tokens ? of->new - first : tokens);
    }
  }
}

/* `add_norm` of many rows. */
void add_norm_rows(const float *added, float *residual, const float *weight, float epsilon,
                   float *out, long rows, long size) {
#pragma omp parallel for
  for (long row = 0; row < rows; row++)
    add_norm(added + row * size, residual + row * size, weight, epsilon, out + row * size, 1, size);
}

/* The first `heads` heads of each row [width] turn in place; rotation: [rows][dim], cosines of
   dim / 2 angles, then their sines. */
void rotate_rows(float *from, long rows, long width, long heads, long dim, const float *rotation) {
#pragma omp parallel for
  for (long row = 0; row < rows; row++)
    rotate(from + row * width, heads, dim, rotation + row * dim);
}

/* `gate_up` of many rows, to another place. */
void gate_up_rows(const float *from, float *to, long rows, long size) {
#pragma omp parallel for
  for (long row = 0; row < rows; row++) gate_up(from + 2 * row * size, to + row * size, 1, size);
}
