/* Matrix products of rows in float32 or bfloat16 with weights in bfloat16; sums are in float32. */

#include <stdint.h>
#include <stdlib.h>

#include "vectors.h"

#ifdef __AVX512BF16__
#include <immintrin.h>
#define TAKES_HALF 1
#else
#define TAKES_HALF 0 /* `linear` makes float32 of it */
#endif

#define COLUMNS 32  /* of a block of weights */
#define ALL (COLUMNS / LANES)
#define PARTS 2     /* vectors of a row that are summed at a time; ALL of up to FEW rows */
#ifdef __AVX512F__
#define ROWS 12     /* whose sums are in registers at a time */
#define FEW ROWS
#define IN_TURN()
#else
#define ROWS 5
#define FEW (8 / ALL)
/* No load comes before it: GCC would load what the next products want while these are under way,
   and have too few registers for the sums. */
#define IN_TURN() __asm__ volatile("" ::: "memory")
#endif
#define PAIRS 1024  /* of inputs that are summed at a time: a block of them stays in L2 */
#define AHEAD 512   /* words of weights that are asked for before they are read */
#define TOGETHER 96 /* rows that stay in L2 while they meet the weights */
#define BLOCKS 4    /* of weights that a thread takes at a time */

/* y[rows][parts x LANES] (+)= x[rows][2 x pairs] times some columns of a block of weights. */
INLINE void tile(const void *x, int half, long x_stride, const uint32_t *weights, float *y,
                 long y_stride, int rows, long pairs, int add, int parts) {
  floats sums[ROWS][ALL];
  for (int row = 0; row < rows; row++)
    for (int part = 0; part < parts; part++)
      sums[row][part] = add ? load(y + row * y_stride + part * LANES) : (floats){0};
  for (long pair = 0; pair < pairs; pair++, weights += COLUMNS) {
    const words *each = (const words *)weights;
    /* The core does it by itself where memory sets the pace. */
    if (rows > 1)
      for (int line = 0; line < parts * LANES; line += 16)
        __builtin_prefetch(weights + AHEAD + line);
#ifdef __AVX512BF16__
    for (int row = 0; row < rows && half; row++) {
      int32_t both;
      memcpy(&both, at_number(x, row * x_stride + 2 * pair, 1), sizeof both);
      for (int part = 0; part < parts; part++)
        sums[row][part] = (floats)_mm512_dpbf16_ps(
            (__m512)sums[row][part], (__m512bh)_mm512_set1_epi32(both), (__m512bh)each[part]);
    }
#endif
    for (int odd = 0; odd < 2 && !(half && TAKES_HALF); odd++) {
      floats factors[ALL];
      IN_TURN();
      for (int part = 0; part < parts; part++)
        factors[part] = odd ? (floats)(each[part] & 0xffff0000) : (floats)(each[part] << 16);
      for (int row = 0; row < rows; row++)
        for (int part = 0; part < parts; part++)
          sums[row][part] += number(x, row * x_stride + 2 * pair + odd, 0) * factors[part];
    }
  }
  for (int row = 0; row < rows; row++)
    for (int part = 0; part < parts; part++)
      *(floats *)(y + row * y_stride + part * LANES) = sums[row][part];
}

/* y[rows][COLUMNS] (+)= x[rows][2 x pairs] times a block of weights [pairs][COLUMNS]. */
INLINE void block(const void *x, int half, long x_stride, const uint32_t *weights, float *y,
                  long y_stride, int rows, long pairs, int add) {
  int parts = rows > FEW ? PARTS : ALL;
  for (int from = 0; from < COLUMNS; from += parts * LANES)
    tile(x, half, x_stride, weights + from, y + from, y_stride, rows, pairs, add, parts);
}

#define CASE(count) \
  case count: block(x, half, x_stride, weights, y, y_stride, count, pairs, add); break;

INLINE void some_rows(const void *x, int half, long x_stride, const uint32_t *weights, float *y,
                      long y_stride, int rows, long pairs, int add) {
  switch (rows) {
    CASE(1)
    CASE(2)
    CASE(3)
    CASE(4)
    CASE(5)
#if ROWS > 5
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
#ifdef __AVX512BF16__
  if (half)
    all_columns(x, 1, rows, inputs, weights, y, outputs);
  else
    all_columns(x, 0, rows, inputs, weights, y, outputs);
#else
  long count = half ? rows * inputs : 0;
  float *wide = malloc(count * sizeof *wide + 1);
  if (!wide) abort();
  for (long at = 0; at < count; at++) wide[at] = number(x, at, 1);
  all_columns(half ? wide : x, 0, rows, inputs, weights, y, outputs);
  free(wide);
#endif
}
