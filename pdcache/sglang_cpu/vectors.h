/* Vectors of LANES numbers, which become what the machine has (AVX-512, AVX2, NEON). */

#pragma once

#include <stdint.h>
#include <string.h>

#define LANES 16

typedef float floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float eight __attribute__((vector_size(32)));
typedef float four __attribute__((vector_size(16)));
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

INLINE float sum(floats of) {
  eight a[2];
  memcpy(a, &of, sizeof of);
  a[0] += a[1];
  four b[2];
  memcpy(b, a, sizeof b);
  b[0] += b[1];
  return (b[0][0] + b[0][1]) + (b[0][2] + b[0][3]);
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
