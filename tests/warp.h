// What CUDA gives to atc.cu, for g++: included before it, so that a CPU runs the branch that GPUs run.
//
// warp_fibers.cpp takes a warp's lanes one at a time in any order; warp_threads.cpp has a thread for each;
// warp_launch.cpp makes a program of either.
#pragma once
#include <math.h>
#include <string.h>

#define __global__
#define __device__
#define __forceinline__ static inline
#define __launch_bounds__(...)
#define __shared__
#define __align__(bytes) __attribute__((aligned(bytes)))

constexpr unsigned LANES_OF_WARP = 32;
constexpr int MOST_SHARED = 227 * 1024;  // bytes a block of an H100 may have

// Runs a grid; what is wrong with the run, or an empty string. `scratch`: null where blocks have shared memory.
// `without`: a line whose barriers are passed by, or 0. `seen`: [lines of the source + 1] how often warps have met there.
extern "C" const char *run_warps(const long long *stream, const long long *members, const long long *block,
                                 char *scratch, long long work_bytes, unsigned blocks, unsigned seed, int without,
                                 long long *seen);

#pragma GCC visibility push(hidden)  // libc has an `advance` too

struct Index {
    unsigned x;
};
extern __thread Index threadIdx, blockIdx;
extern Index gridDim;
extern "C" char memory[];  // shared by the warp that runs

// All lanes of the warp come here, each from the same line of the source; what they wrote before is seen after.
void meet(int line);
// The same for who votes, but for what they wrote: votes order no memory.
unsigned vote(int line, bool is_for);

// Reads of `address` find `bits` as long as the grid runs: such reads may be answered from before it began to.
void constant(const void *address, long long bits);

#define __syncwarp() meet(__LINE__)
#define __ballot_sync(lanes, is_for) (static_cast<void>(sizeof(char[(lanes) == ~0u ? 1 : -1])), vote(__LINE__, is_for))

static inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

static inline int __double2hiint(double value) {
    long long bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return (int)(bits >> 32);
}

static inline double __longlong_as_double(long long bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

template <class T>
static inline T __ldg(const T *from) {
    static_assert(sizeof(T) == sizeof(long long), "words");
    long long bits;
    memcpy(&bits, from, sizeof bits);
    constant(from, bits);
    return *from;
}

extern "C" void advance(const long long *stream, const long long *members, const long long *block, char *scratch,
                        long long work_bytes);

#pragma GCC visibility pop
