// Runs a launch whose arrays are in a file, and writes what they hold then into another one.
//
//     warp_launch LAUNCH RESULT
//
// LAUNCH, in words of eight bytes: blocks, bytes of a workspace, whether it lies in the device's memory, seed, the line
// whose barriers are passed by, n arrays, then of each its address where tables name it, and its bytes; then their
// contents. The first three are tables.
#include "warp.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <vector>

namespace {

constexpr int MOST_LINES = 10000;

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

}  // namespace

int main(int argc, char **argv) {
    need(argc == 3, "warp_launch LAUNCH RESULT");
    FILE *file = fopen(argv[1], "rb");
    need(file, "LAUNCH cannot be read");
    const auto head = words(file, 6);
    const auto arrays = arrays_of(file, head[5]);
    fclose(file);
    const auto table = [&arrays](int i) { return (const long long *)arrays[i].memory.get(); };
    const long long blocks = head[0], work_bytes = head[1];
    std::unique_ptr<char[]> scratch(head[2] ? new char[blocks * work_bytes] : nullptr);
    if (scratch) memset(scratch.get(), 0xA5, blocks * work_bytes);
    std::vector<long long> seen(MOST_LINES);
    const char *fault = run_warps(table(0), table(1), table(2), scratch.get(), work_bytes, (unsigned)blocks,
                                  (unsigned)head[3], (int)head[4], seen.data());
    need(!*fault, fault);
    file = fopen(argv[2], "wb");
    need(file, "RESULT cannot be written");
    for (const Array &array : arrays)
        need(fwrite(array.memory.get(), 1, array.bytes, file) == (size_t)array.bytes, "RESULT cannot be written");
    need(fclose(file) == 0, "RESULT cannot be written");
}
