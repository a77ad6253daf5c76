/* What a plain Llama's layers do between one attention and the next, in float32, but for what is
   multiplied and cached of a model in bfloat16. */

#pragma once

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

/* [rows][2 x size] of gate and up become [rows][size] of silu(gate) up, at the same place if that
   is asked for: nothing is written before it was read, since a row's result lies at or before its
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

/* y[rows][outputs] = x[rows][inputs] times weights, as `linear.c` has them. */
void linear(const void *x, int half, long rows, long inputs, const void *weights, float *y,
            long outputs);

/* What a step of new tokens is about; `pdcache.sglang_cpu.steps` fills it. */
struct step {
  long rows, size, heads, kv_heads, dim, inner;
  int half;                 /* the model and its caches are in bfloat16 */
  float epsilon, scale;
  const float *rotation;    /* [rows][dim]: cosines of dim / 2 angles, then their sines */
  const int64_t *slots;     /* [rows]: where the new keys and values go */
  float *state;             /* [rows][size]: embeddings, then the normalized result */
  float *residual;          /* [rows][size] of zeros */
  float *qkv;               /* [rows][heads + 2 x kv_heads][dim], room */
  float *attended;          /* [rows][heads][dim], room */
  /* Room of the rows of each of `rooms`: [size], [2 x inner], and the longest row to be rounded. */
  float *normed, *mlp;
  uint16_t *rounded;
  long rooms, rows_a_room;
  const float *last_norm;
  const int32_t *table;     /* these five as `decode` has them */
  long positions;
  const int64_t *places, *lengths;
  float *scores;
};

/* Of a layer's addresses. */
enum { NORM, QKV, KEY_CACHE, VALUE_CACHE, OUTPUT, MLP_NORM, GATE_UP, DOWN, PARTS };

INLINE void multiply_rows(const struct step *of, const float *x, long rows, long inputs,
                          const void *weights, float *y, long outputs, uint16_t *rounded) {
  if (of->half) round_to(rounded, x, rows * inputs);
  linear(of->half ? (const void *)rounded : x, of->half, rows, inputs, weights, y, outputs);
}

/* Keeps a token's keys or values [count] in a cache. */
INLINE void keep(const struct step *of, void *cache, long slot, const float *from, long count) {
  if (of->half)
    round_to((uint16_t *)cache + slot * count, from, count);
  else
    memcpy((float *)cache + slot * count, from, count * 4);
}

/* From what the layer `before` attended to the queries, keys and values of the one `after` it, for
   some rows; NULL before the first layer and after the last. `room` is the one to use. */
INLINE void between(const struct step *of, void *const *before, void *const *after, long first,
                    long rows, long room) {
  long size = of->size, queries = of->heads * of->dim, kv = of->kv_heads * of->dim;
  long width = queries + 2 * kv, inner = of->inner, longest = size > inner ? size : inner;
  longest = longest > queries ? longest : queries;
  room *= of->rows_a_room;
  float *state = of->state + first * size, *residual = of->residual + first * size;
  float *normed = of->normed + room * size;
  float *mlp = of->mlp + room * 2 * inner;
  uint16_t *rounded = of->rounded + room * longest;
  if (before) {
    const float *attended = of->attended + first * queries;
    multiply_rows(of, attended, rows, queries, before[OUTPUT], state, size, rounded);
    add_norm(state, residual, before[MLP_NORM], of->epsilon, normed, rows, size);
    multiply_rows(of, normed, rows, size, before[GATE_UP], mlp, 2 * inner, rounded);
    gate_up(mlp, mlp, rows, inner);
    multiply_rows(of, mlp, rows, inner, before[DOWN], state, size, rounded);
  }
  if (!after) {
    add_norm(state, residual, of->last_norm, of->epsilon, state, rows, size);
    return;
  }
  float *qkv = of->qkv + first * width;
  add_norm(state, residual, after[NORM], of->epsilon, normed, rows, size);
  multiply_rows(of, normed, rows, size, after[QKV], qkv, width, rounded);
  for (long row = first; row < first + rows; row++, qkv += width) {
    rotate(qkv, of->heads + of->kv_heads, of->dim, of->rotation + row * of->dim);
    keep(of, after[KEY_CACHE], of->slots[row], qkv + queries, kv);
    keep(of, after[VALUE_CACHE], of->slots[row], qkv + queries + kv, kv);
  }
}
