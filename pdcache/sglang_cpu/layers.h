/* What a plain Llama's layers do between products and attention, in float32. */

#include <math.h>
#include <stdint.h>

#include "vectors.h"

/* The residual gets what is added to it, and `out` (which may be `added`) its RMS norm, both
   [rows][size], size in whole LANES. */
INLINE void add_norm(const float *added, float *residual, const float *weight, float epsilon,
                     float *out, long rows, long size) {
  for (long row = 0; row < rows; row++, added += size, residual += size, out += size) {
    floats squares = {0};
    for (long at = 0; at < size; at += LANES) {
      floats both = load(residual + at) + load(added + at);
      *(floats *)(residual + at) = both;
      squares += both * both;
    }
    float factor = 1 / sqrtf(sum(squares) / size + epsilon);
    for (long at = 0; at < size; at += LANES)
      *(floats *)(out + at) = load(residual + at) * factor * load(weight + at);
  }
}

/* Heads [count][dim] turn in place: halves x, y become x cos - y sin, y cos + x sin. */
INLINE void rotate(float *heads, long count, long dim, const float *rotation) {
  const float *cosines = rotation, *sines = rotation + dim / 2;
  for (long head = 0; head < count; head++, heads += dim)
    for (long at = 0; at < dim / 2; at++) {
      float x = heads[at], y = heads[at + dim / 2];
      heads[at] = x * cosines[at] - y * sines[at];
      heads[at + dim / 2] = y * cosines[at] + x * sines[at];
    }
}

/* [rows][2 x size] of gate and up become [rows][size] of silu(gate) up, at the same place if that is
   asked for: nothing is written before it was read, since a row's result lies at or before its
   gate. */
INLINE void gate_up(const float *from, float *to, long rows, long size) {
  for (long row = 0; row < rows; row++, from += 2 * size)
    for (long at = 0; at < size; at += LANES, to += LANES) {
      floats gate = load(from + at), up = load(from + size + at);
      integers below = (integers)gate >> 31; /* all bits where the gate is negative */
      floats power = exponential((floats)((integers)gate | INT32_MIN)); /* e^-|gate| */
      floats one = {0};
      one += 1;
      floats above = (floats)(((integers)power & below) | ((integers)one & ~below));
      *(floats *)to = gate * above / (1 + power) * up;
    }
}
