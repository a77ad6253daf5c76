/* Layers on many new tokens, by the threads that OpenMP is given (`use_threads`).

   In attention a block of queries is multiplied with one block of keys after the other, while it
   keeps the sums of a softmax that is not finished (FlashAttention's way), so that all of it stays
   in the caches. The query heads that share a KV head are rows of the same block. */

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
#define WIDE 2
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
   TILEs, columns are whole LANES. Rows of a, and those of b and c, lie so far apart. */
INLINE void multiply(const float *a, long a_stride, long rows, long inner, const float *b, float *c,
                     long stride, long columns, int add) {
  for (long row = 0; row < rows; row += TILE) {
    const float *from = a + row * a_stride;
    float *to = c + row * stride;
    long column = 0;
    for (; column + WIDE * LANES <= columns; column += WIDE * LANES)
      tile(from, a_stride, inner, b + column, stride, to + column, stride, WIDE, add);
    for (; column < columns; column += LANES)
      tile(from, a_stride, inner, b + column, stride, to + column, stride, 1, add);
  }
}

/* Takes a row's scores of `keys` keys, whole LANES, of which `seen` are visible, into its softmax:
   they become weights, and what was summed before is scaled to the largest score since. */
INLINE void weigh(float *scores, long keys, long seen, float *most, float *total, float *mixed,
                  long dim) {
  for (long at = seen > 0 ? seen : 0; at < keys; at++) scores[at] = -INFINITY;
  floats top = load(scores);
  for (long at = LANES; at < keys; at += LANES) top = larger(load(scores + at), top);
  float now = largest(top);
  if (now > *most) {
    float part = exponential((floats){0} + (*most - now))[0];
    for (long d = 0; d < dim; d += LANES) *(floats *)(mixed + d) = load(mixed + d) * part;
    *total *= part;
    *most = now;
  }
  floats sums = {0};
  for (long at = 0; at < keys; at += LANES) {
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
  for (long at = 0; at < KEYS; at += LANES)
    for (long d = 0; d < dim; d += LANES) {
      floats square[LANES];
      for (int row = 0; row < LANES; row++) {
        floats value = square[row] = (floats){0};
        if (at + row < count) {
          long place = slots[at + row] * stride + from + d;
          square[row] = load_of(keys, place, half), value = load_of(values, place, half);
        }
        *(floats *)(values_to + (at + row) * dim + d) = value;
      }
      transpose(square);
      for (int row = 0; row < LANES; row++)
        *(floats *)(keys_to + (d + row) * KEYS + at) = square[row];
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
    long some = end - at < KEYS ? (end - at + LANES - 1) / LANES * LANES : KEYS;
    multiply(query, dim, rows, dim, keys, scores, KEYS, some, 0);
    for (long row = 0; row < rows; row++) {
      long sees = (of->causal ? before + first + row / share + 1 : of->length) - at;
      weigh(scores + row * KEYS, some, sees, most + row, total + row, mixed + row * dim, dim);
    }
    multiply(scores, KEYS, rows, some, values, mixed, dim, dim, 1);
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

#define LEAST_ROWS 6 /* that a thread takes at a time */
#define SHARES 4     /* of a thread, of few rows */
#define HALVES 4     /* of a thread, of many rows: smaller ones come last */

/* `between` for all rows of a step. A thread takes so many at a time that a layer's activations
   stay in L2, all threads end at about one time, and one that has to leave its core for a while
   holds up few rows. */
void prefill_rows(const struct step *of, void *const *before, void *const *after) {
  int threads = omp_get_max_threads() < of->rooms ? omp_get_max_threads() : of->rooms;
  long some = of->rows / (threads * SHARES), less, whole;
  some = some < LEAST_ROWS ? LEAST_ROWS : some;
  some = some > of->rows_a_room ? of->rows_a_room : some;
  less = some < 2 * LEAST_ROWS ? some : some / 2;
  whole = of->rows / some - threads * HALVES / 2; /* of the size `some`, the rest of `less` */
  whole = whole < 0 ? 0 : whole;
  long tasks = whole + (of->rows - whole * some + less - 1) / less;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (long task = 0; task < tasks; task++) {
    long first = task < whole ? task * some : whole * some + (task - whole) * less;
    long rows = task < whole ? some : less;
    between(of, before, after, first, of->rows - first < rows ? of->rows - first : rows,
            omp_get_thread_num());
  }
}
