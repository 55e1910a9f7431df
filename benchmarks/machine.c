/* Limits of this machine: bytes per second read from memory, and operations per second of products in registers.
 *
 *     cc -O3 -march=native -ffp-contract=fast -pthread machine.c -o machine && ./machine THREADS
 *
 * Prints one JSON line. read: 512 MiB per thread (far more than any cache) are summed; the best of several passes.
 * Products: 16 accumulators that do not wait for each other; the best of several rounds. A kind of product the
 * processor does not have is 0. Run by machine.py.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

enum { kAccumulators = 16, kPasses = 6 };
static const size_t kBytes = (size_t)512 << 20;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* One piece of work of one thread: returns what it did in bytes or operations; `sink` keeps the compiler from dropping it. */
typedef double (*Work)(void *memory, volatile uint64_t *sink);

static double read_all(void *memory, volatile uint64_t *sink) {
    const uint64_t *words = memory;
    uint64_t sum = 0;
    for (size_t i = 0; i < kBytes / 8; ++i) sum += words[i];
    *sink = sum;
    return (double)kBytes;
}

typedef float Floats __attribute__((vector_size(64)));

static double multiply_float32(void *memory, volatile uint64_t *sink) {
    Floats sums[kAccumulators] = {0}, a, b;
    for (int i = 0; i < 16; ++i) a[i] = 1.0f + 1e-7f * (float)i, b[i] = 1e-7f;
    for (int i = 0; i < kAccumulators; ++i) sums[i] = a * (float)(memory == NULL ? 0 : i); /* all different, or they are made one */
    const long rounds = 4000000;
    for (long round = 0; round < rounds; ++round)
        _Pragma("GCC unroll 16")
        for (int i = 0; i < kAccumulators; ++i) sums[i] = sums[i] * a + b;
    float total = 0;
    for (int i = 0; i < kAccumulators; ++i) total += sums[i][0];
    *sink = (uint64_t)total;
    return (double)rounds * kAccumulators * 16 * 2;
}

static double multiply_bfloat16(void *memory, volatile uint64_t *sink) {
    (void)memory;
#if defined(__AVX512BF16__)
    __m512 sums[kAccumulators];
    for (int i = 0; i < kAccumulators; ++i) sums[i] = _mm512_setzero_ps();
    const __m512bh a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(1e-3f), _mm512_set1_ps(2e-3f));
    const __m512bh b = _mm512_cvtne2ps_pbh(_mm512_set1_ps(3e-3f), _mm512_set1_ps(1e-3f));
    const long rounds = 4000000;
    for (long round = 0; round < rounds; ++round)
        _Pragma("GCC unroll 16")
        for (int i = 0; i < kAccumulators; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], a, b);
    float total = 0;
    for (int i = 0; i < kAccumulators; ++i) total += _mm512_reduce_add_ps(sums[i]);
    *sink = (uint64_t)total;
    return (double)rounds * kAccumulators * 32 * 2;
#else
    *sink = 0;
    return 0;
#endif
}

static double multiply_int8(void *memory, volatile uint64_t *sink) {
    (void)memory;
#if defined(__AVX512VNNI__)
    __m512i sums[kAccumulators];
    for (int i = 0; i < kAccumulators; ++i) sums[i] = _mm512_setzero_si512();
    const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-5);
    const long rounds = 4000000;
    for (long round = 0; round < rounds; ++round)
        _Pragma("GCC unroll 16")
        for (int i = 0; i < kAccumulators; ++i) sums[i] = _mm512_dpbusd_epi32(sums[i], a, b);
    int64_t total = 0;
    for (int i = 0; i < kAccumulators; ++i) total += _mm512_reduce_add_epi32(sums[i]);
    *sink = (uint64_t)total;
    return (double)rounds * kAccumulators * 64 * 2;
#else
    *sink = 0;
    return 0;
#endif
}

typedef struct {
    Work work;
    void *memory;
    pthread_barrier_t *barrier;
    double done, start, end;
    volatile uint64_t sink;
} Share;

static void *run_share(void *argument) {
    Share *share = argument;
    for (int pass = 0; pass < kPasses; ++pass) {
        pthread_barrier_wait(share->barrier);
        share->start = now();
        share->done = share->work(share->memory, &share->sink);
        share->end = now();
        pthread_barrier_wait(share->barrier);
    }
    return NULL;
}

/* Units per second from the first thread's start to the last one's end, in the best of `kPasses` passes. A pass is read by
 * this thread between its second barrier and the next first one, when no share changes. */
static double measure(Work work, int threads, void **memory) {
    pthread_barrier_t barrier;
    pthread_t ids[64];
    Share shares[64];
    double best = 0;
    pthread_barrier_init(&barrier, NULL, (unsigned)threads + 1);
    for (int i = 0; i < threads; ++i) {
        shares[i] = (Share){.work = work, .memory = memory[i], .barrier = &barrier};
        pthread_create(&ids[i], NULL, run_share, &shares[i]);
    }
    for (int pass = 0; pass < kPasses; ++pass) {
        pthread_barrier_wait(&barrier);
        pthread_barrier_wait(&barrier);
        double done = 0, start = shares[0].start, end = shares[0].end;
        for (int i = 0; i < threads; ++i) {
            done += shares[i].done;
            if (shares[i].start < start) start = shares[i].start;
            if (shares[i].end > end) end = shares[i].end;
        }
        if (done / (end - start) > best) best = done / (end - start);
    }
    for (int i = 0; i < threads; ++i) pthread_join(ids[i], NULL);
    pthread_barrier_destroy(&barrier);
    return best;
}

int main(int count, char **words) {
    const int threads = count > 1 ? atoi(words[1]) : 1;
    void *memory[64] = {0};
    if (threads < 1 || threads > 64) {
        fprintf(stderr, "machine: THREADS is 1 to 64\n");
        return 2;
    }
    for (int i = 0; i < threads; ++i) {
        if (posix_memalign(&memory[i], 2 << 20, kBytes)) {
            fprintf(stderr, "machine: no memory\n");
            return 1;
        }
        madvise(memory[i], kBytes, MADV_HUGEPAGE); /* reading in small pages is slower by up to a third */
        memset(memory[i], i + 1, kBytes);
    }
    printf("{\"read_bytes\": %.0f, \"float32_ops\": %.0f, ", measure(read_all, threads, memory), measure(multiply_float32, threads, memory));
    printf("\"bfloat16_ops\": %.0f, \"int8_ops\": %.0f}\n", measure(multiply_bfloat16, threads, memory), measure(multiply_int8, threads, memory));
    for (int i = 0; i < threads; ++i) free(memory[i]);
    return 0;
}
