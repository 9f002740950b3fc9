// SPDX-License-Identifier: MIT
// Which instruction sets this machine has, asked each time: nothing is remembered. A row of kernels
// is entered only after its is_usable said yes, so no instruction that the machine lacks is
// reached.

#include "internal.h"
#include "isa.h"
#include "kernels/have.h"

#ifdef BST_HAVE_AVX2

#include <cpuid.h>

/// The bits of register XCR0: which registers the operating system saves.
static uint32_t bst_saved_registers(void) {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

/// AVX2 and POPCNT in the processor, and an operating system that saves the registers of AVX.
static bool bst_has_avx2(void) {
  const uint32_t osxsave = UINT32_C(1) << 27, avx = UINT32_C(1) << 28, popcnt = UINT32_C(1) << 23;
  const uint32_t basic = osxsave | avx | popcnt, avx2 = UINT32_C(1) << 5, xmm_and_ymm = 6;
  uint32_t a, b, c, d;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & basic) != basic) return false;
  if ((bst_saved_registers() & xmm_and_ymm) != xmm_and_ymm) return false;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b & avx2) != 0;
}

#endif  // BST_HAVE_AVX2

#ifdef BST_HAVE_AVX512

/// AVX2, the set of kernels/avx512.h, and an operating system that saves its registers.
static bool bst_has_avx512(void) {
  // Leaf 7, ebx: BMI1, BMI2, AVX512F, DQ, BW, VL; ecx: VBMI, VBMI2, GFNI, BITALG, VPOPCNTDQ.
  const uint32_t in_b = UINT32_C(1) << 3 | UINT32_C(1) << 8 | UINT32_C(1) << 16 |
                        UINT32_C(1) << 17 | UINT32_C(1) << 30 | UINT32_C(1) << 31;
  const uint32_t in_c = UINT32_C(1) << 1 | UINT32_C(1) << 6 | UINT32_C(1) << 8 | UINT32_C(1) << 12 |
                        UINT32_C(1) << 14;
  const uint32_t lzcnt = UINT32_C(1) << 5, all_registers = 0xE6;  // xmm, ymm, masks, zmm
  uint32_t a, b, c, d;
  if (!bst_has_avx2() || (bst_saved_registers() & all_registers) != all_registers) return false;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  if ((b & in_b) != in_b || (c & in_c) != in_c) return false;
  return __get_cpuid(0x80000001, &a, &b, &c, &d) != 0 && (c & lzcnt) != 0;
}

#endif  // BST_HAVE_AVX512

#ifdef BST_HAVE_NEON

#if defined(__arm__) && defined(__linux__)

#include <sys/auxv.h>

static bool bst_has_neon(void) {
  const unsigned long neon = 1UL << 12;  // HWCAP_NEON of the kernel's asm/hwcap.h
  return (getauxval(AT_HWCAP) & neon) != 0;
}

#elif defined(__ARM_NEON)

/// Part of every arm64; elsewhere the whole library was compiled for it.
static bool bst_has_neon(void) { return true; }

#else

/// Nobody to ask.
static bool bst_has_neon(void) { return false; }

#endif
#endif  // BST_HAVE_NEON

static bool bst_always(void) { return true; }

#define BST_ISA(isa, usable)                               \
  {                                                        \
      .name = #isa,                                        \
      .is_usable = (usable),                               \
      .spike_conv = &bst_spike_conv__##isa,                \
      .stem_neuron = &bst_stem_neuron__##isa,              \
      .or_pool = bst_or_pool__##isa,                       \
      .stream_neuron = bst_stream_neuron__##isa,           \
      .residual_neuron = bst_residual_neuron__##isa,       \
      .attention_score = bst_spike_attention_score__##isa, \
      .attention_value = bst_spike_attention_value__##isa, \
      .key_value = bst_kv_attention_key_value__##isa,      \
      .query_value = bst_kv_attention_query_value__##isa,  \
      .readout = bst_readout__##isa,                       \
      .residual_readout = bst_residual_readout__##isa,     \
      .key_value_any = bst_key_value_any__##isa,           \
      .gate = bst_gate__##isa,                             \
      .max_pool = bst_max_pool__##isa,                     \
      .mean_neuron = bst_mean_neuron__##isa,               \
      .count_readout = bst_count_readout__##isa,           \
      .ternary_neuron = bst_ternary_neuron__##isa,         \
      .add_neuron = bst_add_neuron__##isa,                 \
      .weight_conv_neuron = bst_weight_conv_neuron__##isa, \
      .weight_conv_affine = bst_weight_conv_affine__##isa, \
      .products = bst_products__##isa,                     \
      .stream_inner = &bst_stream_inner__##isa,            \
      .additions = bst_additions__##isa,                   \
  }

/// Best first.
static const bst_isa bst_isas[] = {
#ifdef BST_HAVE_AVX512
    BST_ISA(avx512, bst_has_avx512),
#endif
#ifdef BST_HAVE_AVX2
    BST_ISA(avx2, bst_has_avx2),
#endif
#ifdef BST_HAVE_NEON
    BST_ISA(neon, bst_has_neon),
#endif
    BST_ISA(scalar, bst_always),
};

static bool bst_same_text(const char* a, const char* b) {
  for (; *a != '\0' && *a == *b; ++a, ++b) {
  }
  return *a == *b;
}

const bst_isa* bst_find_isa(const char* name) {
  for (size_t i = 0; i < sizeof bst_isas / sizeof *bst_isas; ++i) {
    const bst_isa* const isa = &bst_isas[i];
    if ((name == NULL || bst_same_text(name, isa->name)) && isa->is_usable()) return isa;
  }
  return NULL;
}

const char* bst_isa_name(uint32_t index) {
  for (size_t i = 0; i < sizeof bst_isas / sizeof *bst_isas; ++i) {
    if (bst_isas[i].is_usable() && index-- == 0) return bst_isas[i].name;
  }
  return NULL;
}

bst_status bst_isa_additions(const char* isa, uint64_t n_rounds, uint64_t* n_additions) {
  const bst_where where = {"bst_isa_additions", -1, NULL};
  BST_CHECK(n_additions != NULL, BAD_ARGUMENT, where, "n_additions", 0, "not NULL");
  const bst_isa* const found = bst_find_isa(isa);
  if (found == NULL) return bst_fail_isa(isa);
  uint64_t check;
  const uint64_t per_round = found->additions(n_rounds, &check);
  volatile uint64_t kept = check;  // or a compiler that sees both functions drops the work
  (void)kept;
  *n_additions = n_rounds * per_round;
  return BST_OK;
}
