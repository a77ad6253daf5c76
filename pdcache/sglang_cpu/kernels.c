/* Matrix products of few rows, decode attention and whole decode steps in float32.

   Written with GCC's vectors, which become what the machine has (AVX-512, AVX2, NEON).
   `pdcache.sglang_cpu.native` compiles this file and declares its functions to Python. */

#include <math.h>

#include "layers.h"
#include "vectors.h"

#define COLUMNS 32 /* of a block of weights: a cache line of them in bfloat16 */
#define AHEAD 4 /* slots that are asked for before they are read */
#define INPUTS 2048 /* that are summed at a time, so that a block of them stays in L2 */
#define WEIGHTS_AHEAD 32 /* inputs whose weights are asked for before they are read */
#ifdef __AVX512F__
#define ROWS 8 /* whose sums are in registers at a time */
#else
#define ROWS 2
#endif

/* y[rows][COLUMNS] (+)= x[rows][inputs] times a block of weights [inputs][LANES of pairs]. */
INLINE void block(const float *x, long x_stride, const words *weights, float *y, long y_stride,
                  int rows, long inputs, int add) {
  floats sums[ROWS][2];
  for (int row = 0; row < rows; row++)
    for (int part = 0; part < 2; part++)
      sums[row][part] = add ? load(y + row * y_stride + part * LANES) : (floats){0};
  for (long input = 0; input < inputs; input++) {
    /* The core does it by itself where memory sets the pace. */
    if (rows > 1) __builtin_prefetch(weights + input + WEIGHTS_AHEAD);
    floats left = (floats)(weights[input] << 16), right = (floats)(weights[input] & 0xffff0000);
    for (int row = 0; row < rows; row++) {
      float factor = x[row * x_stride + input];
      sums[row][0] += factor * left;
      sums[row][1] += factor * right;
    }
  }
  for (int row = 0; row < rows; row++)
    for (int part = 0; part < 2; part++)
      *(floats *)(y + row * y_stride + part * LANES) = sums[row][part];
}

#define CASE(count) \
  case count: block(x, x_stride, weights, y, y_stride, count, inputs, add); break;

INLINE void some_rows(const float *x, long x_stride, const words *weights, float *y, long y_stride,
                      int rows, long inputs, int add) {
  switch (rows) {
    CASE(1)
    CASE(2)
#if ROWS > 2
    CASE(3)
    CASE(4)
    CASE(5)
    CASE(6)
    CASE(7)
    CASE(8)
#endif
  }
}

/* The same for a block of whose columns only the first ones are meant. */
INLINE void last_columns(const float *x, long x_stride, const words *weights, float *y,
                         long y_stride, int rows, long inputs, int add, long columns) {
  float edge[ROWS * COLUMNS];
  for (int row = 0; row < rows && add; row++)
    memcpy(edge + row * COLUMNS, y + row * y_stride, columns * 4);
  some_rows(x, x_stride, weights, edge, COLUMNS, rows, inputs, add);
  for (int row = 0; row < rows; row++)
    memcpy(y + row * y_stride, edge + row * COLUMNS, columns * 4);
}

/* y[rows][outputs] = x[rows][inputs] times weights [blocks of COLUMNS][inputs][LANES] of words; a
   word has a bfloat16 of column i below, and of column i + LANES above; the last block is full. */
void linear(const float *x, long rows, long inputs, const void *weights, float *y, long outputs) {
#pragma omp parallel for
  for (long column = 0; column < outputs; column += COLUMNS)
    for (long input = 0; input < inputs; input += INPUTS) {
      long some = inputs - input < INPUTS ? inputs - input : INPUTS;
      const words *at = (const words *)weights + column / COLUMNS * inputs + input;
      for (long row = 0; row < rows; row += ROWS) {
        int count = rows - row < ROWS ? rows - row : ROWS;
        const float *from = x + row * inputs + input;
        float *to = y + row * outputs + column;
        if (outputs - column >= COLUMNS)
          some_rows(from, inputs, at, to, outputs, count, some, input > 0);
        else
          last_columns(from, inputs, at, to, outputs, count, some, input > 0, outputs - column);
      }
    }
}

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
  floats sums[4][4] = {{{0}}};
  for (long at = 0; at < length; at++) {
    long value = from + slots[at] * stride;
    if (!from) ask_for(values, half, slots, at, length, stride);
    floats piece[4];
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
  for (; d + 4 * LANES <= dim; d += 4 * LANES)
    mix(scores, values, from + d, half, slots, length, stride, dim, group, 4, width, out + d);
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

/* What a step of one new token each is about; `pdcache.sglang_cpu.decode_step` fills it. */
struct step {
  long rows, size, heads, kv_heads, dim, inner;
  float epsilon, scale;
  const float *rotation;         /* [rows][dim]: cosines of dim / 2 angles, then their sines */
  const int64_t *slots;          /* [rows]: where the new keys and values go */
  const int32_t *table;          /* these five as `decode` has them */
  long positions;
  const int64_t *places, *lengths;
  float *scores;
  float *state;                  /* [rows][size]: embeddings, then the normalized result */
  float *residual;               /* [rows][size] of zeros */
  float *normed, *qkv, *attended, *mlp; /* room for what is computed on the way */
  const float *last_norm;
};

enum { NORM, QKV, KEYS, VALUES, OUTPUT, MLP_NORM, GATE_UP, DOWN, PARTS };

/* All layers of a plain Llama; `parts` has the addresses of each one's weights and caches. */
void decode_step(const struct step *of, void *const *parts, long layers) {
  long rows = of->rows, size = of->size, dim = of->dim, kv = of->kv_heads * dim;
  long queries = of->heads * dim, width = queries + 2 * kv;
  for (long layer = 0; layer < layers; layer++, parts += PARTS) {
    float *keys = parts[KEYS], *values = parts[VALUES];
    add_norm(of->state, of->residual, parts[NORM], of->epsilon, of->normed, rows, size);
    linear(of->normed, rows, size, parts[QKV], of->qkv, width);
    for (long row = 0; row < rows; row++) {
      float *query = of->qkv + row * width, *key = query + queries;
      rotate(query, of->heads + of->kv_heads, dim, of->rotation + row * dim);
      memcpy(keys + of->slots[row] * kv, key, kv * 4);
      memcpy(values + of->slots[row] * kv, key + kv, kv * 4);
    }
    decode(of->qkv, width, keys, values, 0, of->attended, of->table, of->positions, of->places,
           of->lengths, rows, of->heads, of->kv_heads, dim, of->scale, of->scores);
    linear(of->attended, rows, queries, parts[OUTPUT], of->state, size);
    add_norm(of->state, of->residual, parts[MLP_NORM], of->epsilon, of->normed, rows, size);
    linear(of->normed, rows, size, parts[GATE_UP], of->mlp, 2 * of->inner);
    gate_up(of->mlp, of->mlp, rows, of->inner);
    linear(of->mlp, rows, of->inner, parts[DOWN], of->state, size);
  }
  add_norm(of->state, of->residual, of->last_norm, of->epsilon, of->state, rows, size);
}
