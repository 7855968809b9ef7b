/* Vectors of VL doubles and the few operations that the kernels build on.
 *
 * Written with the compilers' generic vectors, so the same text serves AVX-512 (VL = 8), AVX2 (4), SSE2 and
 * NEON (2); intrinsics appear only where generic vectors have no word for an instruction, and always beside a
 * generic version. Nothing here relies on relaxed floating-point rules: infinities behave.
 */
#ifndef HIERMM_SIMD_H
#define HIERMM_SIMD_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#if defined(__AVX512F__)
#define VL 8
#elif defined(__AVX__)
#define VL 4
#else
#define VL 2
#endif
#if defined(__SSE2__)
#include <immintrin.h>
#endif

typedef double vd __attribute__((vector_size(VL * 8), may_alias));
typedef double vdu __attribute__((vector_size(VL * 8), may_alias, aligned(8)));
typedef int64_t vi __attribute__((vector_size(VL * 8), may_alias));
#define INLINE static inline __attribute__((always_inline))

INLINE vd vset(double x) { return x - (vd){}; }
INLINE vd vload(const double *p) { return *(const vdu *)p; }
INLINE void vstore(double *p, vd x) { *(vdu *)p = x; }

/* mask ? a : b, for masks made by comparing vectors. */
INLINE vd vselect(vi mask, vd a, vd b) { return (vd)(((vi)a & mask) | ((vi)b & ~mask)); }

/* Larger and smaller of two; if one is NaN the second argument comes back. */
#if VL == 8
INLINE vd vmax(vd a, vd b) { return (vd)_mm512_max_pd((__m512d)a, (__m512d)b); }
INLINE vd vmin(vd a, vd b) { return (vd)_mm512_min_pd((__m512d)a, (__m512d)b); }
#elif VL == 4
INLINE vd vmax(vd a, vd b) { return (vd)_mm256_max_pd((__m256d)a, (__m256d)b); }
INLINE vd vmin(vd a, vd b) { return (vd)_mm256_min_pd((__m256d)a, (__m256d)b); }
#elif defined(__SSE2__)
INLINE vd vmax(vd a, vd b) { return (vd)_mm_max_pd((__m128d)a, (__m128d)b); }
INLINE vd vmin(vd a, vd b) { return (vd)_mm_min_pd((__m128d)a, (__m128d)b); }
#else
INLINE vd vmax(vd a, vd b) { return vselect(a > b, a, b); }
INLINE vd vmin(vd a, vd b) { return vselect(a < b, a, b); }
#endif

/* The first `count` doubles at p, zeros (or `fill`) in the other lanes; nothing behind them is touched. */
INLINE vd vload_part(const double *p, int64_t count, double fill) {
#if VL == 8
    return (vd)_mm512_mask_loadu_pd(_mm512_set1_pd(fill), (__mmask8)((1u << count) - 1), p);
#else
    vd x = vset(fill);
    for (int64_t l = 0; l < count; l++) x[l] = p[l];
    return x;
#endif
}
INLINE void vstore_part(double *p, int64_t count, vd x) {
#if VL == 8
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << count) - 1), (__m512d)x);
#else
    for (int64_t l = 0; l < count; l++) p[l] = x[l];
#endif
}

/* Lane i in all lanes; i a constant once inlined. */
INLINE vd vlane(vd x, int i) {
#if VL == 8
    return (vd)_mm512_permutexvar_pd(_mm512_set1_epi64(i), (__m512d)x);
#else
    return vset(x[i]);
#endif
}

/* Sum, maximum and minimum over the lanes. */
INLINE double hsum(vd a) {
#if VL == 8
    return _mm512_reduce_add_pd((__m512d)a);
#else
    double s = a[0];
    for (int l = 1; l < VL; l++) s += a[l];
    return s;
#endif
}
INLINE double hmax(vd a) {
#if VL == 8
    return _mm512_reduce_max_pd((__m512d)a);
#endif
    double s = a[0];
    for (int l = 1; l < VL; l++) s = a[l] > s ? a[l] : s;
    return s;
}
INLINE double hmin(vd a) {
    double s = a[0];
    for (int l = 1; l < VL; l++) s = a[l] < s ? a[l] : s;
    return s;
}

/* First lane in which a mask is set, VL if there is none. */
INLINE int vfirst(vi mask) {
#if VL == 8 && defined(__AVX512DQ__)
    return __builtin_ctz(_mm512_movepi64_mask((__m512i)mask) | 1u << VL);
#elif VL == 4
    return __builtin_ctz((unsigned)_mm256_movemask_pd((__m256d)mask) | 1u << VL);
#else
    int l = 0;
    while (l < VL && !mask[l]) l++;
    return l;
#endif
}

