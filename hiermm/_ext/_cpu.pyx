"""Which compiled variant of the kernels this machine can run."""

cdef extern from *:
    """
    #if defined(__x86_64__) && defined(__GNUC__)
    static const char *best_variant(void) {
        __builtin_cpu_init();
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) {
            if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")
                && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")
                && __builtin_cpu_supports("avx512cd"))
                return "v4";
            return "v3";
        }
        return "base";
    }
    #else
    static const char *best_variant(void) { return "base"; }
    #endif
    """
    const char *best_variant() nogil


def best():
    """Return the name of the fastest variant that this processor supports."""
    return best_variant().decode()
