// SPDX-License-Identifier: MIT
// The exact neuron on 64 outputs x 4 steps for one instruction set and lane type. A body: included
// with these defined, and undefining them:
//   FIRE_NAME FIRE_TARGET   of the function; FIRE_ITEM: int16_t or int32_t
//   FIRE_V FIRE_LANES       vector and its lanes
//   FIRE_M                  what a comparison gives
//   FIRE_LOAD(p) FIRE_LOAD_N(p) FIRE_ZERO FIRE_ADD(a, b) FIRE_UP(a, n)
//   FIRE_GE(a, b)           a >= b
//   FIRE_PICK(m, yes, no) FIRE_CLEAR(m, a)     a where m is false, else 0
//   FIRE_BITS(m)            FIRE_LANES bits

/// @param n [T][64], @param theta [T(T+1)/2][64], @param out one word per step
FIRE_TARGET static inline void FIRE_NAME(const int16_t* n, const FIRE_ITEM* theta, uint64_t* out,
                                         size_t out_step) {
  uint64_t words[LAYER_STEPS] = {0};
  for (int lane = 0; lane < 64; lane += FIRE_LANES) {
    const FIRE_ITEM* row = theta + lane;
    FIRE_M fired[LAYER_STEPS];
    FIRE_V potential = FIRE_ZERO;
#pragma GCC unroll 4
    for (int t = 0; t < LAYER_STEPS; ++t) {
      FIRE_V threshold = FIRE_LOAD(row);
      row += 64;
#pragma GCC unroll 4
      for (int s = 0; s < t; ++s, row += 64) {
        threshold = FIRE_PICK(fired[s], FIRE_LOAD(row), threshold);
      }
      if (t > 0) potential = FIRE_CLEAR(fired[t - 1], potential);
      potential = FIRE_ADD(potential, FIRE_UP(FIRE_LOAD_N(n + 64 * t + lane), t));
      fired[t] = FIRE_GE(potential, threshold);
      words[t] |= (uint64_t)FIRE_BITS(fired[t]) << lane;
    }
  }
  for (int t = 0; t < LAYER_STEPS; ++t, out += out_step) *out = words[t];
}

#undef FIRE_NAME
#undef FIRE_TARGET
#undef FIRE_ITEM
#undef FIRE_V
#undef FIRE_LANES
#undef FIRE_M
#undef FIRE_LOAD
#undef FIRE_LOAD_N
#undef FIRE_ZERO
#undef FIRE_ADD
#undef FIRE_UP
#undef FIRE_GE
#undef FIRE_PICK
#undef FIRE_CLEAR
#undef FIRE_BITS
