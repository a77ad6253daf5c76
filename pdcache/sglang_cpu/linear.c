/* Matrix products of rows in float32 or bfloat16 with weights in bfloat16; sums are in float32. */

#include <stdint.h>

#include "vectors.h"

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

/* Vectors that are registers: GCC keeps wider ones in memory, which took 15 times as long. */
#ifdef __AVX512F__
#define WIDTH 16
#define ROWS 12 /* whose sums are in registers at a time */
#elif defined __AVX__
#define WIDTH 8
#define ROWS 2
#else
#define WIDTH 4
#define ROWS 2
#endif

typedef float vec __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef uint32_t bits __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));

#define COLUMNS 32  /* of a block of weights */
#define PARTS (COLUMNS / WIDTH)
#define PAIRS 1024  /* of inputs that are summed at a time: a block of them stays in L2 */
#define AHEAD 512   /* words of weights that are asked for before they are read */
#define TOGETHER 96 /* rows that stay in L2 while they meet the weights */
#define BLOCKS 4    /* of weights that a thread takes at a time */

/* Adds to a row's sums its pair of inputs times their weights. */
INLINE void add_pair(vec *sums, const void *x, int half, const bits *weights) {
#ifdef __AVX512BF16__
  if (half) {
    int32_t pair;
    memcpy(&pair, x, sizeof pair);
    for (int part = 0; part < PARTS; part++)
      sums[part] = (vec)_mm512_dpbf16_ps(
          (__m512)sums[part], (__m512bh)_mm512_set1_epi32(pair), (__m512bh)weights[part]);
    return;
  }
#endif
  float even = number(x, 0, half), odd = number(x, 1, half);
  for (int part = 0; part < PARTS; part++) {
    sums[part] += even * (vec)(weights[part] << 16);
    sums[part] += odd * (vec)(weights[part] & 0xffff0000);
  }
}

/* y[rows][COLUMNS] (+)= x[rows][2 x pairs] times a block of weights [pairs][COLUMNS]. */
INLINE void block(const void *x, int half, long x_stride, const uint32_t *weights, float *y,
                  long y_stride, int rows, long pairs, int add) {
  vec sums[ROWS][PARTS];
  for (int row = 0; row < rows; row++)
    for (int part = 0; part < PARTS; part++)
      sums[row][part] = add ? *(vec *)(y + row * y_stride + part * WIDTH) : (vec){0};
  for (long pair = 0; pair < pairs; pair++, weights += COLUMNS) {
    /* The core does it by itself where memory sets the pace. */
    if (rows > 1)
      for (int line = 0; line < COLUMNS; line += 16) __builtin_prefetch(weights + AHEAD + line);
    for (int row = 0; row < rows; row++)
      add_pair(sums[row], at_number(x, row * x_stride + 2 * pair, half), half,
               (const bits *)weights);
  }
  for (int row = 0; row < rows; row++)
    for (int part = 0; part < PARTS; part++)
      *(vec *)(y + row * y_stride + part * WIDTH) = sums[row][part];
}

#define CASE(count) \
  case count: block(x, half, x_stride, weights, y, y_stride, count, pairs, add); break;

INLINE void some_rows(const void *x, int half, long x_stride, const uint32_t *weights, float *y,
                      long y_stride, int rows, long pairs, int add) {
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
    CASE(9)
    CASE(10)
    CASE(11)
    CASE(12)
#endif
  }
}

/* The same for a block of whose columns only the first ones are meant. */
INLINE void last_columns(const void *x, int half, long x_stride, const uint32_t *weights, float *y,
                         long y_stride, int rows, long pairs, int add, long columns) {
  float edge[ROWS * COLUMNS];
  for (int row = 0; row < rows && add; row++)
    memcpy(edge + row * COLUMNS, y + row * y_stride, columns * 4);
  some_rows(x, half, x_stride, weights, edge, COLUMNS, rows, pairs, add);
  for (int row = 0; row < rows; row++)
    memcpy(y + row * y_stride, edge + row * COLUMNS, columns * 4);
}

/* Some rows times one block of weights; y is at the block's first column. */
INLINE void column(const void *x, int half, long rows, long inputs, const uint32_t *weights,
                   float *y, long outputs, long columns) {
  for (long pair = 0; pair < inputs / 2; pair += PAIRS) {
    long some = inputs / 2 - pair < PAIRS ? inputs / 2 - pair : PAIRS;
    for (long row = 0, tiles = (rows + ROWS - 1) / ROWS, count; row < rows; row += count, tiles--) {
      count = (rows - row + tiles - 1) / tiles; /* of tiles of about one size */
      const void *from = at_number(x, row * inputs + 2 * pair, half);
      const uint32_t *at = weights + pair * COLUMNS;
      float *to = y + row * outputs;
      if (columns >= COLUMNS)
        some_rows(from, half, inputs, at, to, outputs, count, some, pair > 0);
      else
        last_columns(from, half, inputs, at, to, outputs, count, some, pair > 0, columns);
    }
  }
}

INLINE void all_columns(const void *x, int half, long rows, long inputs, const uint32_t *weights,
                        float *y, long outputs) {
#pragma omp parallel for collapse(2) schedule(dynamic, BLOCKS)
  for (long row = 0; row < rows; row += TOGETHER)
    for (long at = 0; at < outputs; at += COLUMNS)
      column(at_number(x, row * inputs, half), half, rows - row < TOGETHER ? rows - row : TOGETHER,
             inputs, weights + at * inputs / 2, y + row * outputs + at, outputs,
             outputs - at);
}

/* y[rows][outputs] = x[rows][inputs], of bfloat16 if `half`, times weights [blocks of COLUMNS]
   [pairs of inputs][COLUMNS] of words; a word has a bfloat16 of the even input below, and of the
   odd one above; inputs are even, the last block is full. */
void linear(const void *x, int half, long rows, long inputs, const void *weights, float *y,
            long outputs) {
  if (half)
    all_columns(x, 1, rows, inputs, weights, y, outputs);
  else
    all_columns(x, 0, rows, inputs, weights, y, outputs);
}
