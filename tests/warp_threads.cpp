// A thread a lane, for sanitizers: reads a launch's arrays, runs it, writes what the arrays hold then.
//
//     warp_threads LAUNCH RESULT [LINE]     LINE: the barriers there are passed by
//
// LAUNCH, in words of eight bytes: blocks, bytes of a workspace, whether it is shared memory, n arrays, then of each
// its address where tables name it, and its bytes; then their contents. The first three are tables.
#include "warp.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <thread>
#include <vector>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

__thread Index threadIdx, blockIdx;
Index gridDim;
alignas(16) char shared[MOST_SHARED];

namespace {

constexpr int MOST_VOTES = 1 << 12;

// Each ballot has a word of its own: how many have voted, above who is for it.
struct Warp {
    pthread_barrier_t barrier;
    std::atomic<unsigned long long> ballots[MOST_VOTES] = {};
};

__thread Warp *own_warp;
__thread int votes_cast;
int without;

struct Array {
    long long address, bytes;
    std::unique_ptr<char[]> memory;  // not a byte more, so that AddressSanitizer sees what goes beyond
};

void need(bool is_so, const char *what) {
    if (is_so) return;
    fprintf(stderr, "%s\n", what);
    exit(2);
}

std::vector<long long> words(FILE *file, size_t n) {
    std::vector<long long> found(n);
    need(fread(found.data(), sizeof(long long), n, file) == n, "LAUNCH is cut short");
    return found;
}

std::vector<Array> arrays_of(FILE *file, size_t n) {
    std::vector<Array> arrays;
    std::map<long long, long long> moved;
    for (size_t i = 0; i < n; ++i) {
        const auto head = words(file, 2);
        arrays.push_back({head[0], head[1], std::unique_ptr<char[]>(new char[head[1]])});
        moved[head[0]] = (long long)arrays.back().memory.get();
    }
    for (Array &array : arrays)
        need(fread(array.memory.get(), 1, array.bytes, file) == (size_t)array.bytes, "LAUNCH is cut short");
    for (int table = 0; table < 3; ++table)
        for (long long i = 0; i < arrays[table].bytes / 8; ++i) {
            long long &word = ((long long *)arrays[table].memory.get())[i];
            const auto found = moved.find(word);
            if (found != moved.end()) word = found->second;
        }
    return arrays;
}

void start(std::vector<std::thread> &threads, Warp &warp, unsigned block, const std::vector<Array> &arrays,
           char *scratch, long long work_bytes) {
    pthread_barrier_init(&warp.barrier, nullptr, LANES_OF_WARP);
    for (unsigned lane = 0; lane < LANES_OF_WARP; ++lane)
        threads.emplace_back([&arrays, &warp, scratch, work_bytes, block, lane] {
            own_warp = &warp;
            threadIdx.x = lane;
            blockIdx.x = block;
            const auto table = [&arrays](int i) { return (const long long *)arrays[i].memory.get(); };
            advance(table(0), table(1), table(2), scratch, work_bytes);
        });
}

void join(std::vector<std::thread> &threads) {
    for (std::thread &thread : threads) thread.join();
    threads.clear();
}

// Blocks with shared memory one after another, since there is one; others all at once.
void run(const std::vector<Array> &arrays, unsigned blocks, long long work_bytes, bool is_shared) {
    need(!is_shared || work_bytes <= MOST_SHARED, "a block has less shared memory than that");
    std::unique_ptr<char[]> scratch(is_shared ? nullptr : new char[blocks * work_bytes]);
    if (scratch) memset(scratch.get(), 0xA5, blocks * work_bytes);
#ifdef __SANITIZE_ADDRESS__
    if (is_shared) __asan_poison_memory_region(shared + work_bytes, sizeof shared - work_bytes);
#endif
    std::vector<std::unique_ptr<Warp>> warps;
    std::vector<std::thread> threads;
    gridDim.x = blocks;
    for (unsigned block = 0; block < blocks; ++block) {
        if (is_shared) memset(shared, 0xA5, work_bytes);
        warps.push_back(std::make_unique<Warp>());
        start(threads, *warps.back(), block, arrays, scratch.get(), work_bytes);
        if (is_shared) join(threads);
    }
    join(threads);
}

}  // namespace

void meet(int line) {
    if (line != without) pthread_barrier_wait(&own_warp->barrier);
}

unsigned vote(int, bool is_for) {
    need(votes_cast < MOST_VOTES, "too many tiles for a warp's ballots");
    auto &ballot = own_warp->ballots[votes_cast++];
    ballot.fetch_add((1ULL << 32) | ((unsigned long long)is_for << threadIdx.x), std::memory_order_relaxed);
    unsigned long long now;
    while ((now = ballot.load(std::memory_order_relaxed)) >> 32 < LANES_OF_WARP) sched_yield();
    return (unsigned)now;
}

int main(int argc, char **argv) {
    need(argc == 3 || argc == 4, "warp_threads LAUNCH RESULT [LINE]");
    without = argc == 4 ? atoi(argv[3]) : 0;
    FILE *file = fopen(argv[1], "rb");
    need(file, "LAUNCH cannot be read");
    const auto head = words(file, 4);
    const auto arrays = arrays_of(file, head[3]);
    fclose(file);
    run(arrays, (unsigned)head[0], head[1], head[2]);
    file = fopen(argv[2], "wb");
    need(file, "RESULT cannot be written");
    for (const Array &array : arrays)
        need(fwrite(array.memory.get(), 1, array.bytes, file) == (size_t)array.bytes, "RESULT cannot be written");
    need(fclose(file) == 0, "RESULT cannot be written");
}
