"""Which of the compiled instruction-set levels this CPU and its operating system can run."""

cdef extern from *:
    """
    #ifdef X86_64_LEVELS
    #define RUNS_BASE __builtin_cpu_supports("x86-64-v2")
    #define RUNS_V3 __builtin_cpu_supports("x86-64-v3")
    #define RUNS_V4 __builtin_cpu_supports("x86-64-v4")
    #else
    #define RUNS_BASE 1
    #define RUNS_V3 0
    #define RUNS_V4 0
    #endif

    #ifdef AMX_LEVEL
    #include <cpuid.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    /* v4, and the tile registers with bytes, which Linux gives to a process that asks for them. */
    static int rnn_runs_amx(void) {
        enum { TILES = 1 << 24, BYTES = 1 << 25, ASK_FOR_STATE = 0x1023, TILE_DATA = 18 };
        unsigned a, b, c, d;
        return RUNS_V4 && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & TILES) && (d & BYTES)
            && syscall(SYS_arch_prctl, ASK_FOR_STATE, TILE_DATA) == 0;
    }
    #else
    #define rnn_runs_amx() 0
    #endif
    """
    bint RUNS_BASE, RUNS_V3, RUNS_V4
    bint runs_amx "rnn_runs_amx"()


def levels():
    """Names of the levels this machine can run, lowest first."""
    runs = {"base": RUNS_BASE, "v3": RUNS_V3, "v4": RUNS_V4, "amx": runs_amx()}
    return tuple(level for level in runs if runs[level])
