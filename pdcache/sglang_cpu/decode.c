/* Decode attention, and whole decode steps. */

#include <math.h>

#include "layers.h"
#include "vectors.h"

#define AHEAD 4 /* slots that are asked for before they are read */
#ifdef __AVX512F__
#define MIXED 4 /* vectors of each head that are summed at a time */
#else
#define MIXED 2
#endif

/* The caches are larger than a core's, and slots lie apart: ask for those that come next. */
INLINE void ask_for(const void *cache, int half, const int32_t *slots, long at, long length,
                    long stride) {
  if (at + AHEAD >= length) return;
  const char *next = (const char *)cache + slots[at + AHEAD] * stride * (half ? 2 : 4);
  for (long byte = 0; byte < stride * (half ? 2 : 4); byte += 64) __builtin_prefetch(next + byte);
}

/* Scores of `group` query heads [group][dim] at each position, [group][width]. */
INLINE void scores_of(const float *query, const void *keys, long from, int half,
                      const int32_t *slots, long length, long stride, long dim, int group,
                      float scale, float *scores, long width) {
  for (long at = 0; at < length; at++) {
    long key = from + slots[at] * stride;
    if (!from) ask_for(keys, half, slots, at, length, stride);
    floats sums[4] = {{0}};
    for (long d = 0; d < dim; d += LANES) {
      floats part = load_of(keys, key + d, half);
      for (int head = 0; head < group; head++) sums[head] += part * load(query + head * dim + d);
    }
    for (int head = 0; head < group; head++) scores[head * width + at] = sum(sums[head]) * scale;
  }
}

/* Scores become weights that sum to one; positions from `length` to `width` become 0. */
INLINE void softmax(float *scores, long length, long width) {
  float most = scores[0];
  floats sums = {0};
  for (long at = 1; at < length; at++) most = scores[at] > most ? scores[at] : most;
  for (long at = length; at < width; at++) scores[at] = -INFINITY;
  for (long at = 0; at < width; at += LANES) {
    floats weights = exponential(load(scores + at) - most);
    *(floats *)(scores + at) = weights;
    sums += weights;
  }
  float part = 1 / sum(sums);
  for (long at = 0; at < width; at += LANES) *(floats *)(scores + at) = load(scores + at) * part;
}

/* The weighted sum of values over `parts` x LANES of the dimensions. */
INLINE void mix(const float *weights, const void *values, long from, int half,
                const int32_t *slots, long length, long stride, long dim, int group, int parts,
                long width, float *out) {
  floats sums[4][MIXED] = {{{0}}};
  for (long at = 0; at < length; at++) {
    long value = from + slots[at] * stride;
    if (!from) ask_for(values, half, slots, at, length, stride);
    floats piece[MIXED];
    for (int part = 0; part < parts; part++)
      piece[part] = load_of(values, value + part * LANES, half);
    for (int head = 0; head < group; head++)
      for (int part = 0; part < parts; part++)
        sums[head][part] += weights[head * width + at] * piece[part];
  }
  for (int head = 0; head < group; head++)
    for (int part = 0; part < parts; part++)
      *(floats *)(out + head * dim + part * LANES) = sums[head][part];
}

INLINE void attend(const float *query, const void *keys, const void *values, long from, int half,
                   const int32_t *slots, long length, long stride, long dim, int group,
                   float scale, float *scores, float *out) {
  long width = (length + LANES - 1) / LANES * LANES, d = 0;
  scores_of(query, keys, from, half, slots, length, stride, dim, group, scale, scores, width);
  for (int head = 0; head < group; head++) softmax(scores + head * width, length, width);
  for (; d + MIXED * LANES <= dim; d += MIXED * LANES)
    mix(scores, values, from + d, half, slots, length, stride, dim, group, MIXED, width, out + d);
  for (; d < dim; d += LANES)
    mix(scores, values, from + d, half, slots, length, stride, dim, group, 1, width, out + d);
}

#define GROUP(count) \
  case count: \
    attend(query + head * dim, keys, values, kv * dim, half, slots, length, stride, dim, count, \
           scale, scores, out + head * dim); \
    break;

INLINE void decode_of(const float *query, long apart, const void *keys, const void *values,
                      int half, float *out, const int32_t *table, long positions,
                      const int64_t *rows, const int64_t *lengths, long requests, long heads,
                      long kv_heads, long dim, float scale, float *scores) {
  long share = heads / kv_heads, stride = kv_heads * dim;
  for (long request = 0; request < requests; request++, query += apart, out += heads * dim) {
    const int32_t *slots = table + rows[request] * positions;
    long length = lengths[request];
    for (long head = 0, group; head < heads; head += group) {
      long kv = head / share, left = share - head % share;
      group = left < 4 ? left : 4;
      switch (group) {
        GROUP(1)
        GROUP(2)
        GROUP(3)
        GROUP(4)
      }
    }
  }
}

/* One new token of each request attends to its sequence.

   query: [heads][dim] of each request, `apart` from the one before; out: [requests][heads][dim];
   keys, values: [slots][kv_heads][dim] of float32, or of bfloat16 if `half`; table:
   [rows][positions] of slots; rows, lengths: [requests]; dim in whole LANES;
   scores: room for four times the longest, each filled up to LANES. */
void decode(const float *query, long apart, const void *keys, const void *values, int half,
            float *out, const int32_t *table, long positions, const int64_t *rows,
            const int64_t *lengths, long requests, long heads, long kv_heads, long dim,
            float scale, float *scores) {
#define DECODE(half) \
  decode_of(query, apart, keys, values, half, out, table, positions, rows, lengths, requests, \
            heads, kv_heads, dim, scale, scores)
  if (half)
    DECODE(1);
  else
    DECODE(0);
}

/* One new token each through all layers; `parts` has the addresses of each layer's weights and
   caches. */
void decode_step(const struct step *of, void *const *parts, long layers) {
  long kv = of->kv_heads * of->dim, width = of->heads * of->dim + 2 * kv;
  void *const *before = 0;
  for (long layer = 0; layer < layers; layer++, before = parts, parts += PARTS) {
    between(of, before, parts, 0, of->rows, 0);
    decode(of->qkv, width, parts[KEY_CACHE], parts[VALUE_CACHE], of->half, of->attended, of->table,
           of->positions, of->places, of->lengths, of->rows, of->heads, of->kv_heads, of->dim,
           of->scale, of->scores);
  }
  between(of, before, 0, 0, of->rows, 0);
}
