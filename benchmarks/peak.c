/* Multiply-adds in registers, with nothing else to wait for: the rate that no program on this machine exceeds. */

typedef float vector __attribute__((vector_size(BYTES)));

enum { CHAINS = 12 }; /* enough for two units of latency 4, few enough for 16 registers */

/* Returns the floating-point operations done. */
double multiply_add(long count, volatile float *data)
{
    vector sums[CHAINS], factor = {0}, addend = {0};
    factor += data[0];
    addend += data[1];
    for (int i = 0; i < CHAINS; i++)
        sums[i] = addend;
    for (long n = 0; n < count; n++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            sums[i] = sums[i] * factor + addend;
    }
    for (int i = 0; i < CHAINS; i++)
        data[2] += sums[i][0];
    return 2.0 * count * CHAINS * (BYTES / sizeof(float));
}
