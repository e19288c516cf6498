// A grid of warps on one thread: every lane runs on its own stack to where lanes meet, in an order drawn anew each time.
//
// A lane that reads what another one should have written by then finds old values, unless it happens to come later;
// so what lacks a barrier comes out wrong in most orders. Warps take turns at random too.
#include "warp.h"

#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

__thread Index threadIdx, blockIdx;
Index gridDim;
alignas(16) char memory[MOST_SHARED + 64];

namespace {

constexpr size_t STACK = 64 << 10;
constexpr size_t GUARD = 64;  // bytes behind a workspace that must stay as they are
constexpr char GUARDED = 0x5A;
constexpr int ENDED = 0;      // in place of a line

struct Lane {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    int line;
    bool is_for;
};

struct Warp {
    Lane lanes[LANES_OF_WARP];
    std::vector<char> memory;  // its shared memory while others run
    unsigned votes;
};

struct Launch {
    const long long *stream, *members, *block;
    char *scratch;
    long long work_bytes;
    int without;
    long long *seen;
};

Launch launch;
Warp *running;
ucontext_t scheduler;
std::mt19937 chance;
std::string fault;
std::unordered_map<const void *, long long> constants;

void body() { advance(launch.stream, launch.members, launch.block, launch.scratch, launch.work_bytes); }

void wait_at(int line) {
    Lane &own = running->lanes[threadIdx.x];
    own.line = line;
    swapcontext(&own.context, &scheduler);
}

void begin(Warp &warp) {
    for (Lane &lane : warp.lanes) {
        lane.stack.reset(new char[STACK]);
        getcontext(&lane.context);
        lane.context.uc_stack.ss_sp = lane.stack.get();
        lane.context.uc_stack.ss_size = STACK;
        lane.context.uc_link = &scheduler;
        makecontext(&lane.context, body, 0);
    }
    if (launch.scratch) return;
    warp.memory.resize(launch.work_bytes + GUARD, GUARDED);
    std::generate(warp.memory.begin(), warp.memory.end() - GUARD, [] { return (char)chance(); });
}

// Every lane of a warp to where they meet next; false once they have ended.
bool step(Warp &warp, unsigned block) {
    unsigned order[LANES_OF_WARP];
    std::iota(order, order + LANES_OF_WARP, 0u);
    std::shuffle(order, order + LANES_OF_WARP, chance);
    std::copy(warp.memory.begin(), warp.memory.end(), memory);
    running = &warp;
    blockIdx.x = block;
    for (unsigned lane : order) {
        threadIdx.x = lane;
        warp.lanes[lane].line = ENDED;
        swapcontext(&scheduler, &warp.lanes[lane].context);
    }
    std::copy_n(memory, warp.memory.size(), warp.memory.begin());
    warp.votes = 0;
    const int line = warp.lanes[0].line;
    for (unsigned lane = 0; lane < LANES_OF_WARP; ++lane) {
        warp.votes |= (unsigned)warp.lanes[lane].is_for << lane;
        if (warp.lanes[lane].line != line && fault.empty())
            fault = "lanes 0 and " + std::to_string(lane) + " wait at lines " + std::to_string(line) + " and " +
                    std::to_string(warp.lanes[lane].line) + " (0: have ended)";
    }
    launch.seen[line]++;
    return line != ENDED && fault.empty();
}

}  // namespace

void meet(int line) {
    if (line != launch.without) wait_at(line);
}

unsigned vote(int line, bool is_for) {
    running->lanes[threadIdx.x].is_for = is_for;
    wait_at(line);
    return running->votes;
}

void constant(const void *address, long long bits) { constants.emplace(address, bits); }

extern "C" const char *run_warps(const long long *stream, const long long *members, const long long *block,
                                 char *scratch, long long work_bytes, unsigned blocks, unsigned seed, int without,
                                 long long *seen) {
    launch = {stream, members, block, scratch, work_bytes, without, seen};
    fault.clear();
    constants.clear();
    if (!scratch && work_bytes > MOST_SHARED) return "a block has less shared memory than that";
    gridDim.x = blocks;
    chance.seed(seed);
    std::vector<Warp> warps(blocks);
    std::vector<unsigned> left(blocks);
    std::iota(left.begin(), left.end(), 0u);
    for (Warp &warp : warps) begin(warp);
    while (!left.empty() && fault.empty()) {
        const unsigned which = chance() % left.size();
        if (!step(warps[left[which]], left[which])) left.erase(left.begin() + which);
    }
    if (!fault.empty()) return fault.c_str();
    for (const auto &[address, bits] : constants)
        if (memcmp(address, &bits, sizeof bits)) return "the kernel wrote what it reads as if nobody did";
    for (const Warp &warp : warps)
        for (size_t i = launch.work_bytes; i < warp.memory.size(); ++i)
            if (warp.memory[i] != GUARDED) return "the kernel wrote beyond its shared memory";
    return "";
}