/* The lowest byte of every lane. */
INLINE void vstore_bytes(uint8_t *p, vi x) {
#if VL == 8
    _mm_storel_epi64((__m128i *)p, _mm512_cvtepi64_epi8((__m512i)x));
#else
    for (int l = 0; l < VL; l++) p[l] = (uint8_t)x[l];
#endif
}

/* Transpose a VL x VL block in place. */
INLINE void vtranspose(vd *r) {
#if VL == 8
    __m512d *x = (__m512d *)r, a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm512_unpacklo_pd(x[i], x[i + 1]);
        a[i + 1] = _mm512_unpackhi_pd(x[i], x[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        for (int j = 0; j < 2; j++) {
            b[i + j] = _mm512_shuffle_f64x2(a[i + j], a[i + j + 2], 0x88);
            b[i + j + 2] = _mm512_shuffle_f64x2(a[i + j], a[i + j + 2], 0xdd);
        }
    }
    for (int i = 0; i < 4; i++) {
        x[i] = _mm512_shuffle_f64x2(b[i], b[i + 4], 0x88);
        x[i + 4] = _mm512_shuffle_f64x2(b[i], b[i + 4], 0xdd);
    }
#elif VL == 4
    __m256d *x = (__m256d *)r;
    __m256d a = _mm256_unpacklo_pd(x[0], x[1]), b = _mm256_unpackhi_pd(x[0], x[1]);
    __m256d c = _mm256_unpacklo_pd(x[2], x[3]), d = _mm256_unpackhi_pd(x[2], x[3]);
    x[0] = _mm256_permute2f128_pd(a, c, 0x20);
    x[1] = _mm256_permute2f128_pd(b, d, 0x20);
    x[2] = _mm256_permute2f128_pd(a, c, 0x31);
    x[3] = _mm256_permute2f128_pd(b, d, 0x31);
#else
    vd a = r[0], b = r[1];
    r[0] = (vd){a[0], b[0]};
    r[1] = (vd){a[1], b[1]};
#endif
}

/* The sums over the lanes of VL vectors, that of r[i] in lane i. */
INLINE vd vsums(const vd *r) {
#if VL == 8
    const __m512d *x = (const __m512d *)r;
    __m512d a[4], b[2];
    for (int i = 0; i < 4; i++)
        a[i] = _mm512_add_pd(_mm512_unpacklo_pd(x[2 * i], x[2 * i + 1]), _mm512_unpackhi_pd(x[2 * i], x[2 * i + 1]));
    for (int i = 0; i < 2; i++)
        b[i] = _mm512_add_pd(_mm512_shuffle_f64x2(a[2 * i], a[2 * i + 1], 0x88),
                             _mm512_shuffle_f64x2(a[2 * i], a[2 * i + 1], 0xdd));
    return (vd)_mm512_add_pd(_mm512_shuffle_f64x2(b[0], b[1], 0x88), _mm512_shuffle_f64x2(b[0], b[1], 0xdd));
#elif VL == 4
    const __m256d *x = (const __m256d *)r;
    __m256d a = _mm256_hadd_pd(x[0], x[1]), b = _mm256_hadd_pd(x[2], x[3]);
    return (vd)_mm256_add_pd(_mm256_permute2f128_pd(a, b, 0x20), _mm256_permute2f128_pd(a, b, 0x31));
#else
    return (vd){r[0][0] + r[0][1], r[1][0] + r[1][1]};
#endif
}

/* 2^n for n held in the low bits of `t` = n + SIMD_ROUND; -1022 <= n <= 1023. */
#define SIMD_ROUND 6755399441055744.0 /* 1.5 * 2^52: adding it rounds to an integer */
INLINE vd simd_pow2(vd t) { return (vd)(((vi)t + 1023) << 52); }

#define SIMD_LOG2E 1.4426950408889634074
#define SIMD_LN2_HIGH 6.93147180369123816490e-01 /* n times it is exact */
#define SIMD_LN2_LOW 1.90821492927058770002e-10

/* Reduce x to r = x - n log 2, |r| <= log(2) / 2; returns n + SIMD_ROUND. */
INLINE vd simd_reduce(vd x, vd *r) {
    vd t = x * vset(SIMD_LOG2E) + vset(SIMD_ROUND);
    vd n = t - vset(SIMD_ROUND);
    *r = (x - n * vset(SIMD_LN2_HIGH)) - n * vset(SIMD_LN2_LOW);
    return t;
}

/* (exp(r) - 1 - r) / r^2 for |r| <= log(2) / 2, interpolated at the Chebyshev nodes (error below 1e-17). */
INLINE vd simd_exp_tail(vd r) {
    vd r2 = r * r, r4 = r2 * r2;
    vd a = vset(0.5000000000000001) + r * vset(0.16666666666666669);
    vd b = vset(0.04166666666662399) + r * vset(0.008333333333330051);
    vd c = vset(0.001388888891728333) + r * vset(0.0001984126986310715);
    vd d = vset(2.480152118783432e-05) + r * vset(2.7557268376851323e-06);
    vd e = vset(2.762013985250333e-07) + r * vset(2.510042502811674e-08);
    return (a + r2 * b) + r4 * ((c + r2 * d) + r4 * e);
}

/* exp(x) for |x| <= 708, about one unit in the last place. Eight lanes hold eight eighths of a power of two: there
 * x = n log 2 + r with n a multiple of 1/8 and |r| <= log(2) / 16, so that exp(r) takes six coefficients (interpolated
 * like those above; error below 1.1e-17) instead of ten. */
INLINE vd vexp_near(vd x) {
#if VL == 8
    const vd eighths = {1.0, 1.0905077326652577, 1.189207115002721, 1.2968395546510096,
                        1.4142135623730951, 1.5422108254079407, 1.681792830507429, 1.8340080864093424};
    vd t = x * vset(SIMD_LOG2E) + vset(SIMD_ROUND / 8.0); /* its low bits count eighths */
    vd n = t - vset(SIMD_ROUND / 8.0);
    vd r = (x - n * vset(SIMD_LN2_HIGH)) - n * vset(SIMD_LN2_LOW), r2 = r * r;
    vd a = vset(0.5000000000000051) + r * vset(0.16666666666666724);
    vd b = vset(0.04166666661752646) + r * vset(0.00833333332787334);
    vd c = vset(0.0013889587108239542) + r * vset(0.00019842045637239258);
    vd base = (vd)_mm512_permutexvar_pd((__m512i)t, (__m512d)eighths);
    vd y = base + base * (r + r2 * (a + r2 * (b + r2 * c)));
    return (vd)_mm512_scalef_pd((__m512d)y, (__m512d)n); /* y 2^floor(n) */
#else
    vd r, t = simd_reduce(x, &r);
    return (vset(1.0) + (r + r * r * simd_exp_tail(r))) * simd_pow2(t);
#endif
}

/* exp(x) for x <= 709; exactly 0 for x < -708, so for -inf; NaN stays NaN. */
INLINE vd vexp_low(vd x) { return (vd)((vi)vexp_near(x) & ~(vi)(x < vset(-708.0))); }

/* exp(x) for any x: 0 below -708, inf above 709.78. */
INLINE vd vexp(vd x) {
    vd half = vexp_low(vmin(vset(355.0), x * vset(0.5)));
    vd y = vselect(x > vset(700.0), half * half, vexp_low(vmin(vset(709.0), x)));
    return vselect(x > vset(709.782712893384), vset(HUGE_VAL), y);
}

/* tanh(x) through exp(-2|x|) - 1, so that small x keep their relative precision. */
INLINE vd vtanh(vd x) {
    vi sign = (vi)x & INT64_MIN;
    vd size = vmin(vset(20.0), (vd)((vi)x ^ sign)); /* tanh(20) rounds to 1 */
    vd r, t = simd_reduce(size * vset(-2.0), &r), scale = simd_pow2(t);
    vd less = scale * (r + r * r * simd_exp_tail(r)) + (scale - vset(1.0)); /* exp(-2|x|) - 1 */
    return (vd)((vi)((vset(0.0) - less) / (vset(2.0) + less)) | sign);
}

/* Exact scaling: the power of two that brings x > 0 into [1, 2); its exponent is added to *exponent.
 * Zero and subnormal numbers are multiplied by 2^1023. */
INLINE vd vscale(vd x, vd *exponent) {
    vi biased = ((vi)x >> 52) & 2047;
    vd shifted = (vd)(biased | (vi)vset(4503599627370496.0)); /* 2^52 + biased exponent, without a conversion */
    *exponent += shifted - vset(4503599627370496.0 + 1023.0);
    return (vd)((2046 - biased) << 52);
}
INLINE double scale1(double x, double *exponent) {
    int64_t biased;
    memcpy(&biased, &x, 8);
    biased = (biased >> 52) & 2047;
    *exponent += (double)(biased - 1023);
    biased = (2046 - biased) << 52;
    memcpy(&x, &biased, 8);
    return x;
}

/* Subnormal numbers, 5e-324 to 2e-308: many x86 processors take a hundred times as long over an operation that meets
 * one. flush_subnormals makes them count as 0, in this thread, until restore_subnormals gets what it returned;
 * keep_subnormals is for an exception within. Only for recursions that bound what they lose to underflow: probabilities
 * may be subnormal, and there above_zero says whether one is 0. */
enum { FLUSH = 0x8040 }; /* results and operands */
INLINE unsigned set_subnormals(unsigned flush) {
#if defined(__SSE2__)
    unsigned mode = _mm_getcsr();
    _mm_setcsr((mode & ~(unsigned)FLUSH) | flush);
    return mode & FLUSH;
#else
    return flush;
#endif
}
INLINE unsigned flush_subnormals(void) { return set_subnormals(FLUSH); }
INLINE unsigned keep_subnormals(void) { return set_subnormals(0); }
INLINE void restore_subnormals(unsigned before) { set_subnormals(before); }

/* x > 0 for x >= 0, subnormal or not: as integers. */
INLINE int above_zero(double x) {
    int64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits > 0;
}

/* Scratch of kernels: simd_alloc gives uninitialised memory aligned to a cache line, or NULL, and simd_free takes it
 * back. malloc returns pieces of megabytes to the system and, of a thread that ends, all; the first touch of new pages
 * then takes longer than much of what is computed there. So some pieces wait here for the next call of any thread, and
 * pieces too large for that ask for large pages. A piece begins with its size. */
enum { SPARES = 16, PIECE_HEAD = 64 };
#define SPARE_LEAST ((size_t)128 << 10)
#define SPARE_MOST ((size_t)16 << 20)
#define SPARE_TOTAL ((size_t)64 << 20)
#define LARGE_PIECE ((size_t)32 << 20)
#define LARGE_PAGE ((size_t)2 << 20)
static char *spares[SPARES];
static size_t spare_total;

/* Where a thread looks first: at its own, which lie in the caches of its processor. */
INLINE int spare_place(int i) {
    static int threads;
    static __thread int mine = -1;
    if (mine < 0) mine = 7 * __atomic_fetch_add(&threads, 1, __ATOMIC_RELAXED);
    return (int)((unsigned)(mine + i) % SPARES);
}

INLINE size_t piece_bytes(const char *p) { return p ? *(const size_t *)p : 0; }

/* Puts p, or NULL, where a spare piece may lie, and returns what lay there. */
INLINE char *spare_swap(int i, char *p) {
    char *old = __atomic_exchange_n(&spares[i], p, __ATOMIC_ACQ_REL);
    __atomic_fetch_add(&spare_total, piece_bytes(p) - piece_bytes(old), __ATOMIC_RELAXED);
    return old;
}

INLINE void simd_free(void *piece) {
    char *p = piece ? (char *)piece - PIECE_HEAD : NULL;
    size_t bytes = piece_bytes(p);
    if (bytes >= SPARE_LEAST && bytes <= SPARE_MOST)
        for (int i = 0; i < SPARES && p; i++)
            if (__atomic_load_n(&spare_total, __ATOMIC_RELAXED) + bytes <= SPARE_TOTAL) p = spare_swap(spare_place(i), p);
    free(p);
}

INLINE double *simd_alloc(int64_t doubles) {
    size_t bytes = ((size_t)(doubles > 0 ? doubles : 1) * sizeof(double) + PIECE_HEAD + 63) & ~(size_t)63;
    size_t alignment = bytes > LARGE_PIECE ? LARGE_PAGE : 64;
    for (int k = 0; k < SPARES && bytes >= SPARE_LEAST && bytes <= SPARE_MOST; k++) {
        int i = spare_place(k);
        if (!__atomic_load_n(&spares[i], __ATOMIC_RELAXED)) continue;
        char *p = spare_swap(i, NULL);
        if (piece_bytes(p) >= bytes && piece_bytes(p) <= 4 * bytes) return (double *)(p + PIECE_HEAD);
        free(spare_swap(i, p));
    }
    void *p = NULL;
    if (posix_memalign(&p, alignment, bytes)) return NULL;
#ifdef MADV_HUGEPAGE
    if (alignment == LARGE_PAGE) madvise(p, bytes, MADV_HUGEPAGE);
#endif
    *(size_t *)p = bytes;
    return (double *)((char *)p + PIECE_HEAD);
}

#endif
