/* Vectors of LANES numbers, as wide as the processor's registers: GCC keeps wider ones in memory,
   which took up to 15 times as long. */

#pragma once

#include <stdint.h>
#include <string.h>

#ifdef __AVX512F__
#define LANES 16
#define EACH {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
#elif defined __AVX2__
#define LANES 8
#define EACH {0, 1, 2, 3, 4, 5, 6, 7}
#else
#define LANES 4
#define EACH {0, 1, 2, 3}
#endif

typedef float floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef uint32_t words __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t integers __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE floats load(const float *from) { return *(const floats *)from; }

/* LANES numbers from the one at an index; a bfloat16 is the upper half of a float32. */
INLINE floats load_of(const void *from, long at, int half) {
  if (!half) return load((const float *)from + at);
  words each = __builtin_convertvector(*(const halves *)((const uint16_t *)from + at), words);
  return (floats)(each << 16);
}

/* Where a number lies, and what it is. */
INLINE const void *at_number(const void *from, long at, int half) {
  return (const char *)from + at * (half ? 2 : 4);
}

INLINE float number(const void *from, long at, int half) {
  float result;
  uint16_t upper;
  if (!half) {
    memcpy(&result, (const char *)from + 4 * at, sizeof result);
    return result;
  }
  memcpy(&upper, (const char *)from + 2 * at, sizeof upper);
  uint32_t bits = (uint32_t)upper << 16;
  memcpy(&result, &bits, sizeof result);
  return result;
}

/* Numbers in whole LANES as bfloat16: the nearest, the even one of two; what is no number stays
   none. */
INLINE void round_to(uint16_t *to, const float *from, long count) {
  for (long at = 0; at < count; at += LANES) {
    floats x = load(from + at);
    words bits = (words)x, none = (words)(x != x);
    words nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    nearest = (nearest & ~none) | ((bits >> 16 | 0x40) & none);
    *(halves *)(to + at) = __builtin_convertvector(nearest, halves);
  }
}

INLINE float sum(floats of) {
  const integers each = EACH;
#pragma GCC unroll 4
  for (int half = LANES / 2; half; half /= 2) of += __builtin_shuffle(of, each + half);
  return of[0];
}

INLINE floats larger(floats a, floats b) {
  integers chosen = a > b;
  return (floats)(((integers)a & chosen) | ((integers)b & ~chosen));
}

INLINE float largest(floats of) {
  const integers each = EACH;
#pragma GCC unroll 4
  for (int half = LANES / 2; half; half /= 2) of = larger(of, __builtin_shuffle(of, each + half));
  return of[0];
}

/* Rows become columns: of squares within squares, from the smallest. */
INLINE void transpose(floats square[LANES]) {
  const integers each = EACH;
#pragma GCC unroll 16
  for (int half = 1; half < LANES; half *= 2) {
    integers odd = (each & half) != 0;
    integers above = (~odd & each) | (odd & (each - half + LANES));
    integers below = (~odd & (each + half)) | (odd & (each + LANES));
#pragma GCC unroll 16
    for (int row = 0; row < LANES; row++)
      if (!(row & half)) {
        floats first = square[row], second = square[row + half];
        square[row] = __builtin_shuffle(first, second, above);
        square[row + half] = __builtin_shuffle(first, second, below);
      }
  }
}

/* e^x for x <= 0: 2^n times a polynomial of the rest, within 2 ulp; below -87 it is 0, and what is
   no number stays none. */
INLINE floats exponential(floats x) {
  floats scaled = x * 1.44269504f;
  integers whole = __builtin_convertvector(scaled - 0.5f, integers); /* towards zero: rounds */
  floats count = __builtin_convertvector(whole, floats);
  floats rest = x - count * 0.693359375f + count * 2.12194440e-4f;
  floats power = (floats){0} + 1.9875691500e-4f;
  power = power * rest + 1.3981999507e-3f;
  power = power * rest + 8.3334519073e-3f;
  power = power * rest + 4.1665795894e-2f;
  power = power * rest + 1.6666665459e-1f;
  power = power * rest + 5.0000001201e-1f;
  power = power * rest * rest + rest + 1.0f;
  floats result = power * (floats)((whole + 127) << 23);
  return (floats)((integers)result & ~(x <= -87.0f));
}
