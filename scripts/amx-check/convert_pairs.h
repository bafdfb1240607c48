// Bochs 3.0 answers vcvtne2ps2bf16 with its second source in both halves of the result. Programs that are built for it
// (LORA_BOCHS) convert each source with an instruction of its own, to the same bits.
#pragma once

#include <immintrin.h>

#define _mm_cvtne2ps_pbh(high, low) \
  ((__m128bh)_mm_unpacklo_epi64((__m128i)_mm_cvtneps_pbh(low), (__m128i)_mm_cvtneps_pbh(high)))
#define _mm256_cvtne2ps_pbh(high, low)                                                           \
  ((__m256bh)_mm256_inserti128_si256(_mm256_castsi128_si256((__m128i)_mm256_cvtneps_pbh(low)), \
                                     (__m128i)_mm256_cvtneps_pbh(high), 1))
#define _mm512_cvtne2ps_pbh(high, low)                                                         \
  ((__m512bh)_mm512_inserti64x4(_mm512_castsi256_si512((__m256i)_mm512_cvtneps_pbh(low)), \
                                (__m256i)_mm512_cvtneps_pbh(high), 1))
