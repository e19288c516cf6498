// A grid of warps with a thread a lane, for sanitizers.
#include "warp.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

__thread Index threadIdx, blockIdx;
Index gridDim;
alignas(16) char memory[MOST_SHARED];

namespace {

constexpr int MOST_VOTES = 1 << 12;

// Two barriers in turn: to ThreadSanitizer, a lane that is slow to leave one would know what quick lanes have done up to
// the same one's next round. Each ballot has a word of its own: how many have voted, above who is for it.
struct Warp {
    pthread_barrier_t barriers[2];
    std::atomic<unsigned long long> ballots[MOST_VOTES] = {};
};

__thread Warp *own_warp;
__thread int met, votes_cast;
int without;

void join(std::vector<std::thread> &threads) {
    for (std::thread &thread : threads) thread.join();
    threads.clear();
}

}  // namespace

void meet(int line) {
    if (line != without) pthread_barrier_wait(&own_warp->barriers[met++ % 2]);
}

unsigned vote(int, bool is_for) {
    if (votes_cast == MOST_VOTES) abort();  // more tiles than tests have
    auto &ballot = own_warp->ballots[votes_cast++];
    ballot.fetch_add((1ULL << 32) | ((unsigned long long)is_for << threadIdx.x), std::memory_order_relaxed);
    unsigned long long now;
    while ((now = ballot.load(std::memory_order_relaxed)) >> 32 < LANES_OF_WARP) sched_yield();
    return (unsigned)now;
}

void constant(const void *, long long) {}

// Blocks with shared memory one after another, since there is one; others all at once.
extern "C" const char *run_warps(const long long *stream, const long long *members, const long long *block,
                                 char *scratch, long long work_bytes, unsigned blocks, unsigned, int passed_by,
                                 long long *) {
    if (!scratch && work_bytes > MOST_SHARED) return "a block has less shared memory than that";
#ifdef __SANITIZE_ADDRESS__
    if (!scratch) __asan_poison_memory_region(memory + work_bytes, sizeof memory - work_bytes);
#endif
    without = passed_by;
    gridDim.x = blocks;
    std::vector<std::unique_ptr<Warp>> warps;
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < blocks; ++i) {
        if (!scratch) memset(memory, 0xA5, work_bytes);
        warps.push_back(std::make_unique<Warp>());
        Warp *warp = warps.back().get();
        for (auto &barrier : warp->barriers) pthread_barrier_init(&barrier, nullptr, LANES_OF_WARP);
        for (unsigned lane = 0; lane < LANES_OF_WARP; ++lane)
            threads.emplace_back([=] {
                own_warp = warp;
                threadIdx.x = lane;
                blockIdx.x = i;
                advance(stream, members, block, scratch, work_bytes);
            });
        if (!scratch) join(threads);
    }
    join(threads);
    return "";
}
